"""One channel of ``peer-copies`` on the keeper: parts are gathered, written, verified, made to last, and said to be held.

As ``LogLink`` does for a service engine's, with whose buffers it writes: one write at a time in the pool of all links, and
while that is full the channel's window closes.  A disk that is full ends the channel, since there are other keepers.
What has not come whole when a channel ends is of no use: it comes again, here or elsewhere.
"""

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_copy_set import CopySet
from avinet.controller.log_spans import names_in, pages, spans
from avinet.controller.log_writes import AnyPart, Verdict, Writes
from avinet.errors import RemoteProtocolError
from avinet.logs.copies import Uncopied
from avinet.logs.entries import Segment
from avinet.logs.incoming import is_full
from avinet.logs.incoming_pack import PackPart, Start
from avinet.logs.runs import Names
from avinet.model.ids import ControllerName
from avinet.wire.copy_messages import (
    MAX_PARTS,
    PROTOCOL,
    Confirm,
    Copy,
    CopyClaim,
    CopyHello,
    CopyMessage,
    CopyQuestion,
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
from avinet.wire.raw_frames import RawDecoder
from avinet.wire.vocabulary import UnknownMessage

HELLO_TIMEOUT_S = 10.0
MAX_BEGUN = 256
"""Parts that are under way or have no answer: whoever sends has 32 MiB on their way, and counts small ones, too."""
MAX_CALLS = 64
"""Transactions under way until no more is read: one is some 10 ms, and a small message is enough to ask for one."""


class LinkKeeper(Protocol):
    """What a link needs of the keeper."""

    def buffer(self) -> Writes:
        """An empty one."""

    def give_back(self, writes: Writes) -> None:
        """It is done."""

    def opened(self, link: "KeeperLink", store: str) -> Deferred[tuple[CopySet, bool, Names]]:
        """The set, once no older link writes to it; whether it is new, and what is held of it."""

    def write(self, set_: CopySet, writes: Writes) -> Deferred[None]:
        """In the pool of all links."""

    def hold(self, set_: CopySet, parts: Sequence[AnyPart]) -> Deferred[None]:
        """Make it last; fails as that does."""

    def settle(self, set_: CopySet, names: Names, drop: Names) -> Deferred[None]:
        """These count, those are not wanted."""

    def forget(self, set_: CopySet, message: Forget) -> Deferred[None]:
        """It need not be remembered."""

    def note_uncopied(self, set_: CopySet, uncopied: Uncopied) -> Deferred[None]:
        """What its store has that is copied nowhere."""

    def discard(self, parts: Sequence[AnyPart]) -> Deferred[None]:
        """They are of no use."""

    def answer(self, name: ControllerName, message: CopyClaim | CopyQuestion) -> Deferred[CopyMessage]:
        """A question of another member; never fails."""

    def over(self, link: "KeeperLink") -> None:
        """It is lost, and its threads have done with its files."""


@attrs.define(eq=False, slots=False)
class KeeperLink(TwistedProtocol):
    """The protocol of one channel; ``name`` is whose key opened it."""

    name: ControllerName
    keeper: LinkKeeper
    clock: IReactorTime
    ended: Deferred[None] = attrs.field(factory=Deferred, init=False, repr=False)
    """Fires when it is lost and no thread has anything of it."""
    _set: CopySet | None = attrs.field(default=None, init=False)
    _greeted: bool = attrs.field(default=False, init=False)
    _decoder: RawDecoder[CopyMessage] = attrs.field(factory=copy_decoder, init=False, repr=False)
    _begun: dict[int, AnyPart] = attrs.field(factory=dict, init=False, repr=False)
    """Parts without an answer."""
    _left: dict[int, int] = attrs.field(factory=dict, init=False, repr=False)
    """Bytes that have not come, of those of which some have not."""
    _current: int = attrs.field(default=0, init=False)
    _numbers: dict[AnyPart, int] = attrs.field(factory=dict, init=False, repr=False)
    _gathering: Writes | None = attrs.field(default=None, init=False, repr=False)
    _writing: Writes | None = attrs.field(default=None, init=False, repr=False)
    _holding: int = attrs.field(default=0, init=False)
    """Calls under way that make parts last."""
    _calls: int = attrs.field(default=0, init=False)
    """Transactions that were asked for and are not done."""
    _paused: bool = attrs.field(default=False, init=False)
    _lost: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    # What Twisted calls

    def connectionMade(self) -> None:
        """Wait for the first message."""
        self._hello_timer = self.clock.callLater(HELLO_TIMEOUT_S, self.cut, "it said nothing")

    def dataReceived(self, data: bytes) -> None:
        """On transports that have no views."""
        self.view_received(memoryview(data))

    def view_received(self, view: memoryview) -> None:
        """What came; the view is good during the call only."""
        try:
            for thing in self._decoder.feed(view):
                if self._lost:
                    return
                if isinstance(thing, memoryview):
                    self._raw(thing)
                elif isinstance(thing, UnknownMessage):
                    self.send(CopyUnsupported(tag_=thing.tag))
                else:
                    self._message(thing)
        except RemoteProtocolError as failure:
            self.cut(failure.detail)
            return
        self._write()
        self._settle_reading()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """What is under way is of no use."""
        if self._lost:
            return
        self._lost = True
        if self._hello_timer.active():
            self._hello_timer.cancel()
        for part in self._begun.values():
            part.unwanted = True
        self._gathering = None
        self._conclude()

    def cut(self, why: str) -> None:
        """End it now."""
        self._log.warn("a channel of {name} for copies of logs is cut: {why}", name=self.name, why=why)
        self._abort()

    def _abort(self) -> None:
        if self.transport is not None and not self._lost:
            self._wire().abortConnection()

    def _wire(self) -> Any:
        return self.transport

    def send(self, message: CopyMessage) -> None:
        """Send one message."""
        if not self._lost and self.transport is not None:
            self.transport.write(encode(message))

    def _end(self, message: CopyMessage) -> None:
        """Send a last one."""
        self.send(message)
        if not self._lost and self.transport is not None:
            self.transport.loseConnection()

    # What comes

    def _message(self, message: CopyMessage) -> None:
        if not self._greeted:
            self._first(message)
            return
        set_ = self._set
        if set_ is None:
            raise _broken("something before the welcome")
        match message:
            case Copy():
                self._copy(set_, message)
            case GoOn() if message.part in self._left:
                self._current = message.part
            case GoOn():
                raise _broken("a part goes on that is not under way")
            case Confirm():
                number = message.number
                settling = self.keeper.settle(set_, names_in(message.names), names_in(message.drop))
                settling.addCallbacks(lambda _: self.send(Settled(number=number)), self._not_settled)
                self._call(settling)
            case Forget():
                self._call(self.keeper.forget(set_, message))
            case NotCopied():
                self._call(self.keeper.note_uncopied(set_, Uncopied(message.records, message.newest_us)))
            case CopyUnsupported():
                pass
            case _:
                raise _broken(f"a {type(message).__name__} from who has logs copied")

    def _call(self, under_way: Deferred[None]) -> None:
        self._calls += 1
        under_way.addBoth(self._called).addErrback(self._defect)

    def _called(self, _: object) -> None:
        self._calls -= 1
        self._settle_reading()

    def _first(self, message: CopyMessage) -> None:
        self._greeted = True
        self._hello_timer.cancel()
        if isinstance(message, CopyHello):
            self.keeper.opened(self, message.store).addCallbacks(self._opened, self._not_opened)
        elif isinstance(message, CopyClaim | CopyQuestion):
            self.keeper.answer(self.name, message).addCallback(self._end)
        else:
            raise _broken(f"a {type(message).__name__} at first")

    def _opened(self, found: tuple[CopySet, bool, Names]) -> None:
        if self._lost:
            return
        self._set, new, held = found
        self.send(CopyWelcome(new=new))
        all_pages = list(pages(held))
        for number, page in enumerate(all_pages, 1):
            self.send(Holding(names=spans(page), more=number < len(all_pages)))

    def _not_opened(self, failure: Failure) -> None:
        why = failure.getErrorMessage()
        self._log.error("logs of {name} cannot be kept: {why}", name=self.name, why=why)
        self._end(NoRoom(text=why[:500]))

    def _not_settled(self, failure: Failure) -> None:
        # Without an answer it is said again on the next channel.
        self._log.error(
            "what of {name} counts is not noted: {why}", name=self.name, why=failure.getErrorMessage()
        )
        self._abort()

    def _copy(self, set_: CopySet, message: Copy) -> None:
        if message.part in self._begun.keys() | self._left.keys() or len(self._begun) >= MAX_BEGUN:
            raise _broken("too many parts, or one twice")
        heads = message.heads
        if len({head.name for head in heads}) < len(heads) or len({head.incarnation for head in heads}) > 1:
            raise _broken("a part with a segment twice, or of two spools")
        part: AnyPart = (
            set_.logs.pack(message.se, Start(heads, ""))
            if len(heads) > 1
            else set_.logs.part(Segment(message.se, heads[0]), 0)
        )
        self._begun[message.part] = part
        self._numbers[part] = self._current = message.part
        self._left[message.part] = sum(head.size for head in heads)
        self._gather().begin(part)

    def _raw(self, piece: memoryview) -> None:
        number = self._current
        left = self._left.get(number, 0) - len(piece)
        if left < 0:
            raise _broken("bytes of no part")
        part = self._begun.get(number)
        if part is not None:  # else it was here already, and whoever sends it does not know it yet
            self._gather().add(part, piece, last=not left)
        if left:
            self._left[number] = left
        else:
            del self._left[number]
            self._current = 0

    def _gather(self) -> Writes:
        if self._gathering is None:
            self._gathering = self.keeper.buffer()
        return self._gathering

    # Writing

    def _write(self) -> None:
        """Hand what was gathered to a thread, unless one has something of ours already."""
        if self._writing is not None or not self._gathering or self._set is None or self._lost:
            return
        writes = self._writing = self._gathering
        self._gathering = None
        self.keeper.write(self._set, writes).addBoth(self._written, writes).addErrback(self._defect)

    def _written(self, result: Any, writes: Writes) -> None:
        self._writing = None
        verdicts = writes.take_verdicts()
        if self._lost or self._failed(result):
            self._conclude()
            return
        self.keeper.give_back(writes)
        self._judge(verdicts)
        self._write()
        self._settle_reading()

    def _failed(self, result: Any) -> bool:
        """Whether nothing can be kept now; then that is said."""
        if not isinstance(result, Failure):
            return False
        if not is_full(result.value) and not isinstance(result.value, OSError):
            self._log.failure("copies of logs cannot be kept", result)
        self._end(NoRoom(text=result.getErrorMessage()[:500]))
        return True

    def _judge(self, verdicts: Sequence[tuple[AnyPart, Verdict]]) -> None:
        whole: list[AnyPart] = []
        for part, verdict in verdicts:
            if isinstance(part, PackPart):
                false, kept = bool(part.false), bool(part.kept)
            else:
                false, kept = (
                    verdict is not Verdict.KNOWN and verdict is not Verdict.TRUE,
                    verdict is Verdict.TRUE,
                )
            if false:
                self._refuse(part, "its bytes are not what its heads say")
            elif kept:
                whole.append(part)
            else:
                self._answer_held([part])
        if whole and self._set is not None:
            self._holding += 1
            self.keeper.hold(self._set, whole).addBoth(self._kept, whole).addErrback(self._defect)

    def _kept(self, result: Any, parts: Sequence[AnyPart]) -> None:
        self._holding -= 1
        if self._lost or self._failed(result):
            self._conclude()
            return
        for part in parts:
            if part.unwanted:
                self._refuse(part, "it could not be kept")
        self._answer_held([part for part in parts if not part.unwanted])
        self._settle_reading()

    def _answer_held(self, parts: Sequence[AnyPart]) -> None:
        numbers = [self._done(part) for part in parts]
        for first in range(0, len(numbers), MAX_PARTS):
            self.send(Held(parts=tuple(numbers[first : first + MAX_PARTS])))

    def _refuse(self, part: AnyPart, text: str) -> None:
        part.unwanted = True
        self.keeper.discard([part])
        self.send(NotHeld(part=self._done(part), text=text))

    def _done(self, part: AnyPart) -> int:
        number = self._numbers.pop(part)
        del self._begun[number]
        return number

    def _defect(self, failure: Failure) -> None:
        self._log.failure("a keeper's link failed", failure)
        self._abort()

    def _conclude(self) -> None:
        """No thread has anything of a lost link any more."""
        if not self._lost or self.ended.called or self._writing is not None or self._holding:
            return
        parts = list(self._begun.values())
        self._begun.clear()

        def over(_: object) -> None:
            self.keeper.over(self)
            self.ended.callback(None)

        self.keeper.discard(parts).addBoth(over)

    # Reading on or not

    def _settle_reading(self) -> None:
        if self._lost or self.transport is None:
            return
        gathered = self._gathering
        wait = self._calls >= MAX_CALLS or (gathered is not None and gathered.full)
        if wait != self._paused:
            self._paused = wait
            wire = self._wire()
            (wire.pauseProducing if wait else wire.resumeProducing)()


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol=PROTOCOL, detail=detail)
