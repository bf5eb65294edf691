"""Small counters that decide when a peer asks for too much.  No clock and no socket: times come in."""

import attrs


@attrs.define
class RateGuard:
    """At most ``limit`` events in any window of about ``window_s`` (two half windows are kept)."""

    limit: int
    window_s: float
    _half: int = -1
    _current: int = 0
    _previous: int = 0

    def allow(self, now: float) -> bool:
        """Count one event at ``now`` (seconds, monotonic); False when it is one too many."""
        half = int(now / (self.window_s / 2))
        if half != self._half:
            self._previous = self._current if half == self._half + 1 else 0
            self._half, self._current = half, 0
        self._current += 1
        return self._current + self._previous <= self.limit
