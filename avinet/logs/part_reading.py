"""The bytes of what has come whole, read once more to be sent on: its segments one behind the other, without what else is in the
file.  Blocking: for threads.
"""

from collections import deque

import attrs

from avinet.logs.incoming_pack import PackPart
from avinet.logs.incoming_part import Part


@attrs.define(eq=False)
class PartReading:
    """Of one part, from its first byte to its last."""

    part: Part | PackPart
    size: int = attrs.field(init=False)
    """Of all its segments."""
    left: int = attrs.field(init=False)
    _extents: deque[tuple[int, int]] = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        """Extents that touch each other are one."""
        self._extents = deque()
        for place, size in self.part.extents:
            if self._extents and sum(self._extents[-1]) == place:
                self._extents[-1] = (self._extents[-1][0], self._extents[-1][1] + size)
            else:
                self._extents.append((place, size))
        self.size = self.left = sum(size for _, size in self._extents)

    def next(self, most: int) -> bytes:
        """The next bytes, some at least unless it is at its end; ``OSError`` where there are none though there should be."""
        if not self._extents:
            return b""
        place, size = self._extents.popleft()
        piece = self.part.read(place, min(most, size))
        if not piece:
            raise OSError(f"{size} bytes of what was received are not there")
        if len(piece) < size:
            self._extents.appendleft((place + len(piece), size - len(piece)))
        self.left -= len(piece)
        return piece
