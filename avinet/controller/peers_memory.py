"""The fake beside ``Peers``: several controllers joined in one process, whose links a test cuts and heals.

    hub = PeerHub("a", "b", "c")
    one = hub.peers("a")
    hub.cut("a", "b")

Everything happens at once, in the order in which it was asked for: no clock.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IProtocol
from twisted.python.failure import Failure

from avinet.controller.peers import (
    SEES,
    Build,
    LaneView,
    PeerListener,
    PeerService,
    PeerUnreachableError,
    PeerView,
)
from avinet.model.ids import ControllerName
from avinet.model.sight import majority_lost


class _Turns:
    """Runs calls one after another, never one inside another."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], object]] = deque()
        self._running = False

    def run(self, call: Callable[[], object]) -> None:
        self._waiting.append(call)
        if self._running:
            return
        self._running = True
        try:
            while self._waiting:
                self._waiting.popleft()()
        finally:
            self._running = False


class PipeEnd:
    """One end of a channel in memory; push producers are never paused."""

    def __init__(self, turns: _Turns, protocol: IProtocol) -> None:
        self.protocol: Any = protocol
        self.other: PipeEnd
        self.disconnecting = False
        self.over = False
        self._turns = turns

    def write(self, data: bytes) -> None:
        """To the other end."""
        if not self.disconnecting:
            self._turns.run(lambda: self.other.over or self.other.protocol.dataReceived(bytes(data)))

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Each."""
        self.write(b"".join(data))

    def loseConnection(self) -> None:
        """Both ends, after what was written."""
        self.disconnecting = True
        self._turns.run(self.end)

    abortConnection = loseConnection

    def end(self) -> None:
        """Now."""
        for one in (self, self.other):
            one.disconnecting = True
            if not one.over:
                one.over = True
                one.protocol.connectionLost(Failure(ConnectionDone()))

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: FBT001 - IConsumer's
        """A pull producer gives everything."""
        while not streaming and not self.over and not self.disconnecting:
            producer.resumeProducing()

    def unregisterProducer(self) -> None:
        """Nothing to do."""

    def pauseProducing(self) -> None:
        """Nothing to do."""

    def resumeProducing(self) -> None:
        """Nothing to do."""

    def stopProducing(self) -> None:
        """As closing."""
        self.loseConnection()

    def getPeer(self) -> IPv4Address:
        """Somewhere."""
        return IPv4Address("TCP", "127.0.0.1", 1)

    def getHost(self) -> IPv4Address:
        """Here."""
        return IPv4Address("TCP", "127.0.0.1", 2)


@attrs.define(eq=False)
class MemoryPeers:
    """One controller of a hub."""

    me: ControllerName
    hub: "PeerHub" = attrs.field(repr=False)
    rtt: float | None = 0.001
    _said: dict[str, Any] = attrs.field(factory=dict, init=False)
    _live: dict[ControllerName, dict[str, Any]] = attrs.field(factory=dict, init=False)
    """Those that are seen, and what each has said."""
    _listeners: list[PeerListener] = attrs.field(factory=list, init=False)
    _offers: dict[str, Build] = attrs.field(factory=dict, init=False)

    @property
    def members(self) -> tuple[ControllerName, ...]:
        """All of the hub."""
        return self.hub.members

    @property
    def live(self) -> frozenset[ControllerName]:
        """Those that it is joined with."""
        return frozenset(self._live)

    def sees(self, name: ControllerName) -> frozenset[ControllerName]:
        """As it said last."""
        return self.live if name == self.me else frozenset(self._live.get(name, {}).get(SEES, ()))

    def majority_lost(self, name: ControllerName) -> bool:
        """See ``Peers``."""
        return majority_lost(
            name, self.me, self.members, {one: self.sees(one) for one in (self.me, *self._live)}
        )

    def rtt_s(self, name: ControllerName) -> float | None:
        """As set."""
        return self.rtt if name in self._live else None

    def said(self, name: ControllerName) -> Mapping[str, Any]:
        """See ``Peers``."""
        return self._said if name == self.me else self._live.get(name, {})

    def publish(self, key: str, value: Any) -> None:
        """To all that it is joined with."""
        if value is None:
            self._said.pop(key, None)
        else:
            self._said[key] = value
        for name in tuple(self._live):
            self.hub.turns.run(lambda name=name: self.hub.peers(name).heard(self.me, {key: value}))  # type: ignore[misc]  # of a default argument

    def listen(self, listener: PeerListener) -> None:
        """See ``Peers``."""
        self._listeners.append(listener)
        for name, said in tuple(self._live.items()):
            listener.peer_up(name)
            listener.peer_said(name, dict(said))

    def offer(self, service: PeerService, build: Build) -> None:
        """See ``Peers``."""
        self._offers[service.name] = build

    def open(self, name: ControllerName, service: PeerService, protocol: IProtocol) -> Deferred[IProtocol]:
        """A pipe."""
        if name not in self._live:
            return fail(PeerUnreachableError(name=name, why="it is not live"))
        build = self.hub.peers(name)._offers.get(service.name)  # noqa: SLF001 - of the same class
        if build is None:
            return fail(PeerUnreachableError(name=name, why=f"it does not offer {service.name}"))
        self.hub.pipe(self.me, name, protocol, build(self.me))
        return succeed(protocol)

    def status(self) -> tuple[PeerView, ...]:
        """See ``Peers``."""
        return tuple(
            PeerView(
                name=name,
                live=name in self._live,
                dials=self.me < name,
                state=LaneView(up=name in self._live, rtt_s=self.rtt_s(name)),
                bulk=LaneView(up=name in self._live, rtt_s=self.rtt_s(name)),
                sees=tuple(sorted(self.sees(name))),
            )
            for name in self.members
            if name != self.me
        )

    # What the hub tells

    def found(self, other: "MemoryPeers") -> None:
        """A link is there."""
        if other.me in self._live or other.me == self.me:
            return
        self._live[other.me] = {}
        for listener in tuple(self._listeners):
            listener.peer_up(other.me)
        self.publish(SEES, sorted(self._live))
        self.heard(other.me, other._said)  # noqa: SLF001 - of the same class

    def lost(self, name: ControllerName, why: str, *, stops: bool = False) -> None:
        """A link is gone; ``stops``: with a goodbye."""
        if self._live.pop(name, None) is None:
            return
        if stops:
            for listener in tuple(self._listeners):
                listener.peer_stops(name)
        for listener in tuple(self._listeners):
            listener.peer_down(name, why)
        self.publish(SEES, sorted(self._live))

    def heard(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """A peer published something."""
        said = self._live.get(name)
        if said is None:
            return
        for key, value in changes.items():
            if value is None:
                said.pop(key, None)
            else:
                said[key] = value
        for listener in tuple(self._listeners):
            listener.peer_said(name, dict(changes))


class PeerHub:
    """Controllers of these names, all joined at first."""

    def __init__(self, *names: str) -> None:
        self.turns = _Turns()
        self._peers = {ControllerName(name): MemoryPeers(ControllerName(name), self) for name in names}
        self._pipes: list[tuple[set[ControllerName], PipeEnd]] = []
        for one in names:
            self.heal(one, *names)

    @property
    def members(self) -> tuple[ControllerName, ...]:
        """Their names."""
        return tuple(sorted(self._peers))

    def peers(self, name: str) -> MemoryPeers:
        """Of one controller."""
        return self._peers[ControllerName(name)]

    def cut(self, one: str, *others: str) -> None:
        """End the links of ``one`` with ``others``; with all when none is named."""
        for other in others or self.members:
            self.lose(one, other)
            self.lose(other, one)

    def stop(self, one: str) -> None:
        """``one`` says goodbye to all, and ends."""
        for other in self.members:
            if other != one:
                self.turns.run(
                    lambda other=other: self.peers(other).lost(ControllerName(one), "it left", stops=True)  # type: ignore[misc]  # of a default argument
                )
        self.cut(one)

    def lose(self, one: str, other: str) -> None:
        """Only ``one`` has noticed that the link with ``other`` is gone."""
        self.turns.run(lambda: self.peers(one).lost(ControllerName(other), "it was cut"))
        kept = []
        for names, end in self._pipes:
            if {one, other} == names:
                self.turns.run(end.end)
            elif not end.over:
                kept.append((names, end))
        self._pipes = kept

    def heal(self, one: str, *others: str) -> None:
        """Join ``one`` with ``others``; with all when none is named."""
        for other in others or self.members:
            self.turns.run(lambda other=other: self.peers(one).found(self.peers(other)))  # type: ignore[misc]  # of a default argument
            self.turns.run(lambda other=other: self.peers(other).found(self.peers(one)))  # type: ignore[misc]  # of a default argument

    def pipe(self, one: ControllerName, two: ControllerName, opener: IProtocol, server: IProtocol) -> None:
        """Connect two protocols."""
        first, second = PipeEnd(self.turns, opener), PipeEnd(self.turns, server)
        first.other, second.other = second, first
        self._pipes.append(({one, two}, first))
        server.makeConnection(second)  # type: ignore[arg-type]  # as much of a transport as protocols use
        opener.makeConnection(first)  # type: ignore[arg-type]  # as above
