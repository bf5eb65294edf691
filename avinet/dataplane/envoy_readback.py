"""What a running Envoy says it has: the resources in force, its servers' health, its counters.

Pure functions from the admin interface's answers to the data plane interface's words.  Our metadata in listeners
and clusters (``avinet.dataplane.envoy_listener``, ``envoy_cluster``) tells which resource each stands for.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from avinet.dataplane.envoy_cluster import METADATA_KEY
from avinet.dataplane.envoy_render import SERVICE_KIND, resource_name
from avinet.dataplane.interface import ServerStatus, ServiceCounters

COUNTERS = {
    "downstream_rq_total": "requests",
    "downstream_rq_5xx": "errors_5xx",
    "downstream_cx_active": "connections",
    "downstream_cx_rx_bytes_total": "bytes_in",
    "downstream_cx_tx_bytes_total": "bytes_out",
}
"""Of an HTTP connection manager's stats, those reported and as what."""
COUNTER_PATTERN = rf"http\..*\.({'|'.join(COUNTERS)})"

_REASONS = {
    "active_hc_timeout": "no answer to its health check in time",
    "failed_active_health_check": "fails its health check",
    "failed_outlier_check": "ejected as an outlier",
    "pending_active_hc": "not checked yet",
    "pending_dynamic_removal": "being removed",
}
"""In the order in which they explain more: a time-out is also a failure."""


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


def _endpoints(cluster: Mapping[str, Any]) -> Iterable[tuple[str, int, str]]:
    """(address as configured, port, host name) of a cluster's servers."""
    for locality in cluster.get("load_assignment", {}).get("endpoints", ()):
        for item in locality.get("lb_endpoints", ()):
            address = item["endpoint"]["address"]["socket_address"]
            yield address["address"], address["port_value"], item["endpoint"].get("hostname", "")


def _why_down(health: Mapping[str, Any]) -> str:
    """Why a host is not sent requests; empty when it is."""
    for flag, reason in _REASONS.items():
        if health.get(flag):
            return reason
    return ""


def server_health(
    clusters: Iterable[Mapping[str, Any]], statuses: Iterable[Mapping[str, Any]]
) -> tuple[ServerStatus, ...]:
    """The health of every server of ``clusters``, from the items of ``/clusters``."""
    hosts_of = {status["name"]: status.get("host_statuses", ()) for status in statuses}
    found: dict[tuple[str, str], ServerStatus] = {}
    for cluster in clusters:
        pool = ours(cluster).get("pool", "")
        hosts = hosts_of.get(cluster["name"], ())
        by_name = cluster.get("type") == "STRICT_DNS"
        for address, port, name in _endpoints(cluster):
            whys = [
                _why_down(host.get("health_status", {}))
                for host in hosts
                if host["address"].get("socket_address", {}).get("port_value") == port
                and (
                    host["address"]["socket_address"]["address"] == address
                    or (by_name and host.get("hostname") == name)
                )
            ]
            up = "" in whys
            reason = (
                "" if up else next(iter(whys), "its name does not resolve" if by_name else "unknown to Envoy")
            )
            label = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
            found[pool, label] = ServerStatus(pool=pool, server=label, up=up, reason=reason)
    return tuple(found.values())


def service_counters(services: Iterable[str], stats: Mapping[str, int | str]) -> tuple[ServiceCounters, ...]:
    """Each virtual service's counters, 0 for what Envoy has not counted yet."""
    values: dict[str, dict[str, Any]] = {}
    for name, value in stats.items():
        prefix, _, last = name.removeprefix("http.").rpartition(".")
        if last in COUNTERS and isinstance(value, int):
            values.setdefault(resource_name(SERVICE_KIND, prefix), {})[COUNTERS[last]] = value
    return tuple(ServiceCounters(service=service, **values.get(service, {})) for service in services)
