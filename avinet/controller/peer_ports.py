"""The other controllers' state engines on this machine's loopback: for each of their ports one here, joined through the link.

The port stands for the same number there.  On one machine without network namespaces it is the other's own engine already:
that is said, and nothing listens.  Which of both it is shows with the first link; once there is a port it stays, and
whoever connects while the link is down is cut at once.
"""

from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any, ClassVar

import attrs
from twisted.internet.error import CannotListenError
from twisted.internet.interfaces import IDelayedCall, IListeningPort, IProtocol
from twisted.logger import Logger

from avinet.controller.peer_links import PeerLinks
from avinet.controller.peer_permits import state_ports
from avinet.controller.peers import Lane, PeerListener, PortView
from avinet.model.ids import ControllerName
from avinet.model.membership import Membership
from avinet.ports import cannot_listen
from avinet.ssh.port_forwards import LOOPBACK, LocalPort, PortEnd
from avinet.ssh.scheduler import Priority

RETRY_S = 5.0
"""Between tries at a port that somebody has."""
SETTING = "[store] client_port and peer_port of that controller"
FORWARDED = "forwarded"
DIRECT = "direct"
WAITING = "waits for the first link"


def same_machine(ends: tuple[str, str]) -> bool:
    """Whether a connection between these addresses never leaves the machine, or the network namespace."""
    ours, theirs = ends
    try:
        return ours == theirs or ip_address(theirs).is_loopback
    except ValueError:
        return False


@attrs.define(eq=False)
class _Here:
    """One port that stands for another's."""

    how: str = WAITING
    listening: IListeningPort | None = None
    factory: LocalPort | None = None
    retry: IDelayedCall | None = None


@attrs.define(eq=False)
class PeerPorts(PeerListener):
    """All of them.  ``offer`` once for one's own ports; ``update`` with each list; ``start`` before the links are."""

    reactor: Any
    links: PeerLinks
    near: Callable[[tuple[str, str]], bool] = same_machine
    address: str = LOOPBACK
    """Where they are here."""
    _here: dict[ControllerName, dict[int, _Here]] = attrs.field(factory=dict, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    def start(self) -> None:
        """Follow the links."""
        self.links.ports = self.views
        self.links.listen(self)

    def offer(self, *ports: int) -> None:
        """Let the others reach these of this machine."""
        for port in ports:
            self.links.offer_port(
                f"state-{port}", port, Lane.STATE, partial(self._end, port), Priority.CONFIG
            )

    def _end(self, port: int, name: ControllerName) -> IProtocol:
        return PortEnd(self.reactor, port)

    def update(self, membership: Membership) -> None:
        """Whose ports there are."""
        wanted = {one.name: state_ports(one) for one in membership.controllers if one.name != self.links.me}
        for name, ports in tuple(self._here.items()):
            for port in tuple(ports):
                if port not in wanted.get(name, ()):
                    self._close(ports.pop(port))
            if not ports:
                del self._here[name]
        for name, numbers in wanted.items():
            for port in numbers:
                self._here.setdefault(name, {}).setdefault(port, _Here())
            self._begin(name)

    def stop(self) -> None:
        """Close everything."""
        for ports in self._here.values():
            for here in ports.values():
                self._close(here)
        self._here.clear()

    def views(self, name: ControllerName) -> tuple[PortView, ...]:
        """For status."""
        return tuple(PortView(port, here.how) for port, here in sorted(self._here.get(name, {}).items()))

    # What the links tell

    def peer_up(self, name: ControllerName) -> None:
        """Now it shows where it is."""
        self._begin(name)

    def peer_down(self, name: ControllerName, why: str) -> None:
        """Programs are better told by a reset than by silence; channels end with the link by themselves."""
        for here in self._here.get(name, {}).values():
            if here.factory is not None:
                here.factory.cut()

    # Inside

    def _begin(self, name: ControllerName) -> None:
        ends = self.links.ends(name)
        if ends is None:
            return
        for port, here in self._here.get(name, {}).items():
            if self.near(ends):
                self._close(here)
                here.how = DIRECT
            elif here.listening is None and here.retry is None:
                self._listen(name, port, here)

    def _listen(self, name: ControllerName, port: int, here: _Here) -> None:
        here.retry = None
        factory = LocalPort(partial(self._open, name, port), self.reactor)
        try:
            here.listening = self.reactor.listenTCP(port, factory, interface=self.address)
        except CannotListenError as why:
            failure = cannot_listen(port, self.address, SETTING, why.socketError)
            if here.how != str(failure):
                self._log.error(
                    "{name} is not reached on port {port}: {why}", name=name, port=port, why=str(failure)
                )
            here.how = str(failure)
            here.retry = self.reactor.callLater(RETRY_S, self._listen, name, port, here)
            return
        here.factory, here.how = factory, FORWARDED

    def _open(self, name: ControllerName, port: int, protocol: IProtocol) -> Any:
        return self.links.open_port(name, port, Lane.STATE, protocol, Priority.CONFIG)

    def _close(self, here: _Here) -> None:
        if here.retry is not None:
            here.retry.cancel()
        if here.listening is not None:
            here.listening.stopListening()
        if here.factory is not None:
            here.factory.cut()
        here.listening = here.factory = here.retry = None
