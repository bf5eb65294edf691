"""Files that must be whole, durable, and (for keys) nobody else's.

A file is written beside its name, fsynced, renamed over it, and the folder is fsynced: after a crash at any line
there is either the old file or the new one.  Private files are 0600 from the moment they exist, in folders that
are 0700; one that others can read is refused rather than used, since its secret must be taken for known.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import ClassVar

from avinet.errors import AvinetError, Kind, error

PRIVATE_MODE = 0o600
PUBLIC_MODE = 0o644
PRIVATE_FOLDER_MODE = 0o700
MAX_PRIVATE_BYTES = 1024 * 1024
"""The largest private file we have is a few KiB; more than this is not ours."""


@error
class FileUnreadableError(AvinetError):
    """Cannot read {path}: {why}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    path: Path
    why: str


@error
class FileExposedError(AvinetError):
    """{path} has mode {mode:04o}, so others on this machine can read it: take its key for known. Replace it, or, if you are sure, chmod 600 {path}."""

    kind: ClassVar[Kind] = Kind.DENIED
    path: Path
    mode: int


@error
class FileTooLargeError(AvinetError):
    """{path} is over {limit} bytes, which no file of this kind is. Something else was put in its place."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    path: Path
    limit: int


@error
class FolderSharedError(AvinetError):
    """{path} has mode {mode:04o} and is not empty, so it may be somebody else's. Name a folder of avinet's own; if it is, chmod 700 {path}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    path: Path
    mode: int


@error
class FileUnwritableError(AvinetError):
    """Cannot write {path}: {why}. Nothing was changed."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path
    why: str


@error
class DiskFullError(AvinetError):
    """Cannot write {path}: the disk is full. Nothing was changed; free some space, then try again."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    path: Path


def sync_folder(path: Path) -> None:
    """Make the folder's entries durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_dir(path: Path) -> Path:
    """Make ``path`` a folder of mode 0700 (its parents as the umask has it), and return it.

    An empty folder is made private; one that others use (``/tmp``, a home) is refused rather than closed to them.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=PRIVATE_FOLDER_MODE, exist_ok=True)
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & 0o077:
            if any(path.iterdir()):
                raise FolderSharedError(path=path, mode=mode)
            path.chmod(PRIVATE_FOLDER_MODE)
    except OSError as why:
        raise _write_error(path, why) from why
    return path


def write_private(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, durably, 0600."""
    _write(path, data, PRIVATE_MODE)


def write_public(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``, durably, 0644."""
    _write(path, data, PUBLIC_MODE)


def _write(path: Path, data: bytes, mode: int) -> None:
    beside = path.with_name(f".{path.name}.new")
    try:
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()
        descriptor = os.open(
            beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode
        )
        try:
            os.fchmod(descriptor, mode)
            view = memoryview(data)
            while view:
                view = view[os.write(descriptor, view) :]
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as why:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise _write_error(path, why) from why


def _write_error(path: Path, why: OSError) -> AvinetError:
    if why.errno in {errno.ENOSPC, errno.EDQUOT}:
        return DiskFullError(path=path)
    return FileUnwritableError(path=path, why=os.strerror(why.errno or 0))


def read_private(path: Path) -> bytes:
    """The contents of a file that only its owner may read; ``FileExposedError`` when others may too."""
    try:
        # A pipe put in the place of a file would be waited for without O_NONBLOCK.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            mode = os.fstat(descriptor).st_mode
            if not stat.S_ISREG(mode):
                raise FileUnreadableError(path=path, why="it is not a regular file")
            if mode & 0o077:
                raise FileExposedError(path=path, mode=stat.S_IMODE(mode))
            data = file.read(MAX_PRIVATE_BYTES + 1)
            if len(data) > MAX_PRIVATE_BYTES:
                raise FileTooLargeError(path=path, limit=MAX_PRIVATE_BYTES)
            return data
    except OSError as why:
        raise FileUnreadableError(path=path, why=os.strerror(why.errno or 0)) from why


def destroy(path: Path) -> None:
    """Remove a secret, durably; its bytes are overwritten first, for what that is worth on this file system."""
    try:
        # A full disk may refuse the overwriting (copy-on-write needs room); the name must go all the same.
        with contextlib.suppress(OSError), path.open("r+b") as file:
            file.write(bytes(os.fstat(file.fileno()).st_size))
            file.flush()
            os.fsync(file.fileno())
        path.unlink()
        sync_folder(path.parent)
    except FileNotFoundError:
        return
    except OSError as why:
        raise _write_error(path, why) from why
