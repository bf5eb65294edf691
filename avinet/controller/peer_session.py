"""One connection between two controllers, as a session: hello both ways, heartbeats both ways, and what is published.

Both sides ping, each ``interval_s``, and each gives the other up after ``misses`` silent intervals, so a loss of one
direction alone is noticed by whoever hears nothing, and told to the other by the reset.  The session's end is the
connection's: nothing else keeps it.
"""

import enum
from collections.abc import Iterable
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger

from avinet.controller.peer_state import Published
from avinet.controller.peers import Lane
from avinet.errors import RemoteProtocolError
from avinet.model.ids import ControllerName
from avinet.ssh.scheduler import Priority
from avinet.units import MIB
from avinet.wire.codec import FrameDecoder
from avinet.wire.heartbeat import Beat, HeartbeatTracker, RttTracker
from avinet.wire.link import LinkLimits, MessageLink
from avinet.wire.peer_messages import (
    MAX_PEER_FRAME_BYTES,
    MAX_PEER_HELLO_BYTES,
    PEER,
    PeerGoodbye,
    PeerHello,
    PeerMembership,
    PeerMessage,
    PeerPing,
    PeerPong,
    PeerState,
    PeerUnsupported,
)

HELLO_TIMEOUT_S = 5.0
"""From the channel to the other's hello: a round trip, and a busy reactor."""
LIMITS = LinkLimits(max_queue_bytes=MIB, frames_per_s=1000.0, frames_burst=4000, close_s=1.0)
"""A peer is trusted with state, not with all of our time: a snapshot of 20,000 SEs is some 60 frames of 5 tokens."""
MAX_PINGS_OUT = 16
"""Unanswered ones whose time is kept: a round trip may take several intervals."""


class PairConnection(Protocol):
    """The SSH connection, whoever dialed it."""

    def open(self, port: int, protocol: IProtocol, *, priority: Priority = ...) -> Deferred[IProtocol]:
        """A channel to the other side's service."""

    def close(self, text: str) -> None:
        """In good order."""

    def abort(self) -> None:
        """At once."""

    @property
    def cipher(self) -> str:
        """What both directions are under."""

    @property
    def ends(self) -> tuple[str, str]:
        """Our IP address and the other's."""


class SessionOwner(Protocol):
    """Who decides."""

    def session_hello(self, lane: Lane) -> PeerHello:
        """What this side says of itself."""

    def session_judged(self, session: "PeerSession", hello: PeerHello) -> PeerGoodbye | None:
        """Why the other side is refused."""

    def session_ready(self, session: "PeerSession") -> None:
        """It is up."""

    def session_said(self, session: "PeerSession", frame: PeerState) -> None:
        """The other side published something."""

    def session_offered(self, session: "PeerSession", document: str) -> None:
        """The other side has a newer membership list."""

    def session_over(self, session: "PeerSession", why: str) -> None:
        """It has ended, whether it was up or not; called once, last."""


class Phase(enum.Enum):
    """How far a session is."""

    GREETING = "saying hello"
    UP = "up"
    ENDED = "ended"


@attrs.frozen
class PeerSettings:
    """``[peers]``."""

    interval_s: float = 0.25
    misses: int = 4
    backoff_base_s: float = 0.2
    backoff_cap_s: float = 5.0


