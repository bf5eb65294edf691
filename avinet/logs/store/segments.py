"""Segment files to NDJSON, within bounds that a hostile service engine cannot move.

The head was checked by its types (64 MiB at most, either way) and says how many bytes come out; the frame has to keep
to it to the byte.  So one buffer of that size is all that is ever held, whatever the frame claims of itself.
"""

from pathlib import Path
from typing import IO, ClassVar

import zstandard

from avinet.errors import AvinetError, Kind, error
from avinet.model.logs import MAX_RATIO, SegmentHead
from avinet.units import MIB

MAX_WINDOW_BYTES = 8 * MIB
"""What the decompressor holds besides.  Level 3 uses 2 MiB, level 19 8 MiB (zstd's own advice to decoders: RFC 8878,
3.1.1.1.2)."""


@error
class SegmentBadError(AvinetError):
    """A log segment cannot be read: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    why: str


def read_segment(path: Path, head: SegmentHead, offset: int | None = None) -> bytearray:
    """The NDJSON of a segment: ``head.raw_bytes`` of it.  ``SegmentBadError``; ``OSError`` where there is no file.

    With an ``offset`` it begins there, and ends before another one.
    """
    if head.raw_bytes > head.size * MAX_RATIO:
        raise SegmentBadError(why=f"{head.size} bytes would become {head.raw_bytes}")
    raw = bytearray(head.raw_bytes)
    decompressor = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    filled = 0
    try:
        with (
            path.open("rb") as file,
            decompressor.stream_reader(_its_bytes(file, head, offset), read_size=MIB) as reader,
        ):
            with memoryview(raw) as view:
                while filled < head.raw_bytes and (count := reader.readinto(view[filled:])):
                    filled += count
            more = filled == head.raw_bytes and bool(reader.read(1))
    except zstandard.ZstdError as why:
        raise SegmentBadError(why=str(why)) from why
    if filled < head.raw_bytes:
        raise SegmentBadError(why=f"it ends after {filled} bytes of {head.raw_bytes}")
    if more:
        raise SegmentBadError(why=f"it goes on after {head.raw_bytes} bytes")
    return raw


def _its_bytes(file: IO[bytes], head: SegmentHead, offset: int | None) -> IO[bytes] | bytes:
    """Those among others are read at once: they came in one batch, which is small."""
    if offset is None:
        return file
    file.seek(offset)
    return file.read(head.size)
