"""What goes out on each of the two log services: what is pushed, and what was asked for.

Both are ``ChannelUser``s, for one controller each.  They live as long as one channel does; what was begun and not
acknowledged is still in the spool when the next one opens.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import RemoteProtocolError
from avinet.logs.rate import RateLimit
from avinet.logs.sending import PullWork, Transfer
from avinet.logs.spool import Place, SegmentGoneError
from avinet.model.logs import ClassTotals, Drop, LogClass, SegmentHead, Selection, SpoolTotals
from avinet.se.log_channel import InThread, LogChannel
from avinet.se.log_files import is_sound
from avinet.wire.log_codec import PROTOCOL
from avinet.wire.log_messages import (
    MAX_DROPS,
    MAX_TEXT,
    PUSHED,
    Ack,
    Cancel,
    Dropped,
    DroppedAck,
    LogHello,
    LogMessage,
    LogWelcome,
    Pause,
    Planned,
    Pull,
    PullDone,
    Rate,
    Refuse,
    Resume,
    SpoolStatus,
)

STATUS_INTERVAL_S = 10.0
"""Between looks at what is kept and lost; an operator who watches sees it move."""
LINGER_S = 1.0
"""Between looks whether a pull is done of which significant segments are still on their way."""
ASKED = 1000
"""Heads at once: what may wait, what may lack an answer, and some that other channels send."""
FLUSH_TIMEOUT_S = 120.0
"""Two pieces of 64 MiB take a second each; a disk that is nearly full may need room made first."""
HELLO_TIMEOUT_S = 60.0
"""A controller answers when it has made what it has of ours durable, behind the writes of others."""


class SpoolReader(Protocol):
    """What is asked of a spool (``avinet.logs.spool.Spool``); every call blocks."""

    @property
    def incarnation(self) -> str:
        """Of the segments to come."""

    def last_counter(self) -> int:
        """The newest segment's."""

    def pending(self, selection: Selection, up_to: int | None, after: int, limit: int) -> list[SegmentHead]:
        """The oldest of a selection."""

    def plan(self, selection: Selection, up_to: int | None) -> ClassTotals:
        """All of a selection together."""

    def place(self, name: str) -> Place:
        """Where a segment's bytes are."""

    def acknowledge(self, names: Sequence[str]) -> None:
        """They are kept elsewhere."""

    def refused(self, name: str, why: str) -> None:
        """It is not what was written."""

    def drops_since(self, position: int, limit: int = ...) -> tuple[tuple[Drop, ...], int]:
        """What was lost after a position."""

    def totals(self) -> SpoolTotals:
        """What is here."""


@attrs.frozen
class LogSource:
    """What all channels draw on."""

    spool: SpoolReader
    flush: Callable[[], Deferred[int]]
    """Put all that was logged into segments; the last one's counter."""
    in_thread: InThread
    clock: IReactorTime
    taken: set[str] = attrs.field(factory=set)
    """Segments that some channel sends: with several controllers each goes to one of them."""


