"""What every store offers, however it keeps its data.

A store maps keys (text, ``/``-separated) to values (bytes) and counts its changes with one revision for the
whole store.  The contract is what etcd can promise and no more, so that the embedded store and a cluster's are
interchangeable: a transaction compares and then writes at most ``MAX_TXN_OPS`` operations and
``MAX_TXN_BYTES``; watches replay from a revision, or say that they cannot and make the watcher list again;
leases delete their keys when nobody renews them, counted by the store's own clock.

Every answer is durable: when the Deferred of a transaction fires, what it wrote survives kill -9 and power loss.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar, NewType, Protocol

import attrs
from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, Kind, error
from avinet.sqlite_file import StoreFullError as StoreFullError  # noqa: PLC0414 - every store's users find them here
from avinet.sqlite_file import StoreUnavailableError as StoreUnavailableError  # noqa: PLC0414

LeaseId = NewType("LeaseId", int)
NO_LEASE = LeaseId(0)

MAX_TXN_OPS = 100
"""Compares, writes and deletes together; etcd's own default is 128.  The compare on ``FENCE_KEY`` does not count, so
that what works for a controller alone does not first fail for a cluster's leader."""
FENCE_KEY = "leader"
"""Who leads the cluster; every transaction of its leader compares on it."""
MAX_TXN_BYTES = 1024 * 1024
"""Keys and values of one transaction; etcd's own default is 1.5 MiB a request."""
MAX_KEY_BYTES = 1024


@error
class StoreLimitError(AvinetError):
    """A store operation is over its limit: {detail}."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    detail: str


@error
class CompactedError(AvinetError):
    """The store no longer has the changes since revision {revision}; list again, then watch from there."""

    kind: ClassVar[Kind] = Kind.GONE
    revision: int


@error
class LeaseEndedError(AvinetError):
    """Lease {lease} has ended, so nothing can be kept under it. Nothing was changed."""

    kind: ClassVar[Kind] = Kind.GONE
    lease: LeaseId


@attrs.frozen
class Entry:
    """One key as it stands.  ``revision`` is the store's revision of its last change."""

    key: str
    value: bytes = attrs.field(repr=False)
    revision: int
    created_revision: int
    lease: LeaseId = NO_LEASE


@attrs.frozen
class Listing:
    """Entries in key order, all as of ``revision``."""

    entries: tuple[Entry, ...]
    revision: int


@attrs.frozen
class Compare:
    """True when ``key`` was last changed at ``revision``; 0 means that it does not exist."""

    key: str
    revision: int


@attrs.frozen
class Put:
    """Set ``key``; with a lease, until the lease ends."""

    key: str
    value: bytes = attrs.field(repr=False)
    lease: LeaseId = NO_LEASE


@attrs.frozen
class Delete:
    """Remove ``key``; removing what is not there is not an error."""

    key: str


Operation = Put | Delete


@attrs.frozen
class Outcome:
    """Whether all compares held, so that the operations were done, and the store's revision after it."""

    succeeded: bool
    revision: int
    followed: bool = False
    """Whether the copies in memory have these changes already, because they follow the store's watch."""


@attrs.frozen
class Change:
    """One key's change as a watch reports it; ``entry`` is None for a removal."""

    key: str
    entry: Entry | None
    revision: int


class Watch(Protocol):
    """A running watch."""

    def cancel(self) -> None:
        """Stop; no call is made after this."""


class Store(Protocol):
    """The one interface.  Reads are linearizable; failures are ``StoreUnavailableError`` or ``StoreFullError``."""

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry at ``key``, or None."""

    def list(self, prefix: str) -> Deferred[Listing]:
        """Every entry whose key starts with ``prefix``, in key order.  The caller bounds what it stores there."""

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold, else nothing.  ``StoreLimitError`` when over the limits.

        One key may be written once in a transaction.  A put under a lease that has ended is a
        ``LeaseEndedError``, and then nothing is done.  A transaction that changes nothing costs no revision.
        Transactions that do not wait for each other's answers may be done in any order.  One that failed as
        unavailable was done before whatever this store is asked for later, or never will be.
        """

    def watch(
        self,
        prefix: str,
        after_revision: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> Watch:
        """Report every change after ``after_revision``, in order, one call a revision or more.

        ``on_lost`` ends the watch: ``CompactedError`` when history is gone, ``StoreUnavailableError`` otherwise;
        the watcher lists again and watches from the listing's revision.
        """

    def grant_lease(self, ttl_s: float) -> Deferred[LeaseId]:
        """A new lease that lasts ``ttl_s`` from now unless kept alive."""

    def keep_alive(self, lease: LeaseId) -> Deferred[bool]:
        """Renew a lease for its whole time; False when it has ended already."""

    def revoke_lease(self, lease: LeaseId) -> Deferred[None]:
        """End a lease and delete its keys."""

    def lease_rest(self, lease: LeaseId) -> Deferred[float]:
        """The seconds that are left of a lease; 0 when it has ended."""

    def close(self) -> Deferred[None]:
        """Finish what is under way, then release everything; leases go on counting while closed."""
