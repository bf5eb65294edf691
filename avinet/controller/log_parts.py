"""Another controller's part of an export: a channel to ``peer-log-parts`` carries one question, and then a file.

The question and what comes first of the answer are length-prefixed MessagePack; the file follows as it is, Parquet with the
store's own columns.  It is read no faster than the channel takes it, and written to the disk as it comes: no part of an export
is ever in memory.
"""

import errno
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from avinet.controller.api_logs import Exported
from avinet.controller.log_questions import (
    MAX_QUESTION_BYTES,
    LogPeerError,
    NoStoreYetError,
    StrangeQuestionError,
)
from avinet.controller.peers import PEER_LOG_PARTS, Peers, PeerUnreachableError
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Missing
from avinet.logs.query.shapes import Query
from avinet.logs.store.errors import LogAnswerTooLargeError, LogStoreFullError
from avinet.model.ids import ControllerName
from avinet.rest.file_body import FileBody
from avinet.units import KIB

MAX_PARTS = 4
"""Made for others and sent to them at a time: each takes a query's worth of the store, and room on the disk."""
MAX_HEAD_BYTES = 64 * KIB
BEGIN_TIMEOUT_S = 300.0
"""For the other one to make its part."""
OPEN_TIMEOUT_S = 10.0
STALL_TIMEOUT_S = 30.0
"""Without a byte: it hangs, or the way to it does."""
_encode = msgspec.msgpack.encode


@error
class TooManyPartsError(AvinetError):
    """It makes {limit} parts of exports for other controllers already."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


class AskPart(msgspec.Struct, frozen=True, array_like=True):
    """All records of a query, with the copy sets of the stores ``sets``."""

    query: Query
    sets: tuple[str, ...] = ()


class PartHead(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What follows, or ``why`` nothing does."""

    why: str = ""
    size: int = 0
    records: int = 0
    store: str = ""
    counted: dict[str, tuple[int, int]] = {}
    """As with an answer (``log_questions.Said``), both."""
    missing: tuple[Missing, ...] = ()
    """What is here and not in it."""


Make = Callable[[AskPart], Awaitable[tuple[Exported, PartHead]]]
"""The file, and its head but for what the file says itself."""


@attrs.define(eq=False)
class LogParts:
    """What this controller makes for the others; ``make`` is set once there is a store."""

    clock: IReactorTime
    make: Make | None = attrs.field(default=None, init=False)
    under_way: int = attrs.field(default=0, init=False)
    """Made or sent."""

    def build(self, name: ControllerName) -> Protocol:
        """For a channel of ``name``."""
        return _Sender(self)


