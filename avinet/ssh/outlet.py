"""Where packets leave a link: the transport below it, filled no further than is good for what is urgent.

What is handed to a transport is beyond any priority, so the link stops at ``QUEUED_BYTES`` and goes on when the
transport has sent everything.  As a pull producer of that transport the outlet hears of it each time.

Packets go straight to the socket where there is one and nothing waits before them: Twisted's own path copies each once
more and asks epoll twice for it.  At most ``BURST_BYTES`` go so before the socket has to say that it wants more, since
a send takes what fits the kernel's buffer, however little TCP_NOTSENT_LOWAT leaves there.  Between ``hold`` and ``let_go``
small packets are gathered, so that the answers to what one read brought are one segment.
"""

import socket
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.interfaces import IPullProducer, ITCPTransport
from zope.interface import implementer

QUEUED_BYTES = 64 * 1024
"""Twisted's own limit, at which it would pause a producer."""
BURST_BYTES = 256 * 1024
"""One of the largest packets."""
LARGE_BYTES = 16 * 1024
"""Smaller packets are gathered; so much of them goes before ``let_go``."""
UNSENT_BYTES = 64 * 1024
"""TCP_NOTSENT_LOWAT, at least: what the kernel keeps beyond what is on its way before it wants more."""
UNSENT_PACKETS = 2
"""The same in packets as large as the rate allows (5 ms each): with less, each would be sent in two parts."""


def _behind(sent: int, pieces: Sequence[bytes | memoryview]) -> list[bytes]:
    """What is left of the pieces behind their first ``sent`` bytes."""
    rest: list[bytes] = []
    for piece in pieces:
        if sent < len(piece):
            rest.append(bytes(piece[sent:] if sent else piece))
        sent = max(sent - len(piece), 0)
    return rest


@implementer(IPullProducer)
class Outlet:
    """The end of a link towards its peer.  ``changed`` is called when ``full`` becomes true or false."""

    __slots__ = (
        "_burst",
        "_changed",
        "_fitted",
        "_gathered",
        "_holding",
        "_queued",
        "_socket",
        "_transport",
        "full",
    )

    def __init__(self, transport: Any, changed: Callable[[], None]) -> None:
        self._transport = transport
        self._changed = changed
        self._socket: socket.socket | None = None
        self._queued = 0
        """Bytes given to the transport since it was last empty."""
        self._burst = 0
        """Bytes that the socket took since it last said that it wants more."""
        self.full = False
        self._fitted = -1
        self._holding = False
        self._gathered = b""
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
            transport.setTcpKeepAlive(True)
            self._use_socket(transport)
        transport.registerProducer(self, False)

    def _use_socket(self, transport: Any) -> None:
        handle = transport.getHandle() if hasattr(transport, "getHandle") else None
        if isinstance(handle, socket.socket) and hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self._socket = handle
            self.fit(0)

    def fit(self, packet: int) -> None:
        """Let the kernel keep as much as suits packets of ``packet`` bytes."""
        if self._socket is not None and packet != self._fitted:
            self._fitted = packet
            unsent = max(UNSENT_BYTES, UNSENT_PACKETS * packet)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, unsent)

    def send(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Send the pieces of a packet, or of some, behind everything before them; views are good during the call."""
        size = sum(map(len, pieces))
        if self._holding and size < LARGE_BYTES and not self._queued and self._socket is not None:
            self._gathered += b"".join(pieces)
            if len(self._gathered) >= LARGE_BYTES:
                self._send_gathered()
        else:
            self._send_gathered()
            self._send_now(pieces, size)

    def hold(self) -> None:
        """Gather small packets from now on."""
        self._holding = True

    def let_go(self) -> None:
        """Send what was gathered."""
        self._holding = False
        self._send_gathered()

    def _send_gathered(self) -> None:
        gathered, self._gathered = self._gathered, b""
        if gathered:
            self._send_now((gathered,), len(gathered))

    def _send_now(self, pieces: Sequence[bytes | memoryview], size: int) -> None:
        if self._queued or self._socket is None:
            self._queue([b"".join(pieces)] if size < LARGE_BYTES else list(map(bytes, pieces)), size)
            return
        try:
            sent = self._socket.sendmsg(pieces)
        except OSError:
            # Full, or broken: the transport finds out which.
            sent = 0
        if sent < size:
            self._queue(_behind(sent, pieces), size - sent)
            return
        self._burst += size
        if self._burst >= BURST_BYTES and not self.full:
            self.full = True
            self._transport.startWriting()  # it calls resumeProducing once it is writable
            self._changed()

    def _queue(self, pieces: list[bytes], size: int) -> None:
        self._queued += size
        if len(pieces) == 1:
            self._transport.write(pieces[0])
        else:
            self._transport.writeSequence(pieces)
        if self._queued > QUEUED_BYTES and not self.full:
            self.full = True
            self._changed()

    def resumeProducing(self) -> None:
        """The transport has sent all it had."""
        self._queued = self._burst = 0
        if self.full:
            self.full = False
            self._changed()

    def stopProducing(self) -> None:
        """The transport is gone; the link hears of it otherwise."""
        self.full = True

    def close(self) -> None:
        """Nothing more will be sent: let the transport end once it is empty."""
        self._send_gathered()
        self._transport.unregisterProducer()
        self._socket = None
