"""Short pauses for Python's garbage: what lives long is looked at seldom.

A full collection looks at every object there is, in whatever thread runs: 30 ms for the modules alone, and 30 us more
for each attached SE, which is a third of a second for 8,000.  So everything is frozen (``gc.freeze``: set aside, and
looked at no more) once after the start, and again whenever a full collection took longer than ``LONG_S``: those that
follow look only at what is newer.

What is set aside and becomes garbage in a cycle stays (a session that ends leaves some 90 objects).  So everything is
looked at again once this process has grown by a quarter since the last time, and not within ten minutes of it: one
long pause, at a time when a fleet that comes back is back.
"""

import gc
import time
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.units import KIB

LONG_S = 0.015
"""A third of what the reactor may be blocked; the next one may take twice as long."""
LOOK_S = 0.5
THAW_AFTER_S = 600.0
THAW_GROWTH = 1.25
THAW_SLACK_KIB = 64 * KIB
"""Growth that is not worth a pause."""
THRESHOLDS = (10_000, 10, 10)
"""Objects made until the youngest are looked at (2 ms), and so on.  Python's 700 costs 2 % more of a session."""

_log = Logger()


class Collector:
    """The interpreter's, as far as it is used."""

    def collect(self) -> None:
        """Everything that is not set aside."""
        gc.collect()

    def freeze(self) -> None:
        """Set everything aside."""
        gc.freeze()

    def unfreeze(self) -> None:
        """Look at everything again."""
        gc.unfreeze()


@attrs.define(eq=False)
class Garbage:
    """``resident_kib`` says how large this process is."""

    clock: IReactorTime
    resident_kib: Callable[[], int]
    collector: Collector = attrs.field(factory=Collector)
    timer: Callable[[], float] = time.perf_counter
    _began: float = attrs.field(default=0.0, init=False)
    _long: bool = attrs.field(default=False, init=False)
    _thawed_at: float = attrs.field(default=0.0, init=False)
    _thawed_kib: int = attrs.field(default=0, init=False)
    _thresholds: tuple[int, int, int] | None = attrs.field(default=None, init=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False)

    def start(self) -> None:
        """When all that is there from the start is there."""
        self._thresholds = gc.get_threshold()
        gc.set_threshold(*THRESHOLDS)
        self.collector.collect()
        self._settle()
        gc.callbacks.append(self.collected)
        self._call = self.clock.callLater(LOOK_S, self._look)

    def stop(self) -> None:
        """As it was."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self.collected in gc.callbacks:
            gc.callbacks.remove(self.collected)
        if self._thresholds is not None:
            gc.set_threshold(*self._thresholds)
        self.collector.unfreeze()

    def collected(self, phase: str, info: dict[str, Any]) -> None:
        """Python tells of a collection; in any thread, so it is only noted."""
        if info["generation"] < 2:
            return
        if phase == "start":
            self._began = self.timer()
        elif self.timer() - self._began > LONG_S:
            self._long = True

    def _look(self) -> None:
        self._call = self.clock.callLater(LOOK_S, self._look)
        if self.clock.seconds() - self._thawed_at >= THAW_AFTER_S and (
            self.resident_kib() > self._thawed_kib * THAW_GROWTH + THAW_SLACK_KIB
        ):
            self._thaw()
        elif self._long:
            self._long = False
            self.collector.freeze()

    def _thaw(self) -> None:
        before, begun = self.resident_kib(), self.timer()
        self.collector.unfreeze()
        self.collector.collect()
        self._settle()
        _log.info(
            "looked at all memory for garbage: {before} KiB, {after} KiB after it, in {seconds:.3f} s",
            before=before,
            after=self._thawed_kib,
            seconds=self.timer() - begun,
        )

    def _settle(self) -> None:
        self.collector.freeze()
        self._long = False
        self._thawed_at, self._thawed_kib = self.clock.seconds(), self.resident_kib()
