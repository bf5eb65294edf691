"""How many records a second may be logged: of each virtual service, and of all of them on one SE.

A second is that of the request's start, so catching up with gigabytes is not throttled as if it had happened now.  The
first records of a second stay; those beyond are counted as dropped, never silent.  Significant and full logs have
throttles of their own.

What was admitted is counted in memory only: after a restart, a second that was half logged may have its share again.
"""

from collections.abc import Mapping

import attrs
import numpy as np

from avinet.logs.split import Lines, Mask, Places
from avinet.model.ids import ObjectId
from avinet.model.logs import LogClass

RECENT_S = 300
"""Seconds before the newest one that are remembered.  A request is logged at its end: the few that last longer may go
beyond the throttle."""
MAX_COUNTED = 100_000
"""Pairs of service and second; some 10 MB.  Over it the older half is forgotten."""

_US = 1_000_000
_SE = -1
"""The key of all services together."""


@attrs.frozen
class Throttle:
    """Of one class of logs, in records a second; 0 is no limit."""

    per_se: int = 0
    per_service: Mapping[ObjectId, int] = attrs.field(factory=dict)
    """Of those that have a limit."""

    def __bool__(self) -> bool:
        """Whether anything is limited."""
        return bool(self.per_se) or any(self.per_service.values())


@attrs.frozen
class Throttles:
    """Of both classes."""

    significant: Throttle = Throttle()
    full: Throttle = Throttle()

    def of(self, log_class: LogClass) -> Throttle:
        """That class's."""
        return self.significant if log_class is LogClass.SIGNIFICANT else self.full


@attrs.define(eq=False)
class Throttler:
    """Counts what is admitted of one class."""

    throttle: Throttle = Throttle()
    _numbers: dict[ObjectId, int] = attrs.field(factory=dict, init=False)
    _counted: dict[tuple[int, int], int] = attrs.field(factory=dict, init=False)
    """By (service's number or ``_SE``, second)."""

    def admit(self, lines: Lines) -> Mask:
        """Which of ``lines`` stay."""
        kept = np.ones(len(lines.starts), np.bool_)
        if not len(kept) or not self.throttle:
            return kept
        seconds = lines.times_us // _US
        limits = np.array([self.throttle.per_service.get(name, 0) for name in lines.names], np.int64)
        limited = limits[lines.services] > 0
        if limited.any():
            services = np.array([self._number(name) for name in lines.names])[lines.services[limited]]
            kept[limited] = self._within(services, seconds[limited], limits[lines.services[limited]])
        if self.throttle.per_se:
            everyone = np.full(int(kept.sum()), _SE)
            kept[kept] = self._within(everyone, seconds[kept], np.full(len(everyone), self.throttle.per_se))
        self._forget(int(seconds.max()))
        return kept

    def counted(self) -> dict[tuple[int, int], int]:
        """For ``recall``."""
        return self._counted.copy()

    def recall(self, counted: dict[tuple[int, int], int]) -> None:
        """What was admitted since ``counted`` did not stay."""
        self._counted = counted

    def _number(self, service: ObjectId) -> int:
        return self._numbers.setdefault(service, len(self._numbers))

    def _within(self, who: Places, seconds: Places, limits: Places) -> Mask:
        order = np.lexsort((seconds, who))  # stable: within a second, as they were logged
        who_in, second_in = who[order], seconds[order]
        changes = (who_in[1:] != who_in[:-1]) | (second_in[1:] != second_in[:-1])
        begins = np.flatnonzero(np.concatenate((np.ones(min(1, len(order)), np.bool_), changes)))
        counts = np.diff(np.append(begins, len(order)))
        keys = list(zip(who_in[begins].tolist(), second_in[begins].tolist(), strict=True))
        before = np.array([self._counted.get(key, 0) for key in keys], np.int64)
        rank = np.arange(len(order)) - np.repeat(begins - before, counts)
        well = np.empty(len(order), np.bool_)
        well[order] = rank < limits[order]
        self._counted.update(zip(keys, (before + counts).tolist(), strict=True))
        return well

    def _forget(self, newest: int) -> None:
        if len(self._counted) > MAX_COUNTED:
            seconds = sorted(second for _, second in self._counted)
            newest = max(newest, seconds[len(seconds) // 2] + RECENT_S + 1)
        horizon = newest - RECENT_S
        for key in [key for key in self._counted if key[1] < horizon]:
            del self._counted[key]
        if len(self._numbers) > MAX_COUNTED:
            self._numbers.clear()
            self._counted.clear()
