"""Request logs that other controllers have: each is asked the same, and one answer is made of all.

A channel to ``peer-logs`` carries one question and its answer, as length-prefixed MessagePack.  A controller answers from its
own records and asks nobody else.  One that cannot be asked is named in the answer as missing; what is wrong with a question is
found out here first.
"""

from collections.abc import Awaitable, Sequence
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from avinet.controller.api_logs import Exported, LogSearch, StoreStatus
from avinet.controller.peers import PEER_LOGS, Peers
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.merged import again, has_rows, merged, question
from avinet.logs.query.shapes import Query
from avinet.model.ids import ControllerName
from avinet.units import KIB, MIB

MAX_QUESTION_BYTES = 256 * KIB
"""A filter has 8 KiB of text at most, and some tens of bytes a word."""
MAX_ANSWER_BYTES = 64 * MIB
"""10,000 rows of six KiB: records with long paths; longer ones are asked for in smaller pages."""
ASK_TIMEOUT_S = 100.0
"""Below the 120 s that whoever asks waits."""
MAX_QUESTIONS = 32
"""Of others at a time; the store lets fewer work, and has the rest wait."""


@error
class LogPeerError(AvinetError):
    """Controller {controller} has not answered about request logs: {why}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    controller: ControllerName
    why: str


class _Said(msgspec.Struct, frozen=True, kw_only=True):
    """What comes back."""

    answer: Answer | None = None
    why: str = ""


class _Framed(Int32StringReceiver):
    """Either side."""

    def end(self) -> None:
        """Close, after what was sent."""
        if self.transport is not None:
            self.transport.loseConnection()

    def lengthLimitExceeded(self, length: int) -> None:
        """The other side is out of its mind."""
        self.end()


class _Answerer(_Framed):
    """The side that is asked, for one question."""

    MAX_LENGTH = MAX_QUESTION_BYTES
    _log = Logger()

    def __init__(self, answers: "LogAnswers") -> None:
        self._answers = answers
        self._asked = False
        self._working: Deferred[None] | None = None

    def stringReceived(self, string: bytes) -> None:
        """The question."""
        if self._asked:
            self.end()
            return
        self._asked = True
        self._working = Deferred.fromCoroutine(self._answer(string))
        self._working.addErrback(self._failed)

    async def _answer(self, asked: bytes) -> None:
        try:
            said = _Said(answer=await self._answers.answer(asked))
        except CancelledError:
            return
        except AvinetError as why:
            said = _Said(why=str(why))
        encoded = msgspec.msgpack.encode(said)
        if len(encoded) > MAX_ANSWER_BYTES:
            encoded = msgspec.msgpack.encode(_Said(why=f"its answer is over {MAX_ANSWER_BYTES} bytes"))
        self.sendString(encoded)
        self.end()

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a question about logs could not be answered", failure)
        self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody waits any more."""
        if self._working is not None:
            self._working.cancel()


@attrs.define(eq=False)
class LogAnswers:
    """This controller's own records, for the others; ``search`` is set once there is a store."""

    search: LogSearch | None = attrs.field(default=None, init=False)
    _under_way: int = attrs.field(default=0, init=False)

    def build(self, name: ControllerName) -> Protocol:
        """For a channel of ``name``."""
        return _Answerer(self)

    async def answer(self, asked: bytes) -> Answer:
        """From what is here."""
        if self.search is None:
            raise NoStoreYetError
        if self._under_way >= MAX_QUESTIONS:
            raise TooManyQuestionsError(limit=MAX_QUESTIONS)
        try:
            query = msgspec.msgpack.decode(asked, type=Query)
        except msgspec.MsgspecError as why:
            raise StrangeQuestionError(why=str(why)) from why
        self._under_way += 1
        try:
            return await self.search.ask(query)
        finally:
            self._under_way -= 1


@error
class NoStoreYetError(AvinetError):
    """It is starting, and has not opened its log store yet."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@error
class TooManyQuestionsError(AvinetError):
    """It answers {limit} questions of other controllers already."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


