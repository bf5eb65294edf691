"""Brings every SE to the configuration it should have, and knows how far each is.

What each SE should have follows the configuration and who is there (``avinet.controller.states``);
``avinet.controller.progress`` then says what to send.  An SE that a version does not touch hears nothing.  Per version
the time from commit to the last Ack is kept, and who is still missing.
"""

from collections.abc import Callable, Collection, Iterable

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.controller.configuration import ConfigService
from avinet.controller.drain_clock import DrainClock
from avinet.controller.engines import Emit
from avinet.controller.progress import Progress, Push, Wanted
from avinet.controller.push_frames import Pushed, frames_of
from avinet.controller.send_queue import SendQueue
from avinet.controller.session import SeSession
from avinet.controller.sessions import SessionListener
from avinet.controller.shortage import Shortage
from avinet.controller.states import KnownStates, Place, WantedStates
from avinet.controller.stragglers import STRAGGLER_S, Stragglers, tell_of_nack
from avinet.controller.versions import VersionTimes
from avinet.controller.withholding import Withholding
from avinet.model.configuration import Configuration
from avinet.model.ids import NO_VERSION, ConfigVersion, ObjectId, SeId
from avinet.model.moves import Moves
from avinet.model.placement import Engine, place
from avinet.model.resources import Delta
from avinet.wire.messages import Ack, InForce, Message, Nack

TICK_S = 1.0
"""How finely retries and unanswered pushes are looked at."""
PLACE_DELAY_S = 0.05
"""Events that change the placement come in crowds (a controller's start): one computation for each crowd."""
PLACE_REST = 10.0
"""After a computation, as many times as long as it took: with a large fleet, arrivals get the processor, not this."""
_NOTHING = Wanted(NO_VERSION)

_log = Logger()


