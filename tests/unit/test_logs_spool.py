"""The spool keeps what it takes in, hands it out, and counts what it loses."""

import errno
import shutil
import tempfile
from pathlib import Path
from unittest import mock

import zstandard
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs import spool_gathering, spool_growing, spool_window
from avinet.logs.reach import LogStore, Reach
from avinet.logs.spool import Spool, SpoolLimits
from avinet.logs.spool_lending import SegmentGoneError
from avinet.logs.spool_packs import whole
from avinet.logs.spool_pieces import Pieces
from avinet.logs.throttle import Throttle, Throttles
from avinet.model.logs import DropReason, LogClass, Selection, piece_name
from avinet.sqlite_file import StoreDamagedError
from tests.unit.log_lines import BASE_US, line, service

FULL, SIGNIFICANT = LogClass.FULL, LogClass.SIGNIFICANT
S = 1_000_000


class Kit(SynchronousTestCase):
    """A spool in a folder of its own; what Envoy writes is ``write``."""

    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder, self.logs = Path(held.name, "logs"), Path(held.name, "data-plane")
        self.logs.mkdir()
        self.now = BASE_US / S
        self.spool = None
        self.last_piece = 0
        self.open()
        self.addCleanup(lambda: self.spool.close())  # noqa: PLW0108 - the one of that time

    def open(self):
        if self.spool is not None:
            self.spool.close()
        self.spool = Spool.open(self.folder, self.logs, lambda: self.now)

    def small_chunks(self, window_bytes=1000):
        self.patch(spool_window, "CHUNK_BYTES", 1000)
        self.patch(spool_window, "WINDOW_BYTES", window_bytes)

    def write(self, log_class, *lines):
        with (self.logs / f"{log_class}.ndjson").open("ab") as file:
            file.write(b"".join(lines))

    def rotate(self, log_class):
        self.last_piece += 1
        (self.logs / f"{log_class}.ndjson").rename(self.logs / piece_name(log_class, self.last_piece))

    def take_in(self):
        for piece in self.spool.pieces():
            while not self.spool.take_in(piece).done:
                pass

    def spooled(self, log_class, *lines):
        self.write(log_class, *lines)
        self.rotate(log_class)
        self.take_in()

    def lend(self, names):
        reach = Reach(LogStore("c1", "1" * 32), None, {})
        borrower = self.spool.lending.borrower()
        borrower.pin(names, reach)
        return borrower.lend(names, reach)

    def heads(self, **selection):
        return self.spool.pending(Selection(**selection), None, 0, 1000)

    def content(self, head):
        place = self.spool.lending.place(head.name)
        with place.path.open("rb") as file:
            file.seek(place.offset)
            data = file.read(place.size)
        self.assertEqual(len(data), head.size)
        return zstandard.ZstdDecompressor().decompress(data)

    def drops(self, position=0):
        drops, self.position = self.spool.drops_since(position)
        return [(d.reason, d.service, d.records) for d in drops]


