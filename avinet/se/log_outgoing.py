"""What both log services have in common on the SE: they introduce the spool, feed a channel, and hear what became of it.

An ``Outgoing`` is a ``ChannelUser`` for one controller.  It lives as long as one channel does; what was begun and not
acknowledged is still in the spool when the next one opens.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import RemoteProtocolError
from avinet.logs.reach import LogStore, Reach, Sendable
from avinet.logs.spool_lending import Borrower, SegmentGoneError
from avinet.logs.spool_packs import Place
from avinet.logs.timers import Timers
from avinet.logs.transfers import Transfer
from avinet.model.ids import ControllerName
from avinet.model.logs import SegmentHead, Selection
from avinet.se.log_channel import LogChannel
from avinet.se.log_files import FileAccess, is_passing, is_sound, opened
from avinet.se.log_sources import LogSource
from avinet.wire.log_codec import PROTOCOL
from avinet.wire.log_messages import (
    PUSHED,
    Ack,
    LogHello,
    LogMessage,
    LogWelcome,
    Pause,
    Refuse,
    RefuseReason,
    Resume,
)

HELLO_TIMEOUT_S = 60.0
"""A controller answers when it has made what it has of ours durable, behind the writes of others."""
LATER_S = 30.0
"""Until what cannot be told yet is tried again: a peer of the controller's is away, which may last."""


