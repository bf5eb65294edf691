"""How many connections a listening port holds: in all, and from one source.

Outermost of the factories, so that a connection is counted before a byte of TLS is spent on it, and counted once
however it ends.  Over a bound the connection is cut at once: with TLS there is no cheaper way to say no, and
clients back off.  The bound a source is a large part of the whole, since a fleet may sit behind one NAT; it keeps
one runaway client from taking the last connection of everyone else.
"""

import ipaddress
from collections import Counter
from typing import Any, cast

import attrs
from twisted.internet.interfaces import IAddress, IProtocol, IProtocolFactory
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure

MAX_CONNECTIONS = 1_000
"""A connection with TLS is some 60 KiB, so 60 MiB; and well under the 20,000 descriptors a controller is given."""
MAX_CONNECTIONS_A_SOURCE = 500
"""Enrolment takes one connection for a moment: 500 SEs behind one NAT may enrol in the same second."""
V6_PREFIX = 64
"""One machine has as many IPv6 addresses as it likes within its /64."""
_MENTION_EVERY = 1_000
"""Refusals are logged at the first and then at every so many: strangers decide how often they come."""


@attrs.frozen(kw_only=True)
class Limits:
    """The bounds of one listening port."""

    most: int = MAX_CONNECTIONS
    most_a_source: int = MAX_CONNECTIONS_A_SOURCE


DEFAULT_LIMITS = Limits()


def source_of(host: str) -> str:
    """What counts as one source: an IPv4 address, also one within IPv6, or an IPv6 /64, which one machine has whole."""
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if address.version == 4:
        return str(address)
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((int(address), V6_PREFIX), strict=False))


class LimitedFactory(WrappingFactory[ProtocolWrapper]):
    """A factory around another that refuses connections over the bounds."""

    noisy = False
    _log = Logger()

    def __init__(self, wrapped: IProtocolFactory, limits: Limits) -> None:
        super().__init__(wrapped)
        self._limits = limits
        self._held: Counter[str] = Counter()
        self.refused = 0

    @property
    def connections(self) -> int:
        """Open now."""
        return self._held.total()

    def buildProtocol(self, addr: IAddress | None) -> ProtocolWrapper | None:  # type: ignore[override]
        """One connection more, or None to cut it."""
        source = source_of(getattr(addr, "host", ""))
        # A UNIX socket has no source to tell apart; the bound in all holds.
        if self.connections >= self._limits.most or (
            source and self._held[source] >= self._limits.most_a_source
        ):
            if self.refused % _MENTION_EVERY == 0:
                self._log.warn(
                    "refusing a connection from {source}: {held} are open, {from_source} of them from there",
                    source=source,
                    held=self.connections,
                    from_source=self._held[source],
                )
            self.refused += 1
            return None
        inner = self.wrappedFactory.buildProtocol(addr)
        if inner is None:
            return None
        self._held[source] += 1
        return _Counted(self, inner, source)

    def gone(self, source: str) -> None:
        """A connection ended."""
        self._held[source] -= 1
        if self._held[source] <= 0:
            del self._held[source]


class _Counted(ProtocolWrapper):
    def __init__(self, factory: LimitedFactory, wrapped: IProtocol, source: str) -> None:
        super().__init__(cast(Any, factory), wrapped)
        self._source = source
        self._counts = factory

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Free the place first: what follows may raise."""
        self._counts.gone(self._source)
        super().connectionLost(reason)
