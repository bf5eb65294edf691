"""One Envoy process: started apart from the agent, found again by the next agent, restarted when it dies.

Envoy gets a session of its own and no pipe to us, so it outlives the agent however that ends.  A later agent
adopts it only when the process recorded in ``envoy.json`` is alive with the same start time *and* is the one that
listens on the admin socket, as the kernel says; failing the record, when the listener runs our own bootstrap.
A number alone is never believed.
"""

import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.internet.task import deferLater
from twisted.logger import Logger

from avinet.dataplane.envoy_admin import EnvoyAdmin, peer_of
from avinet.dataplane.envoy_binary import EnvoyBinary
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_settings import EnvoySettings, connections_within
from avinet.dataplane.interface import DataPlaneDownError
from avinet.dataplane.processes import ExitWatch, ProcessId, command_of, identify, send_signal
from avinet.errors import AvinetError
from avinet.trust.files import write_private

LIVE_TIMEOUT_S = 30.0
"""From start to serving: it waits for the first health check of every server, 4 s by default, and for DNS."""
SOCKET_TIMEOUT_S = 5.0
"""From start to an admin socket that answers: 0.1 s measured."""
ADOPT_TIMEOUT_S = 30.0
"""For one that runs to answer an agent that comes back; longer, and it hangs.  Busy with a large change it takes some
seconds."""
POLL_S = 0.05
TERM_TIMEOUT_S = 5.0
"""SIGTERM ends Envoy in well under a second; after this it is killed."""
FIRST_RESTART_S = 0.2
MAX_RESTART_S = 30.0
SETTLED_S = 60.0
"""Having run this long, its next death starts the back-off anew."""

_log = Logger()


def recorded(files: EnvoyFiles) -> ProcessId | None:
    """The process that the record names, if exactly that one is alive."""
    try:
        process = msgspec.json.decode(files.record.read_bytes(), type=ProcessId)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return process if process.alive else None


def running(files: EnvoyFiles) -> ProcessId | None:
    """Our Envoy, if one runs and answers on its admin socket."""
    peer = peer_of(files.socket)
    if peer is None:
        return None
    process = recorded(files)
    if process is not None and process.pid == peer:
        return process
    # The agent died between starting it and recording it, or the record was lost.
    return identify(peer) if str(files.bootstrap) in command_of(peer) else None


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
                files.forget_process()
                return process
            sleep(POLL_S)
    raise DataPlaneDownError(detail=f"process {process.pid} does not end, not even by SIGKILL")


def _start_apart(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """Start ``command`` in a session of its own; its file limit is raised to what the kernel allows."""
    child = subprocess.Popen(
        command,
        cwd=folder,
        env={"PATH": os.environ.get("PATH", "/usr/bin:/bin")},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(OSError):
        resource.prlimit(child.pid, resource.RLIMIT_NOFILE, (hard, hard))
    return child


@attrs.define(eq=False)
class EnvoyProcess:
    """Keeps one Envoy running from ``start`` to ``detach`` or ``stop``.

    ``restarted`` is called after each unplanned restart, once it serves.
    """

    reactor: Any
    files: EnvoyFiles
    settings: EnvoySettings
    admin: EnvoyAdmin
    restarted: Callable[[], None]
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
    def process(self) -> ProcessId | None:
        """What runs now."""
        return self._process

    async def start(self, binary: EnvoyBinary) -> None:
        """Adopt the one that runs, else start one; done when it serves."""
        self.binary = binary
        self.files.prepare()
        process = await self._adoptable()
        if process is None:
            await self._spawn(binary)
        else:
            _log.info("adopted Envoy, process {pid}", pid=process.pid)
            self._look_after(process)
        await self._until_live()

    async def _adoptable(self) -> ProcessId | None:
        process = running(self.files)
        left = recorded(self.files)
        waited = 0.0
        while process is None and left is not None and waited < SOCKET_TIMEOUT_S:
            # Started a moment ago by an agent that died: its socket is about to come.
            await self._sleep(POLL_S)
            waited += POLL_S
            process = running(self.files)
        if process is not None and await self._answers():
            return process
        mute = process or left
        if mute is not None and mute.alive:
            _log.warn("Envoy, process {pid}, does not answer on its socket: replacing it", pid=mute.pid)
            await self._end(mute)
        return None

    async def _answers(self) -> bool:
        until = self.reactor.seconds() + ADOPT_TIMEOUT_S
        while self.reactor.seconds() < until:
            with contextlib.suppress(DataPlaneDownError):
                await self.admin.state()
                return True
            await self._sleep(POLL_S)
        return False

    async def _spawn(self, binary: EnvoyBinary) -> None:
        self.files.prepare_runtime()
        self.files.socket.unlink(missing_ok=True)
        self.files.rotate_log()
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        limit = hard if hard != resource.RLIM_INFINITY else 1 << 20
        self.files.write_bootstrap(connections_within(self.settings, limit))
        self._child = _start_apart(self.files.command(binary.path, self.settings), self.files.folder)
        process = identify(self._child.pid)
        if process is None:
            raise DataPlaneDownError(detail=f"it ended at once: {self._last_words()}")
        try:
            write_private(self.files.record, msgspec.json.encode(process))
        except AvinetError as failure:
            # As if the agent had died just now: its bootstrap tells whose it is.
            _log.warn("Envoy, process {pid}, is not recorded: {why}", pid=process.pid, why=str(failure))
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
            "Envoy, process {pid}, is gone; starting it again in {delay} s: {words}",
            pid=died.pid if died else 0,
            delay=self._delay_s,
            words=words,
        )
        self._schedule_restart()

    def _schedule_restart(self) -> None:
        self._again = self.reactor.callLater(self._delay_s, self._restart)
        self._delay_s = min(2 * self._delay_s, MAX_RESTART_S)

    def _restart(self) -> None:
        self._again = None
        self._restarting = Deferred.fromCoroutine(self._start_again())
        self._restarting.addErrback(lambda f: _log.failure("Envoy could not be started again", f))

    async def _start_again(self) -> None:
        if self.binary is None:
            return
        try:
            await self._spawn(self.binary)
            await self._until_live()
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
        self.files.forget_process()

    async def _sleep(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)
