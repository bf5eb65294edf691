"""Who can serve: the stored records and who is connected, as placement wants to know it.

An SE that goes down keeps its virtual services for its group's ``down_delay_s``, since a reboot is shorter and moving
costs clients their connections; a controller that has just started grants everyone the same.  One that they were moved
from settles before it gets its share again (``avinet.model.holddown``).  Who failed how often is known to this
controller only, and a restart forgives: what it protects from is flapping, which goes on after the restart, or does not.
"""

from collections.abc import Callable, Iterator

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.controller.attendance import AttendanceListener
from avinet.controller.engines import Engines
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.holddown import HoldDown
from avinet.model.ids import SeId
from avinet.model.placement import Engine

_MAY_DRAIN = frozenset({Lifecycle.ENROLLED, Lifecycle.DISABLED})


@attrs.define
class _Absence:
    """Of one SE that is down."""

    since: float
    settled: bool
    """Whether it was trusted when it went: only then it keeps its virtual services for a while."""
    given_up: bool = False


@attrs.define(eq=False)
class Candidates(AttendanceListener):
    """``delay_s``: a group's ``down_delay_s``, by name.  ``changed`` is called when the answer may be another."""

    engines: Engines
    clock: IReactorTime
    delay_s: Callable[[str], float]
    changed: Callable[[], None] = attrs.field(default=lambda: None)
    _up: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    """Connected now; that they ever were is stored a moment later."""
    _absent: dict[SeId, _Absence] = attrs.field(factory=dict, init=False)
    _holds: dict[SeId, HoldDown] = attrs.field(factory=dict, init=False, repr=False)
    _timers: dict[SeId, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    """An SE's: the end of its delay while it is down, of its settling while it is up."""

    def __iter__(self) -> Iterator[Engine]:
        for record in self.engines.all():
            yield self._engine(record)

    def _engine(self, record: SeRecord) -> Engine:
        return Engine(
            record.uuid,
            record.group,
            usable=self._usable(record),
            settling=self.settles_in(record.uuid) > 0,
            drains=record.lifecycle in _MAY_DRAIN and record.drains,
        )

    def _usable(self, record: SeRecord) -> bool:
        if record.lifecycle is not Lifecycle.ENROLLED or not record.placeable:
            return False
        if not record.connected_once and record.uuid not in self._up:
            return False
        absence = self._absent.get(record.uuid)
        return absence is None or not absence.given_up

    def settles_in(self, se: SeId) -> float:
        """Seconds until an SE that failed is trusted again; 0 for one that is."""
        hold = self._holds.get(se)
        return 0.0 if hold is None else hold.settles_in(self.clock.seconds())

    def up(self, se: SeId) -> None:
        """It can serve."""
        self._up.add(se)
        absence = self._absent.pop(se, None)
        self._stop_timer(se)
        hold = self._holds.get(se)
        if hold is not None and absence is not None and absence.given_up:
            now = self.clock.seconds()
            hold.came_back(now)
            self._timers[se] = self.clock.callLater(hold.settles_in(now), self._settled, se)
        self.changed()

    def down(self, se: SeId, why: str) -> None:
        """It cannot, unless it is back within the delay."""
        self._up.discard(se)
        settled = not self.settles_in(se)
        self._stop_timer(se)
        self._absent[se] = _Absence(self.clock.seconds(), settled)
        self._wait(se)

    def groups_changed(self) -> None:
        """A group may have another delay now."""
        for se in list(self._absent):
            self._wait(se)

    def _wait(self, se: SeId) -> None:
        """Give it up, now or when its delay is over."""
        absence, record = self._absent[se], self.engines.find(se)
        if absence.given_up or record is None:
            return
        end = absence.since + (self.delay_s(record.group) if absence.settled else 0.0)
        left = end - self.clock.seconds()
        timer = self._timers.get(se)
        if left <= 0:
            self._stop_timer(se)
            absence.given_up = True
            self._holds.setdefault(se, HoldDown()).failed(self.clock.seconds())
            self.changed()
        elif timer is None or not timer.active():
            self._timers[se] = self.clock.callLater(left, self._wait, se)
        else:
            timer.reset(left)

    def _settled(self, se: SeId) -> None:
        self._timers.pop(se, None)
        self.changed()

    def _stop_timer(self, se: SeId) -> None:
        timer = self._timers.pop(se, None)
        if timer is not None and timer.active():
            timer.cancel()

    def record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        """Enabled, placed, deleted: for ``Engines.listen``."""
        if after.lifecycle is Lifecycle.DELETED:
            self._up.discard(after.uuid)
            self._absent.pop(after.uuid, None)
            self._holds.pop(after.uuid, None)
            self._stop_timer(after.uuid)
            self.changed()
            return
        if self._sent_away(before) and not self._sent_away(after):
            # What an operator has looked at is forgiven.
            self._holds.pop(after.uuid, None)
        if self._matters(before) != self._matters(after):
            self.changed()

    @staticmethod
    def _sent_away(record: SeRecord | None) -> bool:
        return record is not None and record.lifecycle in {Lifecycle.DISABLED, Lifecycle.QUARANTINED}

    def _matters(self, record: SeRecord | None) -> object:
        """What of a record placement looks at; nothing of one that cannot serve and has nothing to lose."""
        if record is None:
            return None
        engine = self._engine(record)
        if engine.usable:
            return record.group
        return engine.drains if record.connected_once else None

    def stop(self) -> None:
        """Let go of the timers."""
        for se in list(self._timers):
            self._stop_timer(se)
