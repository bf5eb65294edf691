"""A store that a controller of a cluster reads while it starts: who ends for want of an answer takes its state engine along.

After all controllers were down each finds a quorum that comes and goes while the others load what they need.  One that gave up
then would end its member of the quorum, and with it the start of the others.  What it starts from it can wait for, as
it waited for the quorum.  Writes are as they are: what became of one that was not answered is for its author to find out.
"""

from collections.abc import Callable
from typing import TypeVar

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import deferLater

from avinet.errors import AvinetError
from avinet.store.interface import Change, Entry, Listing, StoreUnavailableError, Watch
from avinet.store.wrapped import WrappedStore

PAUSE_S = 0.5
LONGEST_PAUSE_S = 5.0
"""Between tries, doubled each time; each takes the store's own time before it, and an election 1 to 2 s."""

_Answer = TypeVar("_Answer")


@attrs.define(eq=False)
class PatientStore(WrappedStore):
    """Reads again until there is an answer, up to the first ``watch``: who follows the store has started, and is told."""

    clock: IReactorTime
    waits: Callable[[str], None]
    """Told why, each time that a read was not answered."""
    _patient: bool = attrs.field(default=True, init=False)

    def get(self, key: str) -> Deferred[Entry | None]:
        """The entry at ``key``, or None."""
        return self._read(lambda: self.store.get(key))

    def list(self, prefix: str) -> Deferred[Listing]:
        """Every entry whose key starts with ``prefix``, in key order."""
        return self._read(lambda: self.store.list(prefix))

    def watch(
        self,
        prefix: str,
        after_revision: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> Watch:
        """Report every change after ``after_revision``."""
        self._patient = False
        return self.store.watch(prefix, after_revision, on_changes, on_lost)

    def _read(self, read: Callable[[], Deferred[_Answer]]) -> Deferred[_Answer]:
        return Deferred.fromCoroutine(self._again(read)) if self._patient else read()

    async def _again(self, read: Callable[[], Deferred[_Answer]]) -> _Answer:
        pause_s = PAUSE_S
        while True:
            try:
                return await read()
            except StoreUnavailableError as why:
                if not self._patient:
                    raise
                self.waits(str(why))
            await deferLater(self.clock, pause_s)
            pause_s = min(LONGEST_PAUSE_S, 2 * pause_s)
