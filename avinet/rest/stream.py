"""Server-sent events: a list that goes on, with resume by ``Last-Event-ID`` (WHATWG HTML, 9.2).

A stream first reads what its client missed, page by page, then follows what comes; each item has a number, so
what arrives on both ways is told once.  A client that reads too slowly is never waited for: while its connection
is full, items are not kept for it but read again from the log when it drains, and if it does not drain in time
the connection is cut (``avinet.rest.site``).  So a stream holds one page and a position, whatever the client does.
A comment each ``HEARTBEAT_S`` keeps proxies from closing a quiet stream and finds clients that are gone.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IConsumer, IDelayedCall, IPushProducer, IReactorTime
from twisted.python.failure import Failure
from twisted.web.iweb import UNKNOWN_LENGTH, IBodyProducer
from zope.interface import implementer

EVENT_STREAM_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
"""As WHATWG HTML recommends; proxies cut at 30 to 60 s of silence."""
PAGE = 100
"""Items read and written at a time; at a KiB each, what a socket buffer takes."""
RETRY_MS = 2_000
"""What clients are told to wait before they come back: fast enough for people, slow enough after a restart."""


@attrs.frozen
class Item:
    """One event of a stream: its number, its name, and its JSON in one line; and its id, where a number does not say enough."""

    number: int
    name: str
    data: bytes
    id: str = ""

    def encoded(self) -> bytes:
        """The bytes on the wire."""
        return b"id: %s\nevent: %s\ndata: %s\n\n" % (
            (self.id or str(self.number)).encode(),
            self.name.encode(),
            self.data,
        )


class Source(Protocol):
    """Where a stream's items come from."""

    def since(self, after: int, limit: int) -> Deferred[Sequence[Item]]:
        """The oldest items after ``after``."""

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        """Call ``woken`` whenever there is a newer item; the answer ends that."""


@implementer(IBodyProducer, IPushProducer)
class EventStream:
    """The body of one client's stream, from after number ``after``."""

    length = UNKNOWN_LENGTH

    def __init__(self, source: Source, after: int, clock: IReactorTime) -> None:
        self._source = source
        self._position = after
        self._clock = clock
        self._consumer: IConsumer | None = None
        self._done: Deferred[None] = Deferred(lambda _: self.stopProducing())
        self._unfollow: Callable[[], None] | None = None
        self._heartbeat: IDelayedCall | None = None
        self._reading: Deferred[None] | None = None
        self._paused = False
        self._more = True

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """Stream for ever; fires with a failure when the source cannot be read."""
        self._consumer = consumer
        consumer.registerProducer(self, True)
        consumer.write(b"retry: %d\n\n" % RETRY_MS)
        self._unfollow = self._source.follow(self._woken)
        self._beat_later()
        self._read()
        return self._done

    def pauseProducing(self) -> None:
        """The client's connection is full."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It has drained: read on from where we were."""
        self._paused = False
        self._read()

    def stopProducing(self) -> None:
        """The client is gone, or nobody wants this any more."""
        self._end(None)

    def _woken(self) -> None:
        self._more = True
        self._read()

    def _read(self) -> None:
        if self._reading is not None or self._paused or not self._more or self._consumer is None:
            return
        self._more = False
        self._reading = reading = Deferred.fromCoroutine(self._read_page())
        reading.addCallbacks(self._read_on, self._end)

    async def _read_page(self) -> None:
        items = await self._source.since(self._position, PAGE)
        if self._consumer is None or not items:
            return
        # A source may give fewer than there are, where they are large.
        self._more = True
        self._position = items[-1].number
        self._consumer.write(b"".join(item.encoded() for item in items))

    def _read_on(self, result: None) -> None:
        self._reading = None
        self._read()

    def _beat_later(self) -> None:
        self._heartbeat = self._clock.callLater(HEARTBEAT_S, self._beat)

    def _beat(self) -> None:
        if self._consumer is not None and not self._paused:
            self._consumer.write(b":\n\n")
        self._beat_later()

    def _end(self, failure: Failure | None) -> None:
        consumer, self._consumer = self._consumer, None
        if consumer is None:
            return
        if self._unfollow is not None:
            self._unfollow()
        if self._heartbeat is not None and self._heartbeat.active():
            self._heartbeat.cancel()
        reading, self._reading = self._reading, None
        if failure is not None:
            consumer.unregisterProducer()  # a client that left took the registration with it
            self._done.errback(failure)
            return
        if reading is not None:
            reading.addErrback(lambda why: why.trap(CancelledError) and None)
            reading.cancel()
        if not self._done.called:
            self._done.callback(None)
