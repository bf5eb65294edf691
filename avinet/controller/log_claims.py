"""What controllers ask each other about copies of a store whose controller is gone.

``Claims`` settles what is held here: when the controller is not heard by any member, each other member is asked whether it has the
copy that counts.  Who says no notes that the copy here counts from then on, and will hold none itself, so that a controller
that was only away, and has the segment copied again, makes no second one.  Where a member cannot be asked it stays held.

``had`` is about a segment that a service engine began with a store that is no more: whether any member has it.
"""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_copy_set import CopySet
from avinet.controller.log_keeper import Keeper
from avinet.controller.log_sets import STORE
from avinet.controller.log_spans import names_in, pages, spans
from avinet.controller.peers import PEER_COPIES, Peers
from avinet.errors import AvinetError, Kind, RemoteProtocolError, error
from avinet.logs.copies import CopiesHere
from avinet.logs.ledger import Ledger
from avinet.logs.runs import Names
from avinet.model.ids import ControllerName
from avinet.model.logs import ANY_STORE
from avinet.wire.copy_messages import (
    MAX_RUNS,
    CopyAnswer,
    CopyClaim,
    CopyClaimed,
    CopyMessage,
    CopyQuestion,
    copy_decoder,
    encode,
)
from avinet.wire.vocabulary import UnknownMessage

LOOK_S = 2.0
"""Between looks; a controller counts as gone that is not live twice in a row."""
ASK_TIMEOUT_S = 5.0
"""A peer answers from its ledger, behind fsyncs of some 100 ms."""
ASKED_RUNS = 100
"""At once: an answer may have ten times as many."""
ASKED_LENGTH = 20
"""Segments of a run of which a claim asks, so that whatever is answered fits into one message."""
MAX_ASKED = 100_000
"""Segments that one claim or question may be about.  Each that is yielded is written down, and a message can name more of them
than any disk has room for."""
HAD_AT_ONCE = 8
"""Questions about what service engines had begun elsewhere: each is a channel, of which a peer takes 512, and any service engine
can have as many of them asked as it likes."""