class Spooling(Kit):
    def test_a_piece_becomes_a_segment_for_each_service_and_is_gone(self):
        self.spooled(FULL, line(1, path="/a"), line(2, BASE_US + 3), line(1, BASE_US + 9, path="/b"))
        first, second = self.heads()
        self.assertEqual(
            (first.service, first.records, first.first_us, first.last_us),
            (service(1), 2, BASE_US, BASE_US + 9),
        )
        self.assertEqual(self.content(first), line(1, path="/a") + line(1, BASE_US + 9, path="/b"))
        self.assertEqual(self.content(second), line(2, BASE_US + 3))
        self.assertEqual([first.counter, second.counter, self.spool.last_counter()], [1, 2, 2])
        self.assertEqual({first.incarnation}, {self.spool.incarnation})
        self.assertEqual(list(self.logs.iterdir()), [])
        totals = self.spool.totals()
        self.assertEqual(totals.growing_bytes, 0)
        self.assertEqual((totals.full.segments, totals.full.records, totals.significant.segments), (2, 3, 0))
        self.assertEqual(totals.full.oldest_us, BASE_US)
        for file in (*self.folder.rglob("*.pack"), self.folder / "spool.db"):
            self.assertEqual(file.stat().st_mode & 0o777, 0o600)

    def test_what_is_in_no_segment_yet_is_told_by_its_bytes(self):
        self.write(FULL, line(1))
        self.rotate(FULL)
        self.write(FULL, line(2))
        self.write(SIGNIFICANT, line(3))
        self.assertEqual(self.spool.totals().growing_bytes, len(line(1) + line(2)))
        self.take_in()
        self.assertEqual(self.spool.totals().growing_bytes, len(line(2)))

    def test_of_a_piece_that_is_half_taken_in_what_is_left_is_told(self):
        self.write(FULL, line(1), line(2))
        self.rotate(FULL)
        (piece,) = self.spool.pieces()
        self.spool._index.store((), (), piece.name, len(line(1)))
        self.assertEqual(self.spool.totals().growing_bytes, len(line(2)))

    def test_all_is_as_it_was_after_a_restart(self):
        self.spooled(FULL, line(1), line(2))
        self.spooled(SIGNIFICANT, line(1, status=500))
        heads, totals, incarnation = self.heads(), self.spool.totals(), self.spool.incarnation
        self.open()
        self.assertEqual(
            (self.heads(), self.spool.totals(), self.spool.incarnation), (heads, totals, incarnation)
        )
        self.spooled(FULL, line(1))
        self.assertEqual(self.heads()[-1].counter, 4)

    def test_a_selection_is_by_service_class_time_and_counter(self):
        self.spooled(FULL, line(1), line(2, BASE_US + 10))
        self.spooled(SIGNIFICANT, line(1, BASE_US + 20), line(3, BASE_US + 30))

        def counters(up_to=None, after=0, limit=10, **selection):
            chosen = Selection(**selection)
            found = [head.counter for head in self.spool.pending(chosen, up_to, after, limit)]
            if limit == 10 and not after:
                self.assertEqual(self.spool.plan(chosen, up_to).segments, len(found))
            return found

        self.assertEqual(counters(), [1, 2, 3, 4])
        self.assertEqual(counters(services=(service(1),)), [1, 3])
        self.assertEqual(counters(services=(service(1), service(3))), [1, 3, 4])
        self.assertEqual(counters(classes=(SIGNIFICANT,)), [3, 4])
        self.assertEqual(counters(classes=()), [])
        self.assertEqual(counters(since_us=BASE_US + 10, until_us=BASE_US + 20), [2, 3])
        self.assertEqual(counters(up_to=3, after=1), [2, 3])
        self.assertEqual(counters(limit=2, after=1), [2, 3])

    def test_acknowledged_segments_go_and_their_pack_with_the_last(self):
        self.spooled(FULL, line(1), line(2))
        first, second = self.heads()
        place = self.spool.lending.place(first.name)
        self.spool.acknowledge([first.name, "0" * 32 + "-0000000000000001", "what", first.name])
        self.assertEqual(self.heads(), [second])
        self.assertRaises(SegmentGoneError, self.spool.lending.place, first.name)
        self.assertEqual(self.content(second), line(2))
        self.spool.enforce()
        with place.path.open("rb") as file:
            self.assertEqual(file.read(first.size), bytes(first.size))
        self.spool.acknowledge([second.name])
        self.spool.sweep()
        self.assertFalse(place.path.exists())
        self.assertEqual(self.drops(), [])
        self.assertEqual(self.spool.totals().full.size, 0)

    def test_what_is_acknowledged_and_still_on_the_disk_is_not_found_by_who_makes_the_index_anew(self):
        self.spooled(FULL, line(1), line(2))
        self.spooled(FULL, line(1))
        first, second, third = self.heads()
        self.spool.acknowledge([first.name, third.name])
        self.spool.repair()
        self.assertEqual(self.heads(), [second])
        self.assertEqual(self.content(second), line(2))

    def test_a_full_disk_takes_what_is_acknowledged_before_it_takes_what_is_not(self):
        self.spooled(FULL, line(1))
        self.spooled(FULL, line(2))
        first, second = self.heads()
        self.spool.acknowledge([first.name])
        self.assertTrue(self.spool._make_room())
        self.assertEqual((self.heads(), self.drops()), ([second], []))

    def test_a_refused_segment_is_set_aside_and_counted(self):
        self.spooled(SIGNIFICANT, line(1), line(2))
        first, second = self.heads()
        data = self.spool.lending.place(first.name).path.read_bytes()[: first.size]
        self.spool.refused(first.name, "its hash is another")
        self.spool.refused(first.name, "its hash is another")
        self.assertEqual(self.heads(), [second])
        self.assertEqual((self.folder / "bad" / f"{first.name}.zst").read_bytes(), data)
        self.assertEqual(self.drops(), [(DropReason.CORRUPT, service(1), 1)])
        self.assertEqual((self.folder / "bad" / f"{first.name}.zst").stat().st_mode & 0o077, 0)
        shutil.rmtree(self.folder / "bad")
        self.spool.refused(second.name, "its hash is another")
        self.assertEqual(self.heads(), [])

    def test_what_is_kept_can_be_said_though_the_data_planes_folder_cannot_be_entered(self):
        self.spooled(SIGNIFICANT, line(1))
        self.patch(Pieces, "all", mock.Mock(side_effect=PermissionError))
        self.assertEqual(self.spool.totals().significant.segments, 1)

    def test_folders_that_somebody_removes_are_made_anew_and_what_was_in_them_is_counted(self):
        self.spooled(SIGNIFICANT, line(1), line(2))
        shutil.rmtree(self.folder / "segments")
        self.spool.look_after()
        self.assertEqual((self.heads(), [one[2] for one in self.drops()]), ([], [1, 1]))
        self.spooled(SIGNIFICANT, line(1))
        self.assertEqual(len(self.heads()), 1)
        shutil.rmtree(self.folder)
        with self.assertRaises(StoreDamagedError):
            self.spool.look_after()
        self.spool.repair()
        self.spool.look_after()
        self.spooled(SIGNIFICANT, line(2))
        self.assertEqual(len(self.heads()), 1)

    def test_a_piece_of_many_chunks_is_taken_in_by_and_by(self):
        self.small_chunks()
        lines = [line(n % 3, BASE_US + n, n=n) for n in range(100)]
        self.spooled(FULL, *lines)
        self.assertGreater(len(self.heads()), 20)
        got = b"".join(map(self.content, self.heads()))
        self.assertEqual(sorted(got.splitlines(True)), sorted(lines))
        self.assertEqual(self.drops(), [])

    def test_a_line_longer_than_a_chunk_is_dropped_and_the_next_kept(self):
        self.small_chunks()
        self.spooled(FULL, line(1), line(2, path="x" * 5000), line(3))
        self.assertEqual([head.service for head in self.heads()], [service(1), service(3)])
        self.assertIn(DropReason.TORN, [reason for reason, _, _ in self.drops()])

    def test_significant_pieces_come_first(self):
        self.write(FULL, line(1))
        self.rotate(FULL)
        self.write(SIGNIFICANT, line(1))
        self.rotate(SIGNIFICANT)
        self.write(FULL, line(2))
        self.open()
        self.rotate(FULL)
        self.assertEqual([piece.name for piece in self.spool.pieces()], ["significant.2", "full.1", "full.3"])

    def test_throttled_records_are_counted_by_service(self):
        self.spool.set_throttles(Throttles(full=Throttle(per_se=3, per_service={service(1): 1})))
        lines = [line(n % 2 + 1, BASE_US + n) for n in range(8)] + [line(1, BASE_US + S)]
        self.spooled(FULL, *lines)
        self.spooled(SIGNIFICANT, *lines)
        kept = {(h.log_class, h.service): self.content(h) for h in self.heads()}
        self.assertEqual(kept[FULL, service(1)], lines[0] + lines[8])
        self.assertEqual(kept[FULL, service(2)], lines[1] + lines[3])
        self.assertEqual(kept[SIGNIFICANT, service(2)].count(b"\n"), 4)
        self.assertEqual(
            sorted(self.drops()),
            [(DropReason.THROTTLED, service(1), 3), (DropReason.THROTTLED, service(2), 2)],
        )
        self.assertEqual(self.spool.totals().drops, {DropReason.THROTTLED: 5})


