"""Questions about logs put to three controllers, of which each has some."""

from types import SimpleNamespace

import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.log_census import NOT_COPIED
from avinet.controller.log_peers import (
    ASK_TIMEOUT_S,
    ATTEMPTS,
    STATUS_TIMEOUT_S,
    VALUES_TIMEOUT_S,
    ClusterSearch,
    StatusOfAll,
)
from avinet.controller.log_questions import (
    MAX_QUESTION_BYTES,
    AskSearch,
    AskStatus,
    LogAnswers,
    LogQuestions,
    Said,
    _Asking,
)
from avinet.controller.log_sets import SETS, STORE
from avinet.controller.log_status import LostLogs, OwnStatus, StoreStatus
from avinet.controller.peers import PEER_LOGS, NoPeers
from avinet.controller.peers_memory import PeerHub
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.exact import MAX_VALUES
from avinet.logs.query.shapes import Percentiles, Query, Top
from avinet.logs.store.errors import LogAnswerTooLargeError, LogQueryRefusedError
from avinet.model.ids import ControllerName

COUNT = Query()


class Store:
    """As much of a store as is asked: it answers what it was told to."""

    def __init__(self, *answers):
        self.answers, self.asked, self.pulled = list(answers), [], {}
        self.sets, self.lacks = [], {}
        self.values = Deferred()
        self.id = ""

    async def ask(self, query, sets=()):
        if isinstance(query.shape, Top):
            return await self.values if isinstance(self.values, Deferred) else self.values
        self.sets.append(tuple(sets))
        self.asked.append(query)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return await answer if isinstance(answer, Deferred) else answer

    def counted(self, sets):
        return {id_: self.lacks.get(id_, (0, 0)) for id_ in sets if self.lacks.get(id_, 1)}


def answering(store):
    """As a controller with this store."""

    async def searched(asked):
        answer = await store.ask(asked, asked.sets)
        return Said(answer=answer, store=store.id, counted=store.counted(asked.sets), pulled=store.pulled)

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
        self.assertFalse(why.endswith(".."), why)

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
            self.stores[name].values = Answer(results=({"status": 1.0, "count": 1},) * MAX_VALUES)
        self.stores["c"].answers = [Answer(results=({"count": 0, "p50": None},))]
        answer = self.successResultOf(self.ask(Query(shape=Percentiles("status", quantiles=(0.5,)))))
        self.assertTrue(answer.approximate)
        self.assertEqual(answer.results[0]["count"], 10)
        self.assertEqual(
            {name: len(store.asked) for name, store in self.stores.items()}, {"a": 2, "b": 2, "c": 1}
        )

    def test_values_that_are_few_make_exact_figures(self):
        for name, status in (("a", 200), ("b", 500)):
            self.stores[name].answers = [Answer(results=({"count": 1, "p50": status},))]
            self.stores[name].values = Answer(results=({"status": status, "count": 1},))
        self.stores["c"].answers = [Answer(results=({"count": 0, "p50": None},))]
        answer = self.successResultOf(self.ask(Query(shape=Percentiles("status", quantiles=(0.5,)))))
        self.assertEqual(answer, Answer(results=({"count": 2, "p50": 350.0},)))

    def test_values_that_do_not_come_in_time_or_are_too_much_leave_time_for_estimates(self):
        grid = {"count": 5, "p0": 1.0, "p50": 2.0, "p100": 3.0}
        for name in "abc":
            self.stores[name].answers = [Answer(results=({"count": 5, "p50": 1.0},)), Answer(results=(grid,))]
            self.stores[name].values = Answer(results=())
        for name in "ab":
            self.stores[name].values = Deferred()
        asking = self.ask(Query(shape=Percentiles("status", quantiles=(0.5,))))
        self.assertNoResult(asking)
        self.clock.advance(VALUES_TIMEOUT_S)
        answer = self.successResultOf(asking)
        self.assertEqual((answer.approximate, answer.missing, answer.results[0]["count"]), (True, (), 15))
        self.stores["a"].values = fail(LogAnswerTooLargeError(why="no"))
        self.stores["a"].asked.clear()
        self.stores["b"].values = Answer(results=())
        self.assertTrue(self.successResultOf(self.ask(Query(shape=Percentiles("status")))).approximate)

    def test_what_hangs_in_the_second_round_hangs_no_longer_than_the_first(self):
        grid = {"count": 5, "p0": 1.0, "p50": 2.0, "p100": 3.0}
        for name in "abc":
            self.stores[name].answers = [Answer(results=({"count": 5, "p50": 1.0},)), Answer(results=(grid,))]
            self.stores[name].values = Answer(results=({"status": 1.0, "count": 1},) * MAX_VALUES)
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
        stuck = SimpleNamespace(
            me="a",
            members=("a", "b", "c"),
            live={"b", "c"},
            said=lambda _: {},
            listen=lambda _: None,
            open=lambda *_: Deferred(),
        )
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

    def test_of_one_that_was_removed_nothing_is_heard_any_more(self):
        self.stores["b"].pulled = {"se-1": -1.0}
        self.ask()
        del self.hub._peers["b"], self.hub._peers["c"]
        self.ask()
        self.assertEqual(self.heard, {"b": {}, "c": {}})


