"""Wakes whoever ends drains when the next one is over."""

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@attrs.define(eq=False)
class DrainClock:
    """``due`` says when, by ``clock``; None for never.  ``look`` after whatever may have changed that."""

    clock: IReactorTime
    due: Callable[[], float | None]
    over: Callable[[], None]
    _call: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)
    _at: float | None = attrs.field(default=None, init=False)

    def look(self) -> None:
        """Be there in time."""
        at = self.due()
        if self._call is not None:
            if at == self._at:
                return
            self.stop()
        self._at = at
        if at is not None:
            self._call = self.clock.callLater(max(0.0, at - self.clock.seconds()), self._ring)

    def _ring(self) -> None:
        self._call = None
        self.over()
        self.look()

    def stop(self) -> None:
        """Ring no more."""
        if self._call is not None:
            self._call.cancel()
            self._call = None
