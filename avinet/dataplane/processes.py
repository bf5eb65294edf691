"""Processes that are not our children, told apart from strangers that were given their number later.

A process is known by its number, the kernel tick it started at, and the machine's boot.  Its end is seen through a
pidfd, which works for any process and at once, and signals go through the pidfd too, so that they cannot reach a
stranger.  The standard library's SIGCHLD handling is not involved.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
from twisted.internet.interfaces import IReactorFDSet, IReadDescriptor
from twisted.python.failure import Failure
from zope.interface import implementer

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class ProcessId(msgspec.Struct, frozen=True):
    """One process, never confused with another."""

    pid: int
    started_ticks: int
    boot: str

    @property
    def alive(self) -> bool:
        """Whether exactly this process runs (a zombie does not)."""
        return identify(self.pid) == self

    @property
    def started_at(self) -> float:
        """UNIX seconds."""
        with Path("/proc/stat").open() as lines:
            booted = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
        return booted + self.started_ticks / os.sysconf("SC_CLK_TCK")


def identify(pid: int) -> ProcessId | None:
    """Who has this number now; None when nobody does."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
        boot = _BOOT_ID.read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in parentheses, may hold anything.
    fields = status.rpartition(")")[2].split()
    if fields[0] in "ZX":
        return None
    return ProcessId(pid, int(fields[19]), boot)


def command_of(pid: int) -> list[str]:
    """The arguments it was started with; empty when that cannot be read or it is another user's."""
    try:
        if Path(f"/proc/{pid}").stat().st_uid != os.geteuid():
            return []
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode("utf-8", "replace").split("\0")
    except OSError:
        return []


def send_signal(process: ProcessId, number: signal.Signals) -> bool:
    """Send a signal to exactly this process; False when it is gone."""
    try:
        descriptor = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return False
    try:
        # Identified after the pidfd is open: from here on the number cannot change hands unseen.
        if not process.alive:
            return False
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(descriptor, number)
        return True
    finally:
        os.close(descriptor)


@implementer(IReadDescriptor)
class ExitWatch:
    """Calls ``ended`` once when ``process`` ends; ``cancel`` before that and it never calls."""

    def __init__(self, reactor: IReactorFDSet, process: ProcessId, ended: Callable[[], None]) -> None:
        self._reactor: Any = reactor
        self._ended = ended
        self._descriptor = os.pidfd_open(process.pid)
        if not process.alive:
            os.close(self._descriptor)
            raise ProcessLookupError(process.pid)
        reactor.addReader(self)

    def fileno(self) -> int:
        """The pidfd, or -1 once it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:
        """For Twisted's log."""
        return "ExitWatch"

    def doRead(self) -> None:
        """It ended."""
        self.cancel()
        self._ended()

    def connectionLost(self, reason: Failure) -> None:
        """The reactor stops."""
        self.cancel()

    def cancel(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            self._reactor.removeReader(self)
            os.close(self._descriptor)
            self._descriptor = -1
