"""What a connection's two ends settled and how it does, put together from its parts for operators."""

import math

from avinet.model.channel import IMPLICIT, ChannelStatus
from avinet.ssh.connection import Connection
from avinet.ssh.links import ServerLink
from avinet.ssh.transport import Link


def status_of(link: ServerLink, connection: Connection, address: str, since: float) -> ChannelStatus:
    """Of a login from ``address`` that began at ``since`` by the link's clock; the server is the controller."""
    algorithms, governor = link.algorithms, connection.turns.governor
    if algorithms is None:
        raise AssertionError("a login has keys")
    return ChannelStatus(
        address=address,
        age_s=round(max(0.0, link.clock.seconds() - since), 3),
        peer=link.otherVersionString.decode(errors="replace"),
        kex=algorithms.kex.decode(),
        host_key=algorithms.host_key.decode(),
        cipher_in=algorithms.cipher_cs.decode(),
        cipher_out=algorithms.cipher_sc.decode(),
        mac_in=algorithms.mac_cs.decode() or IMPLICIT,
        mac_out=algorithms.mac_sc.decode() or IMPLICIT,
        strict=link.strict,
        rekeys=link.exchanges - 1,
        channels=len(connection.channels),
        rtt_min_ms=round(governor.min_rtt_s * 1000, 3) if governor.min_rtt_s < math.inf else None,
        rate_bytes_s=int(governor.rate_bytes_s) or None,
        window_bytes=governor.window,
        held_bytes=connection.memory.held,
    )


def cipher_of(link: Link) -> str:
    """What both directions are under; they are negotiated alike."""
    return link.algorithms.cipher_cs.decode() if link.algorithms is not None else ""


def ends_of(link: Link) -> tuple[str, str]:
    """Our IP address and the peer's; empty where the transport has none."""
    ours, theirs = link.transport.getHost(), link.transport.getPeer()
    return str(getattr(ours, "host", "")), str(getattr(theirs, "host", ""))
