"""The configuration service: what operators change becomes a version, whole or not at all.

A change is planned against the version in force (``avinet.model.plan``, which names every problem), staged, and
made visible by one compare-and-set of the head (``avinet.controller.config_store``).  Whoever was slower plans
again on what the other made.  Listeners hear of a version only once the store has it.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

import attrs
import msgspec
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.controller.config_store import MAX_OBJECT_BYTES, ConfigStore, VersionRecord
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import DEFAULT_GROUP, ConfigObject, ServiceEngineGroup
from avinet.model.configuration import Configuration, Stored
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion, ObjectId
from avinet.model.plan import Plan, next_version, plan_change, title
from avinet.model.references import check_deletes

MANY = 50
"""Documents that take 15 ms to check and compare."""
MAX_ATTEMPTS = 8
"""Plans made anew after another writer was first; more means something else is wrong."""

SYSTEM_DOCUMENTS: tuple[Mapping[str, Any], ...] = (
    {"kind": "ServiceEngineGroup", "name": DEFAULT_GROUP, "description": "Where SEs go that name no other."},
    {
        "kind": "HealthMonitor",
        "name": "System-HTTP",
        "description": "GET / answers 2xx or 3xx.",
        "type": "HEALTH_MONITOR_HTTP",
        "http_monitor": {},
    },
    {
        "kind": "HealthMonitor",
        "name": "System-TCP",
        "description": "A connection is accepted.",
        "type": "HEALTH_MONITOR_TCP",
    },
)
"""Version 1 of a new cluster."""

_log = Logger()

Listener = Callable[[Configuration], None]


@error
class ObjectNotFoundError(AvinetError):
    """There is no {kind_word} {name!r}; see: avinet config get {kind_word}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    kind_word: str
    name: str


@error
class ObjectExistsError(AvinetError):
    """A {kind_word} called {name!r} exists already. Change it with PUT, or apply it."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    kind_word: str
    name: str


@error
class VersionRequiredError(AvinetError):
    """Changing {what} needs the _last_modified that you read (in the body, or as If-Match), so that nobody's change is lost."""

    kind: ClassVar[Kind] = Kind.PRECONDITION
    http_status: ClassVar[int] = 428
    what: str


@error
class StaleError(AvinetError):
    """{what} was changed since you read it (_last_modified is {now}, not {expected}). Read it again, then repeat your change."""

    kind: ClassVar[Kind] = Kind.PRECONDITION
    http_status: ClassVar[int] = 412
    what: str
    now: str
    expected: str


@error
class ObjectInUseError(AvinetError):
    """{what} cannot be deleted: {why}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    what: str
    why: str


@error
class ObjectTooLargeError(AvinetError):
    """{what} is {size} bytes as stored; an object has at most {limit}. Split it."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    what: str
    size: int
    limit: int


