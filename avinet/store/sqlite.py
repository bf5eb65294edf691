"""The embedded store: one SQLite file behind one thread, many transactions a fsync.

Callers' work waits in a queue; when the thread is free, all that waits (up to a bound) becomes one batch, see
``avinet.store.database``.  So one slow fsync serves everyone who came meanwhile, nobody waits for a timer, and an
idle store answers at once.  Reads go through the same queue, which makes them linearizable without a thought.
"""

from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import attrs
from twisted.internet.defer import Deferred, fail
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.store.database import Batch, Database
from avinet.store.interface import (
    Change,
    Compare,
    Entry,
    LeaseId,
    Listing,
    Operation,
    Outcome,
    Store,
    StoreUnavailableError,
    Watch,
)
from avinet.store.limits import check_key, check_transaction, check_ttl
from avinet.store.storetime import ReadClocks, read_clocks
from avinet.store.threads import OwnThread, Runner
from avinet.store.watches import MAX_HISTORY_CHANGES, WatchHub

MAX_BATCH = 500
"""Pieces of work a transaction: at some 20 us each, 10 ms, the time of one fsync on a common disk."""
MAX_WAITING = 10_000
MAX_WAITING_BYTES = 64 * 1024 * 1024
"""Over either bound the caller is told to come later instead of the queue growing without end."""
LEASE_CHECK_S = 10.0
"""Leases are looked at no later than this, since reactor timers follow the wall clock and it may be set back."""
LEASE_SLACK_S = 0.01
"""A timer may fire a hair early."""

_T = TypeVar("_T")


@attrs.frozen(eq=False)
class _Work:
    do: Callable[[Database], Any]
    size: int
    done: Deferred[Any]


