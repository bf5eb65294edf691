"""How often one caller may ask: a burst, and then so many requests a second, as a token bucket each."""

from collections import OrderedDict
from typing import ClassVar

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.errors import AvinetError, Kind, error

MAX_KEYS = 10_000
"""About 2 MB; those seen longest ago are forgotten first, which only ever gives them more."""


@error
class TooManyRequestsError(AvinetError):
    """{who} asks more than {per_s:g} times a second, after a burst of {burst}. Try again in {retry_after_s:.1f} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    who: str
    per_s: float
    burst: int
    retry_after_s: float


@attrs.define(eq=False)
class Rates:
    """A bucket a key.  What is refused costs nothing, so a caller that goes on at its rate is served at that rate."""

    clock: IReactorTime
    per_s: float
    burst: int
    _spent: OrderedDict[str, tuple[float, float]] = attrs.field(factory=OrderedDict, init=False, repr=False)
    """Key to (requests that count still, as of when)."""

    def take(self, key: str) -> None:
        """Charge one request, or ``TooManyRequestsError``."""
        now = self.clock.seconds()
        before, at = self._spent.get(key, (0.0, now))
        spent = max(0.0, before - max(0.0, now - at) * self.per_s)
        if spent + 1.0 > self.burst:
            wait_s = (spent + 1.0 - self.burst) / self.per_s
            raise TooManyRequestsError(who=key, per_s=self.per_s, burst=self.burst, retry_after_s=wait_s)
        self._spent[key] = (spent + 1.0, now)
        self._spent.move_to_end(key)
        while len(self._spent) > MAX_KEYS:
            self._spent.popitem(last=False)
