"""What controllers ask each other about request logs: a channel to ``peer-logs`` carries one question and its answer.

Both are length-prefixed MessagePack.  A controller answers from what it has itself and asks nobody else.  A search is a map,
which a version that knows nothing else takes for the query that it is in the main; whatever came later is an array, which such
a version refuses.
"""

from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import Annotated, Any, ClassVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.protocols.basic import Int32StringReceiver
from twisted.python.failure import Failure

from avinet.controller.log_status import OwnStatus
from avinet.controller.peers import PEER_LOGS, Peers
from avinet.controller.pull_rows import PullRow
from avinet.controller.together import together
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Query
from avinet.model.ids import ControllerName, SeId
from avinet.units import KIB, MIB

MAX_QUESTION_BYTES = 256 * KIB
"""A filter has 8 KiB of text at most, and some tens of bytes a word."""
MAX_ANSWER_BYTES = 64 * MIB
"""10,000 rows of six KiB: records with long paths; longer ones are asked for in smaller pages."""
MAX_QUESTIONS = 32
"""Of others at a time; the store lets fewer work, and has the rest wait."""
MAX_TAILS = 300
"""Of others at a time, which mostly wait: 50 of each of six."""
_encode = msgspec.msgpack.encode


@error
class LogPeerError(AvinetError):
    """Controller {controller} has not answered about request logs: {why}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    controller: ControllerName
    why: str


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


class AskSearch(Query, frozen=True, kw_only=True):
    """Answer a query from the records here, with the copy sets of the stores ``sets``."""

    sets: tuple[str, ...] = ()


class _Later(msgspec.Struct, frozen=True, array_like=True):
    """Questions that not every version knows."""


class AskStatus(_Later, frozen=True, array_like=True, tag="status"):
    """Say what the store here has."""


class AskPulls(_Later, frozen=True, array_like=True, tag="pulls"):
    """Name the pulls of this controller."""


class AskTail(_Later, frozen=True, array_like=True, tag="tail"):
    """Name the next records that come into the store, once there are some: those of the query's filter after a number, of
    ``full`` logs, too; without one, the number after which they will be new.
    """

    query: Query
    full: bool
    limit: Annotated[int, msgspec.Meta(ge=1, le=1_000)]
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=60)]
    """For which to wait until there are some."""
    after: int | None = None


Question = AskSearch | AskStatus | AskPulls | AskTail


class Said(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What comes back: what was asked for, or ``why`` not."""

    answer: Answer | None = None
    why: str = ""
    store: str = ""
    """With an answer: the id of the store that it is from."""
    counted: dict[str, tuple[int, int]] = {}
    """With an answer: the sets that are in it, each with how many records its store had that are in no set, and the time of the
    newest of them in microseconds."""
    pulled: dict[SeId, float] = {}
    """With an answer: what this one's pulls make of spools (``log_whereabouts.Pulled``)."""
    status: OwnStatus | None = None
    pulls: tuple[PullRow, ...] | None = None
    items: tuple[tuple[int, bytes], ...] = ()
    """Of a tail: numbers, and records as JSON."""
    last: int | None = None
    """Of a tail: up to where it was looked."""


_later = msgspec.msgpack.Decoder(AskStatus | AskPulls | AskTail)
_search = msgspec.msgpack.Decoder(AskSearch)
_MAPS = frozenset((*range(0x80, 0x90), 0xDE, 0xDF))
"""The first byte of a map, as the MessagePack specification has it."""


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
            said = await self._answers.answer(asked)
        except CancelledError:
            return
        except AvinetError as why:
            said = Said(why=str(why))
        encoded = _encode(said)
        if len(encoded) > MAX_ANSWER_BYTES:
            encoded = _encode(Said(why=f"its answer is over {MAX_ANSWER_BYTES} bytes"))
        self.sendString(encoded)
        self.end()

    def _failed(self, failure: Failure) -> None:
        self._log.failure("a question about logs could not be answered", failure)
        self.end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Nobody waits any more."""
        if self._working is not None:
            self._working.cancel()


Answers = Mapping[type, Callable[[Any], Awaitable[Said]]]
"""Who answers which question."""


@attrs.define(eq=False)
class LogAnswers:
    """What this controller says to the others; ``by_kind`` is set once there is a store."""

    by_kind: Answers = attrs.field(factory=dict, init=False)
    _under_way: Counter[bool] = attrs.field(factory=Counter, init=False)
    """Of tails, and of others."""

    def build(self, name: ControllerName) -> Protocol:
        """For a channel of ``name``."""
        return _Answerer(self)

    async def answer(self, asked: bytes) -> Said:
        """From what is here."""
        if not self.by_kind:
            raise NoStoreYetError
        question = _decoded(asked)
        tails = isinstance(question, AskTail)
        limit = MAX_TAILS if tails else MAX_QUESTIONS
        if self._under_way[tails] >= limit:
            raise TooManyQuestionsError(limit=limit)
        self._under_way[tails] += 1
        try:
            return await self.by_kind[type(question)](question)
        finally:
            self._under_way[tails] -= 1


def _decoded(asked: bytes) -> Question:
    decoder: Any = _search if asked[:1] and asked[0] in _MAPS else _later
    try:
        question: Question = decoder.decode(asked)
    except msgspec.MsgspecError as why:
        raise StrangeQuestionError(why=str(why)) from why
    return question


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
class LogQuestions:
    """Asks the other controllers."""

    peers: Peers
    clock: IReactorTime

    @property
    def others(self) -> tuple[ControllerName, ...]:
        """All of the membership list but this one."""
        return tuple(name for name in self.peers.members if name != self.peers.me)

    async def ask(self, name: ControllerName, question: Question, limit_s: float) -> Said:
        """What ``name`` says; where it does not within ``limit_s``, whatever it hangs in, ``why``."""

        def late(_: object, __: float) -> Said:
            raise LogPeerError(controller=name, why=f"not within {limit_s:.3g} s")

        asking = Deferred.fromCoroutine(self._ask(name, question))
        try:
            return await asking.addTimeout(limit_s, self.clock, onTimeoutCancel=late)
        except AvinetError as why:
            return Said(why=str(why))

    async def _ask(self, name: ControllerName, question: Question) -> Said:
        asking = _Asking(_encode(question))
        try:
            await self.peers.open(name, PEER_LOGS, asking)
            said = msgspec.msgpack.decode(await asking.answer, type=Said)
        except (ConnectionError, msgspec.MsgspecError) as why:
            raise LogPeerError(controller=name, why=str(why)) from why
        finally:
            asking.answer.addErrback(lambda _: None)
            asking.answer.cancel()
        if said.why:
            raise LogPeerError(controller=name, why=said.why.rstrip("."))
        return said

    async def ask_all(
        self, questions: Iterable[tuple[ControllerName, Question]], limit_s: float
    ) -> dict[ControllerName, Said]:
        """What each says to its question, all at once."""
        asked = dict(questions)
        said = await together(self.ask(name, one, limit_s) for name, one in asked.items())
        return dict(zip(asked, said, strict=True))
