"""The ledger: what counts, once, whatever arrives how often and wherever the process died."""

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

import attrs
import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs import ledger as module
from avinet.logs.entries import Arrival, Segment, Share, StoreFile, Waiting
from avinet.logs.incoming import IncomingLogs, LogStoreFullError
from avinet.logs.ledger import Ledger
from avinet.model.ids import ObjectId, SeId
from avinet.model.logs import Drop, DropReason, LogClass, SegmentHead
from avinet.sqlite_file import StoreDamagedError, StoreUnavailableError

COPY_TABLES = ("copy_of", "held", "placed", "owed", "copied")
SE = SeId("se-00000000-0000-4000-8000-000000000001")
OTHER = SeId("se-00000000-0000-4000-8000-000000000002")
SPOOL = "a" * 32
HEAD = SegmentHead(
    incarnation=SPOOL,
    counter=1,
    service=ObjectId("virtualservice-00000000-0000-4000-8000-000000000009"),
    log_class=LogClass.FULL,
    first_us=100,
    last_us=200,
    records=10,
    raw_bytes=6_000,
    size=500,
    sha256="0" * 64,
)


def segment(counter=1, se=SE, **facts):
    return Segment(se, msgspec.structs.replace(HEAD, counter=counter, **facts))


FILE = StoreFile("2026-11-27/12-1.parquet", 100, 200, 10, 4_000)


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp())
        self.addCleanup(shutil.rmtree, self.folder)
        self.open()

    def open(self):
        self.ledger = Ledger(self.folder / "ledger.db")
        self.addCleanup(self.ledger.close)

    def reopen(self):
        """As after a crash: what is not committed is gone."""
        self.ledger.close()
        self.open()

    def receive(self, *segments, pull=""):
        return self.ledger.receive([Arrival(one, pull) for one in segments])


