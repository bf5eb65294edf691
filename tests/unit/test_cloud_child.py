"""A child process kept running: back-off, stop, logs."""

import errno
import os
import signal
import tempfile
from pathlib import Path

from twisted.internet.error import ProcessDone, ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.cloud.child import RESTART_CAP_S, STEADY_S, STOP_TIMEOUT_S, Child, Command, RotatingLog


class Process:
    def __init__(self, pid, protocol):
        self.pid = pid
        self.protocol = protocol
        self.signals = []
        self.gone = False

    def signalProcess(self, name):
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def end(self, status=0, sig=None):
        self.gone = True
        reason = ProcessDone(0) if status == 0 and sig is None else ProcessTerminated(status, sig)
        self.protocol.processEnded(Failure(reason))


class Processes:
    def __init__(self):
        self.all = []
        self.calls = []
        self.failure = None

    def spawnProcess(self, protocol, executable, args=(), env=None, path=None, **more):
        if self.failure is not None:
            raise self.failure
        self.calls.append((executable, tuple(args), env, path))
        self.all.append(Process(100 + len(self.all), protocol))
        return self.all[-1]


class Supervision(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
        self.clock, self.processes, self.exits = Clock(), Processes(), []
        self.child = Child(
            "se-1",
            Command(("/bin/agent", "--flag"), self.folder, {"PATH": "/bin"}),
            RotatingLog(self.folder / "log", 100),
            self.processes,
            self.clock,
            self.exits.append,
        )
        self.child.start()

    def test_it_is_started_through_the_launcher_with_its_own_environment(self):
        _, arguments, environment, path = self.processes.calls[0]
        self.assertEqual(("-m", "avinet.cloud.launch"), arguments[1:3])
        self.assertEqual((f"{os.getpid()}:15", "/bin/agent", "--flag"), arguments[3:])
        self.assertEqual({"PATH": "/bin"}, environment)
        self.assertEqual(str(self.folder), path)

    def test_starting_again_while_it_runs_does_nothing(self):
        self.child.start()
        self.assertEqual(1, len(self.processes.all))

    def test_it_is_restarted_after_a_growing_wait(self):
        waits = []
        for number in range(9):
            self.processes.all[-1].end(1)
            waits.append(self.clock.getDelayedCalls()[0].getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
            self.assertEqual(number + 2, len(self.processes.all))
        self.assertEqual(sorted(waits), waits)
        self.assertEqual(RESTART_CAP_S, waits[-1])
        self.assertEqual(9, len(self.exits))

    def test_after_a_steady_run_the_wait_is_short_again(self):
        for _ in range(6):
            self.processes.all[-1].end(1)
            self.clock.advance(RESTART_CAP_S)
        self.clock.advance(STEADY_S)
        self.processes.all[-1].end(sig=signal.SIGKILL)
        self.clock.advance(1)
        self.assertEqual(8, len(self.processes.all))

    def test_a_machine_without_room_for_a_process_is_asked_again(self):
        self.processes.failure = OSError(errno.EMFILE, "Too many open files")
        self.processes.all[-1].end(1)
        self.clock.pump([RESTART_CAP_S] * 5)
        self.assertIsNone(self.child.pid)
        self.processes.failure = None
        self.clock.advance(RESTART_CAP_S)
        self.assertEqual(101, self.child.pid)

    def test_stopping_asks_then_kills_and_fires_when_it_is_gone(self):
        done = []
        self.child.stop().addCallback(done.append)
        self.child.stop().addCallback(done.append)
        process = self.processes.all[0]
        self.assertEqual(["TERM"], process.signals)
        self.clock.advance(STOP_TIMEOUT_S)
        self.assertEqual(["TERM", "KILL"], process.signals)
        self.assertEqual([], done)
        process.end(sig=signal.SIGKILL)
        self.assertEqual([None, None], done)
        self.assertEqual([], self.clock.getDelayedCalls())
        self.assertIsNone(self.child.pid)

    def test_stopping_between_two_runs_ends_the_wait(self):
        self.processes.all[0].end(1)
        self.assertTrue(self.child.stop().called)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_a_stopped_child_can_be_started_again(self):
        self.child.stop()
        self.processes.all[0].end()
        self.child.start()
        self.processes.all[1].end(1)
        self.assertEqual(1, len(self.exits))

    def test_output_goes_to_a_log_that_is_rotated(self):
        protocol = self.processes.all[0].protocol
        for letter in b"abcdefgh":
            protocol.childDataReceived(1, bytes([letter]) * 50)
        self.assertLessEqual((self.folder / "log").stat().st_size, 150)
        self.assertLessEqual((self.folder / "log.1").stat().st_size, 150)
        self.assertTrue((self.folder / "log").read_bytes().endswith(b"h" * 50))
        self.assertEqual(0o600, (self.folder / "log").stat().st_mode & 0o777)

    def test_a_log_that_cannot_be_written_harms_nothing(self):
        log = RotatingLog(self.folder / "no" / "such" / "folder")
        log.write(b"x")
        self.assertEqual(-1, log._descriptor)
