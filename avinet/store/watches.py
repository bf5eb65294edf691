"""Who is told of which change: the watches of one embedded store and the recent history that they read.

The store publishes each revision once; the hub keeps the newest of them, and every watch has a position in that
history.  Nothing is queued per watcher, so a thousand watches cost a thousand integers.  Delivery happens in a
turn of the reactor of its own, all that came meanwhile in one call: a watcher is never called from inside its
own ``transact``, nor before ``watch`` has returned.  A watcher whose position has left the history is told so
(``CompactedError``) and lists again, as with etcd.
"""

from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from typing import TypeVar

from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger

from avinet.errors import AvinetError
from avinet.store.interface import Change, CompactedError, StoreUnavailableError

_Argument = TypeVar("_Argument")

MAX_HISTORY_CHANGES = 10_000
"""Ten changes of a thousand objects; watchers read within one turn of the reactor, so this is slack, not need."""
MAX_HISTORY_BYTES = 16 * 1024 * 1024
"""Of keys and values, so that many large changes do not hold much memory either; the newest revision stays."""


class HubWatch:
    """One watcher: a prefix, a position, and two callables."""

    def __init__(
        self,
        hub: "WatchHub",
        prefix: str,
        position: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> None:
        self.prefix = prefix
        self.position = position
        self.on_changes = on_changes
        self.on_lost = on_lost
        self._hub = hub

    def cancel(self) -> None:
        """Stop; no call is made after this."""
        self._hub.forget(self)


class WatchHub:
    """The watches of a store whose latest revision is ``revision``; history starts there."""

    _log = Logger()

    def __init__(
        self,
        clock: IReactorTime,
        revision: int,
        *,
        max_changes: int = MAX_HISTORY_CHANGES,
        max_bytes: int = MAX_HISTORY_BYTES,
    ) -> None:
        self._clock = clock
        self._max_changes = max_changes
        self._max_bytes = max_bytes
        self._bytes = 0
        self._floor = revision
        """Changes after this revision are all in the history."""
        self._history: deque[Change] = deque()
        self._watches: dict[HubWatch, None] = {}
        self._turn: IDelayedCall | None = None
        self._closed_where: str | None = None

    def watch(
        self,
        prefix: str,
        after_revision: int,
        on_changes: Callable[[tuple[Change, ...]], None],
        on_lost: Callable[[AvinetError], None],
    ) -> HubWatch:
        """Begin a watch; its first call comes in a later turn of the reactor."""
        watch = HubWatch(self, prefix, after_revision, on_changes, on_lost)
        self._watches[watch] = None
        self._soon()
        return watch

    def forget(self, watch: HubWatch) -> None:
        """End a watch without a word."""
        self._watches.pop(watch, None)

    def publish(self, changes: tuple[Change, ...]) -> None:
        """Add durable changes, in order of revision, each revision whole."""
        self._history.extend(changes)
        self._bytes += sum(map(_size, changes))
        while self._history and (len(self._history) > self._max_changes or self._bytes > self._max_bytes):
            oldest = self._history[0].revision
            if oldest == self._history[-1].revision:
                break
            while self._history[0].revision == oldest:
                self._bytes -= _size(self._history.popleft())
            self._floor = oldest
        self._soon()

    def close(self, where: str) -> None:
        """End every watch: the store is closed."""
        self._closed_where = where
        if self._turn is not None:
            self._turn.cancel()
        self._deliver()

    def _soon(self) -> None:
        if self._turn is None and self._watches:
            self._turn = self._clock.callLater(0, self._deliver)

    def _deliver(self) -> None:
        self._turn = None
        if self._closed_where is not None:
            watches, self._watches = list(self._watches), {}
            for watch in watches:
                self._call(
                    watch.on_lost, StoreUnavailableError(where=self._closed_where, detail="it was closed")
                )
            return
        history = tuple(self._history)
        revisions = [change.revision for change in history]
        floor = self._floor
        for watch in list(self._watches):
            if watch not in self._watches:
                continue  # cancelled by another's callback in this very turn
            if watch.position < floor:
                self.forget(watch)
                self._call(watch.on_lost, CompactedError(revision=watch.position))
                continue
            news = history[bisect_right(revisions, watch.position) :]
            if not news:
                continue
            watch.position = news[-1].revision
            wanted = tuple(change for change in news if change.key.startswith(watch.prefix))
            if wanted:
                self._call(watch.on_changes, wanted)

    def _call(self, callback: Callable[[_Argument], None], argument: _Argument) -> None:
        try:
            callback(argument)
        except Exception:  # noqa: BLE001 - the edge between the store and whoever watches
            # One faulty watcher must not silence the others.
            self._log.failure("a watcher of the store failed")


def _size(change: Change) -> int:
    return len(change.key) + (len(change.entry.value) if change.entry else 0)
