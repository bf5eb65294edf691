"""How the state engine is: asked of etcd itself every two seconds, judged by a plain function, told as events."""

from collections.abc import Callable, Coroutine
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.model.events import Level
from avinet.store.etcd_gateway import COMPACTED, Gateway, RefusedError
from avinet.units import show_bytes

LOOK_EVERY_S = 2.0
LOOK_LIMIT_S = 3.0
"""For one answer; an election takes 1 to 2 s.  What is shown is never older than this and the pause."""
UNWELL_LOOKS = 2
"""Before it is said: an election or a restart is no news yet."""
FIRST_LOOKS = 15
"""The same until there was a leader for the first time: a member that joins, or all that start, take half a minute at most."""
ROOM_EVERY_S = 10.0
"""Between tries to make room while it is full, each after something was deleted: etcd answers nobody while it
defragments, for seconds with a file of 2 GiB."""
ROOM_SHARE = 0.8
"""Of the quota: with less in use it may write again; with more it would be full again at once."""
_NO_SPACE = "NOSPACE"
_NO_LEADER = "no leader"
"""etcd's answer to everything that is asked with the wish for a leader, as the gateway's client does."""

Emit = Callable[..., None]
_log = Logger()


class _Header(msgspec.Struct, frozen=True):
    member_id: int = 0
    revision: int = 0


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """Of ``maintenance/status``."""

    header: _Header = _Header()
    version: str = ""
    db_size: int = 0
    db_size_in_use: int = 0
    leader: int = 0
    raft_index: int = 0
    is_learner: bool = False
    errors: tuple[str, ...] = ()

    @property
    def leads(self) -> bool:
        """Whether this member does."""
        return self.leader != 0 and self.leader == self.header.member_id


class EngineHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The store's engine as this controller sees it."""

    well: bool
    engine: str = "etcd"
    why: str = ""
    """What it lacks, and what to do; empty when it is well."""
    version: str = ""
    has_leader: bool = False
    is_leader: bool = False
    db_bytes: int = 0
    used_bytes: int = 0
    """Of them; the rest is free and used again."""
    quota_bytes: int = 0
    """0: not ours to know."""
    alarms: tuple[str, ...] = ()


EMBEDDED = EngineHealth(well=True, engine="sqlite", has_leader=True, is_leader=True)
"""A file of this process alone."""


def judged(status: Status, quota_bytes: int) -> EngineHealth:
    """What an answer of etcd means."""
    alarms = tuple(
        sorted({name for name in (_NO_SPACE, "CORRUPT") for text in status.errors if name in text})
    )
    has_leader = status.leader != 0
    why = ""
    if not has_leader:
        why = "no member leads: a majority of its members must be up and reach each other; see avinet cluster status"
    elif "CORRUPT" in alarms:
        why = "its members do not hold the same data; replace the one that differs (docs/cluster.md)"
    elif _NO_SPACE in alarms:
        why = (
            f"it is full ({show_bytes(status.db_size_in_use)} in use) and refuses writes; delete what is not needed, "
            "or raise [store] quota_mib and restart"
        )
    return EngineHealth(
        well=not why,
        why=why,
        version=status.version,
        has_leader=has_leader,
        is_leader=status.leads,
        db_bytes=status.db_size,
        used_bytes=status.db_size_in_use,
        quota_bytes=quota_bytes,
        alarms=alarms,
    )


async def look(gateway: Gateway, limit_s: float = LOOK_LIMIT_S) -> Status:
    """One answer of etcd about itself; ``StoreUnavailableError`` without one."""
    deadline = gateway.clock.seconds() + limit_s
    return (await gateway.ask("maintenance/status", {}, Status, deadline=deadline)).answer


class _Anything(msgspec.Struct):
    """An answer that says no more than that it was done."""


class _Alarm(msgspec.Struct, rename={"member": "memberID"}):
    member: int = 0


class _Alarms(msgspec.Struct):
    alarms: tuple[_Alarm, ...] = ()


async def make_room(gateway: Gateway, quota_bytes: int) -> bool:
    """As root: forget old revisions and give free pages back, then lift the alarm if there is room again; whether there is."""
    status = await look(gateway)
    try:
        await gateway.ask(
            "kv/compaction", {"revision": str(status.header.revision), "physical": True}, _Anything
        )
    except RefusedError as refused:
        if refused.code != COMPACTED:  # before, and nothing was written since
            raise
    # What is in use is known only after it: etcd counts pages as used that it has freed since its last write.
    await gateway.ask("maintenance/defragment", {}, _Anything)
    if (await look(gateway)).db_size > quota_bytes * ROOM_SHARE:
        return False
    raised = (
        await gateway.ask("maintenance/alarm", {"action": "GET", "alarm": _NO_SPACE}, _Alarms)
    ).answer.alarms
    for alarm in raised:  # also those of members that are gone, which nobody else would lift
        request = {"action": "DEACTIVATE", "alarm": _NO_SPACE, "memberID": str(alarm.member)}
        await gateway.ask("maintenance/alarm", request, _Anything)
    return True


