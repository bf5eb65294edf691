"""Request logs that other controllers have: each is asked the same, and one answer is made of all.

One that cannot be asked is named in the answer as missing; what is wrong with a question is found out here first.
"""

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.defer import Deferred

from avinet.controller.api_logs import LogSearch
from avinet.controller.log_census import Census, KeptSets, Learnt, Tally, census, missing_of
from avinet.controller.log_questions import AskSearch, AskStatus, LogQuestions
from avinet.controller.log_status import ControllerStore, LogsStatus, OwnStatus, drops_of
from avinet.controller.log_whereabouts import EngineLogs, Pulled
from avinet.controller.together import together
from avinet.errors import AvinetError
from avinet.logs.query.answers import Answer
from avinet.logs.query.exact import Values, value_queries, values_of
from avinet.logs.query.merged import again, has_rows, merged, question
from avinet.logs.query.shapes import Query
from avinet.model.ids import ControllerName

ASK_TIMEOUT_S = 100.0
"""For all that one answer takes; below the 120 s that whoever asks waits."""
ATTEMPTS = 3
"""At one answer: the first finds out who is gone or has another store, the second what became of those meanwhile."""
VALUES_TIMEOUT_S = 20.0
"""For the values of one field, so that time is left for estimates."""
STATUS_TIMEOUT_S = 5.0
"""A controller looks into its ledger."""
SHOWN_DROPS = 100


class OwnSearch(LogSearch, Protocol):
    """This controller's store, with copy sets that it has of others'."""

    def ask(self, query: Query, sets: Sequence[str] = ()) -> Coroutine[Any, Any, Answer]:
        """From both."""

    def counted(self, sets: Sequence[str]) -> dict[str, tuple[int, int]]:
        """As ``Said`` has it."""


@attrs.frozen(eq=False)
class ClusterSearch:
    """The records of all controllers; with one controller, of ``own`` alone."""

    own: OwnSearch
    questions: LogQuestions
    heard: Callable[[ControllerName, Pulled], None] = lambda name, pulled: None
    """Told what the pulls of each of the others make of spools."""
    kept: KeptSets = attrs.field(factory=KeptSets)
    _hearing: set[ControllerName] = attrs.field(factory=set, init=False)
    """Of whom something was heard, or may have been."""

    def __attrs_post_init__(self) -> None:
        self.questions.peers.listen(self.kept)

    async def ask(self, query: Query) -> Answer:
        """One answer; ``missing`` names the controllers whose records are not in it."""
        ends, learnt = self.questions.clock.seconds() + ASK_TIMEOUT_S, Learnt()
        for attempt in range(1, ATTEMPTS + 1):
            found = self.census(learnt)
            for name in self._hearing - found.asked.keys():
                self.heard(name, {})
            self._hearing.clear()
            self._hearing.update(found.asked)
            if found.alone:
                return await self.own.ask(query)
            asking = _Asking(self, Tally(found), ends)
            answer = await asking.answer(query)
            late = self.questions.clock.seconds() > ends - ASK_TIMEOUT_S / 2
            if attempt == ATTEMPTS or not asking.learn(learnt, late=late):
                break
        return answer

    def census(self, learnt: Learnt) -> Census:
        """Who is to be asked now."""
        self.kept.keep(self.questions.peers.members)
        return census(self.questions.peers, self.kept.by_controller, learnt)

    def check(self, query: Query) -> Awaitable[None]:
        """Engines are alike."""
        return self.own.check(query)


