"""What the other controllers ask of this one over the links: the routes that change something, for those who asked them.

It is offered before the links are dialed and serves once the routes are there; until then it says that nothing was done.
"""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.interfaces import IProtocol

from avinet.controller.forwarding import LeaderMovedError, OnlyHere, PeerGuard, origin_of
from avinet.controller.seat import Seat
from avinet.model.ids import ControllerName
from avinet.rest.access import Access, Caller, NoLogins
from avinet.rest.route import Route
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite

_NOWHERE = IPv4Address("TCP", "127.0.0.1", 0)
"""Twisted wants to be told where a channel comes from; the requests in it say for whom."""


class _NotYet(NoLogins):
    """The guard of a controller that is starting."""

    def admit(self, caller: Caller) -> None:
        """Nobody."""
        raise LeaderMovedError


@attrs.define(eq=False)
class PeerApi:
    """``build`` is the service; ``serve`` once there is something to serve."""

    reactor: Any
    _site: BoundedSite = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._site = BoundedSite(Router((), self.reactor, _NotYet()), self.reactor)

    def serve(self, routes: Iterable[Route], seat: Seat, audited: Callable[[Access], None]) -> None:
        """Those of ``routes`` that change something; whatever reads is answered by each controller itself."""
        writes = [route for route in routes if not route.reads]
        router = Router(writes, self.reactor, PeerGuard(audited), OnlyHere(seat), origin_of)
        self._site = BoundedSite(router, self.reactor)

    def build(self, name: ControllerName) -> IProtocol:
        """A channel from ``name``."""
        protocol: IProtocol = self._site.buildProtocol(_NOWHERE)
        return protocol
