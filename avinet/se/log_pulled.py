"""What was asked for: full segments, planned from the spool's index and sent pull by pull."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from avinet.logs.rate import RateLimit
from avinet.logs.reach import Reach, Sendable
from avinet.logs.sending import PullWork
from avinet.model.ids import ControllerName
from avinet.model.logs import ClassTotals, LogClass, Selection
from avinet.se.log_channel import LogChannel
from avinet.se.log_outgoing import Outgoing
from avinet.se.log_sources import SpoolReader
from avinet.wire.log_messages import (
    MAX_ELSEWHERE,
    MAX_TEXT,
    Cancel,
    LogMessage,
    LogWelcome,
    Pause,
    Planned,
    Pull,
    PullDone,
    Rate,
    Resume,
)

LINGER_S = 1.0
"""Between looks whether a pull is done of which significant segments are still on their way."""
PATIENCE_S = 10.0
"""For what is on its way to other controllers as a pull ends: significant segments, and those of another one's pull."""
FLUSH_TIMEOUT_S = 120.0
"""Two pieces of 64 MiB take a second each; a disk that is nearly full may need room made first."""


@attrs.define(eq=False)
class PulledLogs(Outgoing):
    """Full segments, for who asked."""

    shared: ClassVar[bool] = False

    def begin(self, welcome: LogWelcome) -> None:
        """Nothing until somebody asks."""

    def told(self, channel: LogChannel, message: LogMessage) -> None:
        """What a controller wants."""
        sending = channel.sending
        if isinstance(message, Pull):
            self._ask(channel, message)
        elif isinstance(message, Pause):
            sending.pause(message.pull)
        elif isinstance(message, Cancel):
            sending.forget(message.pull)
        elif isinstance(message, Resume):
            sending.resume(message.pull)
        elif isinstance(message, Rate):
            work = sending.pulls.get(message.pull)
            if work is not None:
                work.rate.change(message.rate)
        self._forget_unsent(channel)
        self.segments_wanted(channel)
        channel.wake()

    def _forget_unsent(self, channel: LogChannel) -> None:
        """What is not held any more may go on another channel."""
        held = channel.sending.names()
        self._release([name for name in self._held if name not in held])

    def _ask(self, channel: LogChannel, message: Pull) -> None:
        work = PullWork(
            message.pull,
            message.selection,
            message.up_to,
            message.byte_limit,
            RateLimit(message.rate),
            message.paused,
        )
        if not channel.sending.ask(work):
            self.say(PullDone(pull=message.pull, failed="too many pulls wait for this service engine"))
            return
        planning = Deferred.fromCoroutine(self._plan(work))
        planning.addErrback(self._not_planned, work)

    async def _plan(self, work: PullWork) -> None:
        spool = self.source.spool
        unflushed = ""
        if work.up_to is None:
            unflushed = await self._flush()
            work.up_to = await self.blocking(spool.last_counter)
        reach = self.reach()
        plan: ClassTotals = await self.blocking(spool.plan, work.selection, work.up_to, reach)
        elsewhere = await self.blocking(_elsewhere, spool, work, reach)
        channel = self.channel
        if channel is None or channel.sending.pulls.get(work.pull) is not work:
            return
        work.planned = True
        self.say(
            Planned(
                pull=work.pull,
                segments=plan.segments,
                size=plan.size,
                raw_bytes=plan.raw_bytes,
                records=plan.records,
                up_to=work.up_to,
                unflushed=unflushed,
                elsewhere=elsewhere,
            )
        )
        self.segments_wanted(channel)

    async def _flush(self) -> str:
        """What is in segments already can be had even when the data plane does not answer; why the rest cannot."""
        try:
            await self.source.flush().addTimeout(FLUSH_TIMEOUT_S, self.source.clock)
        except Exception as why:  # noqa: BLE001 - whatever it is, it is told
            self._log.warn("logs are not flushed: {why}", why=str(why) or repr(why))
            return (str(why) or repr(why))[:MAX_TEXT]
        return ""

    def _not_planned(self, failure: Failure, work: PullWork) -> None:
        self._log.failure("a pull cannot be planned", failure)
        if self.channel is not None and self.channel.sending.pulls.get(work.pull) is work:
            self.channel.sending.forget(work.pull)
            self.say(PullDone(pull=work.pull, failed=failure.getErrorMessage()[:MAX_TEXT]))

    def question(self, channel: LogChannel) -> "Callable[[], _Look]":
        """The next of the pull whose turn it is, and of which pulls nothing is left."""
        spool, sending = self.source.spool, channel.sending
        work = sending.active()
        only = None if work is None or work.exhausted else _full(work.selection)
        up_to, after, room = (work.up_to, work.after, sending.room) if work is not None else (None, 0, 0)
        ending = [
            one
            for one in sending.pulls.values()
            if one.planned and one.exhausted and sending.all_answered(one.pull)
        ]

        reach, sure = self.reach(), self.reach(sure=self.unsure)

        def look() -> _Look:
            found = spool.sendable(only, up_to, after, room, sure) if only is not None and room > 0 else []
            left = {
                one.pull: None
                if not one.limited and spool.sendable(one.selection, one.up_to, 0, 1, reach)
                else _elsewhere(spool, one, reach)
                for one in ending
            }
            return _Look(work, after, found, room, left)

        return look

    def found(self, channel: LogChannel, result: "_Look") -> bool:
        """Send what was found, and tell what is done."""
        sending, work = channel.sending, result.work
        for pull, elsewhere in result.ending.items():
            self._conclude(channel, pull, elsewhere)
        # It may have been paused, asked anew or forgotten meanwhile, and then what was found is not the next.
        current = work is not None and sending.pulls.get(work.pull) is work
        if work is None or not current or work.paused or work.exhausted or work.after != result.after:
            following = sending.active()
            return following is not None and not following.exhausted
        self.hold(sending.add(self.free(result.segments), work))
        if result.segments:
            work.after = max(work.after, result.segments[-1].head.counter)
        if not result.segments and result.room:
            work.exhausted = True
        return True

    def _conclude(self, channel: LogChannel, pull: int, elsewhere: dict[ControllerName, int] | None) -> None:
        work = channel.sending.pulls.get(pull)
        if work is None or not channel.sending.all_answered(pull):
            return
        if elsewhere is not None and not self._on_its_way(work, elsewhere):
            channel.sending.forget(pull)
            self.say(PullDone(pull=pull, limited=work.limited, elsewhere=elsewhere))
            return
        # Significant ones are on their way on the other service, or to another controller; full ones that were not
        # taken, or that another controller has, are tried again.
        self.timers.later(f"look {pull}", LINGER_S, lambda: self._look_again(pull))

    def _on_its_way(self, work: PullWork, elsewhere: dict[ControllerName, int]) -> bool:
        """Whether what other controllers may have is likely to be acknowledged in a moment."""
        now = self.source.clock.seconds()
        if work.patient_until is None:
            work.patient_until = now + PATIENCE_S
        return now < work.patient_until and any(map(self.source.owners.takes, elsewhere))

    def _look_again(self, pull: int) -> None:
        channel = self.channel
        work = None if channel is None else channel.sending.pulls.get(pull)
        if channel is not None and work is not None:
            work.start_over()
            self.segments_wanted(channel)


@attrs.frozen
class _Look:
    """What a look at the index has brought."""

    work: PullWork | None
    after: int
    segments: list[Sendable]
    room: int
    ending: dict[int, dict[ControllerName, int] | None]
    """Pulls of which nothing waits here any more: the records that may be with other controllers, or None where the index has
    something that may be sent here nevertheless."""


def _elsewhere(spool: SpoolReader, work: PullWork, reach: Reach) -> dict[ControllerName, int]:
    """Blocks: how many records of a pull may be with which other controllers."""
    found = spool.elsewhere(work.selection, work.up_to, reach)
    return {name: totals.records for name, totals in sorted(found.items())[:MAX_ELSEWHERE]}


def _full(selection: Selection) -> Selection | None:
    """The part of a selection that is sent when asked for; None when there is none."""
    if LogClass.FULL not in selection.classes:
        return None
    return msgspec.structs.replace(selection, classes=(LogClass.FULL,))
