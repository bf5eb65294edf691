"""How long a server that was disabled may finish what is under way.

A disabled server stays in its cluster as draining: it gets nothing new, but clients with its cookie may come back,
and what is under way goes on.  When its time is over it is left out, and what is still open to it is cut.

The clusters' file is all the memory there is.  A server that was enabled in the file as it is begins its time with
the change that disables it; one that was draining keeps the end that it had; one that was not there, or was left
out when its time was over, stays out.  So a restart of the agent or of the machine neither forgets nor begins anew.
Pure functions; times are UNIX seconds, since they outlive the machine's uptime.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import attrs

from avinet.dataplane.envoy_cluster import DRAIN_KEY, METADATA_KEY

UNTIL_KEY = "drain_until"

Clusters = tuple[dict[str, Any], ...]
_Place = tuple[str, int]
"""(address as configured, port)."""


@attrs.frozen
class Drained:
    """A server whose time is over."""

    cluster: str
    address: str
    port: int


def _place(server: Mapping[str, Any]) -> _Place:
    address = server["endpoint"]["address"]["socket_address"]
    return str(address["address"]), int(address["port_value"])


def _ours(server: Mapping[str, Any]) -> Mapping[str, Any]:
    found: Mapping[str, Any] = server.get("metadata", {}).get("filter_metadata", {}).get(METADATA_KEY, {})
    return found


def _servers(cluster: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for locality in cluster.get("load_assignment", {}).get("endpoints", ()):
        yield from locality.get("lb_endpoints", ())


def _is_draining(server: Mapping[str, Any]) -> bool:
    return server.get("health_status") == "DRAINING"


def _with_servers(cluster: dict[str, Any], change: Any) -> dict[str, Any]:
    """``cluster`` with each draining server as ``change`` makes it, without those that it makes None."""
    if not any(_is_draining(server) for server in _servers(cluster)):
        return cluster
    localities = []
    for locality in cluster["load_assignment"]["endpoints"]:
        made = [change(server) if _is_draining(server) else server for server in locality["lb_endpoints"]]
        kept = [server for server in made if server is not None]
        if kept:
            localities.append({**locality, "lb_endpoints": kept})
    return {**cluster, "load_assignment": {**cluster["load_assignment"], "endpoints": localities}}


def settle(wanted: Iterable[dict[str, Any]], before: Iterable[Mapping[str, Any]], now: float) -> Clusters:
    """``wanted`` with the end of each draining server's time in it, without those whose time is not running.

    ``before`` are the clusters of the file in place.
    """
    known = {
        cluster.get("name"): {_place(server): server for server in _servers(cluster)} for cluster in before
    }

    def settled(cluster: dict[str, Any]) -> dict[str, Any]:
        old = known.get(cluster["name"], {})
        return _with_servers(cluster, lambda server: _settled(server, old.get(_place(server)), now))

    return tuple(settled(cluster) for cluster in wanted)


def _settled(
    server: Mapping[str, Any], before: Mapping[str, Any] | None, now: float
) -> dict[str, Any] | None:
    if before is None:
        return None
    until = now + float(_ours(server)[DRAIN_KEY])
    if _is_draining(before):
        # The sooner one: a clock set back, or a shorter time that was asked for meanwhile.
        until = min(until, float(_ours(before).get(UNTIL_KEY, until)))
    # Whoever is over is in it still: it is ``ended``'s to leave it out, and to tell.
    metadata = server["metadata"]["filter_metadata"]
    return {**server, "metadata": {"filter_metadata": {**metadata, METADATA_KEY: {UNTIL_KEY: until}}}}


def ended(clusters: Iterable[dict[str, Any]], now: float) -> tuple[Clusters, tuple[Drained, ...]]:
    """The clusters without the servers whose time is over, and those servers."""
    over: list[Drained] = []

    def left(cluster: dict[str, Any], server: dict[str, Any]) -> dict[str, Any] | None:
        if float(_ours(server).get(UNTIL_KEY, now)) > now:
            return server
        over.append(Drained(cluster["name"], *_place(server)))
        return None

    kept = tuple(_with_servers(cluster, lambda s, c=cluster: left(c, s)) for cluster in clusters)
    return kept, tuple(over)
