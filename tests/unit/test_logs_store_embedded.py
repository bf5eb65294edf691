"""The store on its ledger: every record once, whatever happens at whatever step."""

import os
from functools import partial
from pathlib import Path

import attrs
from twisted.internet.defer import CancelledError, Deferred, execute, fail, succeed

from avinet.errors import AvinetError
from avinet.logs.entries import Arrival, Segment
from avinet.logs.ledger import Ledger
from avinet.logs.query.expressions import Compare, Op
from avinet.logs.query.parser import parse
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
from avinet.logs.store.describing import describe
from avinet.logs.store.embedded import EmbeddedLogStore
from avinet.logs.store.engine import Engine, EngineError
from avinet.logs.store.errors import (
    LogQueryMemoryError,
    LogQueryRefusedError,
    LogStoreFullError,
    LogWorkerDiedError,
    error_of,
)
from avinet.logs.store.folders import BAD_BYTES, Folders
from avinet.logs.store.ingest import ingest, merge
from avinet.logs.store.interface import ExportTerms, Keeping
from avinet.logs.store.jobs import Ask, Attempt, Check, Describe, Export, ExportFormat, Ingest, Merge
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.upkeep import CLOSED_FILES
from avinet.logs.store.whole_files import beside_of
from avinet.logs.store.workers import Workers
from avinet.model.ids import SeId
from avinet.model.logs import DropReason
from avinet.units import GIB, MIB
from tests.unit.log_store_kit import T0_US, line, segment, service
from tests.unit.test_logs_store_ingest import FolderTest

SE = SeId("se-00000000-0000-4000-8000-000000000001")
KEEPING = Keeping(10**18, GIB)


class CrashError(Exception):
    """The process is gone."""


@attrs.define
class InPlace:
    """A worker that does jobs where it is asked."""

    engine: Engine
    step: object = lambda name: None
    fails: object = lambda job: None
    """Gives an error instead of the job's answer."""
    done: list = attrs.field(factory=list)
    running = waiting = 0
    later: object = None
    """The job that it was given, and who is to be told of its end, once this is not None."""

    def start(self):
        pass

    def stop(self):
        return succeed(None)

    def ask(self, job, limit_s, over=None):
        if self.later is not None:
            self.later = (job, over)
            return Deferred()
        why = self.fails(job)
        if why is not None:
            return fail(why)
        doing = {
            Ingest: lambda: ingest(job, self.step),
            Merge: lambda: merge(job, partial(self.engine.sort, 1)),
            Ask: lambda: self.engine.ask(1, job),
            Attempt: lambda: self.engine.attempt(1, job),
            Export: lambda: self.engine.export(1, job),
            Check: lambda: self.engine.check(1, job),
            Describe: lambda: describe(job),
        }
        self.done.append(job)
        try:
            return succeed(doing[type(job)]())
        except EngineError as why:
            return fail(error_of(why.failed, limit_s))


class StoreCase(FolderTest):
    """A store in a folder, with a worker in place."""

    def setUp(self):
        super().setUp()
        self.folders = Folders(self.folder)
        self.now_us = T0_US
        self.counter = 0
        for folder in (self.folders.store, self.folders.exports):
            folder.mkdir(0o700)
        engine = Engine.open((self.folders.store, self.folders.exports), self.folder / "spill", 256 * MIB, 1)
        self.worker = InPlace(engine)
        self.ledger = None
        self.open()

    def open(self):
        """As after a crash."""
        if self.ledger is not None:
            self.ledger.close()
        self.ledger = self.opened_ledger()
        self.addCleanup(self.ledger.close)
        self.lost = []
        around = Surroundings(
            execute, lambda: self.now_us / 1e6, lambda se: "se-1", lambda *lost: self.lost.append(lost)
        )
        self.store = EmbeddedLogStore(self.ledger, self.folders, around, Workers(self.worker, self.worker))
        self.mended = self.successResultOf(self.store.start())

    def opened_ledger(self):
        return Ledger(self.folder / "ledger.db")

    def receive(self, raw=None, *, vs=1, se=SE, **facts):
        """A segment that the intake has taken."""
        self.counter += 1
        raw = line(T0_US, vs) if raw is None else raw
        made = segment(self.folder, raw, vs=vs, counter=self.counter, se=se, **facts)
        kept = Segment(se, made.head)
        path = self.folders.segment(kept)
        path.parent.mkdir(parents=True, exist_ok=True)
        Path(made.path).replace(path)
        self.assertEqual([True], self.ledger.receive([Arrival(kept)]))
        return kept

    def take(self):
        return self.successResultOf(self.store.take())

    def count(self, **filters):
        terms = [Compare(name, Op.EQUAL, value) for name, value in filters.items()]
        query = Query(filter=terms[0] if terms else None, shape=Count())
        return self.successResultOf(self.store.query(query)).count

    def kept(self):
        return sorted(
            str(path.relative_to(self.folder)) for path in (self.folder / "received").rglob("*.zst")
        )

    def listed(self):
        return sorted(file.name for file in self.ledger.files())

    def on_disk(self):
        store = self.folders.store
        return sorted(str(path.relative_to(store)) for path in store.rglob("*") if path.is_file())


