"""A controller's seat in its cluster: the store as it may write to it, and what it does while it leads.

There are two kinds of what only a leader does.  What it **prepares** is written to the store before it is a leader to
anybody (a new cluster's first version, leftovers).  Its **duties** act on others while it leads (pushes, machines, events of
expiry): begun in the order in which they were given, ended at once and in reverse when it leads no more.

A controller whose store is its own leads from the beginning, and each of these is done when it is given: nothing is
watched, fenced or elected.
"""

from collections.abc import Awaitable, Callable
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.fencing import FencedStore
from avinet.controller.following import FollowedStore, Following, Mirror
from avinet.controller.leadership import Leadership, Role, RoleListener
from avinet.controller.peers import Peers
from avinet.errors import AvinetError
from avinet.model.election import LEASE_S, RENEW_S
from avinet.model.ids import ControllerName
from avinet.store.interface import Store

HAND_OVER_S = 3.0
"""A lease that is given back is taken in a tenth of a second; without a majority nobody takes it, and a stop is not to wait long."""

Prepare = Callable[[int], Awaitable[None]]
"""Given the term."""


@attrs.frozen(eq=False)
class Duty:
    """What is done while this controller leads.  ``end`` may come in the middle of ``begin``, and more than once."""

    name: str
    begin: Callable[[], Awaitable[None]]
    end: Callable[[], None]


class Reading(Protocol):
    """What takes longer to follow than the watch, which only tells that there is something to read."""

    @property
    def behind_s(self) -> float:
        """How old what it has may be; 0 when it has all that it was told of."""

    async def settled(self) -> None:
        """Once it has read what it was told of."""


class Seat(Protocol):
    """Either kind."""

    @property
    def store(self) -> Store:
        """For those whose writes are a leader's."""

    @property
    def role(self) -> Role:
        """What this controller is now."""

    @property
    def stale_s(self) -> float:
        """How old what is known of the store may be, in seconds."""

    @property
    def silent(self) -> bool:
        """Whether the store has not answered for some seconds, so that nobody will lead soon."""

    @property
    def revision(self) -> int:
        """The store's, that the mirrors have."""

    async def caught_up(self, revision: int) -> None:
        """Once the mirrors have ``revision``, or that takes too long."""

    def follow(self, mirror: Mirror, beside: tuple[str, ...] = ()) -> None:
        """Keep ``mirror``, which has loaded, what the store says; ``beside``: see ``Following.add``."""

    def wait_for(self, reading: Reading) -> None:
        """Nobody has caught up before ``reading`` has, and what is known here is as old as what that has."""

    def listen(self, listener: RoleListener) -> None:
        """Call ``listener`` with each new role."""

    async def prepare(self, work: Prepare) -> None:
        """Have ``work`` done before each time that this controller leads."""

    async def duty(self, duty: Duty) -> None:
        """Have ``duty`` done while it leads."""

    async def sit(self) -> None:
        """Everything has been given: take part."""

    async def hand_over(self) -> None:
        """Before anything else ends: end the duties, and wait for another to lead."""

    async def stop(self) -> None:
        """Take part no more."""


@attrs.define(eq=False)
class OwnSeat:
    """Of a controller whose store no other has."""

    store: Store
    me: ControllerName
    stale_s: float = attrs.field(default=0.0, init=False)
    silent: bool = attrs.field(default=False, init=False)
    _duties: list[Duty] = attrs.field(factory=list, init=False)

    @property
    def role(self) -> Role:
        """It leads, in a term that was never elected."""
        return Role(leads=True, leader=self.me)

    @property
    def revision(self) -> int:
        """Nobody asks."""
        return 0

    async def caught_up(self, revision: int) -> None:
        """It is."""

    def follow(self, mirror: Mirror, beside: tuple[str, ...] = ()) -> None:
        """Nobody else changes anything."""

    def wait_for(self, reading: Reading) -> None:
        """It never is behind."""

    def listen(self, listener: RoleListener) -> None:
        """It stays what it is."""

    async def prepare(self, work: Prepare) -> None:
        """Now."""
        await work(0)

    async def duty(self, duty: Duty) -> None:
        """From now on."""
        self._duties.append(duty)
        await duty.begin()

    async def sit(self) -> None:
        """Nothing is left to do."""

    async def hand_over(self) -> None:
        """There is nobody: end them."""
        while self._duties:
            self._duties.pop().end()

    async def stop(self) -> None:
        """The same."""
        await self.hand_over()


