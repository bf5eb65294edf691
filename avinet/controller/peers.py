"""The other controllers of the cluster, as the rest of a controller sees them: who is there, what each says, how to reach one.

``Peers`` is the interface; ``peer_links`` has the SSH connections behind it, ``peers_memory`` a fake that joins several
in one process, and ``NoPeers`` is a controller that is alone: it opens nothing.

A peer is **live** while its state connection answers heartbeats.  What it published (its role, the SEs that are attached to
it, whom it sees itself) is known while it is live, and forgotten with it.
"""

import enum
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProtocol, IProtocolFactory, IStreamClientEndpoint
from zope.interface import implementer

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName
from avinet.ssh.scheduler import Priority

SEES = "sees"
"""What every controller publishes by itself: the names of those that it hears, sorted."""
MAX_KEY_BYTES = 200
"""Of what is published; a UUID with its prefix is 60."""
MAX_VALUE_BYTES = 4096
"""The same, encoded: a few facts, no documents."""
MAX_KEYS = 20_000
"""Of one controller: an entry for each attached SE of a fleet twice as large as any measured."""


@error
class PeerUnreachableError(AvinetError):
    """Controller {name} cannot be reached from here: {why}. See: avinet cluster status."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    name: ControllerName
    why: str


class Lane(enum.StrEnum):
    """Which of a pair's two connections."""

    STATE = "state"
    BULK = "bulk"


@attrs.frozen
class PeerService:
    """What one controller offers to the others behind its channels: nothing listens on the port."""

    name: str
    port: int
    lane: Lane
    priority: Priority


PEER_API = PeerService("peer-api", 5094, Lane.STATE, Priority.COMMANDS)
"""The operator API and registrations, forwarded to the leader with who is calling."""
PEER_LOGS = PeerService("peer-logs", 5095, Lane.STATE, Priority.COMMANDS)
"""Questions about request logs, each answered from the records that the asked one has."""
PEER_LOG_PARTS = PeerService("peer-log-parts", 5092, Lane.BULK, Priority.BULK)
"""Files of request logs that one controller asks another for, for an export of all."""
PEER_COPIES = PeerService("peer-copies", 5097, Lane.BULK, Priority.BULK)
"""Request logs that one controller has another keep a copy of, before it acknowledges them."""
PEER_SERVICES = (PEER_API, PEER_LOGS, PEER_LOG_PARTS, PEER_COPIES)
"""All of them; each is in every line of ``avictlruser``'s ``authorized_keys``."""

Build = Callable[[ControllerName], IProtocol]
"""A protocol for one channel, given who opened it."""


@attrs.frozen
class PortView:
    """One of a peer's ports on this machine's 127.0.0.1."""

    port: int
    how: str
    """``forwarded`` through the state connection, ``direct`` where the peer's own program has the port on this very
    machine, or why neither."""


@attrs.frozen
class LaneView:
    """One connection to a peer."""

    up: bool
    since: float | None = None
    """UNIX seconds; since when it is up, or has been down; None when it never was up."""
    rtt_s: float | None = None
    """Smoothed."""
    address: str = ""
    cipher: str = ""
    why: str = ""
    """Why it is not up."""


@attrs.frozen
class PeerView:
    """One other controller, for ``cluster status``."""

    name: ControllerName
    live: bool
    dials: bool
    """Whether this side dials; the other one waits."""
    state: LaneView
    bulk: LaneView
    sees: tuple[ControllerName, ...] = ()
    software: str = ""
    membership: int = 0
    """The number of the list that it had when it said hello."""
    ports: tuple[PortView, ...] = ()


