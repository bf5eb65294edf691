"""One channel of a log service, on the SE: messages, and the bytes of segments straight from the file into the packet.

A ``LogChannel`` is a pull producer.  Whenever it is its turn it fills the packet that it is given: what messages wait,
then the run of segments under way, then the next one, so that many small segments share a packet.  Files are opened a few
runs ahead, and closed, in a thread.  What it sends is decided by its ``Sending``; who feeds that and hears the controller's
messages is its ``ChannelUser``.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError, RemoteProtocolError
from avinet.logs.sending import Sending
from avinet.logs.spool_lending import SegmentGoneError
from avinet.logs.transfers import Run, Transfer
from avinet.se.log_files import FileAccess, OpenRun
from avinet.units import KIB
from avinet.wire.log_codec import HEAD_BYTES, MAX_RAW_BYTES, LogDecoder, encode, raw_head
from avinet.wire.log_messages import Batch, Begin, Leave, LogMessage, LogUnsupported
from avinet.wire.vocabulary import UnknownMessage

SMALL_ROOM_BYTES = KIB
"""Into less than this no raw bytes are put beside a head; a packet's worth is 16 KiB at least, but windows end anywhere."""
MAX_MESSAGES = 1_000
"""That wait for the controller to give room: each pull asks for two."""


class ChannelUser(Protocol):
    """Who decides what a channel is for."""

    def channel_made(self, channel: "LogChannel") -> None:
        """It is open: say hello."""

    def message_received(self, channel: "LogChannel", message: LogMessage) -> None:
        """From the controller; ``RemoteProtocolError`` ends the channel."""

    def segments_wanted(self, channel: "LogChannel") -> None:
        """Few heads are left in its ``Sending``."""

    def segment_missing(self, channel: "LogChannel", transfer: Transfer, why: Failure) -> None:
        """Its file cannot be opened or read; it is not under way any more."""

    def channel_lost(self, channel: "LogChannel", why: str) -> None:
        """Once, last."""


