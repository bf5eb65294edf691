"""What a running Envoy says it has: the resources in force, and the clusters and services that they became.

Pure functions from the admin interface's answers to the data plane interface's words.  Our metadata in listeners
and clusters (``avinet.dataplane.envoy_listener``, ``envoy_cluster``) tells which resource each stands for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from avinet.dataplane.envoy_cluster import METADATA_KEY


def ours(item: Mapping[str, Any]) -> Mapping[str, Any]:
    """Our metadata of a listener or cluster; empty when it has none."""
    found: Mapping[str, Any] = item.get("metadata", {}).get("filter_metadata", {}).get(METADATA_KEY, {})
    return found


@attrs.frozen
class ReadBack:
    """Listeners and clusters that are active in Envoy, as it was given them."""

    listeners: tuple[Mapping[str, Any], ...]
    clusters: tuple[Mapping[str, Any], ...]

    @classmethod
    def of(cls, listeners: Iterable[Mapping[str, Any]], clusters: Iterable[Mapping[str, Any]]) -> "ReadBack":
        """From the items of ``dynamic_listeners`` and ``dynamic_active_clusters``."""
        active = (item["active_state"]["listener"] for item in listeners if "active_state" in item)
        return cls(tuple(active), tuple(item["cluster"] for item in clusters if "cluster" in item))

    @property
    def pool_clusters(self) -> tuple[Mapping[str, Any], ...]:
        """The clusters that listeners send requests to now; older ones may still be there."""
        named = {ours(listener).get("cluster") for listener in self.listeners}
        return tuple(cluster for cluster in self.clusters if cluster["name"] in named)

    @property
    def in_force(self) -> dict[str, str]:
        """Resource name to digest: only what is in force whole and without contradiction."""
        claims: dict[str, set[str]] = {}
        counts: dict[str, int] = {}
        expected: dict[str, int] = {}
        present = {cluster["name"] for cluster in self.clusters}
        for listener in self.listeners:
            meta = ours(listener)
            if "resource" in meta and meta.get("cluster") in present:
                name = meta["resource"]
                claims.setdefault(name, set()).add(meta["digest"])
                counts[name] = counts.get(name, 0) + 1
                expected[name] = int(meta["listeners"])
        for cluster in self.pool_clusters:
            meta = ours(cluster)
            for name, digest in ((meta.get("pool", ""), meta.get("digest", "")), *meta["monitors"].items()):
                claims.setdefault(name, set()).add(digest)
        for cluster in self.clusters:
            for name, digest in ours(cluster).get("carried", {}).items():
                claims.setdefault(name, set()).add(digest)
        return {
            name: next(iter(digests))
            for name, digests in claims.items()
            if len(digests) == 1 and counts.get(name) == expected.get(name)
        }

    @property
    def services(self) -> tuple[str, ...]:
        """The virtual services that listen."""
        return tuple(sorted({ours(item)["resource"] for item in self.listeners if "resource" in ours(item)}))
