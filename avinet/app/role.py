"""A role as a twistd service: started part by part, stopped in reverse, and never half alive.

``twistd`` ignores what a service's start returns, so a port that cannot be had would leave a process that runs
and serves nothing.  Here a role's start is one coroutine that pushes what undoes each step on an exit stack;
when a step fails, the steps before it are undone, one line says why, and the process ends with status 1.
"""

import atexit
import contextlib
import os
import socket
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
from twisted.application.service import Service
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IReactorCore, IReactorTime
from twisted.logger import Logger
from twisted.python import usage
from twisted.web.client import _HTTP11ClientFactory

from avinet.errors import AvinetError
from avinet.trust.files import private_dir
from avinet.trust.locks import StateFolderBusyError, StateLock
from avinet.trust.membership import ControllerRemovedError

STOP_TIMEOUT_S = 20.0
"""Below systemd's default of 90 s; whatever still hangs then is cut by the end of the process."""
START_FAILED = 1
"""The exit status of a role that could not start."""
REMOVED = 4
"""That of a controller which was removed from its cluster; the unit file does not start it again."""

Start = Callable[[contextlib.AsyncExitStack], Awaitable[None]]

_log = Logger()


def notify_service_manager(state: str) -> None:
    """Tell systemd, if it started us, ``READY=1`` or ``STOPPING=1`` (sd_notify(3))."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as datagram, contextlib.suppress(OSError):
        datagram.connect("\0" + address[1:] if address.startswith("@") else address)
        datagram.send(state.encode())


def exit_with(status: int) -> None:
    """End the process with ``status`` once twistd has tidied up; it always exits with 0 itself."""

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)

    atexit.register(leave)


def end_process(reactor: IReactorCore, status: int) -> None:
    """Stop everything, then end with ``status``; it may be said twice."""
    exit_with(status)
    with contextlib.suppress(ReactorNotRunning):
        reactor.stop()


def own_state_folder(folder: Path) -> None:
    """Make a role's state folder, or make sure that it is ours alone, before anything is written there."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        private_dir(folder)
    except AvinetError as why:
        raise SystemExit(f"avinet cannot start: {why}") from why
    except OSError as why:
        raise SystemExit(
            f"avinet cannot start: cannot make the state folder {folder}: {why.strerror}"
        ) from why


def own_pid_file(options: usage.Options, folder: Path, name: str, title: str) -> None:
    """Let twistd keep its pid in the state folder unless the user named another place.

    twistd's default is ``twistd.pid`` in the current folder, where two roles would collide.  And it believes a
    number: a pid file that outlived a power cut, was cut short by it, or came with a copy of the folder would keep a
    role from starting once any process has that number.  The folder's lock knows: while nobody holds it, a pid file
    there is stale.
    """
    parent = options.parent
    if parent is None or parent["pidfile"] != "twistd.pid":
        return
    path = folder / name
    parent["pidfile"] = str(path.absolute())
    try:
        lock = StateLock.take(folder, title)
    except StateFolderBusyError as busy:
        raise SystemExit(f"avinet cannot start: {busy}") from busy
    except OSError:
        parent["pidfile"] = ""
        return
    try:
        path.write_text(f"{os.getpid()}\n")
    except OSError:
        # A disk may be full; that must not keep traffic from being served.
        parent["pidfile"] = ""
    path.unlink(missing_ok=True)
    lock.release()


@attrs.define(eq=False, slots=False)
class RoleService(Service):
    """One role.  ``start`` gets an exit stack for what undoes its steps."""

    title: str
    reactor: IReactorCore
    clock: IReactorTime
    start: Start
    _stack: contextlib.AsyncExitStack = attrs.field(factory=contextlib.AsyncExitStack, init=False)
    _starting: Deferred[None] | None = attrs.field(default=None, init=False)

    def startService(self) -> None:
        """Begin; the outcome is a log line and systemd's READY, or the end of the process."""
        super().startService()
        # Two log lines for each request to Envoy's admin interface would bury everything else.
        _HTTP11ClientFactory.noisy = False
        self.reactor.callWhenRunning(self._begin)

    def _begin(self) -> None:
        self._starting = Deferred.fromCoroutine(self._run())

    async def _run(self) -> None:
        try:
            await self.start(self._stack)
        except CancelledError:
            return
        except ControllerRemovedError as failure:
            self._give_up(str(failure), REMOVED)
        except AvinetError as failure:
            self._give_up(str(failure))
        except Exception as failure:  # noqa: BLE001 - the edge: whatever it is, one line and a non-zero end
            _log.failure("{title} failed while starting", title=self.title)
            self._give_up(f"an unexpected {type(failure).__name__}: {failure}")
        else:
            _log.info("{title} is ready", title=self.title)
            notify_service_manager("READY=1")

    def _give_up(self, why: str, status: int = START_FAILED) -> None:
        _log.critical("{title} cannot start: {why}", title=self.title, why=why)
        end_process(self.reactor, status)

    async def _undo(self) -> None:
        if self._starting is not None:
            self._starting.cancel()
            await self._starting
        await self._stack.aclose()

    def stopService(self) -> Deferred[None]:
        """Undo every step, newest first, within ``STOP_TIMEOUT_S``."""
        super().stopService()
        notify_service_manager("STOPPING=1")
        done = Deferred.fromCoroutine(self._undo())
        done.addTimeout(STOP_TIMEOUT_S, self.clock)
        done.addErrback(lambda f: _log.failure("{title} did not stop cleanly", f, title=self.title))
        return done
