"""How long the reactor's thread is kept from its other work, and by what.

A tick is due each ``TICK_S``.  When it comes late, one function, or one turn of many small ones, held the thread: for
as long as it is late, and for half a tick more, give or take half a tick.  Everything that waits for the reactor (heartbeats, timers, the operator's API)
waited as long.  Counts, the longest and the 99th percentile go to ``avinet status``.  A second thread looks a few
times a second whether a tick is overdue, and then notes what the reactor's thread is doing: that line in the log names
the function.  Python collects garbage in the same thread, so the long pauses of that are measured, too.

A tick costs 130 us where nothing else wakes the process up: 0.26 % of a core, and 0.08 % for the second thread.  A
tick of 25 ms would be 0.5 %.  Service engines have no watchdog: an idle agent wakes up some ten times a minute, and
twenty times a second would be most of what it does.
"""

import gc
import sys
import threading
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from types import FrameType
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.controller.api_status import ReactorHealth

TICK_S = 0.050
NOISE_S = 0.005
"""A tick that is no later than this was held by nobody: timers have milliseconds."""
BLOCK_S = 0.050
"""The reactor never blocks for longer (issue 3); what does is counted."""
LOOK_S = 0.125
"""Between two looks of the second thread."""
OVERDUE_S = 0.250
"""What is worth a line in the log."""
EVENT_S = 1.0
"""What an operator should know: a heartbeat of the shortest interval was missed."""
LOG_EVERY_S = 10.0
FRAMES = 4
"""Callers that a line names."""
STOOD_STILL = "nothing of avinet's: the machine was suspended, or had no time for it"
UNSEEN = "what could not be seen"

_BOUNDS_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 60_000)
_HISTOGRAM_S = 600.0
"""The percentile is of this window and the one before."""

_log = Logger()


@attrs.define(eq=False)
class Peak:
    """The highest of the last ``slots`` times ``slot_s``."""

    slot_s: float
    slots: int
    _kept: deque[tuple[int, float]] = attrs.field(factory=deque, init=False)

    def add(self, now: float, value: float) -> None:
        """One more."""
        slot = int(now / self.slot_s)
        if self._kept and self._kept[-1][0] == slot:
            if value > self._kept[-1][1]:
                self._kept[-1] = (slot, value)
            return
        self._kept.append((slot, value))
        while self._kept[0][0] <= slot - self.slots:
            self._kept.popleft()

    def highest(self, now: float) -> float:
        """0 when there was nothing."""
        oldest = int(now / self.slot_s) - self.slots
        return max((value for slot, value in self._kept if slot > oldest), default=0.0)


@attrs.define(eq=False)
class Lateness:
    """What became of the ticks."""

    over: int = attrs.field(default=0, init=False)
    minute: Peak = attrs.field(factory=lambda: Peak(5.0, 12), init=False)
    hour: Peak = attrs.field(factory=lambda: Peak(60.0, 60), init=False)
    _now: list[int] = attrs.field(factory=lambda: [0] * (len(_BOUNDS_MS) + 1), init=False)
    _before: list[int] = attrs.field(factory=lambda: [0] * (len(_BOUNDS_MS) + 1), init=False)
    _window: int = attrs.field(default=0, init=False)

    def add(self, now: float, late_s: float) -> None:
        """One tick."""
        window = int(now / _HISTOGRAM_S)
        if window != self._window:
            self._before, self._now = self._now, [0] * len(self._now)
            self._window = window
        self._now[bisect_left(_BOUNDS_MS, late_s * 1000)] += 1
        if late_s > _BOUNDS_MS[0] / 1000:
            self.minute.add(now, late_s)
            self.hour.add(now, late_s)
        if late_s > BLOCK_S:
            self.over += 1

    def p99_ms(self) -> int:
        """The bound below which 99 % of the ticks were late."""
        counts = [a + b for a, b in zip(self._now, self._before, strict=True)]
        left = sum(counts) * 0.01
        for index in range(len(counts) - 1, -1, -1):
            left -= counts[index]
            if left < 0:
                return _BOUNDS_MS[min(index, len(_BOUNDS_MS) - 1)]
        return 0


