"""The store on etcd, for controllers that are several.

Reads are etcd's linearizable ones; transactions go through ``avinet.store.etcd_turns``, which does each once;
watches through ``avinet.store.etcd_watch``.  Revisions are etcd's own, so they go up by one a change as the embedded
stores' do, but begin at 1, and other changes count along: a session's end, other users of a shared etcd.
"""

from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail

from avinet.errors import AvinetError
from avinet.store.etcd_gateway import COMPACTED, AnswerTooLargeError, Gateway, RefusedError
from avinet.store.etcd_http import EtcdAccess, TreqHttp
from avinet.store.etcd_leases import Leases
from avinet.store.etcd_messages import Keyspace, RangeAnswer
from avinet.store.etcd_turns import Turns
from avinet.store.etcd_watch import EtcdWatch, Watcher
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

READS = 32
"""Reads and leases under way at a time; each has a connection."""
MAX_WAITING = 10_000
FIRST_PAGE = 32
LARGEST_PAGE = 128
"""Entries.  Small ones may be followed by as many of the largest: an answer that is cut off here, and for which etcd
took some 4 MiB each."""
PAGE_BYTES = 1024 * 1024
"""What a page should hold: many round trips' worth, and little beside what the whole takes."""
MAX_RESTARTS = 5
"""Of a listing that compaction overtook."""

_T = TypeVar("_T")


