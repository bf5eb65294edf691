"""The configuration in the store (``avinet.controller.config_entries`` says how it lies there): read and written.

Small changes of others come with the store's watch (``avinet.controller.config_news``); what does not is read.
"""

import uuid
from collections.abc import Iterable, Sequence

import attrs
import msgspec

from avinet.controller.config_entries import (
    CHANGE,
    CHECKPOINT,
    HEAD,
    NAMES_KEPT,
    VERSION,
    Change,
    ConfigDamagedError,
    Head,
    Item,
    VersionRecord,
    decoded,
    item_of,
    piece_key,
    pieces_of,
    version_key,
)
from avinet.controller.config_news import News
from avinet.model.configuration import Configuration
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from avinet.store.interface import MAX_TXN_OPS, Compare, Delete, Operation, Put, Store
from avinet.units import MIB

MAX_COMPARES = MAX_TXN_OPS - 10
"""Pieces that one transaction can look after."""
CHECKPOINT_EVERY = 100
"""Versions between checkpoints: a start applies at most so many changes."""
CHECKPOINT_BYTES = 16 * MIB
"""Of changes between checkpoints: a start after many large ones takes no longer than after one."""
HISTORY_VERSIONS = 1_000
"""A busy month; going back over all of them takes a quarter of a second."""
HISTORY_BYTES = 32 * MIB
"""A start reads all of it once to find leftovers (50 ms), and etcd keeps 2 GiB in all."""
MAX_FOLLOWED = CHECKPOINT_EVERY
"""Versions that are taken change by change; who is further behind reads all of it, as at a start."""


@attrs.frozen
class HistoryLimits:
    """How far back versions can be shown and rolled back to.  Those since the last checkpoint are kept in any case."""

    versions: int = HISTORY_VERSIONS
    size: int = HISTORY_BYTES


