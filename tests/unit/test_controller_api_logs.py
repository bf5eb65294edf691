"""The routes for request logs: through the real Site, over a store that is a real DuckDB in memory."""

import io
import json
from types import SimpleNamespace
from urllib.parse import quote

import duckdb
from twisted.internet.defer import Deferred, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_logs import Exported, LogApi
from avinet.controller.log_questions import LogQuestions
from avinet.controller.log_status import LogsStatus, LostLogs, StoreStatus
from avinet.controller.log_tail import REMEMBERED, Arrivals
from avinet.controller.log_tail_cluster import Tails
from avinet.controller.log_whereabouts import UNDER_WAY, Spools, Whereabouts
from avinet.controller.peers import NoPeers
from avinet.logs.query.duckdb import duckdb_trial
from avinet.logs.query.fields import FIELDS
from avinet.logs.query.shapes import Records
from avinet.logs.store.errors import LogAnswerTooLargeError, LogQueryRefusedError, LogStoreBusyError
from avinet.model.ids import ControllerName, SeId
from avinet.model.logs import ClassTotals, DropReason, Selection, SpoolTotals
from avinet.rest.openapi import Info, openapi
from avinet.rest.router import Router
from avinet.wire.log_messages import PullDone
from tests.unit.log_query_kit import NOW_US, MemoryStore
from tests.unit.rest_client import Client, Known, request_bytes

NOW_S = NOW_US / 1_000_000
SE_1, SE_2 = SeId("se-1111"), SeId("se-2222")


def record(**values):
    """One record; what is not said is not known."""
    known = {"time": NOW_US, "class": "significant", "vs_uuid": "v", "se_uuid": SE_1, "se": "se-1"}
    return dict.fromkeys(FIELDS) | known | values


class Store:
    """Each file is a table's worth of records."""

    def __init__(self):
        self.memory = MemoryStore()
        self.files = {}
        self.asked = []
        self.most = 1_000
        """Records that one answer has room for."""
        self.exports = []
        self.trouble = []
        self.hold = succeed(None)
        """Fires when it may answer."""

    async def ask(self, query):
        self.memory.fill([row for rows in self.files.values() for row in rows])
        return self.memory.ask(query)

    async def ask_files(self, query, names):
        self.asked.append("+".join(names))
        await self.hold
        if self.trouble:
            raise self.trouble.pop()
        rows = [row for name in names for row in self.files.get(name, ())]
        if (
            isinstance(query.shape, Records)
            and min(query.shape.limit, len(rows) - query.shape.skip) > self.most
        ):
            raise LogAnswerTooLargeError(why="records of a MiB")
        self.memory.fill(rows)
        return self.memory.ask(query)

    async def check(self, query):
        if self.trouble:
            raise self.trouble.pop()
        self.memory.fill([record()])
        rendered = duckdb_trial(query)
        try:
            self.memory.connection.execute(rendered.sql, rendered.parameters).fetchall()
        except duckdb.Error as why:
            raise LogQueryRefusedError(why=str(why)) from why

    async def export(self, query, kind):
        data = json.dumps([query.since_us, kind]).encode() * 100_000
        self.exports.append(io.BytesIO(data))
        return Exported(self.exports[-1], len(data), 7)


STATUS = StoreStatus(records=1, bytes=2, files=3, since="", until="", waiting_segments=4, waiting_bytes=5)


