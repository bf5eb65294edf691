"""Makes segments of a piece's lines: compressed, hashed, one virtual service each."""

import hashlib
from collections.abc import Iterable, Iterator

import attrs
import zstandard

from avinet.logs.split import MAX_CHUNK_BYTES, Chunk, Lines, Part, parts
from avinet.logs.spool_gathering import Gathering, compressed
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
    _gathering: Gathering = attrs.field(
        default=attrs.Factory(lambda self: Gathering(self._compressor), takes_self=True), init=False
    )

    @property
    def wants_more(self) -> bool:
        """Whether some services have few lines yet, and there is room for more of them."""
        return bool(len(self._gathering)) and not self._gathering.full

    def make(
        self, chunks: Iterable[Taking], log_class: LogClass, incarnation: str, counter: int
    ) -> Iterator[tuple[SegmentHead, bytes]]:
        """The segments, with counters that go on from ``counter``; one at a time is in memory.

        A chunk is asked for when the one before it is not needed any more.
        """
        for number, part in enumerate(self._parts(chunks), counter + 1):
            data = compressed(self._compressor, part)
            head = SegmentHead(
                incarnation=incarnation,
                counter=number,
                service=part.service,
                log_class=log_class,
                first_us=part.first_us,
                last_us=part.last_us,
                records=part.records,
                raw_bytes=part.raw_bytes,
                size=len(data),
                sha256=sha256(data),
            )
            yield head, data

    def _parts(self, chunks: Iterable[Taking]) -> Iterator[Part]:
        gathering = self._gathering
        gathering.clear()  # the one before may have failed half way
        for taking in chunks:
            for part in parts(taking.chunk, taking.lines, COPIED_BYTES):
                if taking.last or not gathering.add(part):
                    yield gathering.joined(part)
        yield from gathering.rest()
        gathering.clear()


def sha256(data: bytes) -> str:
    """As a segment's head has it."""
    return hashlib.sha256(data).hexdigest()
