"""The routes for pulls, through the real Site."""

import json

from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_pulls import PullApi
from avinet.controller.engine_errors import EngineNotFoundError
from avinet.controller.log_questions import AskPulls, LogAnswers, LogQuestions, Said
from avinet.controller.peers import PEER_LOGS, NoPeers
from avinet.controller.peers_memory import PeerHub
from avinet.controller.pull_cluster import LIST_TIMEOUT_S, PullsOfAll
from avinet.controller.pull_records import PullOrder, PullState, PullUnknownError, PullView, ShareView
from avinet.controller.pull_rows import PullFleet, PullRows
from avinet.model.ids import ControllerName, ObjectId, SeId
from avinet.model.logs import LogClass, Selection
from avinet.rest.route import Response
from avinet.rest.router import Router
from tests.unit.log_query_kit import NOW_US
from tests.unit.rest_client import Client, Known, request_bytes

SE_1, SE_2 = SeId("se-1111"), SeId("se-2222")
WEB = ObjectId("virtualservice-00000000-0000-7000-8000-000000000001")
HOUR_US = 3_600_000_000


class Pulls:
    """What was asked for, and one pull to show."""

    def __init__(self):
        self.orders, self.done = [], []
        self.view = None

    async def create(self, order):
        self.orders.append(order)
        self.view = PullView(id=1, order=order, at=NOW_US / 1e6, state=PullState.WAITING, shares=())
        return self.view

    def all(self):
        return (self.view,) if self.view else ()

    def get(self, pull):
        if self.view is None or pull != self.view.id:
            raise PullUnknownError(pull=pull)
        return self.view

    async def pause(self, number):
        return self.changed("pause", number)

    async def resume(self, number):
        return self.changed("resume", number)

    async def cancel(self, number):
        return self.changed("cancel", number)

    def changed(self, name, number):
        view = self.get(number)
        self.done.append((name, number))
        return view


class PullApiTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.pulls = Pulls()
        self.arrived, self.waiting, self.engines = 5, True, [(SE_1, "se-1"), (SE_2, "se-2")]
        fleet = PullFleet(
            lambda: self.engines,
            self.engine,
            dict(self.engines).get,
            lambda se: se == SE_1,
            lambda name: WEB if name == "web" else None,
            lambda uuid: "web" if uuid == WEB else uuid,
        )
        questions = LogQuestions(NoPeers(ControllerName("a")), self.clock)
        rows = PullRows(
            fleet,
            ControllerName("a"),
            lambda: False,
            lambda: succeed(self.arrived),
            lambda arrival: succeed(self.waiting and arrival == 5),
        )
        cluster = PullsOfAll(questions, lambda: rows.all(self.pulls.all()), self.pulls.get, None)
        api = PullApi(self.pulls, rows, cluster, lambda: NOW_US / 1e6)
        self.guard = Known("olga")
        self.client = Client(Router(api.routes(), self.clock, self.guard), self.clock)

    def engine(self, name):
        for uuid, known in self.engines:
            if name in {uuid, known}:
                return uuid
        raise EngineNotFoundError(se=name)

    def post(self, path="", status=201, **wish):
        answer = self.client("POST", f"/api/logs/pull{path}", body=json.dumps(wish).encode())
        self.assertEqual(answer.status, status, answer.body)
        return answer

    def show(self, state, *shares, stored_yet=None):
        order = PullOrder(by="olga", engines=(SE_1, SE_2), selection=Selection(services=(WEB,)))
        self.pulls.view = PullView(id=3, order=order, at=1.0, state=state, shares=shares)
        return self.client("GET", "/api/logs/pull/3").json

    def test_a_wish_becomes_an_order_to_every_engine(self):
        answer = self.post(since="1h")
        self.assertEqual((answer.headers["location"], answer.json["state"]), ("/api/logs/pull/1", "waiting"))
        order = self.pulls.orders[0]
        self.assertEqual((order.by, order.engines), ("olga", (SE_1, SE_2)))
        self.assertEqual(order.selection, Selection(since_us=NOW_US - HOUR_US))
        self.assertEqual(self.guard.accesses[-1].reads, False)

    def test_a_wish_may_name_who_what_and_how_much(self):
        self.post(
            since="2h", until="1h", vs=["web"], se=["se-2"], classes=["full"], byte_limit="2GiB", rate=1_000
        )
        order = self.pulls.orders[0]
        self.assertEqual((order.engines, order.byte_limit, order.rate), ((SE_2,), 2 * 2**30, 1_000))
        self.assertEqual(
            order.selection,
            Selection(
                services=(WEB,),
                classes=(LogClass.FULL,),
                since_us=NOW_US - 2 * HOUR_US,
                until_us=NOW_US - HOUR_US,
            ),
        )

    def test_one_that_is_deleted_has_logs_still(self):
        self.post(since="1h", vs=[WEB])
        self.assertEqual(self.pulls.orders[0].selection.services, (WEB,))

    def test_wishes_that_cannot_be_are_refused_by_field(self):
        for wish, status, where in (
            ({}, 400, "since"),
            ({"since": "yesterday"}, 400, "since"),
            ({"since": "1h", "until": "2h"}, 400, "until"),
            ({"since": "1h", "rate": "fast"}, 400, "rate"),
            ({"since": "1h", "byte_limit": -1}, 400, "byte_limit"),
            ({"since": "1h", "classes": []}, 400, "classes"),
            ({"since": "1h", "classes": ["half"]}, 400, "classes"),
            ({"since": "1h", "vs": ["none"]}, 404, "none"),
            ({"since": "1h", "se": ["none"]}, 404, "none"),
            ({"since": "1h", "vz": ["web"]}, 400, "vz"),
        ):
            self.assertIn(where, self.post(status=status, **wish).json["detail"], wish)
        self.engines = []
        self.post(status=409, since="1h")
        self.assertEqual(self.pulls.orders, [])

    def test_progress_is_the_sum_of_what_the_engines_say(self):
        one = ShareView(
            se=SE_1, state=PullState.RUNNING, segments=1, records=10, size=100, rate=50.0, left_s=6.0,
            segments_in_all=4, records_in_all=40, size_in_all=400,
        )  # fmt: skip
        two = ShareView(se=SE_2, state=PullState.DONE, segments=2, records=20, size=200, limited=True)
        found = self.show(PullState.RUNNING, one, two)
        self.assertEqual((found["bytes"], found["bytes_total"], found["records_total"]), (300, 600, 60))
        self.assertEqual((found["rate_bytes_per_s"], found["left_s"], found["stored"]), (50.0, 6.0, False))
        self.assertEqual([part["connected"] for part in found["service_engines"]], [True, False])
        self.assertEqual(found["vs"], ["web"])
        self.assertEqual(self.client("GET", "/api/logs/pull").json["count"], 1)

    def test_totals_are_not_known_until_every_engine_has_said_them(self):
        one = ShareView(se=SE_1, state=PullState.RUNNING, size=100, size_in_all=400, rate=50.0, left_s=6.0)
        two = ShareView(se=SE_2, state=PullState.WAITING)
        found = self.show(PullState.RUNNING, one, two)
        self.assertEqual((found["bytes_total"], found["left_s"]), (None, None))

    def test_what_came_counts_as_stored_once_the_store_has_it_and_for_ever(self):
        done = ShareView(se=SE_1, state=PullState.DONE)
        self.assertFalse(self.show(PullState.DONE, done)["stored"])
        self.arrived = 9  # of another pull
        self.waiting = False
        self.assertTrue(self.show(PullState.DONE, done)["stored"])
        self.waiting = True
        self.assertTrue(self.show(PullState.DONE, done)["stored"])

    def test_why_a_part_failed_is_told_with_its_name(self):
        failed = ShareView(se=SE_2, state=PullState.FAILED, why="the service engine was deleted")
        self.assertEqual(self.show(PullState.FAILED, failed)["why"], "se-2: the service engine was deleted")

    def test_pulls_are_paused_resumed_and_cancelled_by_number(self):
        self.post(since="1h")
        for name in ("pause", "resume", "cancel"):
            self.assertEqual(self.post(f"/1/{name}", 200).json["id"], 1)
        self.assertEqual(self.pulls.done, [("pause", 1), ("resume", 1), ("cancel", 1)])
        for number in ("2", "x", "9" * 30, "-1"):
            self.post(f"/{number}/cancel", 404)
            self.assertEqual(self.client("GET", f"/api/logs/pull/{number}").status, 404)