@attrs.define(eq=False)
class _Asking:
    """One answer, of those that a census names."""

    search: ClusterSearch
    tally: Tally
    ends: float

    async def answer(self, query: Query) -> Answer:
        names = tuple(self.tally.census.asked)
        answers = await self._ask_all(names, question(query))
        having = [name for name, answer in zip(names, answers, strict=True) if has_rows(answer)]
        exact = await self._values(having, query) if len(having) > 1 else {}
        finer = again(query, answers, exact)
        if finer is not None:
            lacking = [answer for answer in answers if not has_rows(answer)]
            answers = [*await self._ask_all(having, finer), *lacking]
        whole = merged(query, answers, exact)
        return msgspec.structs.replace(whole, missing=(*whole.missing, *self.tally.missing(query)))

    async def _values(self, names: Sequence[ControllerName], query: Query) -> dict[str, Values]:
        """Of the fields of which nobody has too many; of the others there are estimates."""
        found = {}
        for field, asked in value_queries(query).items():
            said = await together(self._value_answer(name, asked) for name in names)
            if None in said:
                continue
            values = values_of(query, field, [one for one in said if one is not None])
            if values is not None:
                found[field] = values
        return found

    async def _value_answer(self, name: ControllerName, query: Query) -> Answer | None:
        questions, sets = self.search.questions, self.tally.census.asked[name]
        left_s = min(VALUES_TIMEOUT_S, max(0.0, self.ends - questions.clock.seconds()))
        if name != questions.peers.me:
            return (await questions.ask(name, _asked(query, sets), left_s)).answer
        asking = Deferred.fromCoroutine(self.search.own.ask(query, sets))
        try:
            return await asking.addTimeout(left_s, questions.clock, onTimeoutCancel=lambda *_: None)
        except AvinetError:
            # Too much for it: so there are estimates.
            return None

    def learn(self, learnt: Learnt, *, late: bool) -> bool:
        """What makes another attempt worth it: who has another store than was thought, so that something counted twice or
        not at all; and, where it is not ``late``, who is lost and has its copies asked instead.
        """
        live = self.search.questions.peers.live
        lost = {name: why for name, why in self.tally.failed.items() if name not in live}
        learnt.stores |= self.tally.moved
        learnt.lost |= {} if late else lost
        return bool(self.tally.moved or (lost and not late))

    async def _ask_all(self, names: Sequence[ControllerName], query: Query) -> list[Answer]:
        return await together(self._ask(name, query) for name in names)

    async def _ask(self, name: ControllerName, query: Query) -> Answer:
        questions, sets = self.search.questions, self.tally.census.asked[name]
        if name == questions.peers.me:
            answer, counted = await self.search.own.ask(query, sets), self.search.own.counted(sets)
            store = ""
        else:
            said = await questions.ask(
                name, _asked(query, sets), max(0.0, self.ends - questions.clock.seconds())
            )
            self.search.heard(name, said.pulled)
            if said.answer is None:
                self.tally.failed[name] = said.why
                return Answer()
            answer, counted, store = said.answer, said.counted, said.store
        self.tally.count(name, counted, store)
        return _of(name, answer)


def _asked(query: Query, sets: tuple[str, ...]) -> AskSearch:
    return AskSearch(
        filter=query.filter, since_us=query.since_us, until_us=query.until_us, shape=query.shape, sets=sets
    )


def _of(name: ControllerName, answer: Answer) -> Answer:
    return msgspec.structs.replace(answer, missing=missing_of(name, answer.missing))


@attrs.frozen(eq=False)
class StatusOfAll:
    """What all controllers have; ``own`` is this one's."""

    own: Callable[[], Awaitable[OwnStatus]]
    questions: LogQuestions

    async def told(self, engines: Sequence[EngineLogs]) -> LogsStatus:
        """With what SEs said, which they say to every controller."""
        others = self.questions.others
        asking = self.questions.ask_all(((name, AskStatus()) for name in others), STATUS_TIMEOUT_S)
        waiting = Deferred.fromCoroutine(asking)
        own, said = await self.own(), await waiting
        rows = [
            ControllerStore(controller=name, why=one.why) if one.status is None else _row(name, one.status)
            for name, one in said.items()
        ]
        if others or own.copies:
            rows.append(_row(self.questions.peers.me, own))
        known = [own, *(one.status for one in said.values() if one.status is not None)]
        return LogsStatus(
            store=own.store,
            controllers=tuple(sorted(rows, key=lambda row: row.controller)),
            service_engines=tuple(engines),
            drops=drops_of(known, SHOWN_DROPS),
        )


def _row(name: ControllerName, own: OwnStatus) -> ControllerStore:
    return ControllerStore(
        controller=name,
        store=own.store,
        store_id=own.store_id,
        uncopied=own.uncopied,
        copies=own.copies,
    )
