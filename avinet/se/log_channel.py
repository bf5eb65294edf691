"""One channel of a log service, on the SE: messages, and the bytes of segments straight from the file into the packet.

A ``LogChannel`` is a pull producer.  Whenever it is its turn it fills the packet that it is given: what messages wait,
then the segment under way, then the next ones, so that many small segments share a packet.  Files are opened a few
segments ahead, in a thread.  What it sends is decided by its ``Sending``; who feeds that and hears the controller's
messages is its ``ChannelUser``.
"""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IPullProducer, IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import RemoteProtocolError
from avinet.logs.sending import Sending, Transfer
from avinet.se.log_files import OpenSegment
from avinet.units import KIB
from avinet.wire.log_codec import HEAD_BYTES, MAX_RAW_BYTES, LogDecoder, encode, raw_head
from avinet.wire.log_messages import Begin, LogMessage, LogUnsupported
from avinet.wire.vocabulary import UnknownMessage

OPENED_AHEAD = 16
"""Segments whose files are open: a packet of small ones."""
SMALL_ROOM_BYTES = KIB
"""Into less than this no raw bytes are put beside a head; a packet's worth is 16 KiB at least, but windows end anywhere."""
MAX_MESSAGES = 1_000
"""That wait for the controller to give room: each pull asks for two."""

T = TypeVar("T")
InThread = Callable[..., Deferred[Any]]


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


@attrs.frozen
class FileAccess:
    """How a channel gets at files."""

    in_thread: InThread
    open: Callable[[str], OpenSegment]
    """By a segment's name; blocks.  The spool keeps it as long as it can until it is ``done``."""
    done: Callable[[Sequence[str]], None]
    """They are not sent for now.  Does not block."""


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
    _opened: dict[str, OpenSegment] = attrs.field(factory=dict, init=False, repr=False)
    _opening: bool = attrs.field(default=False, init=False)
    _warming: str = attrs.field(default="", init=False)
    """The segment that a thread reads on, and nobody else closes meanwhile."""
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
        for segment in self._opened.values():
            segment.close()
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
        if self._carry:
            size = min(len(room), len(self._carry))
            room[:size] = self._carry[:size]
            self._carry = self._carry[size:]
            return size
        transfer = self.sending.current
        if transfer is None or self.sending.held:
            return 0
        if len(room) >= SMALL_ROOM_BYTES:
            return self._put_raw(transfer, room)
        if not alone:
            return 0
        piece = bytearray(SMALL_ROOM_BYTES)
        size = self._put_raw(transfer, memoryview(piece))
        self._carry = memoryview(piece)[:size]
        return self._put(room, alone=True) if size else 0

    def _begin(self) -> None:
        """The next segment, if its file is open."""
        transfer = self.sending.next()
        if transfer is None or transfer.name not in self._opened:
            return
        if self.sending.begin() is not None:
            self._begun = True
            begin = Begin(head=transfer.head, offset=transfer.offset, pull=transfer.pull)
            self._carry = memoryview(encode(begin))

    def _put_raw(self, transfer: Transfer, room: memoryview) -> int:
        """One frame of the segment under way."""
        name = transfer.name
        segment = self._opened.get(name)
        if segment is None:
            return 0  # a thread has it, and wakes us
        wanted = min(transfer.left, len(room) - HEAD_BYTES, MAX_RAW_BYTES)
        work = self.sending.pulls.get(transfer.pull)
        now = self.clock.seconds()
        if work is not None:
            wanted = work.rate.allows(now, wanted)
            if not wanted:
                self._wake_in(work.rate.wait_s())
                return 0
        try:
            size = segment.read_into(room[HEAD_BYTES : HEAD_BYTES + wanted], transfer.offset)
        except OSError:
            self._missing(transfer, Failure())
            return 0
        if not size:
            self._warm(transfer)
            return 0
        room[:HEAD_BYTES] = raw_head(size)
        if work is not None:
            work.rate.took(size)
        self.sent_bytes += size
        if self.sending.advanced(size):
            self._opened.pop(name).close()
            self._open_ahead()
        return HEAD_BYTES + size

    def _wake_in(self, seconds: float) -> None:
        if self._later is None or not self._later.active():
            self._later = self.clock.callLater(seconds, self.wake)

    # Files

    def _open_ahead(self) -> None:
        """Open the files of the next segments, and close those of segments that were dropped."""
        if self._opening or self._lost:
            return
        upcoming = self.sending.upcoming(OPENED_AHEAD)
        names = [transfer.name for transfer in upcoming]
        dropped = tuple(self._opened.keys() - set(names))
        for name in dropped:
            self._opened.pop(name).close()
        self.files.done(dropped)
        missing = [transfer for transfer in upcoming if not self._has(transfer.name)]
        enough = len(upcoming) - len(missing) > OPENED_AHEAD // 2
        if not missing or (enough and missing[0] is not upcoming[0]):
            return
        self._opening = True

        def open_all() -> list[OpenSegment | Failure]:
            return [self._open(transfer.name) for transfer in missing]

        def failed(failure: Failure) -> None:
            self._opening = False
            self._log.failure("segments cannot be opened", failure)
            self.cut("a defect of ours; the log tells")

        self.files.in_thread(open_all).addCallback(self._are_open, missing).addErrback(failed)

    def _are_open(self, results: list[OpenSegment | Failure], transfers: list[Transfer]) -> None:
        self._opening = False
        for transfer, result in zip(transfers, results, strict=True):
            if isinstance(result, Failure):
                self._missing(transfer, result)
            elif self._lost:
                result.close()
            else:
                self._opened[transfer.name] = result
        if self._lost:
            self.files.done([transfer.name for transfer in transfers])
        else:
            self.wake()

    def _has(self, name: str) -> bool:
        return name in self._opened or name == self._warming

    def _open(self, name: str) -> OpenSegment | Failure:
        try:
            return self.files.open(name)
        except Exception:  # noqa: BLE001 - whatever is wrong with one file leaves the others
            return Failure()

    def _warm(self, transfer: Transfer) -> None:
        """Read on in a thread."""
        segment = self._opened.pop(transfer.name)
        self._warming = transfer.name

        def warmed(outcome: Failure | None) -> None:
            self._warming = ""
            if self._lost or self.sending.current is not transfer:
                segment.close()
                self.files.done([transfer.name])
            elif isinstance(outcome, Failure):
                segment.close()
                self._missing(transfer, outcome)
            else:
                self._opened[transfer.name] = segment
            if not self._lost:
                self.wake()

        self.files.in_thread(segment.warm, transfer.offset).addBoth(warmed)

    def _missing(self, transfer: Transfer, why: Failure) -> None:
        name = transfer.name
        segment = self._opened.pop(name, None)
        if segment is not None:
            segment.close()
        self.sending.gone(name)
        if not self._lost:
            self.user.segment_missing(self, transfer, why)


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol="log service", detail=detail)
