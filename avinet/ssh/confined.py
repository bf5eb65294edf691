"""One folder that others may use from outside, and nothing above or beside it.

Every path is taken apart here and walked one name at a time from the folder's own descriptor, each step without
following symbolic links, so that neither ``..`` nor a link nor a rename in the middle of a call leads outside.  Only
regular files and folders are opened; what else lies there (a link, a device, a FIFO) can be listed and removed.

Blocking: called in threads, of several sessions at once.  What changes the folder is done by one at a time: between a look
and what is done upon it another session would otherwise find bytes to have that nobody counts.
"""

import collections
import contextlib
import errno
import os
import stat
import threading
from collections.abc import Callable, Iterator
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
MAX_OPEN = 256
"""Files and folders, of all sessions, the latter with two descriptors each: a process has 1,024 for everything, where nobody
gave it more."""
FILE_MODE, FOLDER_MODE = 0o600, 0o700
_MODE_BITS = 0o777
"""Never set-user-ID and the like."""
_WALK = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_OPEN = os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


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


@error
class TooManyOpenError(AvinetError):
    """{limit} files and folders are open in the folder for files, over all sessions. Close some, or try again later."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


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
class Listing:
    """A folder that is being listed, a part at a time: a local user may have put a million entries there."""

    _folder: int
    """Its descriptor; the entries have one more."""
    _closed: Callable[[], None]
    _entries: "os._ScandirIterator[str]" = attrs.field(init=False)

    @_entries.default
    def _entries_of_the_folder(self) -> "os._ScandirIterator[str]":
        return os.scandir(self._folder)

    def some(self, count: int) -> list[tuple[bytes, os.stat_result]]:
        """The next ``count`` entries with what ``lstat`` says, in no order; fewer at the end, then none."""
        found: list[tuple[bytes, os.stat_result]] = []
        for entry in self._entries:
            with contextlib.suppress(FileNotFoundError):
                found.append((os.fsencode(entry.name), entry.stat(follow_symlinks=False)))
            if len(found) >= count:
                break
        return found

    def close(self) -> None:
        """Give its descriptor back."""
        self._entries.close()
        os.close(self._folder)
        self._closed()


@attrs.define(eq=False)
class ConfinedFolder:
    """``root`` is made at the first use.  Its size is counted when somebody comes and kept up from then on."""

    root: Path
    max_bytes: int = MAX_BYTES
    max_entries: int = MAX_ENTRIES
    max_open: int = MAX_OPEN
    _bytes: int = attrs.field(default=0, init=False)
    _entries: int = attrs.field(default=0, init=False)
    _opened: "collections.Counter[tuple[int, int]]" = attrs.field(
        factory=collections.Counter, init=False, repr=False
    )
    """Files that are open, by device and inode: what is removed meanwhile takes its space until it is closed."""
    _open: int = attrs.field(default=0, init=False)
    """Descriptors that sessions hold: of these files, and of folders that are being listed."""
    _lock: threading.RLock = attrs.field(factory=threading.RLock, init=False, repr=False)

    def survey(self) -> None:
        """Make the folder if need be, and count what is in it, unless files are open: what is counted then is more than
        what can be seen, since removed ones are held and writes are under way.
        """
        with self._lock:
            self.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            if not self._opened:
                self._entries, self._bytes = _count(os.open(self.root, _LIST), MAX_DEPTH)

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
        with self._lock, self._place(path) as (at, name):
            self._require_descriptor()
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
            self._opened[found.st_dev, found.st_ino] += 1
            self._open += 1
            if flags & os.O_TRUNC:
                os.ftruncate(file, 0)
                self._free(found.st_size)
            return file

    def close(self, file: int) -> None:
        """Of a file from ``open``."""
        with self._lock:
            found = os.fstat(file)
            os.close(file)
            self._open -= 1
            self._opened[found.st_dev, found.st_ino] -= 1
            if self._opened[found.st_dev, found.st_ino] > 0:
                return
            del self._opened[found.st_dev, found.st_ino]
            if not found.st_nlink:
                self._free(found.st_size)

    @contextlib.contextmanager
    def settable(self, path: bytes) -> Iterator[int]:
        """A descriptor of a folder or a file whose mode and times are to be set."""
        names = names_of(path)
        if not names or stat.S_ISDIR(self.stat(path).st_mode):
            with self._folder(names) as at:
                folder = os.open(b".", _LIST, dir_fd=at)
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

    def scan(self, path: bytes) -> Listing:
        """Every entry of a folder; to be closed."""
        with self._lock, self._folder(names_of(path)) as at:
            self._require_descriptor()
            folder = os.open(b".", _LIST, dir_fd=at)
            try:
                listing = Listing(folder, self._listed)
            except OSError:
                os.close(folder)
                raise
            self._open += 1
            return listing

    def _listed(self) -> None:
        with self._lock:
            self._open -= 1

    def stat(self, path: bytes) -> os.stat_result:
        """Of the entry itself, never of what a link leads to."""
        names = names_of(path)
        if not names:
            return self.root.lstat()
        with self._place(path) as (at, name):
            return os.stat(name, dir_fd=at, follow_symlinks=False)

    def make_folder(self, path: bytes) -> None:
        """``FileExistsError`` where there is something."""
        with self._lock, self._place(path) as (at, name):
            self._reserve_entry()
            try:
                os.mkdir(name, FOLDER_MODE, dir_fd=at)
            except OSError:
                self._free(0, entries=1)
                raise

    def remove(self, path: bytes) -> None:
        """A file, or whatever else is not a folder."""
        with self._lock, self._place(path) as (at, name):
            found = os.stat(name, dir_fd=at, follow_symlinks=False)
            os.unlink(name, dir_fd=at)
            self._free(self._size(found), entries=1)

    def remove_folder(self, path: bytes) -> None:
        """An empty one."""
        with self._lock, self._place(path) as (at, name):
            os.rmdir(name, dir_fd=at)
            self._free(0, entries=1)

    def rename(self, old: bytes, new: bytes, *, replace: bool) -> None:
        """``replace`` puts it in the place of another file at once; without, ``FileExistsError``."""
        with self._lock, self._place(old) as (old_at, old_name), self._place(new) as (new_at, new_name):
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
        with self._lock:
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

    def append(self, file: int, data: bytes | memoryview) -> None:
        """All of ``data`` at the end, which another session may be moving, too."""
        with self._lock:
            self.write(file, data, os.fstat(file).st_size)

    def truncate(self, file: int, size: int) -> None:
        """Cut a file, or lengthen it with zeros, which count as if they were there."""
        with self._lock:
            before = os.fstat(file).st_size
            grows = max(0, size - before)
            self._reserve(grows)
            try:
                os.ftruncate(file, size)
            except OSError:
                self._free(grows)
                raise
            self._free(max(0, before - size))

    def space(self) -> tuple[int, int]:
        """Bytes that may be here in all, and how many are left; the disk may have less."""
        disk = os.statvfs(self.root)
        with self._lock:
            return self.max_bytes, max(0, min(self.max_bytes - self._bytes, disk.f_bavail * disk.f_frsize))

    # Below, the lock is held.

    def _reserve(self, size: int) -> None:
        if self._bytes + size > self.max_bytes:
            raise FolderFullError(why=f"{show_bytes(self.max_bytes)} is the most for all files together")
        self._bytes += size

    def _reserve_entry(self) -> None:
        if self._entries >= self.max_entries:
            raise FolderFullError(why=f"{self.max_entries} files and folders is the most")
        self._entries += 1

    def _require_descriptor(self) -> None:
        if self._open >= self.max_open:
            raise TooManyOpenError(limit=self.max_open)

    def _size(self, found: os.stat_result) -> int:
        """What goes with a regular file: nothing while it is open, and of anything else."""
        is_open = (found.st_dev, found.st_ino) in self._opened
        return found.st_size if stat.S_ISREG(found.st_mode) and not is_open else 0

    def _free(self, size: int, entries: int = 0) -> None:
        self._bytes = max(0, self._bytes - size)
        self._entries = max(0, self._entries - entries)


def _count(folder: int, depth: int) -> tuple[int, int]:
    """(entries, bytes of files) in and below a folder, whose descriptor is closed; not below what a path reaches."""
    entries, size = 0, 0
    with contextlib.ExitStack() as closed:
        closed.callback(os.close, folder)
        found = closed.enter_context(os.scandir(folder))
        for entry in found:
            entries += 1
            with contextlib.suppress(OSError):
                seen = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(seen.st_mode):
                    size += seen.st_size
                elif stat.S_ISDIR(seen.st_mode) and depth:
                    more, below = _count(os.open(entry.name, _LIST, dir_fd=folder), depth - 1)
                    entries, size = entries + more, size + below
    return entries, size


def _look(name: bytes, at: int) -> os.stat_result | None:
    """The entry itself; None when there is none."""
    try:
        return os.stat(name, dir_fd=at, follow_symlinks=False)
    except FileNotFoundError:
        return None
