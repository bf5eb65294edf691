"""The packet codec: bytes in, payloads out, and back.  Sans-IO; one reader and one writer a connection.

Whole packets are verified where they lie in what was read; only one that straddles two reads is put together in a
buffer first.  A payload is a view that is good until the next one is asked for: large ones share a scratch buffer,
so that bulk data is written once on its way from the socket's bytes to its consumer.  The buffers exist only while
large packets come and go; an idle connection has none.
"""

import os
import struct

from avinet.ssh.ciphers import LENGTH_BYTES, Opener, Plain, Sealer
from avinet.ssh.fields import malformed
from avinet.ssh.profile import MAX_PACKET_BEFORE_LOGIN

SEQUENCE_MASK = 0xFFFFFFFF
_MIN_PADDING, _MAX_PADDING = 4, 32
_PADDING_BYTES = 4096
DATA_HEAD_BYTES = 9
"""Message number, channel and size before plain channel data (RFC 4254 section 5.2)."""
_HEAD = struct.Struct(">LB")
_SMALL_BYTES = 4096
"""Packets up to this size get memory of their own; it is not worth keeping any for them."""
READ_BYTES = 256 * 1024
"""What is worth reading at a time while large packets come."""
_CALM_PACKETS = 64
"""Small packets in a row after which the buffers of the large ones go."""


