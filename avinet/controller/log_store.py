"""The controller's log store at work: what was received goes in, what is old goes out, questions see what they ask for.

Segments wait a moment for others, so that seconds of significant logs become one file and not hundreds; a question that
wants everything that was received does not wait for that moment.  Nothing is lost by an error here: segments wait in the
ledger until they are in the store, or are set aside with an event.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_intake import LogListener
from avinet.controller.log_link import LogLink
from avinet.errors import AvinetError
from avinet.logs.entries import StoreFile, Waiting
from avinet.logs.ledger import Ledger
from avinet.logs.mended import Mended
from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Query
from avinet.logs.query.times import show_instant
from avinet.logs.store.interface import Keeping, LogStore, Taken
from avinet.logs.store.jobs import Role
from avinet.model.events import Level
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead
from avinet.units import MIB

GATHER_S = 2.0
"""From a segment's arrival until it goes in with whatever came besides: a service engine pushes each 2 s."""
GATHER_BYTES = 256 * MIB
"""Of NDJSON; so much does not wait."""
RETRY_S = 5.0
"""After an error nothing is tried for so long: a worker is back by then, a full disk perhaps."""
UPKEEP_S = 60.0
PATIENCE_S = 10.0
"""How long a question waits for what was received before it: 3 million records."""

Emit = Callable[..., None]


@attrs.frozen
class Reported:
    """How events are told, and what a service engine is called in them."""

    emit: Emit
    name_of: Callable[[SeId], str] = lambda se: se

    def taken(self, taken: Taken) -> None:
        """What could not be used."""
        for bad in taken.bad:
            se = bad.segment.se
            self.emit(
                "LOG_SEGMENT_BAD",
                Level.WARNING,
                se,
                f"{bad.segment.head.records} log records of service engine {self.name_of(se)} were set aside: {bad.why}",
                segment=bad.segment.head.name,
                service=bad.segment.head.service,
                records=bad.segment.head.records,
                reason=bad.why,
            )
        for lines in taken.bad_lines:
            se = lines.segment.se
            self.emit(
                "LOG_LINES_BAD",
                Level.WARNING,
                se,
                f"{lines.lines} lines in logs of service engine {self.name_of(se)} were set aside; of the first, {lines.why}",
                segment=lines.segment.head.name,
                service=lines.segment.head.service,
                lines=lines.lines,
                reason="lines",
            )

    def file_lost(self, file: StoreFile, why: str) -> None:
        """A file of the store cannot be read any more."""
        since, until = show_instant(file.first_us), show_instant(file.last_us)
        self.emit(
            "LOG_FILE_BAD",
            Level.ERROR,
            "controller",
            f"{file.records} log records from {since} to {until} are lost: their file in the store cannot be read.",
            file=file.name,
            records=file.records,
            reason=why,
        )

    def mended(self, mended: Mended) -> None:
        """The list of what there is did not fit what there is."""
        if mended.noteworthy:
            self.emit(
                "LOG_LEDGER_MENDED",
                Level.ERROR,
                "controller",
                mended.text,
                reason=mended.why or "files",
                records=mended.records,
            )

    def died(self, role: Role, how: str) -> None:
        """A worker ended."""
        self.emit(
            "LOG_WORKER_DIED",
            Level.ERROR,
            "controller",
            f"The log store's {role.value} worker ended: {how} It is started again; nothing that was received is lost.",
            role=role.value,
            reason=role.value,
        )

    def failed(self, why: str) -> None:
        """The store does not work."""
        self.emit(
            "LOG_INGEST_FAILED",
            Level.ERROR,
            "controller",
            f"Logs that were received wait: {why}",
            reason=why,
        )

    def well(self) -> None:
        """It works again."""
        self.emit("LOG_INGEST_WELL", Level.INFO, "controller", "Logs that were received are taken in again.")


class Arrivals(LogListener):
    """Tells the store what the intake has received."""

    def __init__(self, service: "LogStoreService") -> None:
        self._service = service

    def arrived(self, link: LogLink, heads: Sequence[SegmentHead], pull: int) -> None:
        """They wait in the ledger."""
        self._service.arrived(sum(head.raw_bytes for head in heads))


