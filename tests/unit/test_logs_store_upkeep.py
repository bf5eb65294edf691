"""Which files are merged and which go."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.entries import StoreFile
from avinet.logs.store.reading import Readers
from avinet.logs.store.shares import to_evict
from avinet.logs.store.upkeep import (
    CLOSED_FILES,
    MERGED_BYTES,
    MERGED_FILES,
    OLD_US,
    OPEN_FILES,
    SMALL_BYTES,
    new_name,
    partition,
    partition_of,
    taken_us,
    to_merge,
    too_old,
)
from avinet.units import DAY_S
from tests.unit.log_store_kit import T0_US

HOUR_US = 3_600_000_000
DAY_US = int(DAY_S * 1e6)


def file(at_us=T0_US, size=1_000, taken=None):
    return StoreFile(new_name(partition(at_us, at_us), taken or at_us), at_us, at_us + 1_000_000, 10, size)


class NameTest(SynchronousTestCase):
    def test_a_name_says_the_hour_and_when_it_was_taken_in(self):
        name = new_name(partition(T0_US, T0_US), T0_US + 5_000_000)
        self.assertRegex(name, r"^2026-11-27/12-[0-9a-f]{8}-[0-9a-f]{8}\.parquet$")
        self.assertEqual(("2026-11-27/12", T0_US + 5_000_000), (partition_of(name), taken_us(name)))

    def test_any_time_that_a_segment_can_have_has_an_hour(self):
        self.assertEqual("1970-01-01/00", partition(0, T0_US))
        self.assertEqual("2255-06-05/23", partition(2**53, 2**53))

    def test_whatever_times_a_service_engine_says_there_are_no_more_hours_than_those_of_late(self):
        self.assertEqual("2026-11-27/12", partition(2**53, T0_US))
        self.assertEqual("2026-11-27/12", partition(T0_US + DAY_US, T0_US))
        self.assertEqual("2026-11-26/12", partition(T0_US - DAY_US, T0_US))
        self.assertEqual("1970-01-01/00", partition(T0_US - OLD_US - 1, T0_US))
        said = {partition(n * 2**53 // 20_000, T0_US) for n in range(20_000)}
        self.assertLess(len(said), OLD_US // HOUR_US + 3)


class MergeTest(SynchronousTestCase):
    def test_an_hour_under_way_is_merged_when_many_files_are_small(self):
        files = [file() for _ in range(OPEN_FILES)]
        self.assertEqual([], to_merge(files[1:], T0_US))
        self.assertEqual([sorted(files, key=lambda f: f.size)], to_merge(files, T0_US))

    def test_an_hour_that_is_over_is_merged_sooner(self):
        files = [file() for _ in range(CLOSED_FILES)]
        self.assertEqual(1, len(to_merge(files, T0_US + 2 * HOUR_US)))
        self.assertEqual([], to_merge(files[1:], T0_US + 2 * HOUR_US))

    def test_hours_are_not_mixed_and_large_files_are_left(self):
        files = [file(T0_US + n % 2 * HOUR_US) for n in range(2 * OPEN_FILES)]
        groups = to_merge([*files, file(size=SMALL_BYTES)], T0_US)
        self.assertEqual([OPEN_FILES, OPEN_FILES], [len(group) for group in groups])
        for group in groups:
            self.assertEqual(1, len({partition_of(one.name) for one in group}))

    def test_one_merge_is_bounded(self):
        files = [file(size=MERGED_BYTES // 20) for _ in range(100)] + [file() for _ in range(200)]
        for group in to_merge(files, T0_US):
            self.assertLessEqual(len(group), MERGED_FILES)
            self.assertLessEqual(sum(one.size for one in group), MERGED_BYTES)


class RemoveTest(SynchronousTestCase):
    def removed(self, files, max_age_us=DAY_US, max_bytes=10**9, now_us=T0_US):
        old = too_old(files, now_us, max_age_us)
        return old + to_evict([file for file in files if file not in old], {}, max_bytes)

    def test_what_is_too_old_goes(self):
        old, new = file(T0_US - 2 * DAY_US), file(T0_US - DAY_US // 2)
        self.assertEqual([old], self.removed([new, old]))

    def test_the_oldest_go_when_there_is_too_much(self):
        files = [file(T0_US - n * HOUR_US) for n in range(5)]
        self.assertEqual([files[4], files[3]], self.removed(files, max_bytes=3_000))
        self.assertEqual([], self.removed(files, max_bytes=5_000))

    def test_times_in_the_future_keep_nothing_for_ever(self):
        odd = file(T0_US + 1_000 * DAY_US, taken=T0_US - 2 * DAY_US)
        self.assertEqual([odd], self.removed([odd]))


class ReadersTest(SynchronousTestCase):
    def test_a_file_goes_when_its_last_reader_is_done(self):
        readers = Readers()
        with readers.reading(["a", "b"]):
            with readers.reading(["a"]):
                readers.doom(["a", "c"])
                self.assertEqual(["c"], readers.unread())
            self.assertEqual([], readers.unread())
        self.assertEqual(["a"], readers.unread())
        self.assertEqual([], readers.unread())
