"""The parent's side of a worker: queues, time, back-off, and answers that nobody asked for."""

import signal
import sys

from twisted.internet.error import ProcessExitedAlready, ProcessTerminated
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.store.client import (
    MAX_WAITING,
    RESTART_BASE_S,
    RESTART_CAP_S,
    STEADY_S,
    STOP_GRACE_S,
    WorkerClient,
    WorkerTerms,
)
from avinet.logs.store.errors import (
    LogQueryTimeoutError,
    LogStoreBusyError,
    LogStoreStoppedError,
    LogWorkerDiedError,
)
from avinet.logs.store.frames import Frames, frame
from avinet.logs.store.jobs import Answered, Asked, Failed, FailureKind, Role, Rows, Select
from avinet.units import GIB

JOB = Select(sql="SELECT 1", values={}, files=())
ROWS = Rows(columns=("a",), rows=[[1]])


class Process:
    """A worker that does what the test says."""

    def __init__(self, protocol, pid):
        self.protocol, self.pid = protocol, pid
        self.asked, self.signals = [], []
        self.gone = False
        self._frames = Frames(Asked)

    def writeToChild(self, descriptor, data):
        assert descriptor == 0
        self.asked += self._frames.receive(data)

    def signalProcess(self, name):
        if self.gone:
            raise ProcessExitedAlready
        self.signals.append(name)

    def answer(self, number, done=ROWS, *, worn=False):
        self.protocol.outReceived(frame(Answered(number, done, worn)))

    def end(self, number=signal.SIGKILL):
        self.gone = True
        self.protocol.processEnded(Failure(ProcessTerminated(signal=number)))


