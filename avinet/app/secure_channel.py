"""The controller's SSH server, built as the settings say."""

from collections.abc import Callable
from typing import Any

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from avinet.app.channel_terms import terms_of
from avinet.app.settings import SshSection
from avinet.ssh.gate import GateLimits
from avinet.ssh.login import Access
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.observer import Observer
from avinet.ssh.server import SecureChannelServer, ServerSettings


def secure_channel_server(
    settings: SshSection,
    host_key: Ed25519PrivateKey,
    access: Callable[[ProcessMemory], Access],
    observer: Observer,
    reactor: Any,
) -> SecureChannelServer:
    """``access`` says who may log in and what for, within one bound on memory."""
    terms = terms_of(settings, ServerSettings().link)
    gate = GateLimits(
        total=settings.max_unauthenticated,
        per_network=settings.max_unauthenticated_per_network,
        strangers_per_s=settings.max_strangers_per_s,
        per_network_per_s=settings.max_strangers_per_network_per_s,
    )
    server = ServerSettings(
        link=attrs.evolve(terms.limits, login_s=settings.auth_timeout_s),
        gate=gate,
        hybrid_only=terms.hybrid_only,
    )
    return SecureChannelServer(host_key, access(terms.memory), reactor, observer, server)
