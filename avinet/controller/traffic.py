"""The traffic of the fleet, put together from what its service engines report.

Counts are added up over SEs and over restarts of data planes, so a total here only grows while this controller runs.
Of every virtual service and pool an hour is kept by the minute, of those being watched also by 5 seconds
(``traffic_series``).  Health is judged from all SEs' views (``traffic_verdicts``), and its changes become events
(``traffic_events``).  What the configuration has no more is forgotten.
"""

import contextlib
from collections.abc import Iterator
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from avinet.controller.engines import Emit
from avinet.controller.session import SeSession
from avinet.controller.sessions import SessionListener
from avinet.controller.traffic_events import HealthEvents
from avinet.controller.traffic_health import Verdict
from avinet.controller.traffic_intake import EngineTraffic, Happened, Subject, Taken, traffic_of
from avinet.controller.traffic_places import Places
from avinet.controller.traffic_series import (
    FINE_KEPT,
    FINE_S,
    MINUTE_S,
    MINUTES_KEPT,
    Series,
    added,
)
from avinet.controller.traffic_verdicts import Verdicts
from avinet.controller.traffic_watches import Watches
from avinet.model.config import VirtualService
from avinet.model.counters import COUNTERS, SERVER_KIND, SERVICE_COUNTERS, SERVICE_KIND
from avinet.model.events import Level
from avinet.model.ids import SeId
from avinet.wire.messages import TRAFFIC, Message, Report, Traffic, Watch

TICK_S = 1.0
TIDY_S = 60.0
FRESH_S = 3.0
"""How long the first look at something waits for its SEs: an agent looks at its data plane within 2 s."""
MAX_FINE = 200
"""Objects of which 5 s are kept, watched or watched within the hour: 20 MiB."""


@attrs.define(eq=False)
class Tally:
    """What is known of one virtual service, pool or server over all SEs."""

    begun_at: float
    """Since when it is counted by time, by the clock."""
    totals: tuple[int, ...]
    """Since this controller started; before that, what the data planes have counted since they started."""
    minutes: Series | None = None
    fine: Series | None = None
    fine_since: float = 0.0

    def add(self, happened: Happened, connections: int) -> None:
        """Take a change; ``connections`` is how many are open on all SEs after it."""
        change = attrs.evolve(happened.change, connections=connections)
        self.totals = added(self.totals, change.counts)
        if happened.first:
            # It happened since the data plane started: a point would be a peak that was none.
            change = attrs.evolve(change, counts=(0,) * len(change.counts), latency={})
        for series in (self.minutes, self.fine):
            if series is not None:
                series.add(change)

    def trim(self, now: float) -> None:
        """Forget what is too old."""
        for series in (self.minutes, self.fine):
            if series is not None:
                series.trim(now)


@attrs.frozen(eq=False)
class _Waiter:
    """Somebody who waits until these SEs have said something."""

    engines: set[SeId]
    told: Deferred[None]


