"""TLS between the data plane and a pool's servers.

A cluster has one way of connecting to all its servers, and others that a server or a health check picks by a mark
(``transport_socket_matches``).  Servers with a host name of their own are asked for it and must prove it; the rest
are asked for the pool's ``server_name``, or for none and then only have to chain to the pool's CA.
"""

from collections.abc import Mapping
from typing import Any

from avinet.model.config import IpAddrType, Pool, Server, SslProfile

CHECK_TLS = {"check": "tls"}
"""The mark of a check that speaks TLS where the pool does not."""
CHECK_PLAIN = {"check": "plain"}
"""The mark of a check that does not where the pool does."""
MATCH_KEY = "envoy.transport_socket_match"
_OWN_NAME = {"name": "own"}
_TLS = "envoy.transport_sockets.tls"
_CONTEXT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext"
_RAW = "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"
_CIPHERS = [
    "[ECDHE-ECDSA-AES128-GCM-SHA256|ECDHE-ECDSA-CHACHA20-POLY1305]",
    "[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]",
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
]
"""Of TLS 1.2; those in brackets are taken as the other side prefers."""


def tls_params(profile: SslProfile) -> dict[str, Any]:
    """Versions and ciphers: ``TlsParameters``.  TLS 1.3 has its own ciphers, all of them good."""
    if profile is SslProfile.MODERN:
        return {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"}
    return {
        "tls_minimum_protocol_version": "TLSv1_2",
        "tls_maximum_protocol_version": "TLSv1_3",
        "cipher_suites": _CIPHERS,
    }


def server_name_of(pool: Pool, server: Server) -> str:
    """The name that a server is asked for, and must prove where there is a CA; empty for none."""
    by_name = server.ip.addr if server.ip.type is IpAddrType.DNS else ""
    return pool.server_name or server.hostname or by_name


def match_of(pool: Pool, server: Server) -> dict[str, str]:
    """The mark of a server, for its endpoint's metadata under ``MATCH_KEY``; empty for none."""
    own = pool.ssl_profile_ref is not None and not pool.server_name and server_name_of(pool, server)
    return dict(_OWN_NAME) if own else {}


def _context(pool: Pool, profile: SslProfile, certificate: Mapping[str, Any] | None) -> dict[str, Any]:
    """Without any name: its parts are those of every server."""
    common: dict[str, Any] = {"tls_params": tls_params(profile)}
    if certificate is not None:
        common["tls_certificate_sds_secret_configs"] = [dict(certificate)]
    if pool.ca_certs:
        bundle = "".join(f"{pem.strip()}\n" for pem in pool.ca_certs)
        common["validation_context"] = {"trusted_ca": {"inline_string": bundle}}
    return {"@type": _CONTEXT, "common_tls_context": common}


def _for_name(context: dict[str, Any], name: str) -> dict[str, Any]:
    """``context`` for one name, the same for every server."""
    common = context["common_tls_context"]
    if "validation_context" in common:
        names = [{"san_type": "DNS", "matcher": {"exact": name}}]
        common = {
            **common,
            "validation_context": {**common["validation_context"], "match_typed_subject_alt_names": names},
        }
    return {**context, "common_tls_context": common, "sni": name}


def _for_own_names(context: dict[str, Any]) -> dict[str, Any]:
    verified = "validation_context" in context["common_tls_context"]
    return {**context, "auto_host_sni": True, **({"auto_sni_san_validation": True} if verified else {})}


def _socket(context: dict[str, Any]) -> dict[str, Any]:
    return {"name": _TLS, "typed_config": context}


def transport_sockets(
    pool: Pool, *, certificate: Mapping[str, Any] | None, tls_checks: bool, plain_checks: bool
) -> dict[str, Any]:
    """A cluster's ``transport_socket`` and ``transport_socket_matches``.

    ``certificate`` is the ``SdsSecretConfig`` of what we show to servers that ask; the others say whether the pool
    has monitors with TLS and without.
    """
    fields: dict[str, Any] = {}
    matches: list[dict[str, Any]] = []
    if pool.ssl_profile_ref is None:
        if tls_checks:
            # Whoever asks over TLS a server that is sent requests without it has no reason to verify it.
            context = _context(Pool(uuid=pool.uuid, name=""), SslProfile.STANDARD, None)
            named = _for_name(context, pool.server_name) if pool.server_name else _for_own_names(context)
            matches.append({"name": "tls", "match": CHECK_TLS, "transport_socket": _socket(named)})
    else:
        context = _context(pool, pool.ssl_profile_ref, certificate)
        if pool.server_name:
            context = _for_name(context, pool.server_name)
        elif any(match_of(pool, server) for server in pool.servers):
            own = _socket(_for_own_names(context))
            matches.append({"name": "own", "match": _OWN_NAME, "transport_socket": own})
        fields["transport_socket"] = _socket(context)
        if plain_checks:
            raw = {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {"@type": _RAW}}
            matches.append({"name": "plain", "match": CHECK_PLAIN, "transport_socket": raw})
    return {**fields, "transport_socket_matches": matches} if matches else fields
