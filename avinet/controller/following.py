"""How the records of every controller of a cluster stay what the store says: one watch, dispatched.

Each module that keeps a copy of what the store has is a ``Mirror``: it names its keys and takes changes, and what it
then does (memory, permits, listeners) is what it does for its own writes.  A write's answer is held back until the watch
has brought its changes (``FollowedStore``), so on every controller, the one that writes included, copies change in the
store's own order and in no other; whoever was answered finds what was written.

A watch that is lost (the store was away, or history was compacted) is begun anew from listings: what a copy has
otherwise than they is taken as a change, removals included.

One controller alone needs none of this, and has none of it.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import (
    CancelledError,
    Deferred,
    TimeoutError,  # noqa: A004 - Twisted's own name
    succeed,
)
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.internet.task import LoopingCall, deferLater
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError
from avinet.store.interface import (
    FENCE_KEY,
    Change,
    CompactedError,
    Compare,
    Operation,
    Outcome,
    Put,
    Store,
    Watch,
)
from avinet.store.wrapped import WrappedStore

LAG_S = 5.0
"""A write that the watch does not bring within it means that the watch is dead, whatever its connection says: etcd
brings one within milliseconds of its commit."""
ASK_S = 1.0
"""An idle store says nothing, so it is asked: how old what is known may be is known to a second, for one small read."""
SILENT_S = 3.0
"""Without a word for so long, the store is said to be silent; etcd's own elections end within it."""
RETRY_S = 0.5
RETRY_CAP_S = 5.0
"""Between tries to list while the store cannot be reached; an election of etcd takes 1 to 2 s."""

_log = Logger()


