"""Exports of three controllers' records, of real stores, over links in memory."""

import json

import duckdb
import msgspec
from twisted.internet.defer import Deferred, execute, fail
from twisted.internet.task import Clock
from twisted.protocols.basic import Int32StringReceiver

from avinet.controller.api_logs import Exported
from avinet.controller.log_export import PARTS_TIMEOUT_S, ClusterExport
from avinet.controller.log_parts import (
    BEGIN_TIMEOUT_S,
    STALL_TIMEOUT_S,
    AskPart,
    LogParts,
    PartFetcher,
    PartHead,
    Room,
    _Receiver,
)
from avinet.controller.log_peers import ClusterSearch
from avinet.controller.log_questions import AskSearch, LogAnswers, LogQuestions, Said
from avinet.controller.log_search import NOT_DECIDED, StoreSearch
from avinet.controller.log_sets import SETS, STORE
from avinet.controller.log_store import LogStoreService, Reported
from avinet.controller.peers import PEER_LOG_PARTS, PEER_LOGS
from avinet.controller.peers_memory import PeerHub
from avinet.logs.entries import Arrival, Segment
from avinet.logs.ledger import Ledger
from avinet.logs.query.shapes import (
    Aggregate,
    Count,
    Function,
    GroupBy,
    Percentiles,
    Query,
    Records,
    Top,
    Whole,
)
from avinet.logs.store.embedded import EmbeddedLogStore
from avinet.logs.store.engine import Engine
from avinet.logs.store.errors import LogAnswerTooLargeError, LogStoreFullError
from avinet.logs.store.folders import Folders
from avinet.logs.store.interface import Keeping
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.workers import Workers
from avinet.model.ids import SeId
from avinet.units import MIB
from tests.unit.log_store_kit import T0_US, line, segment
from tests.unit.test_logs_store_embedded import InPlace
from tests.unit.test_logs_store_ingest import FolderTest

WHOLE = Query(shape=Whole())
SE = SeId("se-1")


class Sets:
    """Copy sets that a test has put together."""

    def __init__(self):
        self.services = {}

    def ids(self):
        return dict.fromkeys(self.services, "x")

    def search(self, ids):
        return [self.services[id_] for id_ in ids if id_ in self.services]

    def uncopied(self, id_):
        return type("Uncopied", (), {"records": 3, "newest_us": T0_US})()


