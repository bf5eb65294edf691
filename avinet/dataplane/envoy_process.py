"""One Envoy process: started apart from the agent, found again by the next agent, restarted when it dies.

Envoy gets a session of its own and no pipe to us, so it outlives the agent however that ends, and a later agent
adopts it.  Where a service manager starts Envoy (``started_by``), the agent starts none: it waits for the one that the
service manager has started, and after that one's death for the next.
"""

import contextlib
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.dataplane.envoy_admin import EnvoyAdmin
from avinet.dataplane.envoy_binary import EnvoyBinary
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.envoy_start import StartLock, environment, make_ready, record, recorded, running
from avinet.dataplane.interface import DataPlaneDownError
from avinet.dataplane.processes import ExitWatch, ProcessId, identify, send_signal
from avinet.errors import AvinetError

LIVE_TIMEOUT_S = 30.0
"""From start to serving: it waits for the first health check of every server, 4 s by default, and for DNS."""
SOCKET_TIMEOUT_S = 5.0
"""From start to an admin socket that answers: 0.1 s measured."""
ADOPT_TIMEOUT_S = 30.0
"""For one that runs to answer an agent that comes back; longer, and it hangs.  Busy with a large change it takes some
seconds."""
POLL_S = 0.05
SERVICE_TIMEOUT_S = 30.0
"""For the service manager to start one, before the agent says that none comes; systemd does so in a second or two."""
SERVICE_POLL_S = 0.2
"""A look whether it has: one read, and one connection to a socket."""
TIDY_TIMEOUT_S = 1.0
"""A process that was ended lets go of its lock with its last thread, some milliseconds after it counts as gone."""
TERM_TIMEOUT_S = 5.0
"""SIGTERM ends Envoy in well under a second; after this it is killed."""
FIRST_RESTART_S = 0.2
MAX_RESTART_S = 30.0
SETTLED_S = 60.0
"""Having run this long, its next death starts the back-off anew."""

_log = Logger()


def stop_data_plane(files: EnvoyFiles, sleep: Callable[[float], None] = time.sleep) -> ProcessId | None:
    """End the Envoy of ``files`` with no agent's help; the process that was ended, or None.  Blocking.

    Whoever calls this has made sure that no agent runs: it would start Envoy again.
    """
    process = running(files) or recorded(files)
    if process is None:
        return None
    for number in (signal.SIGTERM, signal.SIGKILL):
        send_signal(process, number)
        for _ in range(int(TERM_TIMEOUT_S / POLL_S)):
            if not process.alive:
                _tidy_away(files, sleep)
                return process
            sleep(POLL_S)
    raise DataPlaneDownError(detail=f"process {process.pid} does not end, not even by SIGKILL")


def _tidy_away(files: EnvoyFiles, sleep: Callable[[float], None]) -> None:
    """Remove what an ended Envoy left, unless the next one is being started."""
    for _ in range(int(TIDY_TIMEOUT_S / POLL_S)):
        if _forgotten(files):
            return
        sleep(POLL_S)


def _forgotten(files: EnvoyFiles) -> bool:
    try:
        lock = StartLock.take(files)
    except FileNotFoundError:
        return True  # the whole folder was removed
    if lock is None:
        return False
    try:
        files.forget_process()
    finally:
        lock.release()
    return True


def _start_apart(command: list[str], folder: Path, lock: StartLock) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own; its file limit is raised to what the kernel allows."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        pass_fds=(lock.descriptor,),
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError):
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (hard, hard))
    return child


