"""The control sessions of all SEs: who is attached, who is up, and who wants to know.

The registry is the control service: ``build`` makes the protocol of one channel, so

    table.register(CONTROL_SERVICE, CONTROL_PORT, sessions.build)

One SE has one session.  A newer ``Hello`` replaces an older session (a rebooted SE is not locked out by its half-open
past); a login without ``Hello`` replaces nothing.  Two machines that take turns under one key are refused and reported.

Up and attached differ.  An SE is *up* from its ``Hello`` until it has been silent for as long as the heartbeats
allow.  Of an attached one that is misses in a row; when the link is lost, the count starts at once, and an SE that
comes back within it was never down.
"""

from collections.abc import Callable, Iterable
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IDelayedCall, IProtocol, IReactorTime
from twisted.logger import Logger

from avinet.controller.boots import WINDOW_S, BootHistory
from avinet.controller.listeners import Listeners
from avinet.controller.session import PeerConnection, SeSession, SessionSettings
from avinet.model.fence import Fence
from avinet.model.ids import ClusterId, ControllerName, SeId
from avinet.wire.heartbeat import RttChange
from avinet.wire.messages import TRAFFIC, Goodbye, Hello, MembershipUpdate, Message, Welcome
from avinet.wire.versions import common_version

REPLACED_RETRY_S = 1.0
"""For the older of two sessions: were it another machine, it should not dial at once."""
BACK_IN_S = 1.0
"""What SEs are told when the controller stops, mostly to be started again: to knock sooner is in vain, and what is gained by
knocking later they lose."""
STOP_TIMEOUT_S = 3.0
"""For all SEs to take their goodbye when the controller stops; one that lags must not hold it up."""


@attrs.frozen
class About:
    """What ``Welcome`` says of this controller."""

    controller: ControllerName
    cluster: ClusterId
    software: str


@attrs.frozen
class CurrentList:
    """The membership list as it is now: its number and its signed document."""

    number: int
    document: str


@attrs.frozen
class Knowledge:
    """What the registry asks others, each time anew."""

    membership: Callable[[], CurrentList]
    fence: Callable[[], Fence] = Fence
    quarantine: Callable[[SeId, str], None] = lambda se, why: None
    """Two machines use one SE's key; the registry has ended both sessions."""


class Peer(Protocol):
    """Who opened the channel (``avinet.ssh.services.ChannelPeer``)."""

    @property
    def se(self) -> SeId:
        """Whose key logged in."""

    @property
    def address(self) -> str:
        """From where."""

    @property
    def connection(self) -> PeerConnection:
        """The secure channel."""


class SessionListener:
    """Base of those who want to know; every method may be left out.  A listener that raises is logged."""

    def attached(self, session: SeSession) -> None:
        """An SE has said ``Hello`` and been welcomed; its older session, if any, was detached before."""

    def received(self, session: SeSession, message: Message) -> None:
        """Ack, Nack, InForce, Report, Traffic or Notice."""

    def detached(self, session: SeSession, why: str) -> None:
        """A session that was attached has ended."""

    def rtt_high(self, session: SeSession) -> None:
        """The warning is raised; ``session.rtt.judged`` is the figure, in seconds."""

    def rtt_cleared(self, session: SeSession) -> None:
        """The warning is over."""

    def up(self, se: SeId) -> None:
        """It was not up and is now; comes before ``attached``."""

    def down(self, se: SeId, why: str) -> None:
        """It has been silent for too long."""


@attrs.define(eq=False)
class _Presence:
    """What is remembered of one SE between its sessions."""

    session: SeSession | None = None
    up: bool = False
    expected: bool = False
    """Not up, but ``down`` is to be told of it."""
    down_at: IDelayedCall | None = None
    lost_why: str = ""
    boots: BootHistory = attrs.field(factory=BootHistory)
    barred_until: float = 0.0


