"""The request logs of one SE on its disk: taken in from the data plane's files, kept within limits, handed out.

A piece (one file that the data plane wrote) is taken in a chunk at a time: split by virtual service, throttled,
compressed; a pack of segments is written and fsynced, then **one** commit of the index says both that they are here and
how far the piece was taken in.  Before it nothing has happened, and after it all has: files that the index does not name
are removed at the next start, and a piece goes on at its offset.  So kill -9 at any point neither loses nor doubles a
line.  What goes is first removed from the index, together with the count of what was lost, and then from the disk.

Blocking, and safe to use from several threads: only ``take_in``, ``enforce`` and ``repair`` may take long,
and one of them runs at a time; the others wait for a commit at most.
"""

import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from itertools import accumulate
from pathlib import Path

import attrs
import msgspec
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind
from avinet.logs.reach import Reach, Sendable
from avinet.logs.spool_index import SpoolIndex
from avinet.logs.spool_leavings import Leavings
from avinet.logs.spool_lending import Lending
from avinet.logs.spool_losses import MAX_TOLD
from avinet.logs.spool_packs import Packs, Placed, punch, whole
from avinet.logs.spool_pieces import Piece, Pieces
from avinet.logs.spool_recovery import lost, make_anew, open_index
from avinet.logs.spool_reserve import SHORT_BYTES, SPENT_BYTES, Reserve
from avinet.logs.spool_segments import SegmentMaker
from avinet.logs.spool_window import ChunkBuffer, Taken, Window, opened
from avinet.logs.throttle import Throttler, Throttles
from avinet.model.ids import ControllerName
from avinet.model.logs import ClassTotals, Drop, DropReason, LogClass, SegmentHead, Selection, SpoolTotals
from avinet.units import DAY_S, MIB

EVICTED_AT_ONCE = 256
"""Segments; a commit each time."""
_IN_TURN = (LogClass.FULL, LogClass.SIGNIFICANT)
ROOM_BYTES = 64 * MIB
"""Made at once on a full disk."""
_US = 1_000_000


@attrs.frozen
class SpoolLimits:
    """How much is kept; what is beyond goes, the oldest full logs first, and significant ones last."""

    max_bytes: int = 10_000 * MIB
    """Segments, and what is in none yet: that is dropped only when no full segment is left."""
    max_age_s: float = 7 * DAY_S
    """Since the requests; 0 is no limit."""
    max_segments: int = 500_000
    """Rows of the index, which takes some 150 MB then."""


