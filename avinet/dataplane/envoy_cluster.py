"""A pool as an Envoy cluster.

The cluster's name carries the hash of its content, so that a changed pool is another cluster beside the old one:
requests move to it all at once, when the listeners that name it are switched, and only after its first health
checks are done.  Its metadata says which resources it stands for.
"""

import hashlib
import ipaddress
from collections.abc import Mapping
from typing import Any

import msgspec

from avinet.dataplane.interface import RejectedError
from avinet.model.config import (
    HealthMonitor,
    HealthMonitorType,
    IpAddrType,
    LbAlgorithm,
    Pool,
    Server,
)

METADATA_KEY = "avinet"
UPSTREAM_IDLE_S = 55.0
"""Below the 60 s after which common servers (nginx 75, IIS 120, many frameworks 60) drop an idle connection."""
DNS_REFRESH_S = 5.0
"""Envoy's own default; it also obeys no TTL below this."""
TCP_KEEPALIVE = {"keepalive_probes": 3, "keepalive_time": 60, "keepalive_interval": 10}

_POLICIES = {
    LbAlgorithm.ROUND_ROBIN: "ROUND_ROBIN",
    LbAlgorithm.LEAST_CONNECTIONS: "LEAST_REQUEST",
}
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"})
_MAX_PORT = 65535
_HTTP_OPTIONS = "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"


def _seconds(value: float) -> str:
    return f"{value:g}s" if value >= 0.001 else "0.001s"


def _code_ranges(codes: tuple[str, ...], resource: str) -> list[dict[str, int]]:
    ranges = []
    for code in codes:
        word = code.removeprefix("HTTP_")
        if len(word) == 3 and word[1:] == "XX" and word[0] in "12345":
            start = int(word[0]) * 100
            ranges.append({"start": start, "end": start + 100})
        elif word.isdigit() and 100 <= int(word) < 600:
            ranges.append({"start": int(word), "end": int(word) + 1})
        else:
            raise RejectedError(resource=resource, detail=f"{code!r} is not a response code")
    return ranges


def _http_check(monitor: HealthMonitor, resource: str) -> dict[str, Any]:
    if monitor.http_monitor is None:
        raise RejectedError(resource=resource, detail="an HTTP monitor without http_monitor")
    words = monitor.http_monitor.http_request.split()
    if len(words) not in {2, 3} or words[0] not in _METHODS or not words[1].startswith("/"):
        raise RejectedError(
            resource=resource,
            detail=f"{monitor.http_monitor.http_request!r} is not a request such as 'GET / HTTP/1.1'",
        )
    return {
        "path": words[1],
        "method": words[0],
        "expected_statuses": _code_ranges(monitor.http_monitor.http_response_code, resource),
    }


def _health_check(monitor: HealthMonitor, resource: str) -> dict[str, Any]:
    interval = _seconds(monitor.send_interval)
    check: dict[str, Any] = {
        "timeout": _seconds(monitor.receive_timeout),
        "interval": interval,
        # Without it a cluster that carries no traffic is checked once a minute only.
        "no_traffic_interval": interval,
        "healthy_threshold": monitor.successful_checks,
        "unhealthy_threshold": monitor.failed_checks,
        "initial_jitter": "0.1s",
        "interval_jitter_percent": 10,
    }
    if monitor.type is HealthMonitorType.HTTP:
        check["http_health_check"] = _http_check(monitor, resource)
    else:
        check["tcp_health_check"] = {}
    return check


def _endpoint(server: Server, monitors: list[HealthMonitor], resource: str) -> dict[str, Any]:
    if server.ip.type is not IpAddrType.DNS:
        try:
            ipaddress.ip_address(server.ip.addr)
        except ValueError:
            raise RejectedError(resource=resource, detail=f"{server.ip.addr!r} is no IP address") from None
    if not 1 <= server.port <= _MAX_PORT:
        raise RejectedError(resource=resource, detail=f"{server.port} is no port")
    endpoint: dict[str, Any] = {
        "address": {"socket_address": {"address": server.ip.addr, "port_value": server.port}}
    }
    check: dict[str, Any] = {}
    ports = {monitor.monitor_port for monitor in monitors} - {None}
    if len(ports) > 1:
        raise RejectedError(resource=resource, detail="its health monitors name different monitor ports")
    if ports:
        check["port_value"] = ports.pop()
    # The host header of checks: the server's own name, as for requests of people who look at it directly.
    address = f"[{server.ip.addr}]" if ":" in server.ip.addr else server.ip.addr
    check["hostname"] = endpoint["hostname"] = server.hostname or address
    endpoint["health_check_config"] = check
    return {"endpoint": endpoint, "load_balancing_weight": max(1, server.ratio)}


def render_cluster(
    pool: Pool, name: str, monitors: Mapping[str, HealthMonitor], digests: Mapping[str, str]
) -> dict[str, Any]:
    """The cluster for the pool resource called ``name``.

    ``monitors`` are its monitors by resource name, ``digests`` the digests of the resources it is made of.
    """
    endpoints = [
        _endpoint(server, list(monitors.values()), name) for server in pool.servers if server.enabled
    ]
    by_name = any(server.ip.type is IpAddrType.DNS for server in pool.servers)
    cluster: dict[str, Any] = {
        "connect_timeout": _seconds(pool.connect_timeout_s),
        "type": "STRICT_DNS" if by_name else "STATIC",
        "lb_policy": _POLICIES[pool.lb_algorithm],
        # Never send requests to servers known to be dead: with none alive the answer is 503, at once.
        "common_lb_config": {"healthy_panic_threshold": {"value": 0}},
        "health_checks": [_health_check(monitor, r) for r, monitor in sorted(monitors.items())],
        # When a server fails its checks, what waits on its connections fails now, not at a time-out.
        "close_connections_on_host_health_failure": True,
        "upstream_connection_options": {"tcp_keepalive": TCP_KEEPALIVE},
        "per_connection_buffer_limit_bytes": 1024 * 1024,
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": _HTTP_OPTIONS,
                "explicit_http_config": {"http_protocol_options": {}},
                "common_http_protocol_options": {"idle_timeout": _seconds(UPSTREAM_IDLE_S)},
            }
        },
        "load_assignment": {"endpoints": [{"lb_endpoints": endpoints}] if endpoints else []},
        "metadata": {
            "filter_metadata": {
                METADATA_KEY: {
                    "pool": name,
                    "digest": digests[name],
                    "monitors": {monitor: digests[monitor] for monitor in sorted(monitors)},
                }
            }
        },
    }
    if by_name:
        cluster["dns_refresh_rate"] = _seconds(DNS_REFRESH_S)
        cluster["respect_dns_ttl"] = True
        # Envoy's default takes IPv6 addresses alone where there are any, also on hosts without IPv6.
        cluster["dns_lookup_family"] = "V4_PREFERRED"
        # A name that does not resolve now must not hold up the whole change.
        cluster["wait_for_warm_on_init"] = False
    content = hashlib.sha256(msgspec.json.encode(cluster, order="deterministic")).hexdigest()
    cluster["name"] = cluster["load_assignment"]["cluster_name"] = f"{pool.uuid}@{content[:12]}"
    return cluster
