"""What TCP connections carry, as the kernel counts it: Linux's tcp_info (tcp(7), linux/tcp.h)."""

import struct
from socket import IPPROTO_TCP, TCP_INFO, socket
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IProtocol

TCP_INFO_BYTES = 256
"""More than any kernel's; it answers with what it has."""
BYTES_ACKED = 120
"""The offset of bytes_acked, bytes_received, segs_out and segs_in, since Linux 4.2."""


class Dialed:
    """An endpoint that shows the socket of what it connected."""

    def __init__(self, endpoint: TCP4ClientEndpoint) -> None:
        self._endpoint = endpoint
        self.socket: socket | None = None

    def connect(self, factory: Any) -> Deferred[IProtocol]:
        """See ``IStreamClientEndpoint``."""
        return self._endpoint.connect(factory).addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self.socket = protocol.transport.getHandle()
        return protocol


@attrs.frozen
class Carried:
    """What one or more TCP connections have carried so far, both ways, as the kernel counts (Linux, tcp(7))."""

    payload_bytes: int = 0
    segments: int = 0
    received_bytes: int = 0
    """Of the payload, at this end."""

    @classmethod
    def by(cls, connection: socket) -> "Carried":
        """One connection."""
        info = connection.getsockopt(IPPROTO_TCP, TCP_INFO, TCP_INFO_BYTES)
        acked, received, out, into = struct.unpack_from("=QQII", info, BYTES_ACKED)
        return cls(acked + received, out + into, received)

    def __add__(self, other: "Carried") -> "Carried":
        return Carried(
            self.payload_bytes + other.payload_bytes,
            self.segments + other.segments,
            self.received_bytes + other.received_bytes,
        )

    def __sub__(self, other: "Carried") -> "Carried":
        return Carried(
            self.payload_bytes - other.payload_bytes,
            self.segments - other.segments,
            self.received_bytes - other.received_bytes,
        )
