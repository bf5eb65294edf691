"""One SE's control session as the controller holds it.

It waits for ``Hello``, lets the registry judge it, answers ``Welcome`` (and a newer membership list, where the SE's
is old), and from then on pings, measures and passes on what the SE says.  A session is waiting, attached or ended,
and only ever in that order.  What it hears and decides goes to its ``SessionOwner``, the registry.
"""

import enum
from collections.abc import Iterable
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind, RemoteProtocolError, error
from avinet.model.channel import ChannelStatus
from avinet.model.ids import BootId, SeId
from avinet.wire.codec import MAX_FRAME_BYTES, MAX_HELLO_BYTES, PROTOCOL, FrameDecoder
from avinet.wire.heartbeat import (
    HEARTBEAT_INTERVAL_S,
    HEARTBEAT_MISSES,
    RTT_CLEAR_S,
    RTT_HIGH_S,
    Beat,
    HeartbeatTracker,
    RttChange,
    RttTracker,
)
from avinet.wire.link import LinkLimits, LinkLostError, MessageLink
from avinet.wire.messages import (
    Ack,
    Goodbye,
    Hello,
    InForce,
    Message,
    Nack,
    Notice,
    Ping,
    Pong,
    Report,
    StatsRequest,
    Traffic,
    Unsupported,
    Welcome,
)

MAX_REQUESTS = 16
"""Unanswered statistics requests of one SE; each waits ``request_timeout_s`` at most."""
MAX_SOFTWARE_CHARS = 200
"""Of the version that an SE names: it is kept, shown and logged."""


@error
class SessionTimeoutError(AvinetError):
    """Service engine {se} did not answer within {seconds:g} s. It may be busy; try again."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    se: SeId
    seconds: float


@error
class TooManyRequestsError(AvinetError):
    """Service engine {se} has {count} requests to answer already. Try again in a few seconds."""

    kind: ClassVar[Kind] = Kind.LIMITED
    se: SeId
    count: int


@attrs.frozen
class SessionSettings:
    """The numbers of every session."""

    heartbeat_interval_s: float = HEARTBEAT_INTERVAL_S
    heartbeat_misses: int = HEARTBEAT_MISSES
    report_interval_s: float = 60.0
    hello_timeout_s: float = 10.0
    """From the channel's opening; an SE sends its ``Hello`` at once."""
    request_timeout_s: float = 5.0
    rtt_high_s: float = RTT_HIGH_S
    rtt_clear_s: float = RTT_CLEAR_S
    link: LinkLimits = attrs.field(factory=lambda: LinkLimits(frames_per_s=100.0, frames_burst=200))
    """100 messages a second: an SE sends a pong each 10 s, a report each minute, and an answer to each push."""


class PeerConnection(Protocol):
    """What a session may do to the secure channel that it came through."""

    def close(self, text: str) -> None:
        """End it in good order."""

    def abort(self) -> None:
        """Cut it at once, its reverse forward included."""

    def mark_attached(self) -> None:
        """Its SE has attached here; the reverse forward is this connection's."""

    def status(self) -> ChannelStatus:
        """How it is now."""


class SessionOwner(Protocol):
    """Who decides what a session may and hears what it says."""

    def session_opened(self, session: "SeSession") -> None:
        """Its channel is open."""

    def hello_received(self, session: "SeSession", hello: Hello) -> Welcome | Goodbye:
        """Judge a ``Hello``: ``Welcome`` attaches."""

    def session_attached(self, session: "SeSession") -> None:
        """``Welcome`` has gone out."""

    def message_received(self, session: "SeSession", message: Message) -> None:
        """Ack, Nack, InForce, Report, Traffic or Notice."""

    def rtt_changed(self, session: "SeSession", change: RttChange) -> None:
        """The warning was raised or cleared."""

    def session_ended(self, session: "SeSession", why: str) -> None:
        """Once; also of a session that never attached."""

    def session_closed(self, session: "SeSession") -> None:
        """After ``session_ended``: its channel is gone too."""


class Phase(enum.Enum):
    """How far a session is."""

    WAITING = "waiting for hello"
    ATTACHED = "attached"
    ENDED = "ended"


