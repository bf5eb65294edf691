"""The service engines of this cluster: created, enrolled, approved, disabled, quarantined, deleted.

Every change goes the same way: decide on the record in memory, write it to the store with a compare on the
revision it was decided on, and only then change memory, the SSH permits, and tell the listeners.  When the
compare fails, another controller was faster or an earlier answer of the store was lost: the record is read
again and the decision is made anew.

In the store an SE is ``se/<uuid>``, with keys beside it that make promises exact whoever writes:
``se-key/<thumbprint>``, ``se-loopback/<address>`` and ``se-name/<name>`` each belong to one SE.  A deleted
SE's record stays, so that its machine is told 410 and its address rests; the oldest go beyond ``MAX_DELETED``.
"""

import re
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.controller.engine_errors import (
    EngineBusyError,
    EngineDeletedError,
    EngineNameError,
    EngineNameTakenError,
    EngineNotFoundError,
    EngineStateError,
    TooManyEnginesError,
)
from avinet.controller.engine_index import EngineIndex, Held
from avinet.controller.permits import Permits
from avinet.controller.tokens import NewToken, Tokens, revocation
from avinet.model.engine import Lifecycle, SeRecord, SeState, state_of
from avinet.model.events import Level
from avinet.model.ids import SeId, new_se_id
from avinet.store.interface import Change, Compare, Delete, Entry, Operation, Put, Store

RECORD = "se/"
KEY = "se-key/"
LOOPBACK = "se-loopback/"
NAME = "se-name/"