def said(frame: FrameType | None) -> str:
    """A stack in a line, innermost first."""
    parts: list[str] = []
    if frame is not None and frame.f_code.co_name in {"doPoll", "doSelect"}:
        return STOOD_STILL
    while frame is not None and len(parts) < FRAMES:
        code = frame.f_code
        place = "/".join(code.co_filename.rsplit("/", 2)[-2:])
        parts.append(f"{code.co_name} ({place}:{frame.f_lineno})")
        frame = frame.f_back
    return " < ".join(parts) or UNSEEN


@attrs.define(eq=False)
class Watchdog:
    """``blocked`` hears of each block of ``EVENT_S`` or more: seconds, and in what."""

    clock: IReactorTime
    blocked: Callable[[float, str], None]
    lateness: Lateness = attrs.field(factory=Lateness, init=False)
    gc_longest_s: float = attrs.field(default=0.0, init=False)
    """Of all collections since the start."""
    _due: float = attrs.field(default=0.0, init=False)
    _call: IDelayedCall | None = attrs.field(default=None, init=False)
    _seen: tuple[float, str] = attrs.field(default=(0.0, ""), init=False)
    """What the second thread saw: the tick that was overdue, and where."""
    _thread_id: int = attrs.field(factory=threading.get_ident, init=False)
    _stop: threading.Event = attrs.field(factory=threading.Event, init=False)
    _thread: threading.Thread | None = attrs.field(default=None, init=False)
    _gc_began: float = attrs.field(default=0.0, init=False)
    _log_at: float = attrs.field(default=0.0, init=False)
    _logged_s: float = attrs.field(default=0.0, init=False)
    _unlogged: int = attrs.field(default=0, init=False)

    def start(self, *, thread: bool = True) -> None:
        """From the reactor's thread."""
        self._thread_id = threading.get_ident()
        self._arm()
        gc.callbacks.append(self._collected)
        if thread:
            self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """No tick any more."""
        self._stop.set()
        if self._call is not None:
            self._call.cancel()
            self._call = None
        if self._collected in gc.callbacks:
            gc.callbacks.remove(self._collected)
        if self._thread is not None:
            self._thread.join(1.0)

    def health(self) -> ReactorHealth:
        """For status."""
        now, lateness = self.clock.seconds(), self.lateness
        return ReactorHealth(
            over_50_ms=lateness.over,
            p99_ms=lateness.p99_ms(),
            longest_minute_ms=round(lateness.minute.highest(now) * 1000, 1),
            longest_hour_ms=round(lateness.hour.highest(now) * 1000, 1),
            longest_collection_ms=round(self.gc_longest_s * 1000, 1),
        )

    # The reactor's thread

    def _arm(self) -> None:
        self._due = self.clock.seconds() + TICK_S
        self._call = self.clock.callLater(TICK_S, self._tick)

    def _tick(self) -> None:
        now = self.clock.seconds()
        due, late_s = self._due, max(0.0, now - self._due)
        if late_s > NOISE_S:
            late_s += TICK_S / 2
        self.lateness.add(now, late_s)
        if late_s >= OVERDUE_S:
            self._tell(now, due, late_s)
        self._arm()

    def _tell(self, now: float, due: float, late_s: float) -> None:
        seen_due, where = self._seen
        if seen_due != due:
            where = UNSEEN
        if late_s >= EVENT_S:
            self.blocked(late_s, where)
        if now < self._log_at and late_s < 2 * self._logged_s:
            self._unlogged += 1
            return
        _log.warn(
            "the reactor was blocked for {seconds:.2f} s by {where} ({more} more since the last line)",
            seconds=late_s,
            where=where,
            more=self._unlogged,
        )
        self._log_at, self._logged_s, self._unlogged = now + LOG_EVERY_S, late_s, 0

    def _collected(self, phase: str, info: dict[str, Any]) -> None:
        if info["generation"] < 2:
            return
        if phase == "start":
            self._gc_began = time.perf_counter()
        else:
            self.gc_longest_s = max(self.gc_longest_s, time.perf_counter() - self._gc_began)

    # The second thread

    def _watch(self) -> None:
        while not self._stop.wait(LOOK_S):
            self.look()

    def look(self) -> None:
        """Note what the reactor's thread does, if its tick is overdue; once for each tick."""
        due = self._due
        if self.clock.seconds() - due >= OVERDUE_S and self._seen[0] != due:
            self._seen = (due, said(sys._current_frames().get(self._thread_id)))  # noqa: SLF001 - the documented way to see another thread
