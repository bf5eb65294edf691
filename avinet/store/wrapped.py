"""A store in front of another: passes everything on, for those that add one thing to one method."""

from collections.abc import Callable, Sequence

import attrs
from twisted.internet.defer import Deferred

from avinet.errors import AvinetError
from avinet.store.interface import Change, Compare, Entry, LeaseId, Listing, Operation, Outcome, Store, Watch


@attrs.define(eq=False)
class WrappedStore:
    """A ``Store`` that does what ``store`` does."""

    store: Store

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry at ``key``, or None."""
        return self.store.get(key)

    def list(self, prefix: str) -> Deferred[Listing]:
        """Every entry whose key starts with ``prefix``, in key order."""
        return self.store.list(prefix)

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold, else nothing."""
        return self.store.transact(compares, operations)

    def watch(
        self,
        prefix: str,
        after_revision: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> Watch:
        """Report every change after ``after_revision``."""
        return self.store.watch(prefix, after_revision, on_changes, on_lost)

    def grant_lease(self, ttl_s: float) -> Deferred[LeaseId]:
        """A new lease that lasts ``ttl_s`` from now unless kept alive."""
        return self.store.grant_lease(ttl_s)

    def keep_alive(self, lease: LeaseId) -> Deferred[bool]:
        """Renew a lease for its whole time; False when it has ended already."""
        return self.store.keep_alive(lease)

    def revoke_lease(self, lease: LeaseId) -> Deferred[None]:
        """End a lease and delete its keys."""
        return self.store.revoke_lease(lease)

    def lease_rest(self, lease: LeaseId) -> Deferred[float]:
        """The seconds that are left of a lease; 0 when it has ended."""
        return self.store.lease_rest(lease)

    def close(self) -> Deferred[None]:
        """Finish what is under way, then release everything."""
        return self.store.close()