@error
class ConfigBusyError(AvinetError):
    """Others change the configuration at the same time; try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@attrs.frozen
class Applied:
    """What a change came to; ``version`` is the one in force afterwards, the old one if nothing changed."""

    version: ConfigVersion
    plan: Plan


Decide = Callable[[Configuration], Plan]
Aside = Callable[[Callable[[], Plan]], Awaitable[Plan]]
"""Computes a plan elsewhere: ``deferToThread``."""


async def _here(compute: Callable[[], Plan]) -> Plan:
    return compute()


@attrs.define(eq=False)
class ConfigService:
    """The configuration of the cluster.  ``load`` before anything else."""

    stored: ConfigStore
    clock: IReactorTime
    in_use: Callable[[ConfigObject], str] = attrs.field(default=lambda thing: "")
    """Why something outside the configuration needs this object; empty when nothing does."""
    committed: Callable[[VersionRecord], None] = attrs.field(default=lambda record: None)
    """Told of each version made here, once the store has it."""
    aside: Aside = attrs.field(default=_here)
    """For many documents at once: 1,000 take 0.3 s."""
    current: Configuration = attrs.field(factory=Configuration, init=False)
    _listeners: list[Listener] = attrs.field(factory=list, init=False, repr=False)
    _turn: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)

    async def load(self) -> None:
        """Read what is in force; a new cluster gets its version 1."""
        self.current = await self.stored.load()
        if not self.current.version:
            await self.apply(SYSTEM_DOCUMENTS, "system")

    @property
    def fence(self) -> Fence:
        """What every push of the current version carries."""
        return self.stored.head.fence

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with each new version."""
        self._listeners.append(listener)

    def group(self, name: str) -> ServiceEngineGroup | None:
        """The SE group of this name."""
        found = self.current.find("serviceenginegroup", name)
        return found.thing if found is not None and isinstance(found.thing, ServiceEngineGroup) else None

    def find(self, kind: str, name_or_uuid: str) -> Stored:
        """One object; ``ObjectNotFoundError`` when there is none."""
        found = self.current.find(kind, name_or_uuid)
        if found is None:
            raise ObjectNotFoundError(kind_word=kind, name=name_or_uuid)
        return found

    async def apply(
        self, documents: Sequence[Mapping[str, Any]], author: str, *, dry_run: bool = False
    ) -> Applied:
        """Create or update every document's object, all or none."""
        # What it reads is frozen.
        return await self._change(
            lambda now: plan_change(now, documents),
            author,
            dry_run=dry_run,
            aside=self.aside if len(documents) > MANY else _here,
        )

    async def create(self, kind: str, document: Mapping[str, Any], author: str) -> Stored:
        """One new object."""

        def decide(now: Configuration) -> Plan:
            name = document.get("name")
            if isinstance(name, str) and now.find(kind, name) is not None:
                raise ObjectExistsError(kind_word=kind, name=name)
            return plan_change(now, [{**document, "kind": kind}])

        plan = (await self._change(decide, author)).plan
        return self.current.objects[plan.puts[0].uuid]

    async def replace(
        self, kind: str, name_or_uuid: str, document: Mapping[str, Any], author: str, expected: str | None
    ) -> Stored:
        """One object anew; ``expected`` is the ``_last_modified`` that the caller read."""
        found: list[ObjectId] = []

        def decide(now: Configuration) -> Plan:
            stored = self._expected(now, kind, name_or_uuid, expected)
            found[:] = [stored.thing.uuid]
            return plan_change(now, [{**document, "kind": kind, "uuid": stored.thing.uuid}])

        await self._change(decide, author)
        return self.current.objects[found[0]]

    async def delete(self, kind: str, name_or_uuid: str, author: str, expected: str | None = None) -> Applied:
        """Remove one object that no other refers to; with ``expected``, only that version of it."""

        def decide(now: Configuration) -> Plan:
            stored = now.find(kind, name_or_uuid)
            if stored is not None and expected is not None:
                self._expected(now, kind, name_or_uuid, expected)
            if stored is None:
                raise ObjectNotFoundError(kind_word=kind, name=name_or_uuid)
            uuid = stored.thing.uuid
            after = now.with_changes(now.version, [], [uuid])
            referred = next((why for _, why in check_deletes(frozenset({uuid}), after)), "")
            if why := referred or self.in_use(stored.thing):
                raise ObjectInUseError(what=title(stored.thing), why=why)
            return plan_change(now, [], [uuid])

        return await self._change(decide, author)

    def _expected(self, now: Configuration, kind: str, name: str, expected: str | None) -> Stored:
        stored = now.find(kind, name)
        if stored is None:
            raise ObjectNotFoundError(kind_word=kind, name=name)
        if expected is None:
            raise VersionRequiredError(what=title(stored.thing))
        if expected != str(stored.modified_us):
            raise StaleError(what=title(stored.thing), now=str(stored.modified_us), expected=expected)
        return stored

    async def _change(
        self, decide: Decide, author: str, *, dry_run: bool = False, aside: Aside = _here
    ) -> Applied:
        await self._turn.acquire()
        try:
            for _ in range(MAX_ATTEMPTS):
                before = self.current
                plan = await aside(partial(decide, before))
                for thing in plan.puts:
                    size = len(msgspec.msgpack.encode(thing))
                    if size > MAX_OBJECT_BYTES:
                        raise ObjectTooLargeError(what=title(thing), size=size, limit=MAX_OBJECT_BYTES)
                if dry_run or plan.empty:
                    return Applied(before.version, plan)
                if await self._commit(before, plan, author):
                    return Applied(self.current.version, plan)
                self._take(await self.stored.load())
            raise ConfigBusyError
        finally:
            self._turn.release()

    async def _commit(self, before: Configuration, plan: Plan, author: str) -> bool:
        version = next_version(before)
        now_us = int(self.clock.seconds() * 1_000_000)
        puts: list[Stored] = []
        for thing in plan.puts:
            old = before.objects.get(thing.uuid)
            # It counts up even when the clock does not, since it is what tells two changes apart.
            puts.append(Stored(thing, max(now_us, old.modified_us + 1 if old is not None else 0)))
        record = VersionRecord(
            version=version,
            change=uuid.uuid4().hex,
            author=author,
            at=self.clock.seconds(),
            created=plan.created,
            updated=plan.updated,
            deleted=plan.deleted,
        )
        if not await self.stored.commit(puts, plan.deletes, record):
            return False
        self._take(before.with_changes(version, puts, plan.deletes))
        self.committed(record)
        if self.stored.checkpoint_due:
            try:
                await self.stored.checkpoint(self.current)
            except AvinetError as why:
                # The change itself is safe; the next one tries again.
                _log.warn("no checkpoint of the configuration: {why}", why=str(why))
        return True

    def _take(self, configuration: Configuration) -> None:
        self.current = configuration
        for listener in self._listeners:
            listener(configuration)