class SegmentTests(Case):
    def test_the_first_copy_counts_and_a_second_one_does_not_in_one_batch_or_later(self):
        self.assertEqual(self.receive(segment(1), segment(2), segment(1)), [True, True, False])
        self.reopen()
        self.assertEqual(self.receive(segment(2)), [False])
        self.assertTrue(self.ledger.known(segment(1)))
        self.assertFalse(self.ledger.known(segment(3)))

    def test_which_store_it_is_stays_and_one_that_is_made_anew_is_another(self):
        first = self.ledger.store_id
        self.assertRegex(first, "^[0-9a-f]{32}$")
        self.reopen()
        self.assertEqual(self.ledger.store_id, first)
        self.ledger.close()
        (self.folder / "ledger.db").unlink()
        self.open()
        self.assertNotEqual(self.ledger.store_id, first)

    def test_one_of_the_version_before_becomes_a_store_and_stays_it(self):
        self.receive(segment(1))
        self.ledger.close()
        path = self.folder / "ledger.db"
        with contextlib.closing(sqlite3.connect(path)) as connection:
            later = "".join(f"DROP TABLE {one};" for one in ("identity", *COPY_TABLES))
            connection.executescript(f"{later} PRAGMA user_version = 4;")
        self.open()
        first = self.ledger.store_id
        self.assertTrue(self.ledger.known(segment(1)))
        self.reopen()
        self.assertEqual(self.ledger.store_id, first)

    def test_one_that_does_not_say_whose_it_is_is_damaged(self):
        for damage in ("DELETE FROM identity", "UPDATE identity SET store = x'00'"):
            self.ledger.close()
            with contextlib.closing(sqlite3.connect(self.folder / "ledger.db")) as connection:
                connection.executescript(damage)
            with self.assertRaises(StoreDamagedError):
                Ledger(self.folder / "ledger.db")
            (self.folder / "ledger.db").unlink()
            self.open()

    def test_another_se_and_another_spool_have_counters_of_their_own(self):
        self.assertEqual(
            self.receive(segment(1), segment(1, OTHER), segment(1, incarnation="b" * 32)), [True, True, True]
        )

    def test_a_backlog_of_one_service_engine_holds_up_no_other(self):
        self.receive(*(segment(n) for n in range(1, 2_001)))
        self.receive(segment(1, OTHER))
        self.assertIn(segment(1, OTHER), self.ledger.waiting(60_000))
        found = self.ledger.waiting(10**9)
        self.assertIn(segment(1, OTHER), found)
        self.receive(*(segment(n, OTHER, raw_bytes=60) for n in range(2, 1_001)))
        found = self.ledger.waiting(60_000)
        sizes = {se: sum(one.head.raw_bytes for one in found if one.se == se) for se in (SE, OTHER)}
        self.assertEqual({SE: 30_000, OTHER: 30_000}, sizes)

    def test_many_that_wait_share_and_none_is_left_out_for_long(self):
        engines = [SeId(f"se-00000000-0000-4000-8000-{n:012d}") for n in range(30)]
        for counter in (1, 2, 3):
            self.receive(*(segment(counter, se) for se in engines))
        left = {(se, counter) for se in engines for counter in (1, 2, 3)}
        while left:
            found = self.ledger.waiting(60_000)
            self.assertEqual(min(10, len(left)), len(found))
            self.ledger.stored(None, found)
            left -= {(one.se, one.head.counter) for one in found}

    def test_a_service_engine_that_lets_go_of_nothing_is_forgotten_in_part(self):
        self.patch(module, "MAX_KNOWN", 3)
        segments = [segment(n) for n in range(1, 8)]
        self.receive(*segments)
        self.ledger.stored(None, segments[1:])
        self.assertEqual(3, self.ledger.forget_oldest())
        self.assertEqual(
            [True, False, False, False, True, True, True], [self.ledger.known(one) for one in segments]
        )
        self.assertEqual(0, self.ledger.forget_oldest())

    def test_what_waits_comes_oldest_first_and_bounded_but_never_none(self):
        self.receive(*(segment(n) for n in (3, 1, 2)))
        self.assertEqual([one.head.counter for one in self.ledger.waiting(12_000)], [3, 1])
        self.assertEqual([one.head.counter for one in self.ledger.waiting(1)], [3])
        self.assertEqual(self.ledger.waiting(10**9)[0], segment(3))
        self.assertEqual(self.ledger.waiting_totals(), Waiting(3, 18_000))

    def test_an_arrival_waits_until_all_up_to_it_are_in_the_store(self):
        self.assertEqual(self.ledger.last_arrival(), 0)
        self.receive(segment(1))
        arrival = self.ledger.last_arrival()
        self.receive(segment(2))
        self.assertTrue(self.ledger.waits(arrival))
        self.ledger.stored(FILE, [segment(1)])
        self.assertFalse(self.ledger.waits(arrival))
        self.assertTrue(self.ledger.waits(self.ledger.last_arrival()))

    def test_stored_segments_and_their_file_appear_together(self):
        self.receive(segment(1), segment(2), segment(3))
        self.ledger.stored(FILE, [segment(1)], bad=[segment(2)])
        self.reopen()
        self.assertEqual(self.ledger.waiting(10**9), [segment(3)])
        self.assertEqual(self.ledger.files(), [FILE])
        self.assertEqual(self.receive(segment(1), segment(2)), [False, False])

    def test_a_batch_that_fails_leaves_no_half(self):
        self.receive(segment(1))
        self.ledger.stored(FILE, [])
        with self.assertRaises(StoreUnavailableError):
            self.ledger.stored(FILE, [segment(1)])
        self.assertEqual(self.ledger.waiting(10**9), [segment(1)])

    def test_what_the_spool_can_send_no_more_is_forgotten_and_still_known(self):
        self.receive(segment(1), segment(2), segment(3), segment(1, OTHER))
        self.ledger.stored(FILE, [segment(1), segment(2), segment(1, OTHER)])
        self.assertEqual(self.ledger.forget(SE, SPOOL, 3), 2)
        self.assertEqual(self.ledger.forget(SE, SPOOL, 2), 0)
        self.reopen()
        self.assertEqual(self.receive(segment(1), segment(2), segment(1, OTHER)), [False] * 3)
        self.assertEqual(self.receive(segment(4)), [True])

    def test_what_waits_is_not_forgotten(self):
        self.receive(segment(1))
        self.assertEqual(self.ledger.forget(SE, SPOOL, 100), 0)
        self.assertEqual(self.ledger.waiting(10**9), [segment(1)])


