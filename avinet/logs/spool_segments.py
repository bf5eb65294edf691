"""Makes segments of a chunk's lines: compressed, hashed, one for each virtual service."""

import hashlib
from collections.abc import Iterator

import attrs
import zstandard

from avinet.logs.split import MAX_CHUNK_BYTES, Chunk, Lines, parts
from avinet.model.logs import LogClass, SegmentHead
from avinet.units import MIB

LEVEL = 1
"""zstd's.  Measured on mixed realistic records, one core: level 1 435 MiB/s to 9.2 %, level 3 276 MiB/s to 9.9 %,
level -1 532 MiB/s to 13.3 %, level 5 68 MiB/s to 9.5 %."""
MAX_RAW_BYTES = MAX_CHUNK_BYTES
COPIED_BYTES = MIB
"""Of a chunk, gathered by service at a time; more is not faster."""


@attrs.define(eq=False)
class SegmentMaker:
    """Of one spool; used by one thread at a time."""

    _compressor: zstandard.ZstdCompressor = attrs.field(
        factory=lambda: zstandard.ZstdCompressor(level=LEVEL), init=False
    )

    def make(
        self, chunk: Chunk, lines: Lines, log_class: LogClass, incarnation: str, counter: int
    ) -> Iterator[tuple[SegmentHead, bytes]]:
        """The segments, with counters that go on from ``counter``; one at a time is in memory."""
        for number, part in enumerate(parts(chunk, lines, COPIED_BYTES), counter + 1):
            frame = self._compressor.compressobj(size=part.raw_bytes)
            data = b"".join([*(frame.compress(some) for some in part.slices), frame.flush()])
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


def sha256(data: bytes) -> str:
    """As a segment's head has it."""
    return hashlib.sha256(data).hexdigest()
