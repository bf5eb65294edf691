"""The timers of one end of a log channel: by name, each running once at a time, none left when the channel is gone."""

from collections.abc import Callable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime


@attrs.define(eq=False)
class Timers:
    """As many as there are names: one for each thing an end can wait for, one for each pull."""

    clock: IReactorTime
    _waiting: dict[str, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    _stopped: bool = attrs.field(default=False, init=False)

    def later(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        """Once, unless one of this name waits already, or all are stopped."""

        def run() -> None:
            del self._waiting[name]
            call()

        if name not in self._waiting and not self._stopped:
            self._waiting[name] = self.clock.callLater(seconds, run)

    def cancel(self, name: str) -> None:
        """Not any more."""
        timer = self._waiting.pop(name, None)
        if timer is not None:
            timer.cancel()

    def stop(self) -> None:
        """Those that wait, and any to come."""
        self._stopped = True
        for name in list(self._waiting):
            self.cancel(name)
