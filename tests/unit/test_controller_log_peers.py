"""Questions about logs put to three controllers, of which each has some."""

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_logs import Exported
from avinet.controller.log_peers import ASK_TIMEOUT_S, MAX_QUESTION_BYTES, ClusterSearch, LogAnswers, _Asking
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
        self.answers, self.asked = list(answers), []

    def ask(self, query):
        self.asked.append(query)
        answer = self.answers[min(len(self.asked), len(self.answers)) - 1]
        return answer if isinstance(answer, Deferred) else succeed(answer)


class Case(SynchronousTestCase):
    def setUp(self):
        self.clock, self.hub = Clock(), PeerHub("a", "b", "c")
        self.stores = {name: Store(Answer(count=number)) for number, name in enumerate("abc", 1)}
        self.offered = {}
        for name, store in self.stores.items():
            answers = self.offered[name] = LogAnswers()
            answers.search = store
            self.hub.peers(name).offer(PEER_LOGS, answers.build)
        self.search = ClusterSearch(self.stores["a"], self.hub.peers("a"), self.clock)

    def ask(self, query=COUNT):
        return Deferred.fromCoroutine(self.search.ask(query))

    def missing(self, answer):
        return [(one.controller, one.why) for one in answer.missing]


class Asked(Case):
    def test_all_are_asked_and_their_counts_are_one(self):
        self.assertEqual(self.successResultOf(self.ask()), Answer(count=6))

    def test_alone_it_asks_its_own_store_what_was_asked(self):
        self.search = ClusterSearch(self.stores["a"], NoPeers(ControllerName("a")), self.clock)
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
        self.offered["b"].search = None
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

    def test_a_question_of_absurd_length_is_cut(self):
        self.failureResultOf(self.put(bytes(MAX_QUESTION_BYTES + 1)), ConnectionError)
        self.assertEqual(self.stores["a"].asked, [])

    def test_one_that_does_not_wait_for_its_answer_is_not_worked_for(self):
        ended = []
        self.stores["a"].answers[0] = Deferred(ended.append)
        self.put(msgspec.msgpack.encode(Query())).addErrback(lambda _: None)
        self.hub.cut("b")
        self.assertEqual(len(ended), 1)
