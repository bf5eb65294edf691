"""How long an SE that failed has to stay up before it is trusted with virtual services again.

A move costs clients their connections; one that comes and goes each minute would cost them each minute.  So an SE whose
virtual services had to move settles first, after each further failure twice as long, up to a bound, and what it did
wrong is forgiven by and by while it stays up.  A machine without clock; times are seconds of the caller's.
"""

import attrs

SETTLE_S = 10.0
"""After a first failure: longer than a start-up that ends in a crash, shorter than anybody waits for a rebooted SE."""
SETTLE_CAP_S = 640.0
"""Six doublings: one that fails every ten minutes serves nothing, as somebody has to look at it."""
FORGIVE_S = 600.0
"""Of being up takes away one failure."""
_MAX_FAILURES = 7


@attrs.define
class HoldDown:
    """One SE's."""

    failures: int = 0
    _up_at: float | None = None

    def failed(self, now: float) -> None:
        """Its virtual services move, or it went before it had settled."""
        forgiven = 0 if self._up_at is None else int((now - self._up_at) // FORGIVE_S)
        self.failures = min(_MAX_FAILURES, max(0, self.failures - forgiven) + 1)
        self._up_at = None

    def came_back(self, now: float) -> None:
        """It is up."""
        self._up_at = now

    def settles_in(self, now: float) -> float:
        """Seconds that are left; 0 for one that has settled, or is not up."""
        if self._up_at is None or not self.failures:
            return 0.0
        settle_s = min(SETTLE_CAP_S, SETTLE_S * 2.0 ** (self.failures - 1))
        return max(0.0, self._up_at + settle_s - now)
