"""The reactor's time for those who have not logged in: so much in a turn, however many want it at once.

A key exchange and a login cost 1 to 2 ms of the one thread that also answers every SE's heartbeat.  When five hundred
connections have their next message ready, a reactor works all of them off before it looks at anything else.  Here,
once strangers have had their share of a turn, what else they sent waits: their transports are paused, what was read is
kept (one read each), and the next turn goes on in the order of arrival.  While nobody waits this costs a comparison.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

TURN_S = 0.010
"""A fifth of what the reactor may be blocked (50 ms); a turn ends with the message that exceeds it (2 ms)."""

_log = Logger()


class Waiting(Protocol):
    """A connection that may have to wait."""

    transport: Any
    queued: int
    """How much of what it received waits here; while any does, all that follows must, too."""

    def take(self, data: bytes) -> None:
        """Work on what was received."""


@attrs.define(eq=False)
class Turnstile:
    """Shares out turns of the reactor.  ``clock`` begins them; ``timer`` measures, in seconds."""

    clock: IReactorTime
    timer: Callable[[], float]
    turn_s: float = TURN_S
    spent_s: float = attrs.field(default=0.0, init=False)
    """Since the start: what strangers have cost."""
    _left_s: float = attrs.field(init=False)
    _queue: deque[tuple[Waiting, bytes]] = attrs.field(factory=deque, init=False, repr=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._left_s = self.turn_s

    @property
    def behind(self) -> bool:
        """Whether there is more to do than a turn has room for."""
        return bool(self._queue)

    def enter(self, link: Waiting, data: bytes) -> None:
        """``link`` received ``data``: now, or as soon as it is its turn."""
        if self._left_s > 0.0 and not self._queue:
            self._work(link, data)
        else:
            link.transport.pauseProducing()
            link.queued += 1
            self._queue.append((link, data))
        if self._call is None:
            self._call = self.clock.callLater(0, self._turn)

    def _work(self, link: Waiting, data: bytes) -> None:
        begun = self.timer()
        try:
            link.take(data)
        finally:
            took_s = self.timer() - begun
            self._left_s -= took_s
            self.spent_s += took_s

    def _turn(self) -> None:
        self._call = None
        self._left_s = self.turn_s
        queue = self._queue
        while queue and self._left_s > 0.0:
            link, data = queue.popleft()
            try:
                self._work(link, data)
            except Exception:  # noqa: BLE001 - as the reactor does when a protocol raises; others must not pay for it
                _log.failure("a connection that had waited failed")
                link.transport.abortConnection()
            link.queued -= 1
            if not link.queued:
                # Also one that has ended: its transport tells it only then.
                link.transport.resumeProducing()
        if queue:
            self._call = self.clock.callLater(0, self._turn)