@attrs.define(eq=False)
class FleetTraffic(SessionListener):
    """``start`` when sessions may come, ``stop`` before the events stop."""

    places: Places
    clock: IReactorTime
    emit: Emit
    engines: dict[SeId, EngineTraffic] = attrs.field(factory=dict, init=False, repr=False)
    tallies: dict[Subject, Tally] = attrs.field(factory=dict, init=False, repr=False)
    watches: Watches = attrs.field(init=False, repr=False)
    verdicts: Verdicts = attrs.field(init=False, repr=False)
    refused: int = attrs.field(default=0, init=False)
    """Things in reports that were ignored, since the start."""
    _fine: dict[Subject, None] = attrs.field(factory=dict, init=False, repr=False)
    """Of which 5 s are kept, in the order of their first look."""
    _waiting: list[_Waiter] = attrs.field(factory=list, init=False, repr=False)
    """As many as the API has requests at once."""
    _gone: dict[SeId, float] = attrs.field(factory=dict, init=False, repr=False)
    _events: HealthEvents = attrs.field(init=False, repr=False)
    _doubted: dict[SeId, str] = attrs.field(factory=dict, init=False, repr=False)
    """SEs that claimed what is not placed on them, and what they should have had then: perhaps it was to come yet."""
    _ticks: LoopingCall = attrs.field(init=False, repr=False)
    _tidied_at: float = attrs.field(default=0.0, init=False)
    _log: ClassVar[Logger] = Logger()

    def __attrs_post_init__(self) -> None:
        """Put the parts together."""
        self.watches = Watches(self.places)
        self.verdicts = Verdicts(self.places, self.engines, self._gone)
        self._events = HealthEvents(self.verdicts, self.clock, self.emit)
        self._ticks = LoopingCall(self._tick_safely)
        self._ticks.clock = self.clock

    def start(self) -> None:
        """Begin to judge and to forget."""
        self._tidied_at = self.clock.seconds()
        self._ticks.start(TICK_S, now=False)

    def stop(self) -> None:
        """No more events of health."""
        if self._ticks.running:
            self._ticks.stop()

    # What sessions tell

    def attached(self, session: SeSession) -> None:
        """It numbers anew and knows of no watch."""
        self.engines.setdefault(session.se, EngineTraffic()).attached()
        self.watches.attached(session.se)

    def received(self, session: SeSession, message: Message) -> None:
        """Reports of either kind."""
        if isinstance(message, Report):
            if TRAFFIC in session.hello.capabilities:
                return  # the answer to a request; it tells in Traffic
            message = traffic_of(message)
        if not isinstance(message, Traffic):
            return
        se = session.se
        engine = self.engines.setdefault(se, EngineTraffic())
        taken = engine.take(message, self.clock.seconds(), lambda subject: self.places.may(se, subject))
        for happened in taken.happened:
            self._count(happened)
        self._events.mark_pools(taken.pools)
        if not message.more:
            self._wake(se)
        if taken.doubted:
            self._doubted[se] = self.places.hash_of(se)
        if taken.refused:
            self._refuse(se, taken)

    def _wake(self, se: SeId) -> None:
        for waiter in self._waiting:
            waiter.engines.discard(se)
            if not waiter.engines and not waiter.told.called:
                waiter.told.callback(None)

    def up(self, se: SeId) -> None:
        """It is there."""
        self._gone.pop(se, None)
        self._events.mark_all()

    def down(self, se: SeId, why: str) -> None:
        """What it serves may go on, but nobody knows."""
        self._gone[se] = self.clock.seconds()
        self._events.mark_all()

    def _count(self, happened: Happened) -> None:
        subject = happened.subject
        tally = self.tallies.get(subject)
        if tally is None:
            begun = happened.change.ended if happened.first else happened.change.begun
            tally = self.tallies[subject] = Tally(begun, (0,) * len(COUNTERS[subject.kind]))
            if subject.kind != SERVER_KIND:
                tally.minutes = Series(MINUTE_S, MINUTES_KEPT)
        if tally.fine is None and self.watches.watched(subject):
            self._keep_fine(subject, tally)
        tally.add(happened, self.connections(subject))

    def _refuse(self, se: SeId, taken: Taken) -> None:
        name = self.places.fleet.name_of(se)
        self.refused += taken.refused.total()
        for why, count in taken.refused.items():
            text = f"Of what service engine {name} reports, {count} things are ignored: {why}."
            self.emit("SE_REPORT_REFUSED", Level.WARNING, se, text, reason=why, name=name, things=count)

    # What is asked

    def connections(self, subject: Subject) -> int:
        """Open now on all SEs that are connected."""
        found = 0
        for se in self.places.engines_of(subject):
            engine = self.engines.get(se)
            if engine is not None and se not in self._gone:
                found += engine.connections_of(subject)
        return found

    async def fresh(self, subject: Subject) -> None:
        """Somebody looks at it.  The first time it is waited for what the SEs say now, but not for long."""
        if not self.watches.watched(subject):
            self.look(subject)
            awaited = set(self._send_watches()).intersection(self.places.engines_of(subject))
            if awaited:
                told: Deferred[None] = Deferred()
                waiter = _Waiter(awaited, told)
                self._waiting.append(waiter)
                told.addTimeout(FRESH_S, self.clock)
                with contextlib.suppress(TimeoutError):
                    await told
                self._waiting.remove(waiter)
        self.look(subject)

    def look(self, subject: Subject) -> float:
        """Somebody looks at it: until when it is watched."""
        until = self.watches.look(subject, self.clock.seconds())
        tally = self.tallies.get(subject)
        if tally is not None and tally.fine is None:
            self._keep_fine(subject, tally)
        return until

    def _keep_fine(self, subject: Subject, tally: Tally) -> None:
        if len(self._fine) >= MAX_FINE:
            over = next((one for one in self._fine if not self.watches.watched(one)), None)
            if over is None:
                return
            self._drop_fine(over)
        self._fine[subject] = None
        tally.fine, tally.fine_since = Series(FINE_S, FINE_KEPT), self.clock.seconds()

    def _drop_fine(self, subject: Subject) -> None:
        self._fine.pop(subject, None)
        tally = self.tallies.get(subject)
        if tally is not None:
            tally.fine = None

    def totals(self, subject: Subject) -> tuple[int, ...]:
        """Its counts, in the order of ``avinet.model.counters``."""
        tally = self.tallies.get(subject)
        return (0,) * len(COUNTERS[subject.kind]) if tally is None else tally.totals

    def samples(self, limit: int) -> Iterator[tuple[VirtualService, Verdict, int, dict[str, int]]]:
        """Virtual service, health, connections and totals by name, in the order of names; none if there are more."""
        services = self.places.fleet.configuration().all_of(VirtualService)
        for service in services if len(services) <= limit else ():
            subject = Subject(SERVICE_KIND, service.uuid)
            counts = dict(zip(SERVICE_COUNTERS, self.totals(subject), strict=True))
            yield service, self.verdicts.service(service), self.connections(subject), counts

    # By and by

    def _tick_safely(self) -> None:
        try:
            self._tick()
        except Exception:  # noqa: BLE001 - a defect must not end the ticks for good
            self._log.failure("looking after the fleet's traffic failed")

    def _tick(self) -> None:
        now = self.clock.seconds()
        if self.places.refresh():
            self._events.mark_all()
        self.watches.expire(now)
        self._send_watches()
        self._ask_again()
        self._events.work()
        if now - self._tidied_at >= TIDY_S:
            self._tidied_at = now
            self._tidy(now)

    def _send_watches(self) -> list[SeId]:
        """To whom."""
        told = []
        for se, names in self.watches.news():
            if self._send(se, Watch(names=names)):
                told.append(se)
        return told

    def _ask_again(self) -> None:
        """What an SE claimed too early is told once; when it should have something else now, ask for all of it."""
        for se, digest in list(self._doubted.items()):
            if self.places.hash_of(se) != digest:
                del self._doubted[se]
                self.watches.attached(se)
                self._send(se, Watch(anew=True))

    def _send(self, se: SeId, watch: Watch) -> bool:
        session = self.places.fleet.session(se)
        if session is None or TRAFFIC not in session.hello.capabilities:
            return False
        session.send(watch)
        return True

    def _tidy(self, now: float) -> None:
        there = set(self.places.fleet.engines())
        for se in [se for se in self.engines if se not in there]:
            del self.engines[se]
        for known in (self._gone, self._doubted):
            for se in [se for se in known if se not in there]:
                del known[se]
        for subject in [subject for subject in self.tallies if not self.places.exists(subject)]:
            del self.tallies[subject]
            self._fine.pop(subject, None)
        for tally in self.tallies.values():
            tally.trim(now)
        for subject in list(self._fine):
            if not self.tallies[subject].fine and not self.watches.watched(subject):
                self._drop_fine(subject)