@attrs.define(eq=False)
class LogStoreService:
    """Runs a store."""

    store: LogStore
    ledger: Ledger
    keeping: Keeping
    clock: IReactorTime
    in_thread: Callable[..., Deferred[Any]]
    reported: Reported
    stored: Callable[..., None] = lambda name, significant: None
    """Told the name of each file that is new in the store, and whether it may have ``significant`` records."""
    trouble: str = attrs.field(default="", init=False)
    """Why what was received waits, while it cannot be taken in."""
    _arrived_bytes: int = attrs.field(default=0, init=False)
    """Since what waits was last looked at."""
    _taking: bool = attrs.field(default=False, init=False)
    _rest_until: float = attrs.field(default=0.0, init=False)
    _next: IDelayedCall | None = attrs.field(default=None, init=False)
    _upkeep: IDelayedCall | None = attrs.field(default=None, init=False)
    _hurried: list[Deferred[None]] = attrs.field(factory=list, init=False)
    """Who wants to know when something was taken in, or could not be."""
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    async def start(self) -> None:
        """Start the store, and take in what waits since the last time."""
        self.reported.mended(await self.store.start())
        self._take_in(0.0)
        self._upkeep = self.clock.callLater(UPKEEP_S, self._keep_up)

    async def stop(self) -> None:
        """Whatever is under way fails; it is done again at the next start."""
        self._stopped = True
        for timer in (self._next, self._upkeep):
            if timer is not None and timer.active():
                timer.cancel()
        await self.store.stop()
        self._tell_all()

    def arrived(self, raw_bytes: int) -> None:
        """So much NDJSON was received."""
        self._arrived_bytes += raw_bytes
        self._take_in(0.0 if self._arrived_bytes >= GATHER_BYTES else GATHER_S)

    async def fresh(self, patience_s: float = PATIENCE_S) -> Waiting | None:
        """Wait until all that was received before is in the store; what is not after ``patience_s``, or None."""
        until = self.clock.seconds() + patience_s
        arrival = await self.in_thread(self.ledger.last_arrival)
        while await self.in_thread(self.ledger.waits, arrival):
            left_s = until - self.clock.seconds()
            if left_s <= 0 or self._stopped:
                totals: Waiting = await self.in_thread(self.ledger.waiting_totals)
                return totals
            taken: Deferred[None] = Deferred()
            self._hurried.append(taken)
            self._take_in(0.0)
            timer = self.clock.callLater(left_s, self._tell, taken)
            await taken
            if timer.active():
                timer.cancel()
        return None

    async def query(self, query: Query, patience_s: float = PATIENCE_S) -> tuple[Answer, Waiting | None]:
        """The answer, and what was received before the question but is not in it."""
        behind = await self.fresh(patience_s)
        return await self.store.query(query), behind

    # Taking in

    def _take_in(self, after_s: float) -> None:
        """Soon; what is planned for later is brought forward."""
        if self._stopped or self._taking:
            return
        after_s = max(after_s, self._rest_until - self.clock.seconds())
        if self._next is not None:
            if self._next.getTime() <= self.clock.seconds() + after_s:
                return
            self._next.cancel()
        self._next = self.clock.callLater(after_s, self._take)

    def _take(self) -> None:
        self._next = None
        self._taking = True
        self._arrived_bytes = 0
        self.store.take().addCallbacks(self._took, self._failed).addErrback(
            lambda f: self._log.failure("what was taken into the log store could not be told", f)
        )

    def _took(self, taken: Taken) -> None:
        self._taking = False
        if self.trouble:
            self.trouble = ""
            self.reported.well()
        self.reported.taken(taken)
        for name in taken.files:
            self.stored(name, significant=name not in taken.full_only)
        if taken.more or (taken.segments and self._hurried) or self._arrived_bytes >= GATHER_BYTES:
            self._take_in(0.0)
        elif self._arrived_bytes or taken.segments:
            # What was too much for this time waits for nobody's question.
            self._take_in(GATHER_S)
        self._tell_all()

    def _failed(self, failure: Failure) -> None:
        self._taking = False
        if self._stopped:
            self._tell_all()
            return
        if not isinstance(failure.value, AvinetError):
            self._log.failure("taking logs in failed", failure)
        self.trouble = failure.getErrorMessage()
        self.reported.failed(self.trouble)
        self._rest_until = self.clock.seconds() + RETRY_S
        self._take_in(0.0)
        self._tell_all()

    def _tell_all(self) -> None:
        for taken in list(self._hurried):
            self._tell(taken)

    def _tell(self, taken: Deferred[None]) -> None:
        if taken in self._hurried:
            self._hurried.remove(taken)
            taken.callback(None)

    # Upkeep

    def _keep_up(self) -> None:
        self._upkeep = None

        def again(_: object) -> None:
            if not self._stopped:
                self._upkeep = self.clock.callLater(UPKEEP_S, self._keep_up)

        def failed(failure: Failure) -> None:
            if not self._stopped:
                self._log.failure("the log store's upkeep failed", failure)

        self.store.keep_up(self.keeping).addErrback(failed).addCallback(again)
