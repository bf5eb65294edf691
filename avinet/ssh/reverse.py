"""The controller's end of the reverse forwards: one listening socket for each SE, on its own loopback address.

Whoever connects to ``127.1.x.y:5097`` on the controller becomes a ``forwarded-tcpip`` channel to that SE.  The
forward belongs to one login of the SE at a time.  A login that has said ``Hello`` may take it from one that has
not, never the other way round, so that an operator's test with the SE's key disturbs nothing.

A released socket stays for ``VACANT_S``, refusing, so that a session that replaces another finds it open:
closing and binding again in one turn of the reactor fails.
"""

from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import (
    IAddress,
    IDelayedCall,
    IListeningPort,
    IProtocol,
    IReactorTCP,
    IReactorTime,
    ITCPTransport,
)
from twisted.internet.protocol import Factory, connectionDone
from twisted.python.failure import Failure

from avinet.errors import AvinetError, Kind, error
from avinet.ports import port_taken
from avinet.ssh.splice import Splice, join

MAX_CONNECTIONS = 64
"""Through one SE's forward at once; each may hold a channel window."""
OPEN_TIMEOUT_S = 15.0
"""An SE that does not answer a channel open by then is not there."""
VACANT_S = 2.0
"""Longer than a session that replaces another takes to ask, shorter than anyone waits for a dead SE."""


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


class _Incoming(Splice):
    """Someone who connected to an SE's loopback address."""

    forward: "_Forward"

    def connectionMade(self) -> None:
        """Ask the SE for a channel."""
        super().connectionMade()
        self.forward.connected(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Gone."""
        self.forward.disconnected(self)
        super().connectionLost(reason)


class _Forward(Factory):
    """One SE's listening socket."""

    noisy = False

    def __init__(self, holder: ForwardHolder, address: str, port: int, clock: IReactorTime) -> None:
        self.holder: ForwardHolder | None = holder
        self.listening = (address, port)
        self.socket: IListeningPort | None = None
        self.vacating: IDelayedCall | None = None
        self._clock = clock
        self._open: set[_Incoming] = set()

    def buildProtocol(self, addr: IAddress | None) -> IProtocol | None:  # type: ignore[override]  # Twisted's type wants a factory attribute
        """None refuses at once: nobody holds the forward, or too many use it."""
        if self.holder is None or len(self._open) >= MAX_CONNECTIONS:
            return None
        incoming = _Incoming()
        incoming.forward = self
        return incoming

    def connected(self, incoming: _Incoming) -> None:
        """Open its channel; it waits, paused."""
        self._open.add(incoming)
        transport = incoming.transport
        if self.holder is None or transport is None:
            return
        if ITCPTransport.providedBy(transport):
            transport.setTcpNoDelay(True)
        peer = transport.getPeer()
        origin = (str(getattr(peer, "host", "")), int(getattr(peer, "port", 0)))
        opening = self.holder.open_forwarded(Splice(), self.listening, origin)
        opening.addTimeout(OPEN_TIMEOUT_S, self._clock)
        opening.addCallbacks(lambda channel: join(incoming, channel), lambda _: transport.loseConnection())

    def disconnected(self, incoming: _Incoming) -> None:
        """One less."""
        self._open.discard(incoming)


@attrs.define(eq=False)
class ReverseListeners:
    """All forwards of one controller, by loopback address."""

    reactor: IReactorTCP
    clock: IReactorTime
    _forwards: dict[str, _Forward] = attrs.field(factory=dict, init=False)

    def claim(self, holder: ForwardHolder, address: str, port: int) -> None:
        """Give ``address:port`` to ``holder``.  ``ForwardHeldError`` or ``PortTakenError`` when it cannot be."""
        forward = self._forwards.get(address)
        if forward is None:
            forward = _Forward(holder, address, port, self.clock)
            try:
                forward.socket = self.reactor.listenTCP(port, forward, interface=address)  # type: ignore[arg-type]  # as above
            except CannotListenError:
                raise port_taken(port, address, "reverse_port") from None
            self._forwards[address] = forward
            return
        current = forward.holder
        if current is not None and current is not holder:
            if current.attached or not holder.attached:
                raise ForwardHeldError(address=address, port=port)
            current.forward_lost()
        if forward.vacating is not None:
            forward.vacating.cancel()
            forward.vacating = None
        forward.holder = holder

    def release(self, holder: ForwardHolder, address: str) -> None:
        """``holder`` does without; connections through it end with their channels."""
        forward = self._forwards.get(address)
        if forward is None or forward.holder is not holder:
            return
        forward.holder = None
        forward.vacating = self.clock.callLater(VACANT_S, self._close, address)

    def _close(self, address: str) -> None:
        forward = self._forwards.pop(address)
        if forward.socket is not None:
            forward.socket.stopListening()

    async def stop(self) -> None:
        """Close every socket."""
        forwards, self._forwards = list(self._forwards.values()), {}
        for forward in forwards:
            if forward.vacating is not None:
                forward.vacating.cancel()
            if forward.socket is not None:
                await maybeDeferred(forward.socket.stopListening)
