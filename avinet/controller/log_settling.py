"""What has come whole is made to last, copied to a peer, and entered in the ledger; then whoever sent it may be told.

All that waits goes together: fsyncs side by side, one transaction for all.  Where there are other controllers each part goes on
by itself once its bytes last, and what has been copied meanwhile is entered together.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IDelayedCall, IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.controller.log_writes import AnyPart
from avinet.logs.incoming import IncomingLogs
from avinet.model.ids import ControllerName, SeId

KEPT_AT_ONCE = 256
"""Files in one transaction; some 100 ms of fsyncs side by side."""
RETRY_S = 5.0
"""Between tries at a disk that is full."""


class Copier(Protocol):
    """Who has parts copied (``avinet.controller.log_copies``)."""

    @property
    def needed(self) -> bool:
        """Whether there is anybody to copy to."""

    def copy(self, part: AnyPart, *, pushed: bool) -> Deferred[ControllerName]:
        """Fires with whose copy is to count; never fails."""

    def decided(self, keeper: ControllerName, parts: Sequence[AnyPart]) -> None:
        """The ledger has noted whose copies of these count."""

    def forget(self, se: SeId, incarnation: str, below: int) -> None:
        """The SE's spool has nothing lower any more."""


@attrs.define(eq=False)
class _Whole:
    part: AnyPart
    pull: str
    """Empty when it was pushed."""
    done: Deferred[None]
    keeper: ControllerName | None = None
    """Whose copy is to count; None where nothing is copied."""


@attrs.define(eq=False)
class Settling:
    """Of all links."""

    logs: IncomingLogs
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    """One call after another."""
    clock: IReactorTime
    failed: Callable[[Failure], None]
    """Told why nothing can be kept; it is tried again."""
    copier: Copier | None = None
    _whole: list[_Whole] = attrs.field(factory=list, init=False, repr=False)
    """What waits for the disk."""
    _copied: list[_Whole] = attrs.field(factory=list, init=False, repr=False)
    """What waits for the ledger alone."""
    _busy: bool = attrs.field(default=False, init=False)
    _retry: IDelayedCall | None = attrs.field(default=None, init=False)
    _stopped: bool = attrs.field(default=False, init=False)
    _log: ClassVar[Logger] = Logger()

    def stop(self) -> None:
        """Nothing is begun any more."""
        self._stopped = True
        if self._retry is not None and self._retry.active():
            self._retry.cancel()

    @property
    def copies(self) -> bool:
        """Whether what is kept is copied first."""
        return self.copier is not None and self.copier.needed

    def keep(self, part: AnyPart, pull: str) -> Deferred[None]:
        """Fires when it counts, or is ``unwanted``; never fails."""
        done: Deferred[None] = Deferred()
        self._whole.append(_Whole(part, pull, done))
        self._go()
        return done

    def _go(self) -> None:
        if self._busy or self._retry is not None or self._stopped:
            return
        if self._copied:
            batch = self._copied[:KEPT_AT_ONCE]
            self._do(partial(self._enter, batch), lambda _: self._entered(batch))
        elif self._whole and self.copies:
            batch = self._whole[:KEPT_AT_ONCE]
            parts = [one.part for one in batch]
            self._do(lambda: self.logs.sync(parts), lambda first: self._synced(batch, first))
        elif self._whole:
            batch = self._whole[:KEPT_AT_ONCE]
            kept = [(one.part, one.pull) for one in batch]
            self._do(lambda: self.logs.keep(kept), lambda _: self._kept(batch))

    def _do(self, call: Callable[[], Any], then: Callable[[Any], None]) -> None:
        self._busy = True

        def done(result: Any) -> None:
            self._busy = False
            then(result)
            self._go()

        def failed(failure: Failure) -> None:
            self._busy = False
            self.failed(failure)
            if not self._stopped:
                self._retry = self.clock.callLater(RETRY_S, self._again)

        self.in_thread(call).addCallbacks(done, failed).addErrback(
            lambda f: self._log.failure("what was kept could not be told", f)
        )

    def _again(self) -> None:
        self._retry = None
        self._go()

    def _kept(self, batch: Sequence[_Whole]) -> None:
        del self._whole[: len(batch)]
        for one in batch:
            one.done.callback(None)

    def _synced(self, batch: Sequence[_Whole], first: Sequence[AnyPart]) -> None:
        del self._whole[: len(batch)]
        wanted = set(first)
        for one in batch:
            if one.part in wanted and not one.part.unwanted and self.copier is not None:
                self.copier.copy(one.part, pushed=not one.pull).addCallback(self._is_copied, one)
            else:
                self._copied.append(one)

    def _is_copied(self, keeper: ControllerName, one: _Whole) -> None:
        one.keeper = keeper
        self._copied.append(one)
        self._go()

    def _enter(self, batch: Sequence[_Whole]) -> None:
        self.logs.enter([(one.part, one.pull) for one in batch], [one.keeper for one in batch])

    def _entered(self, batch: Sequence[_Whole]) -> None:
        del self._copied[: len(batch)]
        keepers: dict[ControllerName, list[AnyPart]] = {}
        for one in batch:
            if one.keeper is not None:
                keepers.setdefault(one.keeper, []).append(one.part)
        if self.copier is not None:
            for keeper, parts in keepers.items():
                self.copier.decided(keeper, parts)
        for one in batch:
            one.done.callback(None)
