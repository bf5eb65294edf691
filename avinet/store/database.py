"""The embedded store's file and everything that is done to it, in plain blocking calls on one thread.

Work comes in batches, and a batch is one SQLite transaction with one fsync: that is the group commit.  Each piece
of work still has its own outcome.  What a caller did wrong (a limit, an ended lease) is found before anything is
written, so it disturbs nobody; when SQLite itself fails, the batch is rolled back and done again piece by piece.
"""

import sqlite3
from collections.abc import Callable, Sequence
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import attrs
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.sqlite_file import open_file, rolled_back, translated
from avinet.store.interface import (
    NO_LEASE,
    Change,
    Compare,
    Delete,
    Entry,
    LeaseEndedError,
    LeaseId,
    Listing,
    Operation,
    Outcome,
    Put,
    StoreUnavailableError,
)
from avinet.store.storetime import Anchor, ReadClocks, Reading

_ENTRY = "SELECT key, value, revision, created_revision, lease FROM entry"


@attrs.frozen
class Batch:
    """What came of a batch: an outcome for each piece of work, and all changes, durable."""

    outcomes: tuple[Any, ...]
    """A value or a ``Failure``."""
    changes: tuple[Change, ...]
    next_end_s: float | None
    """Until the next lease ends; None without leases."""