@error
class TooMuchAskedError(AvinetError):
    """It answers about {limit} segments at once."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


class _Asking(Protocol):
    """One question on a channel of its own."""

    def __init__(self, question: CopyMessage) -> None:
        self._question = question
        self._decoder = copy_decoder()
        self.answer: Deferred[CopyMessage] = Deferred(lambda _: self._end())

    def _end(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()

    def connectionMade(self) -> None:
        if self.transport is not None:
            self.transport.write(encode(self._question))

    def dataReceived(self, data: bytes) -> None:
        try:
            for thing in self._decoder.feed(data):
                if not isinstance(thing, memoryview | UnknownMessage) and not self.answer.called:
                    self.answer.callback(thing)
        except RemoteProtocolError:
            if not self.answer.called:
                self.answer.errback(Failure())
        if self.answer.called:
            self._end()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if not self.answer.called:
            self.answer.errback(Failure(ConnectionError("the way to it broke")))


@attrs.define(eq=False)
class Claims:
    """Of one controller, whose own ledger is ``own``."""

    keeper: Keeper
    peers: Peers
    own: Ledger
    clock: IReactorTime
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    _asking: DeferredSemaphore = attrs.field(
        factory=lambda: DeferredSemaphore(HAD_AT_ONCE), init=False, repr=False
    )
    _gone: set[str] = attrs.field(factory=set, init=False)
    """Stores whose controller was not live at the last look."""
    _look: IDelayedCall | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def start(self) -> None:
        """Look from now on, and answer."""
        self.keeper.answers = self.answer
        self._look = self.clock.callLater(LOOK_S, self._look_through)

    def stop(self) -> None:
        """No more."""
        self._stopped = True
        if self._look is not None and self._look.active():
            self._look.cancel()

    # What others ask

    async def answer(self, name: ControllerName, message: CopyClaim | CopyQuestion) -> CopyMessage:
        """A claim, or a question; never fails."""
        try:
            names = names_in(message.names)
            if names.count > MAX_ASKED:
                raise TooMuchAskedError(limit=MAX_ASKED)
            if isinstance(message, CopyClaim):
                return await self._answer_claim(name, message, names)
            return await self._answer_question(message, names)
        except AvinetError as why:
            if isinstance(message, CopyClaim):
                return CopyClaimed(refused=str(why)[:500])
            return CopyAnswer(refused=str(why)[:500])

    async def _answer_claim(self, name: ControllerName, claim: CopyClaim, names: Names) -> CopyMessage:
        if claim.store == self.own.store_id or self._is_live(claim.store):
            return CopyClaimed(refused="the store's controller is live")
        if claim.store not in self.keeper.sets and claim.controller not in self.peers.members:
            return CopyClaimed()  # nothing is here, and whoever left does not come back with it
        set_ = await self.keeper.opened_for(claim.store, claim.controller)

        def yielded() -> tuple[Names, bool]:
            mine, files = set_.rows.yield_to(names, name, self.peers.me)
            set_.remove(files)
            return mine, bool(set_.rows.held())

        mine, set_.holds = await self.in_thread(yielded)
        rows = spans(mine)
        return CopyClaimed(not_=rows) if len(rows) <= MAX_RUNS else CopyClaimed(refused="too much at once")

    async def _answer_question(self, question: CopyQuestion, names: Names) -> CopyMessage:
        rows = spans(await self._known_here(question.store, names))
        return CopyAnswer(names=rows) if len(rows) <= MAX_RUNS else CopyAnswer(refused="too much at once")

    async def _known_here(self, store: str, names: Names) -> Names:
        ledgers = [set_.logs.ledger for id_, set_ in self.keeper.sets.items() if store in {id_, ANY_STORE}]
        if store in {self.own.store_id, ANY_STORE}:
            ledgers.append(self.own)

        def look() -> Names:
            return Names().plus(*(CopiesHere(ledger).known(names) for ledger in ledgers))

        known: Names = await self.in_thread(look)
        return known

    # What this one asks

    async def had(self, store: str, names: Names) -> Names | None:
        """Which of these count already, in ``store`` or a copy of it anywhere; None while that cannot be found out."""
        await self._asking.acquire()
        try:
            return await self._had(store, names)
        finally:
            self._asking.release()

    async def _had(self, store: str, names: Names) -> Names | None:
        found = await self._known_here(store, names)
        for name in self.peers.members:
            if name == self.peers.me:
                continue
            for page in pages(names.minus(found), ASKED_RUNS):
                if not page:
                    break
                answer = await self._ask(name, CopyQuestion(store=store, names=spans(page)))
                if not isinstance(answer, CopyAnswer) or answer.refused:
                    return None
                found = found.plus(names_in(answer.names))
        return found

    async def _ask(self, name: ControllerName, question: CopyMessage) -> CopyMessage | None:
        if STORE not in self.peers.said(name):
            return None  # it is away, or starting, or of a version that keeps no copies
        asking = _Asking(question)
        answer = asking.answer.addTimeout(ASK_TIMEOUT_S, self.clock)
        try:
            await self.peers.open(name, PEER_COPIES, asking)
            return await answer
        except Exception as why:  # noqa: BLE001 - whatever it is, there is no answer
            self._log.info("{name} does not say what copies it has: {why}", name=name, why=str(why))
            return None
        finally:
            answer.addErrback(lambda _: None)
            if not answer.called:
                answer.cancel()

    # What is held here

    def _is_live(self, store: str) -> bool:
        return any(self.peers.said(name).get(STORE) == store for name in self.peers.live)

    def _look_through(self) -> None:
        self._look = None
        gone = {store for store in self.keeper.sets if not self._is_live(store)}
        due = [self.keeper.sets[store] for store in gone & self._gone if self.keeper.sets[store].holds]
        self._gone = gone

        async def look() -> None:
            for set_ in due:
                await self.resolve(set_)

        def again(result: Any) -> None:
            if isinstance(result, Failure):
                self._log.failure("what is held for a controller that is gone is not settled", result)
            if not self._stopped:
                self._look = self.clock.callLater(LOOK_S, self._look_through)

        Deferred.fromCoroutine(look()).addBoth(again)

    async def resolve(self, set_: CopySet) -> None:
        """Of what a set holds, have count what no other member has."""
        others = [name for name in self.peers.members if name not in {self.peers.me, set_.controller}]
        if not self.peers.live.issuperset(others):
            return
        lock = self.keeper.lock(set_.id)
        await lock.acquire()
        try:
            held: Names = await self.in_thread(set_.rows.held)
            for page in pages(held, ASKED_RUNS, ASKED_LENGTH):
                if self._is_live(set_.id) or not await self._resolve_some(set_, page, others):
                    return
        finally:
            lock.release()

    async def _resolve_some(self, set_: CopySet, names: Names, others: Sequence[ControllerName]) -> bool:
        """Whether all others have answered."""
        claim = CopyClaim(store=set_.id, controller=set_.controller, names=spans(names))
        elsewhere, before = Names(), set_.claimed
        # From here on it may have been noted there that these count here.
        set_.claimed = before.plus(names)
        for number, name in enumerate(others):
            answer = await self._ask(name, claim)
            if not isinstance(answer, CopyClaimed) or answer.refused:
                if answer is not None and not number:
                    set_.claimed = before  # it has been noted nowhere
                return False
            elsewhere = elsewhere.plus(names_in(answer.not_))
        set_.claimed = set_.claimed.minus(names)
        await self.keeper.settle(set_, names.minus(elsewhere), elsewhere)
        self._log.info(
            "{count} segments held for {name}, which is gone, count from now on",
            count=names.minus(elsewhere).count,
            name=set_.controller,
        )
        return True
