"""Joins two transports so that each one's bytes, pauses and ends reach the other."""

from twisted.internet.interfaces import (
    IConsumer,
    IHalfCloseableProtocol,
    IProtocol,
    IPushProducer,
    ITCPTransport,
    ITransport,
)
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

READ_BYTES = 256 * 1024
"""Of a socket at a time, and what it may hold before it pauses the other end; Twisted's own 64 KiB cost more turns."""


@implementer(IHalfCloseableProtocol)
class Splice(Protocol):
    """One end; ``join`` it with its other end once both are connected.

    Until then it takes nothing from its transport, so that nothing has to be kept.
    """

    def __init__(self) -> None:
        self.other: Splice | None = None
        self.lost = False
        self.input_ended = False

    def connectionMade(self) -> None:
        """Wait for the other end."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.bufferSize = READ_BYTES  # type: ignore[attr-defined]  # Twisted's sockets have it
        IPushProducer(self.transport).pauseProducing()

    def dataReceived(self, data: bytes) -> None:
        """Pass it on."""
        if self.other is not None and self.other.transport is not None:
            self.other.transport.write(data)

    def readConnectionLost(self) -> None:
        """No more from here: half close there."""
        self.input_ended = True
        other = self.other
        if other is None or other.lost:
            return
        other.transport.loseWriteConnection()  # type: ignore[union-attr]  # both kinds can half close
        if other.input_ended:
            for end in (self, other):
                end.transport.loseConnection()  # type: ignore[union-attr]  # connected until it is lost

    def writeConnectionLost(self) -> None:
        """We half closed this side ourselves."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """This side is gone: close the other once it has sent what it has."""
        self.lost = True
        other, self.other = self.other, None
        if other is None:
            return
        other.other = None
        transport = other.transport
        if other.lost or transport is None:
            return
        IConsumer(transport).unregisterProducer()
        transport.loseConnection()


def join(one: IProtocol, two: IProtocol) -> None:
    """Let two connected splices flow into each other."""
    first, second = _splice(one), _splice(two)
    if first.lost or second.lost:
        for end in (first, second):
            if not end.lost and end.transport is not None:
                end.transport.loseConnection()
        return
    first.other, second.other = second, first
    for source, sink in ((first, second), (second, first)):
        IConsumer(sink.transport).registerProducer(_producer(source.transport), True)
    for end in (first, second):
        IPushProducer(end.transport).resumeProducing()


def _splice(protocol: IProtocol) -> Splice:
    if not isinstance(protocol, Splice):
        raise TypeError("only splices can be joined")
    return protocol


def _producer(transport: ITransport | None) -> IPushProducer:
    return IPushProducer(transport)
