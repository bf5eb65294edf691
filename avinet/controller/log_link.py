"""One channel of a log service, on the controller: what comes is gathered, written, verified, kept, acknowledged.

A ``LogLink`` reads while there is room in its buffer and few segments wait for their answer.  One write of it is under
way at a time, in the pool that all links share, so that many SEs share the disk evenly; what comes meanwhile is gathered,
and when that is full the channel's window closes.  A disk that is full, or a quota, stops the reading, too: what has
come waits, nothing is acknowledged, and the SE keeps it all.

Whatever breaks the protocol cuts the channel; the control session goes on.
"""

from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_answers import LinkAnswers
from avinet.controller.log_owner import LinkOwner
from avinet.controller.log_pace import MessagePace
from avinet.controller.log_verdicts import Verdicts
from avinet.controller.log_writes import AnyPart, Writes
from avinet.controller.pull_records import ledger_key
from avinet.errors import RemoteProtocolError
from avinet.logs.entries import Segment
from avinet.logs.incoming_pack import Start
from avinet.logs.receiving import BatchInFlight, InFlight, Receiving, Refusal
from avinet.logs.timers import Timers
from avinet.model.ids import SeId
from avinet.wire.log_codec import PROTOCOL, LogDecoder, encode
from avinet.wire.log_messages import (
    Batch,
    Begin,
    Dropped,
    DroppedAck,
    Leave,
    LogHello,
    LogMessage,
    LogUnsupported,
    LogWelcome,
    Planned,
    PullDone,
    SpoolStatus,
)
from avinet.wire.vocabulary import UnknownMessage

HELLO_TIMEOUT_S = 60.0
"""An SE asks its spool first, which may be busy with a gigabyte."""
RETRY_S = 5.0
"""Between tries at a disk that is full."""