class _Sender(Int32StringReceiver):
    """The side that has the file."""

    MAX_LENGTH = MAX_QUESTION_BYTES
    _log = Logger()

    transport: Any

    def __init__(self, parts: LogParts) -> None:
        self._parts = parts
        self._working: Deferred[None] | None = None

    def stringReceived(self, string: bytes) -> None:
        """The question."""
        if self._working is None:
            self._working = Deferred.fromCoroutine(self._work(string))
            self._working.addErrback(lambda f: f.trap(CancelledError) and None).addErrback(self._failed)

    async def _work(self, asked: bytes) -> None:
        parts = self._parts
        try:
            make, question = self._question(asked)
        except AvinetError as why:
            self._refuse(why)
            return
        parts.under_way += 1
        try:
            made, head = await make(question)
            head = msgspec.structs.replace(head, size=made.size, records=made.records, missing=made.missing)
            self.sendString(_encode(head))
            try:
                await FileBody(made.file, made.size, parts.clock).startProducing(self.transport)
            finally:
                self.transport.unregisterProducer()
        except AvinetError as why:
            self._refuse(why)
        else:
            self._end()
        finally:
            parts.under_way -= 1

    def _question(self, asked: bytes) -> tuple[Make, AskPart]:
        if self._parts.make is None:
            raise NoStoreYetError
        if self._parts.under_way >= MAX_PARTS:
            raise TooManyPartsError(limit=MAX_PARTS)
        try:
            return self._parts.make, msgspec.msgpack.decode(asked, type=AskPart)
        except msgspec.MsgspecError as why:
            raise StrangeQuestionError(why=str(why)) from why

    def _refuse(self, why: AvinetError) -> None:
        self.sendString(_encode(PartHead(why=str(why))))
        self._end()

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a part of an export could not be sent", failure)
        self._end()

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def lengthLimitExceeded(self, length: int) -> None:
        """The other side is out of its mind."""
        self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody waits any more."""
        if self._working is not None:
            self._working.cancel()


@attrs.define
class Room:
    """What all parts of one export may take on this disk."""

    left: int

    def take(self, size: int) -> None:
        """So much of it, or ``LogAnswerTooLargeError``."""
        if size > self.left:
            raise LogAnswerTooLargeError(
                why=f"a part of the export has {size} bytes, with room for {self.left}"
            )
        self.left -= size


class _Receiver(Protocol):
    """The side that asks.  What came waits in memory while what came before is written: a window at most."""

    transport: Any

    def __init__(self, question: bytes, write: Callable[[bytes], Deferred[Any]], room: Room) -> None:
        self._question = question
        self._write = write
        self._room = room
        self._head: PartHead | None = None
        self._pending = bytearray()
        """Of the head, until that is whole; then of the file."""
        self._came = 0
        """Bytes of the file."""
        self._writing = False
        self.moved: Callable[[], None] = lambda: None
        """Told whenever it gets on."""
        self.done: Deferred[PartHead] = Deferred(lambda _: self._end())

    def connectionMade(self) -> None:
        """Ask."""
        self.transport.write(len(self._question).to_bytes(4, "big") + self._question)

    def dataReceived(self, data: bytes) -> None:
        """The head, and then the file."""
        if self.done.called:
            return
        self._pending += data
        if self._head is not None:
            self._came += len(data)
        else:
            try:
                self._head = self._taken()
            except (AvinetError, msgspec.MsgspecError) as why:
                self._fail(why)
                return
            self._came = len(self._pending)
        self._go_on()

    def _taken(self) -> PartHead | None:
        """The head, if it is whole."""
        length = int.from_bytes(self._pending[:4], "big")
        if len(self._pending) >= 4 and length > MAX_HEAD_BYTES:
            raise LogAnswerTooLargeError(why="what comes before a part of an export is too long")
        if len(self._pending) < 4 + length:
            return None
        head = msgspec.msgpack.decode(bytes(self._pending[4 : 4 + length]), type=PartHead)
        del self._pending[: 4 + length]
        self._room.take(head.size)
        return head

    def _go_on(self) -> None:
        if self._head is None or self._writing or self.done.called:
            return
        self.moved()
        if self._came > self._head.size:
            self._fail(ConnectionError("more came than was announced"))
        elif self._pending:
            self._writing = True
            self.transport.pauseProducing()
            data, self._pending = bytes(self._pending), bytearray()
            self._write(data).addCallbacks(self._written, lambda failure: self._fail(failure.value))
        elif self._came == self._head.size:
            self.done.callback(self._head)
            self._end()

    def _written(self, _: object) -> None:
        self._writing = False
        self.transport.resumeProducing()
        self._go_on()

    def _fail(self, why: BaseException) -> None:
        if not self.done.called:
            self.done.errback(Failure(why))
        self._end()

    def leave(self) -> None:
        """Nobody waits any more."""
        self._end()

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Well, if all of it has come."""
        if self._head is None or self._came < self._head.size:
            self._fail(ConnectionError("the way to it broke"))


@attrs.frozen(eq=False)
class PartFetcher:
    """Brings other controllers' parts to this disk.  ``in_thread`` runs what blocks."""

    peers: Peers
    clock: IReactorTime
    in_thread: Callable[..., Deferred[Any]]

    async def fetch(self, name: ControllerName, question: AskPart, target: Path, room: Room) -> PartHead:
        """``target`` is the part of ``name``, or is not there: then ``why``.  Errors of this disk are raised."""
        file: BinaryIO = await self.in_thread(open, target, "xb", opener=_private)
        try:
            head = await self._received(name, question, file, room)
        except (LogPeerError, PeerUnreachableError) as why:
            head = PartHead(why=str(why))
        except OSError as why:
            if why.errno not in {errno.ENOSPC, errno.EDQUOT}:
                raise
            raise LogStoreFullError(why=str(why)) from why
        finally:
            self.in_thread(file.close).addErrback(lambda _: None)
        return head

    async def _received(
        self, name: ControllerName, question: AskPart, file: BinaryIO, room: Room
    ) -> PartHead:
        receiver = _Receiver(_encode(question), lambda data: self.in_thread(file.write, data), room)
        limit: IDelayedCall = self.clock.callLater(
            BEGIN_TIMEOUT_S, receiver.done.errback, LogPeerError(controller=name, why="it takes too long")
        )
        receiver.moved = lambda: limit.reset(STALL_TIMEOUT_S) if limit.active() else None
        try:
            opening = self.peers.open(name, PEER_LOG_PARTS, receiver)
            await opening.addTimeout(OPEN_TIMEOUT_S, self.clock)
            head = await receiver.done
        except (ConnectionError, TimeoutError, msgspec.MsgspecError) as why:
            raise LogPeerError(controller=name, why=str(why)) from why
        finally:
            if limit.active():
                limit.cancel()
            receiver.done.addErrback(lambda _: None)
            receiver.done.cancel()
            receiver.leave()
        if head.why:
            raise LogPeerError(controller=name, why=head.why.rstrip("."))
        return head


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
