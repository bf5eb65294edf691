"""The segments of a batch, as the controller writes them: one file for all, each verified by itself.

The file begins with what the batch is (its heads, its pull), so that what a kill -9 has left of it is of use: ``reopen``
looks at each segment anew.  ``finish`` makes of a batch that broke off what it has whole, and a part of its own of the
one that has not; ``settle`` gives it the name of the first segment that is kept, which no other file has ever had.

Blocking: for threads, one at a time.
"""

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path

import attrs
import msgspec

from avinet.logs.entries import PackPlace, Segment, pack_file
from avinet.logs.incoming_part import HASHED_BYTES, in_folder
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead
from avinet.units import MIB

MAX_START_BYTES = MIB
"""Heads of a batch take 100 KiB."""
_MAGIC = b"avi-came"
_COPIED_BYTES = MIB


class Start(msgspec.Struct, frozen=True, array_like=True):
    """What a batch is; ``pull`` is the ledger's, empty when it was pushed."""

    heads: tuple[SegmentHead, ...]
    pull: str


_start = msgspec.msgpack.Decoder(Start).decode


@attrs.frozen
class PackFolders:
    """Where one SE's files are, and who says when a file is nobody's any more."""

    received: Path
    part: Callable[[str], Path]
    """Of a segment that has not come whole, by its name."""
    done: Callable[[Path], None] = lambda path: None


