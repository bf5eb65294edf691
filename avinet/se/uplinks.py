"""All uplinks of an SE: one for each controller of the membership list, as the list changes.

An SE without any attached controller is headless; what it wants to tell then is kept, bounded, for the first one that
it reaches.
"""

from collections import deque
from collections.abc import Callable

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.interfaces import IReactorTime

from avinet.model.ids import ControllerName
from avinet.model.membership import Membership
from avinet.se.session import Reply, SeParts
from avinet.se.uplink import Place, Reach, Uplink
from avinet.se.uplink_machine import Channel
from avinet.ssh.addresses import Reactor, endpoint_of, resolver
from avinet.ssh.backoff import BackoffSettings
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.terms import Terms
from avinet.wire.messages import Message, Notice

SSH_USER = "aviseuser"
MAX_KEPT_NOTICES = 1000
"""While headless; the oldest go first.  A few hundred bytes each."""


@attrs.define(eq=False)
class Uplinks:
    """The service.  ``random`` gives numbers from 0 to 1."""

    place: Place
    parts: SeParts
    reach: Reach
    clock: IReactorTime
    random: Callable[[], float]
    backoff: BackoffSettings = attrs.field(factory=BackoffSettings)
    attached: Callable[[ControllerName, Channel], None] = lambda name, channel: None
    """A controller has welcomed us on this secure channel; its other services may be opened."""
    _uplinks: dict[ControllerName, Uplink] = attrs.field(factory=dict, init=False, repr=False)
    _kept: deque[Notice] = attrs.field(factory=lambda: deque(maxlen=MAX_KEPT_NOTICES), init=False, repr=False)
    _refreshing: Deferred[object] | None = attrs.field(default=None, init=False, repr=False)

    def start(self, membership: Membership) -> None:
        """Begin with the list as it is."""
        self.update(membership)

    def update(self, membership: Membership) -> None:
        """A newer list: drop the controllers that left it, begin with those that came, tell the rest."""
        listed = {controller.name: controller for controller in membership.controllers}
        for name in self._uplinks.keys() - listed.keys():
            self._uplinks.pop(name).drop()
        for name, controller in listed.items():
            known = self._uplinks.get(name)
            if known is not None:
                known.update(controller)
                continue
            self._uplinks[name] = Uplink(
                controller,
                self.place,
                self.parts,
                attrs.evolve(self.reach, refresh=self._refresh),
                self.clock,
                self.random,
                self.backoff,
                self._attached,
            )
            self._uplinks[name].start()

    def stop(self) -> Deferred[None]:
        """Leave every controller in good order."""
        leaving = [uplink.stop() for uplink in self._uplinks.values()]
        self._uplinks.clear()
        return gatherResults(leaving).addCallback(lambda _: None)

    def all(self) -> tuple[Uplink, ...]:
        """For status."""
        return tuple(self._uplinks.values())

    @property
    def headless(self) -> bool:
        """No controller is attached."""
        return not any(uplink.attached for uplink in self._uplinks.values())

    def broadcast(self, message: Message, told: Reply | None = None) -> None:
        """Send to every attached controller; dropped while headless, since ``Hello`` and reports say it anew.

        The one that is ``told`` already, by its session's ``reply``, is left out.
        """
        for uplink in self._uplinks.values():
            if uplink.attached and uplink.session is not None and uplink.session.reply is not told:
                uplink.session.send(message)

    def notify(self, notice: Notice) -> None:
        """Tell one controller; kept while headless."""
        for uplink in self._uplinks.values():
            if uplink.attached and uplink.session is not None:
                uplink.session.send(notice)
                return
        self._kept.append(notice)

    def live_again(self, name: str, spread_s: float) -> None:
        """A controller says so of another one."""
        uplink = self._uplinks.get(ControllerName(name))
        if uplink is not None:
            uplink.live_again(spread_s)

    def _attached(self, uplink: Uplink) -> None:
        while self._kept and uplink.session is not None:
            uplink.session.send(self._kept.popleft())
        if uplink.channel is not None:
            self.attached(uplink.controller.name, uplink.channel)

    def _refresh(self) -> Deferred[object]:
        """One request for the list serves all uplinks that want it."""
        waiter: Deferred[object] = Deferred()
        if self._refreshing is None:
            refreshing = self._refreshing = self.reach.refresh()

            def over(outcome: object) -> object:
                self._refreshing = None
                return outcome

            refreshing.addBoth(over)
        else:
            refreshing = self._refreshing

        def pass_on(outcome: object) -> object:
            if not waiter.called:
                waiter.callback(None)
            return outcome

        refreshing.addBoth(pass_on)
        refreshing.addErrback(lambda _: None)
        return waiter


def reach_through(
    reactor: Reactor,
    key: Ed25519PrivateKey,
    refresh: Callable[[], Deferred[object]],
    terms: Terms | None = None,
) -> Reach:
    """The real world: the reactor's resolver, TCP, and the secure channel with the SE's key."""

    def dial(address: str, port: int, verify: Callable[[str], bool]) -> Deferred[SecureChannel]:
        endpoint = endpoint_of(reactor, address, port)
        return connect(endpoint, user=SSH_USER, key=key, verify_host_key=verify, clock=reactor, terms=terms)

    return Reach(resolve=resolver(reactor), dial=dial, refresh=refresh)