MAX_DELETED = 10_000
"""Records of deleted SEs that are kept: about 5 MB."""
MAX_ENGINES = 20_000
"""Beyond the largest fleet we measure (8,000); a runaway script stops here."""
MAX_ATTEMPTS = 8
"""Decisions made anew in one call before giving up; each needs another writer to have been faster."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class Emit(Protocol):
    """``Events.emit``."""

    def __call__(self, code: str, level: Level, subject: str, text: str, **facts: Any) -> None:
        """Record one event."""


Listener = Callable[[SeRecord | None, SeRecord], None]
"""Told of each change that the store has, with the record before (None when new) and after."""


def encode(record: SeRecord) -> bytes:
    """As stored."""
    return msgspec.json.encode(record)


def decode(value: bytes) -> SeRecord:
    """The inverse; unknown fields of a newer version are left out."""
    return msgspec.json.decode(value, type=SeRecord)


@attrs.define(eq=False)
class Engines:
    """The registry.  ``load`` before anything else; ``permits`` is started and stopped by its owner."""

    store: Store
    clock: IReactorTime
    emit: Emit
    tokens: Tokens
    permits: Permits
    index: EngineIndex = attrs.field(factory=EngineIndex)
    _listeners: list[Listener] = attrs.field(factory=list, init=False, repr=False)
    _creating: set[str] = attrs.field(factory=set, init=False, repr=False)

    def listen(self, listener: Listener) -> None:
        """Call ``listener(before, after)`` after each change: drop the session of one that may not connect."""
        self._listeners.append(listener)

    async def load(self) -> None:
        """Read every record, address and token from the store."""
        for entry in (await self.store.list(RECORD)).entries:
            record = decode(entry.value)
            self.index.put(record, entry.revision)
            self.permits.update(record)
        for entry in (await self.store.list(LOOPBACK)).entries:
            self._take_address(entry)
        await self.tokens.load()

    # Following, see ``Mirror``

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Records first: an address's rest is its holder's."""
        return RECORD, LOOPBACK

    def revisions(self) -> dict[str, int]:
        """Of every record and address."""
        found = {RECORD + se: revision for se, revision in self.index.revisions()}
        found.update((LOOPBACK + address, revision) for address, revision in self.index.address_revisions())
        return found

    def took(self, changes: Sequence[Change]) -> None:
        """What others wrote."""
        for change in changes:
            name = change.key.removeprefix(RECORD)
            if change.key.startswith(LOOPBACK):
                if change.entry is not None:
                    self._take_address(change.entry)
            elif change.entry is None:
                self._gone(SeId(name))
            else:
                self._take(decode(change.entry.value), change.revision)

    def _take(self, record: SeRecord, revision: int) -> None:
        """The store has ``record``: memory, permits, listeners; unless memory has it, or a later one, already."""
        before = self.index.get(record.uuid)
        if before is None or before.revision < revision:
            self.index.put(record, revision)
            self._tell(None if before is None else before.record, record)

    def _tell(self, before: SeRecord | None, after: SeRecord) -> None:
        self.permits.update(after)
        for listener in self._listeners:
            listener(before, after)

    def _take_address(self, entry: Entry) -> None:
        address = entry.key.removeprefix(LOOPBACK)
        if self.index.address_revision(address) < entry.revision:
            self.index.hold_address(address, SeId(entry.value.decode()), entry.revision)

    def _gone(self, se: SeId) -> None:
        """The record of an SE deleted long ago, which is kept no longer; any other is told of as deleted."""
        held = self.index.get(se)
        if held is not None and held.record.lifecycle is not Lifecycle.DELETED:
            ended = msgspec.structs.replace(
                held.record, lifecycle=Lifecycle.DELETED, deleted_at=self.clock.seconds()
            )
            self.index.put(ended, held.revision)
            self._tell(held.record, ended)
        self.index.forget(se)

    # Questions

    def all(self) -> tuple[SeRecord, ...]:
        """Every SE that is not deleted."""
        return tuple(self.index)

    def find(self, se: str) -> SeRecord | None:
        """The record with this UUID, deleted ones included."""
        held = self.index.get(SeId(se))
        return None if held is None else held.record

    def named(self, name_or_uuid: str) -> SeRecord:
        """The SE with this UUID or name; ``EngineNotFoundError`` when there is none."""
        held = self.index.get(SeId(name_or_uuid)) or self.index.by_name(name_or_uuid)
        if held is None or held.record.lifecycle is Lifecycle.DELETED:
            raise EngineNotFoundError(se=name_or_uuid)
        return held.record

    def state(self, se: SeId, *, attached: bool) -> SeState:
        """The word that an operator reads."""
        return state_of(self._live(se).record, attached=attached)

    def _live(self, se: str) -> Held:
        held = self.index.get(SeId(se))
        if held is None:
            raise EngineNotFoundError(se=se)
        if held.record.lifecycle is Lifecycle.DELETED:
            raise EngineDeletedError(se=se)
        return held

    # Creation

    async def create(self, name: str, group: str, cloud: str = "manual") -> tuple[SeRecord, NewToken]:
        """A record in state CREATING and the one-time token bound to it, in one transaction."""
        self.check_new_name(name)
        self._creating.add(name)
        try:
            record, token = await self._create(name, group, cloud)
        finally:
            self._creating.discard(name)
        self.emit(
            "SE_CREATED",
            Level.INFO,
            record.uuid,
            f"Service engine {name} was created in group {group}.",
            name=name,
            group=group,
            cloud=cloud,
            loopback=record.loopback,
        )
        return record, token

    async def _create(self, name: str, group: str, cloud: str) -> tuple[SeRecord, NewToken]:
        for _ in range(MAX_ATTEMPTS):
            self._check_not_taken(name)
            record = self.fresh(name, group, cloud=cloud)
            try:
                token = await self.tokens.prepare(group, record.uuid)
                if await self.write_new(record, (), token.puts):
                    self.tokens.adopt(token, self._live(record.uuid).revision)
                    return record, token
            finally:
                self.index.release(record.loopback)
        raise EngineBusyError(se=name)

    async def reissue(self, se: str) -> NewToken:
        """A new token for a record that has not enrolled, in place of those it had."""
        record = self._live(se).record
        if record.lifecycle is not Lifecycle.CREATING:
            raise EngineStateError(
                se=record.name, lifecycle=record.lifecycle, action="a new token", wanted=Lifecycle.CREATING
            )
        for old in self.tokens.withdrawal(record.uuid):
            await self.tokens.revoke(old.id)
        return await self.tokens.issue(record.group, se=record.uuid)

    def check_new_name(self, name: str) -> None:
        """Refuse a name that is malformed or in use, or one more SE than there may be."""
        if _NAME.fullmatch(name) is None:
            raise EngineNameError(name=name)
        self._check_not_taken(name)
        if name in self._creating:
            raise EngineNameTakenError(name=name, se=SeId("being created now"))
        if len(self.index) >= MAX_ENGINES:
            raise TooManyEnginesError(limit=MAX_ENGINES)

    def _check_not_taken(self, name: str) -> None:
        taken = self.index.by_name(name)
        if taken is not None:
            raise EngineNameTakenError(name=name, se=taken.record.uuid)

    def fresh(self, name: str, group: str, cloud: str = "manual") -> SeRecord:
        """A new record with a new UUID and a reserved address, which the caller releases in the end.

        Without a name it is called by the beginning of its UUID.
        """
        se = new_se_id()
        now = self.clock.seconds()
        return SeRecord(
            uuid=se,
            name=name or se[:11],
            group=group,
            loopback=self.index.reserve(now),
            cloud=cloud,
            created_at=now,
        )

    # Writing

    async def write_new(
        self, record: SeRecord, compares: Sequence[Compare], operations: Sequence[Operation]
    ) -> bool:
        """Store a record with the address it holds; False when something was not as memory believed."""
        address, name, se = LOOPBACK + record.loopback, NAME + record.name, record.uuid.encode()
        outcome = await self.store.transact(
            [Compare(address, self.index.address_revision(record.loopback)), Compare(name, 0), *compares],
            [Put(RECORD + record.uuid, encode(record)), Put(address, se), Put(name, se), *operations],
        )
        if outcome.succeeded:
            if not outcome.followed:
                self._take(record, outcome.revision)
                self.index.hold_address(record.loopback, record.uuid, outcome.revision)
        else:
            await self._refresh_address(record.loopback)
            await self.refresh_holder(name)
        return outcome.succeeded

    async def write(
        self,
        held: Held,
        after: SeRecord,
        compares: Sequence[Compare] = (),
        operations: Sequence[Operation] = (),
    ) -> bool:
        """Store a decision about ``held``; False when the record or something compared had changed."""
        key = RECORD + after.uuid
        outcome = await self.store.transact(
            [Compare(key, held.revision), *compares], [Put(key, encode(after)), *operations]
        )
        if not outcome.succeeded:
            await self.refresh(after.uuid)
        elif not outcome.followed:
            self._take(after, outcome.revision)
        return outcome.succeeded

    async def refresh(self, se: SeId) -> None:
        """Take from the store what it says about one SE."""
        entry = await self.store.get(RECORD + se)
        if entry is None:
            self._gone(se)
            return
        record = decode(entry.value)
        self._take(record, entry.revision)
        await self._refresh_address(record.loopback)

    async def refresh_holder(self, key: str) -> None:
        """Take from the store the SE that ``se-key/...`` or ``se-name/...`` belongs to."""
        entry = await self.store.get(key)
        if entry is not None:
            await self.refresh(SeId(entry.value.decode()))

    async def _refresh_address(self, address: str) -> None:
        entry = await self.store.get(LOOPBACK + address)
        if entry is None or entry.revision == self.index.address_revision(address):
            return
        holder = SeId(entry.value.decode())
        if self.index.get(holder) is None:
            found = await self.store.get(RECORD + holder)
            if found is not None:
                self._take(decode(found.value), found.revision)
        self._take_address(entry)

    async def change(self, se: str, decide: Callable[[SeRecord], SeRecord]) -> SeRecord:
        """Apply ``decide`` to the record as it stands; it raises to refuse, and is called again after a race."""
        for _ in range(MAX_ATTEMPTS):
            held = self._live(se)
            after = decide(held.record)
            if after == held.record or await self.write(held, after):
                return after
        raise EngineBusyError(se=se)

    # Deletion

    async def delete(self, se: str) -> SeRecord:
        """The SE never comes back under this UUID or key; its address rests, its tokens end."""
        for _ in range(MAX_ATTEMPTS):
            held = self._live(se)
            after = msgspec.structs.replace(
                held.record, lifecycle=Lifecycle.DELETED, deleted_at=self.clock.seconds()
            )
            withdrawn = self.tokens.withdrawal(after.uuid)[:10]
            ended = [operation for record in withdrawn for operation in revocation(record)]
            ended.append(Delete(NAME + after.name))
            if await self.write(held, after, operations=ended):
                self.tokens.withdrawn(withdrawn)
                break
        else:
            raise EngineBusyError(se=se)
        self.emit(
            "SE_DELETED", Level.INFO, after.uuid, f"Service engine {after.name} was deleted.", name=after.name
        )
        await self._drop_oldest_deleted()
        return after

    async def _drop_oldest_deleted(self) -> None:
        old = self.index.oldest_deleted(MAX_DELETED)
        if old is None:
            return
        record = old.record
        operations: list[Operation] = [Delete(RECORD + record.uuid)]
        if record.thumbprint is not None:
            operations.append(Delete(KEY + record.thumbprint))
        outcome = await self.store.transact([Compare(RECORD + record.uuid, old.revision)], operations)
        if outcome.succeeded:
            self.index.forget(record.uuid)
