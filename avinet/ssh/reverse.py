"""The controller's end of the reverse forwards: who holds which loopback address, and who may connect to it.

Whoever connects to ``127.1.x.y:5097`` on the controller becomes a ``forwarded-tcpip`` channel to that SE.  The
forward belongs to one login of the SE at a time.  A login that has said ``Hello`` may take it from one that has
not, never the other way round, so that an operator's test with the SE's key disturbs nothing.

By whatever socket somebody came in (``reverse_socket``), the local address of the connection tells which SE it is
for.  One for no SE is reset, and so is one from outside the machine.
"""

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IAddress, IProtocol, IReactorTime, ITCPTransport
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from avinet.errors import AvinetError, Kind, error
from avinet.ssh.reverse_socket import SocketEach, Sockets
from avinet.ssh.splice import Splice, join

MAX_CONNECTIONS = 64
"""Through one SE's forward at once; each may hold a channel window."""
MAX_CONNECTIONS_IN_ALL = 4_096
"""Through all forwards at once.  Each is a descriptor, of which SEs' own sessions need theirs, and the other end of
each is one more on this machine: so many ``ssh`` clients (some 5 MiB each) would have taken its memory before."""
OPEN_TIMEOUT_S = 15.0
"""An SE that does not answer a channel open by then is not there."""


@error
class ForwardHeldError(AvinetError):
    """The forward {address}:{port} belongs to another login of the same SE."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    address: str
    port: int


class ForwardHolder(Protocol):
    """The login that a forward belongs to."""

    attached: bool

    def forward_lost(self) -> None:
        """Another login has it now."""

    def open_forwarded(
        self, protocol: IProtocol, listening: tuple[str, int], origin: tuple[str, int]
    ) -> Deferred[IProtocol]:
        """A channel for someone who connected."""


@attrs.define(eq=False)
class _Forward:
    """One SE's address, while somebody holds it."""

    holder: ForwardHolder
    listening: tuple[str, int]
    connections: int = 0


class _Incoming(Splice):
    """Someone who connected to a loopback address."""

    def __init__(self, listeners: "ReverseListeners") -> None:
        super().__init__()
        self.forward: _Forward | None = None
        self._listeners = listeners

    def connectionMade(self) -> None:
        """Find out for whom it is; it waits, paused."""
        super().connectionMade()
        self._listeners.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Gone."""
        self._listeners.disconnected(self)
        super().connectionLost(reason)


class _Callers(Factory):
    """Whose address it is can be seen once there is a transport, so everyone gets a protocol first."""

    noisy = False

    def __init__(self, listeners: "ReverseListeners") -> None:
        self._listeners = listeners

    def buildProtocol(self, addr: IAddress | None) -> IProtocol:  # type: ignore[override]  # Twisted's type wants a factory attribute
        """Anyone."""
        return _Incoming(self._listeners)


@attrs.define(eq=False)
class ReverseListeners:
    """All forwards of one controller, by loopback address.

    ``sockets`` makes what listens; an error that it raises is this constructor's.
    """

    reactor: Any
    clock: IReactorTime
    sockets: Callable[[Any, IReactorTime, Factory], Sockets] = SocketEach
    _sockets: Sockets = attrs.field(init=False)
    _forwards: dict[str, _Forward] = attrs.field(factory=dict, init=False)
    _connections: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._sockets = self.sockets(self.reactor, self.clock, _Callers(self))

    def claim(self, holder: ForwardHolder, address: str, port: int) -> None:
        """Give ``address:port`` to ``holder``.  ``ForwardHeldError``, or another ``AvinetError`` such as
        ``PortTakenError`` when nothing can listen there.
        """
        forward = self._forwards.get(address)
        if forward is None:
            self._sockets.occupy(address, port)
            self._forwards[address] = _Forward(holder, (address, port))
            return
        current = forward.holder
        if current is not holder:
            if current.attached or not holder.attached:
                raise ForwardHeldError(address=address, port=port)
            current.forward_lost()
            forward.holder = holder

    def release(self, holder: ForwardHolder, address: str) -> None:
        """``holder`` does without; connections through it end with their channels."""
        forward = self._forwards.get(address)
        if forward is None or forward.holder is not holder:
            return
        del self._forwards[address]
        self._sockets.vacate(address)

    async def stop(self) -> None:
        """Close what listens."""
        self._forwards.clear()
        await self._sockets.stop()

    # What those who connect tell

    def connected(self, incoming: _Incoming) -> None:
        """Open a channel for it, or reset it at once."""
        transport: Any = incoming.transport
        host, peer = transport.getHost(), transport.getPeer()
        forward = self._forwards.get(host.host)
        if (
            forward is None
            # By a socket on one address a neighbour could come in where net.ipv4.conf.*.route_localnet is on.
            or not ip_address(peer.host).is_loopback
            or forward.connections >= MAX_CONNECTIONS
            or self._connections >= MAX_CONNECTIONS_IN_ALL
        ):
            transport.abortConnection()
            return
        incoming.forward = forward
        forward.connections += 1
        self._connections += 1
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        opening = forward.holder.open_forwarded(Splice(), forward.listening, (peer.host, peer.port))
        opening.addTimeout(OPEN_TIMEOUT_S, self.clock)
        opening.addCallbacks(lambda channel: join(incoming, channel), lambda _: transport.loseConnection())

    def disconnected(self, incoming: _Incoming) -> None:
        """One less."""
        forward, incoming.forward = incoming.forward, None
        if forward is not None:
            forward.connections -= 1
            self._connections -= 1