class TwoStores(StoreCase):
    """Two on the same workers are read as one."""

    def setUp(self):
        super().setUp()
        self.first, first_folders = self.store, self.folders
        for n in range(3):
            self.receive(line(duration_us=1_000 * n))
        self.take()
        self.folders = Folders(self.folder / "copies" / "x")
        self.folders.store.mkdir(0o700, parents=True)
        seen = (first_folders.store, first_folders.exports, self.folders.store)
        self.worker.engine = Engine.open(seen, self.folder / "spill", 256 * MIB, 1)
        self.ledger = Ledger(self.folder / "copies" / "x" / "ledger.db")
        self.addCleanup(self.ledger.close)
        around = attrs.evolve(self.first.around, lost=lambda *lost: self.lost.append(lost))
        self.second = self.store = EmbeddedLogStore(
            self.ledger, self.folders, around, Workers(self.worker, self.worker)
        )
        for n in range(3, 5):
            self.receive(line(duration_us=1_000 * n))
        self.take()

    def ask(self, shape):
        query = Query(shape=shape)
        return self.successResultOf(self.first.query(query, also=[self.second]))

    def test_quantiles_and_different_values_are_exact_and_of_one_job(self):
        self.worker.done.clear()
        answer = self.ask(Percentiles("duration_ms", quantiles=(0.5, 0.75)))
        self.assertEqual(answer.results, ({"count": 5, "p50": 2.0, "p75": 3.0},))
        self.assertFalse(answer.approximate)
        self.assertEqual([len(job.files) for job in self.worker.done], [2])
        figures = (Aggregate(Function.DISTINCT, "duration_ms"),)
        self.assertEqual(self.ask(GroupBy(("vs",), figures)).results[0]["distinct_duration_ms"], 5)

    def test_a_file_that_cannot_be_read_costs_its_own_store_that_file_alone(self):
        (file,) = self.second.ledger.files()
        (self.folders.store / file.name).write_bytes(b"x" * file.size)
        self.assertEqual(self.ask(Count()).count, 3)
        self.assertEqual((len(self.first.ledger.files()), self.second.ledger.files()), (1, []))
        self.assertEqual(len(self.lost), 1)

    def test_an_export_has_both(self):
        target = self.folder / "exports" / "x.ndjson"
        made = self.first.export(
            Query(shape=Whole()), target, ExportTerms(ExportFormat.NDJSON, MIB), [self.second]
        )
        self.assertEqual(self.successResultOf(made).records, 5)