class ClientTest(SynchronousTestCase):
    def setUp(self):
        self.clock, self.processes, self.deaths, self.refuse = Clock(), [], [], False
        terms = WorkerTerms(Role.QUERY, GIB, (), "/spill", slots=2)
        self.client = WorkerClient(terms, self, self.clock, lambda role, how: self.deaths.append(role))
        self.client.start()

    def spawnProcess(self, protocol, program, arguments, env, path):
        self.assertEqual(sys.executable, program)
        if self.refuse:
            raise OSError(11, "no more processes")
        self.processes.append(Process(protocol, 100 + len(self.processes)))
        return self.processes[-1]

    @property
    def worker(self):
        return self.processes[-1]

    def jobs(self):
        return [asked.number for asked in self.worker.asked if asked.job is not None]

    def stops(self):
        return [asked.number for asked in self.worker.asked if asked.job is None]

    def test_a_worker_that_has_grown_does_what_it_has_and_makes_room_for_another(self):
        asked = [self.client.ask(JOB, 60) for _ in range(3)]
        old = self.worker
        first, second = self.jobs()
        old.answer(first, worn=True)
        self.successResultOf(asked[0])
        self.assertEqual(([first, second], []), (self.jobs(), old.signals))
        old.answer(second)
        self.successResultOf(asked[1])
        self.assertEqual(["KILL"], old.signals)
        old.end()
        self.assertIsNot(old, self.worker)
        self.assertEqual([], self.deaths)
        (third,) = self.jobs()
        self.worker.answer(third)
        self.successResultOf(asked[2])

    def test_as_many_jobs_run_as_there_are_slots_and_the_rest_wait_in_order(self):
        asked = [self.client.ask(JOB, 60) for _ in range(3)]
        self.assertEqual(([1, 2], 1), (self.jobs(), self.client.waiting))
        self.worker.answer(2)
        self.assertEqual(ROWS, self.successResultOf(asked[1]))
        self.assertEqual([1, 2, 3], self.jobs())
        self.worker.answer(1)
        self.worker.answer(3)
        for one in (asked[0], asked[2]):
            self.successResultOf(one)
        self.assertEqual([], self.clock.getDelayedCalls())

    def test_what_is_too_much_is_refused(self):
        for _ in range(2 + MAX_WAITING):
            self.client.ask(JOB, 60).addErrback(lambda _: None)
        self.failureResultOf(self.client.ask(JOB, 60), LogStoreBusyError)

    def test_a_job_that_never_begins_fails_in_its_time(self):
        for _ in range(2):
            self.client.ask(JOB, 600)
        late = self.client.ask(JOB, 5)
        self.clock.advance(5)
        self.failureResultOf(late, LogQueryTimeoutError)
        self.assertEqual(0, self.client.waiting)

    def test_a_job_that_takes_too_long_is_asked_to_stop(self):
        slow = self.client.ask(JOB, 5)
        self.clock.advance(5)
        self.assertEqual([1], self.stops())
        self.assertNoResult(slow)
        self.worker.answer(1, Failed(kind=FailureKind.TIME, why="it was stopped"))
        self.assertEqual(5, self.failureResultOf(slow, LogQueryTimeoutError).value.limit_s)
        self.clock.advance(STOP_GRACE_S)
        self.assertEqual([], self.worker.signals)

    def test_a_worker_that_does_not_stop_is_killed(self):
        slow = self.client.ask(JOB, 5)
        self.clock.advance(5)
        self.clock.advance(STOP_GRACE_S)
        self.assertEqual(["KILL"], self.worker.signals)
        self.worker.end()
        self.failureResultOf(slow, LogWorkerDiedError)

    def test_a_cancelled_job_is_asked_to_stop_and_its_answer_is_nobodys(self):
        slow = self.client.ask(JOB, 5)
        slow.addErrback(lambda _: None)
        slow.cancel()
        self.assertEqual([1], self.stops())
        self.worker.answer(1)
        dying = self.client.ask(JOB, 5)
        dying.addErrback(lambda _: None)
        dying.cancel()
        self.successResultOf(self._stopped())
        self.assertEqual((0, []), (self.client.running, self.clock.getDelayedCalls()))

    def test_who_left_is_told_when_the_job_is_over_whichever_way(self):
        over = []
        asked = [self.client.ask(JOB, 5.0, lambda n=n: over.append(n)) for n in range(2)]
        for one in asked:
            one.cancel()
            self.failureResultOf(one)
        self.assertEqual(over, [])
        self.worker.answer(1)
        self.assertEqual(over, [0])
        self.worker.end()
        self.assertEqual(over, [0, 1])

    def _stopped(self):
        stopped = self.client.stop()
        self.worker.end()
        return stopped

    def test_what_waits_goes_to_the_next_worker(self):
        asked = [self.client.ask(JOB, 60) for _ in range(3)]
        self.worker.end()
        for one in asked[:2]:
            self.failureResultOf(one, LogWorkerDiedError)
        self.assertEqual([Role.QUERY], self.deaths)
        self.clock.advance(2 * RESTART_BASE_S)
        self.assertEqual(2, len(self.processes))
        self.worker.answer(3)
        self.successResultOf(asked[2])

    def test_a_worker_that_always_dies_is_started_ever_more_seldom(self):
        waits = []
        for _ in range(12):
            self.worker.end()
            (call,) = self.clock.getDelayedCalls()
            waits.append(call.getTime() - self.clock.seconds())
            self.clock.advance(waits[-1])
        self.assertEqual([RESTART_BASE_S * 2**n for n in range(1, 7)], waits[:6])
        self.assertEqual(RESTART_CAP_S, waits[-1])
        self.clock.advance(STEADY_S)
        self.worker.end()
        (call,) = self.clock.getDelayedCalls()
        self.assertEqual(RESTART_BASE_S, call.getTime() - self.clock.seconds())
        self.successResultOf(self.client.stop())

    def test_a_machine_without_room_for_a_process_is_tried_again(self):
        self.refuse = True
        self.worker.end()
        self.clock.advance(2 * RESTART_BASE_S)
        self.assertEqual(1, len(self.processes))
        self.refuse = False
        self.clock.advance(RESTART_CAP_S)
        self.assertEqual(2, len(self.processes))

    def test_nonsense_ends_the_worker(self):
        for said in (b"\xff\xff\xff\xff", frame(Answered(99, ROWS))):
            self.worker.protocol.outReceived(said)
            self.assertEqual(["KILL"], self.worker.signals)
            self.worker.end()
            self.clock.advance(RESTART_CAP_S)
        self.assertEqual(3, len(self.processes))

    def test_stopping_fails_what_is_under_way_and_waits_for_the_end(self):
        asked = [self.client.ask(JOB, 60) for _ in range(3)]
        stopped = self.client.stop()
        for one in asked:
            self.failureResultOf(one, LogStoreStoppedError)
        self.assertNoResult(stopped)
        self.worker.end()
        self.successResultOf(stopped)
        self.assertEqual(([], []), (self.deaths, self.clock.getDelayedCalls()))
        self.failureResultOf(self.client.ask(JOB, 60), LogStoreStoppedError)
