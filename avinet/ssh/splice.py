"""Joins two transports so that each one's bytes, pauses and ends reach the other.

One end is a channel, the other usually a socket; that one is written to through an ``Outlet``, which takes what lies in
a packet to the kernel without a copy between.
"""

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITCPTransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.ssh.outlet import Outlet

READ_BYTES = 256 * 1024
"""Of a socket at a time; Twisted's own 64 KiB cost more turns."""


@implementer(IHalfCloseableProtocol)
class Splice(Protocol):
    """One end; ``join`` it with its other end once both are connected.

    Until then it takes nothing from its transport, so that nothing has to be kept.
    """

    def __init__(self) -> None:
        self.other: Splice | None = None
        self.lost = False
        self.input_ended = False
        self._outlet: Outlet | None = None

    def connectionMade(self) -> None:
        """Wait for the other end."""
        IPushProducer(self.transport).pauseProducing()

    def joined(self, other: "Splice") -> None:
        """``other`` is the other end: let it flow in here."""
        self.other = other
        if ITCPTransport.providedBy(self.transport):
            self.transport.bufferSize = READ_BYTES  # type: ignore[attr-defined]  # Twisted's sockets have it
            self._outlet = Outlet(self.transport, self._outlet_changed)
        else:
            IConsumer(self.transport).registerProducer(IPushProducer(other.transport), True)

    def _outlet_changed(self) -> None:
        """Our socket is full, or takes more again: so does the other end."""
        if self.other is None or self._outlet is None:
            return
        source = IPushProducer(self.other.transport)
        if self._outlet.full:
            source.pauseProducing()
        else:
            source.resumeProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass it on."""
        self.view_received(data)

    def view_received(self, view: bytes | memoryview) -> None:
        """Pass it on from where it lies."""
        other = self.other
        if other is None or other.transport is None:
            return
        if other._outlet is not None:  # noqa: SLF001 - the two ends are one mechanism
            other._outlet.send((view,))  # noqa: SLF001 - as above
        else:
            other.transport.write(bytes(view))

    def readConnectionLost(self) -> None:
        """No more from here: half close there."""
        self.input_ended = True
        other = self.other
        if other is None or other.lost:
            return
        other.end_output()
        if other.input_ended:
            for end in (self, other):
                end.close()

    def writeConnectionLost(self) -> None:
        """We half closed this side ourselves."""

    def end_output(self) -> None:
        """Half close, once everything has been sent."""
        self._let_go()
        self.transport.loseWriteConnection()  # type: ignore[union-attr]  # both kinds can half close

    def close(self) -> None:
        """Close once everything has been sent."""
        self._let_go()
        if self.transport is not None:
            self.transport.loseConnection()

    def _let_go(self) -> None:
        """A transport with a producer does not end."""
        outlet, self._outlet = self._outlet, None
        if outlet is not None:
            outlet.close()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """This side is gone: close the other once it has sent what it has."""
        self.lost = True
        self._outlet = None
        other, self.other = self.other, None
        if other is None:
            return
        other.other = None
        if other.lost or other.transport is None:
            return
        if not ITCPTransport.providedBy(other.transport):
            IConsumer(other.transport).unregisterProducer()
        other.close()


def join(one: IProtocol, two: IProtocol) -> None:
    """Let two connected splices flow into each other."""
    first, second = _splice(one), _splice(two)
    if first.lost or second.lost:
        for end in (first, second):
            if not end.lost:
                end.close()
        return
    first.joined(second)
    second.joined(first)
    for end in (first, second):
        IPushProducer(end.transport).resumeProducing()


def _splice(protocol: IProtocol) -> Splice:
    if not isinstance(protocol, Splice):
        raise TypeError("only splices can be joined")
    return protocol
