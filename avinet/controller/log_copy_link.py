"""One channel of ``peer-copies`` on the side that has logs: parts go out, and the keeper's answers come in.

Bytes are read in a thread, one piece at a time, and written only while the channel takes them (it is a push producer); so many
bytes at most are on their way to the keeper or have no answer.  What was pushed goes before what was pulled, also in its middle.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.controller.log_spans import names_in, pages, spans
from avinet.controller.log_writes import AnyPart
from avinet.errors import RemoteProtocolError
from avinet.logs.copies import Uncopied
from avinet.logs.part_reading import PartReading
from avinet.logs.runs import Names
from avinet.logs.timers import Timers
from avinet.model.ids import ControllerName
from avinet.units import KIB, MIB
from avinet.wire.copy_messages import (
    PROTOCOL,
    Confirm,
    Copy,
    CopyHello,
    CopyMessage,
    CopyUnsupported,
    CopyWelcome,
    Forget,
    GoOn,
    Held,
    Holding,
    NoRoom,
    NotCopied,
    NotHeld,
    Settled,
    copy_decoder,
    encode,
)
from avinet.wire.raw_frames import RawDecoder, raw_head
from avinet.wire.vocabulary import UnknownMessage

PIECE_BYTES = 256 * KIB
"""Read and written at once: the largest packet."""
WINDOW_BYTES = 32 * MIB
"""Of parts that have no answer: four packs, of which one is being sent, one written, one made to last."""
MAX_PARTS = 128
"""The same of their number; the keeper bears twice as many."""
MAX_HELD = 100_000
"""Runs that a keeper names at first: it holds what came in some seconds."""
SILENCE_S = 10.0
"""Without a byte taken or an answer, while one is due."""
CONFIRM_S = 0.25
"""What has come to count is told together with what does so meanwhile."""
Call = Callable[[], Any]


@attrs.define(eq=False)
class CopyJob:
    """A part that is to be copied; ``done`` fires with whose copy counts from now on."""

    part: AnyPart
    pushed: bool
    done: Deferred[ControllerName] = attrs.field(factory=Deferred, repr=False)
    tries: int = 0
    """Keepers that did not find in it what its heads say."""


class LinkUser(Protocol):
    """Who has links (``avinet.controller.log_copies``)."""

    def greeted(self, link: "CopyLink", held: Names, *, new: bool) -> None:
        """The keeper holds these; ``new``: it had nothing of this store."""

    def copied(self, link: "CopyLink", job: CopyJob) -> None:
        """The keeper has it, durably."""

    def not_copied(self, link: "CopyLink", job: CopyJob, why: str) -> None:
        """It does not take this one."""

    def no_room(self, link: "CopyLink", why: str) -> None:
        """It takes nothing for now; ``lost`` follows."""

    def confirming(self, link: "CopyLink") -> None:
        """The keeper is to hear what has come to count (``say``)."""

    def settled(self, link: "CopyLink", names: Names) -> None:
        """The keeper has heard, durably, that these count."""

    def has_room(self, link: "CopyLink") -> None:
        """It may take more parts."""

    def lost(self, link: "CopyLink", jobs: Sequence[CopyJob]) -> None:
        """Once, last; these have no answer."""


@attrs.define(eq=False)
class _Going:
    """A part of which not all is sent."""

    number: int
    job: CopyJob
    reading: PartReading
    begun: bool = False


@implementer(IPushProducer)
@attrs.define(eq=False, slots=False)
class CopyLink(TwistedProtocol):
    """The protocol of one channel to ``name``."""

    name: ControllerName
    store: str
    user: LinkUser
    clock: IReactorTime
    in_thread: Callable[[Call], Deferred[Any]]
    up: bool = attrs.field(default=False, init=False)
    """Whether parts may go."""
    _timers: Timers = attrs.field(init=False, repr=False)
    _decoder: RawDecoder[CopyMessage] = attrs.field(factory=copy_decoder, init=False, repr=False)
    _welcome: CopyWelcome | None = attrs.field(default=None, init=False)
    _held: Names = attrs.field(factory=Names, init=False, repr=False)
    """What the keeper has named so far."""
    _named: int = attrs.field(default=0, init=False)
    """Runs so far."""
    _pushed: deque[_Going] = attrs.field(factory=deque, init=False, repr=False)
    _pulled: deque[_Going] = attrs.field(factory=deque, init=False, repr=False)
    _jobs: dict[int, tuple[CopyJob, int]] = attrs.field(factory=dict, init=False, repr=False)
    """All without an answer, in their order, with their sizes."""
    _last: int = attrs.field(default=0, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _current: int = attrs.field(default=0, init=False)
    """Of which part raw frames are now."""
    _paused: bool = attrs.field(default=False, init=False)
    _reading: bool = attrs.field(default=False, init=False)
    _unsettled: dict[int, Names] = attrs.field(factory=dict, init=False, repr=False)
    _heard_at: float = attrs.field(default=0.0, init=False)
    _lost: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    @_timers.default
    def _new_timers(self) -> Timers:
        return Timers(self.clock)

    # What Twisted calls

    def connectionMade(self) -> None:
        """Say of which store; everything else follows the keeper's welcome."""
        self._heard()
        self._wire().registerProducer(self, True)
        self._send(CopyHello(store=self.store))
        self._watch()

    def dataReceived(self, data: bytes) -> None:
        """From the keeper."""
        self._heard()
        try:
            for thing in self._decoder.feed(data):
                if self._lost:
                    return
                if isinstance(thing, memoryview):
                    raise _broken("raw bytes from a keeper")
                if isinstance(thing, UnknownMessage):
                    self._send(CopyUnsupported(tag_=thing.tag))
                else:
                    self._message(thing)
        except RemoteProtocolError as failure:
            self.cut(failure.detail)

    def connectionLost(self, reason: Failure | None = None) -> None:
        """It is over."""
        if self._lost:
            return
        self._lost, self.up = True, False
        self._timers.stop()
        jobs = [job for job, _ in self._jobs.values()]
        self._jobs.clear()
        self._pushed.clear()
        self._pulled.clear()
        self.user.lost(self, jobs)

    def pauseProducing(self) -> None:
        """The channel has enough."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It takes more."""
        self._paused = False
        self._heard()
        self._pump()

    def stopProducing(self) -> None:
        """It is over; ``connectionLost`` follows."""

    # What its user does

    def cut(self, why: str) -> None:
        """End it now."""
        if not self._lost:
            self._log.warn("the copying of logs to {name} breaks off: {why}", name=self.name, why=why)
        if self.transport is not None and not self._lost:
            self._wire().abortConnection()

    def ready(self, confirm: Names, drop: Names) -> None:
        """Of what is held these count, those are not wanted; parts may go from now on."""
        if self._lost:
            return
        self.up = True
        for page in pages(drop):
            if page:
                self._say(Names(), page)
        self.say(confirm)
        self.user.has_room(self)

    @property
    def room(self) -> bool:
        """Whether it takes another part."""
        return self.up and self._bytes < WINDOW_BYTES and len(self._jobs) < MAX_PARTS

    def take(self, job: CopyJob) -> None:
        """Send it."""
        reading = PartReading(job.part)
        self._last += 1
        self._bytes += reading.size
        self._jobs[self._last] = (job, reading.size)
        (self._pushed if job.pushed else self._pulled).append(_Going(self._last, job, reading))
        self._pump()

    def confirm_soon(self) -> None:
        """Something has come to count."""
        self._timers.later("confirm", CONFIRM_S, lambda: self.user.confirming(self))

    def say(self, names: Names) -> None:
        """These count, as far as that was not said before."""
        if not self.up:
            return  # all is said when it comes up
        for page in pages(names.minus(Names().plus(*self._unsettled.values()))):
            if page:
                self._say(page, Names())
        self._watch()

    def forget(self, message: Forget) -> None:
        """Pass it on."""
        if self.up:
            self._send(message)

    def tell_uncopied(self, uncopied: Uncopied) -> None:
        """What is copied nowhere."""
        if self.up:
            self._send(NotCopied(records=uncopied.records, newest_us=uncopied.newest_us))

    # What comes

    def _message(self, message: CopyMessage) -> None:
        match message:
            case CopyWelcome() if self._welcome is None:
                self._welcome = message
            case Holding() if self._welcome is not None and not self.up:
                self._holding(self._welcome, message)
            case Held():
                for number in message.parts:
                    self.user.copied(self, self._answered(number))
                self.user.has_room(self)
            case NotHeld():
                self.user.not_copied(self, self._answered(message.part), message.text)
                self.user.has_room(self)
            case NoRoom():
                self.user.no_room(self, message.text)
                self.cut(f"it has no room: {message.text}")
            case Settled() if message.number in self._unsettled:
                self.user.settled(self, self._unsettled.pop(message.number))
            case CopyUnsupported():
                self._log.warn("{name} does not know {tag}", name=self.name, tag=message.tag_[:64])
            case _:
                raise _broken(f"a {type(message).__name__} from a keeper, out of turn")

    def _holding(self, welcome: CopyWelcome, message: Holding) -> None:
        self._named += len(message.names)
        if self._named > MAX_HELD:
            raise _broken("it holds more than it was ever sent")
        self._held = self._held.plus(names_in(message.names))
        if not message.more:
            self.user.greeted(self, self._held, new=welcome.new)
            self._held = Names()

    def _answered(self, number: int) -> CopyJob:
        if number not in self._jobs:
            raise _broken("an answer about no part")
        job, size = self._jobs.pop(number)
        self._bytes -= size
        for queue in (self._pushed, self._pulled):
            # It was there already: the rest need not be sent.
            for going in [one for one in queue if one.number == number]:
                queue.remove(going)
        return job

    # What goes

    def _send(self, message: CopyMessage) -> None:
        if not self._lost and self.transport is not None:
            self.transport.write(encode(message))

    def _say(self, names: Names, drop: Names) -> None:
        self._last += 1
        self._unsettled[self._last] = names
        self._send(Confirm(number=self._last, names=spans(names), drop=spans(drop)))

    def _pump(self) -> None:
        """Read the next piece, unless one is being read, or the channel takes none."""
        queue = self._pushed or self._pulled
        if self._reading or self._paused or self._lost or not queue:
            return
        going = queue[0]
        self._reading = True
        self._watch()
        self.in_thread(lambda: going.reading.next(PIECE_BYTES)).addCallbacks(
            lambda piece: self._write(going, piece), lambda failure: self._not_read(going, failure)
        ).addErrback(self._defect)

    def _write(self, going: _Going, piece: bytes) -> None:
        self._reading = False
        if self._lost:
            return
        if going.number in self._jobs:
            self._heard()
            head = self._turn_to(going)
            if not going.reading.left:
                (self._pushed if going.job.pushed else self._pulled).remove(going)
            self._wire().writeSequence([head, raw_head(len(piece)), piece])
        self._pump()

    def _turn_to(self, going: _Going) -> bytes:
        if not going.begun:
            going.begun, self._current = True, going.number
            part = going.job.part
            heads = tuple(segment.head for segment in part.segments)
            return encode(Copy(part=going.number, se=part.se, heads=heads))
        if self._current != going.number:
            self._current = going.number
            return encode(GoOn(part=going.number))
        return b""

    def _not_read(self, going: _Going, failure: Failure) -> None:
        self._reading = False
        if self._lost:
            return
        if going.number in self._jobs:
            self.user.not_copied(self, self._answered(going.number), failure.getErrorMessage())
            # The keeper waits for the rest of it, which never comes.
            self.cut("what was received cannot be read")
        self._pump()

    def _defect(self, failure: Failure) -> None:
        self._log.failure("a link for copies failed", failure)
        self.cut("a defect of ours; the log tells")

    def _wire(self) -> Any:
        """The transport: a channel of ours, whose interface Twisted has not."""
        return self.transport

    # Silence

    def _heard(self) -> None:
        self._heard_at = self.clock.seconds()

    def _watch(self) -> None:
        self._timers.later("silence", SILENCE_S, self._look)

    def _look(self) -> None:
        if self.up and not self._jobs and not self._unsettled:
            return
        left_s = self._heard_at + SILENCE_S - self.clock.seconds()
        if left_s <= 0:
            self.cut(f"it said nothing for {SILENCE_S:.0f} s")
        else:
            self._timers.later("silence", left_s, self._look)


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol=PROTOCOL, detail=detail)