@attrs.define(eq=False)
class SharedSeat:
    """Of a controller whose store others have, too."""

    shared: Store
    peers: Peers
    clock: IReactorTime
    store: Store = attrs.field(init=False)
    following: Following = attrs.field(init=False)
    leadership: Leadership = attrs.field(init=False)
    _readings: list[Reading] = attrs.field(factory=list, init=False)
    _prepares: list[Prepare] = attrs.field(factory=list, init=False)
    _duties: list[Duty] = attrs.field(factory=list, init=False)
    _begun: list[Duty] = attrs.field(factory=list, init=False)
    _elected: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _beginning: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _log: ClassVar[Logger] = Logger()

    def __attrs_post_init__(self) -> None:
        self.following = Following(self.shared, self.clock)
        followed = FollowedStore(self.shared, self.following.caught_up)
        self.leadership = Leadership(followed, self.peers, self.clock, self._prepare)
        self.store = FencedStore(followed, lambda: self.leadership.fence, self.leadership.overtaken)
        self.leadership.listen(self._role_changed)

    @property
    def role(self) -> Role:
        """As elected.  Who led when the store was heard last says nothing: it gives up, too, or others have elected another."""
        role = self.leadership.role
        if role.leads or not self.following.silent:
            return role
        return Role(term=role.term, why=f"the store has not answered for {self.following.stale_s:.0f} s")

    @property
    def stale_s(self) -> float:
        """Since the store was heard last, or what it told of was still to be read."""
        return max(self.following.stale_s, *(reading.behind_s for reading in self._readings), 0.0)

    @property
    def silent(self) -> bool:
        """As followed."""
        return self.following.silent

    @property
    def revision(self) -> int:
        """As followed."""
        return self.following.revision

    async def caught_up(self, revision: int) -> None:
        """As followed, and read."""
        await self.following.caught_up(revision)
        await self._settled()

    async def _settled(self) -> None:
        for reading in self._readings:
            await reading.settled()

    def follow(self, mirror: Mirror, beside: tuple[str, ...] = ()) -> None:
        """By the watch."""
        self.following.add(mirror, beside)

    def wait_for(self, reading: Reading) -> None:
        """At the start, too."""
        self._readings.append(reading)

    def listen(self, listener: RoleListener) -> None:
        """As it changes."""
        self.leadership.listen(listener)

    async def prepare(self, work: Prepare) -> None:
        """Later, each time."""
        self._prepares.append(work)

    async def duty(self, duty: Duty) -> None:
        """Later, while it leads."""
        self._duties.append(duty)

    async def sit(self) -> None:
        """Follow, then stand for election."""
        # Last: whoever is told that somebody leads finds what that one wrote before.
        self.following.add(self.leadership)
        await self.following.start()
        self.leadership.start()
        # Much may have been written since this one loaded, and whoever is ready is taken at its word.
        await self._settled()
        # Whoever is ready can be asked to change something; but one that waits for others is to be seen waiting.
        await self._until_led(LEASE_S + RENEW_S)

    async def hand_over(self) -> None:
        """Another leads when this returns, or none did within ``HAND_OVER_S``: what is asked here meanwhile finds it."""
        led = self.leadership.leads
        await self.leadership.stop()
        self._end()
        if led and self.peers.live:
            await self._until_led(HAND_OVER_S)

    async def stop(self) -> None:
        """Whatever leads next does so at once."""
        await self.leadership.stop()
        self.following.stop()
        self._end()

    async def _until_led(self, limit_s: float) -> None:
        """Somebody is known to lead, or so much time has passed."""
        if self.role.leader is not None:
            return
        elected: Deferred[None] = Deferred()
        self._elected = elected
        elected.addTimeout(limit_s, self.clock).addErrback(lambda why: why.trap(TimeoutError) and None)
        await elected

    async def _prepare(self, term: int) -> None:
        for work in self._prepares:
            await work(term)

    def _role_changed(self, role: Role) -> None:
        self._end()
        if self._elected is not None and role.leader is not None:
            elected, self._elected = self._elected, None
            if not elected.called:
                elected.callback(None)
        if role.leads:
            self._beginning = Deferred.fromCoroutine(self._begin())
            self._beginning.addErrback(self._not_begun)

    async def _begin(self) -> None:
        for duty in self._duties:
            self._begun.append(duty)
            try:
                await duty.begin()
            except AvinetError as why:
                # The others are as much a leader's; what the store refused will have ended its leading.
                self._log.error("{duty} could not begin: {why}", duty=duty.name, why=str(why))

    def _not_begun(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("a leader's duties could not begin", failure)

    def _end(self) -> None:
        beginning, self._beginning = self._beginning, None
        if beginning is not None:
            beginning.cancel()
        while self._begun:
            duty = self._begun.pop()
            try:
                duty.end()
            except Exception:  # noqa: BLE001 - the others are to end all the same
                self._log.failure("{duty} did not end", duty=duty.name)
