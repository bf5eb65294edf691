"""Who can serve: the stored records and who is connected, as placement wants to know it.

An SE that goes down keeps its virtual services for ``DOWN_DELAY_S``, since a reboot is shorter and moving costs
clients their connections; a controller that has just started grants everyone the same.
"""

from collections.abc import Callable, Iterator

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.controller.engines import Engines
from avinet.controller.sessions import SessionListener
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.ids import SeId
from avinet.model.placement import DOWN_DELAY_S, Engine


@attrs.define(eq=False)
class Candidates(SessionListener):
    """``changed`` is called when the answer may be another."""

    engines: Engines
    clock: IReactorTime
    changed: Callable[[], None] = attrs.field(default=lambda: None)
    _up: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    """Connected now; that they ever were is stored a moment later."""
    _down_since: dict[SeId, float] = attrs.field(factory=dict, init=False)
    _timers: dict[SeId, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)

    def __iter__(self) -> Iterator[Engine]:
        for record in self.engines.all():
            yield Engine(record.uuid, record.group, self._usable(record))

    def _usable(self, record: SeRecord) -> bool:
        if record.lifecycle is not Lifecycle.ENROLLED or not record.placeable:
            return False
        if not record.connected_once and record.uuid not in self._up:
            return False
        down_since = self._down_since.get(record.uuid)
        return down_since is None or self.clock.seconds() - down_since < DOWN_DELAY_S

    def up(self, se: SeId) -> None:
        """It can serve."""
        self._up.add(se)
        self._down_since.pop(se, None)
        timer = self._timers.pop(se, None)
        if timer is not None and timer.active():
            timer.cancel()
        self.changed()

    def down(self, se: SeId, why: str) -> None:
        """It cannot, unless it is back within the delay."""
        self._up.discard(se)
        self._down_since[se] = self.clock.seconds()
        self._timers[se] = self.clock.callLater(DOWN_DELAY_S, self._gave_up, se)

    def _gave_up(self, se: SeId) -> None:
        self._timers.pop(se, None)
        self.changed()

    def record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        """Enabled, placed, deleted: for ``Engines.listen``."""
        if after.lifecycle is Lifecycle.DELETED:
            self._up.discard(after.uuid)
            self._down_since.pop(after.uuid, None)
            timer = self._timers.pop(after.uuid, None)
            if timer is not None and timer.active():
                timer.cancel()
            self.changed()
        elif (self._serves(before) if before is not None else "") != self._serves(after):
            self.changed()

    def _serves(self, record: SeRecord) -> str:
        """The group that it can serve; empty for none.  All else of a record is nothing to placement."""
        return record.group if self._usable(record) else ""

    def stop(self) -> None:
        """Let go of the timers."""
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._timers.clear()
