"""The folder of secrets: files with private keys in clear, in memory only.

It is in the runtime folder where that is on a memory file system (tmpfs), else in one of its own in ``/run`` or
``/dev/shm``; where there is none, no certificate can be had.  One file a secret, 0600 in a folder of ours alone.  A
restart of the machine empties it: whoever starts Envoy writes the files first, since Envoy takes no listener whose
secrets' files are not there.  An Envoy that runs keeps what it has read.
"""

import contextlib
import os
import shutil
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import attrs

from avinet.dataplane.envoy_secret import Secret, file_in
from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import write_private

_MEMORY = frozenset({"tmpfs", "ramfs"})
_PLACES = (Path("/run"), Path("/dev/shm"))  # noqa: S108 - the folder made in it is checked for owner and mode
_FOLDER = "secrets"
_VALIDATION = "validate.json"


@error
class RuntimeFolderError(AvinetError):
    """The runtime folder {path} is not to be trusted: {detail}. Remove it, then start again."""

    kind: ClassVar[Kind] = Kind.DENIED
    path: str
    detail: str


def own_folder(path: Path) -> None:
    """Make ``path``, where it is not, and see to it that it is ours alone."""
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o077:
        raise RuntimeFolderError(path=str(path), detail="it is not a folder of ours alone")


def in_memory(path: Path, mounts: Path = Path("/proc/self/mountinfo")) -> bool:
    """Whether the folder ``path`` is on a memory file system."""
    try:
        device = path.stat().st_dev
        lines = mounts.read_text().splitlines()
    except OSError:
        return False
    wanted = f"{os.major(device)}:{os.minor(device)}"
    # proc(5): number, parent, major:minor, ..., then after a lone dash the file system's type.
    return any(
        line.split()[2] == wanted and line.partition(" - ")[2].split()[0] in _MEMORY
        for line in lines
        if " - " in line
    )


def memory_folder(runtime: Path, places: Iterable[Path] = _PLACES) -> Path | None:
    """Where the secrets of the Envoy with the runtime folder ``runtime`` are; None for nowhere."""
    if in_memory(runtime.parent):
        return runtime / _FOLDER
    for place in places:
        if os.access(place, os.W_OK | os.X_OK) and in_memory(place):
            return place / runtime.name / _FOLDER
    return None


@attrs.frozen
class SecretFiles:
    """The files in ``folder``."""

    folder: Path

    def write(self, secrets: Iterable[Secret]) -> None:
        """Have these files, leaving alone those that are as they should be."""
        wanted = [secret for secret in secrets if not self._is_there(secret)]
        if wanted:
            own_folder(self.folder.parent)
            own_folder(self.folder)
        for secret in wanted:
            write_private(file_in(self.folder, secret.name), secret.content)

    def _is_there(self, secret: Secret) -> bool:
        try:
            return file_in(self.folder, secret.name).read_bytes() == secret.content
        except OSError:
            return False

    def differing(self, secrets: Iterable[Secret]) -> list[Secret]:
        """Those whose files are missing or have something else in them."""
        return [secret for secret in secrets if not self._is_there(secret)]

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """What is in the files of these secrets, those that are there."""
        found = {}
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                found[name] = file_in(self.folder, name).read_bytes()
        return found

    def restore(self, contents: dict[str, bytes]) -> None:
        """Write what ``read`` gave."""
        for name, content in contents.items():
            write_private(file_in(self.folder, name), content)

    def keep(self, names: Iterable[str]) -> None:
        """Remove the files of all other secrets."""
        kept = {file_in(self.folder, name).name for name in names}
        with contextlib.suppress(FileNotFoundError):
            for path in self.folder.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Remove the folder with all that is in it."""
        shutil.rmtree(self.folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            self.folder.parent.rmdir()

    @property
    def validation(self) -> Path:
        """A configuration with secrets in it, for ``--mode validate`` and as long as that takes."""
        return self.folder / _VALIDATION
