"""The configuration service: what operators change becomes a version, whole or not at all.

A change is planned against the version in force (``avinet.model.plan``, which names every problem), staged, and
made visible by one compare-and-set of the head (``avinet.controller.config_store``).  Whoever was slower plans
again on what the other made.  Listeners hear of a version only once the store has it.
"""

import uuid
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.controller.config_entries import MAX_NOTE, MAX_OBJECT_BYTES, Change, VersionRecord
from avinet.controller.config_errors import (
    ConfigBusyError,
    ConfigMovedError,
    NoteError,
    ObjectExistsError,
    ObjectInUseError,
    ObjectNotFoundError,
    ObjectTooLargeError,
    StaleError,
    VersionRequiredError,
)
from avinet.controller.config_news import News
from avinet.controller.config_store import ConfigStore
from avinet.controller.document_size import is_large
from avinet.controller.history import History
from avinet.controller.incarnation import accept
from avinet.errors import AvinetError
from avinet.model.config import DEFAULT_GROUP, ConfigObject, ServiceEngineGroup
from avinet.model.configuration import Configuration, Stored
from avinet.model.fence import Fence
from avinet.model.ids import NO_VERSION, ConfigVersion, ObjectId
from avinet.model.plan import Plan, next_version, plan_change, title
from avinet.model.references import check_deletes
from avinet.model.restored import Restored
from avinet.model.rollback import plan_rollback

MANY = 50
"""Documents that take 15 ms to check and compare."""
MAX_ATTEMPTS = 8
"""Plans made anew after another writer was first; more means something else is wrong."""
MAX_TOLD = 10
"""Versions that an error names; ``avinet config history`` has the rest."""

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


@attrs.frozen
class Applied:
    """What a change came to; ``version`` is the one in force afterwards, the old one if nothing changed."""

    version: ConfigVersion
    plan: Plan
    after: Configuration
    """What is in force afterwards, or after a dry run would be."""


@attrs.frozen
class Terms:
    """On which terms a change is made, and what is said about it."""

    dry_run: bool = False
    note: str = ""
    expected: ConfigVersion | None = None
    """The version that the author looked at: another one in force refuses the change."""
    rolled_back_to: ConfigVersion = NO_VERSION


