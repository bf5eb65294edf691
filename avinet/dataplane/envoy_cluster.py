"""A pool as an Envoy cluster.

The cluster is called after the pool, whatever is in it: a changed pool takes the old one's place within Envoy, and
the listeners that send to it are left alone.  Envoy makes the change once the new cluster's first health checks are
done, all at once; what is under way on the old one goes on to its end (docs/decisions/0024).  Its metadata says
which resources it stands for, and their digests.
"""

import ipaddress
from collections.abc import Mapping
from typing import Any

from avinet.dataplane.envoy_health_check import check_config, render_checks, seconds
from avinet.dataplane.envoy_pool_http import is_hashed
from avinet.dataplane.envoy_upstream_tls import MATCH_KEY, match_of, transport_sockets
from avinet.dataplane.interface import RejectedError
from avinet.model.config import (
    HealthMonitor,
    HealthMonitorType,
    IpAddrType,
    LbAlgorithm,
    OutlierDetection,
    Pool,
    Server,
)

METADATA_KEY = "avinet"
NAME_KEY = "name"
"""In a cluster's metadata: the pool's name, for request logs."""
DRAIN_KEY = "drain_s"
"""In a disabled server's own metadata: how long it may finish, in seconds."""
DNS_REFRESH_S = 5.0
"""Envoy's own default; it also obeys no TTL below this."""
DNS_TRY_S = 1
DNS_TRIES = 2
"""A change waits so long for names at first: resolvers answer within milliseconds or not at all."""
TCP_KEEPALIVE = {"keepalive_probes": 3, "keepalive_time": 60, "keepalive_interval": 10}
NO_LIMIT = 1_000_000
"""Of requests and connections of one pool at once.  Envoy's default of 1,024 is a limit nobody asked for; the
clients of all virtual services together are bounded by ``EnvoySettings.max_connections``."""
RETRY_PERCENT = 50
"""Of a pool's requests under way, those that may be second tries: with one of two servers dead that is all."""
MIN_RETRIES = 100
"""However few are under way."""
FULL_SCAN_SERVERS = 64
"""Up to so many servers the one with the fewest requests is looked for among all, for each request; beyond, among a
few picked at random: of two, as Envoy has it, a slow server of two still gets a quarter."""
RANDOM_CHOICES = 5
UPDATE_MERGE_S = 0.1
"""Within which changes of servers' health are put together; Envoy's default of 1 s is that much longer for clients
of a server that died."""
RING_POINTS = 512
"""Of each server on the hash ring, on average: shares differ by some 4 %."""
MAX_RING = 65_536
"""Points of a pool, at 24 bytes each: 1.5 MiB."""
LONGEST_EJECTION_S = 300
"""Envoy's own default, however often a server was ejected."""

_OVER_TLS = frozenset({HealthMonitorType.HTTPS, HealthMonitorType.TLS})
_MAX_PORT = 65535
_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"
_LEAST = "type.googleapis.com/envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest"
_CARES = "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig"


def _endpoint(
    pool: Pool, server: Server, monitors: Mapping[str, HealthMonitor], resource: str
) -> dict[str, Any]:
    by_name = server.ip.type is IpAddrType.DNS
    if not by_name:
        try:
            ipaddress.ip_address(server.ip.addr)
        except ValueError:
            raise RejectedError(resource=resource, detail=f"{server.ip.addr!r} is no IP address") from None
    if not 1 <= server.port <= _MAX_PORT:
        raise RejectedError(resource=resource, detail=f"{server.port} is no port")
    hostname = server.hostname or (server.ip.addr if by_name else "")
    endpoint: dict[str, Any] = {
        "address": {"socket_address": {"address": server.ip.addr, "port_value": server.port}},
        "health_check_config": check_config(server, monitors, resource),
    }
    if hostname:
        endpoint["hostname"] = hostname
    found: dict[str, Any] = {"endpoint": endpoint, "load_balancing_weight": max(1, server.ratio)}
    metadata: dict[str, Any] = {}
    match = match_of(pool, server)
    if match:
        metadata[MATCH_KEY] = match
    if not server.enabled:
        found["health_status"] = "DRAINING"
        metadata[METADATA_KEY] = {DRAIN_KEY: pool.graceful_disable_timeout_s}
    if metadata:
        found["metadata"] = {"filter_metadata": metadata}
    return found


def _localities(pool: Pool, monitors: Mapping[str, HealthMonitor], resource: str) -> list[dict[str, Any]]:
    """The servers by priority, without gaps, which Envoy does not take.

    Disabled ones come last, on their own: among the others they would count as down and move traffic to the next
    priority.
    """
    if not pool.enabled:
        return []
    groups: dict[int, list[dict[str, Any]]] = {}
    for server in pool.servers:
        priority = server.priority if server.enabled else _MAX_PORT
        groups.setdefault(priority, []).append(_endpoint(pool, server, monitors, resource))
    return [
        {"priority": index, "lb_endpoints": groups[priority]} for index, priority in enumerate(sorted(groups))
    ]


def _algorithm(pool: Pool) -> dict[str, Any]:
    if is_hashed(pool):
        # And not Maglev, which is quicker but moves clients of servers that are well when another one goes.
        servers = sum(1 for server in pool.servers if server.enabled)
        points = min(MAX_RING, RING_POINTS * max(2, servers))
        return {
            "lb_policy": "RING_HASH",
            "ring_hash_lb_config": {"minimum_ring_size": points, "maximum_ring_size": MAX_RING},
        }
    if pool.lb_algorithm is LbAlgorithm.LEAST_CONNECTIONS:
        full = len(pool.servers) <= FULL_SCAN_SERVERS
        choice = {"selection_method": "FULL_SCAN"} if full else {"choice_count": RANDOM_CHOICES}
        config = {
            "name": "envoy.load_balancing_policies.least_request",
            "typed_config": {"@type": _LEAST, **choice},
        }
        return {"load_balancing_policy": {"policies": [{"typed_extension_config": config}]}}
    return {"lb_policy": "ROUND_ROBIN"}


