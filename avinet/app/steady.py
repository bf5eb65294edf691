"""Time that nobody can set, for every timer and every duration of a role.

Twisted's reactors count by the wall clock.  Where NTP, an operator or a resumed machine sets that back, no timer
fires until it has caught up: no heartbeat, no redial, no time limit, for as long as the step was; set forward, all
fire at once.  So a role's reactor is made to count by the time since boot, from the wall clock's reading at its
start.  What people read (when a record was made, when an image expires) goes by ``WallClock``.
"""

import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from zope.interface import implementer


def _since_boot() -> float:
    """Seconds, those of a suspended machine included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def keep_steady(
    reactor: Any, *, wall: Callable[[], float] = time.time, elapsed: Callable[[], float] = _since_boot
) -> None:
    """From now on ``reactor`` goes on from the wall clock's reading by what has elapsed, whatever that is set to."""
    offset = wall() - elapsed()
    # On the instance: the class may be any that twistd's --reactor names, and has no other seam for it.
    reactor.seconds = lambda: offset + elapsed()


@implementer(IReactorTime)
@attrs.frozen
class WallClock:
    """The wall clock as it is set now, for what is stamped and shown; it calls later as ``timers`` does."""

    timers: IReactorTime
    wall: Callable[[], float] = time.time

    def seconds(self) -> float:
        """UNIX seconds."""
        return self.wall()

    def callLater(
        self,
        delay: float,
        callable: Callable[..., Any],  # noqa: A002 - IReactorTime's
        *args: object,
        **kw: object,
    ) -> IDelayedCall:
        """After so many steady seconds."""
        return self.timers.callLater(delay, callable, *args, **kw)

    def getDelayedCalls(self) -> Any:
        """All that wait."""
        return self.timers.getDelayedCalls()
