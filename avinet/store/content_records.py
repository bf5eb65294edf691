"""A store's content as a series of records, each of bounded size: how it travels and how it lies in a backup.

``Rests`` first, ``Keys`` any number of times, ``Count`` last.  Between a controller and its command each record is a frame:
four bytes of length and the record as MessagePack.
"""

import struct
from collections.abc import Callable, Iterable, Iterator
from typing import ClassVar

import attrs
import msgspec

from avinet.errors import AvinetError, Kind, error
from avinet.store.copying import Content
from avinet.store.interface import MAX_TXN_BYTES, Entry, LeaseId
from avinet.units import KIB

RECORD_BYTES = 256 * KIB
"""About so much in a record: little beside what a reader may hold, much beside what a record costs."""
MAX_RECORD_BYTES = RECORD_BYTES + MAX_TXN_BYTES + 64 * KIB
"""A record is closed once it is that large, and the largest value is a transaction's."""
LENGTH = struct.Struct(">I")


class Rests(msgspec.Struct, frozen=True, kw_only=True, tag="rests"):
    """Of what revision it all is, and the seconds that were left of each lease."""

    revision: int
    rests: dict[int, float]


class Keys(msgspec.Struct, frozen=True, tag="keys"):
    """Keys in order, each with its value and its lease, 0 for none."""

    keys: tuple[tuple[str, bytes, int], ...]


class Count(msgspec.Struct, frozen=True, tag="count"):
    """How many keys there were: the end."""

    keys: int


StoreRecord = Rests | Keys | Count


@error
class ContentBrokenError(AvinetError):
    """What came of the store is not whole: {why}. Try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str


def records_of(content: Content) -> Iterator[StoreRecord]:
    """All of it."""
    yield Rests(revision=content.revision, rests={int(k): v for k, v in content.rests.items()})
    keys: list[tuple[str, bytes, int]] = []
    size = 0
    for entry in content.entries:
        keys.append((entry.key, entry.value, entry.lease))
        size += len(entry.key.encode()) + len(entry.value) + 16
        if size >= RECORD_BYTES:
            yield Keys(tuple(keys))
            keys, size = [], 0
    if keys:
        yield Keys(tuple(keys))
    yield Count(len(content.entries))


def content_of(records: Iterable[StoreRecord]) -> Content:
    """The inverse; ``ContentBrokenError`` when it does not end as it began."""
    entries: list[Entry] = []
    begun: Rests | None = None
    for record in records:
        match record:
            case Rests() if begun is None:
                begun = record
            case Keys(keys) if begun is not None:
                entries.extend(Entry(key, value, 0, 0, LeaseId(lease)) for key, value, lease in keys)
            case Count(keys=count) if begun is not None and count == len(entries):
                rests = {LeaseId(lease): rest for lease, rest in begun.rests.items()}
                return Content(tuple(entries), rests, begun.revision)
            case _:
                raise ContentBrokenError(why=f"a record ({type(record).__name__}) is out of place")
    raise ContentBrokenError(why="its end is missing")


def framed(records: Iterable[StoreRecord]) -> Iterator[bytes]:
    """Each record as it travels."""
    for record in records:
        body = msgspec.msgpack.encode(record)
        yield LENGTH.pack(len(body)) + body


@attrs.define(eq=False)
class Unframer:
    """``write`` what comes, in whatever pieces; each record goes to ``take``.  ``end`` once all has come."""

    take: Callable[[StoreRecord], None]
    _buffer: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _ended: bool = attrs.field(default=False, init=False)

    def write(self, data: bytes) -> int:
        """As a file's."""
        self._buffer += data
        while len(self._buffer) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._buffer)
            if length > MAX_RECORD_BYTES:
                raise ContentBrokenError(why=f"a record of {length} bytes")
            end = LENGTH.size + length
            if len(self._buffer) < end:
                break
            body = bytes(self._buffer[LENGTH.size : end])
            del self._buffer[:end]
            try:
                record: StoreRecord = msgspec.msgpack.decode(body, type=StoreRecord)
            except msgspec.DecodeError as why:
                raise ContentBrokenError(why=str(why)) from why
            if self._ended:
                raise ContentBrokenError(why="something follows its end")
            self._ended = isinstance(record, Count)
            self.take(record)
        return len(data)

    def end(self) -> None:
        """``ContentBrokenError`` when something is missing."""
        if self._buffer or not self._ended:
            raise ContentBrokenError(why="its end is missing")