@attrs.define(eq=False)
class PeerSession:
    """One.  ``lane`` is known to the side that dialed, to the other with the hello."""

    name: ControllerName
    """Whose key, or host key, the connection proved."""
    lane: Lane | None
    connection: PairConnection = attrs.field(repr=False)
    owner: SessionOwner = attrs.field(repr=False)
    published: Published = attrs.field(repr=False)
    settings: PeerSettings = attrs.field(repr=False)
    clock: IReactorTime = attrs.field(repr=False)
    protocol: MessageLink[PeerMessage] = attrs.field(init=False, repr=False)
    phase: Phase = attrs.field(default=Phase.GREETING, init=False)
    dialed: bool = attrs.field(init=False)
    rtt: RttTracker = attrs.field(factory=RttTracker, init=False, repr=False)
    ended: Deferred[str] = attrs.field(factory=Deferred, init=False, repr=False)
    """Fires (never fails) with the reason."""
    their: PeerHello | None = attrs.field(default=None, init=False)
    listed: int = attrs.field(default=0, init=False)
    """The number of the newest membership list that the other side is known to have."""
    farewell: str = attrs.field(default="", init=False)
    """The reason of the other side's goodbye."""
    offering: bool = attrs.field(default=False, init=False)
    """A list that the other side sent is being looked at."""
    _heartbeat: HeartbeatTracker = attrs.field(init=False, repr=False)
    _timer: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _flush: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _pings: dict[int, float] = attrs.field(factory=dict, init=False, repr=False)
    _number: int = attrs.field(default=0, init=False)
    _dirty: dict[str, None] = attrs.field(factory=dict, init=False, repr=False)
    """Keys to be told, in order."""
    _telling: bool = attrs.field(default=False, init=False)
    _why: str = attrs.field(default="", init=False)
    _log: ClassVar[Logger] = Logger()

    @protocol.default
    def _new_protocol(self) -> MessageLink[PeerMessage]:
        decoder = FrameDecoder(max_frame_bytes=MAX_PEER_HELLO_BYTES, vocabulary=PEER.vocabulary)
        return MessageLink(self, self.clock, LIMITS, dialect=PEER, decoder=decoder)

    @dialed.default
    def _who_dialed(self) -> bool:
        return self.lane is not None

    @_heartbeat.default
    def _new_heartbeat(self) -> HeartbeatTracker:
        return HeartbeatTracker(self.settings.interval_s, self.settings.misses)

    @property
    def up(self) -> bool:
        """Whether both have said hello and neither is lost."""
        return self.phase is Phase.UP

    # What others ask of it.

    def tell(self, keys: Iterable[str]) -> None:
        """These have changed in ``published``."""
        if not self.up or self.lane is not Lane.STATE:
            return
        self._dirty.update(dict.fromkeys(keys))
        if not self._telling and self._flush is None:
            self._flush = self.clock.callLater(0, self._tell_changes)

    def send(self, message: PeerMessage) -> None:
        """One message; dropped when it is over."""
        if self.up:
            self.protocol.send(message)

    def end(self, reason: str, text: str) -> None:
        """Say goodbye and end it, the connection too."""
        if self._end(text):
            self.protocol.close(PEER.goodbye(reason, text), text)
            self.connection.close(text)

    def abort(self, why: str) -> None:
        """Cut it at once, the connection too."""
        if self._end(why):
            self.protocol.abort(why)
            self.connection.abort()

    # What the link tells.

    def link_made(self, link: MessageLink[PeerMessage]) -> None:
        """The side that dialed begins."""
        if self.phase is Phase.ENDED:
            link.abort("the channel opened too late")
            return
        self._timer = self.clock.callLater(HELLO_TIMEOUT_S, self.abort, "no hello came")
        if self.lane is not None:
            link.send(self.owner.session_hello(self.lane))

    def message_received(self, message: PeerMessage) -> None:
        """One of the other side's."""
        match self.phase, message:
            case _, PeerGoodbye():
                self.farewell = message.reason
                self.abort(f"it left: {message.text[:200]}")
            case Phase.GREETING, PeerHello():
                self._judge(message)
            case Phase.UP, PeerPing():
                self._heartbeat.heard()
                self.protocol.send(PeerPong(id=message.id, sent_at=message.sent_at))
            case Phase.UP, PeerPong():
                self._heartbeat.heard()
                sent_at = self._pings.pop(message.id, None)
                if sent_at is not None:
                    self.rtt.sample(self.clock.seconds() - sent_at)
            case Phase.UP, PeerState() if self.lane is Lane.STATE:
                self._heartbeat.heard()
                self.owner.session_said(self, message)
            case Phase.UP, PeerMembership():
                self._heartbeat.heard()
                self.owner.session_offered(self, message.document)
            case _, PeerUnsupported():
                self._log.warn("{name} does not know {tag}", name=self.name, tag=message.tag_[:64])
            case Phase.ENDED, _:
                pass
            case _:
                detail = f"a {type(message).__name__} while it is {self.phase.value}"
                raise RemoteProtocolError(protocol=PEER.vocabulary.protocol, detail=detail)

    def link_lost(self, why: str) -> None:
        """The channel is gone; so is the connection, once it has taken the goodbye that we may have said."""
        if self._end(why):
            self.connection.close(why)

    # Inside.

    def _judge(self, hello: PeerHello) -> None:
        goodbye = self.owner.session_judged(self, hello)
        if goodbye is not None:
            self.end(goodbye.reason, goodbye.text)
            return
        self.their, self.listed = hello, hello.membership
        if self.lane is None:
            self.lane = Lane(hello.lane)
            self.protocol.send(self.owner.session_hello(self.lane))
        self.protocol.decoder.max_frame_bytes = MAX_PEER_FRAME_BYTES
        self.phase = Phase.UP
        self._cancel(self._timer)
        self._beat()
        if self.lane is Lane.STATE:
            self._tell(self.published.whole())
        self.owner.session_ready(self)

    def _beat(self) -> None:
        if self._heartbeat.tick() is Beat.DEAD:
            self.abort(f"it was silent for {self._heartbeat.patience_s:g} s")
            return
        now = self.clock.seconds()
        self._number += 1
        self._pings[self._number] = now
        if len(self._pings) > MAX_PINGS_OUT:
            del self._pings[next(iter(self._pings))]
        self._timer = self.clock.callLater(self._heartbeat.next_in(now), self._beat)
        self.protocol.send(PeerPing(id=self._number, sent_at=now))

    def _tell_changes(self) -> None:
        self._flush = None
        if self._dirty and self.up:
            keys, self._dirty = tuple(self._dirty), {}
            self._tell(self.published.changed(keys))

    def _tell(self, frames: Iterable[PeerState]) -> None:
        self._telling = True
        self.protocol.send_all(frames).addBoth(self._told)

    def _told(self, _: Any) -> None:
        self._telling = False
        if self._dirty and self._flush is None and self.up:
            self._flush = self.clock.callLater(0, self._tell_changes)

    def _end(self, why: str) -> bool:
        if self.phase is Phase.ENDED:
            return False
        self.phase = Phase.ENDED
        self._why = why
        for timer in (self._timer, self._flush):
            self._cancel(timer)
        self._timer = self._flush = None
        self._dirty.clear()
        self.owner.session_over(self, why)
        self.ended.callback(why)
        return True

    @staticmethod
    def _cancel(timer: IDelayedCall | None) -> None:
        if timer is not None and timer.active():
            timer.cancel()