@attrs.define(eq=False)
class Outgoing:
    """What both services have in common."""

    source: LogSource
    controller: ControllerName
    over: Callable[[str], None]
    """The channel is gone, and why."""
    channel: LogChannel | None = attrs.field(default=None, init=False)
    shared: ClassVar[bool]
    """Whether what goes here is shared out among the controllers."""
    _store: LogStore = attrs.field(init=False)
    _borrower: Borrower = attrs.field(init=False, repr=False)
    unsure: bool = attrs.field(default=False, init=False)
    """Whether what was begun with others counts there cannot be found out at present."""
    welcomed: bool = attrs.field(default=False, init=False)
    _early: list[LogMessage] | None = attrs.field(default=None, init=False, repr=False)
    """What came right behind the welcome, while the spool is asked whether it fits."""
    _looking: bool = attrs.field(default=False, init=False)
    _wanted: bool = attrs.field(default=False, init=False)
    """More since the look under way began."""
    _held: set[str] = attrs.field(factory=set, init=False, repr=False)
    timers: Timers = attrs.field(init=False, repr=False)
    _known: list[str] = attrs.field(factory=list, init=False, repr=False)
    """What is acknowledged, while the index is busy with others: no more than what may have no answer."""
    _forgetting: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    @_store.default
    def _no_store(self) -> LogStore:
        return LogStore(self.controller, "")

    @_borrower.default
    def _new_borrower(self) -> Borrower:
        return self.source.spool.lending.borrower()

    @timers.default
    def _new_timers(self) -> Timers:
        return Timers(self.source.clock)

    def reach(self, *, sure: bool = False) -> Reach:
        """What this controller may be sent now; for any thread."""
        return self.source.owners.reach(self._store, shared=self.shared, sure=sure)

    def files(self) -> FileAccess:
        """For the channel."""
        borrower = self._borrower

        def pin(names: Sequence[str]) -> None:
            borrower.pin(names, self.reach())

        def lend(names: Sequence[str]) -> dict[str, Place]:
            return borrower.lend(names, self.reach())

        return FileAccess(self.source.in_thread, pin, partial(opened, lend), borrower.begun, self._not_sent)

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
        if self.source.spool.set_back(self.controller, welcome.last_counter, welcome.drops_position):
            self._log.warn(
                "the log spool is an older copy of itself: what is new gets numbers after what was sent"
            )

    def _welcome(self, _: object, channel: LogChannel, welcome: LogWelcome) -> None:
        early, self._early = self._early, None
        if self.channel is not channel:
            return
        self.welcomed = True
        self._store = LogStore(self.controller, welcome.store)
        self.source.owners.welcomed(self._store)
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
            self.held()
            channel.wake()
        else:
            self.told(channel, message)

    def segments_wanted(self, channel: LogChannel) -> None:
        """Look for more."""
        self._wanted = self._looking
        if self.welcomed and not self._looking:
            self._looking = True
            self.blocking(self.question(channel)).addBoth(self._looked).addErrback(self.failed)

    def segment_missing(self, channel: LogChannel, transfer: Transfer, why: Failure) -> None:
        """The spool has dropped it meanwhile; or its file is gone or cannot be read, and then it is lost."""
        if why.check(SegmentGoneError) is not None:
            self._release([transfer.name])
            return
        losing = self.blocking(self._lose, transfer.name, why)
        losing.addCallback(lambda _: self._release([transfer.name])).addErrback(self.failed)

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

    def held(self) -> None:
        """The controller has no room, or has room again."""

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

    def free(self, found: Sequence[Sendable]) -> list[Sendable]:
        """Those that no other channel sends."""
        held, taken = self._held, self.source.taken
        return [one for one in found if one.head.name in held or one.head.name not in taken]

    def hold(self, heads: Sequence[SegmentHead]) -> None:
        """They are this channel's from now on."""
        names = [head.name for head in heads]
        self._held.update(names)
        self.source.taken.update(names)

    def _release(self, names: Sequence[str]) -> None:
        """Those of them that this channel has are anybody's; what was pinned and not begun once that is undone."""
        ours = self._held.intersection(names)
        self._held -= ours
        self.source.spool.lending.give_back(ours)
        self.source.taken.difference_update(ours)
        self._lift(ours)

    def _not_sent(self, names: Sequence[str]) -> None:
        """Their files are closed, or could not be opened; some may have been pinned after they were let go of."""
        ours, taken = self._held, self.source.taken
        self.source.spool.lending.give_back(name for name in names if name in ours or name not in taken)
        self._lift(self._borrower.unbegun(name for name in names if name not in ours))

    def _lift(self, names: Iterable[str]) -> None:
        """Undo the pins of those that were not begun, in a thread; what another channel has meanwhile is its own affair."""
        unbegun = self._borrower.unbegun(names)
        self._borrower.begun(name for name in unbegun if name in self.source.taken)
        unbegun = self._borrower.unbegun(unbegun)
        if not unbegun:
            return

        def free(_: object) -> None:
            self.source.taken.difference_update(unbegun)
            self.source.owners.freed()

        self.source.taken.update(unbegun)  # so that nobody begins them meanwhile, nor do we
        self.blocking(self._borrower.lift, unbegun, self._store).addErrback(self._not_lifted).addCallback(
            free
        )

    def _not_lifted(self, failure: Failure) -> None:
        """They stay pinned here."""
        self._log.warn("segments that were not begun stay: {why}", why=failure.getErrorMessage())

    def _looked(self, result: Any) -> None:
        self._looking = False
        channel = self.channel
        if isinstance(result, Failure):
            self.failed(result)
        elif channel is not None:
            again = self.found(channel, result) or self._wanted
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

    def _put_off(self, channel: LogChannel, message: Refuse) -> None:
        """Whether it counts already cannot be found out: it waits, with all others of which something is to be found out."""
        if channel.sending.refused(message.name, counts=False) is None:
            return
        if not self.unsure:
            self.unsure = True
            self._log.info("segments that were begun with others wait: {why}", why=message.text)
            self.timers.later("later", LATER_S, self._try_again)
        self._release([message.name, *channel.sending.withdraw(lambda transfer: bool(transfer.was))])
        channel.wake()

    def _try_again(self) -> None:
        self.unsure = False
        if self.channel is not None:
            for work in self.channel.sending.pulls.values():
                work.start_over()
            self.segments_wanted(self.channel)

    def _refused(self, channel: LogChannel, message: Refuse) -> None:
        if message.reason == RefuseReason.LATER:
            self._put_off(channel, message)
            return
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

        self.blocking(is_sound, self.source.spool.lending.place, transfer.head).addCallback(
            looked
        ).addErrback(self.failed)
