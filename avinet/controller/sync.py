"""Brings every SE to the configuration it should have, and knows how far each is.

On each new version, and whenever an SE comes, goes or may be placed otherwise, the placement is computed anew and
each SE's wanted state with it; ``avinet.controller.progress`` then says what to send.  An SE that a version does not
touch hears nothing.  Per version the time from commit to the last Ack is kept, and who is still missing.
"""

import collections
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Emit
from avinet.controller.progress import Progress, Push, Stand, Wanted
from avinet.controller.session import SeSession
from avinet.controller.sessions import SessionListener
from avinet.controller.versions import VersionTimes
from avinet.model.configuration import Configuration
from avinet.model.events import Level
from avinet.model.ids import NO_VERSION, ObjectId, SeId
from avinet.model.placement import Engine, place, short_of
from avinet.model.projection import Projector
from avinet.model.resources import EMPTY_STATE_HASH, Delta, Resource, delta_between, hashes_of
from avinet.units import KIB
from avinet.wire.messages import Ack, ConfigEnd, ConfigPut, ConfigRemove, ConfigStart, InForce, Message, Nack

TICK_S = 1.0
"""How finely retries and unanswered pushes are looked at."""
PLACE_DELAY_S = 0.05
"""Events that change the placement come in crowds (a controller's start): one computation for each crowd."""
SLICE_S = 0.010
"""Of pushes in one turn of the reactor."""
PLACE_REST = 10.0
"""After a computation, as many times as long as it took: with a large fleet, arrivals get the processor, not this."""
KNOWN_STATES = 2_000
"""States whose resources are remembered to send deltas from; SEs of one group mostly share theirs."""
FRAME_BYTES = 512 * KIB
"""Of one body in a frame: half of what the protocol allows."""
NAMES_A_FRAME = 1_000

_NOTHING = Wanted(NO_VERSION)

_log = Logger()


def frames_of(push: Push, fence: object) -> Iterator[Message]:
    """A push as messages, made as the link takes them."""
    delta, wanted = push.delta, push.wanted
    yield ConfigStart(
        push=push.number,
        fence=fence,  # type: ignore[arg-type] # a Fence; spelled loosely to keep this usable in tests
        base=push.base,
        hash=wanted.hash,
        puts=len(delta.put),
        removes=len(delta.remove),
        size=sum(len(resource.body) for resource in delta.put),
    )
    for resource in delta.put:
        body = resource.body
        for start in range(0, max(1, len(body)), FRAME_BYTES):
            piece = body[start : start + FRAME_BYTES]
            more = start + FRAME_BYTES < len(body)
            yield ConfigPut(push=push.number, name=resource.name, body=piece, more=more)
    for start in range(0, len(delta.remove), NAMES_A_FRAME):
        yield ConfigRemove(push=push.number, names=delta.remove[start : start + NAMES_A_FRAME])
    yield ConfigEnd(push=push.number)