class _Reads:
    """What is under way, and what waits for a place."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Callable[[], Coroutine[Any, Any, Any]], Deferred[Any]]] = deque()
        self._running = 0
        self._beginning = False
        self._idle: Deferred[None] | None = None

    @property
    def full(self) -> bool:
        """Whether no more may wait."""
        return len(self._waiting) >= MAX_WAITING

    def run(self, work: Callable[[], Coroutine[Any, Any, _T]]) -> Deferred[_T]:
        """Do it when there is a place."""
        done: Deferred[_T] = Deferred()
        self._waiting.append((work, done))
        self._next()
        return done

    def idle(self) -> Deferred[None]:
        """When nothing is under way."""
        self._idle = Deferred()
        self._next()
        return self._idle

    def _next(self) -> None:
        if self._beginning:
            return  # ten thousand that fail at once would nest
        self._beginning = True
        while self._waiting and self._running < READS:
            work, done = self._waiting.popleft()
            self._running += 1
            Deferred.fromCoroutine(work()).addBoth(self._over, done)
        self._beginning = False
        if self._idle is not None and not self._running and not self._idle.called:
            self._idle.callback(None)

    def _over(self, result: Any, done: Deferred[Any]) -> None:
        self._running -= 1
        done.callback(result)  # a Failure becomes an errback
        self._next()


class EtcdStore:
    """A ``Store`` on a gateway; made by ``open_etcd_store``."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._keys = Keyspace(gateway.access.namespace.encode())
        self._turns = Turns(gateway, self._keys)
        self._leases = Leases(gateway)
        self._reads = _Reads()
        self._watches: dict[EtcdWatch, None] = {}
        self._closing: Deferred[None] | None = None

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry at ``key``, or None."""
        try:
            encoded = check_key(key)
        except AvinetError:
            return fail()
        return self._read(lambda deadline: self._get(encoded, deadline))

    def list(self, prefix: str) -> Deferred[Listing]:
        """Every entry whose key starts with ``prefix``, in key order; fetched in pages, all of one revision."""
        return self._read(lambda deadline: self._list(prefix))

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold, else nothing; durable on a majority when it fires."""
        wanted, writes = tuple(compares), tuple(operations)
        try:
            size = check_transaction(wanted, writes)
            self._ready()
        except AvinetError:
            return fail()
        return self._turns.transact(wanted, writes, size)

    def watch(
        self,
        prefix: str,
        after_revision: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> Watch:
        """Report every change after ``after_revision``; goes on through failures until it is cancelled or lost.

        A watch of everything also hears the store's own keys, so that it is never far behind and compaction does
        not overtake it; one of a prefix in which nothing changes for long may be lost to that.
        """
        watcher = Watcher(on_changes, on_lost, self._forget)
        span = self._keys.span(prefix) if prefix else self._keys.everything()
        watch = EtcdWatch(self._gateway, self._keys, span, after_revision, watcher)
        self._watches[watch] = None
        if self._closing is not None:
            self._gateway.clock.callLater(0, watch.lose, self._closed())
        return watch

    def grant_lease(self, ttl_s: float) -> Deferred[LeaseId]:
        """A new lease that lasts ``ttl_s`` from now, rounded up to seconds, unless kept alive."""
        try:
            check_ttl(ttl_s)
        except AvinetError:
            return fail()
        return self._read(lambda deadline: self._leases.grant(ttl_s, deadline))

    def keep_alive(self, lease: LeaseId) -> Deferred[bool]:
        """Renew a lease for its whole time; False when it has ended already."""
        return self._read(lambda deadline: self._leases.keep_alive(lease, deadline))

    def revoke_lease(self, lease: LeaseId) -> Deferred[None]:
        """End a lease and delete its keys."""
        return self._read(lambda deadline: self._leases.revoke(lease, deadline))

    def lease_rest(self, lease: LeaseId) -> Deferred[float]:
        """The seconds that are left of a lease, rounded down to a half at least; 0 when it has ended."""
        return self._read(lambda deadline: self._leases.rest(lease, deadline))

    def close(self) -> Deferred[None]:
        """Finish what is under way, then release everything; leases go on counting while closed."""
        if self._closing is None:
            self._closing = Deferred.fromCoroutine(self._close())
        done: Deferred[None] = Deferred()
        self._closing.addBoth(lambda result: done.callback(None))
        return done

    async def _close(self) -> None:
        for watch in list(self._watches):
            watch.lose(self._closed())
        await self._turns.close()
        await self._reads.idle()
        await self._gateway.close()

    async def _get(self, key: bytes, deadline: float) -> Entry | None:
        request = {"key": self._keys.key(key)}
        reply = await self._gateway.ask("kv/range", request, RangeAnswer, deadline=deadline)
        found = reply.answer.kvs
        return self._entries(reply.answer)[0] if found else None

    async def _list(self, prefix: str) -> Listing:
        for _ in range(MAX_RESTARTS):
            try:
                return await self._list_pages(prefix)
            except RefusedError as refused:
                if refused.code != COMPACTED:
                    raise
        raise StoreUnavailableError(
            where=self._gateway.where, detail="compaction overtook a listing again and again"
        )

    async def _list_pages(self, prefix: str) -> Listing:
        request = self._keys.span(prefix)
        entries: list[Entry] = []
        revision, limit = 0, FIRST_PAGE
        while True:
            page = {**request, "revision": revision, "limit": limit}
            try:
                reply = await self._gateway.ask("kv/range", page, RangeAnswer, adapts=limit > 1)
            except AnswerTooLargeError:
                limit = max(1, limit // 8)
                continue
            answer = reply.answer
            entries += self._entries(answer)
            revision = revision or answer.header.revision
            if not answer.more or not answer.kvs:
                return Listing(tuple(entries), revision)
            request["key"] = answer.kvs[-1].key + b"\0"
            size = sum(len(found.key) + len(found.value) for found in answer.kvs)
            fitting = limit * PAGE_BYTES // max(size, 1)
            limit = max(1, min(fitting, 2 * limit, LARGEST_PAGE))

    def _entries(self, answer: RangeAnswer) -> tuple[Entry, ...]:
        try:
            return tuple(self._keys.entry(found) for found in answer.kvs)
        except ValueError as why:
            raise StoreUnavailableError(
                where=self._gateway.where, detail=f"it holds a key that no avinet made: {why}"
            ) from why

    def _read(self, work: Callable[[float], Coroutine[Any, Any, _T]]) -> Deferred[_T]:
        try:
            self._ready()
            if self._reads.full:
                raise StoreUnavailableError(where=self._gateway.where, detail="too much work is waiting")
        except AvinetError:
            return fail()
        since = self._gateway.clock.seconds()
        return self._reads.run(lambda: self._translated(work(self._gateway.deadline(since))))

    async def _translated(self, work: Coroutine[Any, Any, _T]) -> _T:
        try:
            return await work
        except RefusedError as refused:
            raise refused.told() from refused

    def _forget(self, watch: EtcdWatch) -> None:
        self._watches.pop(watch, None)

    def _ready(self) -> None:
        if self._closing is not None:
            raise self._closed()

    def _closed(self) -> StoreUnavailableError:
        return StoreUnavailableError(where=self._gateway.where, detail="it is closed")


def etcd_store(access: EtcdAccess, reactor: Any) -> EtcdStore:
    """The store that ``access`` leads to, not asked yet."""
    return EtcdStore(Gateway(access, TreqHttp(reactor, access), reactor))


def open_etcd_store(access: EtcdAccess, reactor: Any) -> Deferred[Store]:
    """The store that ``access`` leads to; fails with ``StoreUnavailableError`` when it does not answer in time."""

    async def opening() -> Store:
        store = etcd_store(access, reactor)
        try:
            await store.get("-")
        except BaseException:
            await store.close()
            raise
        return store

    return Deferred.fromCoroutine(opening())
