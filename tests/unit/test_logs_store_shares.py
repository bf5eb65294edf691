"""Each service engine's share of the store when that is full: one that floods pushes out its own."""

from collections import Counter
from random import Random

import attrs
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.entries import FilePart, StoreFile
from avinet.logs.store.interface import Keeping
from avinet.logs.store.shares import MAX_OWN, OWN_RAW_BYTES, evicted, heavy, owners, to_evict
from avinet.logs.store.upkeep import new_name, owner_of, partition, to_merge
from avinet.model.ids import SeId
from avinet.model.logs import DropReason, LogClass
from avinet.units import MIB
from tests.unit.log_store_kit import T0_US, line
from tests.unit.test_logs_ledger import segment
from tests.unit.test_logs_store_embedded import StoreCase

LOUD, QUIET, OTHER = (SeId(f"se-00000000-0000-4000-8000-00000000000{n}") for n in (7, 8, 9))


def file(hour, **sizes):
    at = T0_US + hour * 3_600_000_000
    names = {"loud": LOUD, "quiet": QUIET, "other": OTHER}
    parts = tuple(FilePart(names[name], size, 1, 2) for name, size in sizes.items())
    name = new_name(partition(at, at), at)
    return StoreFile(name, at, at + 1_000, 3 * len(sizes), sum(sizes.values()), parts)


def parts(files):
    return {one.name: one.parts for one in files}


class HeavyTest(SynchronousTestCase):
    def test_among_equals_and_alone_nobody_has_files_of_its_own(self):
        self.assertEqual(frozenset(), heavy({LOUD: 1_000}, 1_000))
        self.assertEqual(frozenset(), heavy({SeId(f"se-{n}"): 90 + n for n in range(20)}, 2_000))

    def test_who_has_much_more_than_others_has_before_its_share_is_used_up(self):
        self.assertEqual({LOUD}, heavy({LOUD: 300, QUIET: 10}, 1_000))
        self.assertEqual(frozenset(), heavy({LOUD: 200, QUIET: 10}, 1_000))

    def test_they_are_bounded(self):
        held = {SeId(f"se-{n}"): 100 + n if n < 30 else 1 for n in range(200)}
        found = heavy(held, 1_000)
        self.assertEqual({SeId(f"se-{n}") for n in range(30 - MAX_OWN, 30)}, found)

    def test_who_brings_much_at_once_has_too(self):
        much = segment(2, se=QUIET, raw_bytes=OWN_RAW_BYTES // 2)
        found = owners([segment(1, se=LOUD), segment(1, se=OTHER), much, much], frozenset([LOUD]))
        self.assertEqual({LOUD, QUIET}, set(found))
        name = new_name("2026-11-27/12", T0_US, found[LOUD])
        self.assertEqual(found[LOUD], owner_of(name))
        self.assertEqual("", owner_of(new_name("2026-11-27/12", T0_US)))


class EvictTest(SynchronousTestCase):
    def test_the_oldest_of_whoever_has_more_than_its_share_goes_first(self):
        files = [
            file(0, quiet=100),
            file(1, loud=300),
            file(2, quiet=50, loud=50),
            file(3, loud=300),
            file(4, loud=300),
        ]
        self.assertEqual([], to_evict(files, parts(files), 1_100))
        self.assertEqual([files[1]], to_evict(files, parts(files), 900))
        self.assertEqual([files[1], files[3]], to_evict(files, parts(files), 600))
        # Both have more than a share of 75.
        self.assertEqual([files[n] for n in (0, 1, 3, 4)], to_evict(files, parts(files), 150))

    def test_without_anybody_above_the_oldest_go(self):
        files = [file(n, quiet=50, loud=50) for n in range(4)]
        self.assertEqual(files[:2], to_evict(files, parts(files), 200))
        self.assertEqual(files[:2], to_evict(files, {}, 200))

    def test_it_is_counted_by_service_engine_and_class(self):
        files = [file(1, loud=10), file(2, loud=10), file(3, loud=5, quiet=5)]
        lost = evicted([*files, attrs.evolve(file(0), records=9)], parts(files))
        self.assertEqual(
            {(LOUD, "significant"): 2, (LOUD, "full"): 4, ("", "significant"): 2, ("", "full"): 4 + 9},
            {(se, drop.log_class.value): drop.records for se, drop in lost},
        )
        self.assertEqual({DropReason.STORE_FULL}, {drop.reason for _, drop in lost})
        self.assertEqual(files[0].first_us, lost[0][1].first_us)


class FloodTest(StoreCase):
    def test_a_flood_of_one_costs_the_others_nothing(self):
        def sent(se, count):
            for _ in range(count):
                lines = (line(T0_US + n, path=random.randbytes(100).hex()) for n in range(200))
                self.receive(b"".join(lines), se=se, log_class=LogClass.SIGNIFICANT)

        random = Random(3)
        keeping = Keeping(10**18, MIB)
        sent(QUIET, 2)
        self.take()
        for _ in range(12):
            sent(LOUD, 4)
            sent(QUIET, 1)
            self.take()
            self.now_us += 60_000_000
            self.successResultOf(self.store.keep_up(keeping))
        held = self.ledger.held()
        self.assertLessEqual(sum(held.values()), keeping.bytes)
        self.assertEqual(200 * 14, self.count(se_uuid=QUIET))
        left = self.count(se_uuid=LOUD)
        self.assertTrue(0 < left < 200 * 48, left)
        lost = Counter()
        for dropped in self.ledger.drops():
            lost[dropped.se, dropped.drop.reason, dropped.drop.log_class] += dropped.drop.records
        self.assertEqual({(LOUD, DropReason.STORE_FULL, LogClass.SIGNIFICANT): 200 * 48 - left}, lost)

    def test_files_of_one_are_merged_with_its_own_alone(self):
        files = [StoreFile(new_name("2026-11-27/12", T0_US, mark), 1, 2, 3, 4) for mark in ("", "a" * 16) * 4]
        groups = to_merge(files, T0_US + 10**12)
        self.assertEqual([{""}, {"a" * 16}], [{owner_of(one.name) for one in group} for group in groups])
