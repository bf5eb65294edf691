"""The service that takes logs from a data plane into the spool: what it does when, and what it says when it cannot."""

import shutil
import tempfile
from pathlib import Path
from unittest import mock

from twisted.internet.defer import Deferred, execute, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.interface import DataPlaneDownError, LogFiles
from avinet.logs import spool_window
from avinet.logs.spool import Spool, SpoolLimits
from avinet.logs.throttle import Throttle, Throttles
from avinet.model.events import Level
from avinet.model.logs import DropReason, LogClass, Selection
from avinet.se.log_spooler import CODE, LogSpooler, SpoolNotReadyError
from avinet.se.log_turnover import (
    FULL_AGE_S,
    FULL_MAX_AGE_S,
    LARGE_PIECE_BYTES,
    PIECE_BYTES,
    SPOOL_SHARE,
    WORTH_BYTES,
    Turnover,
)
from avinet.sqlite_file import StoreDamagedError
from tests.unit.log_lines import line, service

FULL, SIGNIFICANT = LogClass.FULL, LogClass.SIGNIFICANT


class Writer:
    """A data plane that goes on writing to a file that was renamed, until it is told to open it anew."""

    def __init__(self, folder):
        self.files = LogFiles(folder)
        self.held = {}
        self.memory = {}
        self.reopened = 0
        self.down = False

    def write(self, log_class, text):
        if log_class not in self.held:
            self.held[log_class] = self.files.current(log_class).open("ab", 0)
        self.held[log_class].write(text)

    def log_files(self):
        return self.files

    def reopen_logs(self):
        if self.down:
            return fail(DataPlaneDownError(detail="test"))
        self.reopened += 1
        for file in self.held.values():
            file.close()
        self.held.clear()
        memory, self.memory = self.memory, {}
        for log_class, text in memory.items():
            self.write(log_class, text)
        return succeed(None)


