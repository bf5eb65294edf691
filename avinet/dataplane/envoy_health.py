"""How a running Envoy's servers are: pure functions from the admin interface's ``/clusters``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from avinet.dataplane.envoy_readback import ours
from avinet.dataplane.interface import Failure, ServerState, ServerStatus

_FLAGS = {
    "pending_active_hc": (ServerState.DOWN, Failure.UNCHECKED, "not checked yet"),
    "active_hc_timeout": (ServerState.DOWN, Failure.TIMEOUT, "no answer to its health check in time"),
    "failed_active_health_check": (ServerState.DOWN, Failure.CHECK_FAILED, "fails its health check"),
    "failed_outlier_check": (ServerState.EJECTED, Failure.OUTLIER, "ejected: it failed real requests"),
    "pending_dynamic_removal": (ServerState.DOWN, Failure.NONE, "being removed"),
}
"""In the order in which they explain more: who was not checked, or timed out, has also failed."""


@attrs.frozen
class Endpoint:
    """A server as it was configured."""

    address: str
    port: int
    hostname: str
    draining: bool

    @property
    def label(self) -> str:
        """``host:port``."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def endpoints_of(cluster: Mapping[str, Any]) -> Iterator[Endpoint]:
    """A cluster's servers."""
    for locality in cluster.get("load_assignment", {}).get("endpoints", ()):
        for item in locality.get("lb_endpoints", ()):
            address = item["endpoint"]["address"]["socket_address"]
            yield Endpoint(
                address=address["address"],
                port=address["port_value"],
                hostname=item["endpoint"].get("hostname", ""),
                draining=item.get("health_status") == "DRAINING",
            )


def hosts_of(
    endpoint: Endpoint, cluster: Mapping[str, Any], hosts: Iterable[Mapping[str, Any]]
) -> list[Mapping[str, Any]]:
    """What Envoy made of a server: one host, or one for each address that its name has."""
    by_name = cluster.get("type") == "STRICT_DNS"

    def matches(host: Mapping[str, Any]) -> bool:
        address = host.get("address", {}).get("socket_address", {})
        if address.get("port_value") != endpoint.port:
            return False
        named = by_name and endpoint.hostname != "" and host.get("hostname") == endpoint.hostname
        return address.get("address") == endpoint.address or named

    return [host for host in hosts if matches(host)]


def _state_of(host: Mapping[str, Any]) -> tuple[ServerState, Failure, str]:
    health = host.get("health_status", {})
    for flag, found in _FLAGS.items():
        if health.get(flag):
            return found
    if health.get("eds_health_status") == "DRAINING":
        return ServerState.DRAINING, Failure.NONE, "disabled; finishes what is under way"
    return ServerState.UP, Failure.NONE, ""


def _counted(hosts: Iterable[Mapping[str, Any]]) -> dict[str, int]:
    counted: dict[str, int] = {}
    for host in hosts:
        for stat in host.get("stats", ()):
            counted[stat["name"]] = counted.get(stat["name"], 0) + int(stat.get("value", 0))
    return counted


def _status(pool: str, endpoint: Endpoint, by_name: bool, hosts: list[Mapping[str, Any]]) -> ServerStatus:  # noqa: FBT001
    states = [_state_of(host) for host in hosts]
    if by_name and not states:
        states = [(ServerState.DOWN, Failure.UNRESOLVED, "its name does not resolve")]
    best = next((found for found in states if found[0] is ServerState.UP), None)
    state, failure, reason = best or next(
        iter(states), (ServerState.DOWN, Failure.CHECK_FAILED, "unknown to Envoy")
    )
    counted = _counted(hosts)
    return ServerStatus(
        pool=pool,
        server=endpoint.label,
        up=state is ServerState.UP,
        reason=reason,
        state=state,
        failure=failure,
        connections=counted.get("cx_active", 0),
        requests=counted.get("rq_total", 0),
        errors=counted.get("rq_error", 0),
        connect_failures=counted.get("cx_connect_fail", 0),
    )


def server_health(
    clusters: Iterable[Mapping[str, Any]], statuses: Iterable[Mapping[str, Any]]
) -> tuple[ServerStatus, ...]:
    """The health of every server of ``clusters``, from the items of ``/clusters``."""
    known = {status["name"]: status.get("host_statuses", ()) for status in statuses}
    found: dict[tuple[str, str], ServerStatus] = {}
    for cluster in clusters:
        pool = ours(cluster).get("pool", "")
        by_name = cluster.get("type") == "STRICT_DNS"
        for endpoint in endpoints_of(cluster):
            hosts = hosts_of(endpoint, cluster, known.get(cluster["name"], ()))
            found[pool, endpoint.label] = _status(pool, endpoint, by_name, hosts)
    return tuple(found.values())


def still_open(
    over: Iterable[tuple[str, str, int]],
    clusters: Iterable[Mapping[str, Any]],
    statuses: Iterable[Mapping[str, Any]],
) -> frozenset[tuple[str, int]]:
    """(IP address, port) of servers whose connections may be cut.

    ``over`` are (cluster, address as configured, port) of servers that are done draining; one that gets requests
    through another pool is left alone, since a connection does not tell whose it is.
    """
    ending = frozenset(over)
    known = {cluster["name"]: cluster for cluster in clusters}
    cut: set[tuple[str, int]] = set()
    spared: set[tuple[str, int]] = set()
    for status in statuses:
        hosts = status.get("host_statuses", ())
        cluster = known.get(status["name"], {})
        done: list[Mapping[str, Any]] = []
        for endpoint in endpoints_of(cluster):
            if (status["name"], endpoint.address, endpoint.port) in ending:
                done.extend(hosts_of(endpoint, cluster, hosts))
        for host in hosts:
            place = host.get("address", {}).get("socket_address", {})
            if "address" in place:
                (cut if host in done else spared).add((place["address"], place["port_value"]))
    return frozenset(cut - spared)