class Limits(Kit):
    def test_the_oldest_full_segments_go_first_and_significant_ones_last(self):
        for n in range(3):
            self.spooled(SIGNIFICANT, line(1, BASE_US + n))
            self.spooled(FULL, line(2, BASE_US + n))
        self.spool.set_limits(SpoolLimits(max_segments=4))
        self.spool.enforce()
        self.assertEqual([head.counter for head in self.heads()], [1, 3, 5, 6])
        self.spool.set_limits(SpoolLimits(max_bytes=max(head.size for head in self.heads())))
        self.spool.enforce()
        self.assertEqual([head.counter for head in self.heads()], [5])
        self.assertEqual(
            sorted(self.drops()),
            [(DropReason.SPOOL_FULL, service(1), 2), (DropReason.SPOOL_FULL, service(2), 3)],
        )
        self.assertEqual(len(list((self.folder / "segments").iterdir())), 1)

    def test_the_limit_holds_while_a_piece_is_taken_in(self):
        self.spool.set_limits(SpoolLimits(max_segments=2))
        for n in range(5):
            self.spooled(FULL, line(n))
        self.assertEqual([head.counter for head in self.heads()], [4, 5])

    def test_what_is_too_old_goes(self):
        self.spooled(SIGNIFICANT, line(1))
        self.spooled(FULL, line(1, BASE_US + 50 * S))
        self.spool.set_limits(SpoolLimits(max_age_s=100))
        self.now += 120
        self.spool.enforce()
        self.assertEqual([head.log_class for head in self.heads()], [FULL])
        self.assertEqual(self.drops(), [(DropReason.EXPIRED, service(1), 1)])

    def test_what_is_raw_counts_and_makes_full_segments_go(self):
        self.spooled(SIGNIFICANT, line(1))
        self.spooled(FULL, line(2))
        self.write(FULL, line(3, path="x" * 5000))
        self.spool.set_limits(SpoolLimits(max_bytes=2000))
        self.spool.enforce()
        self.assertEqual([head.log_class for head in self.heads()], [SIGNIFICANT])
        self.assertEqual(self.drops(), [(DropReason.SPOOL_FULL, service(2), 1)])
        self.assertTrue((self.logs / "full.ndjson").stat().st_size)  # whoever writes it has it open

    def test_the_oldest_pieces_go_when_no_full_segment_is_left(self):
        self.small_chunks()
        self.spooled(SIGNIFICANT, line(1))
        for n in range(3):
            self.write(FULL, *[line(n, BASE_US + i, path="y" * 400) for i in range(6)])
            self.rotate(FULL)
        self.write(SIGNIFICANT, line(1))
        self.rotate(SIGNIFICANT)
        sizes = [piece.path.stat().st_size for piece in self.spool.pieces()]
        self.spool.set_limits(SpoolLimits(max_bytes=sum(sizes[2:]) + 1000))
        self.spool.enforce(final=True)
        self.assertEqual([piece.name for piece in self.spool.pieces()], ["significant.5", "full.3", "full.4"])
        self.assertEqual(self.drops(), [(DropReason.SPOOL_FULL, service(0), 6)])
        [head] = self.heads()
        self.assertEqual(head.log_class, SIGNIFICANT)
        self.spool.set_limits(SpoolLimits(max_bytes=0))
        self.spool.enforce(final=True)
        self.assertEqual((self.heads(), list(self.logs.iterdir())), ([], []))
        self.assertEqual(sum(records for _, _, records in self.drops()), 20)

    def test_a_piece_that_is_still_written_loses_its_oldest_lines_only(self):
        size = 64 * 1024  # of the disk, whole blocks are given back
        self.patch(spool_window, "CHUNK_BYTES", size)
        lines = [line(n % 3, BASE_US + n, path="z" * 1000) for n in range(200)]
        self.write(FULL, *lines)
        self.rotate(FULL)
        [piece] = self.spool.pieces()
        with piece.path.open("ab") as envoy:
            self.spool.set_limits(SpoolLimits(max_bytes=2 * size))
            self.spool.enforce()
            self.assertLess(self.spool._pieces.disk_bytes(FULL), 2 * size)
            envoy.write(line(7))
        lost = self.spool.totals().drops[DropReason.SPOOL_FULL]
        self.assertIn(lost, range(50, 150))
        self.take_in()
        kept = b"".join(map(self.content, self.heads()))
        self.assertEqual(sorted(kept.splitlines(True)), sorted([*lines[lost:], line(7)]))
        self.assertEqual(set(self.spool.totals().drops), {DropReason.SPOOL_FULL})

    def test_raw_logs_that_are_taken_in_make_no_significant_segment_go(self):
        self.small_chunks()
        self.spooled(SIGNIFICANT, line(1))
        self.spool.set_limits(SpoolLimits(max_bytes=3000))
        self.spooled(FULL, *[line(2, BASE_US + n) for n in range(60)])
        self.assertEqual({head.log_class for head in self.heads()}, {SIGNIFICANT, FULL})

    def test_what_is_being_sent_goes_after_all_others_of_its_class(self):
        for n in range(3):
            self.spooled(FULL, line(n))
        first, second, _ = self.heads()
        self.lend([first.name, second.name])
        self.spool.set_limits(SpoolLimits(max_segments=2))
        self.spool.enforce()
        self.assertEqual(self.heads(), [first, second])
        self.spool.lending.give_back([second.name])
        self.spool.set_limits(SpoolLimits(max_segments=1))
        self.spool.enforce()
        self.assertEqual(self.heads(), [first])
        self.spool.acknowledge([first.name])
        self.assertEqual(self.spool.lending.lent, set())
        self.assertEqual(
            sorted(self.drops()),
            [(DropReason.SPOOL_FULL, service(1), 1), (DropReason.SPOOL_FULL, service(2), 1)],
        )

    def test_what_is_being_sent_does_not_expire_meanwhile(self):
        self.spooled(FULL, line(1), line(2))
        first, _ = self.heads()
        self.lend([first.name])
        self.spool.set_limits(SpoolLimits(max_age_s=100))
        self.now += 120
        self.spool.enforce()
        self.assertEqual(self.heads(), [first])
        self.spool.lending.give_back([first.name])
        self.spool.enforce()
        self.assertEqual(self.heads(), [])
        self.assertEqual(sum(records for _, _, records in self.drops()), 2)

    def test_the_limit_holds_even_if_all_is_being_sent(self):
        for n in range(2):
            self.spooled(FULL, line(n))
        for head in self.heads():
            self.lend([head.name])
        self.spool.set_limits(SpoolLimits(max_segments=1))
        self.spool.enforce()
        self.assertEqual([head.service for head in self.heads()], [service(1)])