class LogCase(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.clock.rightNow = NOW_S
        self.store = Store()
        self.arrivals = Arrivals(self.store, self.clock.seconds)
        self.spools, self.pulled = {SE_1: SpoolTotals(), SE_2: SpoolTotals()}, set()
        where = Whereabouts(
            lambda: self.spools,
            lambda: [(SE_1, "se-1"), (SE_2, "se-2")],
            lambda se: se == SE_1,
            lambda: self.pulled,
            lambda: int(self.clock.seconds() * 1_000_000),
        )
        lost = LostLogs(
            se="se-1", at="", reason="torn", log_class="full", vs="", since="", until="", records=1, bytes=0
        )
        api = LogApi(
            self.store,
            where,
            Tails(self.arrivals, LogQuestions(NoPeers(ControllerName("a")), self.clock)),
            self.store.export,
            lambda engines: succeed(LogsStatus(store=STATUS, service_engines=engines, drops=(lost,))),
            self.clock,
            self.clock.seconds,
        )
        self.routes = api.routes()
        self.client = Client(Router(self.routes, self.clock, Known("olga")), self.clock)

    def get(self, path, status=200, **query):
        pairs = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
        answer = self.client("GET", f"/api/logs/{path}?{pairs}")
        self.assertEqual(answer.status, status, answer.body)
        return answer.json


class QueryTests(LogCase):
    def setUp(self):
        super().setUp()
        self.store.files["a"] = [record(path=f"/{n % 3}", status=200 + n, time=NOW_US - n) for n in range(7)]

    def test_a_count_says_how_many_and_what_is_missing(self):
        self.assertEqual(self.get("query", q="status<203", count="true"), {"count": 3, "missing": []})

    def test_the_most_frequent_are_named(self):
        found = self.get("query", top="path", limit=1)
        self.assertEqual(found["results"], [{"path": "/0", "count": 3}])

    def test_a_question_that_is_too_long_for_an_url_goes_in_a_body(self):
        body = {"q": f"path in ({', '.join(f'/{n}' for n in range(1, 900))})", "count": True}
        answer = self.client("POST", "/api/logs/query", body=json.dumps(body).encode())
        self.assertEqual((answer.status, answer.json["count"]), (200, 4), answer.body)

    def test_a_filter_that_is_too_long_for_an_url_is_refused_by_its_bound(self):
        for path in ("query", "records", "export", "tail"):
            found = self.get(path, 400, q="a" * 1_001)
            self.assertEqual((found["reason"], found["where"]), ("invalid-query", "q"))
            self.assertIn("1000", found["detail"])

    def test_a_malformed_query_is_refused_with_its_place(self):
        found = self.get("query", 400, q="status>>500 nonsense(", count="true")
        self.assertEqual((found["reason"], found["column"]), ("invalid-log-query", 7))
        self.assertIn(">=", found["allowed"])
        self.assertIn("|       ^", found["detail"])

    def test_a_shape_that_cannot_be_is_refused_by_name(self):
        self.assertEqual(self.get("query", 400, top="pth")["where"], "top")
        self.assertEqual(self.get("query", 400, count="true", top="path")["where"], "top")

    def test_records_come_in_pages(self):
        first = self.get("records", q="since 1h", limit=4)
        self.assertEqual([row["status"] for row in first["results"]], [200, 201, 202, 203])
        self.clock.advance(3_000)  # the hour is the same on every page
        rest = self.get("records", q="since 1h", limit=4, cursor=first["next"])
        self.assertEqual([row["status"] for row in rest["results"]], [204, 205, 206])
        self.assertNotIn("next", rest)
        self.assertEqual(self.get("records", 400, cursor="nonsense")["where"], "cursor")

    def test_what_service_engines_still_keep_is_said(self):
        kept = ClassTotals(segments=2, records=30, size=4_000, oldest_us=NOW_US - 5_000_000)
        self.spools |= {SE_1: SpoolTotals(full=kept), SE_2: SpoolTotals(significant=kept)}
        one, two = self.get("query", q="since 1s", count="true")["missing"]
        self.assertEqual(
            (one["se"], one["records"], one["bytes"], one["why"]), ("se-1", 30, 4_000, "not pulled")
        )
        self.assertEqual(one["since"], "2026-11-27T11:59:59.000000Z")
        self.assertEqual((two["se"], two["why"]), ("se-2", "not connected"))
        self.pulled.add(SE_1)
        self.assertEqual(self.get("query", count="true")["missing"][0]["why"], "being pulled")
        self.assertEqual(self.get("query", q="until 1h", count="true")["missing"], [])
        self.spools[SE_1] = SpoolTotals(growing_bytes=77)
        growing = self.get("query", q="since 1m", count="true")["missing"][0]
        self.assertEqual((growing["raw_bytes"], growing.get("since")), (77, None))
        self.assertEqual(len(self.get("query", q="until 2h", count="true")["missing"]), 0)
        del self.spools[SE_2]
        [unheard] = self.get("query", q="until 1h", count="true")["missing"]
        self.assertEqual((unheard["se"], unheard["why"]), ("se-2", "has not said yet what it keeps"))

    def test_the_status_has_the_store_the_spools_and_what_was_lost(self):
        self.spools[SE_1] = SpoolTotals(limit_bytes=9, drops={DropReason.TORN: 3})
        found = self.get("status")
        self.assertEqual(found["store"]["waiting_segments"], 4)
        self.assertEqual(found["service_engines"][0]["dropped"], {"torn": 3})
        self.assertEqual(found["drops"][0]["class"], "full")

    def test_the_document_describes_them(self):
        document = openapi(self.routes, Info(title="t", version="1"))
        self.assertIn("/api/logs/query", document["paths"])


class ExportTests(LogCase):
    def test_a_file_comes_whole(self):
        connection = self.client.connect()
        connection.send(request_bytes("GET", "/api/logs/export?format=csv&q=since%201970-01-02"))
        for _ in range(20):
            self.clock.advance(0)
        answer = connection.answer()
        self.assertEqual(answer.headers["x-avinet-records"], "7")
        self.assertEqual(
            int(answer.headers["x-avinet-missing"]), len(self.get("query", count="true")["missing"])
        )
        self.assertEqual(answer.headers["content-type"], "text/csv; charset=utf-8")
        self.assertEqual(answer.body, b'[86400000000, "csv"]' * 100_000)
        self.assertTrue(self.store.exports[0].closed)

    def test_a_client_that_leaves_or_wants_only_the_head_leaves_no_file_open(self):
        self.client("HEAD", "/api/logs/export")
        connection = self.client.connect()
        connection.send(request_bytes("GET", "/api/logs/export"))
        connection.lose()
        self.clock.advance(1)
        self.assertEqual([file.closed for file in self.store.exports], [True, True])


class TailTests(LogCase):
    def follow(self, **query):
        pairs = "&".join(f"{name}={quote(str(value))}" for name, value in query.items())
        connection = self.client.connect()
        connection.send(request_bytes("GET", f"/api/logs/tail?{pairs}"))
        self.addCleanup(connection.lose)
        return connection

    def come(self, name, *rows, **about):
        self.store.files[name] = list(rows)
        self.arrivals.stored(name, **about)

    def seen(self, connection):
        data = [line[6:] for line in connection.transport.value().split(b"\n") if line.startswith(b"data: ")]
        connection.transport.clear()
        return [json.loads(line) for line in data]

    def test_records_are_told_as_they_come_and_each_once(self):
        self.come("old", record(path="/old"))
        connection = self.follow()
        self.come(
            "a", record(path="/1"), record(path="/2", time=NOW_US - 1), record(path="/f", **{"class": "full"})
        )
        self.come("b", record(path="/3"))
        self.assertEqual([row["path"] for row in self.seen(connection)], ["/2", "/1", "/3"])
        self.come("c", record(path="/4"))
        self.assertEqual([row["path"] for row in self.seen(connection)], ["/4"])

    def test_files_without_such_a_record_are_asked_once(self):
        connection = self.follow(q="status=500")
        for name in "abc":
            self.come(name, record(path="/1"))
        self.assertEqual(self.store.asked, ["a", "b", "c"])
        self.come("d", record(status=500))
        self.assertEqual(len(self.seen(connection)), 1)

    def test_what_many_ask_is_asked_once_whoever_of_them_leaves(self):
        connections = [self.follow() for _ in range(5)]
        self.store.hold = Deferred()
        self.come("a", record(path="/1"))
        connections[0].lose()
        self.store.hold.callback(None)
        self.assertEqual(["a"], self.store.asked)
        for connection in connections[1:]:
            self.assertEqual(["/1"], [row["path"] for row in self.seen(connection)])

    def test_files_of_full_logs_are_asked_only_for_those_who_want_them(self):
        connection = self.follow()
        self.come("a", record(**{"class": "full"}), significant=False)
        self.assertEqual([], self.store.asked)
        full = self.follow(full="true")
        self.come("b", record(path="/f", **{"class": "full"}), significant=False)
        self.assertEqual(["b"], self.store.asked)
        self.assertEqual((0, 1), (len(self.seen(connection)), len(self.seen(full))))

    def test_who_comes_back_asks_about_many_files_at_once(self):
        for number in range(130):
            self.come(f"f{number:03d}", record(path=f"/{number}", status=500 if number == 70 else 200))
        connection = self.follow(q="status=500", since=1)
        self.assertEqual(["/70"], [row["path"] for row in self.seen(connection)])
        asked = [name for name in self.store.asked if "+" in name]
        self.assertEqual([64, 64, 2], [name.count("f") for name in asked])
        self.assertEqual(64, len(self.store.asked) - len(asked))
        self.store.asked.clear()
        self.come("new", record(path="/new", status=500))
        self.assertEqual((1, ["new"]), (len(self.seen(connection)), self.store.asked))

    def test_pages_of_one_file_hold_each_record_once(self):
        connection = self.follow(full="true")
        self.come("a", *(record(path=f"/{n}", time=NOW_US + n) for n in range(250)))
        self.assertEqual([row["path"] for row in self.seen(connection)], [f"/{n}" for n in range(250)])

    def test_records_that_are_too_large_together_come_in_several_answers(self):
        connection = self.follow()
        self.store.most = 5
        self.come("a", *(record(path=f"/{n}", time=NOW_US + n) for n in range(12)))
        self.come("b", record(path="/last"))
        wanted = [*(f"/{n}" for n in range(12)), "/last"]
        self.assertEqual([row["path"] for row in self.seen(connection)], wanted)

    def test_a_client_comes_back_to_where_it_was(self):
        connection = self.follow()
        self.come("a", *(record(path=f"/{n}", time=NOW_US + n) for n in range(5)))
        third = self.seen(connection)[2]["id"]
        connection.lose()
        self.come("b", record(path="/5"))
        again = self.follow(since=third)
        self.assertEqual([row["path"] for row in self.seen(again)], ["/3", "/4", "/5"])

    def test_a_file_that_was_merged_meanwhile_stops_nothing(self):
        connection = self.follow()
        self.arrivals.stored("merged")
        self.come("a", record(path="/1"))
        self.assertEqual(len(self.seen(connection)), 1)

    def test_a_file_that_could_not_be_asked_about_is_asked_again_with_the_next(self):
        connection = self.follow()
        self.store.trouble.append(LogStoreBusyError(waiting=1))
        self.come("a", record(path="/1"))
        self.assertEqual(self.seen(connection), [])
        self.come("b", record(path="/2"))
        self.assertEqual([row["path"] for row in self.seen(connection)], ["/1", "/2"])

    def test_what_is_remembered_is_bounded(self):
        for number in range(REMEMBERED + 5):
            self.arrivals.stored(str(number))
        self.assertEqual(len(self.arrivals.after(0)), REMEMBERED)

    def test_a_range_of_time_does_not_go_with_it(self):
        self.assertEqual(self.get("tail", 400, q="since 1h")["where"], "q")

    def test_an_expression_that_the_engine_refuses_is_refused_before_the_stream_begins(self):
        found = self.get("tail", 400, q=r"status=7 path~\p{Nope}")
        self.assertEqual(found["reason"], "log-query-refused")
        self.assertEqual(self.arrivals._woken, [])

    def test_a_store_that_has_too_much_to_do_lets_a_tail_begin(self):
        self.store.trouble.append(LogStoreBusyError(waiting=1))
        connection = self.follow(q="path~^/")
        self.assertIn(b"HTTP/1.1 200", connection.transport.value())

    def test_tails_are_bounded_and_leave_no_trace(self):
        connections = [self.follow() for _ in range(50)]
        self.assertEqual(self.get("tail", 429)["reason"], "too-many-tails")
        for connection in connections:
            connection.lose()
        self.assertEqual(self.arrivals._woken, [])
        self.assertNotEqual(self.follow().transport.value(), b"")


class SpoolsTests(SynchronousTestCase):
    def setUp(self):
        self.intake = SimpleNamespace(spools={})
        self.selections = {1: Selection(), 2: Selection(since_us=NOW_US), 3: Selection(services=("v",))}
        self.clock = Clock()
        self.spools = Spools(self.intake, self.selections.get, self.clock.seconds)
        self.say()

    def say(self):
        kept = ClassTotals(segments=1, records=1, size=1, oldest_us=NOW_US - 5)
        self.intake.spools[SE_1] = SpoolTotals(full=kept, growing_bytes=9, limit_bytes=100)
        self.spools.spooled(SE_1)

    def ended(self, **facts):
        self.spools.told(SimpleNamespace(se=SE_1), PullDone(**facts))

    def test_after_a_pull_of_everything_nothing_is_there_until_the_engine_speaks_again(self):
        self.ended(pull=1)
        self.assertEqual(self.spools.now()[SE_1], SpoolTotals(limit_bytes=100))
        self.say()
        self.assertEqual(self.spools.now()[SE_1].growing_bytes, 9)

    def test_after_any_other_what_was_said_stands(self):
        for facts in (
            {"pull": 2},
            {"pull": 3},
            {"pull": 4},
            {"pull": 1, "limited": True},
            {"pull": 1, "failed": "x"},
        ):
            self.ended(**facts)
            self.assertEqual(self.spools.now()[SE_1].full.segments, 1, facts)

    def test_what_another_controller_has_pulled_is_not_there_until_the_engine_speaks_again(self):
        self.clock.advance(3)
        self.spools.elsewhere("b", {SE_1: 1.0})
        self.assertEqual(self.spools.now()[SE_1], SpoolTotals(limit_bytes=100))
        self.say()
        self.spools.elsewhere("b", {SE_1: 1.0})
        self.assertEqual(self.spools.now()[SE_1].growing_bytes, 9)

    def test_others_are_told_what_pulls_from_here_have_emptied(self):
        self.assertEqual(self.spools.emptied(), {})
        self.ended(pull=1)
        self.clock.advance(2)
        self.assertEqual(self.spools.emptied(), {SE_1: 2.0})
        self.say()
        self.assertEqual(self.spools.emptied(), {})

    def test_a_pull_of_another_controller_is_under_way_until_that_says_no_more(self):
        self.spools.elsewhere("b", {SE_1: UNDER_WAY})
        self.assertEqual(self.spools.pulled_elsewhere(), {SE_1})
        self.assertEqual(self.spools.now()[SE_1].growing_bytes, 9)
        self.spools.elsewhere("b", {})
        self.assertEqual(self.spools.pulled_elsewhere(), set())
