"""The two workers of a log store: one writes files, the other reads them."""

from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import attrs
from twisted.internet.defer import Deferred, succeed

from avinet.logs.store.client import WorkerClient, WorkerTerms
from avinet.logs.store.errors import LogStoreBrokenError
from avinet.logs.store.folders import Folders
from avinet.logs.store.jobs import Done, Job, Role

INGEST_SLOTS = 2
"""Merging takes a quarter of a minute, for which what was received does not wait."""
QUERIES_AT_ONCE = 4
"""They share the worker's memory and processors; a long one holds up no short one."""
_T = TypeVar("_T")


class Asking(Protocol):
    """A worker, as ``WorkerClient`` is one."""

    @property
    def running(self) -> int:
        """Jobs under way."""

    @property
    def waiting(self) -> int:
        """Jobs that are not begun."""

    def start(self) -> None:
        """Take jobs from now on."""

    def stop(self) -> Deferred[None]:
        """No more."""

    def ask(self, job: Job, limit_s: float, over: Callable[[], None] = ...) -> Deferred[Done]:
        """Have a job done; ``over`` is told when one that was cancelled has ended."""


@attrs.frozen
class _Lent:
    """Somebody else's worker."""

    worker: Asking

    @property
    def running(self) -> int:
        return self.worker.running

    @property
    def waiting(self) -> int:
        return self.worker.waiting

    def start(self) -> None:
        return

    def stop(self) -> Deferred[None]:
        return succeed(None)

    def ask(self, job: Job, limit_s: float, over: Callable[[], None] = lambda: None) -> Deferred[Done]:
        return self.worker.ask(job, limit_s, over)


@attrs.frozen
class Workers:
    """One that writes files, one that reads them."""

    ingesting: Asking
    querying: Asking

    @property
    def lent(self) -> "Workers":
        """The same, for a store that neither starts nor stops them."""
        return Workers(_Lent(self.ingesting), _Lent(self.querying))


def worker_processes(
    folders: Folders,
    memory: tuple[int, int],
    reactor: Any,
    died: Callable[[Role, str], None],
    others: Sequence[Path] = (),
) -> Workers:
    """Real ones; ``memory`` is what the two may have, in bytes.  ``died`` is told when one ended, and how.  They read and write
    the store and its exports, and what is in ``others``.
    """
    seen = (folders.store, folders.exports, *others)
    return Workers(
        *(
            WorkerClient(
                WorkerTerms(role, size, seen, folders.spill / role.value, slots), reactor, reactor, died
            )
            for role, size, slots in (
                (Role.INGEST, memory[0], INGEST_SLOTS),
                (Role.QUERY, memory[1], QUERIES_AT_ONCE),
            )
        )
    )


async def answer_as(kind: type[_T], answering: Awaitable[object]) -> _T:
    """The answer, if it is one of that kind; ``LogStoreBrokenError``."""
    answer = await answering
    if not isinstance(answer, kind):
        raise LogStoreBrokenError(why=f"a worker answered with {type(answer).__name__}")
    return answer
