"""The parent's side of one worker: started, asked, stopped when it takes too long, started again when it ends.

At most ``slots`` jobs run at once and ``MAX_WAITING`` wait; more are refused.  A job that takes too long is asked to
stop, and the worker is killed if it does not.  When the worker ends, the jobs it was doing fail, those that wait go to
the next one.
"""

import os
import signal
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.logs.store.errors import (
    LogStoreBusyError,
    LogStoreStoppedError,
    LogWorkerDiedError,
    error_of,
)
from avinet.logs.store.frames import Frames, frame
from avinet.logs.store.jobs import Answered, Asked, Done, Failed, Job, Role
from avinet.units import KIB

MAX_WAITING = 100
"""Beyond those that run: more askers than a team has."""
STOP_GRACE_S = 10.0
"""For a query that was interrupted to notice; DuckDB looks each few ms, but not within a sort's last step."""
RESTART_BASE_S = 0.5
RESTART_CAP_S = 60.0
STEADY_S = 30.0
"""Having run this long, a worker's next end starts the back-off anew."""
STDERR_BYTES = 4 * KIB
"""Of what a worker says before it dies: the end of a traceback."""

_log = Logger()


@attrs.frozen
class WorkerTerms:
    """What a worker may have."""

    role: Role
    memory_bytes: int
    folders: tuple[Path, ...]
    spill: Path
    slots: int = 1


@attrs.define(eq=False)
class _Task:
    job: Job
    limit_s: float
    done: Deferred[Done]
    timer: IDelayedCall | None = None
    number: int = 0
    """0 while it waits."""
    over: Callable[[], None] = lambda: None
    """Told when the job has ended after its asker had left."""


class _Pipes(ProcessProtocol):
    def __init__(self, owner: "WorkerClient") -> None:
        self._owner = owner
        self._frames: Frames[Answered] = Frames(Answered)
        self._said = bytearray()

    def outReceived(self, data: bytes) -> None:
        try:
            answers = self._frames.receive(data)
        except AvinetError as why:
            _log.error("the log store's worker talks nonsense: {why}", why=str(why))
            self._owner.kill()
            return
        for answered in answers:
            self._owner.answered(answered)

    def errReceived(self, data: bytes) -> None:
        self._said += data
        del self._said[:-STDERR_BYTES]

    def processEnded(self, reason: Failure) -> None:
        self._owner.ended(str(reason.value), self._said.decode("utf-8", "backslashreplace"))


