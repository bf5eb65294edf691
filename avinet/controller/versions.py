"""How long each version takes to be in force everywhere: from commit to the last Ack, and who is still missing."""

import collections
from bisect import bisect_left

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.model.ids import NO_VERSION, ConfigVersion, SeId

KEEP = 100
"""Versions whose times are kept: the last day of a busy cluster."""
SAMPLES = 10_000
"""Acks of one version: one an SE, for more SEs than a cluster has."""
BOUNDS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Of the histogram over all versions: from a change that one SE takes to a refusal's longest back-off."""


@attrs.define
class VersionTime:
    """One version.  Seconds since its commit."""

    version: ConfigVersion
    committed_at: float
    acks_s: list[float] = attrs.field(factory=list, repr=False)
    missing: set[SeId] = attrs.field(factory=set, repr=False)
    concerned: int = 0
    """Attached SEs that it gave something else to have."""
    left: set[SeId] = attrs.field(factory=set, repr=False)
    """Those of them that went away without it."""
    resends: int = 0
    """Pushes of it, or of what came after, beyond the first to each SE, while it was the newest."""
    nacks: int = 0

    def quantile(self, q: float) -> float | None:
        """Of the times to Ack; None before any."""
        if not self.acks_s:
            return None
        ordered = sorted(self.acks_s)
        return ordered[min(len(ordered) - 1, int(q * len(ordered)))]

    @property
    def last_s(self) -> float | None:
        """When the last one had it; None while some are missing."""
        return None if self.missing or not self.acks_s else max(self.acks_s)


@attrs.define
class AckTimes:
    """Commit to Ack, of all versions since the start: counts by ``BOUNDS_S``, with one more for what is longer."""

    counts: list[int] = attrs.field(factory=lambda: [0] * (len(BOUNDS_S) + 1))
    sum_s: float = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS_S, seconds)] += 1
        self.sum_s += seconds


@attrs.define
class VersionTimes:
    """The last ``KEEP`` versions.

    Counted are the SEs that were attached at the commit and did not have it; one that comes later has its own
    reasons.  An Ack counts for the newest version it was missing: the ones before were overtaken or refused.
    """

    clock: IReactorTime
    acks: AckTimes = attrs.field(factory=AckTimes, init=False, repr=False)
    _versions: "collections.deque[VersionTime]" = attrs.field(
        factory=lambda: collections.deque(maxlen=KEEP), init=False
    )

    def committed(self, version: ConfigVersion) -> None:
        """A version became the one in force."""
        self._versions.append(VersionTime(version, self.clock.seconds()))

    def missing(self, se: SeId) -> None:
        """The version just committed touches this SE."""
        if self._versions:
            self._versions[-1].missing.add(se)
            self._versions[-1].concerned += 1

    def reached(self, se: SeId) -> None:
        """The SE has what it should."""
        now = self.clock.seconds()
        counted = False
        for one in reversed(self._versions):
            if se in one.missing:
                one.missing.discard(se)
                if not counted and len(one.acks_s) < SAMPLES:
                    # The clock may have been set back.
                    took_s = max(0.0, now - one.committed_at)
                    one.acks_s.append(took_s)
                    self.acks.add(took_s)
                counted = True

    def gone(self, se: SeId) -> None:
        """It left; nobody waits for it."""
        for one in self._versions:
            if se in one.missing:
                one.missing.discard(se)
                one.left.add(se)

    def sent_again(self) -> None:
        """A push of a state that was sent before."""
        if self._versions:
            self._versions[-1].resends += 1

    def refused(self, version: ConfigVersion) -> None:
        """A Nack."""
        one = self.of(version)
        if one is not None:
            one.nacks += 1

    def of(self, version: int) -> VersionTime | None:
        """None when it is not kept, or was made before this controller started."""
        return next((one for one in reversed(self._versions) if one.version == version), None)

    def all(self) -> list[VersionTime]:
        """Newest first."""
        return list(reversed(self._versions))

    @property
    def newest(self) -> ConfigVersion:
        """The version that was committed last, as far as this controller has seen."""
        return self._versions[-1].version if self._versions else NO_VERSION
