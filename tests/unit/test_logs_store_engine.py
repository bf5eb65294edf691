"""DuckDB on its lead: what it answers, and what it must not do."""

import csv
import io
import json
from unittest import mock

import pyarrow.parquet as pq

from avinet.logs.query.fields import FIELDS
from avinet.logs.query.shapes import Count, Percentiles, Query, Top, Whole
from avinet.logs.store.engine import Engine, EngineError, _Watched
from avinet.logs.store.ingest import ingest, merge
from avinet.logs.store.jobs import Ask, Export, ExportFormat, FailureKind, Merge, Select
from avinet.units import MIB
from tests.unit.log_store_kit import T0_US, job, line, segment, service
from tests.unit.test_logs_store_ingest import FolderTest


class EngineTest(FolderTest):
    def setUp(self):
        super().setUp()
        self.store, self.exports = self.folder / "store", self.folder / "exports"
        for folder in (self.store, self.exports):
            folder.mkdir(0o700)
        self.engine = Engine.open((self.store, self.exports), self.folder / "spill", 256 * MIB, 1)

    def fill(self, name="1.parquet", paths=("/a", "/b", "/a"), vs=1):
        raw = b"".join(line(T0_US + n, vs, path=path) for n, path in enumerate(paths))
        ingest(job(self.folder, segment(self.folder, raw, vs=vs), name=name))
        return str(self.store / "day" / name)

    def select(self, sql, files=(), **more):
        values = more.pop("values", {})
        return self.engine.select(1, Select(sql=sql, values=values, files=tuple(files), **more))

    def refused(self, sql, kind=FailureKind.REFUSED, files=(), **more):
        with self.assertRaises(EngineError) as caught:
            self.select(sql, files, **more)
        self.assertEqual(kind, caught.exception.kind)
        return caught.exception.why

    def test_the_files_that_it_is_given_are_the_table(self):
        first, second = self.fill(), self.fill("2.parquet", paths=("/c",))
        self.assertEqual([[3]], self.select("SELECT count(*) FROM records", (first,)).rows)
        self.assertEqual([[4]], self.select("SELECT count(*) FROM records", (first, second)).rows)
        self.assertEqual([[0]], self.select("SELECT count(*) FROM records").rows)

    def test_without_files_every_column_is_known(self):
        self.assertEqual([], self.select("SELECT time, client_low, path FROM records").rows)

    def test_values_are_bound_and_never_read_as_sql(self):
        file = self.fill(paths=("/sql');DROP TABLE records;--",))
        rows = self.select(
            "SELECT count(*) FROM records WHERE path = $p0",
            (file,),
            values={"p0": "/sql');DROP TABLE records;--"},
        )
        self.assertEqual([[1]], rows.rows)

    def test_answers_are_bounded_in_rows_and_bytes(self):
        file = self.fill(paths=["/" + "x" * 1_000] * 100)
        answer = self.select("SELECT path FROM records", (file,), max_rows=10)
        self.assertEqual((10, True), (len(answer.rows), answer.truncated))
        self.refused("SELECT path FROM records", FailureKind.TOO_LARGE, (file,), max_bytes=10_000)

    def test_times_are_microseconds(self):
        rows = self.select("SELECT time, [1, 2.5] FROM records ORDER BY time", (self.fill(),)).rows
        self.assertEqual([T0_US, [1.0, 2.5]], rows[0])

    def test_it_sees_no_other_file_and_writes_none(self):
        outside = self.folder / "secret.csv"
        outside.write_text("a\n1\n")
        for sql in (
            f"SELECT * FROM read_csv('{outside}')",
            f"SELECT * FROM read_text('{outside}')",
            f"SELECT * FROM '{outside}'",
            f"SELECT * FROM read_text('{self.store}/../secret.csv')",
            "SELECT * FROM glob('/etc/*')",
            f"COPY (SELECT 1) TO '{self.folder}/out.csv'",
            f"ATTACH '{self.folder}/x.db'",
        ):
            self.refused(sql, FailureKind.REFUSED)
        self.assertEqual(["secret.csv"], self.files())

    def test_its_configuration_is_locked_and_extensions_stay_out(self):
        for sql in (
            "SET memory_limit = '100GB'",
            "SET enable_external_access = true",
            "SET lock_configuration = false",
            "SET allowed_directories = ['/']",
            "INSTALL httpfs",
            "LOAD httpfs",
            "SELECT * FROM read_csv('https://127.0.0.1:1/x')",
        ):
            self.refused(sql)

    def test_a_query_that_takes_too_much_memory_fails_and_the_next_one_works(self):
        self.refused("SELECT list(range), list(range + 1) FROM range(100000000)", FailureKind.MEMORY)
        self.assertEqual([[1]], self.select("SELECT 1").rows)

    def export(self, file, format_, **more):
        target = self.exports / "out"
        facts = {"query": Query(shape=Whole()), "max_bytes": MIB} | more
        return target, self.engine.export(
            1, Export(files=(file,), target=str(target), format=format_, **facts)
        )

    def test_exports_are_files_with_every_record_and_field(self):
        paths = ("/a", '/"quoted",\n', "/<b>")
        file = self.fill(paths=paths)
        for format_ in ExportFormat:
            target, exported = self.export(file, format_)
            data = target.read_bytes()
            self.assertEqual((3, len(data)), (exported.records, exported.size))
            self.assertEqual(0o600, target.stat().st_mode & 0o777)
            rows = {
                ExportFormat.NDJSON: lambda target: [
                    json.loads(one) for one in target.read_text().splitlines()
                ],
                ExportFormat.CSV: lambda target: list(
                    csv.DictReader(io.StringIO(target.read_text(), newline=""))
                ),
                ExportFormat.PARQUET: lambda target: pq.read_table(target).to_pylist(),
            }[format_](target)
            self.assertEqual(list(paths), [row["path"] for row in rows])
            self.assertEqual(list(FIELDS), list(rows[0]))
            self.assertEqual("12.5", str(rows[0]["duration_ms"]))
            if format_ is not ExportFormat.PARQUET:
                self.assertEqual("2026-11-27T12:00:00.000001Z", rows[1]["time"])
            target.unlink()

    def test_an_export_that_is_too_large_leaves_nothing(self):
        file = self.fill()
        with self.assertRaises(EngineError) as caught:
            self.export(file, ExportFormat.NDJSON, max_bytes=100)
        self.assertEqual(FailureKind.TOO_LARGE, caught.exception.kind)
        self.assertEqual(["store/day/1.parquet"], self.files())

    def test_an_export_that_grows_too_large_is_stopped(self):
        target = self.exports / "out"
        target.touch()
        copy = f"COPY (SELECT range FROM range(1000000000)) TO '{target}' (USE_TMP_FILE false)"
        with (
            self.assertRaises(EngineError) as caught,
            self.engine._cursor(1) as cursor,
            _Watched(target, MIB, cursor),
        ):
            cursor.execute(copy)
        self.assertEqual(FailureKind.TOO_LARGE, caught.exception.kind)

    def test_a_query_is_answered_as_people_get_it(self):
        file = self.fill()
        found = self.engine.ask(1, Ask(query=Query(shape=Top(("path",), 1)), files=(file,)))
        self.assertEqual(({"path": "/a", "count": 2},), found.answer.results)
        self.assertFalse(found.answer.approximate)

    def test_what_takes_too_much_memory_is_estimated_where_that_can_be(self):
        exact, seen = self.engine.select, []

        def select(number, job):
            seen.append(job.sql)
            if len(seen) == 1:
                raise EngineError(FailureKind.MEMORY, "too much")
            return exact(number, job)

        file = self.fill()
        with mock.patch.object(Engine, "select", lambda _, number, job: select(number, job)):
            found = self.engine.ask(1, Ask(query=Query(shape=Percentiles("duration_ms")), files=(file,)))
            self.assertTrue(found.answer.approximate)
            self.assertIn("APPROX_QUANTILE", seen[1])
            seen.clear()
            with self.assertRaises(EngineError):
                self.engine.ask(1, Ask(query=Query(shape=Count()), files=(file,)))
            self.assertEqual(1, len(seen))

    def test_merging_keeps_every_record_and_sorts(self):
        files = [self.fill(f"{n}.parquet", vs=vs) for n, vs in enumerate((3, 1, 2, 1))]
        target = self.store / "day" / "merged.parquet"
        written = merge(
            Merge(sources=tuple(files), target=str(target)),
            lambda *of: self.engine.sort(1, *of),
        )
        self.assertEqual(
            (12, T0_US, T0_US + 2, (service(1), service(2), service(3)), target.stat().st_size),
            (written.records, written.first_us, written.last_us, written.services, written.size),
        )
        self.assertEqual(0o600, target.stat().st_mode & 0o777)
        rows = self.rows("merged.parquet")
        keys = [(row["vs_uuid"], row["time"]) for row in rows]
        self.assertEqual(sorted(keys), keys)
        self.assertEqual(
            self.select("SELECT * FROM records ORDER BY ALL", files).rows,
            self.select("SELECT * FROM records ORDER BY ALL", (str(target),)).rows,
        )
