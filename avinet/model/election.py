"""Who leads a cluster, decided by each controller for itself: a machine without a clock or a store.

The store says who leads (``Standing``, at a revision of its own); a controller that finds a reason asks to **seize** that
from exactly what it knows, and the store lets one of several be first.  There are three reasons: nobody leads, since the
leader's lease ended; the leader bears this one's name, from before a restart; or a majority of the controllers has lost
the leader, which is known sooner than a lease ends.

To seize early is safe, since whoever leads is not who believes it but who the store says: each transaction of a leader
compares on the standing's revision, and what it orders outside the store carries its term, which is higher than any before.
It must only not go to and fro: a leader that is new is left alone for ``GRACE_S``.
"""

import enum

import attrs
import msgspec

from avinet.model.ids import ControllerName

LEASE_S = 5.0
"""A leader that nobody hears is replaced within it at the latest; etcd's own elections take 1 to 2 s, and must not end it."""
RENEW_S = 1.0
"""Between renewals: four may be lost."""
GRACE_S = 5.0
"""For links to come up and for what the others see to be heard; meanwhile only the lease counts."""
RETRY_S = 1.0
"""After another was first, or one's own lease ended: what the store says meanwhile decides."""
AGAIN_S = 0.2
"""After a try that the store did not answer: its own election is under way, and each try is short."""


class Standing(msgspec.Struct, frozen=True):
    """Who leads, as stored; ``term`` counts up with each change."""

    name: ControllerName
    term: int


class Stand(enum.Enum):
    """What this controller is."""

    FOLLOWING = "following"
    SEIZING = "seizing"
    LEADING = "leading"


@attrs.frozen
class Seize:
    """Put this controller's name where the store has ``revision`` (0: nothing), for ``why``."""

    revision: int
    why: str


@attrs.frozen
class StepDown:
    """Stop everything that only a leader does, at once."""

    why: str


Effect = Seize | StepDown


@attrs.define
class Election:
    """One controller's.  Facts go in, effects come out; ``tick`` about each second.  Times are of one steady clock."""

    me: ControllerName
    stand: Stand = Stand.FOLLOWING
    standing: Standing | None = None
    """As the store said last."""
    revision: int = 0
    """Of that."""
    _heard: bool = False
    """Whether the store has ever said who leads."""
    _since: float = 0.0
    """When the standing was heard of."""
    _lost: bool = False
    """Whether a majority does not see who leads."""
    _not_before: float = 0.0

    def seen(self, standing: Standing | None, revision: int, now: float) -> tuple[Effect, ...]:
        """The store says who leads; ``revision`` is that of the change, also of a removal."""
        if self._heard and revision <= self.revision:
            return ()
        self._heard = True
        mine = self.stand is Stand.LEADING
        self.standing, self.revision, self._since, self._lost = standing, revision, now, False
        if not mine:
            return self._decide(now)
        self.stand = Stand.FOLLOWING
        why = "its lease ended" if standing is None else f"{standing.name} leads now"
        return (StepDown(why), *self._decide(now))

    def peers(self, *, lost: bool, now: float) -> tuple[Effect, ...]:
        """Whether a majority of the controllers has lost who leads."""
        self._lost = lost
        return self._decide(now)

    def tick(self, now: float) -> tuple[Effect, ...]:
        """Time has passed."""
        return self._decide(now)

    def won(self, standing: Standing, revision: int) -> None:
        """The store let this controller be first."""
        self.stand, self.standing, self.revision, self._heard = Stand.LEADING, standing, revision, True

    def refused(self, now: float, wait_s: float = RETRY_S) -> None:
        """Another was first, or the store did not answer: what it says next decides."""
        self.stand, self._not_before = Stand.FOLLOWING, now + wait_s

    def ended(self, why: str, now: float, wait_s: float = RETRY_S) -> tuple[Effect, ...]:
        """The lease is over, as far as is known here; or, with a longer wait, others should try before this one does."""
        if self.stand is not Stand.LEADING:
            return ()
        self.stand, self._not_before = Stand.FOLLOWING, now + wait_s
        return (StepDown(why),)

    def _decide(self, now: float) -> tuple[Effect, ...]:
        if self.stand is not Stand.FOLLOWING or not self._heard or now < self._not_before:
            return ()
        if self.standing is None:
            why = "nobody led"
        elif self.standing.name == self.me:
            why = "it led before"
        elif self._lost and now - self._since >= GRACE_S:
            why = f"a majority of the controllers has lost {self.standing.name}"
        else:
            return ()
        self.stand = Stand.SEIZING
        return (Seize(0 if self.standing is None else self.revision, why),)
