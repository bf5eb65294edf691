"""What controllers publish to each other, as data: one's own, cut into frames, and another's, put together.

A connection begins with everything (``whole``) and goes on with what changed.  Changes are gathered while frames are under
way, by key: a peer that takes little is sent the latest value of each, so nothing grows with time.
"""

from collections.abc import Iterable, Iterator
from typing import Any

import attrs
import msgspec

from avinet.controller.peers import MAX_KEY_BYTES, MAX_KEYS, MAX_VALUE_BYTES
from avinet.errors import RemoteProtocolError
from avinet.units import MIB
from avinet.wire.peer_messages import PEER, STATE_FRAME_BYTES, PeerState

MAX_HEARD_BYTES = 16 * MIB
"""Keys and values of one peer: ``MAX_KEYS`` of 800 bytes each; an attached SE's entry is some 150."""
_ENTRY_BYTES = 16
"""What MessagePack adds to a key and a value, at most."""


@attrs.define(eq=False)
class Published:
    """One's own."""

    values: dict[str, Any] = attrs.field(factory=dict, init=False)
    _encoded: dict[str, bytes] = attrs.field(factory=dict, init=False, repr=False)

    def put(self, key: str, value: Any) -> bool:
        """Whether that changed anything; ``ValueError`` when it is too much."""
        if value is None:
            self.values.pop(key, None)
            return self._encoded.pop(key, None) is not None
        encoded = msgspec.msgpack.encode(value)
        if not 0 < len(key.encode()) <= MAX_KEY_BYTES or len(encoded) > MAX_VALUE_BYTES:
            raise ValueError(f"{key[:MAX_KEY_BYTES]!r} with {len(encoded)} bytes is too long to publish")
        if len(self._encoded) >= MAX_KEYS and key not in self._encoded:
            raise ValueError(f"{MAX_KEYS} keys are published already")
        if self._encoded.get(key) == encoded:
            return False
        self.values[key] = value
        self._encoded[key] = encoded
        return True

    def whole(self) -> Iterator[PeerState]:
        """Everything, as it is when each frame is made."""
        return self._frames(tuple(self._encoded), whole=True)

    def changed(self, keys: Iterable[str]) -> Iterator[PeerState]:
        """These, as they are when each frame is made."""
        return self._frames(tuple(keys), whole=False)

    def _frames(self, keys: tuple[str, ...], *, whole: bool) -> Iterator[PeerState]:
        put: dict[str, bytes] = {}
        gone: list[str] = []
        size = 0
        for key in keys:
            value = self._encoded.get(key)
            more = len(key.encode()) + len(value or b"") + _ENTRY_BYTES
            if size and size + more > STATE_FRAME_BYTES:
                yield PeerState(whole=whole, more=True, put=put, gone=tuple(gone))
                put, gone, size = {}, [], 0
            size += more
            if value is None:
                gone.append(key)
            else:
                put[key] = value
        yield PeerState(whole=whole, put=put, gone=tuple(gone))


@attrs.define(eq=False)
class Heard:
    """Another's, within bounds; ``RemoteProtocolError`` beyond them."""

    values: dict[str, Any] = attrs.field(factory=dict, init=False)
    _sizes: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    _size: int = attrs.field(default=0, init=False)
    _coming: dict[str, bytes | None] = attrs.field(factory=dict, init=False, repr=False)
    """Of the series under way."""
    _coming_size: int = attrs.field(default=0, init=False)
    _whole: bool | None = attrs.field(default=None, init=False)
    """Whether the series under way is; None between two."""
    _begun: bool = attrs.field(default=False, init=False)
    """Whether this connection's first series, a whole one, was begun."""

    def reconnected(self) -> None:
        """Another connection takes over: its first series says what is still so."""
        self._coming, self._coming_size, self._whole, self._begun = {}, 0, None, False

    def take(self, frame: PeerState) -> dict[str, Any] | None:
        """What changed by the series that ``frame`` ends, None for what is gone; None while there is more of it."""
        if self._whole is None:
            if frame.whole == self._begun:
                raise _wrong("a series of state where another was due")
            self._begun, self._whole = True, frame.whole
        elif frame.whole != self._whole:
            raise _wrong("a series of state that changes its mind")
        for key in frame.gone:
            self._add(key, None)
        for key, value in frame.put.items():
            self._add(key, value)
        return None if frame.more else self._apply()

    def _add(self, key: str, value: bytes | None) -> None:
        if value is not None and len(value) > MAX_VALUE_BYTES:
            raise _wrong(f"a value of {len(value)} bytes")
        self._coming[key] = value
        self._coming_size += len(key) + len(value or b"")
        if len(self._coming) > 2 * MAX_KEYS or self._coming_size > 2 * MAX_HEARD_BYTES:
            raise _wrong("too much in one series of state")

    def _apply(self) -> dict[str, Any]:
        coming, self._coming, self._coming_size = self._coming, {}, 0
        whole, self._whole = self._whole, None
        changes: dict[str, Any] = {}
        if whole:
            changes = dict.fromkeys(self.values.keys() - coming.keys())
        for key, encoded in coming.items():
            value = None if encoded is None else _decoded(encoded)
            if value != self.values.get(key):
                changes[key] = value
        for key, value in changes.items():
            self._size -= self._sizes.pop(key, 0)
            if value is None:
                self.values.pop(key, None)
                continue
            self.values[key] = value
            self._sizes[key] = len(key) + len(coming[key] or b"")
            self._size += self._sizes[key]
        if len(self.values) > MAX_KEYS or self._size > MAX_HEARD_BYTES:
            raise _wrong("it publishes too much")
        return changes


def _decoded(encoded: bytes) -> Any:
    try:
        return msgspec.msgpack.decode(encoded)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise _wrong("a published value that is no MessagePack") from None


def _wrong(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol=PEER.vocabulary.protocol, detail=detail)
