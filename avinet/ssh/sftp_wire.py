"""SFTP version 3 as bytes (draft-ietf-secsh-filexfer-02), read strictly.  Sans-IO."""

import os
import struct
import time
from collections.abc import Iterator

import attrs

from avinet.ssh.fields import Reader, malformed, string, uint32

VERSION = 3
MAX_PACKET_BYTES = 256 * 1024
"""OpenSSH's own bound (SFTP_MAX_MSG_LENGTH); a write of ``MAX_DATA_BYTES`` fits."""
MAX_DATA_BYTES = MAX_PACKET_BYTES - 1024
MAX_HANDLE_BYTES = 8

INIT, VERSION_REPLY = 1, 2
OPEN, CLOSE, READ, WRITE, LSTAT, FSTAT, SETSTAT, FSETSTAT, OPENDIR, READDIR = range(3, 13)
REMOVE, MKDIR, RMDIR, REALPATH, STAT, RENAME, READLINK, SYMLINK = range(13, 21)
STATUS, HANDLE, DATA, NAME, ATTRS = range(101, 106)
EXTENDED, EXTENDED_REPLY = 200, 201

OK, EOF, NO_SUCH_FILE, PERMISSION_DENIED, FAILURE, BAD_MESSAGE = range(6)
OP_UNSUPPORTED = 8

FLAG_READ, FLAG_WRITE, FLAG_APPEND, FLAG_CREATE, FLAG_TRUNCATE, FLAG_EXCLUSIVE = (1 << n for n in range(6))
_ATTR_SIZE, _ATTR_OWNER, _ATTR_MODE, _ATTR_TIMES, _ATTR_EXTENDED = 1, 2, 4, 8, 1 << 31
_MAX_EXTENDED = 16
_ATTRS = struct.Struct(">LQLLLLL")
_RECENT_S = 180 * 86400
"""``ls -l`` shows the year of what is older."""


@attrs.frozen
class Attributes:
    """What a request wants a file to be; None for what it leaves alone."""

    size: int | None = None
    has_owner: bool = False
    mode: int | None = None
    times: tuple[int, int] | None = None
    """Of the last access and change, in seconds of UNIX time."""


def uint64(reader: Reader) -> int:
    """An unsigned integer of eight bytes."""
    return (reader.uint32() << 32) | reader.uint32()


def read_attributes(reader: Reader) -> Attributes:
    """The ATTRS of a request."""
    flags = reader.uint32()
    size = uint64(reader) if flags & _ATTR_SIZE else None
    if flags & _ATTR_OWNER:
        reader.uint32(), reader.uint32()
    mode = reader.uint32() if flags & _ATTR_MODE else None
    times = (reader.uint32(), reader.uint32()) if flags & _ATTR_TIMES else None
    if flags & _ATTR_EXTENDED:
        count = reader.uint32()
        if count > _MAX_EXTENDED:
            raise malformed(f"{count} extended attributes")
        for _ in range(count):
            reader.string(), reader.string()
    return Attributes(size, bool(flags & _ATTR_OWNER), mode, times)


def attributes_of(found: os.stat_result) -> bytes:
    """A file as the peer is told of it."""
    flags = _ATTR_SIZE | _ATTR_OWNER | _ATTR_MODE | _ATTR_TIMES
    times = (max(0, min(int(t), 0xFFFFFFFF)) for t in (found.st_atime, found.st_mtime))
    return _ATTRS.pack(flags, found.st_size, found.st_uid, found.st_gid, found.st_mode, *times)


def long_name(name: bytes, found: os.stat_result, now: float) -> bytes:
    """The line of ``ls -l`` that version 3 asks for."""
    import stat  # here: ``STAT`` and its like are this module's own

    changed = time.gmtime(found.st_mtime)
    is_recent = 0 <= now - found.st_mtime < _RECENT_S
    when = time.strftime("%b %e %H:%M" if is_recent else "%b %e  %Y", changed)
    line = (
        f"{stat.filemode(found.st_mode)} {found.st_nlink:3} {found.st_uid:<8} {found.st_gid:<8}"
        f" {found.st_size:8} {when} "
    )
    return line.encode() + name


def status(request: int, code: int, text: str = "") -> bytes:
    """How a request ended."""
    body = string(text.encode()[:1000]) + string(b"en")
    return bytes((STATUS,)) + uint32(request) + uint32(code) + body


def reply(kind: int, request: int, *fields: bytes) -> bytes:
    """Any other answer."""
    return bytes((kind,)) + uint32(request) + b"".join(fields)


def names(request: int, found: list[tuple[bytes, bytes, bytes]]) -> bytes:
    """NAME: name, line and attributes of each."""
    entries = (string(name) + string(line) + attributes for name, line, attributes in found)
    return reply(NAME, request, uint32(len(found)), *entries)


class Packets:
    """Bytes from a peer to its packets, none longer than ``MAX_PACKET_BYTES``."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[int, bytes]]:
        """The (type, body) of each packet that is whole now; ``RemoteProtocolError`` for an impossible length."""
        buffer = self._buffer
        buffer += data
        at = 0
        try:
            while len(buffer) - at >= 4:
                length = int.from_bytes(buffer[at : at + 4], "big")
                if not 1 <= length <= MAX_PACKET_BYTES:
                    raise malformed(f"an SFTP packet of {length} bytes; {MAX_PACKET_BYTES} is the most")
                if len(buffer) - at - 4 < length:
                    break
                kind, body = buffer[at + 4], bytes(buffer[at + 5 : at + 4 + length])
                at += 4 + length
                yield kind, body
        finally:
            del buffer[:at]