PLAIN = Terms()

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
    """For many documents at once: 1,000 take 50 ms, and each RSA key 1 to 3 ms more."""
    history: History = attrs.field(init=False)
    current: Configuration = attrs.field(factory=Configuration, init=False)
    _listeners: list[Listener] = attrs.field(factory=list, init=False, repr=False)
    _turn: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)

    @history.default
    def _history_of_the_store(self) -> History:
        return History(self.stored)

    async def load(self) -> None:
        """Read what is in force."""
        self.current = await self.stored.load()

    async def lead(self) -> None:
        """What only who writes may do first: take what is in force, and give a new cluster its version 1."""
        await self.catch_up()
        if not self.current.version:
            await self.apply(SYSTEM_DOCUMENTS, "system")

    async def tidy(self) -> None:
        """What only who writes may do some time: crashed writers' leftovers go.  Changes do not wait for the listing."""
        pieces = await self.stored.pieces()
        await self._turn.acquire()
        try:
            await self.stored.sweep(pieces)
        finally:
            self._turn.release()

    async def catch_up(self, revision: int | None = None, news: Sequence[News] = ()) -> None:
        """Take what another controller has put in force, unless the head is known as of ``revision`` already.

        Our own change, if it was that, is taken once its turn is over, though its answer was lost.
        """
        await self._turn.acquire()
        try:
            if revision is None or self.stored.revision < revision:
                after = await self.stored.follow(self.current, news)
                if after.version != self.current.version:
                    self._take(after)
        finally:
            self._turn.release()

    @property
    def fence(self) -> Fence:
        """What every push of the current version carries."""
        return self.stored.fence

    @property
    def restored(self) -> Restored | None:
        """That what is in force came out of a backup, and waits to be accepted."""
        return self.stored.head.restored

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
        self, documents: Sequence[Mapping[str, Any]], author: str, terms: Terms = PLAIN
    ) -> Applied:
        """Create or update every document's object, all or none."""
        return await self._change(
            lambda now: plan_change(now, documents), author, terms, self._where(documents)
        )

    def _where(self, documents: Sequence[Mapping[str, Any]]) -> Aside:
        """Where to plan a change by these: what it reads is frozen."""
        return self.aside if len(documents) > MANY or is_large(documents) else _here

    async def roll_back(self, version: int, author: str, terms: Terms = PLAIN) -> Applied:
        """A new version whose objects are those of an older one; ``RollbackRefusedError`` when it no longer fits."""
        target = (await self.history.past(self.current, version)).after
        terms = attrs.evolve(terms, rolled_back_to=target.version)
        return await self._change(lambda now: plan_rollback(now, target, self.in_use), author, terms)

    async def accept_restored(self, author: str) -> ConfigVersion:
        """Send what was restored to those, too, that have seen newer; the version that says so."""
        await self._turn.acquire()
        try:
            for _ in range(MAX_ATTEMPTS):
                record = await accept(self.stored, author, self.clock.seconds())
                if record is not None:
                    self._take(self.current.with_changes(record.version, (), ()))
                    self.committed(record)
                    return record.version
                self._take(await self.stored.follow(self.current))
            raise ConfigBusyError
        finally:
            self._turn.release()

    async def create(self, kind: str, document: Mapping[str, Any], author: str) -> Stored:
        """One new object."""

        def decide(now: Configuration) -> Plan:
            name = document.get("name")
            if isinstance(name, str) and now.find(kind, name) is not None:
                raise ObjectExistsError(kind_word=kind, name=name)
            return plan_change(now, [{**document, "kind": kind}])

        plan = (await self._change(decide, author, aside=self._where([document]))).plan
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

        await self._change(decide, author, aside=self._where([document]))
        return self.current.objects[found[0]]

    async def delete(
        self,
        kind: str,
        name_or_uuid: str,
        author: str,
        expected: str | None = None,
        terms: Terms = PLAIN,
    ) -> Applied:
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

        return await self._change(decide, author, terms)

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
        self, decide: Decide, author: str, terms: Terms = PLAIN, aside: Aside = _here
    ) -> Applied:
        _check_note(terms.note)
        # Nobody's change waits for what only looks.
        if not terms.dry_run:
            await self._turn.acquire()
        try:
            for _ in range(MAX_ATTEMPTS):
                if applied := await self._once(decide, author, terms, aside):
                    return applied
                self._take(await self.stored.follow(self.current))
            raise ConfigBusyError
        finally:
            if not terms.dry_run:
                self._turn.release()

    async def _once(self, decide: Decide, author: str, terms: Terms, aside: Aside) -> Applied | None:
        """A change of what is in force now; None when another controller was faster."""
        before = self.current
        if terms.expected is not None and terms.expected != before.version:
            raise await self._moved(before.version, terms.expected)
        plan = await aside(partial(decide, before))
        for thing in plan.puts:
            size = len(msgspec.msgpack.encode(thing))
            if size > MAX_OBJECT_BYTES:
                raise ObjectTooLargeError(what=title(thing), size=size, limit=MAX_OBJECT_BYTES)
        if plan.empty:
            # That nothing is to be changed is an answer of the store as well: a leader that is none any more, or has no
            # quorum, does not know it.
            known = terms.dry_run or await self.stored.is_newest()
            return Applied(before.version, plan, before) if known else None
        change, after = self._outcome(before, plan)
        if terms.dry_run:
            return Applied(before.version, plan, after)
        if await self._commit(change, after, self._record(after.version, plan, author, terms)):
            return Applied(self.current.version, plan, self.current)
        return None

    async def _moved(self, now: ConfigVersion, expected: ConfigVersion) -> ConfigMovedError:
        """Who changed what since; a version that has not been made yet is as wrong as one that is over."""
        told = await self.history.since(expected, MAX_TOLD)
        lines = [
            f"version {record.version} by {record.author} ({'; '.join(said_of(record)) or 'nothing'})"
            for record in told
        ]
        more = now - expected - len(lines)
        if told and more > 0:
            lines.append(f"and {more} before")
        return ConfigMovedError(now=now, expected=expected, since=tuple(lines))

    def _outcome(self, before: Configuration, plan: Plan) -> tuple[Change, Configuration]:
        """What a plan does to the objects there are."""
        now_us = int(self.clock.seconds() * 1_000_000)
        puts: list[Stored] = []
        old: list[Stored] = [before.objects[uuid] for uuid in plan.deletes]
        for thing in plan.puts:
            was = before.objects.get(thing.uuid)
            # It counts up even when the clock does not, since it is what tells two changes apart.
            puts.append(Stored(thing, now_us if was is None else max(now_us, was.modified_us + 1)))
            if was is not None:
                old.append(was)
        after = before.with_changes(next_version(before), puts, plan.deletes)
        return Change(tuple(puts), plan.deletes, tuple(old)), after

    def _record(self, version: ConfigVersion, plan: Plan, author: str, terms: Terms) -> VersionRecord:
        return VersionRecord(
            version=version,
            change=uuid.uuid4().hex,
            author=author,
            at=self.clock.seconds(),
            created=plan.created,
            updated=plan.updated,
            deleted=plan.deleted,
            objects=len(plan.puts) + len(plan.deletes),
            note=terms.note,
            rolled_back_to=terms.rolled_back_to,
        )

    async def _commit(self, change: Change, after: Configuration, record: VersionRecord) -> bool:
        if not await self.stored.commit(change, record):
            return False
        self._take(after)
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


def said_of(record: VersionRecord, names: int = 3) -> list[str]:
    """What a version did, in words: ``updated pool/web``; of each kind of change the first ``names`` objects."""
    said: list[str] = []
    for word, objects in (
        ("created", record.created),
        ("updated", record.updated),
        ("deleted", record.deleted),
    ):
        if objects:
            more = f" and {len(objects) - names} more" if len(objects) > names else ""
            said.append(f"{word} {', '.join(objects[:names])}{more}")
    return said


def _check_note(note: str) -> None:
    if len(note) > MAX_NOTE:
        raise NoteError(limit=MAX_NOTE, what=f"has {len(note)}")
    if not note.isprintable():
        raise NoteError(limit=MAX_NOTE, what="has a line break or another character that does not print")
