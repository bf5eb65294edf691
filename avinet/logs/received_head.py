"""The head of a segment behind its bytes, in a frame that zstd skips (RFC 8878, 3.1.2): so the file says what it is, and is
still what any reader of zstd takes.  It is written before the fsync that the file needs anyhow.
"""

import errno
import os
import struct

import msgspec

from avinet.model.logs import SegmentHead
from avinet.units import KIB

MAX_HEAD_BYTES = 4 * KIB
"""A head is 400 bytes."""
_SKIPPED = struct.Struct("<II")
_MAGIC = 0x184D2A5A
"""One of sixteen that begin a frame to be skipped; then its size."""
_END = struct.Struct("<Q4s")
"""At the end of the file: where that frame begins, and that it is one of ours."""
_OURS = b"avi1"
_encode = msgspec.msgpack.encode
_head = msgspec.msgpack.Decoder(SegmentHead).decode


def put_head(descriptor: int, head: SegmentHead) -> None:
    """Write it behind the segment's bytes; again does not matter."""
    body = _encode(head) + _END.pack(head.size, _OURS)
    data = _SKIPPED.pack(_MAGIC, len(body)) + body
    if os.pwrite(descriptor, data, head.size) != len(data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # nothing else cuts such a write off


def read_head(descriptor: int) -> SegmentHead | None:
    """What ``put_head`` wrote; None when there is nothing of that kind."""
    size = os.fstat(descriptor).st_size
    tail = os.pread(descriptor, MAX_HEAD_BYTES, max(0, size - MAX_HEAD_BYTES))
    if len(tail) < _END.size:
        return None
    begin, ours = _END.unpack(tail[-_END.size :])
    frame = tail[len(tail) - (size - begin) :] if 0 <= size - begin <= len(tail) else b""
    if ours != _OURS or len(frame) < _SKIPPED.size + _END.size:
        return None
    try:
        head = _head(frame[_SKIPPED.size : -_END.size])
    except msgspec.MsgspecError:
        return None
    return head if head.size == begin else None