class ClusterTests(SynchronousTestCase):
    """Three controllers; ``a`` is asked."""

    def setUp(self):
        self.clock, self.hub, self.pulls, self.handed = Clock(), PeerHub("a", "b", "c"), {}, []
        self.answers = {name: LogAnswers() for name in "abc"}
        for name in "abc":
            self.hub.peers(name).offer(PEER_LOGS, self.answers[name].build)
            rows = self.make(name)
            self.answers[name].by_kind = {AskPulls: self.told(rows, self.pulls[name])}

    def told(self, rows, pulls):
        async def told(_):
            return Said(pulls=await rows.all(pulls.all()))

        return told

    def make(self, name):
        pulls = self.pulls[name] = Pulls()
        fleet = PullFleet(tuple, SeId, str, bool, ObjectId, str)
        rows = PullRows(
            fleet, ControllerName(name), lambda: True, lambda: succeed(0), lambda _: succeed(False)
        )
        if name == "a":
            questions = LogQuestions(self.hub.peers(name), self.clock)
            cluster = PullsOfAll(questions, lambda: rows.all(pulls.all()), pulls.get, self.hand_on)
            api = PullApi(pulls, rows, cluster, lambda: NOW_US / 1e6)
            self.client = Client(Router(api.routes(), self.clock, Known("olga")), self.clock)
        return rows

    async def hand_on(self, name, request):
        self.handed.append((name, request.path, request.target))
        return Response(body={})

    def has(self, name, number, at=1.0):
        order = PullOrder(by="olga", engines=(), selection=Selection())
        self.pulls[name].view = PullView(id=number, order=order, at=at, state=PullState.DONE, shares=())

    def get(self, path="", status=200):
        answer = self.client("GET", f"/api/logs/pull{path}")
        self.assertEqual(answer.status, status, answer.body)
        return answer.json

    def test_all_pulls_are_listed_by_number_and_controller_the_newest_first(self):
        self.has("a", 1, at=1.0)
        self.has("b", 1, at=3.0)
        self.has("c", 2, at=2.0)
        found = self.get()
        self.assertEqual([row["name"] for row in found["results"]], ["1@b", "2@c", "1@a"])
        self.assertEqual(found["results"][0]["url"], "/api/logs/pull/1@b")
        self.assertEqual(found["missing"], [])

    def test_one_that_does_not_answer_is_named_in_time(self):
        self.answers["b"].by_kind = {AskPulls: lambda _: Deferred()}
        self.has("a", 1)
        self.hub.cut("c")
        connection = self.client.connect()
        connection.send(request_bytes("GET", "/api/logs/pull"))
        self.clock.advance(LIST_TIMEOUT_S)
        found = connection.answer().json
        self.assertEqual([row["name"] for row in found["results"]], ["1@a"])
        self.assertEqual([one["controller"] for one in found["missing"]], ["b", "c"])

    def test_one_is_shown_wherever_it_is(self):
        self.has("b", 7)
        self.assertEqual(self.get("/7@b")["name"], "7@b")
        self.assertEqual(self.get("/7")["name"], "7@b")
        for none in ("7@c", "7@x", "8", "8@b", "@b", "7@"):
            self.get(f"/{none}", 404)
        self.hub.cut("b")
        self.get("/7@b", 503)

    def test_a_number_is_the_asked_ones_own_and_must_else_be_one_controllers(self):
        self.has("b", 7)
        self.has("c", 7)
        self.assertIn("7@b or 7@c", self.get("/7", 409)["detail"])
        self.has("a", 7)
        self.assertEqual(self.get("/7")["name"], "7@a")

    def test_whose_it_is_changes_it(self):
        self.has("b", 7)
        self.has("a", 8)
        for what in ("pause", "resume", "cancel"):
            answer = self.client("POST", f"/api/logs/pull/7@b/{what}", body=b"")
            self.assertEqual(answer.status, 200, answer.body)
        self.assertEqual(self.handed[0], ("b", "/api/logs/pull/7/pause", "/api/logs/pull/7/pause"))
        self.assertEqual(len(self.handed), 3)
        self.client("POST", "/api/logs/pull/8@a/pause", body=b"")
        self.assertEqual(self.pulls["a"].done, [("pause", 8)])
