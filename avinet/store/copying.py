"""The whole of a store, taken out of one and put into another: keys, values, and what is left of leases.

Revisions are each store's own and do not come along; nothing that is kept refers to them.  Who copies sees to it that
nobody else writes meanwhile.
"""

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import attrs
from twisted.python.failure import Failure

from avinet.errors import AvinetError, Kind, error
from avinet.store.database import Database
from avinet.store.interface import (
    MAX_TXN_BYTES,
    MAX_TXN_OPS,
    NO_LEASE,
    Delete,
    Entry,
    LeaseId,
    Listing,
    Operation,
    Put,
    Store,
)
from avinet.store.storetime import ReadClocks, read_clocks
from avinet.trust.files import sync_folder

SHORTEST_REST_S = 10.0
"""Of a lease that was about to end, so that it does not while its keys are copied."""


@error
class CopyDiffersError(AvinetError):
    """What was copied into {where} is not what it was copied from: {what}. The original is as it was; try again, and see the log."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    where: str
    what: str


@attrs.frozen
class Content:
    """All of a store at ``revision``; ``rests`` has the seconds that are left of each lease."""

    entries: tuple[Entry, ...]
    rests: Mapping[LeaseId, float]
    revision: int


async def take(store: Store) -> Content:
    """All of ``store`` as of one revision, while others may go on writing."""
    listing = await store.list("")
    leases = sorted({entry.lease for entry in listing.entries} - {NO_LEASE})
    rests = {lease: await store.lease_rest(lease) for lease in leases}
    return living(Content(listing.entries, rests, listing.revision))


def living(content: Content) -> Content:
    """Without what ended meanwhile."""
    rests = {lease: rest for lease, rest in content.rests.items() if rest > 0.0}
    entries = tuple(e for e in content.entries if e.lease == NO_LEASE or e.lease in rests)
    return Content(entries, rests, content.revision)


def read_file(path: Path, clocks: ReadClocks = read_clocks) -> Content:
    """All of the embedded store in a file that nobody has open.  Blocking; errors as ``open_sqlite_store``'s."""
    database = Database(path, clocks)
    try:
        listing, rests = _outcomes(database, [lambda db: db.list_prefix(b""), Database.leases])
    finally:
        database.close()
    return Content(listing.entries, rests, listing.revision)


def write_file(path: Path, content: Content, clocks: ReadClocks = read_clocks) -> None:
    """An embedded store with this content at ``path``, whole or not at all; what was there is replaced.  Blocking."""
    beside = path.with_name(f".{path.name}.new")
    _remove(beside)
    database = Database(beside, clocks)
    try:
        leases = dict(
            zip(
                content.rests,
                _outcomes(
                    database,
                    [partial(Database.grant, ttl_s=_rest(seconds)) for seconds in content.rests.values()],
                ),
                strict=True,
            )
        )
        for operations in _pieces(content, leases):
            _outcomes(database, [partial(Database.transact, compares=(), operations=operations)])
    finally:
        database.close()
    beside.replace(path)
    sync_folder(path.parent)


async def fill(store: Store, content: Content) -> None:
    """Put everything into ``store``, which may hold what an earlier try left and loses all else."""
    await _clear(store)
    leases = {lease: await store.grant_lease(_rest(seconds)) for lease, seconds in content.rests.items()}
    for operations in _pieces(content, leases):
        await store.transact((), operations)


async def check_same(store: Store, content: Content, where: str) -> None:
    """``CopyDiffersError`` unless ``store`` holds exactly this; keys whose lease ended meanwhile may be gone."""
    found = {entry.key: entry for entry in (await store.list("")).entries}
    for entry in content.entries:
        copy = found.pop(entry.key, None)
        if copy is None:
            if entry.lease == NO_LEASE:
                raise CopyDiffersError(where=where, what=f"{entry.key} is missing")
        elif copy.value != entry.value or (copy.lease == NO_LEASE) != (entry.lease == NO_LEASE):
            raise CopyDiffersError(where=where, what=f"{entry.key} differs")
    if found:
        raise CopyDiffersError(where=where, what=f"{min(found)} was not there before")


async def _clear(store: Store) -> None:
    listing: Listing = await store.list("")
    keys = [entry.key for entry in listing.entries]
    for start in range(0, len(keys), MAX_TXN_OPS):
        await store.transact((), [Delete(key) for key in keys[start : start + MAX_TXN_OPS]])


def _pieces(content: Content, leases: Mapping[LeaseId, LeaseId]) -> Iterator[tuple[Operation, ...]]:
    """Everything as transactions within the limits; leases are the new store's."""
    piece: list[Operation] = []
    size = 0
    for entry in content.entries:
        cost = len(entry.key.encode()) + len(entry.value)
        if piece and (len(piece) == MAX_TXN_OPS or size + cost > MAX_TXN_BYTES):
            yield tuple(piece)
            piece, size = [], 0
        piece.append(Put(entry.key, entry.value, leases.get(entry.lease, NO_LEASE)))
        size += cost
    if piece:
        yield tuple(piece)


def _rest(seconds: float) -> float:
    return max(SHORTEST_REST_S, seconds)


def _outcomes(database: Database, works: Any) -> tuple[Any, ...]:
    outcomes = database.run(works).outcomes
    for outcome in outcomes:
        if isinstance(outcome, Failure):
            outcome.raiseException()
    return outcomes


def _remove(path: Path) -> None:
    for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
        path.with_name(name).unlink(missing_ok=True)
