"""What a received file says of itself: which segments are in it, for a ledger that does not know.

A file of one segment has its head behind it (``received_head``), that of a batch begins with the heads of all
(``incoming_pack``).
"""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

from avinet.logs.entries import PACK, SEGMENT, PackPlace, Segment
from avinet.logs.incoming_pack import read_start
from avinet.logs.received_head import read_head
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead


def segments_in(se: SeId, path: Path) -> list[Segment]:
    """The segments of a received file, as far as they are what their heads say; none when it cannot be read."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        if path.suffix == PACK:
            return list(_in_pack(se, path, descriptor))
        head = read_head(descriptor) if path.suffix == SEGMENT else None
        true = head is not None and head.name == path.stem and _is_true(descriptor, head, 0)
        return [Segment(se, head)] if head is not None and true else []
    finally:
        os.close(descriptor)


def _in_pack(se: SeId, path: Path, descriptor: int) -> Iterator[Segment]:
    start, offset = read_start(descriptor)
    incarnation, _, counter = path.stem.rpartition("-")
    if start is None or not counter.isdecimal():
        return
    for head in start.heads:
        if head.incarnation == incarnation and _is_true(descriptor, head, offset):
            yield Segment(se, head, PackPlace(int(counter), offset))
        offset += head.size


def _is_true(descriptor: int, head: SegmentHead, offset: int) -> bool:
    return hashlib.sha256(os.pread(descriptor, head.size, offset)).hexdigest() == head.sha256
