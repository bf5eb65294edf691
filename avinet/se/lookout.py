"""Looks at the data plane again and again, and shows whoever reports to a controller what it saw.

One look serves every session: Envoy is asked once, however many controllers there are.  Looks come every few seconds,
and seldom enough that they cost a twentieth of the time at most, so a data plane with thousands of virtual services
is not kept busy by being looked at.
"""

from collections.abc import Callable, Mapping

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.dataplane.interface import DataPlane, DataPlaneDownError, ServerStatus, Status

LOOK_INTERVAL_S = 2.0
"""How soon a server's failure is reported, after the data plane's own monitors have found it."""
MAX_LOOK_INTERVAL_S = 15.0
"""However long a look takes."""
REST = 20.0
"""After a look, as many times as long as it took."""

ServerKey = tuple[str, str]
"""Pool's resource name, ``host:port``."""

_log = Logger()


def key_of(server: ServerStatus) -> ServerKey:
    """What tells servers apart."""
    return server.pool, server.server


@attrs.frozen
class Seen:
    """One look.  ``at`` and ``since`` are the clock's seconds."""

    at: float
    status: Status | None
    """None: the data plane does not answer."""
    since: Mapping[ServerKey, float] = attrs.field(factory=dict, repr=False)
    """Since when each server has been in its state; at least since the first look."""


@attrs.define(eq=False)
class Lookout:
    """``start`` once the data plane is; ``stop`` before it is detached."""

    dataplane: DataPlane
    clock: IReactorTime
    interval_s: float = LOOK_INTERVAL_S
    _watchers: dict[object, Callable[[Seen], None]] = attrs.field(factory=dict, init=False, repr=False)
    _since: dict[ServerKey, float] = attrs.field(factory=dict, init=False, repr=False)
    _states: dict[ServerKey, tuple[str, str]] = attrs.field(factory=dict, init=False, repr=False)
    """State and failure at the last look."""
    _next: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _looking: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _looked_at: float = attrs.field(default=0.0, init=False)
    _running: bool = attrs.field(default=False, init=False)

    def start(self) -> None:
        """Look, from one interval on."""
        self._running = True
        self._next = self.clock.callLater(self.interval_s, self._look)

    def stop(self) -> None:
        """Look no more."""
        self._running = False
        if self._next is not None and self._next.active():
            self._next.cancel()
        if self._looking is not None:
            self._looking.cancel()

    def subscribe(self, watcher: Callable[[Seen], None]) -> Callable[[], None]:
        """Show ``watcher`` every look from the next on; the answer ends that."""
        token = object()
        self._watchers[token] = watcher

        def cancel() -> None:
            self._watchers.pop(token, None)

        return cancel

    def look_soon(self) -> None:
        """Somebody waits: look now, unless that is being done or was a moment ago."""
        now = self.clock.seconds()
        if self._next is not None and self._next.active() and now - self._looked_at >= self.interval_s / 4:
            self._next.reset(0)

    def _look(self) -> None:
        begun = self._looked_at = self.clock.seconds()
        self._looking = Deferred.fromCoroutine(self._see())

        def over(_: object) -> None:
            self._looking = None
            if self._running:
                cost_s = max(0.0, self.clock.seconds() - begun)
                rest_s = min(max(self.interval_s, REST * cost_s), MAX_LOOK_INTERVAL_S)
                self._next = self.clock.callLater(rest_s, self._look)

        self._looking.addErrback(lambda f: f.trap(CancelledError))
        # A failure would end the looks for good.
        self._looking.addErrback(lambda f: _log.failure("looking at the data plane failed", f))
        self._looking.addBoth(over)

    async def _see(self) -> None:
        try:
            status = await self.dataplane.status()
        except DataPlaneDownError:
            status = None
        now = self.clock.seconds()
        if status is not None:
            self._note(status, now)
        seen = Seen(now, status, self._since)
        for watcher in tuple(self._watchers.values()):
            watcher(seen)

    def _note(self, status: Status, now: float) -> None:
        states = {key_of(server): (server.state.value, server.failure.value) for server in status.servers}
        self._since = {
            key: self._since[key] if self._states.get(key) == state else now for key, state in states.items()
        }
        self._states = states
