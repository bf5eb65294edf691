"""One child process, kept running: started, started again with back-off, stopped, never orphaned.

Its output goes through a pipe into a log file that is rotated once, so that it takes at most twice
``LOG_BYTES``.  The child gets a signal when this process dies, however that happens (``avinet.cloud.launch``).
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.internet.error import ProcessDone, ProcessExitedAlready
from twisted.internet.interfaces import IDelayedCall, IProcessTransport, IReactorProcess, IReactorTime
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.units import MIB

LOG_BYTES = 8 * MIB
"""Days of an agent's log; with the rotated one, 16 MiB a child."""
RESTART_BASE_S = 1.0
RESTART_CAP_S = 60.0
"""A child that cannot start costs one attempt a minute."""
STEADY_S = 30.0
"""Having run this long, a child's next failure starts the back-off anew."""
STOP_TIMEOUT_S = 10.0
"""From SIGTERM to SIGKILL; below the controller's own 20 s."""
PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR", "XDG_RUNTIME_DIR", "VIRTUAL_ENV", "PYTHONPATH")
"""What a child may need of the controller's environment; the rest may hold secrets."""

_log = Logger()


def passed_on() -> dict[str, str]:
    """This process's environment as far as children get it."""
    return {name: os.environ[name] for name in PASSED_ON if name in os.environ}


@attrs.define
class RotatingLog:
    """An append-only file that becomes ``<name>.1`` when it is full."""

    path: Path
    limit: int = LOG_BYTES
    _descriptor: int = attrs.field(default=-1, init=False)
    _size: int = attrs.field(default=0, init=False)

    def write(self, data: bytes) -> None:
        """Append; a full disk loses log lines and nothing else."""
        try:
            if self._descriptor < 0:
                self._open()
            if self._size >= self.limit:
                self.close()
                self.path.replace(f"{self.path}.1")
                self._open()
            self._size += os.write(self._descriptor, data)
        except OSError as failure:
            _log.warn("cannot write {path}: {why}", path=str(self.path), why=str(failure))

    def _open(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC
        self._descriptor = os.open(self.path, flags, 0o600)
        self._size = os.fstat(self._descriptor).st_size

    def close(self) -> None:
        """Give the file back."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


class _Output(ProcessProtocol):
    def __init__(self, log: RotatingLog, ended: Callable[[Failure], None]) -> None:
        self._log = log
        self._ended = ended

    def childDataReceived(self, childFD: int, data: bytes) -> None:
        self._log.write(data)

    def processEnded(self, reason: Failure) -> None:
        self._ended(reason)


@attrs.frozen
class Command:
    """What to run; ``environment`` is all that the child gets of one."""

    arguments: tuple[str, ...]
    folder: Path
    environment: dict[str, str] = attrs.field(repr=False, factory=dict)
    at_our_death: signal.Signals = signal.SIGTERM
    """What the child is sent when this process dies."""


@attrs.define(eq=False)
class Child:
    """Keeps ``command`` running from ``start`` to ``stop``."""

    name: str
    command: Command
    log: RotatingLog
    processes: IReactorProcess
    clock: IReactorTime
    on_exit: Callable[[str], None] = attrs.field(default=lambda _: None)
    """Told how the process ended, each time that nobody asked it to."""
    restart: bool = True
    """Whether to run it again after that."""
    _process: IProcessTransport | None = attrs.field(default=None, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _failures: int = attrs.field(default=0, init=False)
    _again: IDelayedCall | None = attrs.field(default=None, init=False)
    _kill: IDelayedCall | None = attrs.field(default=None, init=False)
    _stopping: list[Deferred[None]] | None = attrs.field(default=None, init=False)

    @property
    def pid(self) -> int | None:
        """Of the running process."""
        return None if self._process is None else self._process.pid

    def start(self) -> None:
        """Run it, unless it runs."""
        if self._process is not None:
            return
        self._stopping = None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self._started_at = self.clock.seconds()
        parent = f"{os.getpid()}:{int(self.command.at_our_death)}"
        launcher = (sys.executable, "-m", "avinet.cloud.launch", parent)
        try:
            self._process = self.processes.spawnProcess(
                _Output(self.log, self._ended),
                sys.executable,
                (*launcher, *self.command.arguments),
                env=self.command.environment,
                path=str(self.command.folder),
            )
        except OSError as failure:
            # No descriptor, process or memory is left for now.
            self._run_again(str(failure))
            return
        _log.info("started {name} as pid {pid}", name=self.name, pid=self.pid)

    def stop(self) -> Deferred[None]:
        """SIGTERM, later SIGKILL; fires when it is gone."""
        if self._again is not None:
            self._again.cancel()
            self._again = None
        if self._process is None:
            return succeed(None)
        done: Deferred[None] = Deferred()
        if self._stopping is None:
            self._stopping = []
            self._signal(signal.SIGTERM)
            self._kill = self.clock.callLater(STOP_TIMEOUT_S, self._signal, signal.SIGKILL)
        self._stopping.append(done)
        return done

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        try:
            self._process.signalProcess(number.name.removeprefix("SIG"))
        except ProcessExitedAlready:
            return

    def _ended(self, reason: Failure) -> None:
        self._process = None
        self.log.close()
        waiting, self._stopping = self._stopping, None
        if self._kill is not None and self._kill.active():
            self._kill.cancel()
        self._kill = None
        if waiting is not None:
            for done in waiting:
                done.callback(None)
            return
        how = "it ended" if reason.check(ProcessDone) else str(reason.value)
        self._run_again(how)

    def _run_again(self, how: str) -> None:
        """After a while, unless it was to run once."""
        ran_s = self.clock.seconds() - self._started_at
        self._failures = 0 if ran_s >= STEADY_S else self._failures + 1
        wait_s = min(RESTART_CAP_S, RESTART_BASE_S * 2.0 ** min(self._failures, 16))
        if not self.restart:
            _log.warn("{name} ended: {how}", name=self.name, how=how)
            self.on_exit(how)
            return
        _log.warn("{name} ended: {how}; again in {wait_s:.0f} s", name=self.name, how=how, wait_s=wait_s)
        self.on_exit(how)
        self._again = self.clock.callLater(wait_s, self._restart)

    def _restart(self) -> None:
        self._again = None
        self.start()
