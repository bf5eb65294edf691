"""Request logs that the data plane could not write, most likely since its disk is full: counted, and told.

It counts the lines that it was given to log, and its writes, of up to some hundred lines each.  How many lines were in
the writes that failed follows from how many there were in all of that time: exact where nothing could be written, about
right otherwise.  It has one count for all its files, so they are told as full logs, which are most of them.

What cannot be put into the spool now is so at the next look: until then the count begins where it began.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.dataplane.interface import LogWrites, Status
from avinet.errors import AvinetError
from avinet.model.events import Level
from avinet.model.logs import Drop, DropReason, LogClass
from avinet.se.log_spooler import CODE, InThread, Tell
from avinet.se.lookout import Seen
from avinet.trust.files import write_private

CALM_S = 60.0
"""Without a loss until an operator hears that it is over."""
_US = 1_000_000


class Counted(msgspec.Struct, frozen=True):
    """Up to where losses are in the spool."""

    writes: LogWrites = LogWrites()
    at_us: int = 0
    """0: since the data plane started."""


def lines_lost(before: LogWrites, now: LogWrites) -> int:
    """How many lines about could not be written between two looks; one that counts down was started anew."""
    if now.logged < before.logged or now.written < before.written or now.failed < before.failed:
        before = LogWrites()
    failed = now.failed - before.failed
    if not failed:
        return 0
    writes = failed + now.written - before.written
    return max(failed, round((now.logged - before.logged) * failed / writes))


@attrs.define(eq=False)
class Unwritten:
    """``note`` puts a loss into the spool; ``wall`` gives UNIX seconds."""

    file: Path
    """What the next agent goes on from; written where there was a loss."""
    note: Callable[[Drop], Deferred[None]]
    in_thread: InThread
    clock: IReactorTime
    wall: Callable[[], float]
    tell: Tell
    _counted: Counted | None = attrs.field(default=None, init=False)
    _looking: bool = attrs.field(default=False, init=False)
    _told: bool = attrs.field(default=False, init=False)
    """An operator knows that some are lost."""
    _late: bool = attrs.field(default=False, init=False)
    """A loss could not be noted at the last look."""
    _lost_at: float = attrs.field(default=0.0, init=False)
    _log: ClassVar[Logger] = Logger()

    def looked(self, seen: Seen) -> None:
        """For ``Lookout.subscribe``."""
        if seen.status is None or self._looking:
            return
        self._looking = True

        def over(_: object) -> None:
            self._looking = False

        looking = Deferred.fromCoroutine(self._look(seen.status))
        looking.addCallbacks(self._noted, self._not_noted).addErrback(
            lambda f: self._log.failure("counting what was not written failed", f)
        )
        looking.addBoth(over)

    def _noted(self, _: object) -> None:
        self._late = False

    def _not_noted(self, failure: Failure) -> None:
        if not self._late:  # at each look, for as long as the disk is full
            self._late = True
            self._log.error("lost records are not counted yet: {why}", why=failure.getErrorMessage())

    async def _look(self, status: Status) -> None:
        if self._counted is None:
            self._counted = await self.in_thread(self._read)
        before, writes, now_us = self._counted, status.log_writes, int(self.wall() * _US)
        lost = lines_lost(before.writes, writes)
        self._say(lost)
        if lost:
            first_us = min(before.at_us or int(status.started_at * _US), now_us)
            await self.note(
                Drop(
                    reason=DropReason.UNWRITTEN,
                    log_class=LogClass.FULL,
                    first_us=first_us,
                    last_us=now_us,
                    records=lost,
                )
            )
        if lost or writes.logged == before.writes.logged or writes.written != before.writes.written:
            # What was logged and not written is in memory, and belongs to the next writes.
            self._counted = Counted(writes, now_us)
        if lost:
            await self.in_thread(self._write, self._counted)

    def _say(self, lost: int) -> None:
        now = self.clock.seconds()
        if lost:
            if not self._told:
                self.tell(
                    CODE,
                    Level.ERROR,
                    "request logs are lost: the data plane cannot write them; is the disk full? "
                    "See: avinet logs status",
                )
            self._told, self._lost_at = True, now
        elif self._told and now - self._lost_at >= CALM_S:
            self._told = False
            self.tell(CODE, Level.INFO, "the data plane writes all request logs again")

    # Blocking

    def _read(self) -> Counted:
        try:
            return msgspec.json.decode(self.file.read_bytes(), type=Counted)
        except (OSError, msgspec.MsgspecError):
            return Counted()

    def _write(self, counted: Counted) -> None:
        with contextlib.suppress(OSError, AvinetError):
            write_private(self.file, msgspec.json.encode(counted))
