"""How long each version takes to be in force everywhere: from commit to the last Ack, and who is still missing."""

import collections

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.model.ids import NO_VERSION, ConfigVersion, SeId

KEEP = 100
"""Versions whose times are kept: the last day of a busy cluster."""
SAMPLES = 10_000
"""Acks of one version: one an SE, for more SEs than a cluster has."""


@attrs.define
class VersionTime:
    """One version.  Seconds since its commit."""

    version: ConfigVersion
    committed_at: float
    acks_s: list[float] = attrs.field(factory=list, repr=False)
    missing: set[SeId] = attrs.field(factory=set, repr=False)

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
class VersionTimes:
    """The last ``KEEP`` versions.

    Counted are the SEs that were attached at the commit and did not have it; one that comes later has its own
    reasons.  An Ack counts for the newest version it was missing: the ones before were overtaken or refused.
    """

    clock: IReactorTime
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

    def reached(self, se: SeId) -> None:
        """The SE has what it should."""
        now = self.clock.seconds()
        counted = False
        for one in reversed(self._versions):
            if se in one.missing:
                one.missing.discard(se)
                if not counted and len(one.acks_s) < SAMPLES:
                    one.acks_s.append(now - one.committed_at)
                counted = True

    def gone(self, se: SeId) -> None:
        """It left; nobody waits for it."""
        for one in self._versions:
            one.missing.discard(se)

    def all(self) -> list[VersionTime]:
        """Newest first."""
        return list(reversed(self._versions))

    @property
    def newest(self) -> ConfigVersion:
        """The version that was committed last, as far as this controller has seen."""
        return self._versions[-1].version if self._versions else NO_VERSION
