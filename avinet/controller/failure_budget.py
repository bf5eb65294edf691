"""How many failures a source may cause before it is asked to wait: failures cost, successes do not.

A whole fleet may sit behind one address, so a limit on requests would stop the honest with the broken.  Here
every source has a budget that only failures draw on and time fills up again.
"""

import ipaddress
from collections import OrderedDict

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.rest.connections import source_of

FAILURES_BURST = 60
"""A fleet built from one bad image shows up as this many refusals before it is slowed down."""
FAILURES_PER_S = 1.0
"""About 1 ms of signature checks a second for each source."""
MAX_SOURCES = 10_000
"""About 2 MB; the sources seen longest ago are forgotten first."""


def plain_address(address: str) -> str:
    """An IPv4 address that came over an IPv6 socket as what it is."""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return str(ip if mapped is None else mapped)


@attrs.define(eq=False)
class FailureBudget:
    """A token bucket a source, drawn on by failures."""

    clock: IReactorTime
    burst: int = FAILURES_BURST
    per_s: float = FAILURES_PER_S
    max_sources: int = MAX_SOURCES
    _spent: OrderedDict[str, tuple[float, float]] = attrs.field(factory=OrderedDict, init=False, repr=False)
    """Source to (failures that count still, as of when)."""

    def _now(self, source: str) -> float:
        spent, at = self._spent.get(source, (0.0, 0.0))
        return max(0.0, spent - max(0.0, self.clock.seconds() - at) * self.per_s)

    def failed(self, address: str) -> None:
        """Charge one failure."""
        source = source_of(address)
        spent = min(self._now(source) + 1.0, float(self.burst))
        self._spent[source] = (spent, self.clock.seconds())
        self._spent.move_to_end(source)
        while len(self._spent) > self.max_sources:
            self._spent.popitem(last=False)

    def wait_s(self, address: str) -> float:
        """How long until the source has budget again; 0 when it has."""
        over = self._now(source_of(address)) + 1.0 - self.burst
        return max(0.0, over / self.per_s)