class SqliteStore:
    """A ``Store`` over an open ``Database``; made by ``open_sqlite_store``."""

    _log = Logger()

    def __init__(
        self, path: Path, clock: IReactorTime, runner: Runner, database: Database, *, max_history: int
    ) -> None:
        self._path = path
        self._clock = clock
        self._runner = runner
        self._database = database
        self._hub = WatchHub(clock, database.revision, max_changes=max_history)
        self._waiting: deque[_Work] = deque()
        self._waiting_bytes = 0
        self._busy = False
        self._lease_check: IDelayedCall | None = None
        self._closing: list[Deferred[None]] | None = None
        self._closed = False
        self._submit(lambda database: None)  # the leases that ended while it was closed

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry at ``key``, or None."""
        try:
            encoded = check_key(key)
        except AvinetError:
            return fail()
        return self._submit(lambda database: database.get(encoded))

    def list(self, prefix: str) -> Deferred[Listing]:
        """Every entry whose key starts with ``prefix``, in key order."""
        return self._submit(lambda database: database.list_prefix(prefix.encode()))

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold, else nothing; durable when it fires."""
        wanted, writes = tuple(compares), tuple(operations)
        try:
            size = check_transaction(wanted, writes)
        except AvinetError:
            return fail()
        return self._submit(lambda database: database.transact(wanted, writes), size)

    def watch(
        self,
        prefix: str,
        after_revision: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> Watch:
        """Report every change after ``after_revision``."""
        return self._hub.watch(prefix, after_revision, on_changes, on_lost)

    def grant_lease(self, ttl_s: float) -> Deferred[LeaseId]:
        """A new lease that lasts ``ttl_s`` from now unless kept alive."""
        try:
            check_ttl(ttl_s)
        except AvinetError:
            return fail()
        return self._submit(lambda database: database.grant(ttl_s))

    def keep_alive(self, lease: LeaseId) -> Deferred[bool]:
        """Renew a lease for its whole time; False when it has ended already."""
        return self._submit(lambda database: database.keep_alive(lease))

    def revoke_lease(self, lease: LeaseId) -> Deferred[None]:
        """End a lease and delete its keys."""
        return self._submit(lambda database: database.revoke(lease))

    def lease_rest(self, lease: LeaseId) -> Deferred[float]:
        """The seconds that are left of a lease; 0 when it has ended."""
        return self._submit(lambda database: database.leases().get(lease, 0.0))

    def close(self) -> Deferred[None]:
        """Finish what is under way, then release everything; leases go on counting while closed."""
        done: Deferred[None] = Deferred()
        if self._closed:
            done.callback(None)
        elif self._closing is not None:
            self._closing.append(done)
        else:
            self._closing = [done]
            self._next()
        return done

    def _submit(self, do: Callable[[Database], _T], size: int = 0) -> Deferred[_T]:
        if self._closing is not None:
            return fail(StoreUnavailableError(where=str(self._path), detail="it is closed"))
        if len(self._waiting) >= MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
            return fail(StoreUnavailableError(where=str(self._path), detail="too much work is waiting"))
        work = _Work(do, size, Deferred())
        self._waiting.append(work)
        self._waiting_bytes += size
        self._next()
        return work.done

    def _next(self) -> None:
        if self._busy:
            return
        if not self._waiting:
            if self._closing is not None and not self._closed:
                self._busy = True
                self._let_go()
            return
        batch = tuple(self._waiting.popleft() for _ in range(min(len(self._waiting), MAX_BATCH)))
        self._waiting_bytes -= sum(work.size for work in batch)
        self._busy = True
        running = self._runner.run(lambda: self._database.run([work.do for work in batch]))
        running.addCallbacks(self._finished, self._failed, callbackArgs=(batch,), errbackArgs=(batch,))

    def _finished(self, result: Batch, batch: tuple[_Work, ...]) -> None:
        self._busy = False
        if result.changes:
            self._hub.publish(result.changes)
        self._check_leases_in(result.next_end_s)
        for work, outcome in zip(batch, result.outcomes, strict=True):
            work.done.callback(outcome)  # a Failure becomes an errback
        self._next()

    def _failed(self, failure: Failure, batch: tuple[_Work, ...]) -> None:
        self._busy = False
        self._log.failure("the store's thread failed", failure=failure)
        for work in batch:
            detail = "its thread failed; the log says how"
            work.done.errback(StoreUnavailableError(where=str(self._path), detail=detail))
        self._next()

    def _check_leases_in(self, seconds: float | None) -> None:
        if self._lease_check is not None and self._lease_check.active():
            self._lease_check.cancel()
        self._lease_check = None
        if seconds is not None and self._closing is None:
            delay = min(seconds + LEASE_SLACK_S, LEASE_CHECK_S)
            self._lease_check = self._clock.callLater(delay, self._check_leases)

    def _check_leases(self) -> None:
        self._lease_check = None
        if self._closing is None:
            self._submit(lambda database: None).addErrback(lambda failure: None)

    def _let_go(self) -> None:
        self._check_leases_in(None)
        self._hub.close(str(self._path))
        self._runner.run(self._database.close).addBoth(self._gone)

    def _gone(self, result: object) -> None:
        self._closed = True
        if isinstance(result, Failure):
            self._log.failure("closing the store failed", failure=result)
        self._runner.stop()
        for done in self._closing or ():
            done.callback(None)


def open_sqlite_store(
    path: Path,
    reactor: Any,
    *,
    runner: Runner | None = None,
    clocks: ReadClocks = read_clocks,
    max_history: int = MAX_HISTORY_CHANGES,
) -> Deferred[Store]:
    """Open or make the store at ``path``; ``reactor`` is a clock and, unless a runner is given, runs its thread.

    Fails with ``SchemaNewerError``, ``StoreDamagedError``, ``StoreFullError`` or ``StoreUnavailableError``.
    """
    thread = OwnThread(reactor, "store") if runner is None else runner

    async def opening() -> Store:
        try:
            database = await thread.run(lambda: Database(path, clocks))
        except BaseException:
            thread.stop()
            raise
        return SqliteStore(path, reactor, thread, database, max_history=max_history)

    return Deferred.fromCoroutine(opening())
