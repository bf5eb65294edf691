"""One other controller: its two connections, or the lack of them, what it has said, and what is asked of it."""

from collections.abc import Callable, Iterable
from typing import Any

import attrs
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from avinet.controller.peer_dial import PeerDialer
from avinet.controller.peer_session import PeerSession
from avinet.controller.peer_state import Heard
from avinet.controller.peers import Lane, LaneView, PeerUnreachableError, PeerView, PortView
from avinet.model.ids import BootId, ClusterId, ControllerName
from avinet.model.membership import Controller, Membership
from avinet.wire.peer_messages import (
    OLDEST_PEER_PROTOCOL_VERSION,
    PEER_PROTOCOL_VERSION,
    PeerGoodbye,
    PeerHello,
)
from avinet.wire.versions import common_version


@attrs.frozen
class PeerAbout:
    """What ``PeerHello`` says of this controller."""

    me: ControllerName
    cluster: ClusterId
    boot: BootId
    software: str


@attrs.frozen
class Lists:
    """The membership list, exchanged: who has an older one is sent ours."""

    current: Callable[[], tuple[int, str]]
    """Number and document."""
    take: Callable[[str], "Deferred[Any]"] = attrs.field(default=lambda document: succeed(None))
    """A document that a peer sent; fails with an ``AvinetError`` when it is not to be believed."""


@attrs.define(eq=False)
class LaneState:
    """One connection."""

    session: PeerSession | None = None
    """While it is up."""
    since: float | None = None
    why: str = "it was not reached yet"

    def view(self) -> LaneView:
        """For status."""
        session = self.session
        if session is None:
            return LaneView(up=False, since=self.since, why=self.why)
        return LaneView(
            up=True,
            since=self.since,
            rtt_s=session.rtt.smoothed,
            address=session.connection.ends[1],
            cipher=session.connection.cipher,
        )


@attrs.define(eq=False)
class Other:
    """One."""

    controller: Controller
    lanes: dict[Lane, LaneState] = attrs.field(factory=lambda: {lane: LaneState() for lane in Lane})
    dialers: tuple[PeerDialer, ...] = ()
    """None where it dials."""
    heard: Heard = attrs.field(factory=Heard)

    @property
    def session(self) -> PeerSession | None:
        """Of the state connection, while it is live."""
        return self.lanes[Lane.STATE].session

    def update(self, controller: Controller) -> None:
        """The list says this of it now."""
        self.controller = controller
        for dialer in self.dialers:
            dialer.update(controller)

    def view(
        self, me: ControllerName, sees: Iterable[ControllerName], ports: tuple[PortView, ...]
    ) -> PeerView:
        """For status; ``sees`` is whom it sees."""
        their = self.session.their if self.session is not None else None
        return PeerView(
            name=self.controller.name,
            live=self.session is not None,
            dials=me < self.controller.name,
            state=self.lanes[Lane.STATE].view(),
            bulk=self.lanes[Lane.BULK].view(),
            sees=tuple(sorted(sees)),
            software=their.software if their is not None else "",
            membership=their.membership if their is not None else 0,
            ports=ports,
        )


def refusal(
    session: PeerSession, hello: PeerHello, me: ControllerName, cluster: ClusterId
) -> PeerGoodbye | None:
    """Why a hello is not taken: whose key the connection proved is known, all else is what it says."""
    version = common_version(
        hello.protocol,
        hello.oldest_protocol,
        ours=PEER_PROTOCOL_VERSION,
        our_oldest=OLDEST_PEER_PROTOCOL_VERSION,
    )
    if version is None:
        text = f"versions {hello.oldest_protocol} to {hello.protocol} are not spoken here; upgrade the older side"
        return PeerGoodbye(reason="version", text=text)
    why = ""
    if hello.name != session.name:
        why = f"the key is {session.name}'s, and it says another name"
    elif hello.cluster != cluster:
        why = "it is of another cluster"
    elif hello.lane not in set(Lane) or (session.lane is not None and hello.lane != session.lane):
        why = "it says another lane"
    elif not session.dialed and me < session.name:
        why = f"{me} dials {session.name}, since its name sorts first"
    return PeerGoodbye(reason="refused", text=why) if why else None


def facts_of(controller: Controller) -> object:
    """What a connection was made with, and permits from: with others it begins anew."""
    return (
        controller.ssh_host_key,
        controller.id_controller,
        controller.state_client_port,
        controller.state_peer_port,
    )


def own_facts(membership: Membership, me: ControllerName) -> object:
    """The same of oneself: all connections begin anew."""
    mine = membership.by_name(me)
    return None if mine is None else facts_of(mine)


def too_slow(name: ControllerName, _: object, limit_s: float) -> Any:
    """What a time limit makes of a wait for it."""
    return Failure(PeerUnreachableError(name=name, why=f"it did not answer within {limit_s:g} s"))
