"""Who may have a text read now: it is parsed in a thread, at a cost in time and memory that is many times its size.

Large texts have turns, one after another, from the first byte to what they came to.  An author has a bound in all, so
that one who sends many keeps nobody else out.  A turn is over when its thread is done, also where whoever asked has
left long before: a thread cannot be told to stop.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, ClassVar

import attrs
from twisted.internet.defer import Deferred, DeferredLock, execute

from avinet.errors import AvinetError, Kind, error
from avinet.model.documents import MAX_BYTES
from avinet.units import KIB, show_bytes

LARGE_BYTES = 64 * KIB
"""Half a second in the thread at 100 KiB/s, and 4 MiB."""
AUTHOR_BYTES = MAX_BYTES
"""Of one author's texts at once: one of the largest, or many small ones."""
RETRY_AFTER_S = 5.0

InThread = Callable[..., "Deferred[Any]"]


@error
class TextsUnderWayError(AvinetError):
    """Texts of yours are being read: {limit} at once is the most. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: str
    retry_after_s: float


@attrs.define(eq=False)
class _Turn:
    """What is done for one text, a step after another."""

    in_thread: InThread
    _running: "Deferred[None] | None" = attrs.field(default=None, init=False)

    def run(self, function: Callable[..., Any], *args: Any) -> "Deferred[Any]":
        """What ``function`` returns; cancelling it does not end what the thread does."""
        answer: Deferred[Any] = Deferred()
        running = self._running = Deferred()

        def ended(result: Any) -> None:
            self._running = None
            if not answer.called:
                answer.callback(result)  # a Failure, too: ``callback`` would refuse nothing but a Deferred
            running.callback(None)

        self.in_thread(function, *args).addBoth(ended)
        return answer

    def after(self, what: Callable[[], object]) -> None:
        """Call ``what`` when nothing of it runs."""
        if self._running is None:
            what()
        else:
            self._running.addCallback(lambda _: what())


@attrs.define(eq=False)
class TextTurns:
    """Of one controller.  ``in_thread`` runs a function with its arguments in a thread."""

    in_thread: InThread
    _bytes: "Counter[str]" = attrs.field(factory=Counter, init=False)
    """Under way, by author."""
    _large: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)

    @asynccontextmanager
    async def of(self, author: str, size: int, *, quick: bool = False) -> AsyncIterator[InThread]:
        """The turn of a text of ``size`` bytes: gives what to run its steps by; ``TextsUnderWayError``.

        The steps of a ``quick`` one are done where they are asked for.
        """
        if self._bytes[author] + size > AUTHOR_BYTES:
            raise TextsUnderWayError(limit=show_bytes(AUTHOR_BYTES), retry_after_s=RETRY_AFTER_S)
        self._bytes[author] += size
        turn = _Turn(execute if quick else self.in_thread)
        is_large = size > LARGE_BYTES
        try:
            if is_large:
                await self._large.acquire()
            try:
                yield turn.run
            finally:
                if is_large:
                    turn.after(self._large.release)
        finally:
            turn.after(partial(self._let_go, author, size))

    def _let_go(self, author: str, size: int) -> None:
        self._bytes[author] -= size
        if self._bytes[author] <= 0:
            del self._bytes[author]
