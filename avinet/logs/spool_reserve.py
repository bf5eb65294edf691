"""Room on a full disk: a file that is given up when the spool has to write in order to make room."""

import contextlib
import os
from pathlib import Path

import attrs

from avinet.units import MIB

RESERVE_BYTES = 8 * MIB
"""A chunk's segments, or what SQLite writes to remove some."""
FREE_BYTES = 8 * RESERVE_BYTES
"""With so much room it is taken again."""
SHORT_BYTES = RESERVE_BYTES
"""With less the data plane may soon find no room, and what it cannot write is lost."""
SPENT_BYTES = MIB
"""With less it finds none."""


@attrs.define(eq=False)
class Reserve:
    """The file ``path``; nothing is in it."""

    path: Path

    def take(self) -> None:
        """Unless it is taken or there is little room anyway."""
        with contextlib.suppress(OSError):
            if self.path.exists() or self.free_bytes() < FREE_BYTES:
                return
            descriptor = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, RESERVE_BYTES)
            finally:
                os.close(descriptor)

    def free_bytes(self) -> int:
        """Beside it.  ``OSError``."""
        space = os.statvfs(self.path.parent)
        return space.f_bavail * space.f_frsize

    def give_up(self) -> bool:
        """Whether there was one."""
        try:
            self.path.unlink()
        except OSError:
            return False
        return True
