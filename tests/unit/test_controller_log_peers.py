"""Questions about logs put to three controllers, of which each has some."""

from types import SimpleNamespace

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_logs import Exported
from avinet.controller.log_peers import ASK_TIMEOUT_S, STATUS_TIMEOUT_S, ClusterSearch, StatusOfAll
from avinet.controller.log_questions import (
    MAX_QUESTION_BYTES,
    AskSearch,
    AskStatus,
    LogAnswers,
    LogQuestions,
    Said,
    _Asking,
)
from avinet.controller.log_status import LostLogs, OwnStatus, StoreStatus
from avinet.controller.peers import PEER_LOGS, NoPeers
from avinet.controller.peers_memory import PeerHub
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.shapes import Percentiles, Query
from avinet.logs.store.errors import LogQueryRefusedError
from avinet.model.ids import ControllerName

COUNT = Query()


class Store:
    """As much of a store as is asked: it answers what it was told to."""

    def __init__(self, *answers):
        self.answers, self.asked, self.pulled = list(answers), [], {}

    def ask(self, query):
        self.asked.append(query)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return answer if isinstance(answer, Deferred) else succeed(answer)


def answering(store):
    """As a controller with this store."""

    async def searched(asked):
        return Said(answer=await store.ask(asked), pulled=store.pulled)

    return {AskSearch: searched}


class Case(SynchronousTestCase):
    def setUp(self):
        self.clock, self.hub = Clock(), PeerHub("a", "b", "c")
        self.stores = {name: Store(Answer(count=number)) for number, name in enumerate("abc", 1)}
        self.offered = {}
        for name, store in self.stores.items():
            answers = self.offered[name] = LogAnswers()
            answers.by_kind = answering(store)
            self.hub.peers(name).offer(PEER_LOGS, answers.build)
        self.heard = {}
        self.questions = LogQuestions(self.hub.peers("a"), self.clock)
        self.search = ClusterSearch(self.stores["a"], self.questions, self.heard.__setitem__)

    def ask(self, query=COUNT):
        return Deferred.fromCoroutine(self.search.ask(query))

    def missing(self, answer):
        return [(one.controller, one.why) for one in answer.missing]


class Asked(Case):
    def test_all_are_asked_and_their_counts_are_one(self):
        self.assertEqual(self.successResultOf(self.ask()), Answer(count=6))

    def test_alone_it_asks_its_own_store_what_was_asked(self):
        self.search = ClusterSearch(self.stores["a"], LogQuestions(NoPeers(ControllerName("a")), self.clock))
        query = Query(shape=Percentiles("status", limit=3))
        self.successResultOf(self.ask(query))
        self.assertEqual(self.stores["a"].asked, [query])

    def test_one_that_cannot_be_reached_is_named(self):
        self.hub.cut("b")
        answer = self.successResultOf(self.ask())
        self.assertEqual(answer.count, 4)
        ((name, why),) = self.missing(answer)
        self.assertEqual(name, "b")
        self.assertIn("cannot be reached", why)

    def test_one_that_goes_away_meanwhile_is_named(self):
        self.stores["c"].answers = [Deferred()]
        asking = self.ask()
        self.assertNoResult(asking)
        self.hub.cut("c")
        answer = self.successResultOf(asking)
        self.assertEqual((answer.count, [name for name, _ in self.missing(answer)]), (3, ["c"]))

    def test_one_that_takes_too_long_is_named_and_asked_no_longer(self):
        ended = []
        self.stores["c"].answers[0] = Deferred(ended.append)
        asking = self.ask()
        self.clock.advance(ASK_TIMEOUT_S)
        self.assertEqual(self.missing(self.successResultOf(asking))[0][0], "c")
        self.assertEqual(len(ended), 1)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_one_that_has_no_store_yet_is_named(self):
        self.offered["b"].by_kind = {}
        ((name, why),) = self.missing(self.successResultOf(self.ask()))
        self.assertEqual(name, "b")
        self.assertIn("is starting", why)

    def test_what_others_have_and_not_stored_yet_is_said_to_be_theirs(self):
        late = Missing(se="", se_uuid="", segments=3, why="waits to be stored")
        self.stores["b"].answers = [Answer(count=0, missing=(late,))]
        self.assertEqual(self.missing(self.successResultOf(self.ask())), [("b", "waits to be stored")])

    def test_a_wrong_question_is_the_askers_error(self):
        self.stores["a"].answers = [fail(LogQueryRefusedError(why="no"))]
        self.failureResultOf(self.ask(), LogQueryRefusedError)

    def test_those_that_have_something_are_asked_again_where_that_is_needed(self):
        row = {"count": 5, "p50": 1.0}
        grid = {"count": 5, "p0": 1.0, "p50": 2.0, "p100": 3.0}
        for name in "ab":
            self.stores[name].answers = [Answer(results=(row,)), Answer(results=(grid,))]
        self.stores["c"].answers = [Answer(results=({"count": 0, "p50": None},))]
        answer = self.successResultOf(self.ask(Query(shape=Percentiles("status", quantiles=(0.5,)))))
        self.assertTrue(answer.approximate)
        self.assertEqual(answer.results[0]["count"], 10)
        self.assertEqual(
            {name: len(store.asked) for name, store in self.stores.items()}, {"a": 2, "b": 2, "c": 1}
        )

    def test_what_hangs_in_the_second_round_hangs_no_longer_than_the_first(self):
        grid = {"count": 5, "p0": 1.0, "p50": 2.0, "p100": 3.0}
        for name in "abc":
            self.stores[name].answers = [Answer(results=({"count": 5, "p50": 1.0},)), Answer(results=(grid,))]
        first = self.stores["b"].answers[0]
        self.stores["b"].answers = [Deferred(), Deferred()]
        asking = self.ask(Query(shape=Percentiles("status", quantiles=(0.5,))))
        self.clock.advance(ASK_TIMEOUT_S - 1)
        self.stores["b"].answers[0].callback(first)
        self.assertNoResult(asking)
        self.clock.advance(1)
        answer = self.successResultOf(asking)
        self.assertEqual((answer.results[0]["count"], self.missing(answer)[0][0]), (10, "b"))

    def test_a_way_that_never_opens_is_not_waited_for_for_ever(self):
        stuck = SimpleNamespace(me="a", members=("a", "b", "c"), open=lambda *_: Deferred())
        self.search = ClusterSearch(self.stores["a"], LogQuestions(stuck, self.clock))
        asking = self.ask()
        self.clock.advance(ASK_TIMEOUT_S)
        answer = self.successResultOf(asking)
        self.assertEqual((answer.count, [name for name, _ in self.missing(answer)]), (1, ["b", "c"]))

    def test_what_their_pulls_make_of_spools_is_heard_and_forgotten_with_them(self):
        self.stores["b"].pulled = {"se-1": 0.5}
        self.ask()
        self.assertEqual(self.heard, {"b": {"se-1": 0.5}, "c": {}})
        self.hub.cut("b")
        self.ask()
        self.assertEqual(self.heard, {"b": {}, "c": {}})