@attrs.define(eq=False)
class WorkerClient:
    """Keeps one worker running from ``start`` to ``stop``; ``on_death`` is told how it ended."""

    terms: WorkerTerms
    processes: IReactorProcess
    clock: IReactorTime
    on_death: Callable[[Role, str], None] = attrs.field(default=lambda _role, _how: None)
    _process: IProcessTransport | None = attrs.field(default=None, init=False)
    _running: dict[int, _Task] = attrs.field(factory=dict, init=False)
    _waiting: deque[_Task] = attrs.field(factory=deque, init=False)
    _numbers: int = attrs.field(default=0, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _again: IDelayedCall | None = attrs.field(default=None, init=False)
    _worn: bool = attrs.field(default=False, init=False)
    """It gets no more jobs, and ends when it has done those that it has."""
    _stopped: list[Deferred[None]] | None = attrs.field(factory=list, init=False)
    """Who waits for the end; None while it is to run."""

    @property
    def pid(self) -> int | None:
        """Of the worker."""
        return None if self._process is None else self._process.pid

    @property
    def waiting(self) -> int:
        """Jobs that no worker has begun."""
        return len(self._waiting)

    @property
    def running(self) -> int:
        """Jobs under way."""
        return len(self._running)

    def start(self) -> None:
        """Start the worker, and take jobs from now on."""
        if self._stopped is None:
            return
        self._stopped = None
        self._spawn()

    def stop(self) -> Deferred[None]:
        """End it, whatever it does; fires when it is gone."""
        if self._stopped is None:
            self._stopped = []
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._fail_all(LogStoreStoppedError(), (*self._running.values(), *self._waiting))
        if self._process is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        self._stopped.append(done)
        self.kill()
        return done

    def ask(self, job: Job, limit_s: float, over: Callable[[], None] = lambda: None) -> Deferred[Done]:
        """Have a job done; the errors are those of ``avinet.logs.store.errors``.

        Cancelling asks it to stop; ``over`` is called once it has, with or without what it was to make.
        """
        if self._stopped is not None:
            return fail(LogStoreStoppedError())
        if len(self._waiting) >= MAX_WAITING:
            return fail(LogStoreBusyError(waiting=len(self._waiting)))
        task = _Task(job, limit_s, Deferred(lambda _: self._give_up(task)), over=over)
        # Waiting counts: whoever asks wants an answer within that time.
        task.timer = self.clock.callLater(limit_s, self._give_up, task)
        self._waiting.append(task)
        self._next()
        return task.done

    def kill(self) -> None:
        """SIGKILL; it has nothing to save."""
        if self._process is not None:
            try:
                self._process.signalProcess(signal.SIGKILL.name.removeprefix("SIG"))
            except ProcessExitedAlready:
                return

    # What the process says

    def answered(self, answered: Answered) -> None:
        """A job is done."""
        task = self._running.pop(answered.number, None)
        if task is None:
            _log.error("the log store's worker answers what nobody asked: {number}", number=answered.number)
            self.kill()
            return
        self._worn = self._worn or answered.worn
        if self._worn and not self._running:
            self.kill()
        self._finish(task, answered.done)
        self._next()

    def ended(self, how: str, said: str) -> None:
        """The worker is gone."""
        self._process = None
        worn, self._worn = self._worn and not self._running, False
        if self._stopped is not None:
            waiting, self._stopped = self._stopped, []
            for done in waiting:
                done.callback(None)
            return
        role = self.terms.role.value
        if worn:
            _log.info("the log store's {role} worker had grown, and is started anew", role=role)
            self._spawn()
            return
        _log.error("the log store's {role} worker ended: {how} {said}", role=role, how=how, said=said)
        self.on_death(self.terms.role, how)
        self._fail_all(LogWorkerDiedError(role=role, how=how), tuple(self._running.values()))
        self._spawn_later()

    # Inside

    def _spawn(self) -> None:
        self._again = None
        terms = self.terms
        self._started_at = self.clock.seconds()
        arguments = (terms.role.value, os.getpid(), terms.memory_bytes, terms.spill, *terms.folders)
        try:
            self._process = self.processes.spawnProcess(
                _Pipes(self),
                sys.executable,
                (sys.executable, "-m", "avinet.logs.store.worker", *map(str, arguments)),
                env=_environment(),
                path="/",
            )
        except OSError as why:
            # No descriptor, process or memory is left for now.
            _log.error("the log store's worker cannot be started: {why}", why=str(why))
            self._spawn_later()
            return
        self._next()

    def _spawn_later(self) -> None:
        if self._stopped is not None:
            return
        ran_s = self.clock.seconds() - self._started_at
        self._failures = 0 if ran_s >= STEADY_S else self._failures + 1
        wait_s = min(RESTART_CAP_S, RESTART_BASE_S * 2.0 ** min(self._failures, 16))
        self._again = self.clock.callLater(wait_s, self._spawn)

    def _next(self) -> None:
        while (
            self._process is not None
            and not self._worn
            and self._waiting
            and len(self._running) < self.terms.slots
        ):
            task = self._waiting.popleft()
            self._numbers += 1
            task.number = self._numbers
            self._running[task.number] = task
            self._process.writeToChild(0, frame(Asked(task.number, task.job)))

    def _give_up(self, task: _Task) -> None:
        """It took too long, or nobody waits any more."""
        if task.timer is not None and task.timer.active():
            task.timer.cancel()
        if not task.number:
            if task in self._waiting:
                self._waiting.remove(task)
                self._finish(task, Failed(kind="time", why="it never began"))
            return
        if task.number in self._running and self._process is not None:
            self._process.writeToChild(0, frame(Asked(task.number)))
            task.timer = self.clock.callLater(STOP_GRACE_S, self.kill)

    def _finish(self, task: _Task, answer: Done) -> None:
        if task.timer is not None and task.timer.active():
            task.timer.cancel()
        if task.done.called:
            # It was cancelled.
            task.over()
            return
        if isinstance(answer, Failed):
            task.done.errback(error_of(answer, task.limit_s))
        else:
            task.done.callback(answer)

    def _fail_all(self, why: AvinetError, tasks: tuple[_Task, ...]) -> None:
        for task in tasks:
            self._running.pop(task.number, None)
            if task in self._waiting:
                self._waiting.remove(task)
            if task.timer is not None and task.timer.active():
                task.timer.cancel()
            if task.done.called:
                task.over()
            else:
                task.done.errback(why)


def _environment() -> dict[str, str]:
    """What Python needs to find the same modules, and no more."""
    return {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "PYTHONUNBUFFERED": "1",
        "LC_ALL": "C.UTF-8",
        # Threads of ours do the work; more of OpenMP's or Arrow's would only wait.
        "OMP_NUM_THREADS": "1",
        # Arrow's allocator asks for a GiB of address space at once by default, and RLIMIT_DATA counts that.
        "MIMALLOC_ARENA_RESERVE": "64MiB",
    }
