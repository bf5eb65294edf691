"""DuckDB on its lead: what it answers, and what it must not do."""

from avinet.logs.store.engine import Engine, EngineError
from avinet.logs.store.ingest import ingest, merge
from avinet.logs.store.jobs import Export, ExportFormat, FailureKind, Merge, Select
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

    def test_exports_are_files_with_every_record(self):
        file = self.fill(paths=("/a", '/"quoted",\n', "/<b>"))
        for format_, start in (
            (ExportFormat.NDJSON, b'{"path":"/a"'),
            (ExportFormat.CSV, b"path,time"),
            (ExportFormat.PARQUET, b"PAR1"),
        ):
            target = self.exports / "out"
            exported = self.engine.export(
                1,
                Export(
                    sql="SELECT path, time FROM records WHERE status = $p0 ORDER BY time",
                    values={"p0": 200},
                    files=(file,),
                    target=str(target),
                    format=format_,
                    max_bytes=MIB,
                ),
            )
            data = target.read_bytes()
            self.assertEqual((3, len(data)), (exported.records, exported.size))
            self.assertTrue(data.startswith(start), data[:40])
            self.assertEqual(0o600, target.stat().st_mode & 0o777)
            target.unlink()

    def test_an_export_that_grows_too_large_leaves_nothing(self):
        ask = Export(
            sql="SELECT range FROM range(1000000000)",
            values={},
            files=(),
            target=str(self.exports / "out"),
            format=ExportFormat.NDJSON,
            max_bytes=MIB,
        )
        with self.assertRaises(EngineError) as caught:
            self.engine.export(1, ask)
        self.assertEqual(FailureKind.TOO_LARGE, caught.exception.kind)
        self.assertEqual([], self.files())

    def test_merging_keeps_every_record_and_sorts(self):
        files = [self.fill(f"{n}.parquet", vs=vs) for n, vs in enumerate((3, 1, 2, 1))]
        target = self.store / "day" / "merged.parquet"
        written = merge(
            Merge(sources=tuple(files), target=str(target)),
            lambda sources, beside: self.engine.sort(1, sources, beside),
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