class PeerListener:
    """Base of those who want to know; every method may be left out.  A listener that raises is logged."""

    def peer_up(self, name: ControllerName) -> None:
        """It is live; what it published follows by ``peer_said``."""

    def peer_stops(self, name: ControllerName) -> None:
        """It says that it stops, in good order; ``peer_down`` follows."""

    def peer_down(self, name: ControllerName, why: str) -> None:
        """It is not any more, and what it published is forgotten."""

    def peer_said(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """It published these; None is what it took back.  At first everything that it has published."""


class Peers(Protocol):
    """What a controller knows of the others."""

    @property
    def me(self) -> ControllerName:
        """This controller."""

    @property
    def members(self) -> tuple[ControllerName, ...]:
        """All of the membership list, this one included, sorted."""

    @property
    def live(self) -> frozenset[ControllerName]:
        """The others that answer now."""

    def sees(self, name: ControllerName) -> frozenset[ControllerName]:
        """Whom ``name`` hears, as it said last; nobody for one that is not live.  Of this controller: ``live``."""

    def majority_lost(self, name: ControllerName) -> bool:
        """Whether more than half of all members do not see ``name`` (``avinet.model.sight``).  At once: follow it by
        ``listen``.  Of this controller: whether it hears too few to be a majority with them.
        """

    def rtt_s(self, name: ControllerName) -> float | None:
        """The smoothed round trip to a live peer, in seconds; None until measured."""

    def said(self, name: ControllerName) -> Mapping[str, Any]:
        """What ``name`` publishes; empty for one that is not live.  Of this controller: what it publishes itself."""

    def publish(self, key: str, value: Any) -> None:
        """Tell every peer, now and whenever one comes; None takes back.  ``value`` is anything MessagePack has.

        ``ValueError`` beyond ``MAX_KEY_BYTES``, ``MAX_VALUE_BYTES`` and ``MAX_KEYS``: a defect of the caller.
        """

    def listen(self, listener: PeerListener) -> None:
        """Tell ``listener`` from now on; also of the peers that are live already."""

    def offer(self, service: PeerService, build: Build) -> None:
        """Serve peers' channels to ``service``, from now on; once."""

    def open(self, name: ControllerName, service: PeerService, protocol: IProtocol) -> Deferred[IProtocol]:
        """Connect ``protocol`` to a peer's service.

        Fails with ``PeerUnreachableError`` when the peer is not live or does not offer it.
        """

    def status(self) -> tuple[PeerView, ...]:
        """Every other member, by name."""


@implementer(IStreamClientEndpoint)
@attrs.frozen
class PeerEndpoint:
    """A peer's service as an endpoint, for clients such as ``twisted.web.client.Agent``."""

    peers: Peers
    name: ControllerName
    service: PeerService

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        """A protocol of the factory's, connected."""
        protocol = protocolFactory.buildProtocol(None)  # type: ignore[arg-type]  # as other endpoints without an address
        if protocol is None:
            return fail(PeerUnreachableError(name=self.name, why="the factory built no protocol"))
        return self.peers.open(self.name, self.service, protocol)


@attrs.define(eq=False)
class NoPeers:
    """A controller that is alone in its list."""

    me: ControllerName
    live: frozenset[ControllerName] = attrs.field(default=frozenset(), init=False)
    _said: dict[str, Any] = attrs.field(factory=dict, init=False)

    @property
    def members(self) -> tuple[ControllerName, ...]:
        """Itself."""
        return (self.me,)

    def sees(self, name: ControllerName) -> frozenset[ControllerName]:
        """Nobody."""
        return frozenset()

    def majority_lost(self, name: ControllerName) -> bool:
        """It is the majority."""
        return False

    def rtt_s(self, name: ControllerName) -> float | None:
        """Not known."""
        return None

    def said(self, name: ControllerName) -> Mapping[str, Any]:
        """What it says to nobody."""
        return self._said if name == self.me else {}

    def publish(self, key: str, value: Any) -> None:
        """Nobody hears it."""
        if value is None:
            self._said.pop(key, None)
        else:
            self._said[key] = value

    def listen(self, listener: PeerListener) -> None:
        """Nothing will come."""

    def offer(self, service: PeerService, build: Build) -> None:
        """Nobody will ask."""

    def open(self, name: ControllerName, service: PeerService, protocol: IProtocol) -> Deferred[IProtocol]:
        """There is nobody."""
        return fail(PeerUnreachableError(name=name, why="this controller is alone in the membership list"))

    def status(self) -> tuple[PeerView, ...]:
        """Nobody."""
        return ()
