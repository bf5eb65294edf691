"""The store as a leader writes to it: each transaction compares on who leads, so one that was deposed changes nothing.

It costs one compare in a transaction that goes to the store anyway, and a read where a transaction was refused: whether
by what its author compared, or because another leads.
"""

from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, Kind, error
from avinet.store.interface import FENCE_KEY, Compare, Operation, Outcome, StoreUnavailableError
from avinet.store.wrapped import WrappedStore


@error
class NotLeaderError(AvinetError):
    """This controller does not lead the cluster now, so nothing was changed. Try again in a moment; see: avinet cluster status."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    retry_after_s: float = 1.0


@error
class WriteUnansweredError(StoreUnavailableError):
    """The cluster's store does not answer, so it may have no quorum ({where}: {detail}). What was asked for may have been done: look before you ask again. See: avinet cluster status."""


@attrs.define(eq=False)
class FencedStore(WrappedStore):
    """Writes only while ``fence`` says so; reads always."""

    fence: Callable[[], int | None]
    """The revision at which the store says that this controller leads; None while it does not."""
    overtaken: Callable[[], None]
    """Told when the store says something else."""

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold and this controller leads; ``NotLeaderError``."""
        return Deferred.fromCoroutine(self._transact(compares, operations))

    async def _transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        revision = self.fence()
        if revision is None:
            raise NotLeaderError
        try:
            outcome = await self.store.transact([Compare(FENCE_KEY, revision), *compares], operations)
        except StoreUnavailableError as why:
            raise WriteUnansweredError(where=why.where, detail=why.detail) from why
        if not outcome.succeeded:
            entry = await self.store.get(FENCE_KEY)
            if entry is None or entry.revision != revision:
                self.overtaken()
                raise NotLeaderError
        return outcome
