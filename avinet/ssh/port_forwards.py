"""Ports of programs at both ends of a connection, joined through a channel with honest windows (``splice``).

``LocalPort`` is the near end: who connects to it becomes a channel.  ``PortEnd`` is the far one: a channel that becomes a
connection to a port on this machine's loopback.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from avinet.ssh.splice import Splice, join

MAX_CONNECTIONS = 256
"""Through one port at once; each is two descriptors and two windows.  A state engine has some ten."""
OPEN_TIMEOUT_S = 5.0
"""For the channel; the program that connected has a patience of its own."""
CONNECT_TIMEOUT_S = 5.0
"""To a port on the same machine: it listens, or it does not."""
LOOPBACK = "127.0.0.1"


class LocalPort(Factory):
    """Whoever connects is joined with a channel that ``open_channel`` opens; without one it is cut."""

    noisy = False

    def __init__(self, open_channel: Callable[[IProtocol], Deferred[IProtocol]], clock: IReactorTime) -> None:
        self._open_channel = open_channel
        self._clock = clock
        self._callers: set[_Caller] = set()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]  # Twisted's type wants a factory attribute
        """One of this machine's programs."""
        if len(self._callers) >= MAX_CONNECTIONS:
            return None
        return _Caller(self)

    def connected(self, caller: "_Caller") -> None:
        """It waits, paused."""
        transport: Any = caller.transport
        self._callers.add(caller)
        # A neighbour could come in where net.ipv4.conf.*.route_localnet is on.
        if not ip_address(transport.getPeer().host).is_loopback:
            transport.abortConnection()
            return
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        opening = self._open_channel(Splice())
        opening.addTimeout(OPEN_TIMEOUT_S, self._clock)
        opening.addCallbacks(lambda channel: join(caller, channel), lambda _: transport.abortConnection())

    def disconnected(self, caller: "_Caller") -> None:
        """One less."""
        self._callers.discard(caller)

    def cut(self) -> None:
        """End all that came through it."""
        for caller in tuple(self._callers):
            if caller.transport is not None:
                caller.transport.abortConnection()  # type: ignore[attr-defined]  # as TCP has it


class _Caller(Splice):
    """A program that connected."""

    def __init__(self, port: LocalPort) -> None:
        super().__init__()
        self._port = port

    def connectionMade(self) -> None:
        """Find the other end."""
        super().connectionMade()
        self._port.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Gone."""
        self._port.disconnected(self)
        super().connectionLost(reason)


class _Splices(Factory):
    """Of connections that we make; without a word in the log for each."""

    noisy = False
    protocol = Splice


class PortEnd(Splice):
    """A channel that continues to ``port`` of this machine."""

    def __init__(self, reactor: Any, port: int) -> None:
        super().__init__()
        self._reactor = reactor
        self._target = port
        self._connecting: Deferred[Any] | None = None

    def connectionMade(self) -> None:
        """Connect; the channel waits, paused."""
        super().connectionMade()
        endpoint = TCP4ClientEndpoint(self._reactor, LOOPBACK, self._target, timeout=CONNECT_TIMEOUT_S)
        connecting = self._connecting = endpoint.connect(_Splices())
        connecting.addCallbacks(self._connected, self._failed)

    def _connected(self, there: Any) -> None:
        self._connecting = None
        if ITCPTransport.providedBy(there.transport):
            there.transport.setTcpNoDelay(True)
        join(self, there)

    def _failed(self, _: Failure) -> None:
        self._connecting = None
        if not self.lost:
            self.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The channel is gone."""
        super().connectionLost(reason)
        connecting, self._connecting = self._connecting, None
        if connecting is not None:
            connecting.cancel()