@attrs.define(eq=False)
class Sync(SessionListener):
    """``start`` once configuration and engines are loaded.  ``engines`` says who there is and who can serve."""

    config: ConfigService
    engines: Callable[[], Iterable[Engine]]
    name_of: Callable[[SeId], str]
    clock: IReactorTime
    emit: Emit
    times: VersionTimes = attrs.field(init=False)
    _progress: dict[SeId, Progress] = attrs.field(factory=dict, init=False, repr=False)
    _sessions: dict[SeId, SeSession] = attrs.field(factory=dict, init=False, repr=False)
    _known: "collections.OrderedDict[str, Mapping[str, str]]" = attrs.field(
        factory=collections.OrderedDict, init=False, repr=False
    )
    _due: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _to_advance: dict[SeId, None] = attrs.field(factory=dict, init=False, repr=False)
    """Placed, and not sent to yet, in order."""
    _advancing: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _placing_s: float = attrs.field(default=0.0, init=False)
    """How long the last computation took."""
    _placed: tuple[Engine, ...] | None = attrs.field(default=None, init=False, repr=False)
    """Whom the configuration in ``_projector`` was placed on; None before the first time."""
    _arrived: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    """Attached since then."""
    _ticks: LoopingCall = attrs.field(init=False, repr=False)
    _short: Mapping[str, int] = attrs.field(factory=dict, init=False)
    _projector: Projector = attrs.field(init=False, repr=False)
    _behind: SeId | None = attrs.field(default=None, init=False, repr=False)
    """One that was not in sync when somebody looked last."""
    _waiters: list[Deferred[None]] = attrs.field(factory=list, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self.times = VersionTimes(self.clock)
        self._projector = Projector(self.config.current)
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = self.clock
        self._known[EMPTY_STATE_HASH] = {}

    def start(self) -> None:
        """Begin to follow configuration and engines."""
        self.config.listen(self._new_version)
        self._place(self.config.current)
        self._ticks.start(TICK_S, now=False)

    def stop(self) -> None:
        """Send no more."""
        if self._ticks.running:
            self._ticks.stop()
        if self._due is not None and self._due.active():
            self._due.cancel()
        self._to_advance.clear()
        if self._advancing is not None:
            self._advancing.cancel()
            self._advancing = None

    # What is asked

    def in_sync(self, se: SeId) -> bool:
        """Whether the SE reported the state it should have."""
        progress = self._progress.get(se)
        # One that has just arrived may be given something in a moment: what it should have is not known before.
        return progress is not None and progress.in_sync and se not in self._arrived

    def progress(self, se: SeId) -> Progress | None:
        """How far one SE is."""
        return self._progress.get(se)

    def stragglers(self) -> list[SeId]:
        """Attached SEs that do not have what they should."""
        return [se for se, p in self._progress.items() if p.straggles]

    def refused_everywhere(self) -> bool:
        """Whether all that is missing is SEs that have refused and wait to be asked again."""
        stragglers = self.stragglers()
        return bool(stragglers) and all(self._progress[se].stand is Stand.WAITING for se in stragglers)

    def settled(self) -> bool:
        """Whether every attached SE has what it should, of the version in force."""
        if self._due is not None:
            return False
        # Asked at each Ack of a fleet: looks at all only when the last one found has come in.
        behind = self._progress.get(self._behind) if self._behind is not None else None
        if behind is None or not behind.straggles:
            self._behind = next((se for se, p in self._progress.items() if p.straggles), None)
        return self._behind is None

    def preview(self, configuration: Configuration) -> dict[SeId, Delta]:
        """What each SE would be sent if ``configuration`` were in force; those that it does not touch are left out."""
        placement = place(configuration, tuple(self.engines()))
        projector = Projector(configuration)
        found: dict[SeId, Delta] = {}
        made: dict[tuple[frozenset[ObjectId], str], Delta] = {}
        for se, services in placement.items():
            progress = self._progress.get(se)
            wanted = _NOTHING if progress is None else progress.wanted
            delta = made.get((services, wanted.hash))
            if delta is None:
                delta = delta_between(hashes_of(wanted.resources.values()), projector.resources_for(services))
                made[services, wanted.hash] = delta
            if not delta.empty:
                found[se] = delta
        return found

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
        self._place(self.config.current)
        # At most a second of rest, whatever the clock was set to meanwhile.
        self._placing_s = min(1.0 / PLACE_REST, max(0.0, self.clock.seconds() - begun))

    def _new_version(self, configuration: Configuration) -> None:
        self._place(configuration)

    def attached(self, session: SeSession) -> None:
        """Compare what the SE has with what it should have."""
        self._sessions[session.se] = session
        progress = self._progress.setdefault(session.se, Progress())
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
        self._tell_waiters()

    def received(self, session: SeSession, message: Message) -> None:
        """Answers to pushes, and what the data plane says by itself."""
        progress = self._progress.get(session.se)
        if progress is None or self._sessions.get(session.se) is not session:
            return
        now = self.clock.seconds()
        if isinstance(message, Ack):
            progress.acked(message.push, message.hash)
        elif isinstance(message, Nack):
            if progress.nacked(message.push, message.reason, message.text, message.hash, now):
                self._nacked(session.se, message)
                self._tell_waiters()
        elif isinstance(message, InForce):
            progress.reported(message.hash, now)
        else:
            return
        self._advance(session.se)

    def up(self, se: SeId) -> None:
        """It may serve."""
        self.engines_changed()

    def down(self, se: SeId, why: str) -> None:
        """It may be replaced, after its group's delay."""
        self.engines_changed()

    def _nacked(self, se: SeId, nack: Nack) -> None:
        self.emit(
            "CONFIG_NACKED",
            Level.WARNING if nack.reason in {"superseded", "stopping", "base-mismatch"} else Level.ERROR,
            se,
            f"Service engine {self.name_of(se)} refused configuration version {nack.version}: "
            f"{nack.text or nack.reason}. Its last good configuration stays in force.",
            reason=nack.reason,
            resource=nack.resource,
            version=nack.version,
        )

    # Inside

    def _place(self, configuration: Configuration) -> None:
        same = self._projector.configuration is configuration
        if not same:
            self._projector = Projector(configuration)
            self.times.committed(configuration.version)
        engines = tuple(self.engines())
        arrived, self._arrived = self._arrived, set()
        if same and engines == self._placed:
            there = {engine.se for engine in engines}
            self._forget_gone(there)
            self._to_advance.update(dict.fromkeys(arrived & there))
            self._advance_some()
            self._tell_waiters()
            return
        self._placed = engines
        placement = place(configuration, engines)
        self._forget_gone(placement.keys())
        states: dict[frozenset[object], Wanted] = {}
        for se, services in placement.items():
            wanted = states.get(services)
            if wanted is None:
                resources: Mapping[str, Resource] = self._projector.resources_for(services)
                wanted = states[services] = Wanted.of(configuration.version, resources)
            self._want(se, wanted, arrived=se in arrived)
            if not same and se in self._sessions and not self._progress[se].in_sync:
                self.times.missing(se)
        self._advance_some()
        self._warn_of_short(short_of(configuration, placement))
        self._tell_waiters()

    def _forget_gone(self, there: Collection[SeId]) -> None:
        for gone in self._progress.keys() - there:
            if gone not in self._sessions:
                del self._progress[gone]
                self.times.gone(gone)

    def _want(self, se: SeId, wanted: Wanted, *, arrived: bool) -> None:
        progress = self._progress.get(se)
        if progress is None:
            progress = self._progress[se] = Progress()
        untouched = progress.in_sync and progress.wanted.hash == wanted.hash and not arrived
        progress.want(wanted)
        if untouched:
            self._remember(wanted)
        else:
            self._to_advance[se] = None

    def _advance_some(self) -> None:
        """A slice of those who have just been placed, and the rest from turn to turn of the reactor.

        To render, encrypt and send for 2,000 at once took 0.7 s, and heartbeats waited.
        """
        if self._advancing is not None and self._advancing.active():
            self._advancing.cancel()
        self._advancing = None
        until = self.clock.seconds() + SLICE_S
        while self._to_advance and self.clock.seconds() < until:
            se = next(iter(self._to_advance))
            del self._to_advance[se]
            if se in self._progress:
                self._advance(se)
        if self._to_advance:
            self._advancing = self.clock.callLater(0, self._advance_some)

    def _warn_of_short(self, short: Mapping[str, int]) -> None:
        for name, count in short.items():
            if self._short.get(name) != count:
                self.emit(
                    "VS_SHORT_OF_ENGINES",
                    Level.WARNING,
                    name,
                    f"Virtual service {name} is placed on {count} service engines, fewer than its group's minimum.",
                    placed=count,
                )
        self._short = short

    def _remember(self, wanted: Wanted) -> None:
        if wanted.hash not in self._known:
            self._known[wanted.hash] = hashes_of(wanted.resources.values())
        self._known.move_to_end(wanted.hash)
        while len(self._known) > KNOWN_STATES:
            self._known.popitem(last=False)

    def _advance(self, se: SeId) -> None:
        """Send what is to be sent, and note who is missing and who has come in."""
        progress, session = self._progress[se], self._sessions.get(se)
        if session is None:
            return
        if progress.in_sync:
            self._remember(progress.wanted)
            self.times.reached(se)
            self._tell_waiters()
            return
        push = progress.next_push(self._known, self.clock.seconds())
        if push is None:
            return
        self._remember(push.wanted)
        sending = session.send_all(frames_of(push, self.config.fence))
        sending.addErrback(
            lambda failure: _log.info("a push to {se} was cut: {why}", se=se, why=failure.getErrorMessage())
        )

    def _tick(self) -> None:
        now = self.clock.seconds()
        for se, session in list(self._sessions.items()):
            progress = self._progress[se]
            if progress.overdue(now):
                session.abort("it leaves a configuration push unanswered")
            elif progress.retry_at is not None and now >= progress.retry_at:
                self._advance(se)
