"""How fast logins are dealt with, and when whoever is turned away should come back.

Whoever is turned away gets a place in a queue that exists as one number: the time at which the next place is due.
Each place is as far behind the one before as a login takes (measured while there was more to do than could be done),
so those who were told come back at the rate at which they can be served, and nothing is kept about any of them.
Places that nobody claims cost nothing: whoever comes while there is room is let in, place or not, and once nothing
has been in progress for a while the queue begins anew.  Sans-IO: times come in, in seconds of any steady clock.
"""

import attrs

MAX_WAIT_S = 60.0
"""What an SE believes before the host key is checked (DESIGN 4)."""
MIN_WAIT_S = 0.1
"""As fine as the refusal's text says it."""
_FASTEST_S, _SLOWEST_S = 0.0005, 0.02
"""Between two logins: no machine does 2,000 a second on one core, and one that does not do 50 measured something else."""
_WINDOW_S = 0.25
"""A measurement: some 100 logins at the rate that DESIGN 12 asks for."""
_WEIGHT = 0.5
"""Of the newest measurement."""


@attrs.define
class Rate:
    """Seconds from one login to the next while the reactor has as many as it can do."""

    interval_s: float
    _since: float | None = attrs.field(default=None, init=False)
    _count: int = attrs.field(default=0, init=False)

    def completed(self, now: float, *, behind: bool) -> None:
        """One login was completed; ``behind``: others were waiting for the reactor's time."""
        if not behind:
            # What is measured now is how many come, not how many could.
            self._since = None
            return
        if self._since is None:
            self._since, self._count = now, 0
            return
        self._count += 1
        took_s = now - self._since
        if took_s >= _WINDOW_S:
            measured_s = min(max(took_s / self._count, _FASTEST_S), _SLOWEST_S)
            self.interval_s += _WEIGHT * (measured_s - self.interval_s)
            self._since, self._count = now, 0


@attrs.define
class Queue:
    """Places handed out to whoever is turned away."""

    max_wait_s: float = MAX_WAIT_S
    _next: float = attrs.field(default=0.0, init=False)

    def wait_s(self, now: float, interval_s: float, before: int = 0) -> float:
        """The next place, as a wait from ``now``: behind ``before`` in progress and every place handed out so far."""
        due = max(self._next, now + before * interval_s)
        if due - now > self.max_wait_s:
            # All the later ones come then, spread by their own jitter, and are told anew.
            return self.max_wait_s
        self._next = due + interval_s
        return max(due - now, MIN_WAIT_S)

    def restart(self) -> None:
        """Nobody is waiting after all."""
        self._next = 0.0
