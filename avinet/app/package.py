"""The software part of an SE image: this very avinet as a wheel, the versions it runs with, and how to install them.

The wheel is put together from the installed files, so it needs no network and no build tools, and works from a
plain install as well as from an editable one (whose files are its source tree).
"""

import base64
import csv
import hashlib
import importlib.metadata
import io
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from importlib.metadata import Distribution
from pathlib import Path
from typing import ClassVar

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import avinet
from avinet.errors import AvinetError, Kind, error
from avinet.trust.image import PROGRAM_MODE, PUBLIC_MODE

NAME = "avinet"
EXTRA = "envoy"
"""What an SE needs beside the package itself."""
PLUGIN = "twisted/plugins/avinet_plugins.py"
WHEEL_TAG = "py3-none-any"
_EARLIEST = (1980, 1, 1, 0, 0, 0)
"""ZIP knows no earlier time; a fixed one makes equal trees equal wheels."""
_FILES = Path(__file__).parent / "image_files"
_PROGRAMS = frozenset({"install.sh"})


@error
class NotInstalledError(AvinetError):
    """An SE image cannot be built: {why}. Install avinet with pip, not by copying its folder."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str


def image_files() -> Mapping[str, tuple[bytes, int]]:
    """Name to (bytes, mode) of everything an SE image holds beside trust.  Blocking."""
    wheel_name, wheel = avinet_wheel()
    files = {wheel_name: (wheel, 0o644), "requirements.txt": (pinned_requirements().encode(), 0o644)}
    for path in sorted(_FILES.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            files[path.name] = (path.read_bytes(), PROGRAM_MODE if path.name in _PROGRAMS else PUBLIC_MODE)
    return files


def avinet_wheel() -> tuple[str, bytes]:
    """(file name, bytes) of a wheel of the avinet that runs."""
    installed = _distribution()
    info = f"{NAME}-{installed.version}.dist-info"
    members = dict(_package_members())
    for required in ("avinet/__init__.py", PLUGIN):
        if required not in members:
            raise NotInstalledError(why=f"{required} is not where avinet is")
    members[f"{info}/METADATA"] = _text(installed, "METADATA", "PKG-INFO")
    members[f"{info}/entry_points.txt"] = _text(installed, "entry_points.txt")
    members[f"{info}/WHEEL"] = (
        f"Wheel-Version: 1.0\nGenerator: avinet {installed.version}\nRoot-Is-Purelib: true\nTag: {WHEEL_TAG}\n"
    ).encode()
    members[f"{info}/RECORD"] = _record(members, f"{info}/RECORD")
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(members, key=lambda name: (name.startswith(info), name)):
            entry = zipfile.ZipInfo(name, _EARLIEST)
            entry.compress_type = zipfile.ZIP_DEFLATED
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, members[name])
    return f"{NAME}-{installed.version}-{WHEEL_TAG}.whl", out.getvalue()


def pinned_requirements() -> str:
    """What an SE runs with, as this machine does: a line a distribution, exactly pinned."""
    pins: dict[str, str] = {}
    waiting = [(requirement, frozenset({EXTRA})) for requirement in _requires(_distribution())]
    seen: set[tuple[str, frozenset[str]]] = set()
    while waiting:
        text, extras = waiting.pop()
        requirement = Requirement(text)
        if not _applies(requirement, extras):
            continue
        name = canonicalize_name(requirement.name)
        wanted = frozenset(requirement.extras)
        if (name, wanted) in seen:
            continue
        seen.add((name, wanted))
        try:
            found = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            # A controller need not have Envoy; the exact version is avinet's own requirement.
            requirement.marker = None
            pins[name] = str(requirement)
            continue
        pins[name] = f"{name}=={found.version}"
        waiting += [(line, wanted) for line in _requires(found)]
    header = f"# What avinet {_distribution().version} ran with where this image was built.\n"
    return header + "".join(f"{line}\n" for _, line in sorted(pins.items()))


def _distribution() -> Distribution:
    try:
        return importlib.metadata.distribution(NAME)
    except importlib.metadata.PackageNotFoundError as why:
        raise NotInstalledError(why="there is no installed distribution of it") from why


def _requires(distribution: Distribution) -> list[str]:
    return list(distribution.requires or ())


def _applies(requirement: Requirement, extras: Iterable[str]) -> bool:
    if requirement.marker is None:
        return True
    return any(requirement.marker.evaluate({"extra": extra}) for extra in ("", *extras))


def _package_members() -> Iterator[tuple[str, bytes]]:
    """The package's files and the plugin file, by their names in a wheel."""
    package = Path(avinet.__file__).resolve().parent
    for path in sorted(package.rglob("*")):
        relative = path.relative_to(package.parent)
        if path.is_file() and not _is_litter(relative):
            yield relative.as_posix(), path.read_bytes()
    plugin = package.parent / PLUGIN
    if plugin.is_file():
        yield PLUGIN, plugin.read_bytes()


def _is_litter(path: Path) -> bool:
    return any(part == "__pycache__" or part.startswith(".") for part in path.parts) or path.suffix in {
        ".pyc",
        ".orig",
        ".rej",
    }


def _text(distribution: Distribution, *names: str) -> bytes:
    for name in names:
        text = distribution.read_text(name)
        if text:
            return text.encode()
    raise NotInstalledError(why=f"its metadata has no {names[0]}")


def _record(members: Mapping[str, bytes], own_name: str) -> bytes:
    """RECORD: each member with its hash and size (PyPA, "Recording installed projects")."""
    out = io.StringIO()
    lines = csv.writer(out, lineterminator="\n")
    for name, data in sorted(members.items()):
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        lines.writerow((name, f"sha256={digest}", len(data)))
    lines.writerow((own_name, "", ""))
    return out.getvalue().encode()
