"""A data plane that only remembers: for tests of whatever stands above the interface, and for simulated fleets.

It keeps the contract: a state is taken whole or refused whole, and what is in force is what was taken last.  Tests
can make it refuse a resource, be down, take its time, or drift from what it was told.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs
from twisted.internet.defer import Deferred, fail, succeed

from avinet.dataplane.interface import DataPlaneDownError, LogFiles, RejectedError, Status
from avinet.model.resources import Resource, hashes_of


@attrs.define(slots=False)
class RecordingDataPlane:
    """Stands in for a data plane.  The public attributes are its strings to pull and its records to read."""

    description: str = "recording 1"
    rejects: dict[str, str] = attrs.field(factory=dict)
    """Resource name to why: any state that has one of these is refused."""
    down: str = ""
    """Why nothing answers; empty when all is well."""
    held: bool = False
    """While True, ``apply`` waits for ``release``."""
    status_now: Status = attrs.field(factory=lambda: Status(started_at=0.0, servers=(), services=()))
    applied: list[dict[str, Resource]] = attrs.field(factory=list)
    """Every state taken, oldest first."""
    calls: list[str] = attrs.field(factory=list)
    force: dict[str, str] = attrs.field(factory=dict)
    """What ``in_force`` answers; ``apply`` sets it, a test may change it behind the agent's back."""
    log_folder: Path = Path("logs")
    """Of ``log_files``; a test that reads it names one that is there."""
    _on_restart: list[Callable[[], None]] = attrs.field(factory=list)
    _waiting: list[Deferred[None]] = attrs.field(factory=list)

    def start(self, state: Mapping[str, Resource] | None = None) -> Deferred[None]:
        """Note the call."""
        return self._call("start")

    def on_restart(self, callback: Callable[[], None]) -> None:
        """Remember whom ``restart`` tells."""
        self._on_restart.append(callback)

    def apply(self, state: Mapping[str, Resource]) -> Deferred[None]:
        """Take ``state``, unless told to refuse it; after ``release`` where held."""
        taken = dict(state)
        done = self._call("apply")
        if self.held:
            done.addCallback(lambda _: self._hold())
        return done.addCallback(lambda _: self._take(taken))

    def _hold(self) -> Deferred[None]:
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        return waiting

    def _take(self, state: dict[str, Resource]) -> None:
        for name, why in self.rejects.items():
            if name in state:
                raise RejectedError(resource=name, detail=why)
        self.applied.append(state)
        self.force = hashes_of(state.values())

    def in_force(self) -> Deferred[Mapping[str, str]]:
        """What was taken last, or what a test put there."""
        return self._call("in_force").addCallback(lambda _: dict(self.force))

    def status(self) -> Deferred[Status]:
        """``status_now``."""
        return self._call("status").addCallback(lambda _: self.status_now)

    def log_files(self) -> LogFiles:
        """In ``log_folder``."""
        return LogFiles(self.log_folder)

    def reopen_logs(self) -> Deferred[None]:
        """Note the call: whoever writes here opens its files for each line."""
        return self._call("reopen_logs")

    def detach(self) -> Deferred[None]:
        """Note the call; works when down."""
        self.calls.append("detach")
        return succeed(None)

    def stop(self) -> Deferred[None]:
        """Note the call; works when down."""
        self.calls.append("stop")
        return succeed(None)

    def release(self) -> None:
        """Let every held ``apply`` go on, and hold no more."""
        self.held = False
        waiting, self._waiting = self._waiting, []
        for deferred in waiting:
            deferred.callback(None)

    def restart(self) -> None:
        """Tell the observers that it was dead and runs again."""
        for callback in self._on_restart:
            callback()

    def _call(self, name: str) -> Deferred[None]:
        self.calls.append(name)
        return fail(DataPlaneDownError(detail=self.down)) if self.down else succeed(None)
