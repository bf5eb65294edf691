"""When a peer is dead, and how far away it is.  Decisions only: no clock, no socket.

The controller pings each ``interval_s``; the SE answers at once and echoes the ping's time.  A miss is a tick at
which nothing had come since the tick before, so a controller that was itself stopped for a minute finds one miss and
not six.  Anything a peer sends proves that it lives; only a ``Pong`` measures the distance.
"""

import enum
import math
from array import array

import attrs

HEARTBEAT_INTERVAL_S = 10.0
"""DESIGN 5; with six misses the default of the field."""
HEARTBEAT_SLOTS = 400
"""To each interval: beats of many peers fall together into slots of 25 ms, since each turn of the reactor costs about as
much as what a beat does in it; small enough that those of one slot (20 of 8,000) delay each other by no more than 3 ms."""
HEARTBEAT_MISSES = 6
RTT_HIGH_S = 0.070
"""Above this an operator is warned: what the product that avinet follows supports between controller and SE."""
RTT_CLEAR_S = 0.060
"""The warning ends below this, so that an RTT about 70 ms does not flap."""
RTT_WINDOW = 128
"""Samples behind the p99: 21 minutes of heartbeats in 1 KiB an SE."""
RTT_JUDGED = 3
"""Samples whose median is held against the limits: one slow answer, as while a fleet attaches, warns of nothing."""
SMOOTHING = 1 / 8
"""RFC 6298's alpha."""


class Beat(enum.Enum):
    """What a tick asks for."""

    PING = "ping"
    DEAD = "dead"


@attrs.define(eq=False)
class HeartbeatTracker:
    """Counts the ticks in a row at which a peer had been silent."""

    interval_s: float = HEARTBEAT_INTERVAL_S
    misses: int = HEARTBEAT_MISSES
    missed: int = attrs.field(default=0, init=False)
    _waiting: bool = attrs.field(default=False, init=False)
    """A ping has gone out and nothing has come since."""

    @property
    def patience_s(self) -> float:
        """How long silence lasts until it is death, on either side and after a lost link."""
        return self.interval_s * self.misses

    def next_in(self, now: float) -> float:
        """Seconds from ``now``, a tick, to the next one: an interval, to the nearest slot."""
        slot_s = self.interval_s / HEARTBEAT_SLOTS
        return max(0.0, round((now + self.interval_s) / slot_s) * slot_s - now)

    def heard(self) -> None:
        """Anything came from the peer."""
        self._waiting = False
        self.missed = 0

    def tick(self) -> Beat:
        """``interval_s`` have passed; the first tick is at once."""
        if self._waiting:
            self.missed += 1
        self._waiting = True
        return Beat.DEAD if self.missed >= self.misses else Beat.PING


class RttChange(enum.Enum):
    """What a sample did to the warning."""

    NONE = "none"
    RAISED = "raised"
    CLEARED = "cleared"


@attrs.define(eq=False)
class RttTracker:
    """Round-trip times of one peer, in seconds; None until measured."""

    high_s: float = RTT_HIGH_S
    clear_s: float = RTT_CLEAR_S
    last: float | None = attrs.field(default=None, init=False)
    smoothed: float | None = attrs.field(default=None, init=False)
    high: bool = attrs.field(default=False, init=False)
    """Whether the warning stands."""
    _window: "array[float]" = attrs.field(factory=lambda: array("d"), init=False, repr=False)
    _next: int = attrs.field(default=0, init=False, repr=False)

    def sample(self, rtt_s: float) -> RttChange:
        """One measured answer."""
        self.last = rtt_s
        self.smoothed = (
            rtt_s if self.smoothed is None else self.smoothed + SMOOTHING * (rtt_s - self.smoothed)
        )
        if len(self._window) < RTT_WINDOW:
            self._window.append(rtt_s)
        else:
            self._window[self._next] = rtt_s
        self._next = (self._next + 1) % RTT_WINDOW
        judged = self.judged
        if judged is None:
            return RttChange.NONE
        if not self.high and judged > self.high_s:
            self.high = True
            return RttChange.RAISED
        if self.high and judged < self.clear_s:
            self.high = False
            return RttChange.CLEARED
        return RttChange.NONE

    @property
    def judged(self) -> float | None:
        """The median of the last ``RTT_JUDGED`` samples, the figure that raises and clears the warning."""
        count = len(self._window)
        if count < RTT_JUDGED:
            return None
        recent = sorted(self._window[(self._next - 1 - back) % count] for back in range(RTT_JUDGED))
        return recent[RTT_JUDGED // 2]

    @property
    def p99(self) -> float | None:
        """Of the window, by nearest rank."""
        if not self._window:
            return None
        return sorted(self._window)[math.ceil(0.99 * len(self._window)) - 1]