@attrs.define(eq=False)
class SeSession:
    """One session; ``protocol`` is to be joined to the channel."""

    se: SeId
    address: str
    """Where the SE connected from."""
    connection: PeerConnection = attrs.field(repr=False)
    owner: SessionOwner = attrs.field(repr=False)
    settings: SessionSettings = attrs.field(repr=False)
    clock: IReactorTime = attrs.field(repr=False)
    protocol: MessageLink[Message] = attrs.field(init=False, repr=False)
    phase: Phase = attrs.field(default=Phase.WAITING, init=False)
    heartbeat: HeartbeatTracker = attrs.field(init=False, repr=False)
    rtt: RttTracker = attrs.field(init=False, repr=False)
    attached_at: float = attrs.field(default=0.0, init=False)
    """By the injected clock."""
    _hello: Hello | None = attrs.field(default=None, init=False, repr=False)
    _timer: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    """The wait for ``Hello``, then the next heartbeat."""
    _number: int = attrs.field(default=0, init=False)
    """Of the last ping or request."""
    _pinged: int = attrs.field(default=0, init=False)
    """The ping that is out, or 0."""
    _pinged_at: float = attrs.field(default=0.0, init=False)
    _requests: dict[int, Deferred[Report]] = attrs.field(factory=dict, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    @protocol.default
    def _new_protocol(self) -> MessageLink[Message]:
        return MessageLink(
            self, self.clock, self.settings.link, decoder=FrameDecoder(max_frame_bytes=MAX_HELLO_BYTES)
        )

    @heartbeat.default
    def _new_heartbeat(self) -> HeartbeatTracker:
        return HeartbeatTracker(self.settings.heartbeat_interval_s, self.settings.heartbeat_misses)

    @rtt.default
    def _new_rtt(self) -> RttTracker:
        return RttTracker(self.settings.rtt_high_s, self.settings.rtt_clear_s)

    @property
    def attached(self) -> bool:
        """Whether it is alive."""
        return self.phase is Phase.ATTACHED

    @property
    def hello(self) -> Hello:
        """What the SE said of itself; only an attached session, or one that was, has it."""
        if self._hello is None:
            raise AssertionError("no hello yet")
        return self._hello

    @property
    def boot(self) -> BootId:
        """Which start of the SE's agent this is."""
        return self.hello.boot

    # What others ask of it.

    def send(self, message: Message) -> None:
        """Send one message; dropped without a word when the session has ended."""
        if self.attached:
            self.protocol.send(message)

    def send_all(self, messages: Iterable[Message]) -> Deferred[None]:
        """Send a series, lazily and with back-pressure; heartbeats go between.  ``LinkLostError`` when it ends."""
        if not self.attached:
            return fail(LinkLostError(why=self.phase.value))
        return self.protocol.send_all(messages)

    def request_stats(self) -> Deferred[Report]:
        """Ask for a report now.

        ``SessionTimeoutError``, ``LinkLostError`` or, with ``MAX_REQUESTS`` under way, ``TooManyRequestsError``.
        """
        if not self.attached:
            return fail(LinkLostError(why=self.phase.value))
        if len(self._requests) >= MAX_REQUESTS:
            return fail(TooManyRequestsError(se=self.se, count=len(self._requests)))
        number = self._next_number()
        seconds = self.settings.request_timeout_s
        answer: Deferred[Report] = Deferred(lambda _: self._forget_request(number))
        self._requests[number] = answer

        def too_late(_: object, __: float) -> Report:
            raise SessionTimeoutError(se=self.se, seconds=seconds)

        answer.addTimeout(seconds, self.clock, onTimeoutCancel=too_late)
        self.protocol.send(StatsRequest(id=number))
        return answer

    def _forget_request(self, number: int) -> None:
        self._requests.pop(number, None)

    def close(self, reason: str, text: str, retry_after_s: float | None = None) -> None:
        """Say goodbye and end, the secure channel with it."""
        goodbye = Goodbye(reason=reason, text=text, retry_after_s=retry_after_s)
        if not self._end(reason):
            return
        self.protocol.close(goodbye, reason)

    def abort(self, why: str) -> None:
        """Cut at once, the secure channel with it."""
        if not self._end(why):
            return
        self.protocol.abort(why)
        self.connection.abort()

    # What the link tells.

    def link_made(self, link: MessageLink[Message]) -> None:
        """The channel is open."""
        self.owner.session_opened(self)
        self._timer = self.clock.callLater(self.settings.hello_timeout_s, self.abort, "no hello came")

    def message_received(self, message: Message) -> None:
        """One message of the SE."""
        match self.phase, message:
            case Phase.WAITING, Hello():
                self._judge(message)
            case Phase.WAITING, Unsupported():
                pass
            case Phase.ATTACHED, _:
                self.heartbeat.heard()
                self._take(message)
            case Phase.ENDED, _:
                pass
            case _:
                raise RemoteProtocolError(protocol=PROTOCOL, detail=f"a {_name(message)} before the hello")

    def link_lost(self, why: str) -> None:
        """The channel has closed; the secure channel without its control session is of no use."""
        self._end(why)
        self.connection.close("the control session has ended")
        self.owner.session_closed(self)

    # Inside.

    def _judge(self, hello: Hello) -> None:
        if hello.se != self.se:
            # The identity is the key's; this is a mix-up of state folders, or a lie.
            raise RemoteProtocolError(protocol=PROTOCOL, detail="the hello names another service engine")
        if len(hello.software) > MAX_SOFTWARE_CHARS or len(hello.boot) > MAX_SOFTWARE_CHARS:
            raise RemoteProtocolError(protocol=PROTOCOL, detail="a version or boot id of absurd length")
        answer = self.owner.hello_received(self, hello)
        if self.phase is not Phase.WAITING:
            return
        if isinstance(answer, Goodbye):
            self.close(answer.reason, answer.text, answer.retry_after_s)
            return
        self._hello = hello
        self.phase = Phase.ATTACHED
        self.attached_at = self.clock.seconds()
        self.protocol.decoder.max_frame_bytes = MAX_FRAME_BYTES
        self._stop_timer()
        self.connection.mark_attached()
        self.protocol.send(answer)
        self._beat()
        self.owner.session_attached(self)

    def _take(self, message: Message) -> None:
        match message:
            case Pong():
                self._measure(message)
            case Report() if message.id:
                request = self._requests.pop(message.id, None)
                if request is not None:
                    request.callback(message)
                self.owner.message_received(self, message)
            case Ack() | Nack() | InForce() | Report() | Traffic() | Notice():
                self.owner.message_received(self, message)
            case Goodbye():
                self._log.info("{se} says goodbye: {reason}", se=self.se, reason=message.reason[:100])
                self._end(f"the service engine left: {message.reason[:100]}")
                self.protocol.close(None, "the service engine left")
            case Unsupported():
                self._log.info("{se} does not know {tag}", se=self.se, tag=message.tag_[:100])
            case _:
                raise RemoteProtocolError(
                    protocol=PROTOCOL, detail=f"a {_name(message)} from a service engine that is attached"
                )

    def _measure(self, pong: Pong) -> None:
        if pong.id != self._pinged or pong.sent_at != self._pinged_at:
            return  # late, twice, or made up: it proves life and measures nothing
        self._pinged = 0
        # The reactor's clock may be set back meanwhile; less than nothing is no distance.
        change = self.rtt.sample(max(0.0, self.clock.seconds() - pong.sent_at))
        if change is not RttChange.NONE:
            self.owner.rtt_changed(self, change)

    def _beat(self) -> None:
        self._timer = None
        if self.heartbeat.tick() is Beat.DEAD:
            self.abort(f"{self.heartbeat.missed} heartbeats missed")
            return
        self._pinged = self._next_number()
        self._pinged_at = self.clock.seconds()
        self._timer = self.clock.callLater(self.heartbeat.next_in(self._pinged_at), self._beat)
        self.protocol.send(Ping(id=self._pinged, sent_at=self._pinged_at))

    def _next_number(self) -> int:
        self._number += 1
        return self._number

    def _stop_timer(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _end(self, why: str) -> bool:
        """Leave whichever phase; False when it had ended already."""
        if self.phase is Phase.ENDED:
            return False
        self.phase = Phase.ENDED
        self._stop_timer()
        for request in tuple(self._requests.values()):
            request.errback(LinkLostError(why=why))
        self._requests.clear()
        self.owner.session_ended(self, why)
        return True


def _name(message: Message) -> str:
    return str(message.__struct_config__.tag)
