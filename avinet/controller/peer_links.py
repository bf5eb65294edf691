"""The connections to the other controllers: ``Peers`` as it is when there are any.

A pair has two connections, one for state and one for bulk, dialed by the one whose name sorts first; either side opens
channels on both.  The membership list says who there is: whoever leaves it is cut off at once, whoever comes is dialed, and
whose keys or ports change begins anew.
"""

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IProtocol, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.listeners import Listeners
from avinet.controller.peer_dial import DialedChannel, Offered, PeerDialer, PeerReach
from avinet.controller.peer_other import Lists, Other, PeerAbout, facts_of, own_facts, refusal, too_slow
from avinet.controller.peer_session import PairConnection, PeerSession, PeerSettings
from avinet.controller.peer_state import Heard, Published
from avinet.controller.peers import (
    SEES,
    Build,
    Lane,
    PeerListener,
    PeerService,
    PeerUnreachableError,
    PeerView,
    PortView,
)
from avinet.errors import AvinetError, Kind
from avinet.model.ids import ControllerName
from avinet.model.membership import Controller, Membership
from avinet.model.sight import majority_lost
from avinet.ssh.controller_login import ControllerPeer
from avinet.ssh.scheduler import Priority
from avinet.ssh.services import Services
from avinet.wire.peer_messages import (
    OLDEST_PEER_PROTOCOL_VERSION,
    PEER_PORT,
    PEER_PROTOCOL_VERSION,
    PEER_SERVICE,
    PeerGoodbye,
    PeerHello,
    PeerMembership,
    PeerState,
)

STOPPING = "stopping"
"""The goodbye of one that ends in good order."""
OPEN_TIMEOUT_S = 5.0
"""For a channel to a live peer: it answers heartbeats in a second."""
MAX_WAITING = 16
"""Connections whose hello has not come; the key was proved, so they are few."""