class Statuses(Case):
    def setUp(self):
        super().setUp()
        self.own = {name: self.status(number) for number, name in enumerate("abc", 1)}
        for name in "bc":
            self.offered[name].by_kind = {AskStatus: lambda _, name=name: self.said(name)}

    async def said(self, name):
        own = self.own[name]
        return Said(status=own) if isinstance(own, OwnStatus) else await own

    def status(self, records, *drops):
        store = StoreStatus(
            records=records, bytes=0, files=0, since="", until="", waiting_segments=0, waiting_bytes=0
        )
        return OwnStatus(store=store, drops=drops)

    def lost(self, at, records=1, se="se-1"):
        return LostLogs(
            se=se, at=at, reason="torn", log_class="full", vs="", since="", until="", records=records, bytes=0
        )

    def told(self):
        async def own():
            return self.own["a"]

        return Deferred.fromCoroutine(StatusOfAll(own, self.questions).told(()))

    def test_each_controller_has_a_row(self):
        found = self.successResultOf(self.told())
        self.assertEqual(found.store.records, 1)
        self.assertEqual(
            [(row.controller, row.store.records) for row in found.controllers],
            [("a", 1), ("b", 2), ("c", 3)],
        )

    def test_one_that_hangs_is_named_in_time(self):
        self.own["b"] = Deferred()
        told = self.told()
        self.clock.advance(STATUS_TIMEOUT_S)
        row = self.successResultOf(told).controllers[1]
        self.assertIn("not within 5 s", row.why)
        self.assertIsNone(row.store)

    def test_what_an_engine_lost_it_tells_all_and_it_counts_once(self):
        self.own["a"] = self.status(1, self.lost("2"), self.lost("1"))
        self.own["b"] = self.status(1, self.lost("3", se=""), self.lost("2"))
        found = self.successResultOf(self.told())
        self.assertEqual(
            [(drop.at, drop.se) for drop in found.drops], [("3", ""), ("2", "se-1"), ("1", "se-1")]
        )


class Exports(Case):
    def test_an_export_says_how_many_controllers_are_not_in_it(self):
        self.stores["a"].export = lambda query, kind: succeed(Exported(None, 1, 1))
        made = self.successResultOf(Deferred.fromCoroutine(self.search.export(COUNT, "csv")))
        self.assertEqual(made.missing, 2)


class Strange(Case):
    def put(self, data):
        asking = _Asking(data)
        self.successResultOf(self.hub.peers("b").open(ControllerName("a"), PEER_LOGS, asking))
        return asking.answer

    def test_what_is_no_question_is_answered_so(self):
        said = msgspec.msgpack.decode(self.successResultOf(self.put(b"\xc1")))
        self.assertIn("does not understand", said["why"])

    def test_a_query_of_a_version_before_is_answered_and_ours_is_one_to_it(self):
        said = msgspec.msgpack.decode(self.successResultOf(self.put(msgspec.msgpack.encode(COUNT))))
        self.assertEqual(said["answer"]["count"], 1)
        ours = msgspec.msgpack.encode(AskSearch(shape=Percentiles("status")))
        self.assertEqual(msgspec.msgpack.decode(ours, type=Query), Query(shape=Percentiles("status")))

    def test_what_came_later_is_no_query_to_a_version_before(self):
        with self.assertRaises(msgspec.ValidationError):
            msgspec.msgpack.decode(msgspec.msgpack.encode(AskStatus()), type=Query)

    def test_a_question_of_absurd_length_is_cut(self):
        self.failureResultOf(self.put(bytes(MAX_QUESTION_BYTES + 1)), ConnectionError)
        self.assertEqual(self.stores["a"].asked, [])

    def test_one_that_does_not_wait_for_its_answer_is_not_worked_for(self):
        ended = []
        self.stores["a"].answers[0] = Deferred(ended.append)
        self.put(msgspec.msgpack.encode(Query())).addErrback(lambda _: None)
        self.hub.cut("b")
        self.assertEqual(len(ended), 1)