class PacketReader:
    """Takes what was received and gives the payloads in it."""

    __slots__ = ("_at", "_calm", "_carried", "_carry", "_data", "_large", "_need", "_opener", "_scratch",
                 "limit", "opened_bytes", "packets", "sequence")  # fmt: skip

    def __init__(self) -> None:
        self.limit = MAX_PACKET_BEFORE_LOGIN
        """The longest packet's length field."""
        self.sequence = 0
        self.packets = 0
        """Taken under the present keys, whether sequence numbers restarted with them or not."""
        self.opened_bytes = 0
        """Taken under the present keys."""
        self._opener: Opener = Plain()
        self._data = memoryview(b"")
        self._at = 0
        self._carry = bytearray()
        self._carried = 0
        self._need = 0
        self._scratch = bytearray()
        self._large = 0
        """The size of the last packet, if that was large."""
        self._calm = 0

    @property
    def wanted(self) -> int:
        """Bytes that would complete the packet under way and some more like the large one that came last; 0 while
        packets are small.
        """
        if not self._large:
            return 0
        missing = self._need - self._carried if self._carried else 0
        return missing + self._large * max((READ_BYTES - missing) // self._large, 0 if missing else 1)

    def feed(self, data: bytes) -> None:
        """Take bytes; ``next`` must have said None before."""
        self._data = memoryview(data)
        self._at = 0

    def next(self) -> memoryview | None:
        """The next payload (never empty); None when more bytes must come.  ``RemoteProtocolError`` for what cannot
        be a packet, ``MacError`` for one that was changed.
        """
        packet = self._whole() if not self._carried else self._completed()
        return None if packet is None else self._open(packet)

    def switch(self, opener: Opener, *, restart: bool) -> None:
        """From the next packet on; ``restart`` counts sequence numbers from 0 again (strict key exchange)."""
        if self._carried:
            # The length of what is begun was read under the old keys.
            raise malformed("a packet runs into new keys")
        self._opener = opener
        self.opened_bytes = self.packets = 0
        if restart:
            self.sequence = 0

    def _length(self, head: memoryview) -> int:
        """Bytes of the whole packet that begins so."""
        opener = self._opener
        length = opener.length(self.sequence, bytes(head))
        if length > self.limit:
            raise malformed(f"a packet of {length} bytes; {self.limit} is the most")
        if (length + opener.plain_head) % opener.block or length < opener.block - opener.plain_head:
            raise malformed("a packet whose length or padding is impossible")
        return LENGTH_BYTES + length + opener.tag

    def _whole(self) -> memoryview | None:
        """A packet that lies in one piece, else its beginning is carried."""
        at, left = self._at, len(self._data) - self._at
        if left >= LENGTH_BYTES:
            self._need = self._length(self._data[at : at + LENGTH_BYTES])
            if left >= self._need:
                self._at = at + self._need
                return self._data[at : self._at]
        if left:
            self._take(left, max(self._need, LENGTH_BYTES))
        return None

    def _take(self, size: int, room: int) -> None:
        """Carry ``size`` more bytes, in a buffer with ``room`` for what they belong to."""
        if len(self._carry) < room:
            grown = bytearray(room)
            grown[: self._carried] = self._carry[: self._carried]
            self._carry = grown
        self._carry[self._carried : self._carried + size] = self._data[self._at : self._at + size]
        self._carried += size
        self._at += size

    def _completed(self) -> memoryview | None:
        """The packet that is carried, once it is whole."""
        left = len(self._data) - self._at
        if not self._need:
            size = min(LENGTH_BYTES - self._carried, left)
            self._take(size, LENGTH_BYTES)
            left -= size
            if self._carried < LENGTH_BYTES:
                return None
            self._need = self._length(memoryview(self._carry)[:LENGTH_BYTES])
        size = min(self._need - self._carried, left)
        self._take(size, self._need)
        if self._carried < self._need:
            return None
        self._carried = 0
        return memoryview(self._carry)[: self._need]

    def _open(self, packet: memoryview) -> memoryview:
        opener, size = self._opener, len(packet)
        length = size - LENGTH_BYTES - opener.tag
        self._need = 0
        body = memoryview(bytearray(length) if size <= _SMALL_BYTES else self._room(length))[:length]
        opener.open(self.sequence, packet, body)
        padding = body[0]
        if not _MIN_PADDING <= padding < length - 1:
            raise malformed("a packet whose length or padding is impossible")
        self.sequence = (self.sequence + 1) & SEQUENCE_MASK
        self.packets += 1
        self.opened_bytes += size
        if size <= _SMALL_BYTES:
            self._calm += 1
            if self._calm == _CALM_PACKETS:
                self._scratch, self._carry, self._large = bytearray(), bytearray(), 0
        else:
            self._large = size
        return body[1 : length - padding]

    def _room(self, length: int) -> bytearray:
        self._calm = 0
        if len(self._scratch) < length:
            self._scratch = bytearray(length)
        return self._scratch


class Padding:
    """Random bytes from the kernel, some hundred packets' worth at a time.

    Each call gives up Python's lock, and beside busy threads getting it back takes longer than sealing a packet.
    """

    __slots__ = ("_at", "_bytes")

    def __init__(self) -> None:
        self._bytes = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        """So many, each used once."""
        end = self._at + count
        if end > len(self._bytes):
            self._bytes, self._at, end = os.urandom(_PADDING_BYTES), 0, count
        taken = self._bytes[self._at : end]
        self._at = end
        return taken


_padding = Padding()
"""Of all connections: 4 KiB for each of thousands would add up."""


class PacketWriter:
    """Makes packets."""

    __slots__ = ("_calm", "_scratch", "_sealer", "packets", "sealed_bytes", "sequence")

    def __init__(self) -> None:
        self.sequence = 0
        self.packets = 0
        """Made under the present keys."""
        self.sealed_bytes = 0
        """Made under the present keys."""
        self._sealer: Sealer = Plain()
        self._scratch = bytearray()
        self._calm = 0

    def switch(self, sealer: Sealer, *, restart: bool) -> None:
        """See ``PacketReader.switch``."""
        self._sealer = sealer
        self.sealed_bytes = self.packets = 0
        if restart:
            self.sequence = 0

    def seal(self, head: bytes, data: bytes | memoryview = b"") -> tuple[bytes, ...]:
        """The packet with payload ``head + data``, in pieces for the socket."""
        payload = len(head) + len(data)
        padding = self._padding(payload)
        size = _HEAD.size + payload + padding
        lengths = _HEAD.pack(size - LENGTH_BYTES, padding)
        if size <= _SMALL_BYTES:
            plain = memoryview(b"".join((lengths, head, data, _padding.take(padding))))
            self._calm += 1
            if self._calm == _CALM_PACKETS:
                self._scratch = bytearray()
        else:
            plain = self._room(size)
            plain[: _HEAD.size] = lengths
            plain[_HEAD.size : _HEAD.size + len(head)] = head
            plain[_HEAD.size + len(head) : size - padding] = data
            plain[size - padding :] = _padding.take(padding)
        return self._sealed(plain)

    def blank(self, size: int) -> memoryview:
        """Room for ``size`` bytes of data behind a head of ``DATA_HEAD_BYTES``; good until the next packet."""
        start = _HEAD.size + DATA_HEAD_BYTES
        return self._room(start + size + _MAX_PADDING)[start : start + size]

    def seal_blank(self, head: bytes, size: int) -> tuple[bytes, ...]:
        """As ``seal``, with the first ``size`` bytes of ``blank`` for data."""
        padding = self._padding(DATA_HEAD_BYTES + size)
        end = _HEAD.size + DATA_HEAD_BYTES + size
        plain = memoryview(self._scratch)[: end + padding]
        plain[: end - size] = _HEAD.pack(end + padding - LENGTH_BYTES, padding) + head
        plain[end:] = _padding.take(padding)
        return self._sealed(plain)

    def _padding(self, payload: int) -> int:
        """RFC 4253 counts the length field into the block; what authenticates it in the clear does not."""
        sealer = self._sealer
        padding = sealer.block - (sealer.plain_head + 1 + payload) % sealer.block
        return padding if padding >= _MIN_PADDING else padding + sealer.block

    def _room(self, size: int) -> memoryview:
        self._calm = 0
        if len(self._scratch) < size:
            self._scratch = bytearray(size)
        return memoryview(self._scratch)[:size]

    def _sealed(self, plain: memoryview) -> tuple[bytes, ...]:
        pieces = self._sealer.seal(self.sequence, plain)
        self.sequence = (self.sequence + 1) & SEQUENCE_MASK
        self.packets += 1
        self.sealed_bytes += len(plain)
        return pieces