@attrs.define(eq=False)
class Sync(SessionListener):
    """``start`` once configuration and engines are loaded.  ``engines`` says who there is and who can serve."""

    config: ConfigService
    engines: Callable[[], Iterable[Engine]]
    name_of: Callable[[SeId], str]
    clock: IReactorTime
    emit: Emit
    straggler_s: float = STRAGGLER_S
    """After which an SE that does not have what it should is an event."""
    place: Place = place
    leads: bool = True
    """Whether it sends and tells."""
    times: VersionTimes = attrs.field(init=False)
    stragglers: Stragglers = attrs.field(init=False)
    shortage: Shortage = attrs.field(init=False, repr=False)
    withholding: Withholding = attrs.field(init=False, repr=False)
    pushed: Pushed = attrs.field(factory=Pushed, init=False)
    _progress: dict[SeId, Progress] = attrs.field(factory=dict, init=False, repr=False)
    _sessions: dict[SeId, SeSession] = attrs.field(factory=dict, init=False, repr=False)
    _states: WantedStates = attrs.field(init=False, repr=False)
    _known: KnownStates = attrs.field(factory=KnownStates, init=False, repr=False)
    _due: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _queue: SendQueue = attrs.field(init=False, repr=False)
    """Placed, and not sent to yet."""
    _placing_s: float = attrs.field(default=0.0, init=False)
    """How long the last computation took."""
    _arrived: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    """Attached since it was placed last."""
    _ticks: LoopingCall = attrs.field(init=False, repr=False)
    _behind: SeId | None = attrs.field(default=None, init=False, repr=False)
    """One that was not in sync when somebody looked last."""
    _drains: DrainClock = attrs.field(init=False, repr=False)
    _waiters: list[Deferred[None]] = attrs.field(factory=list, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.times = VersionTimes(self.clock)
        self.shortage = Shortage(self.emit)
        self.withholding = Withholding(self.config, self.name_of, self.emit)
        self.stragglers = Stragglers(self.clock, self.emit, self.name_of, self.straggler_s)
        self._states = WantedStates(self.config.current, self.place)
        self._drains = DrainClock(self.clock, lambda: self.moves.due, self._drained)
        self._queue = SendQueue(self.clock, self._advance)
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = self.clock

    def start(self) -> None:
        """Begin to follow configuration and engines."""
        self.config.listen(self._new_version)
        self._place_now()
        self._ticks.start(TICK_S, now=False)

    def lead(self) -> None:
        """Send from now on, first to those that do not have what they should."""
        self.leads = True
        self.stragglers.restart()
        self._warn_of_short()
        self._queue.add(self._sessions)
        self._queue.work()

    def rest(self) -> None:
        """Another sends; what is under way is not waited for."""
        self.leads = False
        for progress in map(self._progress.__getitem__, self._sessions):
            progress.attached(progress.has or "")

    def stop(self) -> None:
        """Send no more."""
        if self._ticks.running:
            self._ticks.stop()
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._drains.stop()
        self._queue.stop()

    # What is asked

    @property
    def states(self) -> WantedStates:
        """What each SE is to have, and where that comes from."""
        return self._states

    @property
    def moves(self) -> Moves:
        """Who drains what."""
        return self._states.moves

    def in_sync(self, se: SeId) -> bool:
        """Whether the SE reported the state it should have."""
        progress = self._progress.get(se)
        # One that has just arrived may be given something in a moment: what it should have is not known before.
        return progress is not None and progress.in_sync and se not in self._arrived

    def progress(self, se: SeId) -> Progress | None:
        """How far one SE is."""
        return self._progress.get(se)

    def wanted(self, se: SeId) -> Wanted | None:
        """What one SE should have."""
        progress = self._progress.get(se)
        return None if progress is None else progress.wanted

    def behind(self) -> list[SeId]:
        """Attached SEs that do not have what they should."""
        return [se for se, p in self._progress.items() if p.straggles]

    def waits_for(self, version: ConfigVersion) -> list[SeId]:
        """Those of them that a version is not in force without.

        One that has refused what an earlier version gave it is not waited for by a version that does not touch it.
        """
        return [se for se in self._progress if self._holds_up(se, version)]

    def waits(self, version: ConfigVersion) -> SeId | None:
        """One of those; None when there is none.

        Asked at each Ack of a fleet: looks at all only when the last one found has come in.
        """
        if self._behind is None or not self._holds_up(self._behind, version):
            self._behind = next((se for se in self._progress if self._holds_up(se, version)), None)
        return self._behind

    def _holds_up(self, se: SeId, version: ConfigVersion) -> bool:
        progress = self._progress.get(se)
        if progress is None or not progress.straggles:
            return False
        return not progress.refused or progress.since >= version

    @property
    def placing(self) -> bool:
        """Whether something has happened that may change what SEs should have, and is about to be looked at."""
        return self._due is not None

    def settled(self) -> bool:
        """Whether every attached SE has what it should, of the version in force."""
        return self._due is None and not any(p.straggles for p in self._progress.values())

    def preview(self, configuration: Configuration) -> dict[SeId, Delta]:
        """What each SE would be sent if ``configuration`` were in force; those that it does not touch are left out."""

        def now(se: SeId) -> Wanted:
            progress = self._progress.get(se)
            return _NOTHING if progress is None else progress.wanted

        return self._states.preview(configuration, tuple(self.engines()), now)

    def changed(self) -> Deferred[None]:
        """Fires when an SE's standing changes next; for those who wait."""
        waiter: Deferred[None] = Deferred(self._waiters.remove)
        self._waiters.append(waiter)
        return waiter

    def _tell_waiters(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    # What happens

    def engines_changed(self) -> None:
        """An SE was created, enabled, went down, came back: place anew, soon."""
        if self._due is None:
            delay_s = max(PLACE_DELAY_S, PLACE_REST * self._placing_s)
            self._due = self.clock.callLater(delay_s, self._place_now)

    def _place_now(self) -> None:
        self._due = None
        begun = self.clock.seconds()
        engines = tuple(self.engines())
        arrived = {se: self._has(se) for se in self._arrived}
        anew = self._states.engines_are(engines, begun)
        if self._states.arrived(arrived, begun) or anew:
            self._want_all(engines)
            self._warn_of_short()
        else:
            there = {engine.se for engine in engines}
            self._forget_gone(there)
            self._queue.add(self._arrived & there)
            self._arrived = set()
        self._drains.look()
        self._queue.work()
        self._tell_waiters()
        # A second of rest at most, whatever the clock was set to.
        self._placing_s = min(1.0 / PLACE_REST, max(0.0, self.clock.seconds() - begun))

    def _new_version(self, configuration: Configuration) -> None:
        self.times.committed(configuration.version)
        anew = self._states.follow(configuration, self.clock.seconds())
        for se in self._states.placed:
            self._want(se, new_version=True)
        if anew:
            self._warn_of_short()
            self._drains.look()
        self._queue.work()
        self._tell_waiters()

    def attached(self, session: SeSession) -> None:
        """Compare what the SE has with what it should have."""
        self._sessions[session.se] = session
        progress = self._progress.setdefault(session.se, Progress())
        if self._states.knows(session.se, session.hello.capabilities):
            progress.want(self._states.of(session.se))
        progress.attached(session.hello.hash)
        self._arrived.add(session.se)
        # Not sent to before it is placed anew: while it was away it may have been given up, and what it should have
        # then is nothing, though it serves; it would lose its virtual services and get them back a moment later.
        self.engines_changed()

    def detached(self, session: SeSession, why: str) -> None:
        """Nothing is under way to it any more."""
        if self._sessions.get(session.se) is not session:
            return
        del self._sessions[session.se]
        self._arrived.discard(session.se)
        progress = self._progress.get(session.se)
        if progress is not None:
            progress.detached()
            self.times.gone(session.se)
            self.stragglers.left(session.se)
        self.moves.detached(session.se, self.clock.seconds())
        self._drains.look()
        self._tell_waiters()

    def received(self, session: SeSession, message: Message) -> None:
        """Answers to pushes, and what the data plane says by itself."""
        progress = self._progress.get(session.se)
        if progress is None or self._sessions.get(session.se) is not session:
            return
        now = self.clock.seconds()
        if isinstance(message, Ack):
            self.pushed.acks += progress.acked(message.push, message.hash)
        elif isinstance(message, Nack):
            if progress.nacked(message.push, message.reason, message.text, message.hash, now):
                self.pushed.nacks += 1
                self.times.refused(message.version)
                tell_of_nack(self.emit, self.name_of(session.se), session.se, message)
                self._tell_waiters()
        elif isinstance(message, InForce) and self.leads:
            progress.reported(message.hash, now)
        elif isinstance(message, InForce):
            progress.attached(message.hash)  # by the leader's doing: nothing is held against it
        else:
            return
        self._tell_moves(session.se)
        self._advance(session.se)

    # Inside

    def _has(self, se: SeId) -> frozenset[ObjectId] | None:
        """The virtual services that it reported; None when its state is not known."""
        progress = self._progress[se]
        if progress.has == progress.wanted.hash and se in self._states.serving:
            return self._states.serving[se]
        return self._known.services_of(progress.has)

    def _tell_moves(self, se: SeId) -> None:
        has = self._has(se)
        if has is not None and se not in self._arrived:
            self.moves.said(se, has, self.clock.seconds())
            self._drains.look()

    def _drained(self) -> None:
        for se in self._states.time_is(self.clock.seconds()):
            self._want(se)
        self._queue.work()
        self._tell_waiters()

    def _want_all(self, engines: Iterable[Engine]) -> None:
        self._forget_gone({engine.se for engine in engines})
        for se in self._states.placed:
            self._want(se)
        self._arrived = set()

    def _forget_gone(self, there: Collection[SeId]) -> None:
        for gone in self._progress.keys() - there:
            if gone not in self._sessions:
                del self._progress[gone]
                self._states.forget(gone)
                self.times.gone(gone)
                self.stragglers.forget(gone)

    def _want(self, se: SeId, *, new_version: bool = False) -> None:
        progress = self._progress.get(se)
        if progress is None:
            progress = self._progress[se] = Progress()
        wanted = self._states.of(se)
        another = progress.wanted.hash != wanted.hash
        if another:
            self._known.remember(progress.wanted)
        progress.want(wanted)
        if new_version and se in self._arrived:
            return  # it is placed in a moment, and not sent to before
        if progress.straggles:
            self.stragglers.behind(se)
            if new_version and another:
                self.times.missing(se)
        if another or not progress.in_sync or se in self._arrived:
            self._queue.add((se,))

    def _warn_of_short(self) -> None:
        if self.leads:
            states = self._states
            self.shortage.follow(states.configuration, states.placed, states.engines or ())

    def _advance(self, se: SeId) -> None:
        """Send what is to be sent, and note who is missing and who has come in."""
        progress, session = self._progress.get(se), self._sessions.get(se)
        if progress is None or session is None:
            return
        self.withholding.look(session, progress, leads=self.leads)
        if progress.in_sync:
            self._known.remember(progress.wanted)
            self.times.reached(se)
            self.stragglers.caught_up(se)
            self._tell_moves(se)
            self._tell_waiters()
            return
        self.stragglers.behind(se)
        if not self.leads or self.moves.holds_back(se, self.clock.seconds()):
            return  # looked at again at the next tick
        push = progress.next_push(self._known.states, self.clock.seconds())
        if push is None:
            return
        self._known.remember(push.wanted)
        self._count(push)
        sending = session.send_all(frames_of(push, self.config.fence))
        sending.addErrback(
            lambda failure: _log.info("a push to {se} was cut: {why}", se=se, why=failure.getErrorMessage())
        )

    def _count(self, push: Push) -> None:
        self.pushed.pushes += 1
        self.pushed.size += push.size
        if push.again:
            self.pushed.resends += 1
            self.times.sent_again()

    def _tick(self) -> None:
        if not self.leads:
            return
        self.stragglers.look(lambda se: self._progress[se].trouble)
        now = self.clock.seconds()
        for se, session in list(self._sessions.items()):
            progress = self._progress[se]
            if progress.overdue(now):
                session.abort("it leaves a configuration push unanswered")
            elif progress.retry_at is not None and now >= progress.retry_at:
                self._advance(se)
        for se in tuple(self.moves.unsure):
            if se not in self._arrived:
                self._advance(se)