class Spool:
    """An open spool; made by ``open``."""

    def __init__(self, packs: Packs, pieces: Pieces, index: SpoolIndex, now: Callable[[], float]) -> None:
        self._packs = packs
        self._pieces = pieces
        self._index = index
        self._now = now
        self._limits = SpoolLimits()
        self._throttlers = {name: Throttler() for name in LogClass}
        self._maker = SegmentMaker()
        self._buffer = ChunkBuffer()
        self._reserve = Reserve(packs.folder / "reserve")
        self._leavings = Leavings(packs)
        self._working = threading.Lock()
        self._lock = threading.RLock()
        self.lending = Lending(lambda: self._index, packs, self._lock)
        self._clean()
        self._reserve.take()

    _log = Logger()

    @classmethod
    def open(cls, folder: Path, logs: Path, now: Callable[[], float]) -> "Spool":
        """The spool in ``folder`` (``STATE/logs``), which takes in what the data plane writes in ``logs``.

        ``now`` is the wall clock's UNIX seconds.  An index that is damaged is made anew, see ``spool_recovery``.
        """
        packs, pieces = Packs(folder), Pieces(logs)
        return cls(packs, pieces, open_index(packs, pieces, int(now() * _US)), now)

    def close(self) -> None:
        """When nothing uses it any more."""
        self._leavings.sweep(holes=True, wait=True)
        with self._working, self._lock:
            self._index.close()

    # What is kept, and what is handed out.

    @property
    def incarnation(self) -> str:
        """Of the segments to come; those of an index that was lost have another one."""
        return self._index.incarnation

    def last_counter(self) -> int:
        """The newest segment's; 0 before the first."""
        return self._index.counter

    def set_back(self, controller: ControllerName, counter: int, position: int) -> bool:
        """``SpoolIndex.set_back``."""
        with self._working, self._lock:
            return self._index.set_back(controller, counter, position, self.lending.lent)

    def pending(self, selection: Selection, up_to: int | None, after: int, limit: int) -> list[SegmentHead]:
        """The oldest ``limit`` (1,000 at most) of a selection with ``after`` < counter <= ``up_to``, by counter."""
        with self._lock:
            return self._index.pending(selection, up_to, after, limit)

    def sendable(
        self, selection: Selection, up_to: int | None, after: int, limit: int, reach: Reach
    ) -> list[Sendable]:
        """As ``pending``, those that a controller may be sent."""
        with self._lock:
            return self._index.sendable(selection, up_to, after, limit, reach)

    def plan(self, selection: Selection, up_to: int | None, reach: Reach | None = None) -> ClassTotals:
        """All of a selection together, or what of it a controller may be sent."""
        with self._lock:
            return self._index.plan(selection, up_to, reach)

    def elsewhere(
        self, selection: Selection, up_to: int | None, reach: Reach
    ) -> dict[ControllerName, ClassTotals]:
        """What of it a controller may not be sent, since others may have it, by who that is."""
        with self._lock:
            return self._index.elsewhere(selection, up_to, reach)

    def acknowledge(self, names: Sequence[str]) -> None:
        """They are kept elsewhere, for good: they go, their bytes with ``sweep``.  Names that are gone already are fine."""
        with self._lock:
            self._leavings.add(*self._forget(names, None))
        self.lending.give_back(names)

    def sweep(self) -> None:
        """Take packs off the disk that have no segment any more, unless another thread does."""
        self._leavings.sweep(holes=False)

    def refused(self, name: str, why: str) -> None:
        """Somebody found that a segment is not what was written: it is set aside, and counted as lost."""
        with self._lock:
            placed = self._index.find(name)
        if placed is not None:
            self._refuse(placed, why)

    def drops_since(self, position: int, limit: int = MAX_TOLD) -> tuple[tuple[Drop, ...], int]:
        """The next ``limit`` drops after ``position``, and the position of the last of them: again, and perhaps more.

        The oldest of very many that were told are forgotten.  Positions only grow, from one incarnation to the next as well.
        """
        with self._lock:
            return self._index.drops_since(position, limit)

    def totals(self) -> SpoolTotals:
        """What is here, and what was lost since the spool was made."""
        with self._lock:
            totals, taken = self._index.totals(self._limits.max_bytes), self._index.pieces()
        return msgspec.structs.replace(totals, growing_bytes=self._pieces.growing_bytes(taken))

    # What comes in.

    def set_limits(self, limits: SpoolLimits) -> None:
        """From the next ``enforce`` or chunk on."""
        self._limits = limits

    def set_throttles(self, throttles: Throttles) -> None:
        """From the next chunk on."""
        for name, throttler in self._throttlers.items():
            throttler.throttle = throttles.of(name)

    def note(self, drops: Sequence[Drop]) -> None:
        """Lost by others, such as what the data plane could not write."""
        with self._lock:
            self._index.note(drops)

    def pieces(self) -> list[Piece]:
        """What was moved out of the data plane's way: significant first, and the oldest of it."""
        return self._pieces.all()

    def take_in(self, piece: Piece) -> Taken:
        """The next part of a final piece.  An error of ``Kind.NO_SPACE`` when no room can be made: nothing has happened."""
        with self._working:
            with self._open(piece) as window:
                before = self._index.counter
                if window.taken < window.size:
                    window = self._take(window)  # noqa: PLW2901 - one that was too large is done again
                done = window.taken >= window.size
                if not done:  # a piece of gigabytes does not stay beside its segments
                    punch(window.descriptor, 0, window.taken)
            if done:
                self._finish([window.piece])
                self._buffer.rest()
            self._enforce(pieces=False)
            return Taken(window.records, self._index.counter - before, len(window.services), done=done)

    def enforce(self, *, final: bool = False) -> None:
        """Hold the limits: by bytes, by count, by age.  ``final``: nobody writes to pieces any more."""
        self._leavings.sweep(holes=True)
        with self._working:
            self._enforce(pieces=True, final=final)
            before_us = int((self._now() - self._limits.max_age_s) * _US)
            while self._limits.max_age_s and self._expire(before_us):
                pass
            self._reserve.take()

    def look_after(self) -> None:
        """Make anew what somebody has removed (``StoreDamagedError``: the index, by ``repair``), and room on a disk that is
        nearly full: full logs go before the data plane has nothing to write to.
        """
        if self._packs.make_folders():
            with self._working, self._lock:
                self._clean()
        self._index.require()
        if (free := self._reserve.free_bytes()) < SHORT_BYTES:
            with self._working:
                if free < SPENT_BYTES:
                    self._reserve.give_up()
                self._leavings.sweep(holes=True, wait=True)
                self._evict(LogClass.FULL, ROOM_BYTES, EVICTED_AT_ONCE)

    def repair(self) -> None:
        """The index was found damaged (``StoreDamagedError``): make it anew."""
        with self._working, self._lock:
            # Or it would be found, and then taken away.
            self._leavings.sweep(holes=True, wait=True)
            self._packs.make_folders()
            self._index = make_anew(self._index, self._packs, self._pieces, int(self._now() * _US))
            self._clean()

    def _clean(self) -> None:
        """After a crash: what the index does not know was never here, and what it knows must be there."""
        known = self._index.packs()
        self._packs.remove(name for name in self._packs.all() if name not in known)
        for name, end in known.items():
            if self._packs.size(name) < end:
                for placed in self._index.of_pack(name):
                    if not whole(placed, self._packs.read(placed)):
                        self._refuse(placed, "its file is cut off or gone")
        pieces = self._pieces.all()
        taken = self._index.pieces()
        self._index.forget(set(taken) - {piece.name for piece in pieces})
        done = [piece for piece in pieces if taken.get(piece.name, -1) >= piece.path.stat().st_size]
        self._finish(done)

    def _finish(self, pieces: Sequence[Piece]) -> None:
        """The files first: a piece that the index has forgotten would be taken in again."""
        for piece in pieces:
            self._pieces.remove(piece)
        with self._lock:
            self._index.forget([piece.name for piece in pieces])

    def _open(self, piece: Piece) -> AbstractContextManager[Window]:
        """What is left of it."""
        begun = self._pieces.begin(piece)
        with self._lock:
            taken = self._index.pieces().get(piece.name, 0)
        return opened(begun, taken)

    def _take(self, window: Window) -> Window:
        """Commit a window, a smaller one where there is little room; what it has found."""
        throttler = self._throttlers[window.piece.log_class]
        while True:
            placed: list[Placed] = []
            before = throttler.counted()
            try:
                chunks = window.chunks(self._buffer, throttler, lambda: self._maker.wants_more)
                made = self._maker.make(
                    chunks, window.piece.log_class, self._index.incarnation, self._index.counter
                )
                placed = self._packs.write(made)
                with self._lock:
                    self._index.store(placed, window.drops, window.piece.name, window.taken)
            except BaseException as why:
                throttler.recall(before)
                if placed:  # they were never here
                    self._packs.remove([placed[0].pack_name])
                full = isinstance(why, AvinetError) and why.kind is Kind.NO_SPACE
                if not (full and self._make_room()):
                    raise
                window = window.smaller()
            else:
                return window

    def _make_room(self) -> bool:
        """The disk is full: whether something was given up."""
        if self._leavings.sweep(holes=True, wait=True):
            return True
        reserve = self._reserve.give_up()
        evicted = any(self._evict(log_class, ROOM_BYTES, EVICTED_AT_ONCE) for log_class in _IN_TURN)
        return evicted or reserve

    def _enforce(self, *, pieces: bool, final: bool = False) -> None:
        """By bytes and by count: full segments go first, then full pieces, then significant ones in the same order.

        Without ``pieces``, those are about to become segments: full segments make room for them, and no others.
        Significant segments never make room for full logs that are raw: what is left of those is a file that is written.
        """
        while True:
            raw = {log_class: self._pieces.disk_bytes(log_class) for log_class in LogClass}
            with self._lock:
                size = self._index.size - self._limits.max_bytes
                count = self._index.segments - self._limits.max_segments
            over = {
                LogClass.FULL: size + sum(raw.values()),
                LogClass.SIGNIFICANT: size + raw[LogClass.SIGNIFICANT] if pieces else size,
            }
            if not any(
                self._evict(log_class, over[log_class], count)
                or (pieces and over[log_class] > 0 and self._discard(log_class, final=final))
                for log_class in _IN_TURN
            ):
                return

    def _discard(self, log_class: LogClass, *, final: bool) -> bool:
        """The oldest chunk of what is in no segment yet is lost; False where there is none, or its room stays taken."""
        for piece in self._pieces.all():
            if piece.log_class is not log_class:
                continue
            with self._open(piece) as window:
                if not window.discard(self._buffer, final=final):
                    continue
                with self._lock:
                    self._index.store((), window.drops, piece.name, window.taken)
                gone = punch(window.descriptor, 0, window.taken)
            if final and window.taken >= window.size:
                self._finish([window.piece])
                gone = True
            return gone
        return False

    def _evict(self, log_class: LogClass, size: int, count: int) -> bool:
        """The oldest of a class go until ``size`` bytes and ``count`` segments are gone or a batch is full; whether some did.

        One that is being sent goes after all others: it would be counted as lost, and arrive.
        """
        if size <= 0 and count <= 0:
            return False
        with self._lock:
            lent = self.lending.lent
            oldest = self._index.oldest(log_class, EVICTED_AT_ONCE + len(lent))
            chosen = sorted(oldest, key=lambda each: each.head.name in lent)[:EVICTED_AT_ONCE]
            sizes = accumulate((each.head.size for each in chosen), initial=0)
            enough = sum(gone < size or number < count for number, gone in enumerate(sizes))
            names = [each.head.name for each in chosen[:enough]]
            gone, left = self._forget(names, DropReason.SPOOL_FULL)
        self._clear(gone, left)
        return bool(gone)

    def _expire(self, before_us: int) -> bool:
        """Whether some went that ended before; one that is being sent is gone soon anyway."""
        with self._lock:
            old = self._index.ended_before(before_us, EVICTED_AT_ONCE + len(self.lending.lent))
            names = [each.head.name for each in old if each.head.name not in self.lending.lent]
            gone, left = self._forget(names, DropReason.EXPIRED)
        self._clear(gone, left)
        return bool(gone)

    def _refuse(self, placed: Placed, why: str) -> None:
        self._log.error("segment {name} is set aside: {why}", name=placed.head.name, why=why)
        self._packs.set_aside(f"{placed.head.name}.zst", self._packs.read(placed))
        self._remove([placed.head.name], DropReason.CORRUPT)

    def _remove(self, names: Sequence[str], reason: DropReason | None) -> None:
        """With a reason, they are lost."""
        with self._lock:
            gone, left = self._forget(names, reason)
        self._clear(gone, left)

    def _clear(self, gone: Sequence[Placed], left: set[str]) -> None:
        self._packs.remove({each.pack_name for each in gone} - left)
        self._packs.clear(each for each in gone if each.pack_name in left)

    def _forget(self, names: Sequence[str], reason: DropReason | None) -> tuple[list[Placed], set[str]]:
        """Take them out of the index: which they were, and which of their packs have others still."""
        gone = self._index.find_all(names)
        if not gone:
            return [], set()
        self._index.remove(gone, [lost(each, reason) for each in gone] if reason else ())
        packs = {(each.pack, each.pack_name) for each in gone}
        return gone, {name for pack, name in packs if self._index.has_pack(pack)}