def _limits(pool: Pool) -> dict[str, Any]:
    limit = pool.max_concurrent_connections_per_server
    servers = max(1, sum(1 for server in pool.servers if server.enabled))
    threshold = {
        "max_connections": NO_LIMIT,
        "max_requests": NO_LIMIT,
        # Where servers have a limit, as many may wait as are being served; the rest is told so at once.
        "max_pending_requests": min(NO_LIMIT, limit * servers) if limit else NO_LIMIT,
        "retry_budget": {
            "budget_percent": {"value": RETRY_PERCENT},
            "min_retry_concurrency": MIN_RETRIES,
        },
    }
    limits: dict[str, Any] = {"thresholds": [threshold]}
    if limit:
        limits["per_host_thresholds"] = [{"max_connections": limit}]
    return limits


def _outliers(found: OutlierDetection) -> dict[str, Any]:
    return {
        # Answers and connections are counted apart, as the two numbers are.
        "split_external_local_origin_errors": True,
        "consecutive_5xx": max(1, found.consecutive_5xx),
        "enforcing_consecutive_5xx": 100 if found.consecutive_5xx else 0,
        "consecutive_local_origin_failure": max(1, found.consecutive_connect_failures),
        "enforcing_consecutive_local_origin_failure": 100 if found.consecutive_connect_failures else 0,
        "enforcing_consecutive_gateway_failure": 0,
        # Envoy's statistical rules are on by default; nobody asked for them.
        "enforcing_success_rate": 0,
        "enforcing_local_origin_success_rate": 0,
        "interval": seconds(found.interval_s),
        "base_ejection_time": seconds(found.ejection_time_s),
        "max_ejection_time": seconds(max(LONGEST_EJECTION_S, found.ejection_time_s)),
        "max_ejection_percent": found.max_ejection_percent,
        # A server may answer its monitor and fail everybody else.
        "successful_active_health_check_uneject_host": False,
    }


def _resolving() -> dict[str, Any]:
    return {
        "type": "STRICT_DNS",
        "dns_refresh_rate": seconds(DNS_REFRESH_S),
        "respect_dns_ttl": True,
        # Envoy's default takes IPv6 addresses alone where there are any, also on hosts without IPv6.
        "dns_lookup_family": "V4_PREFERRED",
        # A name that does not resolve now must not hold up the whole change for long.
        "typed_dns_resolver_config": {
            "name": "envoy.network.dns_resolver.cares",
            "typed_config": {
                "@type": _CARES,
                "query_timeout_seconds": DNS_TRY_S,
                "query_tries": DNS_TRIES,
            },
        },
    }


def render_cluster(
    pool: Pool,
    name: str,
    monitors: Mapping[str, HealthMonitor],
    digests: Mapping[str, str],
    *,
    client_certificate: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The cluster for the pool resource called ``name``.

    ``monitors`` are its monitors by resource name, ``digests`` the digests of the resources it is made of,
    ``client_certificate`` the ``SdsSecretConfig`` of what is shown to its servers.  Every disabled server is in it
    as draining; ``avinet.dataplane.envoy_drain`` knows which of them still may.
    """
    by_name = any(server.ip.type is IpAddrType.DNS for server in pool.servers)
    tls_checks = [monitor.type in _OVER_TLS for monitor in monitors.values()]
    cluster: dict[str, Any] = {
        "name": str(pool.uuid),
        "connect_timeout": seconds(pool.connect_timeout_s),
        **(_resolving() if by_name else {"type": "STATIC"}),
        **_algorithm(pool),
        "common_lb_config": {
            # Never send requests to servers known to be dead: with none alive the answer is 503, at once.
            "healthy_panic_threshold": {"value": 0},
            "update_merge_window": seconds(UPDATE_MERGE_S),
            # A client with a cookie may go on with a server that is being disabled.
            "override_host_status": {"statuses": ["UNKNOWN", "HEALTHY", "DEGRADED", "DRAINING"]},
        },
        "circuit_breakers": _limits(pool),
        "health_checks": render_checks(pool, monitors),
        # When a server fails its checks, what waits on its connections fails now, not at a time-out.
        "close_connections_on_host_health_failure": True,
        "upstream_connection_options": {"tcp_keepalive": TCP_KEEPALIVE},
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": f"{pool.idle_timeout_s:g}s"},
            }
        },
        **transport_sockets(
            pool,
            certificate=client_certificate,
            tls_checks=any(tls_checks),
            plain_checks=not all(tls_checks),
        ),
        "load_assignment": {
            "cluster_name": str(pool.uuid),
            "endpoints": _localities(pool, monitors, name),
        },
        "metadata": {
            "filter_metadata": {
                METADATA_KEY: {
                    "pool": name,
                    NAME_KEY: pool.name,
                    "digest": digests[name],
                    "monitors": {monitor: digests[monitor] for monitor in sorted(monitors)},
                }
            }
        },
    }
    if pool.outlier_detection is not None:
        cluster["outlier_detection"] = _outliers(pool.outlier_detection)
    return cluster
