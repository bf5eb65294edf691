"""One process a state folder: a lock that ends with whoever holds it, however that ends (flock(2))."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import ClassVar, Self

import attrs

from avinet.errors import AvinetError, Kind, error

LOCK_FILE = "lock"
"""In every state folder; holds the number of the process that has it, for people."""


@error
class StateFolderBusyError(AvinetError):
    """Another {title} (pid {pid}) works with {folder}. Two must not share a state folder; give this one its own --state, or stop the other."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    title: str
    folder: Path
    pid: str


@attrs.define(eq=False)
class StateLock:
    """A lock that is held."""

    _descriptor: int

    @classmethod
    def take(cls, folder: Path, title: str) -> Self:
        """Lock ``folder`` for a ``title`` (``agent``); ``StateFolderBusyError`` names the process that has it."""
        descriptor = os.open(folder / LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as why:
            pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
            os.close(descriptor)
            raise StateFolderBusyError(title=title, folder=folder, pid=pid or "unknown") from why
        # On a full disk the lock counts all the same, and only its holder is not named.
        with contextlib.suppress(OSError):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        return cls(descriptor)

    def release(self) -> None:
        """Let another process work here."""
        os.close(self._descriptor)


def lock_holder(folder: Path) -> int | None:
    """The process that works with ``folder``; None when none does, or where there is no /proc.  Nothing is touched."""
    try:
        found = (folder / LOCK_FILE).stat()
        # A line of proc_locks(5): number, kind, mode, access, pid, device and inode, range.
        place = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
        lines = [line.split() for line in Path("/proc/locks").read_text().splitlines()]
    except OSError:
        return None
    return next((int(words[4]) for words in lines if len(words) > 5 and words[5] == place), None)
