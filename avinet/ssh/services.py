"""Services: what listens behind the secure channel, by name and ``localhost`` port.

When a peer's ``direct-tcpip`` channel asks for a service's port, the channel itself becomes the transport of the
protocol that the service builds: nothing really listens, so nobody else on the machine can reach it.
"""

from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

import attrs
from twisted.internet.interfaces import IProtocol

from avinet.model.channel import ChannelStatus
from avinet.model.ids import SeId
from avinet.ssh.scheduler import Priority

LOCAL_NAMES = frozenset({"localhost", "127.0.0.1"})
"""How a client may name the controller's own services."""


class Permit(Protocol):
    """What one line of ``authorized_keys`` allows (``avinet.trust.authorized_keys.Permit``)."""

    @property
    def se(self) -> SeId:
        """Whose line it is."""

    @property
    def loopback(self) -> str:
        """The only address it may listen on."""

    @property
    def reverse_port(self) -> int:
        """The only port it may listen on."""

    @property
    def permit_open(self) -> tuple[tuple[str, int], ...]:
        """The services it may reach."""

    def allowed_from(self, address: str) -> bool:
        """The ``from=`` option: whether it may log in from there."""


class PermitIndex(Protocol):
    """All lines, by key (``avinet.trust.authorized_keys.AuthorizedKeys``)."""

    def find(self, key_blob: bytes) -> Permit | None:
        """The line of the key with this wire form."""


class PeerConnection(Protocol):
    """What a service may do to the connection it is reached through."""

    def close(self, text: str) -> None:
        """End it in good order, telling the peer ``text``."""

    def abort(self) -> None:
        """Cut it at once, its reverse forward included."""

    def mark_attached(self) -> None:
        """The SE has said its ``Hello`` here: its reverse forward belongs to this connection from now on."""

    def status(self) -> ChannelStatus:
        """How it is now."""


@attrs.frozen(eq=False)
class ChannelPeer:
    """Who is at the other end of a channel."""

    se: SeId
    address: str
    """The IP address it connected from."""
    permit: Permit
    connection: PeerConnection = attrs.field(repr=False)


P = TypeVar("P")
"""Who opens channels: ``ChannelPeer`` is an SE."""


@attrs.frozen
class Service(Generic[P]):
    """One service."""

    name: str
    port: int
    build: Callable[[P], IProtocol]
    priority: Priority
    """Of what the service sends."""


@attrs.define
class Services(Generic[P]):
    """What one kind of peers finds behind its channels, by port."""

    _by_port: dict[int, Service[P]] = attrs.field(factory=dict)

    def register(
        self, name: str, port: int, factory: Callable[[P], IProtocol], priority: Priority = Priority.COMMANDS
    ) -> None:
        """Offer ``factory``'s protocols at ``localhost:port``.  A port that is taken is a defect."""
        if port in self._by_port:
            raise ValueError(f"port {port} is {self._by_port[port].name}'s; {name} needs another")
        self._by_port[port] = Service(name, port, factory, priority)

    def withdraw(self, port: int) -> None:
        """Offer nothing there any more; channels that are open stay."""
        self._by_port.pop(port, None)

    def find(self, host: str, port: int) -> Service[P] | None:
        """The service at ``host:port``, if ``host`` means this machine."""
        return self._by_port.get(port) if host in LOCAL_NAMES else None

    def ports(self) -> dict[str, int]:
        """Name to port of every service."""
        return {service.name: port for port, service in self._by_port.items()}


ServiceTable = Services[ChannelPeer]
"""What a controller offers to SEs."""
