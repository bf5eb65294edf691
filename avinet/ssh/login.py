"""One login of an SE's key on the controller: what it may open and ask for.

The options of its ``authorized_keys`` line are enforced here, each by its own refusal.
"""

from collections.abc import Callable, Mapping

import attrs
from twisted.conch.ssh import transport as conch
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol

from avinet.errors import AvinetError
from avinet.model.channel import ChannelStatus
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.connection import GRANTED, Connection, refused
from avinet.ssh.fields import Reader, string, uint32
from avinet.ssh.links import ServerLink
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.observer import Observer
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.services import LOCAL_NAMES, ChannelPeer, Permit, PermitIndex, ServiceTable
from avinet.ssh.status import status_of


def _permits(permit: Permit, host: str, port: int) -> bool:
    """``permitopen``: the two names of this machine are one, as the services behind them are."""
    hosts = LOCAL_NAMES if host in LOCAL_NAMES else {host}
    return any(port == allowed_port and allowed in hosts for allowed, allowed_port in permit.permit_open)


@attrs.frozen
class Access:
    """Who may log in, and what there is to reach.  ``users`` maps a user's name to its lines."""

    users: Mapping[str, PermitIndex]
    services: ServiceTable
    reverse: ReverseListeners
    memory: ProcessMemory = attrs.field(factory=ProcessMemory)
    """What all logins hold together."""


class SeLogin:
    """The acceptor of one login, and what services may do to it (``PeerConnection``)."""

    def __init__(
        self, link: ServerLink, address: str, permit: Permit, access: Access, observer: Observer
    ) -> None:
        self._link = link
        self._services = access.services
        self._reverse = access.reverse
        self._observer = observer
        self.peer = ChannelPeer(se=permit.se, address=address, permit=permit, connection=self)
        self.connection = Connection(self, access.memory)
        self.attached = False
        self.since = link.clock.seconds()
        self.forward: tuple[str, int] | None = None
        self.forgotten: Callable[[SeLogin], None] = lambda login: None

    # -- what services may do

    def mark_attached(self) -> None:
        """See ``PeerConnection``."""
        self.attached = True

    def status(self) -> ChannelStatus:
        """See ``PeerConnection``."""
        return status_of(self._link, self.connection, self.peer.address, self.since)

    def close(self, text: str) -> None:
        """See ``PeerConnection``."""
        self._release()
        self._link.end(None, conch.DISCONNECT_BY_APPLICATION, text)

    def abort(self) -> None:
        """See ``PeerConnection``.  The forward is free at once, for the connection that replaces this one."""
        self._release()
        self._link.abort()

    def _release(self) -> None:
        self.attached = False
        if self.forward is not None:
            self._reverse.release(self, self.forward[0])
            self.forward = None

    # -- Acceptor

    @property
    def busy(self) -> bool:
        """A forward is a reason to stay without a channel."""
        return self.forward is not None

    def open_channel(self, kind: str, details: Reader) -> ChannelTransport:
        """A service behind ``direct-tcpip``; nothing else."""
        if kind != "direct-tcpip":
            self._observer.refused(self.peer, kind)
            raise refused(kind, "this login may only open its services")
        host, port = details.text(255), details.uint32()
        details.text(255)
        details.uint32()
        details.end()
        what = f"{host}:{port}"
        service = self._services.find(host, port)
        if not _permits(self.peer.permit, host, port) or service is None:
            self._observer.refused(self.peer, f"direct-tcpip {what}")
            raise refused(what, f"{what} is not permitted")
        return ChannelTransport(service.build(self.peer), service.name.encode(), priority=service.priority)

    def global_request(self, kind: str, details: Reader) -> bytes | None:
        """Its own reverse forward; nothing else."""
        if kind not in {"tcpip-forward", "cancel-tcpip-forward"}:
            return None
        address, port = details.text(255), details.uint32()
        details.end()
        permit = self.peer.permit
        if (address, port) != (permit.loopback, permit.reverse_port):
            self._observer.refused(self.peer, f"{kind} {address}:{port}")
            return None
        if kind == "cancel-tcpip-forward":
            if self.forward is None:
                return None
            self._reverse.release(self, address)
            self.forward = None
            return GRANTED
        try:
            self._reverse.claim(self, address, port)
        except AvinetError as failure:
            self._observer.reverse_failed(self.peer, failure)
            return None
        self.forward = (address, port)
        return GRANTED

    def connection_stopped(self, why: AvinetError) -> None:
        """The login is over."""
        self._release()
        self.forgotten(self)
        self._observer.lost(self.peer, why)

    # -- ForwardHolder

    def forward_lost(self) -> None:
        """Another connection of the same SE, its attached one, took the forward over."""
        self.forward = None

    def open_forwarded(
        self, protocol: IProtocol, listening: tuple[str, int], origin: tuple[str, int]
    ) -> Deferred[IProtocol]:
        """A channel for someone who connected to the forward."""
        details = b"".join(string(host.encode()) + uint32(port) for host, port in (listening, origin))
        what = f"a channel for {origin[0]}:{origin[1]}"
        return self.connection.open(b"forwarded-tcpip", details, protocol, what)
