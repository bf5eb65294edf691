"""Request logs that other controllers have: each is asked the same, and one answer is made of all.

One that cannot be asked is named in the answer as missing; what is wrong with a question is found out here first.
"""

from collections.abc import Awaitable, Callable, Sequence

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from avinet.controller.api_logs import Exported, LogSearch
from avinet.controller.log_questions import AskSearch, AskStatus, LogQuestions
from avinet.controller.log_status import ControllerStore, LogsStatus, OwnStatus, drops_of
from avinet.controller.log_whereabouts import EngineLogs, Pulled
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.merged import again, has_rows, merged, question
from avinet.logs.query.shapes import Query
from avinet.model.ids import ControllerName

ASK_TIMEOUT_S = 100.0
"""For all that one answer takes; below the 120 s that whoever asks waits."""
STATUS_TIMEOUT_S = 5.0
"""A controller looks into its ledger."""
SHOWN_DROPS = 100


@attrs.frozen(eq=False)
class ClusterSearch:
    """The records of all controllers; with one controller, of ``own`` alone."""

    own: LogSearch
    questions: LogQuestions
    heard: Callable[[ControllerName, Pulled], None] = lambda name, pulled: None
    """Told what the pulls of each of the others make of spools."""

    async def ask(self, query: Query) -> Answer:
        """One answer; ``missing`` names the controllers whose records are not in it."""
        others = self.questions.others
        if not others:
            return await self.own.ask(query)
        names = (self.questions.peers.me, *others)
        ends = self.questions.clock.seconds() + ASK_TIMEOUT_S
        answers = await self._ask_all(names, question(query), ends)
        finer = again(query, answers)
        if finer is not None:
            having = [name for name, answer in zip(names, answers, strict=True) if has_rows(answer)]
            lacking = [answer for answer in answers if not has_rows(answer)]
            answers = [*await self._ask_all(having, finer, ends), *lacking]
        return merged(query, answers)

    async def _ask_all(self, names: Sequence[ControllerName], query: Query, ends: float) -> list[Answer]:
        asking = [Deferred.fromCoroutine(self._ask_one(name, query, ends)) for name in names]
        answers: list[Answer] = await gatherResults(asking, consumeErrors=True).addErrback(_first_cause)
        return answers

    async def _ask_one(self, name: ControllerName, query: Query, ends: float) -> Answer:
        if name == self.questions.peers.me:
            return _of(name, await self.own.ask(query))
        left_s = max(0.0, ends - self.questions.clock.seconds())
        said = await self.questions.ask(name, _asked(query), left_s)
        self.heard(name, said.pulled)
        if said.answer is None:
            return Answer(missing=(Missing(se="", se_uuid="", controller=name, why=said.why),))
        return _of(name, said.answer)

    def check(self, query: Query) -> Awaitable[None]:
        """Engines are alike."""
        return self.own.check(query)

    async def export(self, query: Query, kind: str) -> Exported:
        """Of this controller's records."""
        made = await self.own.export(query, kind)
        return attrs.evolve(made, missing=len(self.questions.others))


def _asked(query: Query) -> AskSearch:
    return AskSearch(filter=query.filter, since_us=query.since_us, until_us=query.until_us, shape=query.shape)


def _first_cause(failure: Failure) -> Failure:
    """What was wrong, rather than that something was."""
    sub = getattr(failure.value, "subFailure", None)
    return sub if isinstance(sub, Failure) else failure


def _of(name: ControllerName, answer: Answer) -> Answer:
    return msgspec.structs.replace(
        answer, missing=tuple(msgspec.structs.replace(one, controller=name) for one in answer.missing)
    )


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
            ControllerStore(controller=name, why=one.why)
            if one.status is None
            else ControllerStore(controller=name, store=one.status.store)
            for name, one in said.items()
        ]
        if others:
            rows.append(ControllerStore(controller=self.questions.peers.me, store=own.store))
        known = [own, *(one.status for one in said.values() if one.status is not None)]
        return LogsStatus(
            store=own.store,
            controllers=tuple(sorted(rows, key=lambda row: row.controller)),
            service_engines=tuple(engines),
            drops=drops_of(known, SHOWN_DROPS),
        )