class FileTests(Case):
    def test_files_are_found_by_the_time_they_may_hold(self):
        later = attrs.evolve(FILE, name="b", first_us=300, last_us=400)
        self.ledger.stored(later, [])
        self.ledger.stored(FILE, [])
        self.assertEqual(self.ledger.files(), [FILE, later])
        self.assertEqual(self.ledger.files(201), [later])
        self.assertEqual(self.ledger.files(0, 300), [FILE])
        self.assertEqual(self.ledger.files(200, 301), [FILE, later])

    def test_files_are_replaced_at_once_and_old_ones_go(self):
        self.ledger.stored(FILE, [])
        merged = attrs.evolve(FILE, name="merged")
        self.ledger.replace([FILE.name], [merged])
        self.assertEqual(self.ledger.files(), [merged])
        self.ledger.replace([merged.name])
        self.reopen()
        self.assertEqual(self.ledger.files(), [])


class DropTests(Case):
    DROP = Drop(reason=DropReason.SPOOL_FULL, log_class=LogClass.FULL, records=7)

    def test_one_that_floods_with_drops_pushes_out_its_own(self):
        self.patch(module, "MAX_DROPS_OF_ONE", 3)
        self.ledger.add_drops(OTHER, SPOOL, 1, [self.DROP], 7)
        for position in range(1, 6):
            self.ledger.add_drops(SE, SPOOL, position, [self.DROP] * 2, position)
        self.assertEqual(
            [(OTHER, 7), (SE, 4), (SE, 5), (SE, 5)], [(one.se, one.at_us) for one in self.ledger.drops()]
        )

    def test_one_that_makes_ever_new_spools_is_known_by_the_newest(self):
        self.patch(module, "MAX_SPOOLS_OF_ONE", 3)
        for n in range(1, 9):
            self.ledger.add_drops(SE, f"{n:032x}", n, [], 1)
        self.ledger.add_drops(OTHER, SPOOL, 1, [], 1)
        known = [n for n in range(1, 9) if self.ledger.drops_position(SE, f"{n:032x}")]
        self.assertEqual([6, 7, 8], known)
        self.assertEqual(1, self.ledger.drops_position(OTHER, SPOOL))

    def test_drops_are_taken_once(self):
        self.assertEqual(self.ledger.drops_position(SE, SPOOL), 0)
        self.assertTrue(self.ledger.add_drops(SE, SPOOL, 5, [self.DROP], 1_000))
        self.assertFalse(self.ledger.add_drops(SE, SPOOL, 5, [self.DROP], 2_000))
        self.reopen()
        self.assertEqual(self.ledger.drops_position(SE, SPOOL), 5)
        [found] = self.ledger.drops()
        self.assertEqual((found.se, found.at_us, found.drop), (SE, 1_000, self.DROP))
        self.assertEqual(self.ledger.drops(found.id), [])

    def test_the_oldest_go_first(self):
        self.patch(module, "MAX_DROPS", 2)
        for position in (1, 2, 3):
            self.ledger.add_drops(SE, SPOOL, position, [self.DROP], position)
        self.assertEqual([one.at_us for one in self.ledger.drops()], [2, 3])
        self.assertEqual([one.at_us for one in self.ledger.newest_drops()], [3, 2])
        self.assertEqual([one.at_us for one in self.ledger.newest_drops(1)], [3])

    def test_one_that_floods_hides_nobody_elses_losses(self):
        self.ledger.add_drops(OTHER, SPOOL, 1, [self.DROP] * 2, 1)
        self.ledger.add_drops(SE, SPOOL, 1, [self.DROP] * 50, 2)
        self.ledger.add_drops(OTHER, SPOOL, 2, [self.DROP], 3)
        for limit, expected in ((10, [3] + 7 * [2] + 2 * [1]), (4, [3, 2, 2, 1]), (1, [3])):
            self.assertEqual([one.at_us for one in self.ledger.newest_drops(limit)], expected)

    def test_forgetting_segments_keeps_the_position_and_the_reverse(self):
        self.ledger.add_drops(SE, SPOOL, 5, [], 1)
        self.ledger.forget(SE, SPOOL, 9)
        self.assertEqual(self.ledger.drops_position(SE, SPOOL), 5)
        self.ledger.add_drops(SE, SPOOL, 6, [], 1)
        self.assertTrue(self.ledger.known(segment(8)))