class Gathered(Kit):
    """Services with few lines in a chunk."""

    def setUp(self):
        super().setUp()
        self.small_chunks(window_bytes=100_000)
        self.patch(spool_gathering, "LARGE_BYTES", 2000)

    def piece(self, lines):
        self.spooled(FULL, *lines)
        heads = self.heads()
        for head in heads:
            mine = [text for text in lines if head.service.encode() in text]
            self.assertIn(self.content(head), b"".join(mine))
            times = [int(text[30:36]) for text in self.content(head).splitlines()]
            self.assertEqual((head.first_us % S, head.last_us % S), (min(times), max(times)))
            self.assertEqual(head.records, len(times))
        got = b"".join(map(self.content, heads))
        self.assertEqual(sorted(got.splitlines(True)), sorted(lines))
        return heads

    def test_their_lines_wait_for_those_of_the_next_chunks(self):
        lines = [line(n % 50, BASE_US + n) for n in range(200)]
        heads = self.piece(lines)
        self.assertEqual(
            {(head.service, head.records) for head in heads}, {(service(n), 4) for n in range(50)}
        )
        self.assertEqual(len({self.spool.lending.place(head.name).path for head in heads}), 1)

    def test_those_with_many_go_on_until_they_are_large(self):
        self.patch(spool_gathering, "LARGE_BYTES", 500)
        self.patch(spool_growing, "GROWN_BYTES", 9000)
        lines = [line(0 if n % 5 else n, BASE_US + n) for n in range(600)]
        heads = self.piece(lines)
        sizes = [head.raw_bytes for head in heads if head.service == service(0)][:-1]
        self.assertGreater(len(sizes), 3)
        self.assertTrue(all(9000 <= size < 10_000 for size in sizes), sizes)
        for head in heads:
            place = self.spool.lending.place(head.name)
            frame = place.path.read_bytes()[place.offset :]
            self.assertEqual(zstandard.frame_content_size(frame), head.raw_bytes)

    def test_no_more_go_on_than_there_are_compressors(self):
        self.patch(spool_gathering, "LARGE_BYTES", 300)
        self.patch(spool_growing, "OPEN", 1)
        lines = [line(n % 2, BASE_US + n) for n in range(600)]
        heads = self.piece(lines)
        by_service = [sum(head.service == service(n) for head in heads) for n in (0, 1)]
        self.assertEqual(min(by_service), 1)
        self.assertGreater(max(by_service), 5)

    def test_what_goes_on_does_not_hold_more_than_it_may(self):
        self.patch(spool_window, "CHUNK_BYTES", 50_000)
        self.patch(spool_window, "WINDOW_BYTES", 1_000_000)
        self.patch(spool_growing, "HELD_BYTES", 500)
        lines = [line(0, BASE_US + n, path=f"/{n * 2**61 % 10**18}" * 10) for n in range(1500)]
        self.assertGreater(len(self.piece(lines)), 2)

    def test_without_room_what_waits_becomes_segments(self):
        self.patch(spool_gathering, "WAITING_BYTES", 8192)
        lines = [line(n % 50, BASE_US + n, id=f"{n * 2**61 % 10**18}") for n in range(1000)]
        heads = self.piece(lines)
        self.assertGreater(len(heads), 100)
        self.assertGreater(len({self.spool.lending.place(head.name).path for head in heads}), 1)

    def test_what_a_failed_window_gathered_is_forgotten(self):
        lines = [line(n % 50, BASE_US + n) for n in range(200)]
        store, failing = self.spool._index.store, [OSError("no")]

        def fails(*args):
            if failing:
                raise failing.pop()
            store(*args)

        self.patch(self.spool._index, "store", fails)
        self.write(FULL, *lines)
        self.rotate(FULL)
        self.assertRaises(OSError, self.spool.take_in, self.spool.pieces()[0])
        self.take_in()
        got = b"".join(map(self.content, self.heads()))
        self.assertEqual(sorted(got.splitlines(True)), sorted(lines))

    def test_a_chunk_that_the_disk_does_not_give_back_ends_what_is_gathered(self):
        lines = [line(n % 10, BASE_US + n) for n in range(100)]
        read = spool_window.ChunkBuffer.read

        def broken(buffer, descriptor, offset):
            if 3000 <= offset < 4000:
                raise OSError(errno.EIO, "broken")
            return read(buffer, descriptor, offset)

        self.patch(spool_window.ChunkBuffer, "read", broken)
        self.spooled(FULL, *lines)
        drops = self.spool.totals().drops
        kept = sum(head.records for head in self.heads())
        self.assertIn(kept, range(85, 95))
        self.assertEqual(set(drops), {DropReason.CORRUPT})


