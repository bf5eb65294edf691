"""What was written into Envoy's files last, to tell when somebody else has written there.

Envoy reports what it was given, with whatever metadata that has; so a listener that was changed by hand would pass for
the one that it was.  The files tell: what is in them is what we wrote, and Envoy uses the version that is in them.
What an earlier agent wrote is not known, as this one may render it otherwise; but the version says what it was.
"""

import hashlib
from typing import Any

import attrs
import msgspec

from avinet.dataplane.envoy_files import EnvoyFiles, XdsFile

_RESOURCES = {"lds": "virtualservice", "cds": "pool"}

Items = tuple[dict[str, Any], ...]


def as_read(items: Items) -> Items:
    """``items`` as ``EnvoyFiles.read_xds`` gives them back."""
    return tuple(msgspec.json.decode(msgspec.json.encode(items)))


@attrs.frozen
class _Noted:
    file: XdsFile
    items: Items


@attrs.define
class Written:
    """By ``lds`` and ``cds``."""

    files: EnvoyFiles
    _noted: dict[str, _Noted] = attrs.field(factory=dict, init=False)

    def write(self, kind: str, write: str, items: Items) -> str:
        """Rename a new file into place; its version (``EnvoyFiles.write_xds``)."""
        self._noted[kind] = _Noted(self.files.write_xds(kind, write, items), items)
        return self._noted[kind].file.version

    def note(self, kind: str, items: Items) -> None:
        """The file as it is now is right, and ``items`` are what is in it."""
        self._noted[kind] = _Noted(self.files.xds_file(kind), items)

    def noted(self, kind: str) -> bool:
        """Whether it is known what should be there."""
        return kind in self._noted

    def items(self, kind: str) -> Items:
        """What should be in the file; what is in it before anything was noted."""
        return self._noted[kind].items if kind in self._noted else self.files.read_xds(kind)

    def stale(self, used: dict[str, str]) -> list[str]:
        """The kinds of which Envoy uses another version than that of the file."""
        return [kind for kind, noted in self._noted.items() if used.get(kind) != noted.file.version]

    def has(self, kind: str, items: Items) -> bool:
        """Whether ``items`` are what was written last, and nobody else has written there."""
        noted = self._noted.get(kind)
        return noted is not None and noted.items == items and self._as_noted(kind, noted)

    def _as_noted(self, kind: str, noted: _Noted) -> bool:
        try:
            whole = self.files.xds(kind).read_bytes()
        except OSError:
            return False
        return hashlib.sha256(whole).digest() == noted.file.digest

    def changed(self) -> dict[str, list[str]]:
        """``lds.json`` and ``cds.json``, those that are not as noted, and the resources whose part of it is not.

        Before anything was noted: those that are not as an earlier agent wrote them, and no resources.
        """
        found: dict[str, list[str]] = {}
        for kind in _RESOURCES:
            name, noted = self.files.xds(kind).name, self._noted.get(kind)
            if noted is None:
                if not self.files.as_written(kind):
                    found[name] = []
            elif not self._as_noted(kind, noted):
                found[name] = self._differing(kind, noted)
        return found

    def _differing(self, kind: str, noted: _Noted) -> list[str]:
        there = {str(item.get("name")): item for item in self.files.read_xds(kind)}
        names = (str(item["name"]) for item in as_read(noted.items) if there.get(item["name"]) != item)
        return list(dict.fromkeys(f"{_RESOURCES[kind]}/{name.partition('|')[0]}" for name in names))