class PullTests(Case):
    def test_what_arrives_for_a_pull_is_counted_once(self):
        self.ledger.put_pull("p", b"one", [Share("p", SE, b"x"), Share("p", OTHER, b"y")])
        self.receive(segment(1), segment(1), segment(2), pull="p")
        self.receive(segment(3))
        self.ledger.put_pull("p", b"two", [Share("p", SE, b"z")])
        self.reopen()
        self.assertEqual(self.ledger.pulls(), [("p", b"two")])
        self.assertEqual(
            self.ledger.shares("p"),
            [Share("p", SE, b"z", 2, 20, 1_000, 12_000), Share("p", OTHER, b"y")],
        )

    def test_a_forgotten_pull_takes_its_shares_along(self):
        self.ledger.put_pull("p", b"", [Share("p", SE, b"")])
        self.ledger.forget_pull("p")
        self.assertEqual((self.ledger.pulls(), self.ledger.shares("p")), ([], []))
        self.assertEqual(self.receive(segment(1), pull="p"), [True])


class SweepTests(Case):
    def test_however_many_segments_wait_none_of_them_is_swept(self):
        waiting = [segment(counter) for counter in range(1, module.PAGE + 10)]
        self.receive(*waiting)
        self.ledger.stored(FILE, waiting[:1])
        folder = self.folder / "received" / SE
        folder.mkdir(parents=True)
        for one in waiting:
            (folder / f"{one.head.name}.zst").touch()
        swept = IncomingLogs(self.folder, self.ledger, None).sweep()
        self.assertEqual(1, swept.removed + swept.unreadable)
        self.assertEqual(len(waiting) - 1, len(list(folder.iterdir())))


class RoomTests(Case):
    """What may wait of one SE, in whatever shape it comes."""

    def logs(self, per_se_bytes):
        limits = IncomingLogs(self.folder, self.ledger, None).limits
        limits = attrs.evolve(limits, free_bytes=0, per_se_bytes=per_se_bytes)
        return IncomingLogs(self.folder, self.ledger, None, limits)

    def test_tiny_segments_count_as_the_blocks_that_they_take(self):
        received = self.folder / "received" / SE
        received.mkdir(parents=True)
        for number in range(10):
            (received / f"{number}.zst").write_bytes(b"x")
        self.logs(44 * 1024).require_room(SE, 1)
        with self.assertRaises(LogStoreFullError):
            self.logs(40 * 1024).require_room(SE, 1)

    def test_what_becomes_a_thousand_times_as_much_counts_as_a_part_of_that(self):
        logs = self.logs(5 * 2**20)
        bomb = segment(raw_bytes=2**26)
        logs.require_room(SE, bomb.head.size, bomb.head.raw_bytes)
        self.receive(bomb)
        with self.assertRaises(LogStoreFullError):
            logs.require_room(SE, bomb.head.size, bomb.head.raw_bytes)
        logs.require_room(OTHER, bomb.head.size, bomb.head.raw_bytes)
