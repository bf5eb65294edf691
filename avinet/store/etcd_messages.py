"""What is said to etcd's JSON gateway and what it says: bytes as base64, 64-bit numbers as text, zeros left out.

See etcd's ``rpc.proto``; names are its.  Keys as a store's users know them are text; here they become bytes under
the store's namespace, beside which the store keeps keys of its own that begin with NUL, which no user's may.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import attrs
import msgspec

from avinet.store.interface import (
    NO_LEASE,
    Change,
    Compare,
    Entry,
    LeaseId,
    Operation,
    Put,
)

_MAX_INT64 = 2**63 - 1
Request = dict[str, Any]


class Header(msgspec.Struct):
    """Of each answer."""

    revision: int = 0
    cluster_id: int = 0


class KeyValue(msgspec.Struct):
    """A key as etcd has it."""

    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    lease: int = 0


class RangeAnswer(msgspec.Struct):
    """Of ``kv/range``."""

    header: Header = msgspec.field(default_factory=Header)
    kvs: list[KeyValue] = []
    more: bool = False


class _Inner(msgspec.Struct):
    succeeded: bool = False


class Response(msgspec.Struct):
    """Of one operation of a transaction."""

    response_range: RangeAnswer | None = None
    response_txn: _Inner | None = None


class TxnAnswer(msgspec.Struct):
    """Of ``kv/txn``."""

    header: Header = msgspec.field(default_factory=Header)
    succeeded: bool = False
    responses: list[Response] = []

    def found(self) -> KeyValue | None:
        """The key that the failed transaction read instead."""
        answer = self.responses[0].response_range if self.responses else None
        return answer.kvs[0] if answer and answer.kvs else None


class LeaseAnswer(msgspec.Struct):
    """Of ``lease/grant``, ``lease/timetolive`` and, inside, ``lease/keepalive``."""

    ID: int = 0
    TTL: int = 0


class Failed(msgspec.Struct):
    """An error: ``code`` is gRPC's, or ``grpc_code`` in a stream."""

    code: int = 0
    grpc_code: int = 0
    message: str = ""


class KeepAliveAnswer(msgspec.Struct):
    """Of ``lease/keepalive``, which is a stream of one."""

    result: LeaseAnswer | None = None
    error: Failed | None = None


class AuthAnswer(msgspec.Struct):
    """Of ``auth/authenticate``."""

    token: str = ""


class Event(msgspec.Struct):
    """A change as a watch reports it."""

    kv: KeyValue = msgspec.field(default_factory=KeyValue)
    type: str = "PUT"


class WatchResult(msgspec.Struct):
    """One message of a watch."""

    header: Header = msgspec.field(default_factory=Header)
    created: bool = False
    canceled: bool = False
    compact_revision: int = 0
    cancel_reason: str = ""
    fragment: bool = False
    events: list[Event] = []


class WatchLine(msgspec.Struct):
    """One line of a watch's answer."""

    result: WatchResult | None = None
    error: Failed | None = None


@attrs.frozen
class Keyspace:
    """The store's part of etcd's keys."""

    namespace: bytes

    def key(self, key: bytes) -> bytes:
        """Of a user's key."""
        return self.namespace + key

    def own(self, name: bytes) -> bytes:
        """A key of the store's own; users see none of them."""
        return self.namespace + b"\0" + name

    def is_own(self, key: bytes) -> bool:
        """Whether it is one of those."""
        return key.startswith(self.namespace + b"\0")

    def span(self, prefix: str) -> Request:
        """The range of the users' keys with ``prefix``."""
        start = self.namespace + prefix.encode()
        return {"key": start if prefix else start + b"\1", "range_end": end_of(start)}

    def everything(self) -> Request:
        """The range of all keys, the store's own too."""
        return {"key": self.namespace or b"\0", "range_end": end_of(self.namespace)}

    def entry(self, found: KeyValue) -> Entry:
        """As users know it; ``ValueError`` when it is none of the store's."""
        return Entry(
            self.text(found.key), found.value, found.mod_revision, found.create_revision, LeaseId(found.lease)
        )

    def change(self, event: Event) -> Change:
        """As users know it."""
        if event.type == "DELETE":
            return Change(self.text(event.kv.key), None, event.kv.mod_revision)
        return Change(self.text(event.kv.key), self.entry(event.kv), event.kv.mod_revision)

    def text(self, key: bytes) -> str:
        """A user's key; ``ValueError`` when it is none of the store's."""
        if not key.startswith(self.namespace):
            raise ValueError(key)
        return key[len(self.namespace) :].decode()

    def compares(self, compares: Iterable[Compare]) -> list[Request]:
        """As etcd compares."""
        return [unchanged(self.key(compare.key.encode()), compare.revision) for compare in compares]

    def operations(self, operations: Iterable[Operation]) -> list[Request]:
        """As etcd does them."""
        return [
            put(self.key(one.key.encode()), one.value, one.lease)
            if isinstance(one, Put)
            else {"request_delete_range": {"key": self.key(one.key.encode())}}
            for one in operations
        ]


def end_of(prefix: bytes) -> bytes:
    """Where the range of a prefix ends; NUL alone stands for the end of all keys."""
    stem = prefix.rstrip(b"\xff")
    return stem[:-1] + bytes([stem[-1] + 1]) if stem else b"\0"


def unchanged(key: bytes, revision: int) -> Request:
    """A compare; a revision that no key can have never holds."""
    return {"key": key, "target": "MOD", "mod_revision": max(-1, min(revision, _MAX_INT64))}


def put(key: bytes, value: bytes, lease: int = NO_LEASE) -> Request:
    """One put."""
    return {"request_put": {"key": key, "value": value, "lease": lease}}


def read(key: bytes) -> Request:
    """One read in a transaction."""
    return {"request_range": {"key": key}}


def nested(compares: Sequence[Request], success: Sequence[Request], failure: Sequence[Request]) -> Request:
    """A transaction in one."""
    return {"request_txn": {"compare": compares, "success": success, "failure": failure}}
