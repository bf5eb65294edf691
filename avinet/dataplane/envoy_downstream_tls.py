"""TLS between clients and a virtual service.

One context has all of a virtual service's certificates, and Envoy picks: the first one that bears the name that the
client asks for (a name itself before a wildcard, and of one name's several the one whose kind of key the client can
verify), the first of all when none does.
"""

from collections.abc import Sequence
from typing import Any

from avinet.dataplane.envoy_upstream_tls import tls_params
from avinet.model.config import Service, VirtualService

HANDSHAKE_S = 15
"""For a client to finish its handshake; slow phones need a few seconds, and nginx allows 60."""
CURVES = ("X25519MLKEM768", "X25519", "P-256", "P-384")
"""As browsers have them: post-quantum where the client can."""

_CONTEXT = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext"


def client_facing_tls(
    service: VirtualService, port: Service, secrets: Sequence[dict[str, Any]], *, http: bool
) -> dict[str, Any]:
    """Fields of a filter chain that terminates TLS; ``secrets`` are the certificates' ``SdsSecretConfig``."""
    common: dict[str, Any] = {
        "tls_params": {**tls_params(service.ssl_profile_ref), "ecdh_curves": list(CURVES)},
        "tls_certificate_sds_secret_configs": list(secrets),
    }
    if http:
        common["alpn_protocols"] = ["h2", "http/1.1"] if port.enable_http2 else ["http/1.1"]
    context = {"@type": _CONTEXT, "common_tls_context": common}
    return {
        "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": context},
        "transport_socket_connect_timeout": f"{HANDSHAKE_S}s",
    }
