"""The store in memory: the contract and nothing else, for tests and simulations.

It is the fake that ships beside the interface: same limits, same errors, same order of events as the durable
stores.  Deferreds fire at once; watches are called in a later turn of the clock.  Nothing survives it.
"""

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred, execute
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.errors import AvinetError
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
    Watch,
)
from avinet.store.limits import check_key, check_transaction, check_ttl
from avinet.store.watches import MAX_HISTORY_CHANGES, WatchHub

_WHERE = "memory"


@attrs.frozen
class _Lease:
    ttl_s: float
    end: IDelayedCall


class MemoryStore:
    """A ``Store`` whose leases count by ``clock``."""

    def __init__(self, clock: IReactorTime, *, max_history: int = MAX_HISTORY_CHANGES) -> None:
        self._clock = clock
        self._entries: dict[str, Entry] = {}
        self._revision = 0
        self._leases: dict[LeaseId, _Lease] = {}
        self._last_lease = 0
        self._hub = WatchHub(clock, 0, max_changes=max_history)
        self._closed = False

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry at ``key``, or None."""
        return execute(self._get, key)

    def list(self, prefix: str) -> Deferred[Listing]:
        """Every entry whose key starts with ``prefix``, in key order."""
        return execute(self._list, prefix)

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold, else nothing."""
        return execute(self._transact, tuple(compares), tuple(operations))

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
        return execute(self._grant, ttl_s)

    def keep_alive(self, lease: LeaseId) -> Deferred[bool]:
        """Renew a lease for its whole time; False when it has ended already."""
        return execute(self._keep_alive, lease)

    def revoke_lease(self, lease: LeaseId) -> Deferred[None]:
        """End a lease and delete its keys."""
        return execute(self._revoke, lease)

    def lease_rest(self, lease: LeaseId) -> Deferred[float]:
        """The seconds that are left of a lease; 0 when it has ended."""
        return execute(self._lease_rest, lease)

    def close(self) -> Deferred[None]:
        """Release everything; the contents are gone."""
        return execute(self._close)

    def _get(self, key: str) -> Entry | None:
        self._ready()
        check_key(key)
        return self._entries.get(key)

    def _list(self, prefix: str) -> Listing:
        self._ready()
        found = sorted((entry for key, entry in self._entries.items() if key.startswith(prefix)), key=_key)
        return Listing(tuple(found), self._revision)

    def _transact(self, compares: tuple[Compare, ...], operations: tuple[Operation, ...]) -> Outcome:
        self._ready()
        check_transaction(compares, operations)
        for compare in compares:
            entry = self._entries.get(compare.key)
            if compare.revision != (entry.revision if entry else 0):
                return Outcome(succeeded=False, revision=self._revision)
        for operation in operations:
            if (
                isinstance(operation, Put)
                and operation.lease != NO_LEASE
                and operation.lease not in self._leases
            ):
                raise LeaseEndedError(lease=operation.lease)
        self._write(operations)
        return Outcome(succeeded=True, revision=self._revision)

    def _write(self, operations: Sequence[Operation]) -> None:
        revision = self._revision + 1
        changes: list[Change] = []
        for operation in operations:
            old = self._entries.get(operation.key)
            if isinstance(operation, Put):
                created = old.created_revision if old else revision
                entry = Entry(operation.key, bytes(operation.value), revision, created, operation.lease)
                self._entries[operation.key] = entry
                changes.append(Change(operation.key, entry, revision))
            elif old is not None:
                del self._entries[operation.key]
                changes.append(Change(operation.key, None, revision))
        if changes:
            self._revision = revision
            self._hub.publish(tuple(changes))

    def _grant(self, ttl_s: float) -> LeaseId:
        self._ready()
        check_ttl(ttl_s)
        self._last_lease += 1
        lease = LeaseId(self._last_lease)
        self._leases[lease] = _Lease(ttl_s, self._clock.callLater(ttl_s, self._end, lease))
        return lease

    def _keep_alive(self, lease: LeaseId) -> bool:
        self._ready()
        held = self._leases.get(lease)
        if held is None:
            return False
        held.end.reset(held.ttl_s)
        return True

    def _lease_rest(self, lease: LeaseId) -> float:
        self._ready()
        held = self._leases.get(lease)
        return 0.0 if held is None else max(0.0, held.end.getTime() - self._clock.seconds())

    def _revoke(self, lease: LeaseId) -> None:
        self._ready()
        held = self._leases.get(lease)
        if held is not None:
            held.end.cancel()
            self._end(lease)

    def _end(self, lease: LeaseId) -> None:
        del self._leases[lease]
        doomed = sorted(key for key, entry in self._entries.items() if entry.lease == lease)
        self._write([Delete(key) for key in doomed])

    def _close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for held in self._leases.values():
            held.end.cancel()
        self._leases.clear()
        self._hub.close(_WHERE)

    def _ready(self) -> None:
        if self._closed:
            raise StoreUnavailableError(where=_WHERE, detail="it is closed")


def _key(entry: Entry) -> str:
    return entry.key
