"""Pieces of channel data: how each is announced, and how they wait in order for a consumer or the peer's window."""

import struct
from collections import deque

from avinet.ssh.memory import ConnectionMemory

STDOUT = 0
"""The plain data of a channel; other numbers are RFC 4254's extended data types."""
JOINED_BYTES = 4096
"""Small pieces that wait are joined up to this size: one by one, each byte would take a hundred of memory."""
PIECE_BYTES = 128
"""What a piece takes beside its data: a tuple, a ``bytes`` and its place in the queue."""


_MSG_DATA, _MSG_EXTENDED_DATA = 94, 95
_DATA_HEAD = struct.Struct(">BLL")
_EXTENDED_HEAD = struct.Struct(">BLLL")


def data_head(channel: int, kind: int, size: int) -> bytes:
    """What comes before ``size`` bytes of data for the peer's ``channel``."""
    if kind == STDOUT:
        return _DATA_HEAD.pack(_MSG_DATA, channel, size)
    return _EXTENDED_HEAD.pack(_MSG_EXTENDED_DATA, channel, kind, size)


class Pieces:
    """Pieces of data, each with its kind (``STDOUT`` or a type of extended data).

    What is held is counted as it is in memory, since pieces of a byte are dear.
    """

    __slots__ = ("_queue", "held", "size")

    def __init__(self) -> None:
        self._queue: deque[tuple[int, bytes | memoryview]] = deque()
        self.size = 0
        """Bytes of data."""
        self.held = 0
        """Bytes of memory."""

    def __len__(self) -> int:
        return len(self._queue)

    def add(self, kind: int, data: bytes | memoryview, memory: ConnectionMemory) -> None:
        """Put a copy of ``data`` behind the rest; ``memory`` may cut the connection for it."""
        size = len(data)
        last = self._queue[-1] if self._queue else None
        if last is not None and last[0] == kind and len(last[1]) + size <= JOINED_BYTES:
            self._queue[-1] = (kind, b"".join((last[1], data)))
            held = size
        else:
            self._queue.append((kind, bytes(data)))
            held = size + PIECE_BYTES
        self.size += size
        self.held += held
        memory.hold(held)

    def pop(self, most: int, memory: ConnectionMemory) -> tuple[int, bytes | memoryview]:
        """The first piece, or as much of it as ``most`` allows."""
        kind, data = self._queue[0]
        if len(data) > most:
            whole = memoryview(data)
            self._queue[0] = (kind, whole[most:])
            data, held = whole[:most], most
        else:
            self._queue.popleft()
            held = len(data) + PIECE_BYTES
        self.size -= len(data)
        self.held -= held
        memory.release(held)
        return kind, data

    def clear(self, memory: ConnectionMemory) -> None:
        """Drop all of it."""
        self._queue.clear()
        memory.release(self.held)
        self.size = self.held = 0
