"""Which Envoy runs on a folder, and how one is started there: what the agent and the service manager's launcher share.

Whoever starts one holds the folder's lock and hands it on to Envoy, which keeps it by an open descriptor as long as
it lives (flock(2)).  So two who start at once never end in two Envoys, whichever of them died in between.

An Envoy is taken for ours only when the process recorded in ``envoy.json`` is alive with the same start time *and* is
the one that listens on the admin socket, as the kernel says; failing the record, when the listener runs our own
bootstrap.  A number alone is never believed.
"""

import fcntl
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import ClassVar, Never, Self

import attrs
import msgspec
from twisted.logger import Logger

from avinet.dataplane.envoy_admin import peer_of
from avinet.dataplane.envoy_binary import EnvoyBinary
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_settings import EnvoySettings, connections_within
from avinet.dataplane.interface import LogFiles
from avinet.dataplane.processes import ProcessId, command_of, identify
from avinet.errors import AvinetError, Kind, error
from avinet.model.logs import LogClass
from avinet.trust.files import PRIVATE_MODE, write_private

LOCK_TIMEOUT_S = 5.0
"""Whoever else starts one has recorded it in a tenth of a second; whoever ends one has tidied up sooner."""
POLL_S = 0.05

_log = Logger()


@error
class EnvoyRunsError(AvinetError):
    """An Envoy (process {pid}) runs on {folder} already, and two must not share a folder. To have this one instead, end that one: avinet se stop --data-plane."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    pid: int
    folder: str


@error
class EnvoyLockedError(AvinetError):
    """Another process holds the lock of {folder}, and no Envoy answers there. See who: lsof +d {folder}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    folder: str


class Started(msgspec.Struct, frozen=True):
    """The record: a ``ProcessId``, and who started it."""

    pid: int
    started_ticks: int
    boot: str
    by_service: bool = False
    """By the service manager, which would start it again."""


@attrs.define(eq=False)
class StartLock:
    """The right to start Envoy on a folder, or to remove what the last one left.

    On the folder itself and not on a file in it: a full disk must not keep Envoy from starting.
    """

    descriptor: int

    @classmethod
    def take(cls, files: EnvoyFiles) -> Self | None:
        """None while an Envoy lives there, or somebody else is about to start one."""
        descriptor = os.open(files.folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:
            os.close(descriptor)
            raise
        return cls(descriptor)

    def release(self) -> None:
        """Close our descriptor; the lock stays with an Envoy that has another."""
        os.close(self.descriptor)


def _recorded(files: EnvoyFiles) -> Started | None:
    try:
        return msgspec.json.decode(files.record.read_bytes(), type=Started)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None


def recorded(files: EnvoyFiles) -> ProcessId | None:
    """The process that the record names, if exactly that one is alive."""
    found = _recorded(files)
    process = None if found is None else ProcessId(found.pid, found.started_ticks, found.boot)
    return process if process is not None and process.alive else None


def running(files: EnvoyFiles) -> ProcessId | None:
    """Our Envoy, if one runs and answers on its admin socket."""
    peer = peer_of(files.socket)
    if peer is None:
        return None
    process = recorded(files)
    if process is not None and process.pid == peer:
        return process
    # Whoever started it died before recording it, or the record was lost.
    return identify(peer) if str(files.bootstrap) in command_of(peer) else None


def started_by_service(files: EnvoyFiles) -> ProcessId | None:
    """The Envoy that lives, if a service manager started it."""
    process, found = recorded(files), _recorded(files)
    return process if found is not None and found.by_service else None


def record(files: EnvoyFiles, process: ProcessId, *, by_service: bool = False) -> None:
    """Write down who runs; a full disk is no reason not to run: the bootstrap tells whose it is, too."""
    started = Started(process.pid, process.started_ticks, process.boot, by_service)
    try:
        write_private(files.record, msgspec.json.encode(started))
    except AvinetError as failure:
        _log.warn("Envoy, process {pid}, is not recorded: {why}", pid=process.pid, why=str(failure))


def make_ready(files: EnvoyFiles, binary: EnvoyBinary, settings: EnvoySettings) -> list[str]:
    """Everything that Envoy needs to find, and its command.  For the holder of the lock."""
    files.prepare()
    files.prepare_runtime()
    files.socket.unlink(missing_ok=True)
    files.rotate_log()
    for log_class in LogClass:
        _begin_log(files.logs, log_class)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = hard if hard != resource.RLIM_INFINITY else 1 << 20
    files.write_bootstrap(connections_within(settings, limit))
    return files.command(binary.path, settings)


def _begin_log(logs: LogFiles, log_class: LogClass) -> None:
    """An empty file in the place of what an earlier Envoy left, which may end in the middle of a line.

    Envoy takes no listener whose log file it cannot open: where there is no room for a new one, it goes on with the old.
    """
    piece = None
    try:
        piece = logs.set_aside(log_class)
        logs.current(log_class).touch(PRIVATE_MODE)
    except OSError as failure:
        _log.warn("no new log {path}: {why}", path=str(logs.current(log_class)), why=str(failure))
        if piece is not None:
            piece.replace(logs.current(log_class))


def environment() -> dict[str, str]:
    """Envoy's: nothing of what its starter was told."""
    return {"PATH": os.environ.get("PATH", "/usr/bin:/bin")}


def become_envoy(
    files: EnvoyFiles,
    binary: EnvoyBinary,
    settings: EnvoySettings,
    sleep: Callable[[float], None] = time.sleep,
    ready: Callable[[], None] = lambda: None,
) -> Never:
    """Turn this process into the folder's Envoy, as a service manager wants it.  Returns only by an error.

    ``ready`` is called when the folders are there.
    """
    files.prepare_folders()
    lock = _wait_for_lock(files, sleep)
    other = running(files) or recorded(files)
    if other is not None:
        raise EnvoyRunsError(pid=other.pid, folder=str(files.folder))
    command = make_ready(files, binary, settings)
    ready()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and exec would keep that
        signal.signal(number, signal.SIG_DFL)
    me = identify(os.getpid())
    if me is not None:
        record(files, me, by_service=True)
    os.chdir(files.folder)
    os.set_inheritable(lock.descriptor, True)
    os.execve(command[0], command, environment())  # noqa: S606 - no shell is wanted


def _wait_for_lock(files: EnvoyFiles, sleep: Callable[[float], None]) -> StartLock:
    for _ in range(int(LOCK_TIMEOUT_S / POLL_S)):
        lock = StartLock.take(files)
        if lock is not None:
            return lock
        other = running(files)
        if other is not None:
            raise EnvoyRunsError(pid=other.pid, folder=str(files.folder))
        sleep(POLL_S)
    raise EnvoyLockedError(folder=str(files.folder))
