"""Segments to a file, with whatever a hostile service engine puts into them, and a crash at every step."""

import shutil
import tempfile
from pathlib import Path

import pyarrow.parquet as pq
import zstandard
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.logs.store.frames import Frames, frame
from avinet.logs.store.ingest import BAD_LINES_BYTES, MAX_BAD_LINES, ingest
from avinet.logs.store.jobs import MAX_FRAME_BYTES, Answered, Asked, Select, Written
from avinet.logs.store.segments import SegmentBadError, read_segment
from avinet.model.logs import MAX_SEGMENT_RAW_BYTES
from tests.unit.log_store_kit import T0_US, job, line, segment, service


class FolderTest(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-store-"))
        self.addCleanup(shutil.rmtree, self.folder)

    def files(self):
        return sorted(
            str(path.relative_to(self.folder))
            for path in self.folder.rglob("*")
            if path.suffix != ".zst" and path.is_file()
        )

    def rows(self, name="1.parquet"):
        return pq.read_table(self.folder / "store" / "day" / name).to_pylist()


class SegmentsTest(FolderTest):
    def bad(self, one):
        with self.assertRaises(SegmentBadError) as caught:
            read_segment(Path(one.path), one.head)
        return caught.exception.why

    def test_what_was_written_is_read(self):
        raw = b"".join(line(T0_US + n) for n in range(1_000))
        one = segment(self.folder, raw)
        self.assertEqual(raw, bytes(read_segment(Path(one.path), one.head)))

    def test_a_segment_that_ends_anywhere_before_its_end_is_bad(self):
        one = segment(self.folder, line() * 3)
        path = Path(one.path)
        whole = path.read_bytes()
        for cut in range(len(whole) - 1):
            path.write_bytes(whole[:cut])
            self.assertTrue(self.bad(one), cut)

    def test_a_segment_with_other_bytes_is_bad(self):
        one = segment(self.folder, line() * 3)
        Path(one.path).write_bytes(b"no zstd at all" * 10)
        self.assertIn("nknown frame", self.bad(one))

    def test_more_than_was_said_is_bad_and_not_unpacked(self):
        one = segment(self.folder, b"\0" * 50_000_000, raw_bytes=1_000)
        self.assertEqual("it goes on after 1000 bytes", self.bad(one))

    def test_a_ratio_that_zstd_has_not_is_bad_unseen(self):
        one = segment(self.folder, line(), raw_bytes=50_000_000)
        self.assertIn("would become 50000000", self.bad(one))

    def test_no_content_has_a_ratio_that_is_refused(self):
        one = segment(self.folder, b"\0" * MAX_SEGMENT_RAW_BYTES)
        self.assertGreater(one.head.raw_bytes, 32_000 * one.head.size)
        self.assertEqual(MAX_SEGMENT_RAW_BYTES, len(read_segment(Path(one.path), one.head)))

    def test_a_window_that_would_take_memory_is_bad(self):
        raw = b"".join(line(T0_US + n) for n in range(1_000))
        one = segment(self.folder, raw)
        parameters = zstandard.ZstdCompressionParameters(window_log=27)
        compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
        Path(one.path).write_bytes(compressor.compress(raw) + compressor.flush())
        self.assertIn("memory", self.bad(one).lower())


class IngestTest(FolderTest):
    def test_a_file_has_the_records_of_all_segments_by_service(self):
        segments = [
            segment(self.folder, b"".join(line(T0_US + n, vs) for n in range(10)), vs=vs, counter=n)
            for n, vs in enumerate((3, 1, 2, 1), 1)
        ]
        written = ingest(job(self.folder, *segments))
        self.assertEqual(
            (40, T0_US, T0_US + 9, (service(1), service(2), service(3)), (), ()),
            (
                written.records,
                written.first_us,
                written.last_us,
                written.services,
                written.bad,
                written.bad_lines,
            ),
        )
        rows = self.rows()
        self.assertEqual(sorted(row["vs_uuid"] for row in rows), [row["vs_uuid"] for row in rows])
        path = self.folder / "store" / "day" / "1.parquet"
        self.assertEqual((0o600, written.size), (path.stat().st_mode & 0o777, path.stat().st_size))
        self.assertEqual(0o700, path.parent.stat().st_mode & 0o777)

    def test_a_segment_of_nothing_but_bad_lines_is_given_up_before_all_of_them_were_looked_at(self):
        good = segment(self.folder, line(), counter=1)
        flood = segment(self.folder, b"x\n" * 10_000_000, counter=2, size=10_000_000)
        written = ingest(job(self.folder, good, flood))
        self.assertEqual((1, ()), (written.records, written.bad_lines))
        ((number, why),) = [(one.number, one.why) for one in written.bad]
        self.assertEqual(1, number)
        self.assertIn(f"more than {MAX_BAD_LINES} of its lines", why)

    def test_a_bad_segment_and_bad_lines_are_told_and_the_rest_goes_on(self):
        good = segment(self.folder, line() + b"garbage\n" + line(vs=7) + line(), counter=1)
        bad = segment(self.folder, line(), counter=2)
        Path(bad.path).write_bytes(b"x")
        gone = segment(self.folder, line(), counter=3)
        Path(gone.path).unlink()
        written = ingest(job(self.folder, bad, good, gone))
        self.assertEqual(2, written.records)
        self.assertEqual([0, 2], sorted(one.number for one in written.bad))
        ((number, lines),) = [(one.number, one.lines) for one in written.bad_lines]
        self.assertEqual((1, 2), (number, lines))
        aside = (self.folder / "bad" / "1.parquet.ndjson").read_bytes()
        self.assertEqual(b"garbage\n" + line(vs=7), aside)

    def test_without_a_record_there_is_no_file(self):
        written = ingest(job(self.folder, segment(self.folder, b"garbage\n")))
        self.assertEqual((0, 0), (written.records, written.size))
        self.assertEqual(["bad/1.parquet.ndjson"], self.files())

    def test_what_is_set_aside_is_bounded(self):
        raw = b"".join(b"garbage %d %s\n" % (n, b"x" * 2_000) for n in range(2_000))
        written = ingest(job(self.folder, segment(self.folder, raw)))
        self.assertEqual(2_000, written.bad_lines[0].lines)
        self.assertLessEqual((self.folder / "bad" / "1.parquet.ndjson").stat().st_size, BAD_LINES_BYTES)

    def test_row_groups_end_with_a_service_that_is_large_enough(self):
        segments = [
            segment(self.folder, b"".join(line(T0_US + n, vs) for n in range(9_000)), vs=vs, counter=counter)
            for counter, vs in enumerate((1, 2), 1)
        ] + [segment(self.folder, line(vs=vs) * 10, vs=vs, counter=vs) for vs in range(3, 30)]
        ingest(job(self.folder, *segments))
        metadata = pq.read_metadata(self.folder / "store" / "day" / "1.parquet")
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        self.assertEqual([9_000, 9_000, 270], [group.num_rows for group in groups])
        column = metadata.schema.names.index("vs_uuid")
        bounds = [(g.column(column).statistics.min, g.column(column).statistics.max) for g in groups]
        self.assertEqual(
            [(service(1), service(1)), (service(2), service(2)), (service(3), service(29))], bounds
        )

    def test_a_crash_at_any_step_leaves_no_file_or_a_whole_one(self):
        one = segment(self.folder, line() * 5)
        steps = []
        ingest(job(self.folder, one), steps.append)
        self.assertEqual(["parsed", "written", "renamed"], steps)
        shutil.rmtree(self.folder / "store")
        for name in steps:

            def crash(step, name=name):
                if step == name:
                    raise RuntimeError

            with self.assertRaises(RuntimeError):
                ingest(job(self.folder, one), crash)
            if name != "renamed":
                self.assertEqual([], self.files(), name)
        self.assertEqual(5, len(self.rows()))


class FramesTest(SynchronousTestCase):
    def test_messages_come_out_however_they_are_cut(self):
        asked = [Asked(1, Select(sql="SELECT 1", values={"p0": "x"}, files=("a",))), Asked(1), Asked(2)]
        data = b"".join(map(frame, asked))
        for size in (1, 2, 3, 7, len(data)):
            frames = Frames(Asked)
            got = [
                message
                for start in range(0, len(data), size)
                for message in frames.receive(data[start : start + size])
            ]
            self.assertEqual(asked, got)

    def test_what_is_no_message_is_refused(self):
        for data in (b"\0\0\0\1\xc1", (MAX_FRAME_BYTES + 1).to_bytes(4) + b"x", frame(Asked(1))):
            with self.assertRaises(RemoteProtocolError):
                Frames(Answered).receive(data)

    def test_answers_of_every_kind_keep_their_kind(self):
        answer = Answered(5, Written(records=3, services=("a",)))
        self.assertEqual([answer], Frames(Answered).receive(frame(answer)))
