"""A segment's bytes, read without ever making the reactor wait for a disk.

What is in the kernel's page cache is read right into the packet (``preadv2`` with ``RWF_NOWAIT``); what is not is read
once in a thread, after which it is there.  On file systems that cannot say, only what a thread has read is taken.  Small
segments are read by the thread that opens them: a way to a thread and back for each would cost more than their bytes.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable
from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.logs.spool import SegmentGoneError
from avinet.logs.spool_packs import Place
from avinet.model.logs import SegmentHead
from avinet.units import MIB

WARMED_BYTES = 4 * MIB
"""Read at once in a thread: some 10 ms of a disk, so that going to and fro costs little beside it."""
SMALL_BYTES = MIB
"""What is read as it is opened: 16 of them are some 30 ms of a disk."""
_SCRATCH_BYTES = MIB
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

_scratch = threading.local()


def _own_scratch() -> memoryview:
    """This thread's."""
    piece = getattr(_scratch, "piece", None)
    if piece is None:
        piece = _scratch.piece = bytearray(_SCRATCH_BYTES)
    return memoryview(piece)


@error
class SegmentShortError(AvinetError):
    """The file of a segment ends before the segment does."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


class OpenSegment:
    """One segment, open; its bytes stay although the spool drops it.  Made in a thread by ``open``."""

    def __init__(self, descriptor: int, place: Place) -> None:
        self._descriptor = descriptor
        self._place = place
        self._nowait = True
        self._warmed = 0
        """Up to here a thread has read."""

    @classmethod
    def open(cls, place: Place) -> "OpenSegment":
        """Blocks: looks the file up, and asks the kernel to have its bytes ready."""
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        os.posix_fadvise(descriptor, place.offset, place.size, os.POSIX_FADV_WILLNEED)
        opened = cls(descriptor, place)
        if place.size <= SMALL_BYTES:
            try:
                opened.warm(0)
            except BaseException:
                opened.close()
                raise
        return opened

    def read_into(self, room: memoryview, offset: int) -> int:
        """Fill the front of ``room`` from ``offset`` on, as far as that is in memory; 0: ``warm`` it first."""
        if not self._nowait:
            room = room[: max(0, self._warmed - offset)]
            return os.preadv(self._descriptor, [room], self._place.offset + offset) if room else 0
        try:
            return os.preadv(self._descriptor, [room], self._place.offset + offset, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as why:
            if why.errno not in _UNSUPPORTED:
                raise
            self._nowait = False
            return self.read_into(room, offset)

    def warm(self, offset: int) -> None:
        """Blocks: have the next ``WARMED_BYTES`` in memory.  ``SegmentShortError`` when there is nothing."""
        piece = _own_scratch()
        end = min(offset + WARMED_BYTES, self._place.size)
        start = offset
        while offset < end:
            got = os.preadv(self._descriptor, [piece[: end - offset]], self._place.offset + offset)
            if not got:
                break
            offset += got
        if offset == start:
            raise SegmentShortError
        self._warmed = max(self._warmed, offset)

    def close(self) -> None:
        """Done with it."""
        os.close(self._descriptor)


def is_sound(place_of: Callable[[str], Place], head: SegmentHead) -> bool:
    """Blocks: whether a segment's bytes are what its head says; not when it is gone."""
    try:
        place = place_of(head.name)
        descriptor = os.open(place.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except (SegmentGoneError, OSError):
        return False
    found, done, piece = hashlib.sha256(), 0, _own_scratch()
    try:
        while done < place.size:
            got = os.preadv(descriptor, [piece[: place.size - done]], place.offset + done)
            if not got:
                return False
            found.update(piece[:got])
            done += got
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return found.hexdigest() == head.sha256