@attrs.define(eq=False)
class EnvoyProcess:
    """Keeps one Envoy running from ``start`` to ``detach`` or ``stop``.

    ``restarted`` is called after each unplanned restart, once it serves; ``ready`` before each start of ours, when
    the folders are there.
    """

    reactor: Any
    files: EnvoyFiles
    settings: EnvoySettings
    admin: EnvoyAdmin
    restarted: Callable[[], None]
    ready: Callable[[], None]
    binary: EnvoyBinary | None = attrs.field(default=None, init=False)
    _process: ProcessId | None = attrs.field(default=None, init=False)
    _child: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)
    _watch: ExitWatch | None = attrs.field(default=None, init=False)
    _again: IDelayedCall | None = attrs.field(default=None, init=False)
    _restarting: Deferred[None] | None = attrs.field(default=None, init=False)
    _since: float = attrs.field(default=0.0, init=False)
    _delay_s: float = attrs.field(default=FIRST_RESTART_S, init=False)

    @property
    def _wanted(self) -> bool:
        """Whether it is to run; not after ``detach`` or ``stop``."""
        return self.binary is not None

    @property
    def _by_service(self) -> bool:
        return self.settings.started_by == "service"

    @property
    def process(self) -> ProcessId | None:
        """What runs now."""
        return self._process

    async def start(self, binary: EnvoyBinary) -> None:
        """Adopt the one that runs, else start one or wait for it; done when it serves."""
        self.binary = binary
        await self._bring_up(binary)

    async def _bring_up(self, binary: EnvoyBinary) -> None:
        if not self._by_service:
            self.files.prepare_folders()
        waited = 0.0  # not the time that ending a hanging one takes
        while not await self._adopted() and not self._started(binary):
            if waited > SERVICE_TIMEOUT_S:
                raise DataPlaneDownError(detail=self._none_came())
            await self._sleep(SERVICE_POLL_S)
            waited += SERVICE_POLL_S
        await self._until_live()

    async def _adopted(self) -> bool:
        process = await self._adoptable()
        if process is None:
            return False
        self.files.prepare()
        _log.info("adopted Envoy, process {pid}", pid=process.pid)
        self._look_after(process)
        return True

    def _started(self, binary: EnvoyBinary) -> bool:
        """Start one, where that is ours to do and nobody else is doing it."""
        lock = None if self._by_service else StartLock.take(self.files)
        if lock is None:
            return False
        try:
            self._spawn(binary, lock)
        finally:
            lock.release()
        return True

    def _none_came(self) -> str:
        if self._by_service:
            return (
                f"the service manager has started no Envoy on {self.files.folder} for {SERVICE_TIMEOUT_S:g} s; "
                "look at its unit: systemctl status avinet-envoy"
            )
        return f"another process holds the lock of {self.files.folder}, and no Envoy answers there"

    async def _adoptable(self) -> ProcessId | None:
        process = running(self.files)
        left = recorded(self.files)
        waited = 0.0
        while process is None and left is not None and waited < SOCKET_TIMEOUT_S:
            # Started a moment ago by an agent that died: its socket is about to come.
            await self._sleep(POLL_S)
            waited += POLL_S
            process = running(self.files)
        if process is not None and await self._answers(process):
            return process
        mute = process or left
        if mute is not None and mute.alive:
            _log.warn("Envoy, process {pid}, does not answer on its socket: replacing it", pid=mute.pid)
            await self._end(mute)
        return None

    async def _answers(self, process: ProcessId) -> bool:
        until = self.reactor.seconds() + ADOPT_TIMEOUT_S
        while self.reactor.seconds() < until and process.alive:
            with contextlib.suppress(DataPlaneDownError):
                await self.admin.state()
                return True
            await self._sleep(POLL_S)
        return False

    def _spawn(self, binary: EnvoyBinary, lock: StartLock) -> None:
        command = make_ready(self.files, binary, self.settings)
        self.ready()
        self._child = _start_apart(command, self.files.folder, lock)
        process = identify(self._child.pid)
        if process is None:
            raise DataPlaneDownError(detail=f"it ended at once: {self._last_words()}")
        record(self.files, process)
        _log.info("started Envoy {version}, process {pid}", version=binary.version, pid=process.pid)
        try:
            self._look_after(process)
        except OSError:
            self._child.kill()  # unwatched it would go on beside the next one
            raise

    def _last_words(self) -> str:
        if self._child is not None:
            self._child.poll()
        return self.files.log_tail()

    def _look_after(self, process: ProcessId) -> None:
        try:
            self._watch = ExitWatch(self.reactor, process, self._ended)
        except ProcessLookupError:
            raise DataPlaneDownError(detail=f"it ended at once: {self._last_words()}") from None
        self._process = process
        self._since = self.reactor.seconds()

    async def _until_live(self) -> None:
        begun = self.reactor.seconds()
        while True:
            waited = self.reactor.seconds() - begun
            if self._process is None:
                raise DataPlaneDownError(detail=f"it ended while starting: {self._last_words()}")
            try:
                if await self.admin.state() == "LIVE":
                    return
            except DataPlaneDownError:
                if waited > SOCKET_TIMEOUT_S:
                    raise
            if waited > LIVE_TIMEOUT_S:
                raise DataPlaneDownError(detail=f"it does not serve after {LIVE_TIMEOUT_S:g} s")
            await self._sleep(POLL_S)

    def _ended(self) -> None:
        """It died without our asking."""
        died, self._process, self._watch = self._process, None, None
        words = self._last_words()
        if self.reactor.seconds() - self._since > SETTLED_S:
            self._delay_s = FIRST_RESTART_S
        _log.error(
            "Envoy, process {pid}, is gone; {what} in {delay} s: {words}",
            pid=died.pid if died else 0,
            what="looking for the service manager's next one" if self._by_service else "starting it again",
            delay=self._delay_s,
            words=words,
        )
        self._schedule_restart()

    def _schedule_restart(self) -> None:
        self._again = self.reactor.callLater(self._delay_s, self._restart)
        if not self._by_service:  # which has a pace of its own
            self._delay_s = min(2 * self._delay_s, MAX_RESTART_S)

    def _restart(self) -> None:
        self._again = None
        self._restarting = Deferred.fromCoroutine(self._start_again())
        self._restarting.addErrback(self._not_restarted)

    def _not_restarted(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            _log.failure("Envoy could not be started again", failure)

    async def _start_again(self) -> None:
        if self.binary is None:
            return
        try:
            await self._bring_up(self.binary)
        except (AvinetError, OSError) as failure:
            if not self._wanted:
                return  # stopped meanwhile
            _log.error("Envoy does not start: {why}", why=str(failure))
            if self._process is None and self._again is None:
                self._schedule_restart()
            return
        self.restarted()

    def _let_go(self) -> ProcessId | None:
        """Stop watching and restarting."""
        process, self._process = self._process, None
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        if self._again is not None:
            self._again.cancel()
            self._again = None
        self.binary = None
        if self._restarting is not None:
            self._restarting.cancel()
            self._restarting = None
        return process

    def detach(self) -> None:
        """Leave it running."""
        self._let_go()
        if self._child is not None:
            self._child.poll()
            self._child.returncode = 0  # so that Popen does not warn of a child that outlives it: it is to
            self._child = None

    async def stop(self) -> None:
        """End it."""
        process = self._let_go() or running(self.files)
        if process is not None:
            await self._end(process)

    async def _end(self, process: ProcessId) -> None:
        for number in (signal.SIGTERM, signal.SIGKILL):
            send_signal(process, number)
            waited = 0.0
            while process.alive and waited < TERM_TIMEOUT_S:
                await self._sleep(POLL_S)
                waited += POLL_S
            if not process.alive:
                break
        self._last_words()
        until = self.reactor.seconds() + TIDY_TIMEOUT_S
        while not _forgotten(self.files) and self.reactor.seconds() < until:
            await self._sleep(POLL_S)

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)
