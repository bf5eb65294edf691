"""Segments that a channel is about to send, or sends: pinned in the index before their files are opened.

What is pinned and was not begun can be let go of again, as long as it is this process that knows so.  After a kill nobody
does, and it stays where it is pinned.
"""

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.logs.reach import LogStore, Reach
from avinet.logs.spool_index import SpoolIndex
from avinet.logs.spool_packs import Packs, Place


@error
class SegmentGoneError(AvinetError):
    """The spool has no segment {name} any more."""

    kind: ClassVar[Kind] = Kind.GONE
    name: str


@attrs.define(eq=False)
class Lending:
    """Of one spool, under its lock."""

    index: Callable[[], SpoolIndex]
    packs: Packs
    lock: threading.RLock
    lent: set[str] = attrs.field(factory=set, init=False)
    """Only calls that the interpreter does not interrupt: not under the lock."""

    def borrower(self) -> "Borrower":
        """For a channel."""
        return Borrower(self)

    def place(self, name: str) -> Place:
        """Where a segment's bytes are; whoever has opened that can read on when it goes.  ``SegmentGoneError``."""
        with self.lock:
            placed = self.index().find(name)
        if placed is None:
            raise SegmentGoneError(name=name)
        return self.packs.place(placed)

    def give_back(self, names: Iterable[str]) -> None:
        """They are not being sent any more.  Does not block."""
        self.lent.difference_update(names)


@attrs.define(eq=False)
class Borrower:
    """One channel's part; what does not block is for any thread."""

    lending: Lending
    _unbegun: set[str] = attrs.field(factory=set, init=False)
    """Pinned through this one, to where they were not before.  Changed under the lock, but for what begins."""

    def pin(self, names: Sequence[str], reach: Reach) -> None:
        """They are about to be sent there; durable when it returns, for all of them in one transaction.

        Those that may not be sent there any more are passed over.
        """
        with self.lending.lock:
            self._unbegun.update(self.lending.index().pin(names, reach))

    def lend(self, names: Sequence[str], reach: Reach) -> dict[str, Place]:
        """Where those are that are pinned there and not gone; they go last of their class until given back, since others will
        keep them.
        """
        lending = self.lending
        with lending.lock:
            index = lending.index()
            found = index.pinned(index.find_all(names), reach)
            places = {each.head.name: lending.packs.place(each) for each in found}
            lending.lent.update(places)
            return places

    def begun(self, names: Iterable[str]) -> None:
        """Their first byte is sent now, or may be by somebody else.  Does not block."""
        self._unbegun.difference_update(names)

    def unbegun(self, names: Iterable[str]) -> list[str]:
        """Those of them that ``lift`` would set free.  Does not block."""
        return [name for name in names if name in self._unbegun]

    def lift(self, names: Iterable[str], store: LogStore) -> None:
        """They are not sent there: those that were not begun are free again.  No channel may begin them meanwhile."""
        with self.lending.lock:
            free = self.unbegun(names)
            if free:
                self.lending.index().lift(free, store)
                self._unbegun.difference_update(free)
