"""One login of an SE's key on the controller: what it may open and ask for.

The options of its ``authorized_keys`` line are enforced here, each by its own refusal.  Users of the server are
``Account``s: this one is the SEs'; ``controller_login`` has the other.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

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


def permits(allowed: Iterable[tuple[str, int]], host: str, port: int) -> bool:
    """``permitopen`` or ``permitlisten``: the two names of this machine are one, as the services behind them are."""
    hosts = LOCAL_NAMES if host in LOCAL_NAMES else {host}
    return any(port == one_port and one in hosts for one, one_port in allowed)


class Login(Protocol):
    """What the server has of a login."""

    owner: str
    """Whose it is; logins of one owner are counted together."""
    user: str
    """As whom; the server sets it."""
    connection: Connection
    attached: bool
    """Whether it is in use, so that others go before it when there are too many."""
    forgotten: Callable[[Any], None]
    """Called with the login once it is over."""

    def close(self, text: str) -> None:
        """End it in good order."""

    def abort(self) -> None:
        """Cut it at once."""


class Account(Protocol):
    """One user of the server."""

    def refusal(self, key_blob: bytes, source: str) -> str:
        """Why that key may not log in from there, as a stable word; empty when it may."""

    def login(self, link: ServerLink, source: str, key_blob: bytes) -> Login:
        """It has proved itself, and ``refusal`` was empty just now."""


@attrs.frozen
class Access:
    """Who may log in, and what there is to reach.  ``users`` maps a user's name to its lines, which are SEs'."""

    users: Mapping[str, PermitIndex]
    services: ServiceTable
    reverse: ReverseListeners
    memory: ProcessMemory = attrs.field(factory=ProcessMemory)
    """What all logins hold together."""
    others: Mapping[str, Account] = attrs.field(factory=dict)
    """Users that are not SEs, by name."""


@attrs.frozen
class SeAccount:
    """The user whose lines are SEs'."""

    index: PermitIndex
    access: Access
    observer: Observer

    def refusal(self, key_blob: bytes, source: str) -> str:
        """See ``Account``."""
        permit = self.index.find(key_blob)
        if permit is None:
            return "unknown-key"
        return "" if permit.allowed_from(source) else "network"

    def login(self, link: ServerLink, source: str, key_blob: bytes) -> "SeLogin":
        """See ``Account``."""
        permit = self.index.find(key_blob)
        if permit is None:
            raise AssertionError("refused before")
        login = SeLogin(link, source, permit, self.access, self.observer)
        self.observer.authenticated(login.peer)
        return login


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
        self.owner: str = permit.se
        self.user = ""
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
        if not permits(self.peer.permit.permit_open, host, port) or service is None:
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
