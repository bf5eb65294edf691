"""A file as the body of an answer: read as fast as its client takes it, and then closed."""

from typing import BinaryIO

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from avinet.units import KIB

CHUNK_BYTES = 256 * KIB
"""Read at a time, between other work: 0.1 ms from the page cache, where a file that was just made is."""


@implementer(IBodyProducer, IPushProducer)
class FileBody:
    """``file`` from where it stands, ``length`` bytes; it is closed whatever happens."""

    def __init__(self, file: BinaryIO, length: int, clock: IReactorTime) -> None:
        self.length = length
        self._file = file
        self._clock = clock
        self._left = length
        self._over = False
        self._consumer: IConsumer | None = None
        self._next: IDelayedCall | None = None
        self._ended: Deferred[None] = Deferred(lambda _: self.stopProducing())

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Send it all; fires with a failure when the file ends early."""
        self._consumer = consumer
        consumer.registerProducer(self, True)
        self.resumeProducing()
        return self._ended

    def pauseProducing(self) -> None:
        """The client's connection is full."""
        if self._next is not None:
            self._next.cancel()
            self._next = None

    def resumeProducing(self) -> None:
        """It has drained."""
        if self._next is None and not self._over:
            self._next = self._clock.callLater(0, self._send)

    def stopProducing(self) -> None:
        """The client is gone, or nobody wants the body at all."""
        self._end(None)

    def _send(self) -> None:
        self._next = None
        if self._consumer is None:
            return
        try:
            piece = self._file.read(min(CHUNK_BYTES, self._left))
        except OSError as why:
            self._end(why)
            return
        self._left -= len(piece)
        if piece:
            self.resumeProducing()  # before it is written, which may pause
            self._consumer.write(piece)
        if not piece or not self._left:
            self._end(EOFError(f"{self._left} bytes are missing") if self._left else None)

    def _end(self, why: Exception | None) -> None:
        if self._over:
            return
        self._over = True
        self.pauseProducing()
        self._file.close()
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        if why is not None:
            consumer.unregisterProducer()
        if self._ended.called:
            return
        if why is None:
            self._ended.callback(None)
        else:
            self._ended.errback(why)
