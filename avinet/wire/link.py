"""One end of a session of framed messages: joins the codec to a transport, bounded both ways.

The control session's two roles, and controllers among themselves, use it and hang their own behaviour on it as a
``LinkHandler``.  Outgoing messages are of two kinds.
``send`` is for single ones; they wait, at most ``max_queue_bytes``, while the transport takes no more, and a peer
that lets more pile up is cut.  ``send_all`` takes a series of any length lazily, one message at a time as the
transport asks for more, so a large push needs no memory and a heartbeat waits for one frame of it at most.

Incoming messages can be held to a rate: over it the transport is paused, so that a peer that talks too much waits in
its own memory.  What a transport delivers although it is paused is bounded too.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from typing import ClassVar, Generic, Protocol, cast

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError, Kind, LocalProtocolError, RemoteProtocolError, error
from avinet.units import KIB, MIB
from avinet.wire.codec import CONTROL, Dialect, FrameDecoder, UnknownMessage
from avinet.wire.vocabulary import M

TURN_BYTES = 256 * KIB
"""What one series sends before the reactor has its turn, on a transport that never says stop."""
COST_BYTES = 16 * KIB
"""A frame costs one of the rate's tokens, and one more for each of these: a large one is more work."""
MAX_SERIES = 8
"""Series that wait for each other; there is one push in flight and perhaps a list."""


@error
class LinkLostError(AvinetError):
    """The control session ended before this was done: {why}. It is done again on the next session."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str


@attrs.frozen
class LinkLimits:
    """The bounds of one link."""

    max_queue_bytes: int = 4 * MIB
    """Four of the largest messages.  Beyond it the peer does not read and is cut."""
    max_early_bytes: int = 2 * MIB
    """What may arrive while paused: the channel's window was granted before, and a frame may be under way."""
    frames_per_s: float | None = None
    """None is no rate: the peer is trusted."""
    frames_burst: int = 200
    close_s: float = 5.0
    """For the peer to take our last message; then the transport is aborted."""


class LinkHandler(Protocol[M]):
    """What a role makes of its messages."""

    def link_made(self, link: "MessageLink[M]") -> None:
        """The transport is there; messages may be sent."""

    def message_received(self, message: M) -> None:
        """One message.  ``RemoteProtocolError`` from here cuts the link as a malformed one would."""

    def link_lost(self, why: str) -> None:
        """Once, last: the transport is gone, whoever ended it."""


class StreamTransport(Protocol):
    """What is asked of a transport: TCP, TLS and the secure channel's channels all have it."""

    def write(self, data: bytes) -> None:
        """Take bytes, all of them."""

    def loseConnection(self) -> None:
        """Close once what was written is out."""

    def abortConnection(self) -> None:
        """Close now."""

    def registerProducer(self, producer: IPushProducer, streaming: bool) -> None:  # noqa: FBT001 - Twisted's
        """Tell ``producer`` when to stop and go on writing."""

    def unregisterProducer(self) -> None:
        """Nobody is to be told any more."""

    def pauseProducing(self) -> None:
        """Deliver nothing for now."""

    def resumeProducing(self) -> None:
        """Deliver again."""


@attrs.define(eq=False)
class _Series(Generic[M]):
    messages: Iterator[M]
    done: Deferred[None] = attrs.field(factory=Deferred)


