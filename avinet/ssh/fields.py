"""The fields of SSH packets (RFC 4251 section 5), read strictly.

Conch slices: a string that claims more bytes than the packet has comes out short, and a missing integer raises
``struct.error`` somewhere inside.  Here every field either is whole or raises ``RemoteProtocolError`` that says
which one was not.
"""

import struct

import attrs

from avinet.errors import RemoteProtocolError

_UINT32 = struct.Struct(">L")


def malformed(detail: str) -> RemoteProtocolError:
    """The peer sent something that SSH does not allow."""
    return RemoteProtocolError(protocol="SSH", detail=detail)


def uint32(number: int) -> bytes:
    """The four bytes of an unsigned integer."""
    return _UINT32.pack(number)


def string(value: bytes) -> bytes:
    """A length, then the bytes."""
    return _UINT32.pack(len(value)) + value


@attrs.define
class Reader:
    """Takes fields off the front of ``data``; ``what`` names the packet in errors."""

    data: bytes = attrs.field(repr=False)
    what: str
    _at: int = 0

    def uint32(self) -> int:
        """An unsigned integer."""
        if len(self.data) - self._at < 4:
            raise malformed(f"{self.what} ends inside an integer")
        (number,) = _UINT32.unpack_from(self.data, self._at)
        self._at += 4
        return int(number)

    def boolean(self) -> bool:
        """One byte; anything but 0 is true."""
        if self._at >= len(self.data):
            raise malformed(f"{self.what} ends before a flag")
        self._at += 1
        return self.data[self._at - 1] != 0

    def string(self) -> bytes:
        """A length and as many bytes."""
        length = self.uint32()
        if length > len(self.data) - self._at:
            raise malformed(f"{self.what} has a string that runs past its end")
        start, self._at = self._at, self._at + length
        return self.data[start : self._at]

    def text(self, limit: int = 1024) -> str:
        """A string of at most ``limit`` bytes of UTF-8."""
        raw = self.string()
        if len(raw) > limit:
            raise malformed(f"{self.what} has a name of {len(raw)} bytes; {limit} is the most")
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise malformed(f"{self.what} has a name that is not UTF-8") from None

    def rest(self) -> bytes:
        """Whatever is left."""
        start, self._at = self._at, len(self.data)
        return self.data[start:]

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self.data):
            raise malformed(f"{self.what} is longer than its fields")
