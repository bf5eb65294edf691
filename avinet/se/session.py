"""The SE's end of a control session: says ``Hello``, answers pings at once, reports, and hands configuration on.

The controller leads.  After ``Welcome`` the SE believes it dead once nothing has come for its heartbeat interval
times its misses.  A session is greeting, attached or ended, and only ever in that order; what becomes of it goes to
its ``SessionUser``, the uplink.
"""

import enum
from collections.abc import Callable
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import LocalProtocolError, RemoteProtocolError
from avinet.model.ids import ClusterId
from avinet.se.feed import Feed
from avinet.se.lookout import Lookout, Seen
from avinet.se.reporting import health_of, report_of
from avinet.wire.codec import PROTOCOL
from avinet.wire.link import LinkLimits, MessageLink
from avinet.wire.messages import (
    MAX_SPREAD_S,
    OLDEST_PROTOCOL_VERSION,
    PROTOCOL_VERSION,
    TRAFFIC,
    CommandClasses,
    ConfigEnd,
    ConfigPut,
    ConfigRemove,
    ConfigStart,
    Goodbye,
    Hello,
    LiveAgain,
    MembershipUpdate,
    Message,
    Ping,
    Pong,
    Report,
    ServerHealth,
    StatsRequest,
    Unsupported,
    Watch,
    Welcome,
)

WELCOME_TIMEOUT_S = 10.0
"""As long as the controller waits for ``Hello``."""
REPORT_TIMEOUT_S = 5.0
"""As long as the controller waits for one that it asked for."""
MAX_ASKED = 16
"""Requests for a report that wait for the one being made; more are a controller's defect and get no answer."""
FIRST_REPORT_S = 15.0
"""Within a random part of it the first report comes: a controller that has just started knows nothing, and a fleet that
attached at once must not report at once."""
MIN_PATIENCE_S = 0.3
MAX_PATIENCE_S = 3600.0
"""What a ``Welcome`` may ask for; outside it is a mistake that would make the SE flap or hang."""

ConfigMessage = ConfigStart | ConfigPut | ConfigRemove | ConfigEnd
Reply = Callable[[Message], None]


class ConfigSink(Protocol):
    """Where pushes go (``avinet.se.applier.Applier``)."""

    def received(self, message: ConfigMessage, reply: Reply) -> None:
        """One message; ``reply`` is one object a session, so that it tells sessions apart."""

    def forget(self, reply: Reply) -> None:
        """That session is gone."""


@attrs.frozen
class SeParts:
    """What the sessions of one SE draw on."""

    cluster: ClusterId
    hello: Callable[[], Hello]
    """Made anew for each session, since it says what is in force."""
    sink: ConfigSink
    report: Callable[[], Deferred[Report]]
    membership: Callable[[str], None]
    """A signed list has come; it is checked there."""
    lookout: Lookout | None = None
    """What is reported unasked; nothing without."""
    command_classes: Callable[[tuple[str, ...]], None] = lambda allowed: None
    """What controllers may use the SE for has come."""
    live_again: Callable[[str, float], None] = lambda name, spread_s: None
    """Another controller takes SEs again (``LiveAgain``)."""


class SessionUser(Protocol):
    """Who opened the session."""

    def session_welcomed(self, welcome: Welcome) -> None:
        """It is attached."""

    def session_ended(self, why: str, goodbye: Goodbye | None) -> None:
        """Once, whether it was attached or not."""


class Phase(enum.Enum):
    """How far a session is."""

    GREETING = "saying hello"
    ATTACHED = "attached"
    ENDED = "ended"