class Kit(SynchronousTestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.state, logs = Path(held.name, "logs"), Path(held.name, "data-plane")
        logs.mkdir()
        self.source = Writer(logs)
        self.addCleanup(lambda: [file.close() for file in self.source.held.values()])
        self.clock = Clock()
        self.told = []
        self.opening = None
        self.spooler = self.make()
        self.addCleanup(lambda: self.successResultOf(Deferred.fromCoroutine(self.spooler.stop())))

    def make(self):
        return LogSpooler(self.source, self.open_spool, self.clock, execute, self.tell)

    def open_spool(self):
        if self.opening is not None:
            raise self.opening
        return Spool.open(self.state, self.source.files.folder, self.clock.seconds)

    def tell(self, code, level, text):
        self.assertEqual(code, CODE)
        self.told.append((level, text))

    def pass_s(self, seconds):
        self.clock.pump([0.5] * round(2 * seconds))

    def heads(self, **selection):
        return self.spooler.spool.pending(Selection(**selection), None, 0, 100)

    def restart(self):
        self.successResultOf(Deferred.fromCoroutine(self.spooler.stop()))
        self.spooler = self.make()
        self.spooler.start()


class Flowing(Kit):
    def test_significant_logs_are_there_in_seconds_and_somebody_is_told(self):
        heard = []
        cancel = self.spooler.on_segments(lambda: heard.append(len(self.heads())))
        self.spooler.start()
        self.source.write(SIGNIFICANT, line(1))
        self.source.write(FULL, line(2))
        self.pass_s(3)
        self.assertEqual([head.service for head in self.heads()], [service(1)])
        self.assertEqual(heard, [1])
        cancel()
        self.source.write(SIGNIFICANT, line(1))
        self.pass_s(3)
        self.assertEqual((len(self.heads()), heard), (2, [1]))

    def test_what_a_data_plane_writes_to_a_renamed_file_is_not_lost(self):
        self.spooler.start()
        self.pass_s(1)
        self.source.write(SIGNIFICANT, line(1))
        rename = self.source.files.set_aside

        def late(log_class):
            piece = rename(log_class)
            if piece is not None and log_class in self.source.held:
                self.source.held[log_class].write(line(2))
            return piece

        self.source.files = type("Late", (), {})()
        self.source.files.current = LogFiles(self.state.parent / "data-plane").current
        self.source.files.folder = self.state.parent / "data-plane"
        self.source.files.set_aside = late
        self.pass_s(3)
        self.assertEqual([head.service for head in self.heads()], [service(1), service(2)])

    def test_full_logs_wait_until_they_are_asked_for(self):
        self.spooler.start()
        self.source.write(FULL, line(1))
        self.source.memory = {FULL: line(2), SIGNIFICANT: line(3)}
        self.pass_s(10)
        self.assertEqual(self.heads(), [])
        self.assertEqual(self.successResultOf(self.spooler.flush()), 3)
        self.assertEqual({head.service for head in self.heads()}, {service(1), service(2), service(3)})
        self.assertEqual(self.successResultOf(self.spooler.flush()), 3)

    def test_a_predecessors_pieces_are_read_only_after_an_order_to_open_anew(self):
        self.source.write(FULL, line(1))
        self.source.files.set_aside(FULL)
        self.source.down = True
        self.spooler.start()
        self.pass_s(1)
        self.assertEqual(self.heads(), [])
        self.source.write(FULL, line(1))  # to the renamed file
        self.source.down = False
        self.pass_s(5)
        self.assertEqual([head.records for head in self.heads()], [2])
        self.assertEqual(self.source.reopened, 1)

    def test_limits_and_throttles_hold_from_before_the_first_line(self):
        self.spooler.configure(SpoolLimits(max_segments=1), Throttles(full=Throttle(per_se=1)))
        self.spooler.start()
        self.pass_s(1)
        self.source.write(FULL, line(1) + line(1) + line(2, 5))
        self.successResultOf(self.spooler.flush())
        self.assertEqual([head.service for head in self.heads()], [service(2)])
        self.assertEqual(
            self.spooler.spool.totals().drops, {DropReason.THROTTLED: 1, DropReason.SPOOL_FULL: 1}
        )
        self.spooler.configure(SpoolLimits(), Throttles())
        self.source.write(FULL, line(1) + line(1))
        self.successResultOf(self.spooler.flush())
        self.assertEqual([head.records for head in self.heads()], [1, 2])

    def test_what_is_too_old_goes_by_the_clock(self):
        self.spooler.configure(SpoolLimits(max_age_s=100), Throttles())
        self.spooler.start()
        self.source.write(SIGNIFICANT, line(1, 1_000_000))
        self.pass_s(90)
        self.assertEqual(len(self.heads()), 1)
        self.pass_s(80)
        self.assertEqual(self.heads(), [])

    def test_it_is_closed_and_opened_again(self):
        self.spooler.start()
        self.source.write(SIGNIFICANT, line(1))
        self.pass_s(3)
        heads = self.heads()
        opened = []
        self.restart()
        self.spooler.on_open(opened.append)
        self.assertRaises(SpoolNotReadyError, lambda: self.spooler.spool)
        self.failureResultOf(self.spooler.flush(), SpoolNotReadyError)
        self.pass_s(1)
        self.assertEqual((self.heads(), opened), (heads, [self.spooler.spool]))
        self.spooler.on_open(opened.append)
        self.assertEqual(len(opened), 2)


class Troubles(Kit):
    def test_they_are_told_once_and_when_they_are_over(self):
        self.spooler.start()
        self.source.write(SIGNIFICANT, line(1))
        self.source.down = True
        self.pass_s(100)
        [(level, text)] = self.told
        self.assertEqual(level, Level.ERROR)
        self.assertIn("does not answer: test", text)
        self.source.down = False
        self.pass_s(61)
        self.assertEqual([level for level, _ in self.told], [Level.ERROR, Level.INFO])
        self.assertEqual(len(self.heads()), 1)

    def test_it_is_tried_later_and_later(self):
        self.opening = OSError("no disk")
        tries = []
        self.spooler.open_spool = lambda: tries.append(self.clock.seconds()) or self.open_spool()
        self.spooler.start()
        self.pass_s(300)
        self.assertEqual(tries[:5], [0.5, 1.5, 3.5, 7.5, 15.5])
        self.assertLess(len(tries), 35)
        self.opening = None
        self.pass_s(61)
        self.assertEqual(self.heads(), [])

    def test_an_index_that_is_found_damaged_is_made_anew(self):
        self.spooler.start()
        self.source.write(SIGNIFICANT, line(1))
        self.pass_s(3)
        heads, spool = self.heads(), self.spooler.spool
        incarnation, take_in = spool.incarnation, spool.take_in

        def damaged(piece):
            spool.take_in = take_in
            raise StoreDamagedError(where="here", detail="test")

        spool.take_in = damaged
        self.source.write(SIGNIFICANT, line(2))
        self.pass_s(5)
        self.assertEqual(self.heads()[:1], heads)
        self.assertEqual([head.service for head in self.heads()], [service(1), service(2)])
        self.assertNotEqual(spool.incarnation, incarnation)

    def test_a_defect_does_not_end_it(self):
        self.spooler.start()
        self.pass_s(1)
        spool = self.spooler.spool
        enforce, spool.enforce = spool.enforce, lambda final: 1 / 0
        self.spooler.configure(SpoolLimits(), Throttles())
        self.pass_s(2)
        self.assertTrue(self.flushLoggedErrors(ZeroDivisionError))
        self.assertEqual(len(self.told), 1)
        spool.enforce = enforce
        self.source.write(SIGNIFICANT, line(1))
        self.pass_s(5)
        self.assertEqual(len(self.heads()), 1)

    def test_what_cannot_be_taken_in_is_held_to_the_limit_all_the_same(self):
        self.patch(spool_window, "CHUNK_BYTES", 50_000)
        self.spooler.configure(SpoolLimits(max_bytes=200_000), Throttles())
        self.spooler.start()
        self.pass_s(1)
        self.source.down = True
        text = b"".join(line(1, n, path="x" * 1000) for n in range(100))
        for _ in range(10):
            self.source.write(FULL, text)
            self.pass_s(5)
        self.assertLess(self.spooler.spool._pieces.disk_bytes(FULL), 450_000)
        self.source.down = False
        self.pass_s(60)
        totals = self.spooler.spool.totals()
        self.assertEqual(totals.full.records + totals.drops[DropReason.SPOOL_FULL], 1000)
        self.assertGreater(totals.full.records, 0)
        self.assertEqual(set(totals.drops), {DropReason.SPOOL_FULL})

    def test_a_folder_that_somebody_removes_is_made_anew_and_written_to(self):
        self.spooler.start()
        self.pass_s(1)
        self.source.write(SIGNIFICANT, line(1, 1))
        shutil.rmtree(self.source.files.folder)
        self.pass_s(1)
        (what,) = self.told
        self.assertEqual((what[0], "was removed" in what[1]), (Level.ERROR, True))
        self.source.write(SIGNIFICANT, line(1, 2))
        self.pass_s(5)
        self.assertEqual((len(self.heads()), len(self.told)), (1, 1))

    def test_room_is_kept_before_anything_is_taken_in(self):
        self.spooler.start()
        self.pass_s(1)
        self.source.write(SIGNIFICANT, line(1, 1))
        with mock.patch.object(Spool, "look_after", side_effect=OSError("no disk")):
            self.pass_s(5)
        self.assertEqual(self.told[-1], (Level.ERROR, "request logs are not taken in: no disk"))
        self.pass_s(20)
        self.assertEqual(len(self.heads()), 1)


class WhenFilesAreTakenAway(SynchronousTestCase):
    def test_full_ones_when_they_are_worth_it_or_old_or_large(self):
        turnover = Turnover()
        due = lambda size, now: turnover.due({FULL: size, SIGNIFICANT: 0}, now)
        self.assertEqual(due(1, 0), [])
        self.assertEqual(due(WORTH_BYTES, FULL_AGE_S - 1), [])
        self.assertEqual(due(WORTH_BYTES - 1, FULL_AGE_S), [])
        self.assertEqual(due(WORTH_BYTES, FULL_AGE_S), [FULL])
        turnover.taken(FULL)
        turnover.made(100)
        self.assertEqual(due(99 * WORTH_BYTES, 1000), [])
        self.assertEqual(due(99 * WORTH_BYTES, 1000 + FULL_AGE_S), [])
        self.assertEqual(due(99 * WORTH_BYTES, 1000 + FULL_MAX_AGE_S), [FULL])
        turnover.taken(FULL)
        self.assertEqual(due(PIECE_BYTES, 9000), [FULL])

    def test_with_many_services_larger_ones_and_never_more_than_a_share_of_the_spool(self):
        turnover = Turnover()
        due = lambda size: turnover.due({FULL: size}, 0)
        turnover.made(400)
        self.assertEqual(due(LARGE_PIECE_BYTES - 1), [])
        self.assertEqual(due(LARGE_PIECE_BYTES), [FULL])
        turnover.limit(SPOOL_SHARE * 1000)
        self.assertEqual(due(999), [])
        self.assertEqual(due(1000), [FULL])

    def test_an_empty_file_does_not_age(self):
        turnover = Turnover()
        self.assertEqual(turnover.due({SIGNIFICANT: 1}, 0), [])
        self.assertEqual(turnover.due({SIGNIFICANT: 0}, 1), [])
        self.assertEqual(turnover.due({SIGNIFICANT: 1}, 10), [])
        self.assertEqual(turnover.due({SIGNIFICANT: 1}, 12), [SIGNIFICANT])
