"""How SEs leave: they drain before they are deleted, and are emptied before they are cut off.

An SE that no longer hears its controllers goes on serving with what it has, which is the point of headless operation, and
wrong for one whose virtual services others answer for.  So before its sessions end it is sent an empty state, for a
bounded time: one that does not answer, or is not here, is cut off all the same.
"""

from collections.abc import Awaitable, Callable
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger

from avinet.controller.engine_commands import EngineCommands
from avinet.controller.placement_view import PlacementView
from avinet.errors import AvinetError, Kind, error
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.events import Level
from avinet.model.ids import SeId

FAREWELL_S = 3.0
"""For an SE to take its empty state and say so: 500 virtual services go in less, and a doubtful one gets no longer."""
LOOK_S = 0.1
"""How finely that is looked at; it includes the delay of the placement."""
LEAVE_LOOK_S = 0.5
"""The same for those that drain before they are deleted."""
_SERVES = frozenset({Lifecycle.ENROLLED, Lifecycle.DISABLED})

_log = Logger()


@error
class StrandedError(AvinetError):
    """Service engine {se} serves {what}, which no other can take over. Give its group another service engine, or enable one; or delete it with --now, which ends that service."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    se: str
    what: str


@attrs.define(eq=False)
class Departures:
    """``start`` once the engines are loaded.  ``delete_machine`` ends record and machine; ``cut`` an SE's sessions."""

    commands: EngineCommands
    view: PlacementView
    delete_machine: Callable[[str], Awaitable[SeRecord]]
    cut: Callable[[SeId], None]
    clock: IReactorTime
    _leaving: dict[SeId, None] = attrs.field(factory=dict, init=False, repr=False)
    """To be deleted when they have drained."""
    _looks: LoopingCall = attrs.field(init=False, repr=False)
    _deleting: set[SeId] = attrs.field(factory=set, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._looks = LoopingCall(self._look)
        self._looks.clock = self.clock

    def start(self) -> None:
        """Go on with those that were to leave when the last controller stopped."""
        for record in self.commands.engines.all():
            if record.leaving:
                self._wait_for(record.uuid)

    def stop(self) -> None:
        """Look no more; the records say who is to leave."""
        if self._looks.running:
            self._looks.stop()

    async def delete(self, se: SeId, *, now: bool) -> SeRecord:
        """The record as it is then: DELETED, or ``leaving`` while it drains.  ``StrandedError``."""
        record = self.commands.engines.named(se)
        if record.lifecycle not in _SERVES or self.view.empty(se):
            return await self.delete_machine(se)
        if now:
            await self.commands.disable(se, "being deleted", drains=False)
            await self._emptied(se)
            return await self.delete_machine(se)
        stranded = self.view.stranded_without(se)
        if stranded:
            raise StrandedError(se=record.name, what=_named(stranded))
        record = await self.commands.leave(se)
        self._wait_for(se)
        return record

    def record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        """Quarantined: for ``Engines.listen``, before placement hears of it."""
        if after.lifecycle is Lifecycle.QUARANTINED:
            self.cut_off(after.uuid)

    def cut_off(self, se: SeId) -> None:
        """It is quarantined: end its sessions once it serves nothing, or after a bounded time."""
        if self.view.empty(se):
            self.cut(se)
            return
        waiting: Deferred[None] = Deferred.fromCoroutine(self._cut_off(se))
        waiting.addErrback(lambda f: _log.failure("cutting off {se} failed", f, se=se))

    async def _cut_off(self, se: SeId) -> None:
        await self._emptied(se)
        record = self.commands.engines.find(se)
        if record is not None and record.lifecycle is Lifecycle.QUARANTINED:
            self.cut(se)

    async def _emptied(self, se: SeId) -> None:
        end = self.clock.seconds() + FAREWELL_S
        while True:
            # First a pause: what it is to have now is computed a moment after the decision.
            await deferLater(self.clock, LOOK_S)
            if self.view.empty(se) or self.clock.seconds() >= end:
                return

    def _wait_for(self, se: SeId) -> None:
        self._leaving[se] = None
        if not self._looks.running:
            self._looks.start(LEAVE_LOOK_S, now=False)

    def _look(self) -> None:
        for se in list(self._leaving):
            record = self.commands.engines.find(se)
            if record is None or not record.leaving or record.lifecycle is Lifecycle.DELETED:
                del self._leaving[se]
            elif self.view.empty(se) and se not in self._deleting:
                self._deleting.add(se)
                deleting = Deferred.fromCoroutine(self._delete(record))
                deleting.addErrback(lambda f, se: _log.failure("deleting {se} failed", f, se=se), se)
        if not self._leaving:
            self._looks.stop()

    async def _delete(self, record: SeRecord) -> None:
        try:
            await self.delete_machine(record.uuid)
        except AvinetError as failure:
            # A record that is gone leaves its machine to the next start; one that is not is tried again.
            self.commands.engines.emit(
                "SE_DELETE_FAILED",
                Level.ERROR,
                record.uuid,
                str(failure),
                name=record.name,
                reason=failure.reason,
            )
        finally:
            self._deleting.discard(record.uuid)


def _named(names: tuple[str, ...]) -> str:
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"{len(names)} virtual service{'s' * (len(names) != 1)} ({shown})"