class StoreTest(StoreCase):
    def test_what_was_received_is_answered_once_and_its_segments_go(self):
        for vs in (1, 2, 2):
            self.receive(vs=vs)
        taken = self.take()
        self.assertEqual((3, 3, False), (taken.segments, taken.records, taken.more))
        self.assertEqual((3, []), (self.count(), self.kept()))
        self.assertEqual(2, self.count(vs_uuid=service(2)))
        self.assertEqual(1, len(self.listed()))
        self.assertEqual(self.listed(), self.on_disk())
        self.assertEqual(0, self.take().segments)
        self.assertEqual(3, self.count())

    def test_answers_name_the_service_engine(self):
        self.receive()
        self.take()
        (row,) = self.successResultOf(self.store.query(Query(shape=Records(10)))).results
        self.assertEqual(("se-1", SE), (row["se"], row["se_uuid"]))

    def test_each_hour_has_files_of_its_own_and_queries_read_only_those_of_their_time(self):
        hour = 3_600_000_000
        self.now_us += 3 * hour
        for n in range(3):
            at = T0_US + n * hour
            self.receive(line(at), first_us=at, last_us=at)
        self.take()
        self.assertEqual(["12", "13", "14"], [Path(name).name[:2] for name in self.listed()])
        query = Query(since_us=T0_US + hour, until_us=T0_US + 2 * hour, shape=Count())
        self.assertEqual(1, self.successResultOf(self.store.query(query)).count)
        self.assertEqual(1, len(self.worker.done[-1].files))

    def test_bad_segments_and_lines_are_told_and_kept_aside(self):
        good = self.receive(line() + b"garbage\n")
        bad = self.receive()
        self.folders.segment(bad).write_bytes(b"x")
        taken = self.take()
        self.assertEqual([(good, 1)], [(one.segment, one.lines) for one in taken.bad_lines])
        self.assertEqual([bad], [one.segment for one in taken.bad])
        lost = [(one.se, one.drop.reason, one.drop.records) for one in self.ledger.drops()]
        self.assertEqual([(SE, DropReason.CORRUPT, 1)] * 2, lost)
        self.assertEqual((1, []), (self.count(), self.kept()))
        names = sorted(path.name for path in self.folders.bad.iterdir())
        self.assertEqual(2, len(names))
        self.assertIn(f"{SE}-{bad.head.name}.zst", names)
        self.assertFalse(self.ledger.waits(10))

    def test_what_is_kept_aside_is_bounded(self):
        self.folders.bad.mkdir()
        old = self.folders.bad / "old"
        with old.open("wb") as file:
            file.truncate(BAD_BYTES)
        os.utime(old, (1, 1))
        self.receive(b"garbage\n")
        self.take()
        self.assertFalse(old.exists())

    def test_a_crash_at_any_step_loses_nothing_and_doubles_nothing(self):
        def steps():
            for name in ("parsed", "written", "renamed"):
                yield name, partial(self.crash_in_worker, name)
            for name in ("stored", "unlink"):
                yield name, partial(self.crash_in_parent, name)

        total = 0
        for name, arrange in steps():
            for _ in range(3):
                self.receive()
                total += 1
            undo = arrange()
            self.failureResultOf(self.store.take())
            undo()
            self.open()
            self.take()
            self.assertEqual(total, self.count(), name)
            self.assertEqual(self.listed(), self.on_disk(), name)
            self.assertFalse(self.ledger.waits(1_000), name)

    def crash_in_worker(self, at):
        def step(name):
            if name == at:
                raise CrashError

        self.worker.step = step
        return lambda: setattr(self.worker, "step", lambda name: None)

    def crash_in_parent(self, at):
        def crash(*_, **__):
            raise CrashError

        if at == "stored":
            self.store.ledger = type("Crashing", (), {"waiting": self.ledger.waiting, "stored": crash})()
            return lambda: None
        before, done = Path.unlink, []

        def unlink(path, missing_ok=False):
            if path.suffix == ".zst":
                done.append(path)
                raise CrashError
            before(path, missing_ok=missing_ok)

        Path.unlink = unlink
        return lambda: setattr(Path, "unlink", before)

    def test_files_that_nothing_lists_are_not_read_and_go_at_the_start(self):
        self.receive()
        self.take()
        (name,) = self.listed()
        real = self.folders.store / name
        (real.parent / "12-00000000-00000000.parquet").write_bytes(real.read_bytes())
        (real.parent / ".x.parquet.new").write_bytes(b"half")
        self.assertEqual(1, self.count())
        self.open()
        self.assertEqual([name], self.on_disk())

    def test_a_segment_that_no_worker_survives_is_found_and_set_aside(self):
        segments = [self.receive(vs=vs) for vs in range(1, 9)]
        poison = segments[5]

        def fails(job):
            if isinstance(job, Ingest) and any(one.head == poison.head for one in job.segments):
                return LogWorkerDiedError(role="ingest", how="signal 11")
            return None

        self.worker.fails = fails
        self.failureResultOf(self.store.take(), LogWorkerDiedError)
        taken = self.take()
        self.assertEqual([poison], [one.segment for one in taken.bad])
        while self.take().segments:
            pass
        self.assertEqual(7, self.count())
        self.assertEqual([], self.kept())

    def test_a_worker_that_dies_once_costs_nothing(self):
        self.receive()
        self.worker.fails = lambda job: LogWorkerDiedError(role="ingest", how="killed")
        self.failureResultOf(self.store.take(), LogWorkerDiedError)
        self.worker.fails = lambda job: None
        self.assertEqual((), self.take().bad)
        self.assertEqual(1, self.count())

    def test_a_full_disk_blames_no_segment(self):
        self.receive()
        self.worker.fails = lambda job: LogStoreFullError(why="no space")
        for _ in range(3):
            self.failureResultOf(self.store.take(), LogStoreFullError)
        self.worker.fails = lambda job: None
        self.take()
        self.assertEqual(1, self.count())

    def test_small_files_become_one_with_all_their_records(self):
        for n in range(CLOSED_FILES):
            self.receive(line(path=f"/{n}"), vs=1)
            self.take()
        before = self.listed()
        self.now_us += 2 * 3_600_000_000
        done = self.successResultOf(self.store.keep_up(KEEPING))
        self.assertEqual(CLOSED_FILES, done.merged)
        self.assertEqual(1, len(self.listed()))
        self.assertNotIn(self.listed()[0], before)
        self.assertEqual(self.listed(), self.on_disk())
        top = self.successResultOf(self.store.query(Query(shape=Top(("path",), 10))))
        self.assertEqual(
            [(f"/{n}", 1) for n in range(CLOSED_FILES)], [(r["path"], r["count"]) for r in top.results]
        )
        self.assertEqual(0, self.successResultOf(self.store.keep_up(KEEPING)).merged)

    def test_files_that_cannot_be_merged_keep_no_others_from_it(self):
        for vs in (1, 2):
            for _ in range(CLOSED_FILES):
                self.receive(vs=vs, last_us=T0_US - (vs - 1) * 3_600_000_000)
                self.take()
        self.now_us += 2 * 3_600_000_000

        def fails(job):
            if isinstance(job, Merge) and any("/11-" in name for name in job.sources):
                return LogQueryMemoryError(why="a service engine's lines of a MiB")
            return None

        self.worker.fails = fails
        self.assertEqual(CLOSED_FILES, self.successResultOf(self.store.keep_up(KEEPING)).merged)
        self.assertEqual(2 * CLOSED_FILES, self.count())

    def test_a_crash_before_a_merge_is_listed_doubles_nothing(self):
        for _ in range(CLOSED_FILES):
            self.receive()
            self.take()
        self.now_us += 2 * 3_600_000_000
        replace = self.ledger.replace

        def crash(*_):
            raise CrashError

        self.ledger.replace = crash
        self.failureResultOf(self.store.keep_up(KEEPING), CrashError)
        self.ledger.replace = replace
        self.assertEqual(CLOSED_FILES, self.count())
        self.open()
        self.assertEqual(self.listed(), self.on_disk())
        self.assertEqual(CLOSED_FILES, self.count())

    def damaged(self, how, files=3):
        """The first of so many files of one record each, as bad as ``how`` makes it."""
        for n in range(files):
            self.receive(line(path=f"/{n}"))
            self.take()
        name = self.listed()[0]
        how(self.folders.store / name)
        return name

    def test_a_file_that_cannot_be_read_is_told_and_the_others_answer(self):
        def scribble(path):
            data = bytearray(path.read_bytes())
            data[4 : len(data) // 2] = b"x" * (len(data) // 2 - 4)
            path.write_bytes(data)

        ways = {
            "cut": lambda path: os.truncate(path, 1_000),
            "empty": lambda path: os.truncate(path, 0),
            "gone": Path.unlink,
            "scribbled": scribble,
        }
        for left, (way, how) in zip(range(2, 99, 2), ways.items(), strict=False):
            name = self.damaged(how)
            answer = self.successResultOf(self.store.query(Query(shape=Records(100))))
            self.assertEqual(left, len(answer.results), way)
            ((file, why),) = self.lost
            self.assertEqual((name, 1), (file.name, file.records), way)
            self.assertTrue(why)
            self.assertNotIn(name, self.listed())
            self.assertEqual(way != "gone", (self.folders.bad / Path(name).name).exists())
            self.lost.clear()

    def test_a_file_that_cannot_be_read_hinders_no_export_and_no_merge(self):
        self.damaged(lambda path: os.truncate(path, 1_000), CLOSED_FILES + 1)
        self.now_us += 2 * 3_600_000_000
        self.successResultOf(self.store.keep_up(KEEPING))
        self.assertEqual(1, len(self.lost))
        self.assertEqual(CLOSED_FILES, self.successResultOf(self.store.keep_up(KEEPING)).merged)
        os.truncate(self.folders.store / self.listed()[0], 1_000)
        target = self.folders.exports / "out.ndjson"
        done = self.successResultOf(
            self.store.export(Query(shape=Whole()), target, ExportTerms(ExportFormat.NDJSON, MIB))
        )
        self.assertEqual((0, 2), (done.records, len(self.lost)))

    def test_what_may_be_read_later_is_not_set_aside(self):
        name = self.damaged(lambda path: None)
        self.worker.fails = lambda job: LogQueryRefusedError(why=name) if isinstance(job, Ask) else None
        self.failureResultOf(self.store.query(Query()), LogQueryRefusedError)
        self.assertEqual(([], 3), (self.lost, len(self.listed())))

    def test_a_wall_clock_that_is_set_forward_removes_nothing(self):
        self.receive()
        self.take()
        self.store.around = attrs.evolve(self.store.around, steady=lambda: T0_US / 1e6 + 60)
        self.now_us += 10**15
        self.assertEqual(0, self.successResultOf(self.store.keep_up(Keeping(3_600_000_000, GIB))).removed)
        self.assertEqual(1, self.count())

    def test_a_clock_that_was_behind_when_files_came_in_makes_them_no_older(self):
        self.receive()
        self.take()
        year_us, right_us = 365 * 86_400_000_000, self.now_us
        self.now_us -= year_us
        self.open()
        self.receive()
        self.take()
        self.now_us = right_us + 60_000_000
        self.open()
        self.assertEqual(0, self.successResultOf(self.store.keep_up(Keeping(year_us // 12, GIB))).removed)
        self.assertEqual(2, self.count())

    def test_old_files_go(self):
        self.receive()
        self.take()
        self.now_us += 10_000_000
        done = self.successResultOf(self.store.keep_up(Keeping(1_000_000, GIB)))
        self.assertEqual((1, 1), (done.removed, done.removed_records))
        self.assertEqual((0, [], []), (self.count(), self.listed(), self.on_disk()))

    def test_exports_have_every_record(self):
        self.receive(line(path="/1") + line(path="/2"))
        self.take()
        target = self.folders.exports / "out.ndjson"
        done = self.successResultOf(
            self.store.export(Query(shape=Whole()), target, ExportTerms(ExportFormat.NDJSON, MIB))
        )
        self.assertEqual(2, done.records)
        self.assertEqual(2, target.read_bytes().count(b"\n"))
        self.open()
        self.assertFalse(target.exists())

    def test_an_export_that_is_given_up_leaves_nothing_however_late_the_worker_hears_of_it(self):
        self.receive()
        self.take()
        target = self.folders.exports / "out.ndjson"
        self.worker.later = ()
        asked = self.store.export(Query(shape=Whole()), target, ExportTerms(ExportFormat.NDJSON, MIB))
        job, over = self.worker.later
        asked.cancel()
        self.failureResultOf(asked, CancelledError)
        self.worker.engine.export(1, job)
        self.assertTrue(target.exists())
        over()
        self.assertEqual([], list(self.folders.exports.iterdir()))

    def test_an_export_whose_worker_dies_leaves_nothing(self):
        target = self.folders.exports / "out.ndjson"

        def dies(job):
            beside_of(target).write_bytes(b"half of it")
            return LogWorkerDiedError(role="query", how="signal 9")

        self.worker.fails = dies
        self.failureResultOf(
            self.store.export(Query(shape=Whole()), target, ExportTerms(ExportFormat.NDJSON, MIB)),
            LogWorkerDiedError,
        )
        self.assertEqual([], list(self.folders.exports.iterdir()))

    def test_what_the_engine_would_refuse_is_told_without_a_record(self):
        for text in (r"path~\p{Nope}", r"status=7 path~\p{Nope}", r"not (has path or path~\p{Nope})"):
            filter_ = parse(text, T0_US).filter
            self.assertEqual(0, self.successResultOf(self.store.query(Query(filter=filter_))).count)
            self.failureResultOf(self.store.check(Query(filter=filter_)), LogQueryRefusedError)
        good = r"path~^/a client in (10.0.0.0/8, ::/0) duration>1.5s status in (5xx, 404) has vs or host contains x"
        self.successResultOf(self.store.check(Query(filter=parse(good, T0_US).filter)))
        self.successResultOf(self.store.check(Query()))

    def test_status_says_what_there_is(self):
        self.receive()
        status = self.successResultOf(self.store.status())
        self.assertEqual((1, 0, None), (status.waiting.segments, status.files, status.first_us))
        self.take()
        status = self.successResultOf(self.store.status())
        self.assertEqual(
            (0, 1, 1, T0_US), (status.waiting.segments, status.files, status.records, status.first_us)
        )

    def test_errors_are_for_people(self):
        self.receive()
        self.worker.fails = lambda job: LogWorkerDiedError(role="query", how="signal 9")
        failure = self.failureResultOf(self.store.query(Query()))
        self.assertIsInstance(failure.value, AvinetError)
