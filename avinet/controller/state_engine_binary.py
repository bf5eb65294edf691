"""Which etcd is used, and whether it is one that loses nothing."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error

OLDEST = (3, 4, 22)
"""3.4.20 and 3.4.21 can differ between members when one is added to a cluster with passwords (Kubernetes' notice of
November 2022), older ones when passwords are changed (etcd issue 11651)."""
FORGETFUL = ((3, 5, 0), (3, 5, 6))
"""From, and before: 3.5.0 to 3.5.2 lose writes on SIGKILL (etcd's postmortem of April 2022), 3.5.0 to 3.5.5 when they are
killed while they defragment, and 3.5.5 has the defect of 3.4.21 (the same notice)."""
VERSION_TIMEOUT_S = 20.0
"""Answers in 0.05 s; the first read from a slow disk takes longer."""
_VERSION = re.compile(r"etcd Version: (\d+)\.(\d+)\.(\d+)")


@error
class EtcdMissingError(AvinetError):
    """There is no etcd at {where}. Install it (Debian: apt-get install etcd-server, then systemctl disable --now etcd, since the controller runs its own), or name a binary with [store] etcd."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    where: str


@error
class EtcdUnusableError(AvinetError):
    """{path} is no etcd that works here: {detail}. Name another binary with [store] etcd."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path
    detail: str


@error
class EtcdVersionError(AvinetError):
    """{path} is etcd {version}, which can lose acknowledged writes when it is killed or a member is added. Use 3.4.22 or later of 3.4, or 3.5.6 or later."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path
    version: str


@attrs.frozen
class EtcdBinary:
    """A binary that was tried."""

    path: Path
    version: str


def find_etcd(setting: Path | None = None) -> EtcdBinary:
    """The binary at ``setting``, else the one in PATH, once it has told its version.  Blocking."""
    found = setting if setting is not None else shutil.which("etcd")
    if found is None:
        raise EtcdMissingError(where="any folder of PATH")
    path = Path(found)
    if not path.is_file():
        raise EtcdMissingError(where=str(path))
    try:
        answer = subprocess.run(  # the path is the operator's own choice
            [str(path), "--version"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise EtcdUnusableError(path=path, detail=str(failure)) from failure
    return EtcdBinary(path, checked_version(path, answer.stdout or answer.stderr))


def checked_version(path: Path, said: str) -> str:
    """The version in what ``etcd --version`` prints; refused when it may lose data."""
    found = _VERSION.search(said)
    if found is None:
        lines = said.strip().splitlines()
        detail = f"it says {lines[0][:200] if lines else 'nothing'!r} to --version"
        raise EtcdUnusableError(path=path, detail=detail)
    version = (int(found[1]), int(found[2]), int(found[3]))
    text = ".".join(map(str, version))
    if version < OLDEST or FORGETFUL[0] <= version < FORGETFUL[1]:
        raise EtcdVersionError(path=path, version=text)
    return text
