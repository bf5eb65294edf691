"""A virtual service's HTTP connection manager: whom each request goes to, and what is done to it on the way."""

from collections.abc import Mapping, Sequence
from typing import Any

from avinet.dataplane.envoy_pool_http import TCP_IDLE_S, pool_filters, pool_replies, pool_routes
from avinet.model.config import PathMatch, Pool, Route, Service, VirtualService

CLIENT_IDLE_S = 900
"""Idle keep-alive connections; Envoy's guidance for edges is an hour, and a quarter of it frees what is dead."""
STREAM_IDLE_S = 300
"""A request or answer that stands still this long is cut; Envoy's own default, and twice what servers use."""
REQUEST_HEADERS_S = 30
"""For a client to send its header: against slow-header attacks; nginx allows 60 s, Apache 20 to 40 s."""
MAX_HEADERS_KIB = 60
"""Envoy's own default; nginx takes 32 KiB, Apache 8 KiB a line."""
MAX_STREAMS = 100
"""Of one HTTP/2 connection at once; what RFC 9113 recommends at least, and most servers have."""
HTTPS_PORT = 443

_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"
_ANY = "*"
_KEEPS_METHOD = "PERMANENT_REDIRECT"
"""308: whatever is not read only must come again as it was."""

Pools = Mapping[str, tuple[Pool, str]]
"""By ``pool_ref``: the pool and its cluster's name."""


def pool_refs(service: VirtualService) -> list[str]:
    """The pools that a virtual service sends to, each once, its default one first."""
    return list(dict.fromkeys((service.pool_ref, *(route.pool_ref for route in service.routes))))


def _takes(pattern: str, host: str) -> bool:
    """Whether a route's host takes every name that ``host`` (a name or a pattern) stands for."""
    return pattern == host or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def _path_match(route: Route) -> dict[str, Any]:
    if route.path_match is PathMatch.EQUALS:
        return {"path": route.path}
    if route.path_match is PathMatch.REGEX:
        return {"safe_regex": {"regex": route.path}}
    if route.path.endswith("/"):
        return {"prefix": route.path}
    return {"path_separated_prefix": route.path}


def _websocket(pool: Pool, cluster: str, match: dict[str, Any]) -> dict[str, Any]:
    """A WebSocket is no request that has to be answered in time, and may be silent for long."""
    upgrade = {"name": "upgrade", "string_match": {"exact": "websocket", "ignore_case": True}}
    found = pool_routes(pool, cluster, {**match, "headers": [*match.get("headers", ()), upgrade]})[-1]
    return {**found, "route": {**found["route"], "timeout": "0s", "idle_timeout": f"{TCP_IDLE_S:g}s"}}


def _to_pool(pools: Pools, ref: str, match: dict[str, Any]) -> list[dict[str, Any]]:
    pool, cluster = pools[ref]
    return [_websocket(pool, cluster, match), *pool_routes(pool, cluster, match)]


def _virtual_host(domain: str, service: VirtualService, pools: Pools) -> dict[str, Any]:
    """What is done with requests for ``domain``: the routes that take it, in their order, then the default pool.

    Envoy looks for the most specific domain first and then only there, so each has all the routes that take it.
    """
    routes: list[dict[str, Any]] = []
    for route in service.routes:
        hosts = [host.lower() for host in route.hosts]
        if not hosts or any(_takes(host, domain) for host in hosts):
            routes.extend(_to_pool(pools, route.pool_ref, _path_match(route)))
    routes.extend(_to_pool(pools, service.pool_ref, {"prefix": "/"}))
    return {"name": domain, "domains": [domain], "routes": routes}


def _virtual_hosts(service: VirtualService, pools: Pools) -> list[dict[str, Any]]:
    domains = dict.fromkeys(host.lower() for route in service.routes for host in route.hosts)
    domains.setdefault(_ANY)
    return [_virtual_host(domain, service, pools) for domain in domains]


def _to_https(port: int) -> list[dict[str, Any]]:
    """A virtual host that sends everybody to the same host and path at ``port`` with TLS."""
    redirect: dict[str, Any] = {"https_redirect": True}
    if port != HTTPS_PORT:
        redirect["port_redirect"] = port
    reads = {"name": ":method", "string_match": {"safe_regex": {"regex": "GET|HEAD"}}}
    routes = [
        {"match": {"prefix": "/", "headers": [reads]}, "redirect": redirect},
        {"match": {"prefix": "/"}, "redirect": {**redirect, "response_code": _KEEPS_METHOD}},
    ]
    return [{"name": "to-https", "domains": [_ANY], "routes": routes}]


def _looks_at_paths(service: VirtualService) -> bool:
    every = (PathMatch.BEGINS_WITH, "/")
    return any((route.path_match, route.path) != every for route in service.routes)


def _manager(
    service: VirtualService, port: Service, hosts: Sequence[dict[str, Any]], filters: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    return {
        "@type": _HCM,
        "stat_prefix": str(service.uuid),
        # AUTO: what was agreed by ALPN, without TLS what the client begins with.
        "codec_type": "AUTO" if port.enable_http2 else "HTTP1",
        # The client's address is the connection's, appended to X-Forwarded-For, and X-Forwarded-Proto what it came
        # by; what it claims is not believed.
        "use_remote_address": True,
        # Else /public/../private would go where the route of /public says.  It changes the path for the server and
        # for the log, too, so it is left alone where nobody looks at it (docs/decisions/0032).
        "normalize_path": _looks_at_paths(service),
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": f"{STREAM_IDLE_S}s",
        "request_headers_timeout": f"{REQUEST_HEADERS_S}s",
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "common_http_protocol_options": {"idle_timeout": f"{CLIENT_IDLE_S}s"},
        "http2_protocol_options": {
            "max_concurrent_streams": MAX_STREAMS,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
            # WebSockets over HTTP/2 (RFC 8441).
            "allow_connect": True,
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "http_filters": [
            *filters,
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _ROUTER, "suppress_envoy_headers": True},
            },
        ],
        "route_config": {
            "name": str(service.uuid),
            "virtual_hosts": list(hosts),
            "ignore_port_in_host_matching": True,
        },
    }


def _secure_port(service: VirtualService) -> int | None:
    return next((port.port for port in service.services if port.enable_ssl), None)


def connection_manager(service: VirtualService, port: Service, pools: Pools) -> dict[str, Any]:
    """The connection manager of ``service`` on one of its ports."""
    secure = _secure_port(service)
    if service.http_to_https and secure is not None and not port.enable_ssl:
        # The redirect is made of the host alone, not of the port that was asked for.
        return {**_manager(service, port, _to_https(secure), ()), "strip_any_host_port": True}
    used = [pools[ref] for ref in pool_refs(service)]
    manager = _manager(service, port, _virtual_hosts(service, pools), pool_filters(pool for pool, _ in used))
    return {**manager, "local_reply_config": {"mappers": pool_replies(used)}}