class Mirror(Protocol):
    """A module's copy of what the store has under some prefixes."""

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Of its keys, in the order in which they are to be listed."""

    def revisions(self) -> Mapping[str, int]:
        """The keys that it has, each with the revision that it has of it; 0 where it does not know."""

    def took(self, changes: Sequence[Change]) -> None:
        """The store has these.  One that it has already, by its revision, is nothing new and told to nobody."""


@attrs.frozen(eq=False)
class _Waiting:
    """An answer that is held back until ``revision`` has been dispatched."""

    revision: int
    done: Deferred[bool]


@attrs.define(eq=False)
class Following:
    """``add`` every mirror, once it has loaded; then ``start``; ``stop`` before the store is closed."""

    store: Store
    clock: IReactorTime
    _mirrors: list[tuple[Mirror, tuple[str, ...]]] = attrs.field(factory=list, init=False)
    """Each with the prefixes of what it gets beside its own."""
    _floors: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """By prefix: what a listing has said already is not taken from the watch again."""
    _followed: int = attrs.field(default=0, init=False)
    """The newest revision dispatched."""
    _watch: Watch | None = attrs.field(default=None, init=False)
    _began: Deferred[None] | None = attrs.field(default=None, init=False, repr=False)
    """The listing under way."""
    _waiting: list[_Waiting] = attrs.field(factory=list, init=False, repr=False)
    """Bounded by what callers of the store have under way."""
    _overdue: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _heard_at: float = attrs.field(default=0.0, init=False)
    _asking: LoopingCall = attrs.field(init=False, repr=False)
    _asked: bool = attrs.field(default=False, init=False)
    """Whether a question is under way."""
    _silent: bool = attrs.field(default=False, init=False)
    _listeners: list[Callable[[bool], None]] = attrs.field(factory=list, init=False, repr=False)
    _running: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._asking = LoopingCall(self._ask)
        self._asking.clock = self.clock

    def add(self, mirror: Mirror, beside: tuple[str, ...] = ()) -> None:
        """Keep ``mirror`` up from ``start`` on.  It is given what the watch brings under ``beside``, too, which is never listed."""
        self._mirrors.append((mirror, beside))

    def listen(self, answers: Callable[[bool], None]) -> None:
        """Call ``answers(False)`` when the store has been silent for ``SILENT_S``, and with True once it answers again."""
        self._listeners.append(answers)

    async def start(self) -> None:
        """Take what has changed since the mirrors were loaded; ``StoreUnavailableError`` when that cannot be had."""
        self._running = True
        await self._begin()
        self._asking.start(ASK_S, now=False).addErrback(lambda f: _log.failure("asking the store ended", f))

    def stop(self) -> None:
        """Take no more."""
        self._running = False
        if self._asking.running:
            self._asking.stop()
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        began, self._began = self._began, None
        if began is not None:
            began.cancel()
        self._stop_timer()
        self._release(None)

    @property
    def stale_s(self) -> float:
        """How old what the mirrors say may be: the time since the store was heard last, in seconds."""
        return max(0.0, self.clock.seconds() - self._heard_at)

    @property
    def silent(self) -> bool:
        """Whether there has been no word for ``SILENT_S``."""
        return self._silent

    @property
    def revision(self) -> int:
        """The newest that the mirrors have."""
        return self._followed

    def caught_up(self, revision: int) -> Deferred[bool]:
        """Fires once the mirrors have ``revision``; with False when that takes too long, and they list anew."""
        if not self._running or self._followed >= revision:
            return succeed(self._running)
        done: Deferred[bool] = Deferred()
        self._waiting.append(_Waiting(revision, done))
        if self._overdue is None:
            self._overdue = self.clock.callLater(LAG_S, self._lags)
        return done

    # The watch

    async def _begin(self) -> None:
        """List, take the differences, and watch from there."""
        since: list[int] = []
        for mirror, _ in self._mirrors:
            for prefix in mirror.prefixes:
                listing = await self.store.list(prefix)
                self._floors[prefix] = listing.revision
                since.append(listing.revision)
                has = {key: had for key, had in mirror.revisions().items() if key.startswith(prefix)}
                there = {entry.key for entry in listing.entries}
                changes = [Change(key, None, listing.revision) for key in has if key not in there]
                changes += [
                    Change(entry.key, entry, entry.revision)
                    for entry in listing.entries
                    if has.get(entry.key, 0) < entry.revision
                ]
                if changes:
                    self._give(mirror, changes)
        after = min(since, default=0)
        self._watch = self.store.watch("", after, self._changed, self._lost)
        self._heard()
        self._dispatched(after)

    def _changed(self, changes: tuple[Change, ...]) -> None:
        self._heard()
        for mirror, beside in self._mirrors:
            wanted = [
                change
                for change in changes
                if self._concerns(mirror, change) or change.key.startswith(beside)
            ]
            if wanted:
                self._give(mirror, wanted)
        self._dispatched(changes[-1].revision)

    def _concerns(self, mirror: Mirror, change: Change) -> bool:
        return any(
            change.key.startswith(prefix) and change.revision > self._floors[prefix]
            for prefix in mirror.prefixes
        )

    def _give(self, mirror: Mirror, changes: Sequence[Change]) -> None:
        try:
            mirror.took(changes)
        except Exception:  # noqa: BLE001 - the edge: one module's defect, or a record of a newer version, must not stop the others
            _log.failure(
                "{mirror} could not take {keys}",
                mirror=type(mirror).__name__,
                keys=", ".join(change.key for change in changes[:5]),
            )

    def _lost(self, why: AvinetError) -> None:
        self._watch = None
        if not isinstance(why, CompactedError):
            _log.warn("the store's watch was lost: {why}", why=str(why))
        self._begin_anew()

    def _begin_anew(self) -> None:
        if self._running and self._began is None:
            self._began = Deferred.fromCoroutine(self._begin_again())
            self._began.addErrback(self._failed)

    async def _begin_again(self) -> None:
        wait_s = RETRY_S
        while True:
            # In a turn of its own: a store that is being closed says so to its watchers first.
            await deferLater(self.clock, 0)
            try:
                await self._begin()
            except AvinetError as why:
                _log.info("the store cannot be listed: {why}", why=str(why))
            else:
                self._began = None
                return
            await deferLater(self.clock, wait_s)
            wait_s = min(RETRY_CAP_S, 2 * wait_s)

    def _failed(self, failure: Failure) -> None:
        self._began = None
        if not failure.check(CancelledError):
            _log.failure("following the store failed", failure)

    def _heard(self) -> None:
        self._heard_at = self.clock.seconds()
        self._say(silent=False)

    def _say(self, *, silent: bool) -> None:
        if silent == self._silent:
            return
        self._silent = silent
        for listener in self._listeners:
            listener(not silent)

    def _ask(self) -> None:
        if self._watch is None:
            self._look_whether_silent()
        elif not self._asked:
            self._asked = True
            asked = self.store.get(FENCE_KEY).addTimeout(ASK_S, self.clock)
            asked.addCallbacks(self._answered, self._unanswered)

    def _answered(self, _: object) -> None:
        self._asked = False
        if self._watch is not None:
            self._heard()

    def _look_whether_silent(self) -> None:
        """Not by the time alone: a process that was paused has not asked."""
        if self.stale_s >= SILENT_S:
            self._say(silent=True)

    def _unanswered(self, failure: Failure) -> None:
        self._asked = False
        self._look_whether_silent()
        if failure.check(AvinetError, TimeoutError) is None:
            _log.failure("asking the store failed", failure)

    # Answers that are held back

    def _dispatched(self, revision: int) -> None:
        self._followed = max(self._followed, revision)
        if self._waiting:
            self._release(self._followed)

    def _release(self, revision: int | None) -> None:
        """Let go of those up to ``revision``; of all, as not followed, with None."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            if revision is None or one.revision <= revision:
                one.done.callback(revision is not None)
            else:
                self._waiting.append(one)
        if not self._waiting:
            self._stop_timer()
        elif self._overdue is not None:
            self._overdue.reset(LAG_S)

    def _lags(self) -> None:
        self._overdue = None
        _log.error("the store's watch brings nothing; it is begun anew")
        if self._watch is not None:
            self._watch.cancel()
            self._watch = None
        began, self._began = self._began, None
        if began is not None:
            began.cancel()
        # What is answered now is taken by those who wrote it, in no order; the listing that begins after it sets that right.
        self._release(None)
        self._begin_anew()

    def _stop_timer(self) -> None:
        if self._overdue is not None and self._overdue.active():
            self._overdue.cancel()
        self._overdue = None


@attrs.define(eq=False)
class FollowedStore(WrappedStore):
    """The store as those see it that are followed: a write is answered once the mirrors have it."""

    caught_up: Callable[[int], Deferred[bool]]
    """``Following.caught_up``."""

    def transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Deferred[Outcome]:
        """Do all operations if all compares hold, else nothing; ``followed`` says that the mirrors know."""
        return Deferred.fromCoroutine(self._transact(compares, operations))

    async def _transact(self, compares: Sequence[Compare], operations: Sequence[Operation]) -> Outcome:
        outcome = await self.store.transact(compares, operations)
        # A put always makes a change that the watch brings; what only deletes may have found nothing to delete.
        if outcome.succeeded and any(isinstance(operation, Put) for operation in operations):
            return attrs.evolve(outcome, followed=await self.caught_up(outcome.revision))
        return outcome
