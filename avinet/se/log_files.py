"""The bytes of segments, read without ever making the reactor wait for a disk.

Segments that are side by side in one pack are one range of it.  What is in the kernel's page cache is read right into the
packet (``preadv2`` with ``RWF_NOWAIT``); what is not is read once in a thread, after which it is there.  On file systems
that cannot say, only what a thread has read is taken.
"""

import errno
import hashlib
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, Kind, error
from avinet.logs.spool_lending import SegmentGoneError
from avinet.logs.spool_packs import Place
from avinet.model.logs import SegmentHead
from avinet.units import KIB, MIB

WARMED_BYTES = 4 * MIB
"""Read at once in a thread: some 10 ms of a disk, so that going to and fro costs little beside it."""
SMALL_BYTES = 64 * KIB
"""At the front of each range, read as it is opened: a way to a thread and back for each small segment would cost more than
its bytes."""
MAX_FILES = 8
"""Packs that one run is read from: descriptors."""
_SCRATCH_BYTES = MIB
_DENIED = frozenset({errno.EACCES, errno.EPERM})
_SCARCE = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_UNSUPPORTED = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})

_scratch = threading.local()


def _own_scratch() -> memoryview:
    """This thread's."""
    piece = getattr(_scratch, "piece", None)
    if piece is None:
        piece = _scratch.piece = bytearray(_SCRATCH_BYTES)
    return memoryview(piece)


InThread = Callable[..., Deferred[Any]]
"""``deferToThread`` or alike: runs a blocking callable with its arguments."""


@error
class SegmentShortError(AvinetError):
    """The file of a segment ends before the segment does."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@attrs.define(eq=False)
class _Range:
    """A part of one pack; ``start`` is where it begins in the run."""

    descriptor: int
    offset: int
    start: int
    size: int
    warmed: int = 0
    """Up to here of it a thread has read."""


class OpenRun:
    """Segments to be sent one after another, open; their bytes stay although the spool drops them.

    Made in a thread by ``open``, which may take the first ``count`` of them only.
    """

    def __init__(self) -> None:
        self.count = 0
        self._descriptors: list[int] = []
        self._ranges: list[_Range] = []
        self._at = 0
        """The range that was read last."""
        self._nowait = True

    @classmethod
    def open(cls, places: Sequence[Place]) -> "OpenRun":
        """Blocks: looks the files up, and asks the kernel to have their bytes ready."""
        opened = cls()
        try:
            opened._open(places)
        except BaseException:
            opened.close()
            raise
        return opened

    def _open(self, places: Sequence[Place]) -> None:
        path, end, start = None, 0, 0
        for place in places:
            if place.path != path:
                if len(self._descriptors) == MAX_FILES:
                    break
                flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
                self._descriptors.append(os.open(place.path, flags))
            if place.path != path or place.offset != end:
                self._ranges.append(_Range(self._descriptors[-1], place.offset, start, 0))
            path, end = place.path, place.offset + place.size
            self._ranges[-1].size += place.size
            start += place.size
            self.count += 1
        for one in self._ranges:
            os.posix_fadvise(one.descriptor, one.offset, one.size, os.POSIX_FADV_WILLNEED)
            self._warm(one, 0, SMALL_BYTES)

    def read_into(self, room: memoryview, offset: int) -> int:
        """Fill the front of ``room`` from ``offset`` on, as far as that is in memory; 0: ``warm`` it first."""
        one, within = self._range(offset)
        room = room[: one.size - within]
        if not self._nowait:
            room = room[: max(0, one.warmed - within)]
            return os.preadv(one.descriptor, [room], one.offset + within) if room else 0
        try:
            return os.preadv(one.descriptor, [room], one.offset + within, os.RWF_NOWAIT)
        except BlockingIOError:
            return 0
        except OSError as why:
            if why.errno not in _UNSUPPORTED:
                raise
            self._nowait = False
            return self.read_into(room, offset)

    def _range(self, offset: int) -> tuple[_Range, int]:
        while offset < self._ranges[self._at].start:
            self._at -= 1
        while offset >= self._ranges[self._at].start + self._ranges[self._at].size:
            self._at += 1
        one = self._ranges[self._at]
        return one, offset - one.start

    def warm(self, offset: int) -> None:
        """Blocks: have the next ``WARMED_BYTES`` in memory.  ``SegmentShortError`` when there is nothing."""
        self._warm(*self._range(offset), WARMED_BYTES)

    def _warm(self, one: _Range, within: int, most: int) -> None:
        piece = _own_scratch()
        start, end = within, min(within + most, one.size)
        while within < end:
            got = os.preadv(one.descriptor, [piece[: end - within]], one.offset + within)
            if not got:
                break
            within += got
        if within == start:
            raise SegmentShortError
        one.warmed = max(one.warmed, within)

    def close(self) -> None:
        """Blocks: done with it.  The last one of a pack that is gone frees its blocks."""
        while self._descriptors:
            os.close(self._descriptors.pop())


@attrs.frozen
class FileAccess:
    """How a channel gets at files.  Segments are named; what blocks is called in a thread."""

    in_thread: InThread
    pin: Callable[[Sequence[str]], None]
    """Blocks.  They are about to be sent here, which is durable when it returns."""
    open: Callable[[Sequence[str]], tuple[OpenRun, list[str]]]
    """Blocks.  The first of them, which are pinned, and the names of those that are gone; there may be more.  The spool keeps
    the others as long as it can until they are ``done``."""
    begun: Callable[[Sequence[str]], None]
    """Their first byte is sent now.  Does not block."""
    done: Callable[[Sequence[str]], None]
    """They are not sent for now.  Does not block."""


def opened(
    lend: Callable[[Sequence[str]], dict[str, Place]], names: Sequence[str]
) -> tuple[OpenRun, list[str]]:
    """Blocks: the first of these segments, open, and the names of those that are gone."""
    places = lend(names)
    gone = [name for name in names if name not in places]
    return OpenRun.open([places[name] for name in names if name in places]), gone


def is_passing(why: BaseException) -> bool:
    """Blocks: whether a segment could not be had for a reason that is not its own, and that somebody can mend."""
    if not isinstance(why, OSError):
        return False
    shut = why.errno in _DENIED and why.filename is not None
    return why.errno in _SCARCE or (shut and not os.access(Path(why.filename).parent, os.R_OK | os.X_OK))


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