class ExportCase(FolderTest):
    def setUp(self):
        super().setUp()
        self.clock, self.hub = Clock(), PeerHub("a", "b", "c")
        self.searches, self.parts, self.sets = {}, {}, {name: Sets() for name in "abc"}
        self.counter, self.ids = 0, dict.fromkeys("abc", "")
        for name in "abc":
            folder = self.folder / name
            self.searches[name] = StoreSearch(
                self.service(folder), folder / "exports", execute, self.sets[name]
            )
            parts = self.parts[name] = LogParts(self.clock)
            parts.make = self.maker(name)
            self.hub.peers(name).offer(PEER_LOG_PARTS, parts.build)
        peers = self.hub.peers("a")
        self.search = ClusterSearch(self.searches["a"], LogQuestions(peers, self.clock))
        self.export = ClusterExport(self.search, self.searches["a"], PartFetcher(peers, self.clock, execute))

    def service(self, folder):
        folders = Folders(folder)
        for one in (folders.store, folders.exports):
            one.mkdir(0o700, parents=True)
        seen = [path for name in "abc" for path in (self.folder / name, self.folder / f"{name}-set")]
        worker = InPlace(Engine.open(seen, folder / "spill", 256 * MIB, 1))
        ledger = Ledger(folder / "ledger.db")
        self.addCleanup(ledger.close)
        around = Surroundings(execute, lambda: T0_US / 1e6)
        store = EmbeddedLogStore(ledger, folders, around, Workers(worker, worker))
        return LogStoreService(
            store, ledger, Keeping(1, 1), self.clock, execute, Reported(lambda *_, **__: None)
        )

    def maker(self, name):
        async def make(asked):
            search = self.searches[name]
            made = await search.export(asked.query, "parquet", asked.sets)
            return made, PartHead(store=self.ids[name], counted=search.counted(asked.sets))

        return make

    def receive(self, service, *at):
        self.counter += 1
        folder = service.store.folders.base
        raw = b"".join(line(T0_US + us, path=f"/{us}") for us in at)
        made = segment(
            folder, raw, counter=self.counter, se=SE, first_us=T0_US + min(at), last_us=T0_US + max(at)
        )
        kept = Segment(SE, made.head)
        path = service.store.folders.segment(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{SE}-{self.counter}.zst").replace(path)
        service.ledger.receive([Arrival(kept)])
        self.successResultOf(service.store.take())

    def begin(self, kind="ndjson"):
        return Deferred.fromCoroutine(self.export.make(WHOLE, kind))

    def made(self, kind="ndjson"):
        making = self.begin(kind)
        self.clock.pump([0] * 20)
        return self.ended(making)

    def ended(self, making):
        made = self.successResultOf(making)
        self.addCleanup(made.file.close)
        return made

    def rows(self, made):
        return [json.loads(text)["path"] for text in made.file.read().splitlines()]

    def missing(self, made):
        return [(one.controller, one.why) for one in made.missing]

    def left(self):
        return [path for name in "abc" for path in (self.folder / name / "exports").iterdir()]


class Exports(ExportCase):
    def setUp(self):
        super().setUp()
        for number, name in enumerate("abc"):
            self.receive(self.searches[name].service, number, 10 - number)

    def test_all_records_of_all_controllers_are_in_it_the_oldest_first(self):
        made = self.made()
        self.assertEqual(self.rows(made), ["/0", "/1", "/2", "/8", "/9", "/10"])
        self.assertEqual((made.records, made.missing, self.left()), (6, (), []))

    def test_in_every_format(self):
        self.assertEqual(self.made("csv").file.read().count(b"\n"), 7)
        made = self.made("parquet")
        path = self.folder / "all.parquet"
        path.write_bytes(made.file.read())
        found = duckdb.execute(f"SELECT path, duration_ms FROM read_parquet('{path}')").fetchall()
        self.assertEqual(found[0], ("/0", 12.5))

    def test_one_that_cannot_be_asked_is_named_and_the_rest_is_whole(self):
        self.hub.cut("c")
        made = self.made()
        self.assertEqual(self.rows(made), ["/0", "/1", "/9", "/10"])
        self.assertEqual([name for name, _ in self.missing(made)], ["c"])

    def test_copies_count_for_one_that_is_lost(self):
        for name in "abc":
            self.hub.peers(name).publish(STORE, f"store-{name}")
        self.hub.peers("b").publish(SETS, {"store-c": "c"})
        self.sets["b"].services["store-c"] = copies = self.service(self.folder / "b-set")
        self.receive(copies, 5)
        self.hub.cut("c")
        (kept,) = self.successResultOf(Deferred.fromCoroutine(self.searches["b"].kept()))
        self.assertEqual((kept.store_id, kept.records, kept.uncopied), ("store-c", 1, 3))
        made = self.made()
        self.assertEqual(self.rows(made), ["/0", "/1", "/5", "/9", "/10"])
        self.assertEqual([(one.controller, one.records) for one in made.missing], [("c", 3)])

    def test_what_is_held_for_one_that_is_lost_is_named(self):
        self.hub.peers("b").publish(SETS, {"store-c": "x"})
        self.sets["b"].services["store-c"] = copies = self.service(self.folder / "b-set")
        copies.ledger.hold([Arrival(Segment(SE, segment(self.folder, line(), counter=98).head))])
        self.assertIn(("x", NOT_DECIDED), self.missing(self.made()))

    def test_one_that_had_not_said_which_store_it_has_is_in_it_once(self):
        self.hub.peers("b").publish(SETS, {"store-c": "c"})
        self.sets["b"].services["store-c"] = copies = self.service(self.folder / "b-set")
        self.receive(copies, 2, 8)
        self.ids["c"] = "store-c"
        self.assertEqual(self.rows(self.made()), ["/0", "/1", "/2", "/8", "/9", "/10"])
        self.assertEqual(self.left(), [])

    def test_one_that_hangs_is_named_in_time(self):
        self.parts["b"].make = lambda _: Deferred()
        making = self.begin()
        self.clock.pump([0] * 20)
        self.clock.advance(PARTS_TIMEOUT_S)
        made = self.ended(making)
        self.assertEqual(self.rows(made), ["/0", "/2", "/8", "/10"])
        self.assertEqual([name for name, _ in self.missing(made)], ["b"])
        self.assertEqual(self.parts["b"].under_way, 0)

    def test_one_that_is_cut_in_the_middle_leaves_nothing_of_its_part(self):
        async def half(asked):
            made = await self.maker("b")(asked)
            return Exported(made[0].file, made[0].size + 1, 2), PartHead()

        self.parts["b"].make = half
        making = self.begin()
        self.clock.pump([0] * 20)
        made = self.ended(making)
        self.flushLoggedErrors(EOFError)
        self.assertEqual(self.rows(made), ["/0", "/2", "/8", "/10"])
        self.assertEqual([name for name, _ in self.missing(made)], ["b"])
        self.assertEqual(self.left(), [])

    def test_who_gives_up_leaves_nothing(self):
        self.parts["b"].make = lambda _: Deferred()
        making = self.begin()
        self.clock.pump([0] * 20)
        making.addErrback(lambda _: None)
        making.cancel()
        self.assertEqual(self.left(), [])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_disk_that_is_full_is_an_error_and_leaves_nothing(self):
        def in_thread(call, *arguments, **named):
            if getattr(call, "__name__", "") == "write":
                return fail(OSError(28, "No space left on device"))
            return execute(call, *arguments, **named)

        fetcher = PartFetcher(self.hub.peers("a"), self.clock, in_thread)
        self.export = ClusterExport(self.search, self.searches["a"], fetcher)
        making = self.begin()
        self.clock.pump([0] * 20)
        self.failureResultOf(making, LogStoreFullError)
        self.assertEqual(self.left(), [])

    def test_what_is_not_stored_yet_elsewhere_is_named(self):
        self.searches["b"].service.ledger.receive([Arrival(self.waiting())])
        making = self.begin()
        for _ in range(30):
            self.clock.advance(0.5)
        self.assertIn(("b", "waits to be stored"), self.missing(self.ended(making)))

    def waiting(self):
        made = segment(self.folder, line(), counter=99, se=SE)
        self.searches["b"].service._taking = True  # it does not end
        return Segment(SE, made.head)


class Queries(ExportCase):
    """The same stores asked."""

    def setUp(self):
        super().setUp()
        for name in "abc":
            answers = LogAnswers()
            answers.by_kind = {AskSearch: self.searcher(name)}
            peers = self.hub.peers(name)
            peers.offer(PEER_LOGS, answers.build)
            peers.publish(STORE, f"store-{name}")
        for number, name in enumerate("abc"):
            self.receive(self.searches[name].service, *range(number, 12, 3))
        # Of what ``c`` has, its first keeper has some and its second the rest.
        for name, at in (("a", (2, 5)), ("b", (8, 11))):
            self.hub.peers(name).publish(SETS, {"store-c": "c"})
            copies = self.sets[name].services["store-c"] = self.service(self.folder / f"{name}-set")
            self.receive(copies, *at)

    def searcher(self, name):
        async def searched(asked):
            search = self.searches[name]
            answer = await search.ask(asked, asked.sets)
            return Said(answer=answer, counted=search.counted(asked.sets))

        return searched

    def test_answers_are_the_same_with_copies_in_place_of_one_that_is_lost(self):
        shapes = (
            Count(),
            Top(("path",)),
            Percentiles("duration_ms"),
            GroupBy(("vs",), (Aggregate(Function.DISTINCT, "path"), Aggregate(Function.AVERAGE, "status"))),
            Records(5),
        )
        whole = [self.answer(shape) for shape in shapes]
        self.assertEqual((whole[0].count, whole[3].results[0]["distinct_path"]), (12, 12))
        self.hub.cut("c")
        for shape, before in zip(shapes, whole, strict=True):
            after = self.answer(shape)
            self.assertEqual({one.controller for one in after.missing}, {"c"})  # three have no copy
            self.assertEqual(msgspec.structs.replace(after, missing=()), before, shape)

    def answer(self, shape):
        return self.successResultOf(Deferred.fromCoroutine(self.search.ask(Query(shape=shape))))


class Receivers(FolderTest):
    def setUp(self):
        super().setUp()
        self.clock, self.hub = Clock(), PeerHub("a", "b")

    def receiver(self, room=100):
        self.wrote = []

        def write(data):
            self.wrote.append((data, Deferred()))
            return self.wrote[-1][1]

        receiver = _Receiver(b"?", write, Room(room))
        transport = type("T", (), {})()
        self.does = []
        for name in ("write", "pauseProducing", "resumeProducing", "loseConnection"):
            setattr(transport, name, lambda *_, name=name: self.does.append(name))
        receiver.makeConnection(transport)
        return receiver

    def test_what_comes_is_written_before_more_is_taken(self):
        receiver = self.receiver()
        head = b"\x81\xa4size\x05"
        for byte in len(head).to_bytes(4, "big") + head:
            receiver.dataReceived(bytes([byte]))
        receiver.dataReceived(b"abc")
        self.assertEqual(self.does, ["write", "pauseProducing"])
        receiver.dataReceived(b"de")
        self.assertEqual([data for data, _ in self.wrote], [b"abc"])
        self.wrote[0][1].callback(None)
        self.assertNoResult(receiver.done)
        self.wrote[1][1].callback(None)
        self.assertEqual(self.successResultOf(receiver.done).size, 5)

    def test_what_there_is_no_room_for_is_not_begun(self):
        receiver = self.receiver(room=4)
        head = b"\x81\xa4size\x05"
        receiver.dataReceived(len(head).to_bytes(4, "big") + head)
        self.failureResultOf(receiver.done, LogAnswerTooLargeError)

    def test_what_is_no_head_is_refused(self):
        for data in (b"\xff\xff\xff\xff", b"\0\0\0\1\xc1"):
            receiver = self.receiver()
            receiver.dataReceived(data)
            self.assertIsNotNone(self.failureResultOf(receiver.done))
            self.assertIn("loseConnection", self.does)

    def test_one_that_stands_still_is_given_up(self):
        fetcher = PartFetcher(self.hub.peers("a"), self.clock, execute)
        for build, limit_s in ((Silent, BEGIN_TIMEOUT_S), (HeadAlone, STALL_TIMEOUT_S)):
            self.hub.peers("b").offer(PEER_LOG_PARTS, lambda _, build=build: build())
            fetching = Deferred.fromCoroutine(
                fetcher.fetch("b", AskPart(WHOLE), self.folder / build.__name__, Room(100))
            )
            self.clock.advance(limit_s - 1)
            self.assertNoResult(fetching)
            self.clock.advance(1)
            self.assertIn("too long", self.successResultOf(fetching).why)


class Silent(Int32StringReceiver):
    def stringReceived(self, string):
        pass


class HeadAlone(Int32StringReceiver):
    def stringReceived(self, string):
        self.sendString(b"\x81\xa4size\x05")
