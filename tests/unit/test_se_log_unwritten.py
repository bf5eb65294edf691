"""What the data plane could not write: how many lines that were, and that nobody misses it."""

import tempfile
from pathlib import Path

from twisted.internet.defer import execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.interface import LogWrites, Status
from avinet.model.events import Level
from avinet.se.log_unwritten import CALM_S, Unwritten, lines_lost
from avinet.se.lookout import Seen
from avinet.trust.files import DiskFullError


class HowMany(SynchronousTestCase):
    def test_lines_are_told_from_writes(self):
        for before, now, lost in (
            ((0, 0, 0), (100, 4, 0), 0),
            ((0, 0, 0), (100, 0, 4), 100),
            ((100, 4, 0), (300, 4, 5), 200),
            ((100, 4, 0), (300, 9, 5), 100),
            ((100, 4, 1), (100, 4, 3), 2),
            ((100, 4, 3), (50, 0, 2), 50),
            ((100, 4, 3), (120, 2, 3), 72),
        ):
            self.assertEqual(lines_lost(LogWrites(*before), LogWrites(*now)), lost, (before, now))


class Case(SynchronousTestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.file = Path(held.name, "unwritten.json")
        self.clock, self.told, self.drops, self.full = Clock(), [], [], False
        self.clock.advance(1000)
        self.unwritten = self.make()

    def make(self):
        def note(drop):
            if self.full:
                return fail(DiskFullError(path="spool.db"))
            self.drops.append((drop.first_us // 10**6, drop.last_us // 10**6, drop.records))
            return succeed(None)

        def tell(code, level, text):
            self.told.append(level)

        return Unwritten(self.file, note, execute, self.clock, self.clock.seconds, tell)

    def look(self, *writes, wait_s=2):
        status = Status(started_at=900, servers=(), services=(), log_writes=LogWrites(*writes))
        self.unwritten.looked(Seen(0, status))
        self.clock.advance(wait_s)

    def test_each_loss_is_noted_once_with_the_time_between_two_looks(self):
        self.look(10, 1, 1)
        self.look(10, 1, 1)
        self.look(30, 2, 1)
        self.look(50, 2, 2)
        self.unwritten.looked(Seen(0, None))
        self.assertEqual(self.drops, [(900, 1000, 5), (1004, 1006, 20)])

    def test_what_is_in_memory_belongs_to_the_next_writes(self):
        self.look(10, 1, 0)
        self.look(110, 1, 0)
        self.look(110, 1, 4)
        self.assertEqual(self.drops, [(1000, 1004, 100)])

    def test_what_cannot_be_noted_is_noted_later(self):
        self.look(10, 1, 0)
        self.full = True
        for failed in (1, 2, 3):
            self.look(10 + 20 * failed, 1, failed)
        self.full = False
        self.look(70, 1, 3)
        self.assertEqual(self.drops, [(1000, 1008, 60)])

    def test_the_next_agent_goes_on_from_there(self):
        self.look(100, 0, 4)
        self.unwritten = self.make()
        self.look(100, 0, 4)
        self.look(150, 0, 5)
        self.assertEqual(self.drops, [(900, 1000, 100), (1002, 1004, 50)])
        self.file.write_bytes(b"\0")
        self.unwritten = self.make()
        self.look(10, 1, 0)
        self.assertEqual(len(self.drops), 2)

    def test_an_operator_hears_once_that_logs_are_lost_and_once_that_they_are_not(self):
        for failed in (1, 2, 3):
            self.look(10 * failed, 0, failed, wait_s=CALM_S / 2)
        self.assertEqual(self.told, [Level.ERROR])
        for _ in range(4):
            self.look(30, 0, 3, wait_s=CALM_S / 2)
        self.assertEqual(self.told, [Level.ERROR, Level.INFO])
