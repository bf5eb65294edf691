"""A segment that comes alone, as the controller writes it: one file, which goes on where it was broken off.

Blocking: for threads, one at a time.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, TypeVar

from avinet.errors import AvinetError, Kind, error
from avinet.logs.entries import Segment
from avinet.logs.received_head import put_head
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead
from avinet.units import MIB

_T = TypeVar("_T")
HASHED_BYTES = MIB
"""Read at once of what is on disk already."""


@error
class PartGoneError(AvinetError):
    """Of {name} there are {have} bytes, not {wanted}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str
    have: int
    wanted: int


class Part:
    """A segment that is being written."""

    def __init__(self, segment: Segment, offset: int, path: Path, final: Path) -> None:
        self.segment = segment
        self.offset = offset
        """Where it goes on; what is before is on disk."""
        self.size = 0
        """Bytes that are in the file and in the hash."""
        self.unwanted = False
        """It was refused, or is here already: what more comes of it is thrown away."""
        self._path = path
        self._final = final
        self._descriptor: int | None = None
        self._hash = hashlib.sha256()

    @property
    def segments(self) -> tuple[Segment, ...]:
        """What is to be kept."""
        return (self.segment,)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all that may come of it."""
        return (self.segment.head.name,)

    @property
    def se(self) -> SeId:
        """Whose it is."""
        return self.segment.se

    @property
    def room_bytes(self) -> int:
        """What it will take of the disk, beside what is there."""
        return self.head.size - self.offset

    @property
    def raw_bytes(self) -> int:
        """Its NDJSON."""
        return self.head.raw_bytes

    @property
    def head(self) -> SegmentHead:
        """What it should be."""
        return self.segment.head

    def open(self) -> None:
        """Once, before anything else; ``PartGoneError`` when the file is shorter than it should be."""
        if self._descriptor is not None:
            return
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = in_folder(self._path, lambda: os.open(self._path, flags, 0o600))
        try:
            self._go_behind(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        self._descriptor = descriptor

    def _go_behind(self, descriptor: int) -> None:
        """Hash what is there up to ``offset``, and drop what is behind it."""
        have = os.fstat(descriptor).st_size
        if have < self.offset:
            raise PartGoneError(name=self.head.name, have=have, wanted=self.offset)
        os.ftruncate(descriptor, self.offset)
        piece = bytearray(min(HASHED_BYTES, self.offset))
        view = memoryview(piece)
        while self.size < self.offset:
            got = os.preadv(descriptor, [view[: self.offset - self.size]], self.size)
            if not got:
                raise PartGoneError(name=self.head.name, have=self.size, wanted=self.offset)
            self._hash.update(view[:got])
            self.size += got

    def append(self, data: memoryview) -> int:
        """Write the front of ``data``; how much that was.  What a full disk interrupts goes on at the same place."""
        if self._descriptor is None:
            raise AssertionError("it is not open")
        written = os.pwrite(self._descriptor, data, self.size)
        self._hash.update(data[:written])
        self.size += written
        return written

    @property
    def extents(self) -> tuple[tuple[int, int], ...]:
        """Where its segments are in the file: place and size of each."""
        return ((0, self.head.size),)

    def read(self, place: int, size: int) -> bytes:
        """So much of its file, or less at its end."""
        if self._descriptor is None:
            raise AssertionError("it is not open")
        return os.pread(self._descriptor, size, place)

    @property
    def opened(self) -> bool:
        """Whether it is open."""
        return self._descriptor is not None

    @property
    def whole(self) -> bool:
        """Whether it has come to its end."""
        return self.size == self.head.size

    @property
    def true(self) -> bool:
        """Whether it is what its head says."""
        return self.whole and self._hash.hexdigest() == self.head.sha256

    def sync(self) -> None:
        """Make its bytes last, and its head behind them."""
        if self._descriptor is not None:
            put_head(self._descriptor, self.head)
            os.fsync(self._descriptor)

    def settle(self) -> None:
        """It is a segment from now on; its folder is still to be made to last."""
        if self._descriptor is not None:
            in_folder(self._final, lambda: self._path.rename(self._final))
            self.close()

    @property
    def folder(self) -> Path:
        """Where it is once it is settled."""
        return self._final.parent

    def close(self) -> None:
        """Leave what is there."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def discard(self) -> None:
        """It is not wanted."""
        self.close()
        self._path.unlink(missing_ok=True)


def in_folder(path: Path, call: Callable[[], _T]) -> _T:
    """What makes ``path``; its folder is made where there is none, which is seldom."""
    try:
        return call()
    except FileNotFoundError:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return call()
