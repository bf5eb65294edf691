"""One folder that others may use from outside, and nothing above or beside it.

Every path is taken apart here and walked one name at a time from the folder's own descriptor, each step without
following symbolic links, so that neither ``..`` nor a link nor a rename in the middle of a call leads outside.  Only
regular files and folders are opened; what else lies there (a link, a device, a FIFO) can be listed and removed.

Blocking: called in a thread.
"""

import collections
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.units import GIB, show_bytes

MAX_PATH_BYTES = 4096
"""Linux's own bound (PATH_MAX)."""
MAX_DEPTH = 32
"""Folders within folders: each costs a step of every call."""
MAX_BYTES = 2 * GIB
"""All files together: room for an upgrade's archive and a support bundle or two."""
MAX_ENTRIES = 10_000
"""Files and folders: a walk over all of them takes some 50 ms."""
FILE_MODE, FOLDER_MODE = 0o600, 0o700
_MODE_BITS = 0o777
"""Never set-user-ID and the like."""
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY


@error
class PathRefusedError(AvinetError):
    """{path!r} is refused: {why}."""

    kind: ClassVar[Kind] = Kind.DENIED
    path: str
    why: str


@error
class FolderFullError(AvinetError):
    """The folder for files is full: {why}. Remove some first."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    why: str


def names_of(path: bytes) -> list[bytes]:
    """The names on the way from the folder; absolute and relative paths both begin there.

    ``..`` is taken back by the text alone, which is right where links are not followed, and stops at the folder.
    """
    if len(path) > MAX_PATH_BYTES:
        raise PathRefusedError(path=_shown(path), why=f"it is longer than {MAX_PATH_BYTES} bytes")
    if b"\0" in path:
        raise PathRefusedError(path=_shown(path), why="it has a NUL")
    names: list[bytes] = []
    for name in path.split(b"/"):
        if name == b"..":
            del names[-1:]
        elif name not in {b"", b"."}:
            names.append(name)
    if len(names) > MAX_DEPTH:
        raise PathRefusedError(path=_shown(path), why=f"it is deeper than {MAX_DEPTH} folders")
    return names


def _shown(path: bytes) -> str:
    return path[:200].decode(errors="replace")


@attrs.define(eq=False)
class ConfinedFolder:
    """``root`` is made at the first use.  Its size is counted when somebody comes and kept up from then on."""

    root: Path
    max_bytes: int = MAX_BYTES
    max_entries: int = MAX_ENTRIES
    _bytes: int = attrs.field(default=0, init=False)
    _entries: int = attrs.field(default=0, init=False)
    _opened: "collections.Counter[tuple[int, int]]" = attrs.field(
        factory=collections.Counter, init=False, repr=False
    )
    """Files that are open, by device and inode: what is removed meanwhile takes its space until it is closed."""
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False, repr=False)

    def survey(self) -> None:
        """Make the folder if need be, and count what is in it, unless files are open: what is counted then is more than
        what can be seen, since removed ones are held and writes are under way.
        """
        self.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
        count, size = 0, 0
        for folder, folders, files, descriptor in os.fwalk(self.root, follow_symlinks=False):
            del folder
            count += len(folders) + len(files)
            for name in files:
                with contextlib.suppress(OSError):
                    size += os.stat(name, dir_fd=descriptor, follow_symlinks=False).st_size
        with self._lock:
            if not self._opened:
                self._bytes, self._entries = size, count

    @contextlib.contextmanager
    def _folder(self, names: list[bytes]) -> Iterator[int]:
        """A descriptor of the folder that ``names`` lead to."""
        at = os.open(self.root, _WALK)
        try:
            for name in names:
                below = os.open(name, _WALK, dir_fd=at)
                os.close(at)
                at = below
            yield at
        finally:
            os.close(at)

    @contextlib.contextmanager
    def _place(self, path: bytes) -> Iterator[tuple[int, bytes]]:
        """The folder that an entry lies in, and its name there; the root itself has none."""
        names = names_of(path)
        if not names:
            raise PathRefusedError(path=_shown(path), why="it is the folder itself")
        with self._folder(names[:-1]) as at:
            yield at, names[-1]

    def open(self, path: bytes, flags: int, mode: int = FILE_MODE) -> int:
        """A descriptor of a regular file, open as ``flags`` (of ``os.open``) say."""
        with self._place(path) as (at, name):
            creates = bool(flags & os.O_CREAT) and _look(name, at) is None
            if creates:
                self._reserve_entry()
            # Not truncated before it is known to be a regular file.
            try:
                file = os.open(name, (flags & ~os.O_TRUNC) | _OPEN, mode & _MODE_BITS, dir_fd=at)
            except OSError:
                if creates:
                    self._free(0, entries=1)
                raise
            found = os.fstat(file)
            if not stat.S_ISREG(found.st_mode):
                os.close(file)
                raise PathRefusedError(path=_shown(path), why="it is not a regular file")
            with self._lock:
                self._opened[found.st_dev, found.st_ino] += 1
            if flags & os.O_TRUNC:
                os.ftruncate(file, 0)
                self._free(found.st_size)
            return file

    def close(self, file: int) -> None:
        """Of a file from ``open``."""
        found = os.fstat(file)
        os.close(file)
        with self._lock:
            self._opened[found.st_dev, found.st_ino] -= 1
            is_last = self._opened[found.st_dev, found.st_ino] <= 0
            if is_last:
                del self._opened[found.st_dev, found.st_ino]
        if is_last and not found.st_nlink:
            self._free(found.st_size)

    @contextlib.contextmanager
    def settable(self, path: bytes) -> Iterator[int]:
        """A descriptor of a folder or a file whose mode and times are to be set."""
        names = names_of(path)
        if not names or stat.S_ISDIR(self.stat(path).st_mode):
            with self._folder(names) as at:
                folder = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
                try:
                    yield folder
                finally:
                    os.close(folder)
            return
        file = self.open(path, os.O_RDONLY)
        try:
            yield file
        finally:
            self.close(file)

    def scan(self, path: bytes) -> list[tuple[bytes, os.stat_result]]:
        """Every entry of a folder with what ``lstat`` says, by name."""
        found = []
        with self._folder(names_of(path)) as at:
            readable = os.open(b".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=at)
            try:
                for name in sorted(os.fsencode(entry.name) for entry in os.scandir(readable)):
                    with contextlib.suppress(FileNotFoundError):
                        found.append((name, os.stat(name, dir_fd=at, follow_symlinks=False)))
            finally:
                os.close(readable)
        return found

    def stat(self, path: bytes) -> os.stat_result:
        """Of the entry itself, never of what a link leads to."""
        names = names_of(path)
        if not names:
            return self.root.lstat()
        with self._place(path) as (at, name):
            return os.stat(name, dir_fd=at, follow_symlinks=False)

    def make_folder(self, path: bytes) -> None:
        """``FileExistsError`` where there is something."""
        with self._place(path) as (at, name):
            self._reserve_entry()
            try:
                os.mkdir(name, FOLDER_MODE, dir_fd=at)
            except OSError:
                self._free(0, entries=1)
                raise

    def remove(self, path: bytes) -> None:
        """A file, or whatever else is not a folder."""
        with self._place(path) as (at, name):
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            os.unlink(name, dir_fd=at)
            self._free(self._size(found), entries=1)

    def remove_folder(self, path: bytes) -> None:
        """An empty one."""
        with self._place(path) as (at, name):
            os.rmdir(name, dir_fd=at)
            self._free(0, entries=1)

    def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        """``replace`` puts it in the place of another file at once; without, ``FileExistsError``."""
        with self._place(old) as (old_at, old_name), self._place(new) as (new_at, new_name):
            replaced = _look(new_name, new_at)
            if replaced is not None and not replace:
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            found = os.stat(old_name, dir_fd=old_at, follow_symlinks=False)
            if replaced is not None and os.path.samestat(found, replaced):
                return  # two names of one file: rename(2) leaves both
            if stat.S_ISDIR(found.st_mode) and len(names_of(new)) > len(names_of(old)):
                # What is in it would go deeper than any path reaches, one rename after another.
                raise PathRefusedError(path=_shown(new), why="a folder does not move deeper than it is")
            os.rename(old_name, new_name, src_dir_fd=old_at, dst_dir_fd=new_at)
            if replaced is not None:
                self._free(self._size(replaced), entries=1)

    def write(self, file: int, data: bytes | memoryview, offset: int) -> None:
        """All of ``data`` at ``offset``; ``FolderFullError`` before anything is written."""
        before = os.fstat(file).st_size
        grows = max(0, offset + len(data) - before)
        self._reserve(grows)
        written = 0
        try:
            while written < len(data):
                written += os.pwrite(file, data[written:], offset + written)
        except OSError:
            self._free(max(0, before + grows - os.fstat(file).st_size))
            raise

    def truncate(self, file: int, size: int) -> None:
        """Cut a file, or lengthen it with zeros, which count as if they were there."""
        before = os.fstat(file).st_size
        self._reserve(max(0, size - before))
        os.ftruncate(file, size)
        self._free(max(0, before - size))

    def space(self) -> tuple[int, int]:
        """Bytes that may be here in all, and how many are left; the disk may have less."""
        disk = os.statvfs(self.root)
        with self._lock:
            return self.max_bytes, max(0, min(self.max_bytes - self._bytes, disk.f_bavail * disk.f_frsize))

    def _reserve(self, size: int) -> None:
        with self._lock:
            if self._bytes + size > self.max_bytes:
                raise FolderFullError(why=f"{show_bytes(self.max_bytes)} is the most for all files together")
            self._bytes += size

    def _reserve_entry(self) -> None:
        with self._lock:
            if self._entries >= self.max_entries:
                raise FolderFullError(why=f"{self.max_entries} files and folders is the most")
            self._entries += 1

    def _size(self, found: os.stat_result) -> int:
        """What goes with a regular file: nothing while it is open, and of anything else."""
        is_open = (found.st_dev, found.st_ino) in self._opened
        return found.st_size if stat.S_ISREG(found.st_mode) and not is_open else 0

    def _free(self, size: int, entries: int = 0) -> None:
        with self._lock:
            self._bytes = max(0, self._bytes - size)
            self._entries = max(0, self._entries - entries)


def _look(name: bytes, at: int) -> os.stat_result | None:
    """The entry itself; None when there is none."""
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