class Losses(Kit):
    def drop(self, at_us, number=1, records=1, reason=DropReason.THROTTLED):
        from avinet.model.logs import Drop

        self.spool.note(
            [
                Drop(
                    reason=reason,
                    log_class=FULL,
                    service=service(number),
                    first_us=at_us,
                    last_us=at_us,
                    records=records,
                )
            ]
        )

    def test_drops_of_a_minute_are_one_until_they_are_told(self):
        self.drop(60 * S)
        self.drop(61 * S, records=2)
        self.drop(120 * S)
        drops, position = self.spool.drops_since(0)
        self.assertEqual(
            [(d.first_us, d.last_us, d.records) for d in drops], [(60 * S, 61 * S, 3), (120 * S, 120 * S, 1)]
        )
        self.drop(62 * S)  # what was told stays as it was told
        self.assertEqual(self.spool.drops_since(0)[0][:2], drops)
        more, after = self.spool.drops_since(position)
        self.assertEqual([d.records for d in more], [1])
        self.assertEqual(self.spool.drops_since(after), ((), after))

    def test_each_controller_is_told_all_of_them(self):
        self.drop(60 * S)
        drops, position = self.spool.drops_since(0)
        self.spool.drops_since(position)  # the first one knows them, and then it is told more
        self.drop(120 * S)
        more, position = self.spool.drops_since(position)
        self.spool.drops_since(position)
        self.assertEqual(self.spool.drops_since(0)[0], drops + more)

    def test_of_those_that_were_told_the_newest_are_kept(self):
        self.spool._index.losses._max_rows = 20
        position = 0
        for n in range(100):
            self.drop(n * 60 * S)
            _, position = self.spool.drops_since(position)
        drops, _ = self.spool.drops_since(0)
        self.assertIn(len(drops), range(39, 42))
        self.assertEqual(drops[-1].first_us, 99 * 60 * S)
        self.assertEqual(self.spool.totals().drops, {DropReason.THROTTLED: 100})

    def test_they_outlive_a_restart_told_or_not(self):
        self.drop(60 * S)
        _, position = self.spool.drops_since(0)
        self.open()
        self.drop(60 * S)
        self.open()
        drops, after = self.spool.drops_since(position)
        self.assertEqual([d.records for d in drops], [1])
        self.assertGreater(after, position)
        self.assertEqual(self.spool.totals().drops, {DropReason.THROTTLED: 2})

    def test_rows_are_bounded_and_counts_stay_exact(self):
        self.spool._index.losses._max_rows = 20
        for n in range(500):
            self.drop(n * 3600 * S, number=n % 7)
        drops, _ = self.spool.drops_since(0, 1000)
        self.assertLessEqual(len(drops), 45)
        self.assertEqual(sum(d.records for d in drops), 500)
        self.assertEqual(min(d.first_us for d in drops), 0)
        self.assertEqual(max(d.last_us for d in drops), 499 * 3600 * S)


