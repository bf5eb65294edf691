"""A virtual service as Envoy listeners, one for each of its addresses and ports.

A listener's name stays the same for one address and port, so that Envoy hands the open socket from the old one to
the new: no connection is refused by a change.  Its metadata says which resource it stands for, and how many
listeners that resource has, so that the whole can be read back.
"""

import ipaddress
from typing import Any

from avinet.dataplane.envoy_cluster import METADATA_KEY
from avinet.dataplane.envoy_pool_http import pool_filters, pool_replies, pool_routes
from avinet.dataplane.interface import RejectedError
from avinet.model.config import IpAddrType, Pool, VirtualService

CLIENT_IDLE_S = 900
"""Idle keep-alive connections; Envoy's guidance for edges is an hour, and a quarter of it frees what is dead."""
STREAM_IDLE_S = 300
"""A request or answer that stands still this long is cut; Envoy's own default, and twice what servers use."""
REQUEST_HEADERS_S = 30
"""For a client to send its header: against slow-header attacks; nginx allows 60 s, Apache 20 to 40 s."""
MAX_HEADERS_KIB = 60
"""Envoy's own default; nginx takes 32 KiB, Apache 8 KiB a line."""
BUFFER_BYTES = 64 * 1024
"""Of one connection, each way; Envoy's default of 1 MiB is too much for many slow clients."""

_HCM = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"
_ROUTER = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"


def _connection_manager(service: VirtualService, pool: Pool, cluster: str) -> dict[str, Any]:
    return {
        "@type": _HCM,
        "stat_prefix": str(service.uuid),
        "codec_type": "AUTO",
        # The client's address is the connection's, appended to X-Forwarded-For; what it claims is not believed.
        "use_remote_address": True,
        "server_header_transformation": "PASS_THROUGH",
        "stream_idle_timeout": f"{STREAM_IDLE_S}s",
        "request_headers_timeout": f"{REQUEST_HEADERS_S}s",
        "max_request_headers_kb": MAX_HEADERS_KIB,
        "common_http_protocol_options": {"idle_timeout": f"{CLIENT_IDLE_S}s"},
        "http2_protocol_options": {
            "max_concurrent_streams": 100,
            "initial_stream_window_size": 65536,
            "initial_connection_window_size": 1048576,
        },
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "local_reply_config": {"mappers": pool_replies([(pool, cluster)])},
        "http_filters": [
            *pool_filters([pool]),
            {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": _ROUTER, "suppress_envoy_headers": True},
            },
        ],
        "route_config": {
            "name": str(service.uuid),
            "virtual_hosts": [
                {"name": "all", "domains": ["*"], "routes": pool_routes(pool, cluster, {"prefix": "/"})}
            ],
        },
    }


def endpoints_of(service: VirtualService, resource: str) -> list[tuple[str, int]]:
    """The (address, port) pairs a virtual service answers on, each once."""
    pairs: dict[tuple[str, int], None] = {}
    for vip in service.vip:
        try:
            address = str(ipaddress.ip_address(vip.ip_address.addr))
        except ValueError:
            kind = "a name" if vip.ip_address.type is IpAddrType.DNS else "no IP address"
            raise RejectedError(
                resource=resource, detail=f"{vip.ip_address.addr!r} is {kind}; a VIP is an IP address"
            ) from None
        for port in service.services:
            if not 1 <= port.port <= 65535:
                raise RejectedError(resource=resource, detail=f"{port.port} is no port")
            pairs[address, port.port] = None
    return list(pairs)


def render_listeners(
    service: VirtualService, name: str, digest: str, pool: Pool, cluster: str
) -> list[dict[str, Any]]:
    """The listeners for the virtual service resource called ``name``, answered by ``cluster``."""
    pairs = endpoints_of(service, name)
    manager = _connection_manager(service, pool, cluster)
    return [
        {
            "name": f"{service.uuid}|{address}|{port}",
            "address": {"socket_address": {"address": address, "port_value": port}},
            # Several service engines on one host share the address by SO_REUSEPORT.
            "enable_reuse_port": True,
            "per_connection_buffer_limit_bytes": BUFFER_BYTES,
            "filter_chains": [
                {
                    "filters": [
                        {"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}
                    ]
                }
            ],
            "metadata": {
                "filter_metadata": {
                    METADATA_KEY: {
                        "resource": name,
                        "digest": digest,
                        "listeners": len(pairs),
                        "cluster": cluster,
                    }
                }
            },
        }
        for address, port in pairs
    ]
