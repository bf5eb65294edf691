"""A virtual service as Envoy listeners, one for each of its addresses and ports.

A listener's name stays the same for one address and port, so that Envoy hands the open socket from the old one to
the new: no connection is refused by a change.  Its metadata says which resource it stands for, what it is made of
and the hash of its content; which hashes a resource must have to be in force the carrier cluster tells
(``avinet.dataplane.envoy_render``).  So a change of a description leaves the listener, and its connections, alone.
"""

import hashlib
import ipaddress
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from avinet.dataplane.envoy_access_log import access_logs, refused_log
from avinet.dataplane.envoy_cluster import METADATA_KEY
from avinet.dataplane.envoy_downstream_tls import client_facing_tls
from avinet.dataplane.envoy_http import Pools, connection_manager, pool_refs
from avinet.dataplane.envoy_pool_http import pool_tcp_proxy
from avinet.dataplane.interface import LogFiles, RejectedError
from avinet.model.config import ApplicationProfile, IpAddrType, Service, VirtualService

BUFFER_BYTES = 64 * 1024
"""Of one connection, each way; Envoy's default of 1 MiB is too much for many slow clients."""

_TCP_PROXY = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy"


def endpoints_of(service: VirtualService, resource: str) -> dict[tuple[str, int], Service]:
    """The (address, port) pairs a virtual service answers on, each once."""
    pairs: dict[tuple[str, int], Service] = {}
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
            if pairs.setdefault((address, port.port), port) != port:
                detail = f"port {port.port} is there twice, and not alike"
                raise RejectedError(resource=resource, detail=detail)
    return pairs


def _filter(
    service: VirtualService, port: Service, pools: Pools, loggers: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    if service.application_profile_ref is ApplicationProfile.HTTP:
        return {
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {**connection_manager(service, port, pools), "access_log": list(loggers)},
        }
    proxy = {
        "@type": _TCP_PROXY,
        "stat_prefix": str(service.uuid),
        "access_log": list(loggers),
        **pool_tcp_proxy(*pools[service.pool_ref]),
    }
    return {"name": "envoy.filters.network.tcp_proxy", "typed_config": proxy}


def _chain(
    service: VirtualService,
    port: Service,
    pools: Pools,
    secrets: Mapping[str, dict[str, Any]],
    loggers: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    chain: dict[str, Any] = {"filters": [_filter(service, port, pools, loggers)]}
    if port.enable_ssl:
        http = service.application_profile_ref is ApplicationProfile.HTTP
        chain.update(client_facing_tls(service, port, list(secrets.values()), http=http))
    return chain


def render_listeners(
    service: VirtualService,
    name: str,
    pools: Pools,
    secrets: Mapping[str, dict[str, Any]],
    logs: LogFiles | None = None,
) -> list[dict[str, Any]]:
    """The listeners for the virtual service resource called ``name``; without ``logs`` they write none.

    ``secrets`` are its certificates' ``SdsSecretConfig`` by resource name, in the order in which they are preferred.
    """
    if not secrets and any(port.enable_ssl for port in service.services):
        raise RejectedError(resource=name, detail="it has a port with TLS and no certificate")
    clusters = [pools[ref][1] for ref in pool_refs(service)]
    http = service.application_profile_ref is ApplicationProfile.HTTP
    found = []
    for (address, number), port in endpoints_of(service, name).items():
        place = f"[{address}]:{number}" if ":" in address else f"{address}:{number}"
        loggers = access_logs(service, place, logs, http=http) if logs is not None else []
        listener: dict[str, Any] = {
            "name": f"{service.uuid}|{address}|{number}",
            "address": {"socket_address": {"address": address, "port_value": number}},
            "stat_prefix": str(service.uuid),
            # Several service engines on one host share the address by SO_REUSEPORT.
            "enable_reuse_port": True,
            "per_connection_buffer_limit_bytes": BUFFER_BYTES,
            "filter_chains": [_chain(service, port, pools, secrets, loggers)],
        }
        if logs is not None and http and port.enable_ssl:
            listener["access_log"] = refused_log(service, place, logs)
        made_of = {
            "resource": name,
            "clusters": clusters,
            "certificates": list(secrets) if port.enable_ssl else [],
            "content": hashlib.sha256(msgspec.json.encode(listener, order="deterministic")).hexdigest()[:16],
        }
        listener["metadata"] = {"filter_metadata": {METADATA_KEY: made_of}}
        found.append(listener)
    return found
