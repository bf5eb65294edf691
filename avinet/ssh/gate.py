"""Who may start a connection: the bounds on strangers, before any cryptography is spent on them.

Strangers are counted in all and by source network.  A network from which SEs have logged in lately gets room for
each of them to come back at once, since a NATed fleet reconnects as one source; a stranger in another network
cannot use that room.  Sans-IO.
"""

import ipaddress
from collections import OrderedDict

import attrs

_KNOWN_NETWORKS = 4096
"""Networks remembered as having SEs; the least recently seen are forgotten.  400 KiB at most."""
_IPV4_PREFIX = 24
_IPV6_PREFIX = 56


@attrs.frozen
class GateLimits:
    """How many connections may be unauthenticated at once."""

    total: int = 1024
    """35 MiB of buffers at the very most, and 1.2 s of key exchanges."""
    strangers_share: float = 0.5
    """Of these, what networks without SEs may fill together: whoever has many networks (one IPv6 /48 has 256) keeps
    no SE from coming back."""
    per_network: int = 32
    """OpenSSH's MaxStartups begins to refuse at 10; key exchange and login take 1 ms each here."""
    per_known_network: int = 512
    """Where SEs have logged in from."""
    retry_after_s: float = 5.0
    """What those who are refused are told."""


def network_of(address: str) -> str:
    """The /24 or /56 that ``address`` is in: what one stranger can be assumed to hold."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    prefix = _IPV4_PREFIX if parsed.version == 4 else _IPV6_PREFIX
    return str(ipaddress.ip_network((parsed, prefix), strict=False))


@attrs.define
class Gate:
    """Counts strangers."""

    limits: GateLimits = attrs.field(factory=GateLimits)
    total: int = attrs.field(default=0, init=False)
    _strangers: dict[str, int] = attrs.field(factory=dict, init=False)
    _known: OrderedDict[str, None] = attrs.field(factory=OrderedDict, init=False)

    def admit(self, address: str) -> bool:
        """Whether another connection from ``address`` may start; if so it counts until ``leave``."""
        network = network_of(address)
        limits, known = self.limits, network in self._known
        room = limits.per_known_network if known else limits.per_network
        count = self._strangers.get(network, 0)
        if self.total >= limits.total or count >= room or not (known or self._room_elsewhere()):
            return False
        self.total += 1
        self._strangers[network] = count + 1
        return True

    def _room_elsewhere(self) -> bool:
        """Whether one more stranger from a network without SEs fits."""
        most = self.limits.total * self.limits.strangers_share
        # Counted only when it may matter.
        return self.total < most or most > sum(
            count for network, count in self._strangers.items() if network not in self._known
        )

    def leave(self, address: str, *, authenticated: bool) -> None:
        """It proved itself, or it is gone."""
        network = network_of(address)
        self.total -= 1
        left = self._strangers[network] - 1
        if left:
            self._strangers[network] = left
        else:
            del self._strangers[network]
        if authenticated:
            self._known[network] = None
            self._known.move_to_end(network)
            if len(self._known) > _KNOWN_NETWORKS:
                self._known.popitem(last=False)