class Damage(Kit):
    def test_a_damaged_index_is_made_anew_from_the_packs(self):
        self.spooled(FULL, line(1), line(2), line(3))
        self.spooled(SIGNIFICANT, line(1, BASE_US + 5))
        heads, incarnation = self.heads(), self.spool.incarnation
        self.spool.acknowledge([heads[1].name])
        del heads[1]
        self.spool.close()
        (self.folder / "spool.db").write_bytes(b"x" * 5000)
        self.spool = Spool.open(self.folder, self.logs, lambda: self.now)
        self.assertEqual(self.heads(), heads)
        self.assertNotEqual(self.spool.incarnation, incarnation)
        self.assertEqual(self.spool.last_counter(), 4)
        self.spooled(FULL, line(1))
        self.assertEqual(self.heads()[-1].counter, 5)
        self.assertEqual([self.content(head)[:9] for head in self.heads()], [line(1)[:9]] * 4)
        self.assertTrue((self.folder / "spool.db.damaged").exists())

    def test_it_is_made_anew_while_in_use_as_well(self):
        self.spooled(FULL, line(1))
        heads, incarnation = self.heads(), self.spool.incarnation
        self.spool.repair()
        self.assertEqual(self.heads(), heads)
        self.assertNotEqual(self.spool.incarnation, incarnation)

    def test_of_pieces_that_were_begun_nobody_knows_how_much_is_in_segments(self):
        self.small_chunks()
        self.write(FULL, *[line(1, BASE_US + n) for n in range(50)])
        self.rotate(FULL)
        self.write(FULL, line(2))
        self.rotate(FULL)
        self.spool.take_in(self.spool.pieces()[0])
        kept = self.heads()
        self.spool.repair()
        self.assertEqual(self.heads(), kept)
        [drop] = self.spool.drops_since(0)[0]
        self.assertEqual((drop.reason, drop.records), (DropReason.CORRUPT, 0))
        self.assertEqual(drop.raw_bytes, 5000)
        self.take_in()
        self.assertEqual(self.heads()[len(kept) :][0].service, service(2))
        self.assertEqual(list(self.logs.iterdir()), [])

    def test_a_segment_that_its_pack_does_not_hold_is_counted(self):
        self.spooled(FULL, line(1), line(2))
        self.spooled(FULL, line(3))
        self.spooled(FULL, line(4))
        first, _, third, _ = self.heads()
        pack = self.spool.lending.place(first.name).path
        self.spool.lending.place(third.name).path.unlink()
        pack.write_bytes(pack.read_bytes()[: first.size + 3])
        self.open()
        self.assertEqual([head.service for head in self.heads()], [service(1), service(4)])
        self.assertEqual(
            sorted(self.drops()), [(DropReason.CORRUPT, service(2), 1), (DropReason.CORRUPT, service(3), 1)]
        )

    def test_a_flipped_bit_is_found_when_the_index_is_made_anew(self):
        self.spooled(FULL, line(1), line(2))
        first, second = self.heads()
        pack = self.spool.lending.place(first.name).path
        data = bytearray(pack.read_bytes())
        data[5] ^= 1
        pack.write_bytes(data)
        self.spool.repair()
        self.assertEqual(self.heads(), [second])
        self.assertEqual(self.drops(), [(DropReason.CORRUPT, service(1), 1)])
        self.assertEqual((self.folder / "bad" / f"{first.name}.zst").read_bytes(), bytes(data[: first.size]))

    def test_a_pack_without_a_table_is_set_aside_whole(self):
        self.spooled(FULL, line(1))
        pack = self.spool.lending.place(self.heads()[0].name).path
        pack.write_bytes(pack.read_bytes()[:-1])
        self.spool.repair()
        self.assertEqual(self.heads(), [])
        self.assertEqual([reason for reason, _, _ in self.drops()], [DropReason.CORRUPT])
        self.assertTrue((self.folder / "bad" / pack.name).exists())

    def test_packs_hold_what_their_table_says(self):
        self.spooled(FULL, *[line(n) for n in range(10)])
        packs = self.spool._packs
        [name] = packs.all()
        table = packs.table(name)
        self.assertEqual([each.head for each in table], self.heads())
        self.assertTrue(all(whole(each, packs.read(each)) for each in table))
