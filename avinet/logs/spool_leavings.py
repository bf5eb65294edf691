"""What acknowledged segments leave on the disk, until somebody has the time to take it off.

The index forgets a segment in one commit; to unlink its pack or to punch a hole takes a disk ten times as long, and a pull
would wait for it.  While a pull goes on, what is a hole now is a whole pack a moment later; so packs go first, and holes
are made now and then.  A crash before loses nothing: what the index does not know is removed at the next start.
"""

import threading
from collections.abc import Iterable

import attrs

from avinet.logs.spool_packs import Packs, Placed

SWEPT_AT_ONCE = 16
"""Packs; some 300 ms of a slow disk."""


@attrs.define(eq=False)
class Leavings:
    """Of one spool; for any thread."""

    packs: Packs
    _empty: set[str] = attrs.field(factory=set, init=False)
    """Packs without a segment."""
    _holes: dict[str, list[Placed]] = attrs.field(factory=dict, init=False)
    """Segments that are gone, by their packs, which have others."""
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)
    _sweeping: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def add(self, gone: Iterable[Placed], in_use: set[str]) -> None:
        """The index has forgotten them; it has others of the packs ``in_use``."""
        with self._lock:
            for each in gone:
                if each.pack_name in in_use:
                    self._holes.setdefault(each.pack_name, []).append(each)
                else:
                    self._holes.pop(each.pack_name, None)
                    self._empty.add(each.pack_name)

    def sweep(self, *, holes: bool, wait: bool = False) -> bool:
        """Take it off the disk; whether there was something.

        One sweep at a time: others return at once, or ``wait`` for it, and then there was something.
        """
        found = False
        if not self._sweeping.acquire(blocking=False):
            if not wait:
                return False
            found = self._sweeping.acquire()
        try:
            while True:
                with self._lock:
                    packs = [self._empty.pop() for _ in range(min(SWEPT_AT_ONCE, len(self._empty)))]
                    cut = self._holes.popitem()[1] if holes and self._holes else []
                if not packs and not cut:
                    return found
                found = True
                self.packs.remove(packs)
                self.packs.clear(cut)
        finally:
            self._sweeping.release()
