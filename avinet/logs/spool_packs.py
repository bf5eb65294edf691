"""The spool's files.  All segments of one chunk are in one **pack**: a file a segment would cost a fsync a segment.

A pack is the segments' frames one after another, then a table that says which they are, so that an index can be made
anew from packs alone.  It is written once and counts only if the index has its name, and a name is used for one file
only; so it needs no temporary name.  A segment that goes leaves a hole, whose disk blocks are given back; with its last
segment the pack goes.
"""

import contextlib
import ctypes
import errno
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import attrs
import msgspec

from avinet.logs.spool_segments import sha256
from avinet.model.logs import SegmentHead
from avinet.trust.files import DiskFullError, FileUnwritableError, private_dir, sync_folder
from avinet.units import MIB

MAX_BAD_BYTES = 64 * MIB
MAX_BAD_FILES = 1_000
"""What was set aside is kept for whoever looks into it, the newest of it."""
MAX_TABLE_BYTES = 64 * MIB
"""Some 300 bytes a segment; a chunk has tens of thousands of lines, and seldom more than hundreds of services."""

_MAGIC = b"avi-pack"
_END = 8 + len(_MAGIC)
_HOLE = bytes(4)
"""No zstd frame begins so."""
_NAME = re.compile(r"([0-9a-f]{32}-[0-9]{16})\.pack")
_PUNCH_HOLE_KEEP_SIZE = 0x03
"""FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE (linux/falloc.h)."""
_libc = ctypes.CDLL(None, use_errno=True)


class Placed(msgspec.Struct, frozen=True, array_like=True):
    """A segment, and where it is: from ``offset`` on in the pack that begins with the segment ``pack``."""

    head: SegmentHead
    pack: int
    offset: int

    @property
    def pack_name(self) -> str:
        """The pack's first segment's name."""
        return f"{self.head.incarnation}-{self.pack:016d}"


@attrs.frozen
class Place:
    """Where a segment's bytes are."""

    path: Path
    offset: int
    size: int


@attrs.define(eq=False)
class Packs:
    """``folder/segments`` and ``folder/bad``."""

    folder: Path

    def __attrs_post_init__(self) -> None:
        for folder in (self.folder, self.segments, self.bad):
            private_dir(folder)

    def make_folders(self) -> bool:
        """Again, if somebody has removed them; whether that was so."""
        if self.segments.is_dir():
            return False
        self.__attrs_post_init__()
        return True

    @property
    def segments(self) -> Path:
        """Where packs are."""
        return self.folder / "segments"

    @property
    def bad(self) -> Path:
        """Where that is which is not what it should be."""
        return self.folder / "bad"

    def path(self, pack_name: str) -> Path:
        """Of one pack."""
        return self.segments / f"{pack_name}.pack"

    def place(self, placed: Placed) -> Place:
        """Of one segment."""
        return Place(self.path(placed.pack_name), placed.offset, placed.head.size)

    def write(self, made: Iterable[tuple[SegmentHead, bytes]]) -> list[Placed]:
        """Write a pack of those segments, durably; nothing for none.  ``DiskFullError`` leaves nothing."""
        placed: list[Placed] = []
        descriptor = -1
        path = self.segments
        try:
            for head, data in made:
                if descriptor < 0:
                    path = self.path(head.name)
                    with _our_errors(path):
                        descriptor = os.open(
                            path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
                        )
                before = placed[-1] if placed else None
                offset = before.offset + before.head.size if before else 0
                placed.append(Placed(head, placed[0].pack if placed else head.counter, offset))
                _write(path, descriptor, data)
            if placed:
                table = msgspec.msgpack.encode(placed)
                _write(path, descriptor, table + len(table).to_bytes(8) + _MAGIC)
                with _our_errors(path):
                    os.fsync(descriptor)
                    sync_folder(self.segments)
        except BaseException:
            if placed:
                self.remove([placed[0].pack_name])
            raise
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return placed

    def remove(self, pack_names: Iterable[str]) -> None:
        """Take them off the disk; those that are gone already are fine."""
        for name in pack_names:
            path = self.path(name)
            with _our_errors(path), contextlib.suppress(FileNotFoundError):
                path.unlink()

    def clear(self, gone: Iterable[Placed]) -> None:
        """Give back the disk blocks of segments whose packs stay."""
        for placed in gone:
            with contextlib.suppress(OSError):
                descriptor = os.open(self.path(placed.pack_name), os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                try:
                    # What the file system does not do block-wise is zeroed, so the hole begins with zeros in any case.
                    punch(descriptor, placed.offset, placed.head.size)
                finally:
                    os.close(descriptor)

    def read(self, placed: Placed) -> bytes:
        """A segment's bytes, fewer where the file ends, and none where there is none."""
        try:
            with self.path(placed.pack_name).open("rb") as file:
                file.seek(placed.offset)
                return file.read(placed.head.size)
        except OSError:
            return b""

    def all(self) -> list[str]:
        """Every pack's name.  What is not ours is passed over."""
        matches = (_NAME.fullmatch(path.name) for path in self.segments.iterdir())
        return sorted(match[1] for match in matches if match)

    def size(self, pack_name: str) -> int:
        """Of the file, in bytes; -1 when it is not there."""
        try:
            return self.path(pack_name).stat().st_size
        except FileNotFoundError:
            return -1

    def table(self, pack_name: str) -> list[Placed] | None:
        """What was written into a pack; None when it does not say."""
        try:
            with self.path(pack_name).open("rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - _END))
                end = file.read(_END)
                length = int.from_bytes(end[:8])
                if end[8:] != _MAGIC or length > min(MAX_TABLE_BYTES, size - _END):
                    return None
                file.seek(size - _END - length)
                placed = msgspec.msgpack.decode(file.read(length), type=list[Placed])
        except (OSError, msgspec.MsgspecError, UnicodeDecodeError):
            return None
        return placed if all(each.pack_name == pack_name for each in placed) else None

    def is_hole(self, placed: Placed) -> bool:
        """Whether the segment was cleared."""
        return self.read(placed)[: len(_HOLE)] == _HOLE

    def set_aside(self, name: str, data: bytes) -> None:
        """Keep bytes in ``bad``, as long as there is room; the oldest there go."""
        with contextlib.suppress(OSError):
            self.bad.mkdir(mode=0o700, exist_ok=True)
            (self.bad / name).touch(mode=0o600)
            (self.bad / name).write_bytes(data)
            kept = sorted(self.bad.iterdir(), key=lambda file: file.stat().st_mtime, reverse=True)
            size = 0
            for number, file in enumerate(kept):
                size += file.stat().st_size
                if size > MAX_BAD_BYTES or number >= MAX_BAD_FILES:
                    file.unlink()


def punch(descriptor: int, offset: int, size: int) -> bool:
    """Give back the disk blocks of a part of a file, which reads as zeros then; False where that cannot be done."""
    while _libc.fallocate(descriptor, _PUNCH_HOLE_KEEP_SIZE, ctypes.c_int64(offset), ctypes.c_int64(size)):
        if ctypes.get_errno() != errno.EINTR:
            return False
    return True


def whole(placed: Placed, data: bytes) -> bool:
    """Whether the bytes are the segment's."""
    return len(data) == placed.head.size and sha256(data) == placed.head.sha256


def _write(path: Path, descriptor: int, data: bytes) -> None:
    with _our_errors(path):
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]


@contextlib.contextmanager
def _our_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as why:
        if why.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise DiskFullError(path=path) from why
        raise FileUnwritableError(path=path, why=os.strerror(why.errno or 0)) from why
