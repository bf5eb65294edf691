"""What a running Envoy says it has: the resources in force, and the clusters and services that they became.

Pure functions from the admin interface's answers to the data plane interface's words.  Our metadata in listeners
and clusters (``avinet.dataplane.envoy_listener``, ``envoy_cluster``, ``envoy_render``) tells which resource each
stands for, and what each virtual service must have.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from avinet.dataplane.envoy_cluster import METADATA_KEY
from avinet.dataplane.envoy_secret import name_of

STRANGE = "unknown"
"""The digest of what is there and should not be."""


def ours(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Our metadata of a listener or cluster; empty when it has none."""
    found: Mapping[str, Any] = item.get("metadata", {}).get("filter_metadata", {}).get(METADATA_KEY, {})
    return found


def secrets_in_use(stats: Mapping[str, int | str]) -> dict[str, str]:
    """Name to version, from the stats of ``SECRETS_PATTERN``."""
    return {
        name.removeprefix("sds.").removesuffix(".version_text"): str(version)
        for name, version in stats.items()
    }


@attrs.frozen
class ReadBack:
    """Listeners and clusters that are active in Envoy, as it was given them: their names and metadata at least."""

    listeners: tuple[Mapping[str, Any], ...]
    clusters: tuple[Mapping[str, Any], ...]
    secrets: Mapping[str, str] = attrs.field(factory=dict)
    """Name to the version in use."""

    @classmethod
    def of(
        cls,
        listeners: Iterable[Mapping[str, Any]],
        clusters: Iterable[Mapping[str, Any]],
        stats: Mapping[str, int | str],
    ) -> "ReadBack":
        """From the items of ``dynamic_listeners`` and ``dynamic_active_clusters``, and ``SECRETS_PATTERN``'s stats."""
        active = (item["active_state"]["listener"] for item in listeners if "active_state" in item)
        found = tuple(item["cluster"] for item in clusters if "cluster" in item)
        return cls(tuple(active), found, secrets_in_use(stats))

    @property
    def pool_clusters(self) -> tuple[Mapping[str, Any], ...]:
        """The clusters that listeners send requests to now; older ones may still be there."""
        named = {name for listener in self.listeners for name in ours(listener).get("clusters", ())}
        return tuple(cluster for cluster in self.clusters if cluster["name"] in named)

    @property
    def in_force(self) -> dict[str, str]:
        """Resource name to digest: only what is in force whole and without contradiction.

        What is there and should not be has the digest ``STRANGE``, listeners of nobody's as ``listener/<name>``.
        """
        claims: dict[str, set[str]] = {}
        for name, digest in (*self._services(), *self._pools(), *self._certificates(), *self._carried()):
            claims.setdefault(name, set()).add(digest)
        return {
            name: next(iter(digests))
            for name, digests in claims.items()
            if len(digests) == 1 and "" not in digests
        }

    def _facts(self, key: str) -> Iterator[tuple[str, Any]]:
        for cluster in self.clusters:
            yield from ours(cluster).get(key, {}).items()

    def _carried(self) -> Iterator[tuple[str, str]]:
        yield from self._facts("carried")

    def _services(self) -> Iterator[tuple[str, str]]:
        """An empty digest for what is there in part."""
        present = {cluster["name"] for cluster in self.clusters}
        expected = dict(self._facts("services"))
        found: dict[str, dict[str, str]] = {}
        for listener in self.listeners:
            meta = ours(listener)
            if "resource" not in meta:
                yield f"listener/{listener.get('name', '')}", STRANGE
            elif meta["resource"] not in expected:
                yield meta["resource"], STRANGE
            elif present.issuperset(meta.get("clusters", ())):
                found.setdefault(meta["resource"], {})[listener["name"]] = meta.get("content", "")
        for name, facts in expected.items():
            yield name, facts["digest"] if found.get(name) == facts["listeners"] else ""

    def _pools(self) -> Iterator[tuple[str, str]]:
        for cluster in self.pool_clusters:
            meta = ours(cluster)
            if "pool" in meta:
                yield meta["pool"], meta["digest"]
                yield from meta["monitors"].items()

    def _certificates(self) -> Iterator[tuple[str, str]]:
        for item in (*self.listeners, *self.pool_clusters):
            for name in ours(item).get("certificates", ()):
                yield name, self.secrets.get(name_of(name), "")

    @property
    def services(self) -> tuple[str, ...]:
        """The virtual services that listen."""
        return tuple(sorted({ours(item)["resource"] for item in self.listeners if "resource" in ours(item)}))
