"""Where to dial: what a host name resolves to, and an endpoint for each address."""

from collections.abc import Callable

import attrs
from twisted.internet.address import IPv4Address, IPv6Address
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.interfaces import (
    IAddress,
    IHostResolution,
    IReactorPluggableNameResolver,
    IReactorTime,
    IResolutionReceiver,
    IStreamClientEndpoint,
)
from zope.interface import implementer


class Reactor(IReactorPluggableNameResolver, IReactorTime):
    """What the real world needs of a reactor, for the type checker."""


@implementer(IResolutionReceiver)
@attrs.define(eq=False)
class _Addresses:
    """Collects what a name resolves to."""

    found: list[str] = attrs.field(factory=list)
    done: Deferred[list[str]] = attrs.field(factory=Deferred)

    def resolutionBegan(self, resolutionInProgress: IHostResolution) -> None:
        """Nothing yet."""

    def addressResolved(self, address: IAddress) -> None:
        """One more."""
        if isinstance(address, IPv4Address | IPv6Address):
            self.found.append(address.host)

    def resolutionComplete(self) -> None:
        """That is all."""
        if not self.done.called:
            self.done.callback(self.found)


def resolver(reactor: IReactorPluggableNameResolver) -> Callable[[str], Deferred[list[str]]]:
    """A host name to IP addresses, an address to itself, by the reactor's resolver."""

    def resolve(host: str) -> Deferred[list[str]]:
        addresses = _Addresses()
        reactor.nameResolver.resolveHostName(addresses, host)
        return addresses.done

    return resolve


def endpoint_of(reactor: Reactor, address: str, port: int) -> IStreamClientEndpoint:
    """TCP to an IP address of either kind."""
    kind = TCP6ClientEndpoint if ":" in address else TCP4ClientEndpoint
    endpoint: IStreamClientEndpoint = kind(reactor, address, port)
    return endpoint