class Copies(Case):
    """Each has a store of its name; copies of ``b``'s are with ``a`` and ``c``."""

    def setUp(self):
        super().setUp()
        for name in "abc":
            self.hub.peers(name).publish(STORE, f"store-{name}")
        self.copies("a", {"store-b": "b", "store-c": "c"})
        self.copies("c", {"store-b": "b", "store-a": "a"})

    def copies(self, name, sets):
        self.hub.peers(name).publish(SETS, sets)

    def counts(self, query=COUNT):
        for store in self.stores.values():
            store.sets = []
        answer = self.successResultOf(self.ask(query))
        return answer, {name: store.sets for name, store in self.stores.items() if store.sets}

    def test_what_lives_answers_for_itself_and_no_copies_count(self):
        answer, sets = self.counts()
        self.assertEqual((answer, sets), (Answer(count=6), {"a": [()], "b": [()], "c": [()]}))

    def test_of_one_that_is_lost_all_copies_count_and_it_is_not_missing(self):
        self.hub.cut("b")
        answer, sets = self.counts()
        self.assertEqual((answer, sets), (Answer(count=4), {"a": [("store-b",)], "c": [("store-b",)]}))

    def test_one_of_which_there_are_no_copies_is_missing(self):
        self.copies("a", {})
        self.copies("c", {})
        self.hub.cut("b")
        self.assertEqual([name for name, _ in self.missing(self.counts()[0])], ["b"])

    def test_two_that_are_lost_are_missing_for_each_may_have_copies_of_the_other(self):
        self.hub.cut("b")
        self.hub.cut("c")
        answer, sets = self.counts()
        self.assertEqual(sets, {"a": [("store-b", "store-c")]})
        (one, two) = self.missing(answer)
        self.assertEqual((one[0], two[0]), ("b", "c"))
        self.assertIn("Copies of its records may be with c, too.", one[1])

    def test_copies_of_a_removed_controller_count_always_and_are_missed_with_their_keeper(self):
        self.copies("c", {"store-b": "b", "store-x": "x"})
        self.assertEqual(self.counts()[1]["c"], [("store-x",)])
        self.hub.cut("c")
        answer, sets = self.counts()
        self.assertEqual(sets["a"], [("store-c",)])
        ((name, why),) = self.missing(answer)
        self.assertEqual(name, "c")
        self.assertIn("It has copies of records of x.", why)

    def test_copies_of_a_store_whose_ledger_was_made_anew_count_beside_the_new_one(self):
        self.hub.peers("b").publish(STORE, "store-b2")
        self.assertEqual(self.counts()[1], {"a": [("store-b",)], "b": [()], "c": [("store-b",)]})

    def test_what_was_copied_nowhere_is_missing_while_it_can_be_in_the_time(self):
        self.stores["a"].lacks["store-b"] = (9, 1_000_000)
        self.stores["c"].lacks["store-b"] = (7, 2_000_000)
        self.hub.cut("b")
        (one,) = self.counts()[0].missing
        self.assertEqual(
            (one.controller, one.records, one.until, one.why),
            ("b", 7, "1970-01-01T00:00:02.000000Z", NOT_COPIED),
        )
        self.assertEqual(self.counts(Query(since_us=2_000_001))[0].missing, ())

    def test_a_set_that_is_gone_when_it_is_asked_for_is_missing(self):
        self.stores["c"].lacks["store-b"] = ()
        self.hub.cut("b")
        ((name, why),) = self.missing(self.counts()[0])
        self.assertEqual((name, why), ("c", "its copies of records of b are gone"))

    def test_one_that_has_not_said_yet_which_store_it_has_counts_once(self):
        self.hub.peers("b").publish(STORE, None)
        self.stores["b"].id = "store-b"
        answer, sets = self.counts()
        self.assertEqual(answer, Answer(count=6))
        self.assertEqual(sets["c"], [("store-b",), ()])

    def test_of_one_whose_store_was_made_anew_meanwhile_the_older_counts_too(self):
        self.stores["b"].id = "store-b2"
        self.assertEqual(self.counts()[1]["c"], [(), ("store-b",)])

    def test_attempts_are_bounded(self):
        ids = iter(range(100))
        self.stores["b"].id = "first"
        self.stores["b"].counted = lambda _: setattr(self.stores["b"], "id", str(next(ids))) or {}
        self.counts()
        self.assertEqual(len(self.stores["a"].sets), ATTEMPTS)

    def test_of_one_that_is_lost_meanwhile_the_copies_are_asked(self):
        self.stores["b"].answers = [Deferred()]
        asking = self.ask()
        self.hub.lose("a", "b")
        self.assertEqual(self.successResultOf(asking), Answer(count=4))
        self.assertEqual(self.stores["c"].sets, [(), ("store-b",)])

    def test_one_that_hangs_and_lives_is_missing(self):
        self.stores["b"].answers = [Deferred()]
        asking = self.ask()
        self.clock.advance(ASK_TIMEOUT_S)
        answer = self.successResultOf(asking)
        self.assertEqual((answer.count, [name for name, _ in self.missing(answer)]), (4, ["b"]))

    def test_one_that_is_alone_counts_copies_of_those_that_were_removed(self):
        peers = NoPeers(ControllerName("a"))
        peers.publish(STORE, "store-a")
        peers.publish(SETS, {"store-x": "x"})
        self.search = ClusterSearch(self.stores["a"], LogQuestions(peers, self.clock))
        self.assertEqual(self.counts(), (Answer(count=1), {"a": [("store-x",)]}))


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
