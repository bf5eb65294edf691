"""One client's stream of what comes into the stores of three controllers."""

import json
from types import SimpleNamespace
from urllib.parse import quote

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_logs import LogApi
from avinet.controller.log_questions import AskTail, LogAnswers, LogQuestions
from avinet.controller.log_tail import Arrivals
from avinet.controller.log_tail_cluster import GRACE_S, RETRY_S, WAIT_S, TailAnswers, Tails
from avinet.controller.peers import PEER_LOGS
from avinet.controller.peers_memory import PeerHub
from avinet.rest.router import Router
from tests.unit.log_query_kit import NOW_US
from tests.unit.rest_client import Client, Known, request_bytes
from tests.unit.test_controller_api_logs import Store, record


class TailCase(SynchronousTestCase):
    def setUp(self):
        self.clock, self.hub = Clock(), PeerHub("a", "b", "c")
        self.clock.rightNow = NOW_US / 1e6
        self.stores, self.arrivals, self.answers = {}, {}, {}
        for name in "abc":
            store = self.stores[name] = Store()
            self.arrivals[name] = Arrivals(store, self.clock.seconds)
            self.answers[name] = LogAnswers()
            self.answers[name].by_kind = {AskTail: TailAnswers(self.arrivals[name], self.clock).answer}
            self.hub.peers(name).offer(PEER_LOGS, self.answers[name].build)
        tails = Tails(self.arrivals["a"], LogQuestions(self.hub.peers("a"), self.clock))
        where = SimpleNamespace(missing=lambda *_: ())
        api = LogApi(self.stores["a"], where, tails, None, None, self.clock, self.clock.seconds)
        self.client = Client(Router(api.routes(), self.clock, Known("olga")), self.clock)

    def follow(self, last=None, status=200, **query):
        pairs = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
        headers = {} if last is None else {"Last-Event-ID": last}
        connection = self.client.connect()
        connection.send(request_bytes("GET", f"/api/logs/tail?{pairs}", headers=headers))
        self.addCleanup(connection.lose)
        self.assertIn(f"HTTP/1.1 {status}".encode(), connection.transport.value())
        return connection

    def come(self, name, file, *paths, **about):
        self.stores[name].files[file] = [record(path=path, time=NOW_US + n) for n, path in enumerate(paths)]
        self.arrivals[name].stored(file, **about)

    def seen(self, connection):
        data = [line[6:] for line in connection.transport.value().split(b"\n") if line.startswith(b"data: ")]
        connection.transport.clear()
        return [json.loads(line) for line in data]

    def paths(self, connection):
        return [row["path"] for row in self.seen(connection)]


class Tailing(TailCase):
    def test_records_of_all_are_told_as_they_come_and_each_once(self):
        self.come("b", "old", "/old")
        connection = self.follow()
        self.come("b", "1", "/b1", "/b2")
        self.come("a", "1", "/a1")
        self.come("c", "1", "/c1")
        self.come("b", "2", "/b3")
        self.assertEqual(self.paths(connection), ["/b1", "/b2", "/a1", "/c1", "/b3"])

    def test_a_client_comes_back_to_where_it_was_at_each(self):
        connection = self.follow()
        self.come("b", "1", "/b1", "/b2")
        self.come("a", "1", "/a1", "/a2")
        second = self.seen(connection)[2]
        self.assertEqual(second["path"], "/a1")
        connection.lose()
        self.come("c", "1", "/c1")
        self.come("b", "2", "/b3")
        again = self.follow(last=second["id"])
        self.assertEqual(sorted(self.paths(again)), ["/a2", "/b3", "/c1"])

    def test_a_number_alone_is_of_the_one_that_is_asked(self):
        self.come("b", "1", "/b1")
        self.come("a", "1", "/a1")
        self.assertEqual(self.paths(self.follow(since=1)), ["/a1"])
        for wrong in ("a:", "x", "a:1,b", "1" * 20):
            self.follow(since=wrong, status=400)

    def test_many_records_come_page_by_page(self):
        connection = self.follow()
        self.come("b", "1", *(f"/{n:03d}" for n in range(250)))
        self.assertEqual(self.paths(connection), [f"/{n:03d}" for n in range(250)])

    def test_a_client_that_takes_nothing_has_one_page_of_each_waiting(self):
        connection = self.follow()
        connection.channel.pauseProducing()
        for number in range(5):
            self.come("b", f"{number}", *(f"/{number}/{n}" for n in range(100)))
        self.assertLess(len(self.stores["b"].asked), 5)
        self.seen(connection)
        connection.channel.resumeProducing()
        self.clock.advance(0)
        self.assertGreaterEqual(len(self.paths(connection)), 400)

    def test_who_cannot_be_asked_is_told_once_and_once_that_it_can_again(self):
        connection = self.follow()
        self.hub.cut("b")
        for _ in range(3):
            self.clock.advance(RETRY_S)
        (gone,) = self.seen(connection)
        self.assertEqual((gone["controller"], set(gone)), ("b", {"id", "controller", "why"}))
        self.come("b", "1", "/meanwhile")
        self.hub.heal("b")
        self.clock.advance(RETRY_S)
        (back, record_) = self.seen(connection)
        self.assertEqual((back["controller"], back["why"], record_["path"]), ("b", "", "/meanwhile"))

    def test_one_that_hangs_is_told_in_time_and_holds_up_nobody(self):
        self.answers["b"].by_kind = {AskTail: lambda _: Deferred()}
        connection = self.follow()
        self.come("c", "1", "/c1")
        self.assertEqual(self.paths(connection), ["/c1"])
        self.clock.advance(WAIT_S + GRACE_S)
        self.assertEqual([one["controller"] for one in self.seen(connection)], ["b"])

    def test_nothing_for_long_is_asked_for_again(self):
        connection = self.follow()
        for _ in range(5):
            self.clock.advance(WAIT_S)
        self.come("b", "1", "/b1")
        self.assertEqual(self.paths(connection), ["/b1"])

    def test_it_leaves_no_trace(self):
        connection = self.follow()
        connection.lose()
        self.assertEqual([one._woken for one in self.arrivals.values()], [[], [], []])
        self.assertEqual(self.answers["b"]._under_way[True], 0)
