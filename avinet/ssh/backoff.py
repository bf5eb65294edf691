"""How long to wait before dialing again: full jitter, so that a fleet that lost its controller does not return as one.

The n-th wait in a row is uniform between nothing and ``base_s`` doubled n times, at most ``cap_s`` (Brooker,
"Exponential Backoff and Jitter").  A server may say when to come back; before it has proved itself it is believed for
``UNPROVEN_WAIT_S`` at most, since anybody can answer on that address.  What it says is a place in its queue: the jitter
upon it is that of a first failure, since a wait that doubles would miss the place, and leave the server idle.  Being
told so again and again is no queue any more, and backs off as every other failure does.
"""

from collections.abc import Callable

import attrs

UNPROVEN_WAIT_S = 60.0
"""DESIGN 4: what an unauthenticated answer can cost us."""
PROVEN_WAIT_S = 3600.0
"""Even a controller may be wrong; an SE that is gone for longer looks dead."""
PATIENCE = 5
"""Times in a row that a server may say when to come back, before that no longer shortens the jitter.  A fleet of 8,000 that comes back at once
is turned away once or twice (``tests/unit/test_ssh_storm.py``)."""


@attrs.frozen
class BackoffSettings:
    """The two numbers of it, in seconds."""

    base_s: float = 1.0
    cap_s: float = 60.0


@attrs.define(eq=False)
class Backoff:
    """One connection's row of failures.  ``random`` gives numbers from 0 to 1."""

    random: Callable[[], float]
    settings: BackoffSettings = attrs.field(factory=BackoffSettings)
    failures: int = attrs.field(default=0, init=False)
    told: int = attrs.field(default=0, init=False)
    """How many of the last ones were a server that said when to come back."""
    hopeless: bool = attrs.field(default=False, init=False)
    """Whether it has said that coming back soon is of no use."""

    def next_wait_s(self, asked_s: float | None = None, *, proven: bool = False) -> float:
        """The wait after one more failure; ``asked_s`` is what the server asked for at least, ``proven`` or not."""
        ceiling = min(self.settings.cap_s, self.settings.base_s * float(1 << min(self.failures, 32)))
        self.failures += 1
        if asked_s is None or not asked_s > 0:
            self.told = 0
            return ceiling * self.random()
        self.told += 1
        if self.told <= PATIENCE:
            ceiling = min(ceiling, self.settings.base_s)
        jitter = ceiling * self.random()
        return min(asked_s, PROVEN_WAIT_S if proven else UNPROVEN_WAIT_S) + jitter

    def sooner_s(self, left_s: float, spread_s: float) -> float:
        """What is left of a wait when somebody else says that the server is there again: at most ``spread_s``, at random.

        If it is not, the next waits are short ones.  What the server itself has said is believed more.
        """
        if self.told or self.hopeless:
            return left_s
        self.failures = min(self.failures, 1)
        return left_s if left_s <= spread_s else spread_s * self.random()

    def exhaust(self) -> None:
        """Wait as after many failures: the controller has said that coming back soon is of no use."""
        self.failures = max(self.failures, 32)
        self.hopeless = True

    def reset(self) -> None:
        """It worked for a while."""
        self.failures = self.told = 0
        self.hopeless = False