class Database:
    """An open store file.  Not for use from two threads at once."""

    def __init__(self, path: Path, read_clocks: ReadClocks) -> None:
        self._path = path
        self._read_clocks = read_clocks
        self._connection = open_file(path, files("avinet.store") / "migrations")
        self._changes: list[Change] = []
        self._broken: str | None = None
        try:
            row = self._row("SELECT revision, store_s, boot_id, boot_s, wall_s FROM state")
            self._revision: int = row[0]
            now = read_clocks()
            # A store that never was open has no time to catch up with.
            anchor = Anchor(row[1], Reading(*row[2:]) if row[2] else now)
            self._anchor = Anchor(anchor.at(now), now)
            self._write_anchor()
        except sqlite3.Error as why:
            self._connection.close()
            raise translated(why, path) from why

    @property
    def revision(self) -> int:
        """The newest durable revision, between batches."""
        return self._revision

    def run(self, works: Sequence[Callable[["Database"], Any]]) -> Batch:
        """Do a batch; never raises."""
        self._expire()
        try:
            outcomes = self._commit(works)
        except Exception:  # noqa: BLE001 - whatever it was, each piece alone will show whose it is
            outcomes = list[Any]()
            for work in works:
                try:
                    outcomes += self._commit([work])
                except sqlite3.Error as why:
                    outcomes.append(Failure(self._translated(why)))
                except Exception:  # noqa: BLE001 - a defect of ours belongs to the caller that met it
                    outcomes.append(Failure())
        changes, self._changes = self._changes, []
        return Batch(tuple(outcomes), tuple(changes), self._next_end())

    def close(self) -> None:
        """Write the time down and let go of the file."""
        try:
            self._anchor = self._anchor_now()
            self._write_anchor()
        except sqlite3.Error:
            pass  # the older anchor says the same unless the machine boots and its clock is wrong
        finally:
            self._connection.close()

    # work: called inside a batch

    def get(self, key: bytes) -> Entry | None:
        """One entry."""
        row = self._connection.execute(f"{_ENTRY} WHERE key = ?", (key,)).fetchone()
        return _entry(row) if row else None

    def list_prefix(self, prefix: bytes) -> Listing:
        """Entries in key order; a range of the index, not a scan."""
        end = prefix.rstrip(b"\xff")
        if end:
            bounds: tuple[bytes, ...] = (prefix, end[:-1] + bytes([end[-1] + 1]))
            query = f"{_ENTRY} WHERE key >= ? AND key < ? ORDER BY key"
        else:
            bounds, query = (prefix,), f"{_ENTRY} WHERE key >= ? ORDER BY key"
        rows = self._connection.execute(query, bounds)
        return Listing(tuple(map(_entry, rows)), self._revision)

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        """Compare, then write; ``LeaseEndedError`` before anything is written."""
        for compare in compares:
            row = self._connection.execute(
                "SELECT revision FROM entry WHERE key = ?", (compare.key.encode(),)
            ).fetchone()
            if compare.revision != (row[0] if row else 0):
                return Outcome(succeeded=False, revision=self._revision)
        for operation in operations:
            if (
                isinstance(operation, Put)
                and operation.lease != NO_LEASE
                and not self._lives(operation.lease)
            ):
                raise LeaseEndedError(lease=operation.lease)
        self._write(operations)
        return Outcome(succeeded=True, revision=self._revision)

    def grant(self, ttl_s: float) -> LeaseId:
        """A new lease."""
        self._anchor = self._anchor_now()
        self._write_anchor()
        cursor = self._connection.execute(
            "INSERT INTO lease (ttl_s, ends_at) VALUES (?, ?)", (ttl_s, self._now() + ttl_s)
        )
        return LeaseId(cursor.lastrowid or 0)

    def keep_alive(self, lease: LeaseId) -> bool:
        """Renew a lease if it lives."""
        cursor = self._connection.execute(
            "UPDATE lease SET ends_at = ? + ttl_s WHERE id = ?", (self._now(), lease)
        )
        return cursor.rowcount == 1

    def revoke(self, lease: LeaseId) -> None:
        """End a lease and its keys, in one revision."""
        self._connection.execute("DELETE FROM lease WHERE id = ?", (lease,))
        rows = self._connection.execute(
            "SELECT key FROM entry WHERE lease = ? ORDER BY key", (lease,)
        ).fetchall()
        self._write([Delete(key.decode()) for (key,) in rows])

    def leases(self) -> dict[LeaseId, float]:
        """Those that live, and the seconds that are left of each."""
        now = self._now()
        rows = self._connection.execute("SELECT id, ends_at FROM lease ORDER BY id")
        return {LeaseId(lease): max(0.0, ends_at - now) for lease, ends_at in rows}

    # inside

    def _commit(self, works: Sequence[Callable[["Database"], Any]]) -> list[Any]:
        if self._broken is not None:
            raise StoreUnavailableError(where=str(self._path), detail=self._broken)
        outcomes: list[Any] = []
        revision, kept, anchor = self._revision, len(self._changes), self._anchor
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            for work in works:
                try:
                    outcomes.append(work(self))
                except AvinetError:
                    outcomes.append(Failure())
            if self._revision != revision:
                self._connection.execute("UPDATE state SET revision = ?", (self._revision,))
            self._connection.execute("COMMIT")
        except BaseException:
            rolled_back(self._connection)
            self._revision, self._anchor = revision, anchor
            del self._changes[kept:]
            raise
        return outcomes

    def _write(self, operations: Sequence[Operation]) -> None:
        revision = self._revision + 1
        changes: list[Change] = []
        for operation in operations:
            key = operation.key.encode()
            if isinstance(operation, Put):
                row = self._row(
                    "INSERT INTO entry VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET"
                    " value = excluded.value, revision = excluded.revision, lease = excluded.lease"
                    " RETURNING created_revision",
                    (key, bytes(operation.value), revision, revision, operation.lease),
                )
                entry = Entry(operation.key, bytes(operation.value), revision, row[0], operation.lease)
                changes.append(Change(operation.key, entry, revision))
            elif self._connection.execute("DELETE FROM entry WHERE key = ?", (key,)).rowcount:
                changes.append(Change(operation.key, None, revision))
        if changes:
            self._revision = revision
            self._changes += changes

    def _expire(self) -> None:
        """End the leases that are due, each in a revision of its own, before any work sees their keys.

        When the disk is full this waits: nothing can be written then, so nothing can be spent either.
        """
        try:
            due = self._connection.execute(
                "SELECT id FROM lease WHERE ends_at <= ?", (self._now(),)
            ).fetchall()
            if due:
                self._commit([partial(Database.revoke, lease=lease) for (lease,) in due])
        except (sqlite3.Error, AvinetError):
            return

    def _next_end(self) -> float | None:
        try:
            row = self._row("SELECT min(ends_at) FROM lease")
        except sqlite3.Error:
            return None
        return None if row[0] is None else max(0.0, float(row[0]) - self._now())

    def _lives(self, lease: LeaseId) -> bool:
        return self._connection.execute("SELECT 1 FROM lease WHERE id = ?", (lease,)).fetchone() is not None

    def _now(self) -> float:
        return self._anchor.at(self._read_clocks())

    def _anchor_now(self) -> Anchor:
        reading = self._read_clocks()
        return Anchor(self._anchor.at(reading), reading)

    def _write_anchor(self) -> None:
        reading = self._anchor.reading
        self._connection.execute(
            "UPDATE state SET store_s = ?, boot_id = ?, boot_s = ?, wall_s = ?",
            (self._anchor.store_s, reading.boot_id, reading.boot_s, reading.wall_s),
        )

    def _row(self, query: str, values: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._connection.execute(query, values).fetchone()
        return row

    def _translated(self, why: sqlite3.Error) -> AvinetError:
        if getattr(why, "sqlite_errorcode", 0) == sqlite3.SQLITE_IOERR_FSYNC:
            # The kernel may have dropped the pages it could not write: a later fsync that succeeds would lie.
            self._broken = "the disk failed to make a write durable; check it, then restart"
        return translated(why, self._path)


def _entry(row: tuple[Any, ...]) -> Entry:
    key, value, revision, created, lease = row
    return Entry(key.decode(), value, revision, created, LeaseId(lease))