@attrs.define(eq=False)
class Sessions:
    """The registry."""

    clock: IReactorTime
    about: About
    knowledge: Knowledge
    settings: SessionSettings = attrs.field(factory=SessionSettings)
    _presences: dict[SeId, _Presence] = attrs.field(factory=dict, init=False, repr=False)
    _waiting: set[SeSession] = attrs.field(factory=set, init=False, repr=False)
    """Channels that have not said ``Hello``; the secure channel bounds how many an SE opens."""
    _listeners: Listeners[SessionListener] = attrs.field(
        factory=lambda: Listeners("sessions"), init=False, repr=False
    )
    _stopped: Deferred[None] | None = attrs.field(default=None, init=False)
    _closing: set[SeSession] = attrs.field(factory=set, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    def build(self, peer: Peer) -> IProtocol:
        """The protocol of one channel to the control service."""
        return SeSession(
            se=peer.se,
            address=peer.address,
            connection=peer.connection,
            owner=self,
            settings=self.settings,
            clock=self.clock,
        ).protocol

    # Who is there.

    def add_listener(self, listener: SessionListener) -> None:
        """Tell ``listener`` from now on, after those added before it."""
        self._listeners.add(listener)

    def get(self, se: SeId) -> SeSession | None:
        """The attached session of an SE."""
        presence = self._presences.get(se)
        return presence.session if presence is not None else None

    def all(self) -> tuple[SeSession, ...]:
        """Every attached session."""
        return tuple(p.session for p in self._presences.values() if p.session is not None)

    def is_up(self, se: SeId) -> bool:
        """Whether it is attached, or lost its link too lately to be called down."""
        presence = self._presences.get(se)
        return presence is not None and presence.up

    def expect(self, engines: Iterable[SeId]) -> None:
        """Count from now on those that were connected before this controller started: ``down`` unless they come."""
        for se in engines:
            presence = self._presences.setdefault(se, _Presence())
            if not presence.up and not presence.expected:
                presence.expected = True
                self._start_count(se, presence, "it has not come back since the controller started")

    # What others decide.

    def close(self, se: SeId, reason: str, text: str, retry_after_s: float | None = None) -> None:
        """End an SE's session, as when it is quarantined or deleted; it is down at once."""
        presence = self._presences.get(se)
        if presence is None:
            return
        if presence.session is not None:
            presence.session.close(reason, text, retry_after_s)
        self._down(se, presence, text)

    def forget(self, se: SeId) -> None:
        """Drop what is remembered of a deleted SE; ``close`` it first.  Nobody is told."""
        presence = self._presences.pop(se, None)
        if presence is not None and presence.down_at is not None:
            presence.down_at.cancel()

    def pardon(self, se: SeId) -> None:
        """An operator has ended a quarantine: forget the boot ids that led to it."""
        presence = self._presences.get(se)
        if presence is not None:
            presence.boots.forget()
            presence.barred_until = 0.0

    def publish_membership(self) -> None:
        """The list has changed: send it to every SE that is attached."""
        document = self.knowledge.membership().document
        for session in self.all():
            session.send(MembershipUpdate(document=document))

    def stop(self) -> Deferred[None]:
        """Say goodbye to all and take nobody any more; fires when their channels are closed."""
        if self._stopped is not None:
            return succeed(None)
        stopped = self._stopped = Deferred()
        for session in (*self._waiting, *self.all()):
            self._closing.add(session)
            session.close("stopping", "this controller stops", BACK_IN_S)
        for presence in self._presences.values():
            if presence.down_at is not None:
                presence.down_at.cancel()
                presence.down_at = None
        if not self._closing:
            stopped.callback(None)
            return stopped

        def cut(_: object, __: float) -> None:
            for session in tuple(self._closing):
                session.connection.abort()

        return stopped.addTimeout(STOP_TIMEOUT_S, self.clock, onTimeoutCancel=cut)

    # What a session tells.

    def session_opened(self, session: SeSession) -> None:
        """It waits for its ``Hello``."""
        self._waiting.add(session)

    def hello_received(self, session: SeSession, hello: Hello) -> Welcome | Goodbye:
        """Judge one."""
        if self._stopped is not None:
            return Goodbye(reason="stopping", text="this controller stops", retry_after_s=BACK_IN_S)
        version = common_version(hello.protocol, hello.oldest_protocol)
        if version is None:
            text = f"protocol {hello.oldest_protocol} to {hello.protocol} is not spoken here; upgrade the older side"
            return Goodbye(reason="version", text=text)
        presence = self._presences.setdefault(session.se, _Presence())
        now = self.clock.seconds()
        if now < presence.barred_until:
            return self._quarantined(presence)
        if presence.boots.hello(hello.boot, now):
            return self._fight(session.se, presence)
        older = presence.session
        if older is not None:
            older.close("replaced", "a newer session of this service engine took its place", REPLACED_RETRY_S)
        return Welcome(
            controller=self.about.controller,
            cluster=self.about.cluster,
            protocol=version,
            software=self.about.software,
            heartbeat_interval_s=self.settings.heartbeat_interval_s,
            heartbeat_misses=self.settings.heartbeat_misses,
            report_interval_s=self.settings.report_interval_s,
            fence=self.knowledge.fence(),
            capabilities=(TRAFFIC,),
        )

    def _fight(self, se: SeId, presence: _Presence) -> Goodbye:
        """Two machines use one key: neither is let in until somebody has looked."""
        why = "two machines took turns under this service engine's key"
        presence.barred_until = self.clock.seconds() + WINDOW_S
        presence.boots.forget()
        self.close(se, "quarantined", why, WINDOW_S)
        self._log.error("{se} is quarantined: {why}", se=se, why=why)
        try:
            self.knowledge.quarantine(se, why)
        except Exception:  # noqa: BLE001 - somebody else's decision must not let either machine in
            self._log.failure("{se} could not be quarantined", se=se)
        return self._quarantined(presence)

    def _quarantined(self, presence: _Presence) -> Goodbye:
        return Goodbye(
            reason="quarantined",
            text="two machines took turns under this key; an operator must look",
            retry_after_s=max(1.0, presence.barred_until - self.clock.seconds()),
        )

    def session_attached(self, session: SeSession) -> None:
        """It counts from now on."""
        self._waiting.discard(session)
        presence = self._presences.setdefault(session.se, _Presence())
        presence.session = session
        if presence.down_at is not None:
            presence.down_at.cancel()
            presence.down_at = None
        current = self.knowledge.membership()
        if session.hello.membership < current.number:
            session.send(MembershipUpdate(document=current.document))
        presence.expected = False
        if not presence.up:
            presence.up = True
            self._listeners.tell(lambda listener: listener.up(session.se))
        self._listeners.tell(lambda listener: listener.attached(session))

    def message_received(self, session: SeSession, message: Message) -> None:
        """Pass it on."""
        self._listeners.tell(lambda listener: listener.received(session, message))

    def rtt_changed(self, session: SeSession, change: RttChange) -> None:
        """Pass it on."""
        if change is RttChange.RAISED:
            self._listeners.tell(lambda listener: listener.rtt_high(session))
        else:
            self._listeners.tell(lambda listener: listener.rtt_cleared(session))

    def session_ended(self, session: SeSession, why: str) -> None:
        """Start the count, unless the session's own heartbeats were the count."""
        self._waiting.discard(session)
        presence = self._presences.get(session.se)
        if presence is None or presence.session is not session:
            return
        presence.session = None
        self._listeners.tell(lambda listener: listener.detached(session, why))
        if presence.session is not None or not presence.up:
            return
        if session.heartbeat.missed >= session.heartbeat.misses:
            self._down(session.se, presence, why)
        elif self._stopped is None:
            self._start_count(session.se, presence, why)

    def session_closed(self, session: SeSession) -> None:
        """Its channel is gone too."""
        self._closing.discard(session)
        if self._stopped is not None and not self._closing and not self._stopped.called:
            self._stopped.callback(None)

    # Inside.

    def _start_count(self, se: SeId, presence: _Presence, why: str) -> None:
        presence.lost_why = why
        patience_s = self.settings.heartbeat_interval_s * self.settings.heartbeat_misses
        presence.down_at = self.clock.callLater(patience_s, self._count_over, se, presence)

    def _count_over(self, se: SeId, presence: _Presence) -> None:
        presence.down_at = None
        self._down(se, presence, presence.lost_why)

    def _down(self, se: SeId, presence: _Presence, why: str) -> None:
        if presence.down_at is not None:
            presence.down_at.cancel()
            presence.down_at = None
        if presence.up or presence.expected:
            presence.up = presence.expected = False
            self._listeners.tell(lambda listener: listener.down(se, why))
