"""Makes segments of a piece's lines: compressed, hashed, one virtual service each."""

import hashlib
from collections.abc import Iterable, Iterator

import attrs
import zstandard

from avinet.logs.split import MAX_CHUNK_BYTES, Chunk, Lines, Part, parts
from avinet.logs.spool_gathering import Gathering, compressed
from avinet.logs.spool_growing import Compressed, Growing
from avinet.model.logs import LogClass, SegmentHead
from avinet.units import MIB

LEVEL = 1
"""zstd's.  Measured on 16 MiB of mixed realistic records, one core: level 1 870 MiB/s to 9.7 %, level 3 500 to 10.0, level -1
1,000 to 14.2, level 5 200 to 9.8; with long distance matching 9.2 % at 255 (decision 0033)."""
MAX_RAW_BYTES = MAX_CHUNK_BYTES
COPIED_BYTES = MIB
"""Of a chunk, gathered by service at a time; more is not faster."""


@attrs.frozen
class Taking:
    """A chunk, the lines of it that are kept, and whether another one may follow."""

    chunk: Chunk = attrs.field(repr=False)
    lines: Lines
    last: bool = True


@attrs.define(eq=False)
class SegmentMaker:
    """Of one spool; used by one thread at a time."""

    _compressor: zstandard.ZstdCompressor = attrs.field(
        factory=lambda: zstandard.ZstdCompressor(level=LEVEL), init=False
    )
    _growing: Growing = attrs.field(
        factory=lambda: Growing(lambda: zstandard.ZstdCompressor(level=LEVEL)), init=False
    )
    _gathering: Gathering = attrs.field(
        default=attrs.Factory(lambda self: Gathering(self._compressor), takes_self=True), init=False
    )

    @property
    def wants_more(self) -> bool:
        """Whether the segments of some services can go on, and there is room for more of those that have few lines."""
        return bool(len(self._gathering) or len(self._growing)) and not self._gathering.full

    def make(
        self, chunks: Iterable[Taking], log_class: LogClass, incarnation: str, counter: int
    ) -> Iterator[tuple[SegmentHead, bytes]]:
        """The segments, with counters that go on from ``counter``; one at a time is in memory.

        A chunk is asked for when the one before it is not needed any more.
        """
        for number, made in enumerate(self._made(chunks), counter + 1):
            head = SegmentHead(
                incarnation=incarnation,
                counter=number,
                service=made.service,
                log_class=log_class,
                first_us=made.first_us,
                last_us=made.last_us,
                records=made.records,
                raw_bytes=made.raw_bytes,
                size=len(made.data),
                sha256=sha256(made.data),
            )
            yield head, made.data

    def _made(self, chunks: Iterable[Taking]) -> Iterator[Compressed]:
        gathering, growing = self._gathering, self._growing
        gathering.clear()  # the one before may have failed half way
        growing.clear()
        for taking in chunks:
            for part in parts(taking.chunk, taking.lines, COPIED_BYTES):
                if growing.has(part.service):
                    yield from growing.add(part)
                elif taking.last or not gathering.add(part):
                    goes_on = gathering.is_large(part) and growing.room and not taking.last
                    joined = gathering.joined(part)
                    if goes_on:
                        yield from growing.add(joined)
                    else:
                        yield self._at_once(joined)
        for part in gathering.rest():
            yield self._at_once(part)
        yield from growing.rest()
        gathering.clear()
        growing.clear()

    def _at_once(self, part: Part) -> Compressed:
        data = compressed(self._compressor, part)
        return Compressed(part.service, data, part.raw_bytes, part.records, part.first_us, part.last_us)


def sha256(data: bytes) -> str:
    """As a segment's head has it."""
    return hashlib.sha256(data).hexdigest()
