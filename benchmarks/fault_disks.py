"""A disk of a controller's own, so small that it can be filled: a tmpfs in place of its state folder."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import attrs

from avinet.trust.files import private_dir
from avinet.units import MIB

MOUNT_LIMIT_S = 10.0
ROOM_BYTES = 160 * MIB
"""Beside what is there: etcd takes the next of its logs, 64 MiB each, before it needs it."""
BLOCK_BYTES = MIB
SMALL_BYTES = 4096
"""The last of a disk is filled in pages."""


@attrs.frozen(eq=False)
class SmallDisk:
    """One controller's state folder, on a disk of its own while ``mounted``; nothing may run in it before and after."""

    state: Path

    @contextlib.contextmanager
    def mounted(self) -> Iterator[None]:
        """What was in the folder is on it, and what is there in the end goes back."""
        kept = self.state.with_name(f"{self.state.name}.kept")
        self.state.rename(kept)
        private_dir(self.state)
        try:
            size = sum(path.lstat().st_blocks * 512 for path in kept.rglob("*")) + ROOM_BYTES
            _run("mount", "-t", "tmpfs", "-o", f"size={size},mode=700", "tmpfs", os.fspath(self.state))
            try:
                copy(kept, self.state)
                yield
                shutil.rmtree(kept)
                copy(self.state, kept)
            finally:
                _run("umount", os.fspath(self.state))
        finally:
            self.state.rmdir()
            kept.rename(self.state)

    @property
    def _filler(self) -> Path:
        return self.state / "filler"

    def fill(self) -> None:
        """Until not a byte more fits; again, when some was given back meanwhile."""
        with self._filler.open("ab", buffering=0) as out:
            for size in (BLOCK_BYTES, SMALL_BYTES):
                with contextlib.suppress(OSError):
                    while out.write(bytes(size)) == size:
                        pass

    def free(self) -> None:
        """All of it."""
        self._filler.unlink()


def copy(source: Path, target: Path) -> None:
    """A folder without its sockets, which whoever listens makes anew."""
    shutil.copytree(source, target, symlinks=True, ignore=_sockets, dirs_exist_ok=True)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".sock")]


def _run(*command: str) -> None:
    ran = subprocess.run(command, capture_output=True, text=True, timeout=MOUNT_LIMIT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ran.stderr.strip()}")