@attrs.define(eq=False)
class _Outgoing:
    """What both services have in common."""

    source: LogSource
    over: Callable[[str], None]
    """The channel is gone, and why."""
    channel: LogChannel | None = attrs.field(default=None, init=False)
    welcomed: bool = attrs.field(default=False, init=False)
    _looking: bool = attrs.field(default=False, init=False)
    _held: set[str] = attrs.field(factory=set, init=False, repr=False)
    _timers: dict[str, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    _answers: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    # ChannelUser

    def channel_made(self, channel: LogChannel) -> None:
        """Introduce this spool."""
        self.channel = channel
        self.blocking(self._hello).addCallback(self.say).addErrback(self.failed)
        self.later("hello", HELLO_TIMEOUT_S, lambda: self.cut("the controller does not answer"))

    def message_received(self, channel: LogChannel, message: LogMessage) -> None:
        """What both services take."""
        if isinstance(message, LogWelcome):
            self.cancel("hello")
            self.welcomed = True
            channel.sending.welcomed(message.partials)
            self.begin(message)
            return
        if not self.welcomed:
            raise RemoteProtocolError(
                protocol=PROTOCOL, detail=f"{type(message).__name__} before log-welcome"
            )
        if isinstance(message, Ack):
            self._acknowledged(channel, message.names)
        elif isinstance(message, Refuse):
            self._refused(channel, message)
        elif isinstance(message, Pause | Resume) and message.pull == PUSHED:
            channel.sending.held = isinstance(message, Pause)
            channel.wake()
        else:
            self.told(channel, message)

    def segments_wanted(self, channel: LogChannel) -> None:
        """Look for more."""
        if self.welcomed and not self._looking:
            self._looking = True
            self.blocking(self.question(channel)).addBoth(self._looked).addErrback(self.failed)

    def segment_missing(self, channel: LogChannel, transfer: Transfer, why: Failure) -> None:
        """The spool has dropped it meanwhile; or its disk is broken, and then it is set aside."""
        self._release([transfer.head.name])
        if why.check(SegmentGoneError, FileNotFoundError) is None:
            text = f"it cannot be read: {why.getErrorMessage()}"
            self.blocking(self.source.spool.refused, transfer.head.name, text).addErrback(self.failed)

    def channel_lost(self, channel: LogChannel, why: str) -> None:
        """What it sent is for the next one."""
        self.channel = None
        for timer in self._timers.values():
            if timer.active():
                timer.cancel()
        self._release(tuple(self._held))
        self.over(why)

    # What differs

    def begin(self, welcome: LogWelcome) -> None:
        """The controller is ready."""
        raise NotImplementedError

    def told(self, channel: LogChannel, message: LogMessage) -> None:
        """Some other message."""
        raise NotImplementedError

    def question(self, channel: LogChannel) -> Callable[[], Any]:
        """What a thread is to find out: what could be sent."""
        raise NotImplementedError

    def found(self, channel: LogChannel, result: Any) -> bool:
        """Take the answer; whether to look again at once."""
        raise NotImplementedError

    # Inside

    def _hello(self) -> LogHello:
        """In a thread."""
        spool = self.source.spool
        return LogHello(incarnation=spool.incarnation, totals=spool.totals(), below=self.lowest())

    def lowest(self) -> int:
        """In a thread: no segment of this incarnation has a lower counter; 0 when that cannot be said."""
        spool = self.source.spool
        last = spool.last_counter()  # before the look: what comes meanwhile has a higher one
        first = spool.pending(Selection(), None, 0, 1)
        if not first:
            return last + 1
        return min(first[0].counter, last + 1) if first[0].incarnation == spool.incarnation else 0

    def say(self, message: LogMessage) -> None:
        """To the controller, if it is still there."""
        if self.channel is not None:
            self.channel.send(message)

    def cut(self, why: str) -> None:
        """End the channel."""
        if self.channel is not None:
            self.channel.cut(why)

    def blocking(self, call: Callable[..., Any], *args: Any) -> Deferred[Any]:
        """In a thread."""
        return self.source.in_thread(call, *args)

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Once, unless it waits already."""
        timer = self._timers.get(name)
        if (timer is None or not timer.active()) and self.channel is not None:
            self._timers[name] = self.source.clock.callLater(seconds, call)

    def cancel(self, name: str) -> None:
        """Not any more."""
        timer = self._timers.pop(name, None)
        if timer is not None and timer.active():
            timer.cancel()

    def failed(self, failure: Failure) -> None:
        """The spool does not answer as it should: begin anew, a little later."""
        self._log.error("the log spool failed: {why}", why=failure.getErrorMessage())
        self.cut("the spool does not answer")

    def free(self, heads: Sequence[SegmentHead]) -> list[SegmentHead]:
        """Those that no other channel sends."""
        return [head for head in heads if head.name in self._held or head.name not in self.source.taken]

    def hold(self, heads: Sequence[SegmentHead]) -> None:
        """They are this channel's from now on."""
        names = [head.name for head in heads]
        self._held.update(names)
        self.source.taken.update(names)

    def _release(self, names: Sequence[str]) -> None:
        self._held.difference_update(names)
        self.source.taken.difference_update(names)

    def _looked(self, result: Any) -> None:
        self._looking = False
        channel = self.channel
        if isinstance(result, Failure):
            self.failed(result)
        elif channel is not None:
            again = self.found(channel, result)
            channel.wake()
            if again and channel.sending.wants:
                self.segments_wanted(channel)

    def _acknowledged(self, channel: LogChannel, names: Sequence[str]) -> None:
        ours = channel.sending.acknowledged(names)

        def gone(_: object) -> None:
            # Not before: until the index has let go of them a look would find them again.
            self._release(ours)
            self.answered(channel)

        # One after another, so that acknowledgements are batched by themselves while the index is busy.
        removing = self._answers.run(self.source.in_thread, self.source.spool.acknowledge, ours)
        removing.addCallback(gone).addErrback(self.failed)
        channel.wake()

    def answered(self, channel: LogChannel) -> None:
        """Some segments are gone for good."""
        if self.channel is channel and channel.sending.wants:
            self.segments_wanted(channel)

    def _refused(self, channel: LogChannel, message: Refuse) -> None:
        transfer = channel.sending.refused(message.name)
        if transfer is None:
            return
        name = message.name
        self._log.warn(
            "segment {name} was refused: {reason}, {text}",
            name=name,
            reason=message.reason,
            text=message.text,
        )

        def looked(sound: bool) -> None:  # noqa: FBT001 - a callback's
            if sound:
                if not channel.sending.again(transfer):
                    self._release([name])
                channel.wake()
                return
            self._release([name])
            self.blocking(self.source.spool.refused, name, message.text).addErrback(self.failed)

        self.blocking(is_sound, self.source.spool.place, transfer.head).addCallback(looked).addErrback(
            self.failed
        )


SIGNIFICANT = Selection(classes=(LogClass.SIGNIFICANT,))


@attrs.define(eq=False)
class LiveLogs(_Outgoing):
    """Significant segments as they come, what was lost, and what is kept."""

    _told: SpoolStatus | None = attrs.field(default=None, init=False)
    _position: int = attrs.field(default=0, init=False)
    _telling: bool = attrs.field(default=False, init=False)
    """A ``Dropped`` has no answer yet."""

    def begin(self, welcome: LogWelcome) -> None:
        """Send what there is."""
        self._position = welcome.drops_position
        self.new_segments()
        self._status()

    def new_segments(self) -> None:
        """There are new significant ones."""
        if self.channel is not None:
            self.segments_wanted(self.channel)

    def question(self, channel: LogChannel) -> Callable[[], list[SegmentHead]]:
        """The oldest; of those that are under way already there are fewer."""
        return partial(self.source.spool.pending, SIGNIFICANT, None, 0, ASKED)

    def found(self, channel: LogChannel, result: list[SegmentHead]) -> bool:
        """Those that fit."""
        self.hold(channel.sending.add(self.free(result)[: channel.sending.room]))
        return False

    def told(self, channel: LogChannel, message: LogMessage) -> None:
        """That drops are known."""
        if isinstance(message, DroppedAck) and self._telling:
            self._telling = False
            self._position = max(self._position, message.position)
            self._tell_drops()

    def _status(self) -> None:
        def read() -> SpoolStatus:
            return SpoolStatus(totals=self.source.spool.totals(), below=self.lowest())

        def send(status: SpoolStatus) -> None:
            if status != self._told:
                self._told = status
                self.say(status)
            self.later("status", STATUS_INTERVAL_S, self._status)

        self.cancel("status")
        self.blocking(read).addCallback(send).addErrback(self.failed)
        self._tell_drops()

    def _tell_drops(self) -> None:
        if self._telling:
            return
        self._telling = True

        def send(found: tuple[tuple[Drop, ...], int]) -> None:
            drops, position = found
            if not drops:
                self._telling = False
                return
            self.say(Dropped(incarnation=self.source.spool.incarnation, position=position, drops=drops))

        looking = self.blocking(self.source.spool.drops_since, self._position, MAX_DROPS)
        looking.addCallback(send).addErrback(self.failed)


@attrs.define(eq=False)
class PulledLogs(_Outgoing):
    """Full segments, for who asked."""

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
        plan: ClassTotals = await self.blocking(spool.plan, work.selection, work.up_to)
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

        def look() -> _Look:
            heads = spool.pending(only, up_to, after, room) if only is not None and room > 0 else []
            left = {
                one.pull: not one.limited and bool(spool.pending(one.selection, one.up_to, 0, 1))
                for one in ending
            }
            return _Look(work, after, heads, room, left)

        return look

    def found(self, channel: LogChannel, result: "_Look") -> bool:
        """Send what was found, and tell what is done."""
        sending, work = channel.sending, result.work
        for pull, left in result.left.items():
            self._conclude(channel, pull, left=left)
        # It may have been paused, asked anew or forgotten meanwhile, and then what was found is not the next.
        current = work is not None and sending.pulls.get(work.pull) is work
        if work is None or not current or work.paused or work.exhausted or work.after != result.after:
            following = sending.active()
            return following is not None and not following.exhausted
        self.hold(sending.add(self.free(result.heads), work))
        if result.heads:
            work.after = max(work.after, result.heads[-1].counter)
        if len(result.heads) < result.room:
            work.exhausted = True
        return True

    def _conclude(self, channel: LogChannel, pull: int, *, left: bool) -> None:
        work = channel.sending.pulls.get(pull)
        if work is None or not channel.sending.all_answered(pull):
            return
        if not left:
            channel.sending.forget(pull)
            self.say(PullDone(pull=pull, limited=work.limited))
            return
        # Significant ones are on their way on the other service; full ones that were not taken, or that another
        # controller has, are tried again.
        self.later(f"look {pull}", LINGER_S, lambda: self._look_again(pull))

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
    heads: list[SegmentHead]
    room: int
    left: dict[int, bool]
    """Pulls of which nothing waits here any more: whether the index has something of them nevertheless."""


def _full(selection: Selection) -> Selection | None:
    """The part of a selection that is sent when asked for; None when there is none."""
    if LogClass.FULL not in selection.classes:
        return None
    return msgspec.structs.replace(selection, classes=(LogClass.FULL,))
