"""The state engine's election timeout follows the measured round trips to the other controllers.

All members should have the same: with three, at least two measure the same longest one.  Another timeout needs a start
of etcd, so it changes in steps that double, down only well below the step, and not at all members at once.
"""

import random
from collections.abc import Callable
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from avinet.controller.state_engine_config import EnginePlan, Timing, timing_after

LOOK_EVERY_S = 60.0
"""Round trips are smoothed; a way that changed for a moment is none of our business."""
SPREAD_S = 60.0
"""Within which a member starts its etcd again: all of them at once would be without a quorum."""

_log = Logger()


class Timed(Protocol):
    """What has an election timeout."""

    plan: EnginePlan

    async def retime(self, timing: Timing) -> None:
        """Go on with another one."""


@attrs.define(eq=False)
class TimingFollower:
    """``rtt_s`` is the longest round trip to a controller that is there; None when there is none."""

    engine: Timed
    rtt_s: Callable[[], float | None]
    reactor: Any
    chance: Callable[[], float] = random.random
    _next: IDelayedCall | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """Look from now on."""
        self._next = self.reactor.callLater(LOOK_EVERY_S, self._look)

    def stop(self) -> None:
        """Look no more."""
        if self._next is not None and self._next.active():
            self._next.cancel()

    def _wanted(self) -> Timing:
        rtt_s, now = self.rtt_s(), self.engine.plan.timing
        return now if rtt_s is None else timing_after(now, rtt_s)

    def _look(self) -> None:
        if self._wanted() == self.engine.plan.timing:
            self.start()
        else:
            self._next = self.reactor.callLater(SPREAD_S * self.chance(), self._change)

    def _change(self) -> None:
        timing = self._wanted()
        if timing != self.engine.plan.timing:
            _log.info("the state engine waits {ms} ms for a silent leader from now on", ms=timing.election_ms)
            changing: Deferred[None] = Deferred.fromCoroutine(self.engine.retime(timing))
            changing.addErrback(lambda failure: _log.failure("changing the election timeout failed", failure))
        self.start()
