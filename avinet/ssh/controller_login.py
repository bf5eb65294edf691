"""One login of another controller: both sides may open channels to the services that its line names.

It opens ``direct-tcpip`` channels to ours.  For its own it asks ``tcpip-forward``, and we then open ``forwarded-tcpip``
channels to them.  Nothing listens for that here: whoever wants such a channel asks ``open`` (a local port that stands for
the other's is ``port_forwards``'s).
"""

from collections.abc import Callable
from typing import Protocol

import attrs
from twisted.conch.ssh import transport as conch
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProtocol

from avinet.errors import AvinetError
from avinet.model.ids import ControllerName
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.connection import GRANTED, Connection, refused
from avinet.ssh.errors import ForwardRefusedError
from avinet.ssh.fields import Reader, string, uint32
from avinet.ssh.links import ServerLink
from avinet.ssh.login import permits
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.profile import LinkLimits
from avinet.ssh.scheduler import Priority
from avinet.ssh.services import LOCAL_NAMES, Services
from avinet.ssh.status import cipher_of, ends_of

HERE = "localhost"
CHANNELS = 512
"""Open at once that the other side asked for.  A state engine has some ten connections to each other one, and each request
that is handed on to the leader is a channel."""
REQUESTS = 20_000
"""Channels in ten seconds, as in ``LinkLimits``: more requests than a controller answers."""


def controller_limits(limits: LinkLimits) -> LinkLimits:
    """The bounds of a connection between controllers, the rest as for others."""
    return attrs.evolve(limits, channels=CHANNELS, requests=REQUESTS)


class ControllerPermit(Protocol):
    """What one line allows (``avinet.trust.controller_keys.ControllerPermit``)."""

    @property
    def name(self) -> ControllerName:
        """Whose line it is."""

    @property
    def opens(self) -> tuple[int, ...]:
        """Ports of ours that it may reach."""

    @property
    def listens(self) -> tuple[int, ...]:
        """Ports of its own that we may be asked to stand for."""


class ControllerIndex(Protocol):
    """All lines, by key (``avinet.trust.controller_keys.ControllerKeys``)."""

    def find(self, key: bytes) -> ControllerPermit | None:
        """The line of the key with this wire form."""


class ControllerObserver(Protocol):
    """Hears what an operator may want to know."""

    def refused(self, name: ControllerName, address: str, what: str) -> None:
        """A controller asked for something that its line does not allow."""


@attrs.frozen(eq=False)
class ControllerPeer:
    """Who is at the other end of a channel."""

    name: ControllerName
    address: str
    """The IP address it connected from."""
    connection: "ControllerLogin" = attrs.field(repr=False)


@attrs.frozen
class ControllerAccount:
    """The user whose lines are controllers'."""

    index: ControllerIndex
    services: Services[ControllerPeer]
    observer: ControllerObserver
    memory: ProcessMemory

    def refusal(self, key_blob: bytes, source: str) -> str:
        """See ``avinet.ssh.login.Account``."""
        return "" if self.index.find(key_blob) is not None else "unknown-key"

    def login(self, link: ServerLink, source: str, key_blob: bytes) -> "ControllerLogin":
        """See ``avinet.ssh.login.Account``."""
        permit = self.index.find(key_blob)
        if permit is None:
            raise AssertionError("refused before")
        link.limits = controller_limits(link.limits)
        return ControllerLogin(link, source, permit, self)


def owner_of(name: ControllerName) -> str:
    """What the server calls a controller's logins; no SE's id has a space."""
    return f"controller {name}"


class ControllerLogin:
    """The acceptor of one login, and our side's way back through it."""

    def __init__(
        self, link: ServerLink, address: str, permit: ControllerPermit, account: ControllerAccount
    ) -> None:
        self._link = link
        self._permit = permit
        self._account = account
        self._forwards: set[int] = set()
        self.owner = owner_of(permit.name)
        self.user = ""
        self.peer = ControllerPeer(permit.name, address, self)
        self.connection = Connection(self, account.memory)
        self.attached = False
        self._closing = False
        self.forgotten: Callable[[ControllerLogin], None] = lambda login: None

    # -- our way

    def open(
        self, port: int, protocol: IProtocol, *, priority: Priority = Priority.COMMANDS
    ) -> Deferred[IProtocol]:
        """Connect ``protocol`` to the other controller's service at ``port``.

        Fails with ``ForwardRefusedError`` when it has not asked us to stand for that, with ``ChannelRefusedError`` or
        ``ConnectionEndedError``.
        """
        if port not in self._forwards:
            return fail(ForwardRefusedError(address=HERE, port=port))
        details = string(HERE.encode()) + uint32(port) + string(b"127.0.0.1") + uint32(0)
        return self.connection.open(b"forwarded-tcpip", details, protocol, f"{HERE}:{port}", priority)

    @property
    def cipher(self) -> str:
        """What both directions are under."""
        return cipher_of(self._link)

    @property
    def ends(self) -> tuple[str, str]:
        """Our address and the other controller's."""
        return ends_of(self._link)

    def mark_attached(self) -> None:
        """It is in use: when there are too many logins, others go first."""
        self.attached = True

    def close(self, text: str) -> None:
        """End it in good order; from now on nothing that comes is taken."""
        self.attached = False
        self._closing = True
        self._link.end(None, conch.DISCONNECT_BY_APPLICATION, text)

    def abort(self) -> None:
        """Cut it; one that is being closed is cut when its time is up."""
        self.attached = False
        if not self._closing:
            self._link.abort()

    # -- Acceptor

    @property
    def busy(self) -> bool:
        """The channel of its session is what keeps it."""
        return False

    def open_channel(self, kind: str, details: Reader) -> ChannelTransport:
        """A service of ours behind ``direct-tcpip``; nothing else."""
        if kind != "direct-tcpip":
            self._refused(kind)
            raise refused(kind, "this login may only open its services")
        host, port = details.text(255), details.uint32()
        details.text(255)
        details.uint32()
        details.end()
        what = f"{host}:{port}"
        service = self._account.services.find(host, port)
        if not permits(((HERE, one) for one in self._permit.opens), host, port) or service is None:
            self._refused(f"direct-tcpip {what}")
            raise refused(what, f"{what} is not permitted")
        return ChannelTransport(service.build(self.peer), service.name.encode(), priority=service.priority)

    def global_request(self, kind: str, details: Reader) -> bytes | None:
        """To stand for a service of its own; nothing else."""
        if kind not in {"tcpip-forward", "cancel-tcpip-forward"}:
            return None
        address, port = details.text(255), details.uint32()
        details.end()
        if address not in LOCAL_NAMES or port not in self._permit.listens:
            self._refused(f"{kind} {address}:{port}")
            return None
        if kind == "tcpip-forward":
            self._forwards.add(port)
            return GRANTED
        if port not in self._forwards:
            return None
        self._forwards.remove(port)
        return GRANTED

    def _refused(self, what: str) -> None:
        self._account.observer.refused(self.peer.name, self.peer.address, what)

    def connection_stopped(self, why: AvinetError) -> None:
        """The login is over."""
        self.attached = False
        self._forwards.clear()
        self.forgotten(self)