@attrs.define(eq=False)
class EngineWatch:
    """Looks again and again, keeps the last health, and tells when it changes for the worse or the better."""

    gateway: Gateway
    reactor: Any
    emit: Emit
    quota_bytes: int = 0
    """0: etcd is not this controller's."""
    make_room: Callable[[], Coroutine[Any, Any, bool]] | None = None
    """Tries to, when it is full; whether there is room now."""
    looked: Callable[[Status], Coroutine[Any, Any, None]] | None = None
    """Done after each look that was answered."""
    health: EngineHealth = attrs.field(default=EngineHealth(well=False, why="it is starting"), init=False)
    status: Status | None = attrs.field(default=None, init=False)
    """The last answer since its start."""
    _unwell: int = attrs.field(default=0, init=False)
    _led: bool = attrs.field(default=False, init=False)
    """Whether there ever was a leader."""
    _told: bool = attrs.field(default=False, init=False)
    _ended: AvinetError | None = attrs.field(default=None, init=False)
    _next: IDelayedCall | None = attrs.field(default=None, init=False)
    _looking: Deferred[None] | None = attrs.field(default=None, init=False)
    _caring: Deferred[None] | None = attrs.field(default=None, init=False)
    _room_at: float = attrs.field(default=0.0, init=False)
    _room_revision: int = attrs.field(default=-1, init=False)
    """Of the last try."""
    _stopped: bool = attrs.field(default=False, init=False)

    def start(self) -> None:
        """Look now, and from then on."""
        self._next = None
        self._looking = Deferred.fromCoroutine(self._look())
        self._looking.addErrback(self._failed)
        self._looking.addBoth(self._again)

    async def stop(self) -> None:
        """Look no more."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
            self._next = None
        for under_way in (self._looking, self._caring):
            if under_way is not None:
                under_way.cancel()

    def ended(self, why: AvinetError) -> None:
        """The process ended, which is news at once."""
        self._ended, self.status = why, None
        self._take(EngineHealth(well=False, why=str(why), quota_bytes=self.quota_bytes), at_once=True)

    async def _look(self) -> None:
        try:
            self.status = await look(self.gateway)
        except AvinetError as failure:
            why = failure if self._ended is None else self._ended
            # An etcd of ours that has not found a quorum since its start answers nothing at all.
            silent = self.status is None and self.looked is not None
            if self._ended is None and (silent or _NO_LEADER in str(failure)):
                self._take(judged(Status(), self.quota_bytes))
            else:
                self._take(EngineHealth(well=False, why=str(why), quota_bytes=self.quota_bytes))
            return
        self._ended = None
        self._take(judged(self.status, self.quota_bytes))
        if self._caring is None:
            # Not waited for: without a quorum what is asked as root has no answer for long, and that is to be seen.
            self._caring = Deferred.fromCoroutine(self._care(self.status))
            self._caring.addErrback(self._failed)
            self._caring.addBoth(self._cared)

    async def _care(self, status: Status) -> None:
        try:
            if _NO_SPACE in self.health.alarms and self.make_room is not None:
                await self._try_room(self.make_room, status.header.revision)
            if self.looked is not None:
                await self.looked(status)
        except AvinetError as why:
            _log.warn("the state engine was not looked after: {why}", why=str(why))

    def _cared(self, _: object) -> None:
        self._caring = None

    async def _try_room(self, make_room: Callable[[], Coroutine[Any, Any, bool]], revision: int) -> None:
        now = self.reactor.seconds()
        if now < self._room_at or revision == self._room_revision:
            return
        self._room_at, self._room_revision = now + ROOM_EVERY_S, revision
        if await make_room():
            _log.info("the state engine made room and takes writes again")

    def _take(self, health: EngineHealth, *, at_once: bool = False) -> None:
        self.health, self._led = health, self._led or health.has_leader
        if health.well:
            self._unwell, self._room_revision = 0, -1
            if self._told:
                self._told = False
                self.emit("STATE_ENGINE_UP", Level.INFO, "state engine", "The state engine is well again.")
            return
        self._unwell += 1
        if not self._told and (at_once or self._unwell >= (UNWELL_LOOKS if self._led else FIRST_LOOKS)):
            self._told = True
            text = f"The state engine is not well: {health.why}"
            self.emit("STATE_ENGINE_DOWN", Level.ERROR, "state engine", text, why=health.why)

    def _failed(self, failure: Any) -> None:
        if not failure.check(CancelledError):
            _log.failure("looking after the state engine failed", failure)

    def _again(self, _: object) -> None:
        self._looking = None
        if not self._stopped:
            self._next = self.reactor.callLater(LOOK_EVERY_S, self.start)
