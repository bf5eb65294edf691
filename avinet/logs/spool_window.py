"""Reads a piece a chunk at a time, up to what one commit takes in: a **window**."""

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Iterator

import attrs
import numpy as np

from avinet.logs.split import Split, drops_of, split
from avinet.logs.spool_pieces import Piece
from avinet.logs.spool_segments import Taking
from avinet.logs.throttle import Throttler
from avinet.model.ids import ObjectId
from avinet.model.logs import Drop, DropReason
from avinet.units import MIB

CHUNK_BYTES = 16 * MIB
"""Of a piece, at a time.  With what is found, gathered and compressed of it beside, some 35 MiB of memory, 20 more of the
libraries' own code, and 16 of what waits (``spool_gathering``)."""
WINDOW_BYTES = 256 * MIB
"""Some two seconds of work, which who stops the agent waits for, and which is done again after a kill."""


@attrs.frozen
class Taken:
    """What became of one part of a piece."""

    records: int
    """In segments now."""
    segments: int
    services: int
    done: bool
    """The piece is taken in and gone."""


class ChunkBuffer:
    """One for all chunks: what malloc takes and gives back in this size, it keeps in the end."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, CHUNK_BYTES)

    def read(self, descriptor: int, offset: int) -> memoryview:
        """The next chunk; valid until the next call.  ``OSError``."""
        room = memoryview(self._memory)[:CHUNK_BYTES]
        return room[: os.preadv(descriptor, [room], offset)]

    def rest(self) -> None:
        """Not needed for now."""
        self._memory.madvise(mmap.MADV_DONTNEED)


def split_on(chunk: memoryview, piece: Piece, *, final: bool) -> Split:
    """As ``split``; of a whole chunk something is always consumed."""
    found = split(chunk, piece.log_class, final=final)
    if not found.consumed and len(chunk) == CHUNK_BYTES:
        # A chunk without a newline: no request makes such a line.
        found = split(chunk, piece.log_class, final=True)
    return found


@contextlib.contextmanager
def opened(piece: Piece, taken: int) -> "Iterator[Window]":
    """What is left of a piece that was begun, from the byte ``taken`` on.  ``OSError``."""
    descriptor = os.open(piece.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        yield Window(piece, descriptor, taken, os.fstat(descriptor).st_size)
    finally:
        os.close(descriptor)


@attrs.define(eq=False)
class Window:
    """A part of one open piece, from the byte ``taken`` on; that moves as ``chunks`` are read."""

    piece: Piece
    descriptor: int
    taken: int
    size: int
    """Of the piece."""
    begins: int = attrs.field(default=attrs.Factory(lambda self: self.taken, takes_self=True), init=False)
    most_bytes: int = attrs.field(factory=lambda: WINDOW_BYTES)
    records: int = attrs.field(default=0, init=False)
    services: set[ObjectId] = attrs.field(factory=set, init=False)
    drops: list[Drop] = attrs.field(factory=list, init=False)

    def chunks(
        self, buffer: ChunkBuffer, throttler: Throttler, wants_more: Callable[[], bool]
    ) -> Iterator[Taking]:
        """What is kept, until there is enough; ``wants_more`` is asked when a chunk was made use of."""
        until = self.taken + self.most_bytes
        while self.taken < self.size:
            try:
                chunk = buffer.read(self.descriptor, self.taken)
            except OSError as why:
                if why.errno != errno.EIO:
                    raise
                self._skip()
                return
            if not chunk:  # somebody cut it off
                self.size = self.taken
                return
            ends = len(chunk) < CHUNK_BYTES or self.taken + len(chunk) >= self.size
            found = split_on(chunk, self.piece, final=ends)
            kept = throttler.admit(found.lines)
            throttled = drops_of(DropReason.THROTTLED, self.piece.log_class, found.lines, ~kept)
            lines = found.lines.only(kept) if throttled else found.lines
            self.drops += (*found.drops, *throttled)
            self.records += len(lines.starts)
            self.services.update(lines.names)
            self.taken += found.consumed
            last = self.taken >= self.size or self.taken + CHUNK_BYTES > until
            yield Taking(chunk, lines, last)
            if last or not wants_more():
                return

    def smaller(self) -> "Window":
        """From the same byte on, a chunk at most: its segments have room where a whole window's have none."""
        return Window(self.piece, self.descriptor, self.begins, self.size, CHUNK_BYTES)

    def discard(self, buffer: ChunkBuffer, *, final: bool) -> bool:
        """Count the next chunk's lines as lost; False when there are none.  ``final``: nobody writes to the piece any more."""
        if self.taken >= self.size:
            return False
        try:
            chunk = buffer.read(self.descriptor, self.taken)
        except OSError as why:
            if why.errno != errno.EIO:
                raise
            self._skip()
            return True
        found = split_on(chunk, self.piece, final=final and self.taken + len(chunk) >= self.size)
        gone = np.ones(len(found.lines.starts), np.bool_)
        self.drops += (
            *found.drops,
            *drops_of(DropReason.SPOOL_FULL, self.piece.log_class, found.lines, gone),
        )
        self.taken += found.consumed
        return bool(found.consumed)

    def _skip(self) -> None:
        """The disk does not give a chunk back: it is lost, and the next one may be there."""
        after = min(self.taken + CHUNK_BYTES, self.size)
        self.drops.append(
            Drop(reason=DropReason.CORRUPT, log_class=self.piece.log_class, raw_bytes=after - self.taken)
        )
        self.taken = after