@attrs.define(eq=False)
class ConfigStore:
    """Reads and writes its keys.  One writer at a time uses it; another process is met by the compare."""

    store: Store
    limits: HistoryLimits = attrs.field(factory=HistoryLimits)
    term: int = attrs.field(default=0, init=False)
    """Of who leads here; what it commits, and what it orders, bears it."""
    head: Head = attrs.field(factory=Head, init=False)
    _revision: int = attrs.field(default=0, init=False)
    _since_checkpoint: int = attrs.field(default=0, init=False)
    """Bytes of changes."""

    @property
    def fence(self) -> Fence:
        """What every order of who leads here carries."""
        head = self.head
        return Fence(head.incarnation, max(head.term, self.term), head.version)

    @property
    def revision(self) -> int:
        """The store's, of the head as it is known here; 0 when there is none."""
        return self._revision

    async def load(self) -> Configuration:
        """The configuration in force."""
        while True:
            await self.read_head()
            begun = self._revision
            try:
                return await self._read()
            except ConfigDamagedError:
                # Who leads may have written a checkpoint meanwhile, and removed what this was about to read.
                await self.read_head()
                if self._revision == begun:
                    raise

    async def follow(self, now: Configuration, news: Sequence[News] = ()) -> Configuration:
        """The configuration in force, from one that was: by the changes since, where they are few and still kept.

        Where ``news`` have all of them, nothing is read, and what comes after them is not known.
        """
        after, size = now, 0
        for one in news:
            if one.head.version == after.version + 1 and one.change is not None:
                after = after.with_changes(one.head.version, one.change.puts, one.change.deletes)
                size += one.size
        if news and news[-1].head.version == after.version and news[-1].revision > self._revision:
            self._moved(news[-1].head, news[-1].revision, size)
            return after
        entry = await self.store.get(HEAD)
        head = Head() if entry is None else decoded(entry.value, Head, HEAD)
        if entry is None or not 0 <= head.version - now.version <= MAX_FOLLOWED:
            return await self.load()
        after, size = now, 0
        for version in range(now.version + 1, head.version + 1):
            stored = await self.store.get(version_key(version))
            if stored is None:
                return await self.load()
            record = decoded(stored.value, VersionRecord, stored.key)
            try:
                change = await self.change_of(record)
            except ConfigDamagedError:
                return await self.load()
            after = after.with_changes(record.version, change.puts, change.deletes)
            size += record.size
        self._moved(head, entry.revision, size)
        return after

    def _moved(self, head: Head, revision: int, size: int) -> None:
        """Memory and head move together: what is decided on the one is compared with the other."""
        since = self._since_checkpoint if head.checkpoint == self.head.checkpoint else 0
        self._since_checkpoint = since + size
        self.head, self._revision = head, revision

    async def _read(self) -> Configuration:
        configuration = Configuration()
        if self.head.checkpoint:
            items = await self._items(f"{CHECKPOINT}{self.head.checkpoint}/", self.head.checkpoint_pieces)
            configuration = _applied(configuration, self.head.checkpoint_version, items)
        records = await self.records()
        self._since_checkpoint = 0
        for record in records:
            if self.head.checkpoint_version < record.version <= self.head.version:
                items = await self._items(f"{CHANGE}{record.change}/", record.pieces)
                configuration = _applied(configuration, record.version, items)
                self._since_checkpoint += record.size
        if configuration.version != self.head.version:
            raise ConfigDamagedError(key=HEAD, why=f"version {self.head.version} is not there")
        return configuration

    async def read_head(self) -> None:
        """What is in force, as the store has it now."""
        entry = await self.store.get(HEAD)
        self._revision = 0 if entry is None else entry.revision
        self.head = Head() if entry is None else decoded(entry.value, Head, HEAD)

    async def change_of(self, record: VersionRecord) -> Change:
        """What a version did."""
        return Change.of(await self._items(f"{CHANGE}{record.change}/", record.pieces))

    async def records(self) -> list[VersionRecord]:
        """Every version that is kept, oldest first."""
        listing = await self.store.list(VERSION)
        return [decoded(entry.value, VersionRecord, entry.key) for entry in listing.entries]

    async def _items(self, prefix: str, pieces: int) -> list[Item]:
        entries = (await self.store.list(prefix)).entries
        if len(entries) != pieces:
            raise ConfigDamagedError(key=prefix, why=f"it has {len(entries)} pieces instead of {pieces}")
        items: list[Item] = []
        for entry in entries:
            items.extend(decoded(entry.value, list[Item], entry.key))
        return items

    async def is_newest(self) -> bool:
        """Whether the store still has the head that is known here."""
        return (await self.store.transact([Compare(HEAD, self._revision)], [])).succeeded

    async def commit(self, done: Change, record: VersionRecord, after: Head | None = None) -> bool:
        """Make the change that ``record`` tells of the version in force; False when another writer was first.

        ``after`` has what else of the head is to change with it.
        """
        change = record.change
        pieces = [(piece_key(change, n), piece) for n, piece in enumerate(pieces_of(done.items()))]
        pieces = pieces or [(piece_key(change, 0), msgspec.msgpack.encode([]))]  # so that it can be undone
        # All but the last piece are staged; the last travels with the head, so that a small change is one fsync.
        compares = [Compare(HEAD, self._revision)]
        for key, piece in pieces[:-1]:
            staged = await self.store.transact([], [Put(key, piece)])
            # Another that begins to lead meanwhile takes what is staged for leftovers and removes it.
            compares.append(Compare(key, staged.revision))
        head = msgspec.structs.replace(after or self.head, version=record.version, term=self.fence.term)
        kept = msgspec.structs.replace(
            record,
            pieces=len(pieces),
            size=sum(len(piece) for _, piece in pieces),
            created=record.created[:NAMES_KEPT],
            updated=record.updated[:NAMES_KEPT],
            deleted=record.deleted[:NAMES_KEPT],
        )
        operations: list[Operation] = [Put(key, piece) for key, piece in pieces[-1:]]
        operations += [
            Put(version_key(record.version), msgspec.msgpack.encode(kept)),
            Put(HEAD, msgspec.msgpack.encode(head)),
        ]
        outcome = await self.store.transact(compares[:1] + compares[1:][-MAX_COMPARES:], operations)
        if outcome.succeeded:
            self.head, self._revision = head, outcome.revision
            self._since_checkpoint += kept.size
        else:
            await self._remove([key for key, _ in pieces[:-1]])
        return outcome.succeeded

    @property
    def checkpoint_due(self) -> bool:
        """Whether enough has come since the last one."""
        behind = self.head.version - self.head.checkpoint_version
        return behind >= CHECKPOINT_EVERY or self._since_checkpoint >= CHECKPOINT_BYTES

    async def checkpoint(self, configuration: Configuration) -> None:
        """Write all of ``configuration``, then forget the checkpoint before and what the limits leave no room for."""
        name = uuid.uuid4().hex
        written: list[str] = []
        compares = [Compare(HEAD, self._revision)]
        for n, piece in enumerate(pieces_of(map(item_of, configuration.objects.values()))):
            written.append(f"{CHECKPOINT}{name}/{n:05d}")
            staged = await self.store.transact([], [Put(written[-1], piece)])
            compares.append(Compare(written[-1], staged.revision))
        old = self.head
        head = msgspec.structs.replace(
            old,
            checkpoint=name,
            checkpoint_pieces=len(written),
            checkpoint_version=configuration.version,
        )
        # More pieces than a transaction compares are 20 MiB; the last ones then stand for all.
        outcome = await self.store.transact(
            compares[:1] + compares[1:][-MAX_COMPARES:], [Put(HEAD, msgspec.msgpack.encode(head))]
        )
        if not outcome.succeeded:
            await self._remove(written)
            return
        self.head, self._revision = head, outcome.revision
        self._since_checkpoint = 0
        gone = [f"{CHECKPOINT}{old.checkpoint}/{n:05d}" for n in range(old.checkpoint_pieces)]
        records = await self.records()
        kept = len(records) - self._newest(records)
        for record in records[:kept]:
            gone.append(version_key(record.version))
            gone += [piece_key(record.change, n) for n in range(record.pieces)]
        await self._remove(gone)

    def _newest(self, records: Sequence[VersionRecord]) -> int:
        """How many of them, from the newest on, are kept.  The newest always is, so that there is a history."""
        size = 0
        for count, record in enumerate(reversed(records)):
            size += record.size
            if count and (count >= self.limits.versions or size > self.limits.size):
                return count
        return len(records)

    async def pieces(self) -> list[str]:
        """The keys of all pieces, of changes and of checkpoints."""
        return [e.key for prefix in (CHANGE, CHECKPOINT) for e in (await self.store.list(prefix)).entries]

    async def sweep(self, pieces: Sequence[str]) -> None:
        """Remove those that no version and no head names now: crashed writers left them.  Nobody may be staging any."""
        named = {record.change for record in await self.records()} | {self.head.checkpoint}
        await self._remove([key for key in pieces if key.split("/")[2] not in named])

    async def _remove(self, keys: Sequence[str]) -> None:
        for start in range(0, len(keys), 50):
            await self.store.transact([], [Delete(key) for key in keys[start : start + 50]])


def _applied(before: Configuration, version: ConfigVersion, items: Iterable[Item]) -> Configuration:
    done = Change.of(items)
    return before.with_changes(version, done.puts, done.deletes)
