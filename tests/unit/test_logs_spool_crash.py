"""Whenever the agent is killed while it takes in, evicts or removes, each line is in one place afterwards, or counted."""

import errno
import os
from pathlib import Path
from unittest import mock

import zstandard
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError, Kind
from avinet.logs import spool_window
from avinet.logs.spool import Spool, SpoolLimits
from avinet.logs.spool_index import SpoolIndex
from avinet.logs.spool_reserve import SHORT_BYTES, SPENT_BYTES, Reserve
from avinet.logs.throttle import Throttle, Throttles
from avinet.model.logs import DropReason, LogClass, Selection, piece_name
from tests.unit.log_lines import line
from tests.unit.quick_folder import quick_folder

FULL, SIGNIFICANT = LogClass.FULL, LogClass.SIGNIFICANT
EVERYTHING = Selection()
_write = os.write


class Killed(BaseException):
    """Nothing runs after it."""


class Steps:
    """What changes the disk, a step at a time; at one of them the process ends: before it, half way, or after it."""

    def __init__(self, kill_at=None, how=""):
        self.kill_at = kill_at
        self.how = how
        self.names = []
        self.dead = False
        self.indexes = []

    def __enter__(self):
        self._patches = [
            *(mock.patch.object(os, name, self._step(getattr(os, name))) for name in ("write", "fsync")),
            *(
                mock.patch.object(Path, name, self._step(getattr(Path, name)))
                for name in ("unlink", "rename", "replace")
            ),
            *(
                mock.patch.object(SpoolIndex, name, self._step(getattr(SpoolIndex, name)))
                for name in ("store", "remove", "forget", "restore")
            ),
            mock.patch.object(SpoolIndex, "__init__", self._noted(SpoolIndex.__init__)),
        ]
        for patch in self._patches:
            patch.start()
        return self

    def __exit__(self, kind, why, trace):
        for patch in self._patches:
            patch.stop()
        for index in self.indexes:
            index.abandon()

    def _noted(self, made):
        def init(index, *args):
            made(index, *args)
            self.indexes.append(index)

        return init

    def _step(self, real):
        def step(*args, **kwargs):
            if self.dead:
                raise Killed
            self.names.append(real.__name__)
            if len(self.names) - 1 != self.kill_at:
                return real(*args, **kwargs)
            self.dead = True
            if self.how == "after":
                real(*args, **kwargs)
            elif self.how == "half" and real is _write:
                real(args[0], args[1][: len(args[1]) // 2])
            raise Killed

        return step


class Kit(SynchronousTestCase):
    window_bytes = 500

    def setUp(self):
        self.patch(spool_window, "CHUNK_BYTES", 500)
        self.patch(spool_window, "WINDOW_BYTES", self.window_bytes)
        self.root = quick_folder(self)

    def fresh(self, number):
        self.folder, self.logs = self.root / f"{number}" / "logs", self.root / f"{number}" / "data-plane"
        self.logs.mkdir(parents=True)
        self.lines = []
        for log_class, name, count in ((FULL, 1, 8), (SIGNIFICANT, 2, 4), (FULL, 3, 3)):
            text = [line(n % 2, n=len(self.lines) + n) for n in range(count)]
            (self.logs / piece_name(log_class, name)).write_bytes(b"".join(text))
            self.lines += text
        self.acknowledged, self.names = set(), []

    def open(self):
        spool = Spool.open(self.folder, self.logs, lambda: 1e9)
        spool.set_limits(SpoolLimits(max_segments=5, max_age_s=0))
        spool.acknowledge(self.names)  # once more: nobody knows whether it was heard
        return spool

    def work(self):
        """All that a spool does in its life."""
        spool = self.open()
        for number, piece in enumerate(spool.pieces()):
            while not spool.take_in(piece).done:
                pass
            if number == 1:
                # One of a pack with two, and all of another.
                self.acknowledge(spool, spool.pending(EVERYTHING, None, 0, 3))
        spool.enforce()
        return spool

    def acknowledge(self, spool, heads):
        for head in heads:
            for text in self.content(spool, head):
                self.acknowledged.add(text)
        self.names += [head.name for head in heads]
        spool.acknowledge(self.names)

    def content(self, spool, head):
        place = spool.lending.place(head.name)
        data = place.path.read_bytes()[place.offset :][: place.size]
        return zstandard.ZstdDecompressor().decompress(data).splitlines(True)

    def check(self, spool, where):
        heads = spool.pending(EVERYTHING, None, 0, 1000)
        there = [text for head in heads for text in self.content(spool, head)]
        self.assertEqual(len(there), len(set(there)), where)
        self.assertEqual(set(there) & self.acknowledged, set(), where)
        lost = sum(spool.totals().drops.values())
        self.assertEqual(set(spool.totals().drops) - {DropReason.SPOOL_FULL}, set(), where)
        self.assertEqual(len(there) + lost + len(self.acknowledged), len(self.lines), where)
        self.assertEqual(spool.pieces(), [], where)
        self.assertEqual(list(self.logs.iterdir()), [], where)
        packs = {path.name for path in (self.folder / "segments").iterdir()}
        self.assertEqual(packs, {spool.lending.place(head.name).path.name for head in heads}, where)


class AgentKilled(Kit):
    def test_at_each_step(self):
        self.fresh("whole")
        with Steps() as whole:
            self.work()
        self.assertGreater(len(whole.names), 40)
        for kill_at, name in enumerate(whole.names):
            for how in ("before", "half", "after") if name == "write" else ("before", "after"):
                self.fresh(f"{how}-{kill_at}")
                with Steps(kill_at, how) as steps, self.assertRaises(Killed):
                    self.work()
                self.assertEqual(steps.names, whole.names[: kill_at + 1])
                spool = self.work()
                self.check(spool, f"{how} step {kill_at}")
                spool.close()


class AgentKilledInAWindow(AgentKilled):
    """A commit takes in two chunks, whose small segments are one for each service."""

    window_bytes = 1000


class AgentKilledAfterDamage(Kit):
    def test_while_the_index_is_made_anew(self):
        """Nothing is doubled; of a piece that was begun, what is not in segments is counted by its bytes."""
        for how in ("before", "after"):
            kill_at, killed = 0, True
            while killed:
                self.fresh(f"anew-{how}-{kill_at}")
                spool = self.open()
                spool.set_limits(SpoolLimits())
                first, second, third = spool.pieces()
                while not spool.take_in(first).done:
                    pass
                self.assertFalse(spool.take_in(second).done)
                kept = {
                    text
                    for head in spool.pending(EVERYTHING, None, 0, 99)
                    for text in self.content(spool, head)
                }
                spool.close()
                (self.folder / "spool.db").write_bytes(b"damaged" * 1000)
                killed = False
                with Steps(kill_at, how):
                    try:
                        self.open().set_limits(SpoolLimits())
                    except Killed:
                        killed = True
                spool = self.open()
                spool.set_limits(SpoolLimits())
                self.assertNotIn(third.path.with_suffix(".begun"), self.logs.iterdir())
                for piece in spool.pieces():
                    while not spool.take_in(piece).done:
                        pass
                heads = spool.pending(EVERYTHING, None, 0, 99)
                there = [text for head in heads for text in self.content(spool, head)]
                self.assertEqual(len(there), len(set(there)))
                self.assertEqual(set(there) - kept, set(self.lines[-3:]))
                self.assertEqual(kept - set(there), set())
                drops, _ = spool.drops_since(0)
                self.assertEqual([(d.reason, d.records) for d in drops], [(DropReason.CORRUPT, 0)])
                spool.close()
                kill_at += 1
            self.assertGreater(kill_at, 5)


class TheDiskIsFull(Kit):
    def full(self, times, real):
        """``os.write`` that fails so often, then works."""
        left = [times]

        def write(descriptor, data):
            if left[0]:
                left[0] -= 1
                _write(descriptor, data[: len(data) // 2])
                raise OSError(errno.ENOSPC, "full")
            return real(descriptor, data)

        return write

    def test_the_oldest_go_and_it_is_tried_again(self):
        self.fresh("full")
        spool = self.open()
        self.addCleanup(spool.close)
        spool.set_limits(SpoolLimits())
        _, second, third = spool.pieces()
        while not spool.take_in(second).done:
            pass
        before = spool.totals().full.records
        self.assertEqual(before, 8)
        with mock.patch.object(os, "write", self.full(1, os.write)):
            spool.take_in(third)
        drops = spool.totals().drops
        self.assertEqual(drops, {DropReason.SPOOL_FULL: 8})
        self.assertFalse((self.folder / "reserve").exists())
        self.assertEqual(
            len(spool.pending(EVERYTHING, None, 0, 99)),
            spool.totals().full.segments + spool.totals().significant.segments,
        )
        spool.enforce()
        self.assertTrue((self.folder / "reserve").exists())

    def test_room_is_made_before_the_data_plane_has_none(self):
        self.fresh("short")
        spool = self.open()
        self.addCleanup(spool.close)
        spool.set_limits(SpoolLimits())
        for piece in spool.pieces():
            while not spool.take_in(piece).done:
                pass
        before = spool.totals()
        for free, reserve, full in (
            (SHORT_BYTES, True, before.full.records),
            (SHORT_BYTES - 1, True, 0),
            (SPENT_BYTES - 1, False, 0),
        ):
            with mock.patch.object(Reserve, "free_bytes", return_value=free):
                spool.look_after()
            totals = spool.totals()
            self.assertEqual((totals.full.records, (self.folder / "reserve").exists()), (full, reserve))
        self.assertEqual(totals.significant, before.significant)
        self.assertEqual(totals.drops, {DropReason.SPOOL_FULL: before.full.records})

    def test_what_has_no_room_is_tried_again_a_chunk_at_a_time(self):
        self.patch(spool_window, "WINDOW_BYTES", 10_000)
        self.fresh("less")
        spool = self.open()
        self.addCleanup(spool.close)
        spool.set_limits(SpoolLimits())
        spool.set_throttles(Throttles(full=Throttle(per_se=6)))
        piece = next(piece for piece in spool.pieces() if piece.log_class is FULL)
        with mock.patch.object(os, "write", self.full(1, os.write)):
            taken = spool.take_in(piece)
        self.assertFalse(taken.done)
        self.assertLess(taken.records, 6)
        while not spool.take_in(piece).done:
            pass
        self.assertEqual(spool.totals().full.records, 6)
        self.assertEqual(spool.totals().drops, {DropReason.THROTTLED: 2})

    def test_when_nothing_can_go_nothing_has_happened(self):
        self.fresh("hopeless")
        spool = self.open()
        self.addCleanup(spool.close)
        piece = spool.pieces()[0]
        with mock.patch.object(os, "write", self.full(99, os.write)):
            why = self.assertRaises(AvinetError, spool.take_in, piece)
        self.assertEqual(why.kind, Kind.NO_SPACE)
        self.assertEqual(spool.totals().drops, {})
        self.assertEqual(list((self.folder / "segments").iterdir()), [])
        for piece in spool.pieces():
            while not spool.take_in(piece).done:
                pass
        self.assertEqual(
            sum(h.records for h in spool.pending(EVERYTHING, None, 0, 99))
            + sum(spool.totals().drops.values()),
            15,
        )