@attrs.define(eq=False)
class ControlSession:
    """One session; ``protocol`` is to be joined to the channel.  ``random`` gives numbers from 0 to 1."""

    parts: SeParts
    user: SessionUser = attrs.field(repr=False)
    clock: IReactorTime = attrs.field(repr=False)
    random: Callable[[], float] = attrs.field(repr=False)
    protocol: MessageLink[Message] = attrs.field(init=False, repr=False)
    phase: Phase = attrs.field(default=Phase.GREETING, init=False)
    reply: Reply = attrs.field(init=False, repr=False)
    """``send``, as one object for the life of the session."""
    _patience_s: float = attrs.field(default=WELCOME_TIMEOUT_S, init=False)
    _heard_at: float = attrs.field(default=0.0, init=False)
    _silence: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _report_interval_s: float = attrs.field(default=0.0, init=False)
    _next_report: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _reporting: Deferred[Report] | None = attrs.field(default=None, init=False, repr=False)
    _asked: list[int] = attrs.field(factory=list, init=False, repr=False)
    """Whom the report being made answers; 0 is nobody's request."""
    _feed: Feed | None = attrs.field(default=None, init=False, repr=False)
    """What the controller was told; None where it does not know ``Traffic``."""
    _feeding: bool = attrs.field(default=False, init=False)
    _health: tuple[ServerHealth, ...] | None = attrs.field(default=None, init=False, repr=False)
    """As told last to a controller without ``Traffic``."""
    _look_away: Callable[[], None] | None = attrs.field(default=None, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    @protocol.default
    def _new_protocol(self) -> MessageLink[Message]:
        return MessageLink(self, self.clock, LinkLimits())

    def __attrs_post_init__(self) -> None:
        """A bound method is a new object each time."""
        self.reply = self.send

    @property
    def attached(self) -> bool:
        """Whether it is alive."""
        return self.phase is Phase.ATTACHED

    def send(self, message: Message) -> None:
        """Send one message; dropped without a word when the session has ended, and with one when it is too long."""
        if not self.attached:
            return
        try:
            self.protocol.send(message)
        except LocalProtocolError as failure:
            self._log.error("not sent to the controller: {why}", why=str(failure))

    def close(self, reason: str, text: str) -> None:
        """Leave in good order."""
        goodbye = Goodbye(reason=reason, text=text)
        if self._end():
            self.protocol.close(goodbye, text)
            self.user.session_ended(text, None)

    # What the link tells.

    def link_made(self, link: MessageLink[Message]) -> None:
        """Say hello."""
        if self.phase is Phase.ENDED:
            link.abort("the channel opened too late")
            return
        self._heard_at = self.clock.seconds()
        self._silence = self.clock.callLater(self._patience_s, self._silent)
        link.send(self.parts.hello())

    def message_received(self, message: Message) -> None:
        """One message of the controller."""
        self._heard_at = self.clock.seconds()
        match self.phase, message:
            case Phase.ENDED, _:
                pass
            case _, Goodbye():
                self._left(message)
            case _, Unsupported():
                self._log.info("the controller does not know {tag}", tag=message.tag_[:100])
            case Phase.GREETING, Welcome():
                self._attach(message)
            case Phase.ATTACHED, _:
                self._take(message)
            case _:
                raise RemoteProtocolError(protocol=PROTOCOL, detail=f"a {_name(message)} before the welcome")

    def link_lost(self, why: str) -> None:
        """The channel has closed."""
        if self._end():
            self.user.session_ended(why, None)

    # Inside.

    def _attach(self, welcome: Welcome) -> None:
        patience_s = welcome.heartbeat_interval_s * welcome.heartbeat_misses
        if welcome.cluster != self.parts.cluster:
            raise RemoteProtocolError(
                protocol=PROTOCOL, detail=f"a welcome of cluster {welcome.cluster[:64]}"
            )
        if not OLDEST_PROTOCOL_VERSION <= welcome.protocol <= PROTOCOL_VERSION:
            raise RemoteProtocolError(
                protocol=PROTOCOL, detail=f"protocol {welcome.protocol} was not offered"
            )
        if not MIN_PATIENCE_S <= patience_s <= MAX_PATIENCE_S or not welcome.report_interval_s > 0:
            raise RemoteProtocolError(protocol=PROTOCOL, detail="intervals that cannot be meant")
        self.phase = Phase.ATTACHED
        self._patience_s = patience_s
        self._report_interval_s = welcome.report_interval_s
        if self._silence is not None:
            self._silence.reset(patience_s)
        self._begin_to_report(TRAFFIC in welcome.capabilities)
        self.user.session_welcomed(welcome)

    def _begin_to_report(self, in_traffic: bool) -> None:  # noqa: FBT001 - what the controller can take
        lookout, now = self.parts.lookout, self.clock.seconds()
        if lookout is not None and in_traffic:
            first_s = min(self._report_interval_s, FIRST_REPORT_S) * self.random()
            self._feed = Feed(self._report_interval_s, now + first_s)
        else:
            # Spread over the interval, so that a fleet that attached at once does not report at once.
            first_s = self._report_interval_s * self.random()
            self._next_report = self.clock.callLater(first_s, self._report_due)
        if lookout is not None:
            self._look_away = lookout.subscribe(self._looked)

    def _looked(self, seen: Seen) -> None:
        """The lookout has looked."""
        if self._feed is None:
            self._looked_for_old(seen)
            return
        if self._feeding:
            return  # the controller is slow to take the last report: what it misses is in the next
        self._feeding = True
        fed = self.protocol.send_all(self._feed.messages(seen))
        fed.addCallbacks(self._fed, lambda f: self._log.info("a report was cut: {why}", why=f.value))

    def _fed(self, result: None) -> None:
        self._feeding = False

    def _looked_for_old(self, seen: Seen) -> None:
        if seen.status is None:
            return
        health = health_of(seen.status)
        told, self._health = self._health, health
        if told is not None and told != health:
            self.send(report_of(seen.status))

    def _watch(self, watch: Watch) -> None:
        if self._feed is None or self.parts.lookout is None:
            return
        self._feed.watch(watch.names, watch.interval_s)
        if watch.anew:
            self._feed.begin_anew()
        self.parts.lookout.look_soon()

    def _take(self, message: Message) -> None:
        match message:
            case Ping():
                self.send(Pong(id=message.id, sent_at=message.sent_at))
            case ConfigStart() | ConfigPut() | ConfigRemove() | ConfigEnd():
                self.parts.sink.received(message, self.reply)
            case StatsRequest():
                self._make_report(message.id)
            case Watch():
                self._watch(message)
            case CommandClasses():
                self.parts.command_classes(message.allowed)
            case LiveAgain() if 0 <= message.spread_s <= MAX_SPREAD_S:
                self.parts.live_again(message.controller, message.spread_s)
            case MembershipUpdate():
                self.parts.membership(message.document)
            case _:
                raise RemoteProtocolError(
                    protocol=PROTOCOL, detail=f"a {_name(message)} from a controller that has welcomed"
                )

    def _left(self, goodbye: Goodbye) -> None:
        if self._end():
            self.protocol.close(None, goodbye.reason[:100])
            self.user.session_ended(f"{goodbye.reason[:100]}: {goodbye.text[:500]}", goodbye)

    def _silent(self) -> None:
        """As long as patience has passed since something was heard?"""
        self._silence = None
        left = self._heard_at + self._patience_s - self.clock.seconds()
        if left > 0:
            self._silence = self.clock.callLater(min(left, self._patience_s), self._silent)
            return
        why = f"the controller was silent for {self._patience_s:g} s while {self.phase.value}"
        if self._end():
            self.protocol.abort(why)
            self.user.session_ended(why, None)

    def _report_due(self) -> None:
        self._next_report = self.clock.callLater(self._report_interval_s, self._report_due)
        self._make_report(0)

    def _make_report(self, asked: int) -> None:
        """One report is made at a time and answers all who asked meanwhile."""
        if len(self._asked) >= MAX_ASKED:
            return
        self._asked.append(asked)
        if self._reporting is not None:
            return
        self._reporting = self.parts.report()
        self._reporting.addTimeout(REPORT_TIMEOUT_S, self.clock)
        self._reporting.addCallbacks(self._reported, self._not_reported)

    def _reported(self, report: Report) -> None:
        self._reporting = None
        asked, self._asked = self._asked, []
        for number in dict.fromkeys(asked):
            self.send(
                Report(
                    id=number,
                    data_plane_up=report.data_plane_up,
                    data_plane_started_at=report.data_plane_started_at,
                    health=report.health,
                    services=report.services,
                )
            )

    def _not_reported(self, failure: Failure) -> None:
        self._reporting = None
        self._asked = []
        if self.phase is not Phase.ENDED:
            self._log.warn("no report could be made: {why}", why=failure.getErrorMessage())

    def _end(self) -> bool:
        """Leave whichever phase; False when it had ended already."""
        if self.phase is Phase.ENDED:
            return False
        self.phase = Phase.ENDED
        for timer in (self._silence, self._next_report):
            if timer is not None and timer.active():
                timer.cancel()
        if self._reporting is not None:
            self._reporting.cancel()
        if self._look_away is not None:
            self._look_away()
        self.parts.sink.forget(self.reply)
        return True


def _name(message: Message) -> str:
    return str(message.__struct_config__.tag)