@error
class StrangeQuestionError(AvinetError):
    """It does not understand the question; it may run an older version: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    why: str


class _Asking(_Framed):
    """The side that asks."""

    MAX_LENGTH = MAX_ANSWER_BYTES

    def __init__(self, question: bytes) -> None:
        self._question = question
        self.answer: Deferred[bytes] = Deferred(lambda _: self.end())

    def connectionMade(self) -> None:
        """Ask."""
        self.sendString(self._question)

    def stringReceived(self, string: bytes) -> None:
        """The answer."""
        if not self.answer.called:
            self.answer.callback(string)
        self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Without one, if it has not come."""
        if not self.answer.called:
            self.answer.errback(Failure(ConnectionError("the way to it broke")))


@attrs.frozen(eq=False)
class ClusterSearch:
    """The records of all controllers; with one controller, of ``own`` alone."""

    own: LogSearch
    peers: Peers
    clock: IReactorTime

    async def ask(self, query: Query) -> Answer:
        """One answer; ``missing`` names the controllers whose records are not in it."""
        others = [name for name in self.peers.members if name != self.peers.me]
        if not others:
            return await self.own.ask(query)
        names = (self.peers.me, *others)
        asked = question(query)
        answers = await self._ask_all(names, asked)
        finer = again(query, answers)
        if finer is not None:
            having = [name for name, answer in zip(names, answers, strict=True) if has_rows(answer)]
            lacking = [answer for answer in answers if not has_rows(answer)]
            answers = [*await self._ask_all(having, finer), *lacking]
        return merged(query, answers)

    async def _ask_all(self, names: Sequence[ControllerName], query: Query) -> list[Answer]:
        encoded = msgspec.msgpack.encode(query)
        asking = [Deferred.fromCoroutine(self._ask_one(name, query, encoded)) for name in names]
        answers: list[Answer] = await gatherResults(asking, consumeErrors=True).addErrback(_first_cause)
        return answers

    async def _ask_one(self, name: ControllerName, query: Query, encoded: bytes) -> Answer:
        if name == self.peers.me:
            return _of(name, await self.own.ask(query))
        try:
            return _of(name, await self._ask_peer(name, encoded))
        except AvinetError as why:
            return Answer(missing=(Missing(se="", se_uuid="", controller=name, why=str(why)),))

    async def _ask_peer(self, name: ControllerName, encoded: bytes) -> Answer:
        asking = _Asking(encoded)

        def late(_: object, __: float) -> bytes:
            raise LogPeerError(controller=name, why=f"not within {ASK_TIMEOUT_S:.0f} s")

        answer = asking.answer.addTimeout(ASK_TIMEOUT_S, self.clock, onTimeoutCancel=late)
        try:
            await self.peers.open(name, PEER_LOGS, asking)
            said = msgspec.msgpack.decode(await answer, type=_Said)
        except (ConnectionError, msgspec.MsgspecError) as why:
            raise LogPeerError(controller=name, why=str(why)) from why
        finally:
            if not answer.called:
                answer.addErrback(lambda _: None)
                answer.cancel()
        if said.answer is None:
            raise LogPeerError(controller=name, why=said.why)
        return said.answer

    def check(self, query: Query) -> Awaitable[None]:
        """Engines are alike."""
        return self.own.check(query)

    async def export(self, query: Query, kind: str) -> Exported:
        """Of this controller's records."""
        made = await self.own.export(query, kind)
        return attrs.evolve(made, missing=len(self.peers.members) - 1)

    def status(self) -> Awaitable[StoreStatus]:
        """Of this controller's store."""
        return self.own.status()


def _first_cause(failure: Failure) -> Failure:
    """What was wrong, rather than that something was."""
    sub = getattr(failure.value, "subFailure", None)
    return sub if isinstance(sub, Failure) else failure


def _of(name: ControllerName, answer: Answer) -> Answer:
    return msgspec.structs.replace(
        answer, missing=tuple(msgspec.structs.replace(one, controller=name) for one in answer.missing)
    )
