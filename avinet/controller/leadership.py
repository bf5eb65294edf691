"""This controller's part in who leads: what ``avinet.model.election`` decides, done on the store.

``leader`` says who leads, under a lease that the leader renews; ``leader-term`` has the last term, and is raised in the very
transaction that seizes.  Whoever seizes first catches up with the store and does what is due once (``prepare``), and only
then is a leader to its listeners.  One that the store has not answered for as long as its lease stops by itself.
"""

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.listeners import Listeners
from avinet.controller.peers import PeerListener, Peers
from avinet.errors import AvinetError
from avinet.model.election import (
    AGAIN_S,
    GRACE_S,
    LEASE_S,
    RENEW_S,
    Effect,
    Election,
    Seize,
    Stand,
    Standing,
    StepDown,
)
from avinet.model.ids import ControllerName
from avinet.store.interface import FENCE_KEY, NO_LEASE, Change, Compare, Entry, LeaseId, Put, Store

SAY_S = 60.0
"""Between log lines about a store that does not answer."""
TICK_S = 0.1
"""How finely it is looked at whether something is due; the links say at once when they lose somebody."""
TRY_S = 1.0
"""For the store to answer one question of an election.  etcd lets what it was asked while it had no leader wait for five
seconds and more; asked again, it answers as soon as it has one."""
WRITE_S = 2.0
"""The same of the transaction that seizes, whose outcome is not known after it; if it was done, the watch says so."""
TERM = "leader-term"
"""Shares its beginning with ``FENCE_KEY``, so that one prefix has both."""


@attrs.frozen
class Role:
    """What this controller is now."""

    leads: bool = False
    leader: ControllerName | None = None
    """Who leads; None while nobody is known to."""
    term: int = 0
    why: str = ""
    """Why it changed, for people."""


RoleListener = Callable[[Role], None]
_T = TypeVar("_T")