@attrs.define(eq=False, slots=False)
class LogLink(TwistedProtocol):
    """The protocol of one channel."""

    se: SeId
    live: bool
    owner: "LinkOwner[LogLink]"
    clock: IReactorTime
    ended: Deferred[None] = attrs.field(factory=Deferred, init=False)
    """Fires when it is lost and its thread has done with its files."""
    _receiving: Receiving = attrs.field(factory=Receiving, init=False, repr=False)
    _decoder: LogDecoder = attrs.field(factory=LogDecoder, init=False, repr=False)
    _gathering: Writes | None = attrs.field(default=None, init=False, repr=False)
    _writing: Writes | None = attrs.field(default=None, init=False, repr=False)
    _timers: Timers = attrs.field(init=False, repr=False)
    _answers: LinkAnswers = attrs.field(init=False, repr=False)
    _verdicts: "Verdicts[LogLink]" = attrs.field(init=False, repr=False)
    _incarnation: str = attrs.field(default="", init=False)
    _greeting: bool = attrs.field(default=False, init=False)
    """The hello is being answered."""
    _dropping: bool = attrs.field(default=False, init=False)
    _paused: bool = attrs.field(default=False, init=False)
    _running: bool = attrs.field(default=False, init=False)
    """A thread has ``_writing``."""
    _held_up: bool = attrs.field(default=False, init=False)
    """What it has cannot be written for now."""
    _pace: MessagePace = attrs.field(init=False, repr=False)
    _broke: str = attrs.field(default="", init=False)
    _lost: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    @_timers.default
    def _new_timers(self) -> Timers:
        return Timers(self.clock)

    @_answers.default
    def _new_answers(self) -> LinkAnswers:
        return LinkAnswers(self.se, self.send, self._timers)

    @_verdicts.default
    def _new_verdicts(self) -> "Verdicts[LogLink]":
        return Verdicts(self, self.owner, self._receiving, self._answers, self.cut, self._settle)

    @_pace.default
    def _new_pace(self) -> MessagePace:
        return MessagePace(self.clock.seconds())

    @property
    def ready(self) -> bool:
        """Whether it was welcomed and lives."""
        return self._receiving.greeted and not self._lost

    # What Twisted calls

    def connectionMade(self) -> None:
        """Wait for the hello."""
        self._timers.later("hello", HELLO_TIMEOUT_S, lambda: self.cut("no log-hello came"))

    def dataReceived(self, data: bytes) -> None:
        """On transports that have no views."""
        self.view_received(memoryview(data))

    def view_received(self, view: memoryview) -> None:
        """What came; the view is good during the call only."""
        if self._lost or self._broke:
            return
        try:
            for thing in self._decoder.feed(view):
                if isinstance(thing, memoryview):
                    self._raw(thing)
                else:
                    self._pace.took(len(thing.heads) if isinstance(thing, Batch) else 0)
                    self._message(thing)
        except RemoteProtocolError as failure:
            self.cut(failure.detail)
            return
        self._write()
        self._settle()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Write what has come, so that the SE need not send it again, and let go of the files."""
        if self._lost:
            return
        self._lost = True
        self._timers.stop()
        self._leave()
        self.owner.link_lost(
            self, reason.getErrorMessage() if reason is not None else "it closed", self._broke
        )
        if self._writing is not None and not self._running:
            self._forget()
        self._write()

    def peer_closed(self) -> None:
        """The SE has closed.  A link that is held up would not take what came before that, and so never end."""
        if self._paused and self.transport is not None:
            self._wire().abortConnection()

    def cut(self, why: str) -> None:
        """End the channel now: the SE broke the protocol, or a newer channel took its place."""
        self._broke = self._broke or why
        self._abort()

    def _abort(self) -> None:
        if self.transport is not None and not self._lost:
            self._wire().abortConnection()

    def _wire(self) -> Any:
        """The transport: a channel of ours, whose interface Twisted has not."""
        return self.transport

    # What others say to the SE

    def send(self, message: LogMessage) -> None:
        """Send one message."""
        if not self._lost and self.transport is not None:
            self.transport.write(encode(message))

    # What comes

    def _message(self, message: LogMessage | UnknownMessage) -> None:
        if isinstance(message, Begin | Batch | Leave):
            self._move(message)
        elif isinstance(message, UnknownMessage):
            self.send(LogUnsupported(tag_=message.tag))
        elif isinstance(message, LogHello):
            self._hello(message)
        elif not self._receiving.greeted:
            raise _broken(f"{type(message).__name__} before log-hello")
        elif isinstance(message, Planned | PullDone):
            self.owner.told(self, message)
        elif isinstance(message, SpoolStatus):
            self.owner.spool(self, message.totals, self._incarnation, message.below)
        elif isinstance(message, Dropped):
            self._dropped(message)
        elif not isinstance(message, LogUnsupported):
            raise _broken(f"a {type(message).__name__} from a service engine")

    def _hello(self, message: LogHello) -> None:
        if self._greeting or self._receiving.greeted:
            raise _broken("a second log-hello")
        self._greeting = True
        self._timers.cancel("hello")
        self._incarnation = message.incarnation
        self.owner.spool(self, message.totals, message.incarnation, message.below)

        def found(welcome: LogWelcome) -> None:
            self._greeting = False
            if self._lost:
                return
            self._receiving.hello(welcome.partials)
            self.send(welcome)
            self.owner.link_ready(self)
            self._settle()

        def failed(failure: Failure) -> None:
            self._log.error("logs of {se} cannot be taken: {why}", se=self.se, why=failure.getErrorMessage())
            self._abort()

        self.owner.welcome(self, message.incarnation).addCallbacks(found, failed).addErrback(failed)

    def _dropped(self, message: Dropped) -> None:
        if self._dropping or not self.live:
            raise _broken("drops that were not waited for")
        if message.incarnation != self._incarnation:
            raise _broken("drops of another spool than the one that said hello")
        self._dropping = True

        def kept(_: None) -> None:
            self._dropping = False
            self.send(DroppedAck(position=message.position))

        def failed(failure: Failure) -> None:
            # Without an answer the SE tells it again on its next channel.
            self._log.error("drops are not kept: {why}", why=failure.getErrorMessage())

        self.owner.add_drops(self, message).addCallbacks(kept, failed)

    def _move(self, message: Begin | Batch | Leave) -> None:
        """What was under way is left, and something else begins."""
        self._leave()
        if isinstance(message, Begin):
            self._begin(message)
        elif isinstance(message, Batch):
            self._batch(message)

    def _begin(self, message: Begin) -> None:
        answer = self._receiving.begin(message)
        if isinstance(answer, Refusal):
            self._answers.refuse([answer])
            return
        self._take(self.owner.part(Segment(self.se, answer.head), message.offset), answer)

    def _batch(self, message: Batch) -> None:
        flight, refusals = self._receiving.batch(message)
        self._answers.refuse(refusals)
        if len(refusals) == len(flight.heads):
            self._receiving.skip_current()
            return
        pack = self.owner.pack(self.se, Start(flight.heads, ledger_key(flight.pull) if flight.pull else ""))
        pack.refuse(flight.refused)
        self._take(pack, flight)

    def _take(self, part: AnyPart, flight: InFlight | BatchInFlight) -> None:
        if not self.owner.claim(self, part):
            part.close()
            raise _broken("a segment that comes on another channel already")
        self._verdicts.begin(part, flight.pull, flight.was)
        self._gather().begin(part)

    def _raw(self, piece: memoryview) -> None:
        flight = self._receiving.raw(len(piece))
        part = self._verdicts.part
        if flight is None or part is None:
            return
        self._gather().add(part, piece, last=not flight.left)
        if flight.pull:
            self.owner.flowed(self, flight.pull, len(piece))
        if not flight.left:
            self._verdicts.part = None

    def _leave(self) -> None:
        """The segment under way goes on later, if at all."""
        part, self._verdicts.part = self._verdicts.part, None
        self._receiving.leave()
        if part is not None:
            self._gather().leave(part)

    def _gather(self) -> Writes:
        if self._gathering is None:
            self._gathering = self.owner.buffer()
        return self._gathering

    # Writing

    def _write(self) -> None:
        """Hand what was gathered to a thread, unless one has something of ours already."""
        if self._writing is not None:
            return
        if not self._gathering:
            self._conclude()
            return
        self._writing, self._gathering = self._gathering, None
        self._run()

    def _run(self) -> None:
        if self._writing is not None:
            self._running = True
            writing = self.owner.write(self._writing)
            writing.addCallbacks(self._written, self._not_written).addErrback(self._defect)

    def _written(self, _: None) -> None:
        self._running = self._held_up = False
        writes, self._writing = self._writing, None
        if writes is not None:
            self._verdicts.judge(writes)
            self.owner.give_back(writes)
        self._write()
        self._settle()

    def _not_written(self, failure: Failure) -> None:
        """The disk is full, a quota used up, or the disk is broken: wait, unless there is nobody to wait for."""
        self._running = False
        self._held_up = True
        if self._writing is not None:
            self._verdicts.judge(self._writing)
        self.owner.held_up(self, failure)
        if self._lost:
            self._forget()
            self._write()
            return
        self._timers.later("retry", RETRY_S, self._run)
        self._settle()

    def _forget(self) -> None:
        """What cannot be written is lost here, and not at the SE."""
        self._verdicts.forget()
        self._writing = self._gathering = None

    def _defect(self, failure: Failure) -> None:
        self._log.failure("a log link failed", failure)
        self._abort()

    def _conclude(self) -> None:
        """The thread has nothing of a lost link any more."""
        if self._lost and not self.ended.called:
            self.ended.callback(None)

    # Reading on or not

    def _settle(self) -> None:
        """Read, or not: for each thing that is full."""
        if self._lost or self.transport is None:
            return
        gathered = self._gathering
        wait = (
            self._greeting
            or self._receiving.full
            or (self._held_up and gathered is not None)
            or (gathered is not None and gathered.full)
            or not self._may_read()
        )
        if wait != self._paused:
            self._paused = wait
            if wait:
                self._wire().pauseProducing()
            else:
                self._wire().resumeProducing()

    def _may_read(self) -> bool:
        wait_s = self._pace.wait_s(self.clock.seconds())
        if wait_s:
            self._timers.later("pace", wait_s, self._settle)
        return not wait_s


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol=PROTOCOL, detail=detail)
