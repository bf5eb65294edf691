"""From the command line through the API to a store with real workers, and back: every byte as it was sent."""

import contextlib
import json
from pathlib import Path

import pytest
import pytest_twisted
from click.testing import CliRunner
from twisted.internet import reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.app.cli.client import Client
from avinet.app.cli.main import cli
from avinet.controller.api_logs import LogApi
from avinet.controller.log_questions import LogQuestions
from avinet.controller.log_search import StoreSearch
from avinet.controller.log_status import LogsStatus
from avinet.controller.log_tail import Arrivals
from avinet.controller.log_tail_cluster import Tails
from avinet.controller.log_whereabouts import Whereabouts
from avinet.controller.operators import LocalGuard
from avinet.controller.peers import NoPeers
from avinet.logs.entries import Arrival, Segment
from avinet.logs.query.shapes import Query, Whole
from avinet.model.ids import ControllerName
from avinet.model.logs import ClassTotals, LogClass, SpoolTotals
from avinet.rest.listen import listen_unix
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from tests.integration.test_log_store import SE, made
from tests.unit.log_store_kit import T0_US, line, segment

NASTY = (
    "/plain",
    "/quote'\"",
    "/sql');DROP%20TABLE%20logs;--",
    "/per%25cent%0Anewline",
    "/" + "x" * 8_000,
    "/<script>alert(1)</script>",
    "/\x1b[31mred",
    "/é💩",
    "/line\nend",
)
MINUTE_US = 60_000_000


class World:
    """A store, its API on a UNIX socket, and the command line in a thread."""

    def __init__(self, folder):
        self.folder, self.spools, self.counter = folder, {SE: SpoolTotals()}, 0
        self.service, self.ledger = made(folder, [])
        search = StoreSearch(self.service, folder / "exports", deferToThread)
        self.arrivals = arrivals = Arrivals(search, reactor.seconds)
        self.service.stored = arrivals.stored
        tails = Tails(arrivals, LogQuestions(NoPeers(ControllerName("a")), reactor))
        where = Whereabouts(lambda: self.spools, lambda: [(SE, "se-1")], lambda se: True, set, lambda: T0_US)

        async def stores(engines):
            return LogsStatus(store=await search.status(), service_engines=engines, drops=())

        routes = LogApi(search, where, tails, search.export, stores, reactor, reactor.seconds).routes()
        site = BoundedSite(Router(routes, reactor, LocalGuard(lambda access: None)), reactor)
        self.port = listen_unix(reactor, folder / "api.sock", site)

    def receive(self, *records, log_class=LogClass.SIGNIFICANT):
        """A segment, as the intake would take it."""
        self.counter += 1
        raw = b"".join(line(T0_US + at, 1, **fields) for at, fields in records)
        made = segment(
            self.folder, raw, counter=self.counter, se=SE, log_class=log_class,
            first_us=T0_US + records[0][0], last_us=T0_US + records[-1][0],
        )  # fmt: skip
        kept = Segment(SE, made.head)
        path = self.service.store.folders.segment(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(made.path).replace(path)
        self.ledger.receive([Arrival(kept)])
        self.service.arrived(len(raw))

    def cli(self, *arguments):
        """In a thread, for it blocks."""
        return deferToThread(CliRunner().invoke, cli, ["--state", str(self.folder), "logs", *arguments])

    async def asked(self, *arguments):
        """The JSON document."""
        result = await self.cli(*arguments, "--json")
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)


@contextlib.asynccontextmanager
async def world(folder):
    there = World(folder)
    await there.service.start()
    try:
        yield there
    finally:
        await there.port.stopListening()
        await there.service.stop()
        there.ledger.close()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "c"
    folder.mkdir(0o700)
    return folder


@pytest_twisted.ensureDeferred
async def test_every_path_comes_back_as_it_was_sent_and_counts_are_right(folder):
    async with world(folder) as there:
        there.receive(
            *((n, {"path": path, "status": 500 + n}) for n, path in enumerate(NASTY) for _ in range(3))
        )
        found = await there.asked("query", "host=shop.example.com", "--count")
        assert found == {"count": 27, "missing": []}
        found = await there.asked("query", "--top", "path", "--limit", "50")
        assert {row["path"]: row["count"] for row in found["results"]} == dict.fromkeys(NASTY, 3)
        for path in NASTY:
            quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
            assert (await there.asked("query", f"path={quoted}", "--count"))["count"] == 3, path
        shown = await there.cli("query", "status>=506")
        assert "\x1b" not in shown.stdout
        assert shown.stdout.count("\n") == 9


