"""SEs that are to be sent something, a slice in each turn of the reactor.

To render, encrypt and send for 2,000 at once took 0.7 s, and heartbeats waited.
"""

from collections.abc import Callable, Iterable

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.model.ids import SeId

SLICE_S = 0.010
"""Of pushes in one turn of the reactor."""


@attrs.define(eq=False)
class SendQueue:
    """Each SE once, in order; as many as there are SEs.  ``send`` does what is to be done for one."""

    clock: IReactorTime
    send: Callable[[SeId], None]
    _waiting: dict[SeId, None] = attrs.field(factory=dict, init=False, repr=False)
    _next: IDelayedCall | None = attrs.field(default=None, init=False, repr=False)

    def add(self, engines: Iterable[SeId]) -> None:
        """For the next ``work``."""
        self._waiting.update(dict.fromkeys(engines))

    def work(self) -> None:
        """A slice now, and the rest from turn to turn."""
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
        until = self.clock.seconds() + SLICE_S
        while self._waiting and self.clock.seconds() < until:
            se = next(iter(self._waiting))
            del self._waiting[se]
            self.send(se)
        if self._waiting:
            self._next = self.clock.callLater(0, self.work)

    def stop(self) -> None:
        """Send no more."""
        self._waiting.clear()
        if self._next is not None and self._next.active():
            self._next.cancel()
        self._next = None