class PackPart:
    """A batch that is being written."""

    def __init__(self, se: SeId, start: Start, path: Path, folders: PackFolders) -> None:
        self.se = se
        self.start = start
        self.size = 0
        """Bytes of segments that are in the file."""
        self.unwanted = False
        """Nothing of it is wanted: what more comes is thrown away."""
        self.wanted = [True] * len(start.heads)
        """Which of them: not what was refused, or is here already."""
        self.kept: list[Segment] = []
        """Those that have come whole, and are what their heads say."""
        self.known: list[SegmentHead] = []
        """Those that are here already."""
        self.false: list[SegmentHead] = []
        """Those that have come whole, and are not."""
        self._folders = folders
        self._path = path
        self._ends = list(accumulate(head.size for head in start.heads))
        self._next = 0
        """The segment under way."""
        self._hash = hashlib.sha256()
        self._descriptor: int | None = None
        self._base = 0
        self._finished = False

    @property
    def segments(self) -> list[Segment]:
        """What is to be kept."""
        return self.kept

    @property
    def names(self) -> list[str]:
        """Of all that may come of it."""
        return [head.name for head in self.start.heads]

    def refuse(self, numbers: Iterable[int]) -> None:
        """These of it are not wanted, but not all."""
        for number in numbers:
            self.wanted[number] = False

    def want_only(self, known: Sequence[bool]) -> None:
        """Not what is here already, each in its place; ``unwanted`` when that is all of it."""
        for number, (is_known, head) in enumerate(zip(known, self.start.heads, strict=True)):
            if is_known and self.wanted[number]:
                self.wanted[number] = False
                self.known.append(head)
        self.unwanted = not any(self.wanted)

    @property
    def extents(self) -> list[tuple[int, int]]:
        """Where those that are kept are in the file: place and size of each."""
        return [(one.place.offset, one.head.size) for one in self.kept if one.place is not None]

    def read(self, place: int, size: int) -> bytes:
        """So much of its file, or less at its end."""
        if self._descriptor is None:
            raise AssertionError("it is not open")
        return os.pread(self._descriptor, size, place)

    @property
    def opened(self) -> bool:
        """Whether it is open."""
        return self._descriptor is not None

    def all_segments(self) -> list[Segment]:
        """Each of the batch, as the ledger is asked for it."""
        return [Segment(self.se, head) for head in self.start.heads]

    @property
    def room_bytes(self) -> int:
        """What it takes of the disk."""
        return self._ends[-1] + len(_begun(self.start))

    @property
    def raw_bytes(self) -> int:
        """NDJSON of all of it."""
        return sum(head.raw_bytes for head in self.start.heads)

    def open(self) -> None:
        """Once, before anything else."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        descriptor = in_folder(self._path, lambda: os.open(self._path, flags, 0o600))
        data = memoryview(_begun(self.start))
        done = 0
        try:
            while done < len(data):
                done += os.pwrite(descriptor, data[done:], done)
        except BaseException:
            os.close(descriptor)
            self._path.unlink(missing_ok=True)
            raise
        self._descriptor, self._base = descriptor, len(data)

    @classmethod
    def reopen(cls, se: SeId, path: Path, folders: PackFolders) -> "PackPart | None":
        """What was left of one, looked at anew; None when it cannot be read, and then it is gone."""
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        start, base = read_start(descriptor)
        if start is None:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            return None
        part = cls(se, start, path, folders)
        part._descriptor, part._base = descriptor, base
        return part

    def look_again(self) -> None:
        """Hash all that is in the file."""
        if self._descriptor is None:
            raise AssertionError("it is not open")
        piece = memoryview(bytearray(HASHED_BYTES))
        while self._next < len(self._ends):
            room = piece[: self._ends[-1] - self.size]
            got = os.preadv(self._descriptor, [room], self._base + self.size)
            if not got:
                break
            self._took(room[:got])

    def append(self, data: memoryview) -> int:
        """Write the front of ``data``; how much that was.  What a full disk interrupts goes on at the same place."""
        if self._descriptor is None:
            raise AssertionError("it is not open")
        written = os.pwrite(self._descriptor, data, self._base + self.size)
        self._took(data[:written])
        return written

    def _took(self, data: memoryview) -> None:
        """So much is in the file: hash it, segment by segment."""
        at, end = self.size, self.size + len(data)
        self.size = end
        ends, first = self._ends, at
        while at < end:
            stop = min(end, ends[self._next])
            if self.wanted[self._next]:
                self._hash.update(data[at - first : stop - first])
            if stop == ends[self._next]:
                self._whole()
            at = stop

    def _whole(self) -> None:
        number = self._next
        head = self.start.heads[number]
        if self.wanted[number]:
            if self._hash.hexdigest() == head.sha256:
                pack = self.kept[0].head.counter if self.kept else head.counter
                place = PackPlace(pack, self._base + self._ends[number] - head.size)
                self.kept.append(Segment(self.se, head, place))
            else:
                self.false.append(head)
            self._hash = hashlib.sha256()
        self._next += 1

    def finish(self) -> None:
        """Nothing more comes: what has not come whole becomes a part of its own.  May be called again after an error."""
        if self._descriptor is None or self._finished:
            return
        if self._next < len(self._ends):
            head = self.start.heads[self._next]
            begin = self._ends[self._next] - head.size
            if self.size > begin and self.wanted[self._next]:
                self._copy_part(head.name, self._base + begin, self.size - begin)
            os.ftruncate(self._descriptor, self._base + begin)
        self._finished = True
        if not self.kept:
            self.unwanted = True
            self.discard()

    def _copy_part(self, name: str, place: int, size: int) -> None:
        if self._descriptor is None:
            raise AssertionError("it is not open")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
        path = self._folders.part(name)
        target = in_folder(path, lambda: os.open(path, flags, 0o600))
        try:
            done = 0
            while done < size:
                piece = memoryview(os.pread(self._descriptor, min(_COPIED_BYTES, size - done), place + done))
                if not piece:
                    return
                while piece:
                    count = os.pwrite(target, piece, done)
                    piece, done = piece[count:], done + count
        finally:
            os.close(target)

    def sync(self) -> None:
        """Make its bytes last."""
        if self._descriptor is not None:
            os.fsync(self._descriptor)

    def settle(self) -> None:
        """It is received from now on; its folder is still to be made to last."""
        if self._descriptor is None:
            return
        first = self.kept[0].head
        final = self._folders.received / pack_file(first.incarnation, first.counter)
        # Not renamed over another: whatever has that name, something may wait in it.
        in_folder(final, lambda: os.link(self._path, final))
        self._path.unlink()
        self.close()

    @property
    def folder(self) -> Path:
        """Where it is once it is settled."""
        return self._folders.received

    def close(self) -> None:
        """Leave what is there."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
        self._folders.done(self._path)

    def discard(self) -> None:
        """It is not wanted."""
        self.close()
        self._path.unlink(missing_ok=True)


def _begun(start: Start) -> bytes:
    body = msgspec.msgpack.encode(start)
    return _MAGIC + len(body).to_bytes(4) + body


def read_start(descriptor: int) -> tuple[Start | None, int]:
    """What a file is, and where its segments begin."""
    front = os.pread(descriptor, len(_MAGIC) + 4, 0)
    size = int.from_bytes(front[len(_MAGIC) :])
    if len(front) < len(_MAGIC) + 4 or not front.startswith(_MAGIC) or size > MAX_START_BYTES:
        return None, 0
    body = os.pread(descriptor, size, len(front))
    try:
        start = _start(body)
    except msgspec.DecodeError:
        return None, 0
    return (start if start.heads else None), len(front) + size