@implementer(IPushProducer)
@attrs.define(eq=False, slots=False)
class MessageLink(TwistedProtocol, Generic[M]):
    """A Twisted protocol of whole messages."""

    handler: LinkHandler[M]
    clock: IReactorTime
    limits: LinkLimits = attrs.field(factory=LinkLimits)
    dialect: Dialect[M] = CONTROL  # type: ignore[assignment]  # the default is the control session's
    decoder: FrameDecoder[M] = attrs.field()
    sent_bytes: int = attrs.field(default=0, init=False)
    received_bytes: int = attrs.field(default=0, init=False)
    _log: ClassVar[Logger] = Logger()
    _queue: deque[bytes] = attrs.field(factory=deque, init=False, repr=False)
    _queued_bytes: int = attrs.field(default=0, init=False)
    _series: deque[_Series[M]] = attrs.field(factory=deque, init=False, repr=False)
    _blocked: bool = attrs.field(default=False, init=False)
    """The transport has asked us to stop writing."""
    _pumping: bool = attrs.field(default=False, init=False)
    _delivering: bool = attrs.field(default=False, init=False)
    _tokens: float = attrs.field(default=0.0, init=False)
    _tokens_at: float = attrs.field(default=0.0, init=False)
    _resume: IDelayedCall | None = attrs.field(default=None, init=False)
    _next_turn: IDelayedCall | None = attrs.field(default=None, init=False)
    _abort: IDelayedCall | None = attrs.field(default=None, init=False)
    _closing: str | None = attrs.field(default=None, init=False)
    """Why we are ending it, once we are: nothing is received or sent any more."""
    _lost: bool = attrs.field(default=False, init=False)

    @decoder.default
    def _new_decoder(self) -> FrameDecoder[M]:
        return FrameDecoder(vocabulary=self.dialect.vocabulary)

    @property
    def open(self) -> bool:
        """Whether messages still go out and come in."""
        return self.transport is not None and self._closing is None and not self._lost

    # What Twisted calls.

    def connectionMade(self) -> None:
        """Start."""
        self._tokens = float(self.limits.frames_burst)
        self._tokens_at = self.clock.seconds()
        self._wire().registerProducer(self, True)
        self.handler.link_made(self)

    def dataReceived(self, data: bytes) -> None:
        """Bytes from the peer."""
        self.received_bytes += len(data)
        if not self.open:
            return
        self.decoder.feed(data)
        if self._resume is not None:
            if self.decoder.buffered_bytes > self.limits.max_early_bytes:
                self.abort("the peer sent on although it was told to wait")
            return
        self._deliver()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """The transport is gone."""
        if self._lost:
            return
        self._lost = True
        for call in (self._resume, self._next_turn, self._abort):
            if call is not None and call.active():
                call.cancel()
        why = self._closing or (reason.getErrorMessage() if reason is not None else "the channel closed")
        self._drop_outgoing(why)
        self.handler.link_lost(why)

    def pauseProducing(self) -> None:
        """The transport's buffer is full."""
        self._blocked = True

    def resumeProducing(self) -> None:
        """The transport takes more."""
        self._blocked = False
        self._pump()

    def stopProducing(self) -> None:
        """The transport is going away; ``connectionLost`` follows."""
        self._blocked = True

    # Outgoing.

    def send(self, message: M) -> None:
        """Send one message, before whatever is left of a series.  Nothing happens on a link that is closing."""
        if not self.open:
            return
        frame = self.dialect.encode(message)
        self._queue.append(frame)
        self._queued_bytes += len(frame)
        self._pump()
        if self._queued_bytes > self.limits.max_queue_bytes:
            self.abort("the peer does not take what is sent to it")

    def send_all(self, messages: Iterable[M]) -> Deferred[None]:
        """Send a series, asked for lazily; fires when the transport has its last message.

        Fails with ``LinkLostError``, or with what the iterable raises, and then the link is cut, since the peer has
        half a series.  Series go one after another.
        """
        if not self.open:
            return fail(LinkLostError(why=self._closing or "it is not connected"))
        if len(self._series) >= MAX_SERIES:
            return fail(
                LocalProtocolError(
                    protocol=self.dialect.vocabulary.protocol, detail=f"more than {MAX_SERIES} series at once"
                )
            )
        series = _Series(iter(messages))
        self._series.append(series)
        self._pump()
        return series.done

    def _pump(self) -> None:
        """Hand the transport what it takes: single messages first, then the series, for one turn."""
        if self._pumping:
            return
        self._pumping = True
        turn = TURN_BYTES
        try:
            while self.open and not self._blocked and turn > 0:
                if self._queue:
                    frame = self._queue.popleft()
                    self._queued_bytes -= len(frame)
                else:
                    next_frame = self._next_of_series()
                    if next_frame is None:
                        break
                    frame = next_frame
                    turn -= len(frame)
                self._write(frame)
        finally:
            self._pumping = False
        if turn <= 0 and self.open and self._next_turn is None:
            self._next_turn = self.clock.callLater(0, self._another_turn)

    def _another_turn(self) -> None:
        self._next_turn = None
        self._pump()

    def _next_of_series(self) -> bytes | None:
        while self._series:
            series = self._series[0]
            try:
                message = next(series.messages, None)
                if message is not None:
                    return self.dialect.encode(message)
            except Exception:  # noqa: BLE001 - the caller's iterable: its failure goes to the caller's Deferred
                failure = Failure()
                self._series.popleft()
                self.abort("what was to be sent could not be made")
                series.done.errback(failure)
                return None
            self._series.popleft()
            series.done.callback(None)
        return None

    def _write(self, frame: bytes) -> None:
        self.sent_bytes += len(frame)
        self._wire().write(frame)

    # Incoming.

    def _deliver(self) -> None:
        """Hand on every whole message that the rate allows."""
        if self._delivering:
            return
        self._delivering = True
        try:
            while self.open and self._take_token():
                message = self.decoder.next_message()
                if message is None:
                    break
                self._tokens -= 1 + self.decoder.last_frame_bytes // COST_BYTES
                self._hand_on(message)
        except RemoteProtocolError as failure:
            self.close(self.dialect.goodbye("protocol", failure.detail), failure.detail)
        except Exception:  # noqa: BLE001 - the edge of one session: a defect must cost this session only
            self._log.failure(
                "a message of the {protocol} could not be handled", protocol=self.dialect.vocabulary.protocol
            )
            self.abort("a defect of ours; the log tells")
        finally:
            self._delivering = False

    def _hand_on(self, message: M | UnknownMessage) -> None:
        if isinstance(message, UnknownMessage):
            self.send(self.dialect.unsupported(message.tag))
        else:
            self.handler.message_received(message)

    def _take_token(self) -> bool:
        """Whether the rate allows another message; if not, the transport is paused until it does."""
        rate = self.limits.frames_per_s
        if rate is None:
            return True
        now = self.clock.seconds()
        self._tokens = min(self._tokens + (now - self._tokens_at) * rate, float(self.limits.frames_burst))
        self._tokens_at = now
        if self._tokens >= 1:
            return True
        if self._resume is None:
            self._wire().pauseProducing()
            self._resume = self.clock.callLater((1 - self._tokens) / rate, self._listen_again)
        return False

    def _listen_again(self) -> None:
        self._resume = None
        self._deliver()
        if self._resume is None and self.open:
            self._wire().resumeProducing()

    # The end.

    def close(self, goodbye: M | None, why: str) -> None:
        """Send ``goodbye`` last and close; the handler hears ``why``.  Aborts when the peer does not take it."""
        if not self.open:
            return
        if goodbye is not None:
            self._write(self.dialect.encode(goodbye))
        self._end(why)
        self._abort = self.clock.callLater(self.limits.close_s, self._abort_transport)
        self._wire().loseConnection()

    def abort(self, why: str) -> None:
        """Cut at once."""
        if not self.open:
            return
        self._end(why)
        self._abort_transport()

    def _end(self, why: str) -> None:
        self._closing = why
        self._drop_outgoing(why)
        self._wire().unregisterProducer()
        if self._resume is not None:
            # A paused transport would not notice that the peer has closed.
            self._resume.cancel()
            self._resume = None
            self._wire().resumeProducing()

    def _drop_outgoing(self, why: str) -> None:
        self._queue.clear()
        self._queued_bytes = 0
        series = list(self._series)
        self._series.clear()
        for one in series:
            one.done.errback(LinkLostError(why=why))

    def _abort_transport(self) -> None:
        self._wire().abortConnection()

    def _wire(self) -> StreamTransport:
        return cast(StreamTransport, self.transport)