@implementer(IPullProducer)
@attrs.define(eq=False, slots=False)
class LogChannel(TwistedProtocol):
    """The protocol of one channel."""

    user: ChannelUser
    files: FileAccess
    clock: IReactorTime
    sending: Sending = attrs.field(factory=Sending, init=False)
    sent_bytes: int = attrs.field(default=0, init=False)
    """Of segments."""
    _decoder: LogDecoder = attrs.field(factory=LogDecoder, init=False, repr=False)
    _messages: deque[bytes] = attrs.field(factory=deque, init=False, repr=False)
    _carry: memoryview = attrs.field(default=memoryview(b""), init=False, repr=False)
    """Of whole frames, what did not fit into the last packet."""
    _opened: dict[Run, OpenRun] = attrs.field(factory=dict, init=False, repr=False)
    _opening: bool = attrs.field(default=False, init=False)
    _warming: Run | None = attrs.field(default=None, init=False)
    """The run that a thread reads on, and nobody else closes meanwhile."""
    _producing: bool = attrs.field(default=False, init=False)
    """The channel asks us for data."""
    _inside: bool = attrs.field(default=False, init=False)
    """It does so now."""
    _woken: bool = attrs.field(default=False, init=False)
    _begun: bool = attrs.field(default=False, init=False)
    """A segment was begun since more were asked for."""
    _later: IDelayedCall | None = attrs.field(default=None, init=False)
    _lost: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    # What Twisted calls

    def connectionMade(self) -> None:
        """Begin."""
        self.user.channel_made(self)

    def dataReceived(self, data: bytes) -> None:
        """From the controller."""
        try:
            for thing in self._decoder.feed(data):
                if self._lost:
                    return
                if isinstance(thing, UnknownMessage):
                    self.send(LogUnsupported(tag_=thing.tag))
                elif isinstance(thing, memoryview):
                    raise _broken("raw bytes from a controller")
                elif not isinstance(thing, LogUnsupported):
                    self.user.message_received(self, thing)
        except RemoteProtocolError as failure:
            self.cut(str(failure))

    def connectionLost(self, reason: Failure | None = None) -> None:
        """It is over."""
        if self._lost:
            return
        self._lost = True
        if self._later is not None and self._later.active():
            self._later.cancel()
        self._close(self._opened.values())
        self._opened.clear()
        self._messages.clear()
        self.user.channel_lost(self, reason.getErrorMessage() if reason is not None else "it closed")

    def resumeProducing(self) -> None:
        """For a consumer that wants bytes of their own; a channel asks ``produce_into``."""
        piece = bytearray(64 * KIB)
        size = self.produce_into(memoryview(piece))
        if size and self.transport is not None:
            self.transport.write(bytes(memoryview(piece)[:size]))

    def stopProducing(self) -> None:
        """The channel is gone; ``connectionLost`` follows."""

    # What its user does

    def send(self, message: LogMessage) -> None:
        """Send a message, between two frames."""
        if self._lost:
            return
        self._messages.append(encode(message))
        if len(self._messages) > MAX_MESSAGES:
            self.cut("the controller does not take what is sent to it")
            return
        self.wake()

    def wake(self) -> None:
        """There may be something to send."""
        self._open_ahead()
        if self._inside:
            self._woken = True
            return  # who produces nothing gives up its turn, and would not get another one for having asked meanwhile
        if not self._producing and not self._lost and self.transport is not None:
            self._producing = True
            self._wire().registerProducer(self, False)

    def cut(self, why: str) -> None:
        """End it now."""
        self._log.warn("a log channel is cut: {why}", why=why)
        if self.transport is not None and not self._lost:
            self._wire().abortConnection()

    def _wire(self) -> Any:
        """The transport: a channel of ours, whose interface Twisted has not."""
        return self.transport

    # What goes out

    def produce_into(self, room: memoryview) -> int:
        """Fill ``room``; 0 when there is nothing for now, and then somebody wakes us."""
        filled, self._inside = 0, True
        try:
            while filled < len(room):
                self._woken = False
                size = self._put(room[filled:], alone=not filled)
                filled += size
                if not size:
                    self._want_more()
                    if not self._woken:
                        break
            self._want_more()
        finally:
            self._inside = False
        if not filled and self._producing:
            self._producing = False
            self._wire().unregisterProducer()
        return filled

    def _want_more(self) -> None:
        if self._begun and self.sending.wants:
            self._begun = False
            self.user.segments_wanted(self)

    def _put(self, room: memoryview, *, alone: bool) -> int:
        """The next thing of all that waits, or a part of it; ``alone`` when nothing goes before it in the packet."""
        if not self._carry:
            if self._messages:
                self._carry = memoryview(b"".join(self._messages))
                self._messages.clear()
            elif self.sending.current is None:
                self._begin()
            if self.sending.broken_off and not self._carry and self.sending.current is None:
                self.sending.broken_off = False
                self._carry = memoryview(encode(Leave()))
        if self._carry:
            size = min(len(room), len(self._carry))
            room[:size] = self._carry[:size]
            self._carry = self._carry[size:]
            return size
        run = self.sending.current
        if run is None or self.sending.held:
            return 0
        if len(room) >= SMALL_ROOM_BYTES:
            return self._put_raw(run, room)
        if not alone:
            return 0
        piece = bytearray(SMALL_ROOM_BYTES)
        size = self._put_raw(run, memoryview(piece))
        self._carry = memoryview(piece)[:size]
        return self._put(room, alone=True) if size else 0

    def _begin(self) -> None:
        """The next run, if its files are open."""
        run = self.sending.next()
        if run is None or run not in self._opened:
            return
        if self.sending.begin() is not None:
            self._begun = True
            self.files.begun(run.names)
            heads = run.heads
            begin: LogMessage = (
                Batch(heads=heads, pull=run.pull, was=run.was)
                if len(heads) > 1
                else Begin(head=heads[0], offset=run.offset, pull=run.pull, was=run.was)
            )
            self._carry = memoryview(encode(begin))
            self._open_ahead()

    def _put_raw(self, run: Run, room: memoryview) -> int:
        """One frame of the run under way."""
        opened = self._opened.get(run)
        if opened is None:
            return 0  # a thread has it, and wakes us
        wanted = min(run.left, len(room) - HEAD_BYTES, MAX_RAW_BYTES)
        work = self.sending.pulls.get(run.pull)
        if work is not None:
            wanted = work.rate.allows(self.clock.seconds(), wanted)
            if not wanted:
                self._wake_in(work.rate.wait_s())
                return 0
        try:
            size = opened.read_into(room[HEAD_BYTES : HEAD_BYTES + wanted], run.offset)
        except OSError:
            self._missing(run, Failure())
            return 0
        if not size:
            self._warm(run)
            return 0
        room[:HEAD_BYTES] = raw_head(size)
        if work is not None:
            work.rate.took(size)
        self.sent_bytes += size
        if self.sending.advanced(size):
            self._close([self._opened.pop(run)])
            self._open_ahead()
        return HEAD_BYTES + size

    def _wake_in(self, seconds: float) -> None:
        if self._later is None or not self._later.active():
            self._later = self.clock.callLater(seconds, self.wake)

    # Files

    def _close(self, opened: Iterable[OpenRun]) -> None:
        """In a thread: what the spool has unlinked meanwhile goes off the disk with it."""
        closing = list(opened)
        if closing:
            self.files.in_thread(_close_all, closing).addErrback(
                lambda failure: self._log.failure("files of segments are not closed", failure)
            )

    def _drop(self, runs: Iterable[Run]) -> None:
        """They are not sent for now, as they were put together; what was sent of them is still to be answered."""
        for run in runs:
            self._close([self._opened.pop(run)])
            self._done(run)

    def _done(self, run: Run) -> None:
        self.files.done([name for name in run.names if not self.sending.holds(name)])

    def _open_ahead(self) -> None:
        """Open the files of the next runs, and close those of runs that were dropped."""
        if self._opening or self._lost:
            return
        upcoming = self.sending.upcoming()
        self._drop(self._opened.keys() - set(upcoming))
        missing = [run for run in upcoming if run not in self._opened and run is not self._warming]
        enough = 2 * len(missing) < len(upcoming)
        if not missing or self.sending.held or (enough and missing[0] is not upcoming[0]):
            return
        self._opening = True

        def open_all() -> list[tuple[OpenRun, list[str]] | Failure]:
            self.files.pin([name for names in wanted for name in names])
            return [self._open(names) for names in wanted]

        def failed(failure: Failure) -> None:
            self._opening = False
            if not failure.check(AvinetError):
                self._log.failure("segments cannot be opened", failure)
            self.cut(f"segments cannot be opened: {failure.getErrorMessage()}")

        wanted = [run.names for run in missing]
        self.files.in_thread(open_all).addCallback(self._are_open, missing).addErrback(failed)

    def _are_open(self, results: list[tuple[OpenRun, list[str]] | Failure], runs: list[Run]) -> None:
        self._opening = False
        upcoming = () if self._lost else self.sending.upcoming()
        for run, result in zip(runs, results, strict=True):
            if isinstance(result, Failure):
                self._not_open(run, result, known=run in upcoming)
                continue
            opened, gone = result
            if run in upcoming and not gone:
                self.files.done(run.names[opened.count :])
                self.sending.shorten(run, opened.count)
                self._opened[run] = opened
                continue
            self._close([opened])
            self._done(run)
            if run in upcoming:
                self._tell_gone(run, Failure(SegmentGoneError(name=gone[0])), gone)
        if not self._lost:
            self.wake()

    def _not_open(self, run: Run, why: Failure, *, known: bool) -> None:
        """Which of them cannot be opened is found by halving."""
        self._done(run)
        if known and len(run.transfers) > 1:
            self.sending.shorten(run, len(run.transfers) // 2)
        elif known:
            self._tell_gone(run, why)

    def _open(self, names: list[str]) -> tuple[OpenRun, list[str]] | Failure:
        try:
            return self.files.open(names)
        except Exception:  # noqa: BLE001 - whatever is wrong with one file leaves the others
            return Failure()

    def _warm(self, run: Run) -> None:
        """Read on in a thread."""
        opened = self._opened.pop(run)
        self._warming = run

        def warmed(outcome: Failure | None) -> None:
            self._warming = None
            if self._lost or self.sending.current is not run:
                self._close([opened])
                self._done(run)
            elif isinstance(outcome, Failure):
                self._close([opened])
                self._tell_gone(run, outcome)
            else:
                self._opened[run] = opened
            if not self._lost:
                self.wake()

        self.files.in_thread(opened.warm, run.offset).addBoth(warmed)

    def _missing(self, run: Run, why: Failure) -> None:
        """The one under way cannot be read."""
        self._close([self._opened.pop(run)])
        self._tell_gone(run, why)

    def _tell_gone(self, run: Run, why: Failure, names: Sequence[str] = ()) -> None:
        """What is left of the run is put together anew."""
        gone = self.sending.gone(run, names)
        self._done(run)
        if not self._lost:
            for transfer in gone:
                self.user.segment_missing(self, transfer, why)
            self.wake()


def _close_all(opened: Iterable[OpenRun]) -> None:
    for one in opened:
        one.close()


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol="log service", detail=detail)
