"""Segments of virtual services that have many lines in each chunk go on over several chunks: fewer and larger ones.

Each is compressed as its lines come, so what waits is small, and it costs nothing but the compressors that are open.
"""

from collections.abc import Callable, Iterator

import attrs
import zstandard

from avinet.logs.split import Part
from avinet.model.ids import ObjectId
from avinet.units import MIB

GROWN_BYTES = 4 * MIB
"""Of lines, then a segment is enough: 400 KB, of which what costs something for each segment, here and where they are
stored, is little."""
OPEN = 32
"""Compressors at once, some 0.7 MiB each: in a chunk of 16 MiB no more services have 512 KiB each."""
HELD_BYTES = 16 * MIB
"""Compressed, of all that are open; 32 times 4 MiB that compress to a tenth are 13."""


@attrs.frozen
class Compressed:
    """A segment's bytes, and what is in them."""

    service: ObjectId
    data: bytes = attrs.field(repr=False)
    raw_bytes: int
    records: int
    first_us: int
    last_us: int


@attrs.define
class _Grown:
    compressor: zstandard.ZstdCompressor
    frame: "zstandard.ZstdCompressionObj"
    raw_bytes: int
    records: int
    first_us: int
    last_us: int
    size: int = 0
    data: list[bytes] = attrs.field(factory=list)


class Growing:
    """Of one spool; used by one thread at a time."""

    def __init__(self, new_compressor: Callable[[], zstandard.ZstdCompressor]) -> None:
        self._new_compressor = new_compressor
        self._free: list[zstandard.ZstdCompressor] = []
        self._open: dict[ObjectId, _Grown] = {}
        self._held = 0

    def __len__(self) -> int:
        """How many services may go on."""
        return len(self._open)

    @property
    def room(self) -> bool:
        """Whether one more may."""
        return len(self._open) < OPEN

    def has(self, service: ObjectId) -> bool:
        """Whether the service's lines go on in what is here."""
        return service in self._open

    def clear(self) -> None:
        """Nothing waits, and nothing is kept for what comes."""
        self._open.clear()
        self._free.clear()
        self._held = 0

    def add(self, part: Part) -> Iterator[Compressed]:
        """``part`` behind what waits of its service; what is large enough now, if anything."""
        grown = self._open.get(part.service)
        if grown is None:
            compressor = self._free.pop() if self._free else self._new_compressor()
            grown = _Grown(compressor, compressor.compressobj(), 0, 0, part.first_us, part.last_us)
            self._open[part.service] = grown
        for lines in part.slices:
            self._took(grown, grown.frame.compress(lines))
        grown.raw_bytes += part.raw_bytes
        grown.records += part.records
        grown.first_us = min(grown.first_us, part.first_us)
        grown.last_us = max(grown.last_us, part.last_us)
        if grown.raw_bytes >= GROWN_BYTES or self._held > HELD_BYTES:
            yield self._finished(part.service)

    def rest(self) -> Iterator[Compressed]:
        """All that waits."""
        for service in tuple(self._open):
            yield self._finished(service)

    def _finished(self, service: ObjectId) -> Compressed:
        grown = self._open[service]
        self._took(grown, grown.frame.flush())
        del self._open[service]
        self._held -= grown.size
        self._free.append(grown.compressor)
        data = sized(b"".join(grown.data), grown.raw_bytes)
        return Compressed(service, data, grown.raw_bytes, grown.records, grown.first_us, grown.last_us)

    def _took(self, grown: _Grown, data: bytes) -> None:
        if data:
            grown.data.append(data)
            grown.size += len(data)
            self._held += len(data)


def sized(frame: bytes, raw_bytes: int) -> bytes:
    """A frame that was begun before its size was known, with its size in its head (RFC 8878, 3.1.1.1): in four bytes."""
    descriptor = frame[4]
    if descriptor & 0b1110_1011:
        raise AssertionError("a frame with more in its head than its window")
    return (
        frame[:4]
        + bytes((descriptor | 0b1000_0000,))
        + frame[5:6]
        + raw_bytes.to_bytes(4, "little")
        + frame[6:]
    )
