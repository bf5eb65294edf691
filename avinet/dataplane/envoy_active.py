"""What a running Envoy has active, by name and version, without having it tell everything each time.

A dump of 500 listeners is 7 MB and takes Envoy a quarter of a second; their names and versions are a tenth of that.
A listener or cluster has the version of the file that it came with last, and no other write ever has that version
(``avinet.dataplane.envoy_switch``).  So of those that came with a write of ours it is known what they are, and of
those that were dumped once too, for as long as Envoy names the same version and time.  Whatever else is there makes a
dump of everything of its kind.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from avinet.dataplane.envoy_admin import EnvoyAdmin

Item = Mapping[str, Any]

MAX_WRITES = 8
"""Of one kind since the last look, whose names and metadata are kept: an apply writes once or, going back, twice, and
looks.  Of older ones a dump tells."""


@attrs.frozen
class _Kind:
    resource: str
    mask: str
    """Name, version and time; of listeners ``error_state`` comes by itself."""


_KINDS = {
    "lds": _Kind("dynamic_listeners", "name,active_state.version_info,active_state.last_updated"),
    # The name is within the cluster.
    "cds": _Kind("dynamic_active_clusters", "version_info,last_updated,cluster.name"),
}


def _state(kind: str, item: Item) -> Item | None:
    """The part that has the version; None of a listener that is only warming, draining or refused."""
    return item.get("active_state") if kind == "lds" else item


def _content(kind: str, state: Item) -> Item:
    found: Item = state.get("listener" if kind == "lds" else "cluster", {})
    return found


def _shown(item: Item) -> dict[str, Any]:
    """What is read of a listener or cluster: all else is in the files."""
    return {key: item[key] for key in ("name", "metadata") if key in item}


def _version(state: Item) -> tuple[str, str]:
    """The version and when Envoy took it."""
    return str(state.get("version_info", "")), str(state.get("last_updated", ""))


@attrs.define(eq=False)
class Active:
    """Of one Envoy, by ``lds`` and ``cds``."""

    admin: EnvoyAdmin
    _wrote: dict[str, dict[str, dict[str, Item]]] = attrs.field(factory=dict, init=False)
    """By kind, version and name: what came with our writes since the last look."""
    _known: dict[str, dict[str, tuple[tuple[str, str], Item]]] = attrs.field(factory=dict, init=False)
    """By kind and name: version and time, and what it is."""

    def wrote(self, kind: str, version: str, items: Iterable[Item]) -> None:
        """``items`` are in the file that has this version, which is no other's."""
        wrote = self._wrote.setdefault(kind, {})
        wrote[version] = {item["name"]: _shown(item) for item in items}
        if len(wrote) > MAX_WRITES:
            del wrote[next(iter(wrote))]

    async def items(self, kind: str) -> tuple[Item, ...]:
        """The names and metadata of what is active."""
        asked = _KINDS[kind]
        states = {}
        for item in await self.admin.dump(asked.resource, mask=asked.mask):
            state = _state(kind, item)
            if state is not None:
                states[str(item["name"] if kind == "lds" else state["cluster"]["name"])] = _version(state)
        found = {name: self._recall(kind, name, version) for name, version in states.items()}
        known = {name: (states[name], item) for name, item in found.items() if item is not None}
        if len(known) < len(found):
            known = {item["name"]: (version, _shown(item)) for version, item in await self._dumped(kind)}
        self._keep(kind, known)
        return tuple(item for _, item in known.values())

    def _recall(self, kind: str, name: str, version: tuple[str, str]) -> Item | None:
        seen = self._known.get(kind, {}).get(name)
        if seen is not None and seen[0][0] == version[0]:
            # Of the same version and another time: somebody else has written there.
            return seen[1] if seen[0] == version else None
        return self._wrote.get(kind, {}).get(version[0], {}).get(name)

    async def whole(self, kind: str) -> tuple[Item, ...]:
        """All that there is to what is active."""
        dumped = await self._dumped(kind)
        self._keep(kind, {item["name"]: (version, _shown(item)) for version, item in dumped})
        return tuple(item for _, item in dumped)

    async def _dumped(self, kind: str) -> list[tuple[tuple[str, str], Item]]:
        states = (_state(kind, item) for item in await self.admin.dump(_KINDS[kind].resource))
        return [(_version(state), _content(kind, state)) for state in states if state is not None]

    def _keep(self, kind: str, known: dict[str, tuple[tuple[str, str], Item]]) -> None:
        """All that is active is known now; only the last write may still be on its way."""
        self._known[kind] = known
        self._wrote[kind] = dict(list(self._wrote.get(kind, {}).items())[-1:])