@attrs.define(eq=False)
class Leadership(PeerListener):
    """A ``Mirror`` of who leads.  ``start`` once the following has; ``stop`` before it does."""

    store: Store
    """With its following, and without a fence."""
    peers: Peers
    clock: IReactorTime
    prepare: Callable[[int], Awaitable[None]]
    """What a new leader of this term does before it is one; an ``AvinetError`` gives up the term."""
    role: Role = attrs.field(factory=Role, init=False)
    _election: Election = attrs.field(init=False)
    _fence: int | None = attrs.field(default=None, init=False)
    _lease: LeaseId = attrs.field(default=NO_LEASE, init=False)
    _lease_end: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _listeners: Listeners[RoleListener] = attrs.field(
        factory=lambda: Listeners("the role"), init=False, repr=False
    )
    _seizing: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    _ticks: LoopingCall = attrs.field(init=False, repr=False)
    _renewing: bool = attrs.field(default=False, init=False)
    _said_at: float = attrs.field(default=-math.inf, init=False)
    _renew_at: float = attrs.field(default=0.0, init=False)
    _running: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def __attrs_post_init__(self) -> None:
        self._election = Election(self.peers.me)
        self._ticks = LoopingCall(self._tick)
        self._ticks.clock = self.clock

    # Questions

    @property
    def fence(self) -> int | None:
        """The revision that every transaction of this leader compares on; None while it does not lead."""
        return self._fence

    @property
    def leads(self) -> bool:
        """Whether what only a leader does may be done here."""
        return self.role.leads

    def listen(self, listener: RoleListener) -> None:
        """Call ``listener`` with each new role."""
        self._listeners.add(listener)

    # Life

    def start(self) -> None:
        """Take part from now on."""
        self._running = True
        self.peers.listen(self)
        if self._election.standing is None:
            self._obey(self._election.seen(None, self._election.revision, self._now()))
        self._ticks.start(TICK_S, now=True).addErrback(lambda f: self._log.failure("the election ended", f))

    async def stop(self) -> None:
        """Lead no more, and let another do so at once."""
        self._running = False
        if self._ticks.running:
            self._ticks.stop()
        seizing, self._seizing = self._seizing, None
        if seizing is not None:
            seizing.cancel()
        lease = self._lease
        self._obey(self._election.ended("this controller stops", self._now()))
        if lease != NO_LEASE:
            try:
                await self.store.revoke_lease(lease)
            except AvinetError as why:
                self._log.info("the lease could not be given back: {why}", why=str(why))

    def overtaken(self) -> None:
        """A transaction found that another leads; the watch says so a moment later."""
        self._obey(self._election.ended("another leads", self._now()))

    # Mirror

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Who leads, and the term."""
        return (FENCE_KEY,)

    def revisions(self) -> dict[str, int]:
        """Of who leads."""
        return {FENCE_KEY: self._election.revision} if self._election.standing is not None else {}

    def took(self, changes: Sequence[Change]) -> None:
        """The store says who leads."""
        for change in changes:
            if change.key == FENCE_KEY:
                entry = change.entry
                standing = None if entry is None else msgspec.json.decode(entry.value, type=Standing)
                self._obey(self._election.seen(standing, change.revision, self._now()))
        self._tell_if_another()

    # Peers

    def peer_up(self, name: ControllerName) -> None:
        """It may be the leader."""
        self._look_at_peers()

    def peer_down(self, name: ControllerName, why: str) -> None:
        """It may have been the leader."""
        self._look_at_peers()

    def peer_said(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """Whom it sees, perhaps."""
        self._look_at_peers()

    def _look_at_peers(self) -> None:
        standing = self._election.standing
        lost = standing is not None and self.peers.majority_lost(standing.name)
        self._obey(self._election.peers(lost=lost, now=self._now()))

    # What the election wants

    def _now(self) -> float:
        return self.clock.seconds()

    def _tick(self) -> None:
        self._look_at_peers()
        if self._fence is not None and not self._renewing and self._now() >= self._renew_at:
            self._renewing = True
            renewing = Deferred.fromCoroutine(self._renew(self._lease))
            renewing.addErrback(lambda f: self._log.failure("renewing the lease failed", f))

    def _obey(self, effects: tuple[Effect, ...]) -> None:
        for effect in effects:
            match effect:
                case StepDown(why):
                    self._step_down(why)
                case Seize() if self._running:
                    self._seizing = Deferred.fromCoroutine(self._seize(effect))
                    self._seizing.addErrback(self._not_seized)
                case Seize():
                    self._election.refused(self._now(), 0.0)

    async def _seize(self, effect: Seize) -> None:
        begun, lease = self._now(), NO_LEASE
        try:
            last = await self._within(TRY_S, self.store.get(TERM))
            lease = await self._within(TRY_S, self.store.grant_lease(LEASE_S))
            standing = Standing(self.peers.me, 1 + _term_of(last))
            outcome = await self._within(
                WRITE_S,
                self.store.transact(
                    [
                        Compare(FENCE_KEY, effect.revision),
                        Compare(TERM, 0 if last is None else last.revision),
                    ],
                    [
                        Put(FENCE_KEY, msgspec.json.encode(standing), lease),
                        Put(TERM, str(standing.term).encode()),
                    ],
                ),
            )
        except (AvinetError, TimeoutError) as why:
            self._say_undecided(why)
            self._election.refused(self._now(), AGAIN_S)
            return
        if not outcome.succeeded:
            self._election.refused(self._now())
            await self._give_back(lease)
            return
        self._election.won(standing, outcome.revision)
        self._lease, self._fence = lease, outcome.revision
        self._lease_lasts_from(begun)
        try:
            await self.prepare(standing.term)
        except AvinetError as why:
            self._log.warn("this controller cannot begin to lead: {why}", why=str(why))
            if self._fence == outcome.revision:
                self._obey(self._election.ended(f"it could not begin: {why}", self._now(), GRACE_S))
                await self._give_back(lease)
            return
        if self._fence == outcome.revision:
            self._become(Role(leads=True, leader=self.peers.me, term=standing.term, why=effect.why))

    def _say_undecided(self, why: Exception) -> None:
        """Once a minute: without a quorum it is tried each second."""
        now = self._now()
        if now - self._said_at >= SAY_S:
            self._said_at = now
            said = "the store does not answer" if isinstance(why, TimeoutError) else str(why)
            self._log.info("who leads cannot be decided: {why}", why=said)

    def _within(self, seconds: float, asked: Deferred[_T]) -> Deferred[_T]:
        return asked.addTimeout(seconds, self.clock)

    def _not_seized(self, failure: Failure) -> None:
        if not failure.check(CancelledError):
            self._log.failure("seizing the lead failed", failure)
            self._obey(self._election.ended("an unexpected failure", self._now()))
            self._election.refused(self._now())

    async def _give_back(self, lease: LeaseId) -> None:
        try:
            await self.store.revoke_lease(lease)
        except AvinetError:
            self._log.debug("a lease ends by itself")

    async def _renew(self, lease: LeaseId) -> None:
        begun = self._now()
        self._renew_at = begun + RENEW_S
        try:
            lasts = await self._within(TRY_S, self.store.keep_alive(lease))
        except (AvinetError, TimeoutError) as why:
            self._say_undecided(why)
            self._renew_at = self._now() + AGAIN_S
            return
        finally:
            self._renewing = False
        if lease != self._lease:
            return
        if lasts:
            self._lease_lasts_from(begun)
        else:
            self._obey(self._election.ended("its lease ended", self._now()))

    def _lease_lasts_from(self, begun: float) -> None:
        """The store was asked at ``begun``, so it counts from then at the earliest."""
        self._stop_waiting()
        left = begun + LEASE_S - self._now()
        self._lease_end = self.clock.callLater(max(0.0, left), self._silent)

    def _silent(self) -> None:
        self._lease_end = None
        self._obey(self._election.ended("the store has not answered for as long as the lease", self._now()))

    def _step_down(self, why: str) -> None:
        self._fence, self._lease = None, NO_LEASE
        self._stop_waiting()
        standing = self._election.standing
        another = standing is not None and standing.name != self.peers.me
        self._become(
            Role(leader=standing.name, term=standing.term, why=why) if another and standing else Role(why=why)
        )

    def _stop_waiting(self) -> None:
        if self._lease_end is not None and self._lease_end.active():
            self._lease_end.cancel()
        self._lease_end = None

    def _tell_if_another(self) -> None:
        standing = self._election.standing
        if self._election.stand is Stand.LEADING:
            return
        if standing is None:
            self._become(Role(why="nobody leads"))
        elif standing.name != self.peers.me:
            self._become(Role(leader=standing.name, term=standing.term, why="it was elected"))

    def _become(self, role: Role) -> None:
        before, self.role = self.role, role
        if (before.leads, before.leader, before.term) == (role.leads, role.leader, role.term):
            return
        self._listeners.tell(lambda listener: listener(role))


def _term_of(entry: Entry | None) -> int:
    return 0 if entry is None else int(entry.value)