@pytest_twisted.ensureDeferred
async def test_each_shape_of_question_has_an_answer(folder):
    async with world(folder) as there:
        there.receive(
            *(
                (n * MINUTE_US // 10, {"status": 200 + n % 2 * 300, "duration_us": n * 1_000})
                for n in range(100)
            ),
            log_class=LogClass.FULL,
        )
        kept = ClassTotals(segments=1, records=5, size=10, oldest_us=T0_US)
        there.spools[SE] = SpoolTotals(full=kept)
        found = await there.asked(
            "query", "status=5xx", "--percentiles", "duration_ms", "--by", "vs", "--quantiles", "50,100"
        )
        assert found["results"] == [{"vs": "shop", "count": 50, "p50": 50.0, "p100": 99.0}]
        assert found["missing"][0]["why"] == "not pulled"
        found = await there.asked("query", "--histogram", "1m")
        assert [row["count"] for row in found["results"]] == [10] * 10
        found = await there.asked(
            "query", "--group-by", "status", "--figures", "count,sum(bytes_out),p50(duration)"
        )
        assert found["results"][0] == {
            "status": 200,
            "count": 50,
            "sum_bytes_out": 100_000,
            "p50_duration_ms": 49.0,
        }
        found = await there.asked(
            "query", "client in 10.0.0.0/8 duration>=90ms since 2026-11-27T12:00:00Z", "--count"
        )
        assert found["count"] == 10
        seen, cursor = [], ()
        while True:
            page = await there.asked("query", "status=200", "--limit", "20", *cursor)
            seen += [row["duration_ms"] for row in page["results"]]
            if "next" not in page:
                break
            cursor = ("--cursor", page["next"])
        assert seen == [float(n) for n in range(98, -1, -2)]
        status = await there.asked("status")
        assert (status["store"]["records"], status["service_engines"][0]["full"]["records"]) == (100, 5)


@pytest_twisted.ensureDeferred
async def test_exports_are_whole_files(folder):
    async with world(folder) as there:
        there.receive(*((n, {"path": f"/{n}", "duration_us": 1_500}) for n in range(1_000)))
        out = folder / "out.ndjson"
        assert (await there.asked("export", str(out), "path=/7"))["records"] == 1
        [record] = map(json.loads, out.read_text().splitlines())
        assert (record["path"], record["duration_ms"], record["se"]) == ("/7", 1.5, SE)
        assert record["time"] == "2026-11-27T12:00:00.000007Z"
        out = folder / "out.csv"
        await there.asked("export", str(out))
        assert out.read_text().count("\n") == 1_001
        out = folder / "out.parquet"
        assert (await there.asked("export", str(out)))["records"] == 1_000
        assert out.read_bytes()[:4] == b"PAR1"
        assert list((folder / "exports").iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_an_export_that_its_asker_gives_up_leaves_no_file_whenever_that_is(folder):
    async with world(folder) as there:
        there.receive(*((n, {"path": f"/{n}"}) for n in range(1_000)))
        await there.asked("query", "--count")
        search = StoreSearch(there.service, folder / "exports", deferToThread)
        for delay_s in (0.0, 0.01, 0.02, 0.04, 0.08, 0.16):
            making = Deferred.fromCoroutine(search.export(Query(shape=Whole()), "ndjson"))
            await deferLater(reactor, delay_s)
            making.cancel()
            with contextlib.suppress(CancelledError):
                (await making).file.close()
        # Whatever the worker still had to do before this, it has done.
        for _ in range(100):
            if not there.service.store.workers.querying.running and not list((folder / "exports").iterdir()):
                break
            await deferLater(reactor, 0.1)
        assert list((folder / "exports").iterdir()) == []


@pytest_twisted.ensureDeferred
async def test_a_query_that_the_engine_refuses_is_the_askers(folder):
    async with world(folder) as there:
        there.receive((0, {}))
        result = await there.cli("query", r"path~\p{Nope}", "--count")
        assert result.exit_code == 2
        assert "Traceback" not in result.output
        result = await there.cli("tail", r"status=7 path~\p{Nope}")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "Nope" in result.stderr
        result = await there.cli("query", "status>>500 nonsense(", "--count")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "|       ^" in result.stderr


@pytest_twisted.ensureDeferred
async def test_a_tail_shows_what_comes_into_the_store(folder):
    async with world(folder) as there:

        def follow():
            stream = Client.unix(folder / "api.sock").stream_events(None, "/api/logs/tail?q=status%3D503")
            return next(stream)

        first = deferToThread(follow)
        while not there.arrivals._woken:
            await deferLater(reactor, 0.05, lambda: None)
        there.receive((0, {"path": "/no", "status": 200}), (1, {"path": "/yes", "status": 503}))
        assert (await first)["path"] == "/yes"
