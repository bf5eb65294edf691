"""What both log services have in common on the SE: they introduce the spool, feed a channel, and hear what became of it.

An ``Outgoing`` is a ``ChannelUser`` for one controller.  It lives as long as one channel does; what was begun and not
acknowledged is still in the spool when the next one opens.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import RemoteProtocolError
from avinet.logs.sending import Transfer
from avinet.logs.spool import SegmentGoneError
from avinet.logs.spool_packs import Place
from avinet.logs.timers import Timers
from avinet.model.logs import ClassTotals, Drop, SegmentHead, Selection, SpoolTotals
from avinet.se.log_channel import InThread, LogChannel
from avinet.se.log_files import is_passing, is_sound
from avinet.wire.log_codec import PROTOCOL
from avinet.wire.log_messages import (
    PUSHED,
    Ack,
    LogHello,
    LogMessage,
    LogWelcome,
    Pause,
    Refuse,
    Resume,
)

HELLO_TIMEOUT_S = 60.0
"""A controller answers when it has made what it has of ours durable, behind the writes of others."""


class SpoolReader(Protocol):
    """What is asked of a spool (``avinet.logs.spool.Spool``); every call blocks."""

    @property
    def incarnation(self) -> str:
        """Of the segments to come."""

    def last_counter(self) -> int:
        """The newest segment's."""

    def set_back(self, counter: int, position: int) -> bool:
        """A controller has segments and drops up to there; whether the spool is an older copy of itself."""

    def pending(self, selection: Selection, up_to: int | None, after: int, limit: int) -> list[SegmentHead]:
        """The oldest of a selection."""

    def plan(self, selection: Selection, up_to: int | None) -> ClassTotals:
        """All of a selection together."""

    def place(self, name: str) -> Place:
        """Where a segment's bytes are."""

    def lend(self, names: Sequence[str]) -> dict[str, Place]:
        """Where segments are that are about to be sent, by name; those that are gone are not in it."""

    def give_back(self, names: Iterable[str]) -> None:
        """They are not sent any more.  This one does not block."""

    def acknowledge(self, names: Sequence[str]) -> None:
        """They are kept elsewhere."""

    def sweep(self) -> None:
        """Take what is acknowledged off the disk."""

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
class Outgoing:
    """What both services have in common."""

    source: LogSource
    over: Callable[[str], None]
    """The channel is gone, and why."""
    channel: LogChannel | None = attrs.field(default=None, init=False)
    welcomed: bool = attrs.field(default=False, init=False)
    _early: list[LogMessage] | None = attrs.field(default=None, init=False, repr=False)
    """What came right behind the welcome, while the spool is asked whether it fits."""
    _looking: bool = attrs.field(default=False, init=False)
    _held: set[str] = attrs.field(factory=set, init=False, repr=False)
    timers: Timers = attrs.field(init=False, repr=False)
    _known: list[str] = attrs.field(factory=list, init=False, repr=False)
    """What is acknowledged, while the index is busy with others: no more than what may have no answer."""
    _forgetting: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    @timers.default
    def _new_timers(self) -> Timers:
        return Timers(self.source.clock)

    # ChannelUser

    def channel_made(self, channel: LogChannel) -> None:
        """Introduce this spool."""
        self.channel = channel
        self.blocking(self._hello).addCallback(self.say).addErrback(self.failed)
        self.timers.later("hello", HELLO_TIMEOUT_S, lambda: self.cut("the controller does not answer"))

    def message_received(self, channel: LogChannel, message: LogMessage) -> None:
        """What both services take."""
        if self._early is not None:
            self._early.append(message)
        elif isinstance(message, LogWelcome):
            self.timers.cancel("hello")
            self._early = []
            self.blocking(self._compare, message).addCallback(self._welcome, channel, message).addErrback(
                self.failed
            )
        elif not self.welcomed:
            raise RemoteProtocolError(
                protocol=PROTOCOL, detail=f"{type(message).__name__} before log-welcome"
            )
        else:
            self._take(channel, message)

    def _compare(self, welcome: LogWelcome) -> None:
        """In a thread."""
        if self.source.spool.set_back(welcome.last_counter, welcome.drops_position):
            self._log.warn(
                "the log spool is an older copy of itself: what is new gets numbers after what was sent"
            )

    def _welcome(self, _: object, channel: LogChannel, welcome: LogWelcome) -> None:
        early, self._early = self._early, None
        if self.channel is not channel:
            return
        self.welcomed = True
        channel.sending.welcomed(welcome.partials, batches=welcome.batches)
        if welcome.kept:
            self._forget(welcome.kept)
        self.begin(welcome)
        try:
            for message in early or ():
                self._take(channel, message)
        except RemoteProtocolError as failure:
            channel.cut(str(failure))

    def _take(self, channel: LogChannel, message: LogMessage) -> None:
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
        """The spool has dropped it meanwhile; or its file is gone or cannot be read, and then it is lost."""
        self._release([transfer.name])
        if why.check(SegmentGoneError) is None:
            self.blocking(self._lose, transfer.name, why).addErrback(self.failed)

    def _lose(self, name: str, why: Failure) -> None:
        """In a thread."""
        if why.value is not None and is_passing(why.value):
            raise why.value
        self.source.spool.refused(name, f"it cannot be read: {why.getErrorMessage()}")

    def channel_lost(self, channel: LogChannel, why: str) -> None:
        """What it sent is for the next one."""
        self.channel = None
        self.timers.stop()
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
        self.source.spool.give_back(names)
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
        self._forget(channel.sending.acknowledged(names))
        channel.wake()

    def _forget(self, names: Sequence[str]) -> None:
        """The controller has them.  What comes while the index is busy waits, and goes together."""
        self._known += names
        if self._forgetting or not self._known:
            return
        known, self._known = self._known, []
        self._forgetting = True

        def gone(_: object) -> None:
            # Not before: until the index has let go of them a look would find them again.
            self._forgetting = False
            self._release(known)
            self._forget(())
            if self.channel is not None:
                self.answered(self.channel)
            if not self._forgetting:
                self.blocking(self.source.spool.sweep).addErrback(self._not_swept)

        removing = self.blocking(self.source.spool.acknowledge, known)
        removing.addCallback(gone).addErrback(self.failed)

    def _not_swept(self, failure: Failure) -> None:
        """What is acknowledged is so nevertheless."""
        self._log.warn("acknowledged segments are still on the disk: {why}", why=failure.getErrorMessage())

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