@attrs.define(eq=False)
class PeerLinks:
    """All of one controller.  ``update`` with a list begins; ``services`` are for the SSH server's ``avictlruser``."""

    about: PeerAbout
    settings: PeerSettings
    reach: PeerReach
    lists: Lists
    clock: IReactorTime
    drop: Callable[[ControllerName], None] = lambda name: None
    """Cut every login of a controller, those without a session too."""
    denied: Callable[[ControllerName, AvinetError], None] = lambda name, why: None
    """A controller showed another host key than its own, or does not know ours."""
    wall: Callable[[], float] = time.time
    services: Services[ControllerPeer] = attrs.field(factory=Services, init=False)
    ports: Callable[[ControllerName], tuple[PortView, ...]] = attrs.field(default=lambda name: (), init=False)
    """What stands for a peer's ports here, for status."""
    _membership: Membership | None = attrs.field(default=None, init=False, repr=False)
    _others: dict[ControllerName, Other] = attrs.field(factory=dict, init=False, repr=False)
    _published: Published = attrs.field(factory=Published, init=False, repr=False)
    _sessions: set[PeerSession] = attrs.field(factory=set, init=False, repr=False)
    _offers: dict[Lane, list[tuple[int, Build, Priority]]] = attrs.field(
        factory=lambda: {lane: [] for lane in Lane}, init=False, repr=False
    )
    _listeners: Listeners[PeerListener] = attrs.field(
        factory=lambda: Listeners("the links to other controllers"), init=False, repr=False
    )
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def __attrs_post_init__(self) -> None:
        """The one service that is always there."""
        self.services.register(PEER_SERVICE, PEER_PORT, self._accepted, Priority.CONTROL)
        self._published.put(SEES, [])

    # Peers

    @property
    def me(self) -> ControllerName:
        """See ``Peers``."""
        return self.about.me

    @property
    def members(self) -> tuple[ControllerName, ...]:
        """See ``Peers``."""
        return tuple(sorted((self.me, *self._others)))

    @property
    def live(self) -> frozenset[ControllerName]:
        """See ``Peers``."""
        return frozenset(name for name, other in self._others.items() if other.session is not None)

    def sees(self, name: ControllerName) -> frozenset[ControllerName]:
        """See ``Peers``."""
        if name == self.me:
            return self.live
        said: Any = self.said(name).get(SEES)
        names: list[Any] = said if isinstance(said, list) else []
        return frozenset(ControllerName(one) for one in names if isinstance(one, str))

    def majority_lost(self, name: ControllerName) -> bool:
        """See ``Peers``."""
        return majority_lost(
            name, self.me, self.members, {one: self.sees(one) for one in (self.me, *self.live)}
        )

    def rtt_s(self, name: ControllerName) -> float | None:
        """See ``Peers``."""
        session = self._session(name, Lane.STATE)
        return session.rtt.smoothed if session is not None else None

    def said(self, name: ControllerName) -> Mapping[str, Any]:
        """See ``Peers``."""
        if name == self.me:
            return self._published.values
        other = self._others.get(name)
        return other.heard.values if other is not None and other.session is not None else {}

    def publish(self, key: str, value: Any) -> None:
        """See ``Peers``."""
        if self._published.put(key, value):
            for session in self._sessions:
                session.tell((key,))

    def listen(self, listener: PeerListener) -> None:
        """See ``Peers``."""
        self._listeners.add(listener)
        for name in sorted(self.live):
            listener.peer_up(name)
            listener.peer_said(name, dict(self.said(name)))

    def offer(self, service: PeerService, build: Build) -> None:
        """See ``Peers``."""
        self.offer_port(service.name, service.port, service.lane, build, service.priority)

    def open(self, name: ControllerName, service: PeerService, protocol: IProtocol) -> Deferred[IProtocol]:
        """See ``Peers``."""
        return self.open_port(name, service.port, service.lane, protocol, service.priority)

    def status(self) -> tuple[PeerView, ...]:
        """See ``Peers``."""
        return tuple(
            other.view(self.me, self.sees(name), self.ports(name))
            for name, other in sorted(self._others.items(), key=lambda item: item[0])
        )

    # Ports, for what is not one of the services

    def offer_port(self, name: str, port: int, lane: Lane, build: Build, priority: Priority) -> None:
        """Serve peers' channels to a port of ours; a port that is taken is a ``ValueError``."""
        self.services.register(name, port, lambda peer: build(peer.name), priority)
        self._offers[lane].append((port, build, priority))
        for other in self._others.values():
            for dialer in other.dialers:
                if dialer.lane is lane:
                    dialer.offer(Offered(port, partial(build, other.controller.name), priority))

    def open_port(
        self, name: ControllerName, port: int, lane: Lane, protocol: IProtocol, priority: Priority
    ) -> Deferred[IProtocol]:
        """A channel to a port of a peer's; ``PeerUnreachableError``."""
        session = self._session(name, lane)
        if session is None:
            return fail(PeerUnreachableError(name=name, why=self._why_not(name, lane)))
        return Deferred.fromCoroutine(self._open(session, port, protocol, priority))

    def ends(self, name: ControllerName) -> tuple[str, str] | None:
        """Our address and a live peer's, of the state connection."""
        session = self._session(name, Lane.STATE)
        return None if session is None else session.connection.ends

    async def _open(
        self, session: PeerSession, port: int, protocol: IProtocol, priority: Priority
    ) -> IProtocol:
        opening = session.connection.open(port, protocol, priority=priority)
        opening.addTimeout(OPEN_TIMEOUT_S, self.clock, onTimeoutCancel=partial(too_slow, session.name))
        try:
            return await opening
        except PeerUnreachableError:
            raise
        except AvinetError as why:
            raise PeerUnreachableError(name=session.name, why=str(why).rstrip(".")) from why

    def _why_not(self, name: ControllerName, lane: Lane) -> str:
        other = self._others.get(name)
        return "it is not in the membership list" if other is None else other.lanes[lane].why

    # The list

    def update(self, membership: Membership) -> None:
        """Begin with a list, or take a newer one."""
        if self._stopped:
            return
        before, self._membership = self._membership, membership
        member = membership.by_name(self.me) is not None
        listed = {one.name: one for one in membership.controllers if member and one.name != self.me}
        anew = before is not None and own_facts(before, self.me) != own_facts(membership, self.me)
        for name in tuple(self._others):
            controller = listed.get(name)
            known = self._others[name]
            if controller is None:
                who = "it" if member else "this controller"
                self._remove(name, "removed", f"{who} is not in the membership list any more")
            elif anew or facts_of(known.controller) != facts_of(controller):
                self._remove(name, "changed", "the membership list says other things of it now")
            else:
                known.update(controller)
        for name, controller in listed.items():
            if name not in self._others:
                self._add(name, controller)
        for session in tuple(self._sessions):
            self._pass_list(session)

    def _add(self, name: ControllerName, controller: Controller) -> None:
        other = self._others[name] = Other(controller)
        if self.me < name and controller.id_controller:
            other.dialers = tuple(
                PeerDialer(controller, lane, self, self.reach, self.settings, self.clock) for lane in Lane
            )
            for dialer in other.dialers:
                dialer.start()

    def _remove(self, name: ControllerName, reason: str, text: str) -> None:
        other = self._others.pop(name)
        was_live = other.session is not None
        for session in tuple(self._sessions):
            if session.name == name:
                # It is told the list, since that is how it learns of its end; nothing of it is taken any more.
                self._pass_list(session)
                session.end(reason, text)
        for dialer in other.dialers:
            dialer.stop()
        self.drop(name)
        self._log.info("{name} was let go: {why}", name=name, why=text)
        if was_live:
            self._see()
            self._listeners.tell(lambda listener: listener.peer_down(name, text))

    def stop(self) -> None:
        """Say goodbye to all and take nobody any more."""
        self._stopped = True
        for session in tuple(self._sessions):
            session.end(STOPPING, "this controller stops")
        for other in self._others.values():
            for dialer in other.dialers:
                dialer.stop()

    # What dialers ask

    def dialed(self, controller: Controller, lane: Lane, channel: DialedChannel) -> PeerSession:
        """See ``Dialing``."""
        return self._new_session(controller.name, lane, channel)

    def offers(self, controller: Controller, lane: Lane) -> tuple[Offered, ...]:
        """See ``Dialing``."""
        return tuple(
            Offered(port, partial(build, controller.name), priority)
            for port, build, priority in self._offers[lane]
        )

    def not_dialed(self, controller: Controller, lane: Lane, why: AvinetError) -> None:
        """See ``Dialing``."""
        other = self._others.get(controller.name)
        if other is not None and other.lanes[lane].session is None:
            other.lanes[lane].why = str(why).rstrip(".")
        if why.kind is Kind.DENIED:
            self.denied(controller.name, why)

    # What sessions ask and tell

    def _accepted(self, peer: ControllerPeer) -> IProtocol:
        """A channel to the service ``peer``, by a key of the list."""
        peer.connection.mark_attached()
        session = self._new_session(peer.name, None, peer.connection)
        if sum(one.lane is None for one in self._sessions) > MAX_WAITING:
            session.abort("too many connections have not said hello")
        return session.protocol

    def _new_session(
        self, name: ControllerName, lane: Lane | None, connection: PairConnection
    ) -> PeerSession:
        session = PeerSession(name, lane, connection, self, self._published, self.settings, self.clock)
        self._sessions.add(session)
        return session

    def session_hello(self, lane: Lane) -> PeerHello:
        """See ``SessionOwner``."""
        return PeerHello(
            name=self.me,
            cluster=self.about.cluster,
            lane=lane.value,
            boot=self.about.boot,
            protocol=PEER_PROTOCOL_VERSION,
            oldest_protocol=OLDEST_PEER_PROTOCOL_VERSION,
            software=self.about.software,
            membership=self.lists.current()[0],
        )

    def session_judged(self, session: PeerSession, hello: PeerHello) -> PeerGoodbye | None:
        """See ``SessionOwner``."""
        if self._stopped:
            return PeerGoodbye(reason=STOPPING, text="this controller stops")
        if session.name not in self._others:
            return PeerGoodbye(reason="removed", text="it is not in the membership list")
        return refusal(session, hello, self.me, self.about.cluster)

    def session_ready(self, session: PeerSession) -> None:
        """See ``SessionOwner``."""
        other, lane = self._others[session.name], session.lane
        if lane is None:
            raise AssertionError("a session that is up has a lane")
        state = other.lanes[lane]
        older, state.session = state.session, session
        if older is None:
            state.since, state.why = self.wall(), ""
        else:
            # A controller that lost power is back before its half-open past is noticed.
            older.end("replaced", "a newer connection took its place")
        if lane is Lane.STATE:
            other.heard.reconnected()
            if older is None:
                self._see()
                self._listeners.tell(lambda listener: listener.peer_up(session.name))
        self._pass_list(session)

    def session_said(self, session: PeerSession, frame: PeerState) -> None:
        """See ``SessionOwner``."""
        other = self._others.get(session.name)
        if other is None or other.session is not session:
            return
        changes = other.heard.take(frame)
        if changes:
            self._listeners.tell(lambda listener: listener.peer_said(session.name, dict(changes)))

    def session_offered(self, session: PeerSession, document: str) -> None:
        """See ``SessionOwner``."""
        if session.offering:
            return  # one at a time: each costs a signature and a file
        session.offering = True

        def taken(failure: Any) -> None:
            session.offering = False
            if isinstance(failure, Failure):
                why = failure.getErrorMessage()
                self._log.warn("{name} sent a list that is not taken: {why}", name=session.name, why=why)

        self.lists.take(document).addBoth(taken)

    def session_over(self, session: PeerSession, why: str) -> None:
        """See ``SessionOwner``."""
        self._sessions.discard(session)
        other = self._others.get(session.name)
        if other is None:
            return
        for lane, state in other.lanes.items():
            if state.session is session:
                state.session, state.since, state.why = None, self.wall(), why.rstrip(".")
                if lane is Lane.STATE:
                    other.heard = Heard()
                    self._see()
                    if session.farewell == STOPPING:
                        self._listeners.tell(lambda listener: listener.peer_stops(session.name))
                    self._listeners.tell(lambda listener: listener.peer_down(session.name, why))
            elif state.session is None and session.lane is lane:
                state.why = why

    # Inside

    def _session(self, name: ControllerName, lane: Lane) -> PeerSession | None:
        other = self._others.get(name)
        return other.lanes[lane].session if other is not None else None

    def _see(self) -> None:
        self.publish(SEES, sorted(self.live))

    def _pass_list(self, session: PeerSession) -> None:
        """To one that has said that it holds an older one; on one of the two connections."""
        number, document = self.lists.current()
        if session.lane is Lane.STATE and session.their is not None and session.listed < number:
            session.listed = number
            session.send(PeerMembership(document=document))
