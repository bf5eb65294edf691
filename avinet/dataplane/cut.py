"""Cutting what a process still has open to a server, from outside the process.

Envoy has no way to close the connections to one server: it closes those of a server that fails its checks, or those
of a whole listener.  Linux has one (SOCK_DESTROY, what ``ss -K`` uses), for who has CAP_NET_ADMIN: the process sees
its connections aborted.  Without the capability they end as they end by themselves.
"""

import errno
import socket
import struct
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_SOCK_DESTROY = 21
_ERROR, _DONE = 2, 3
_REQUEST, _ACK, _DUMP = 0x001, 0x004, 0x300
_CONNECTED = sum(1 << state for state in (1, 2, 4, 5, 8))
"""ESTABLISHED, SYN_SENT, FIN_WAIT1, FIN_WAIT2, CLOSE_WAIT of ``tcp_states.h``."""
_HEADER = struct.Struct("=IHHII")
_REQUEST_BODY = struct.Struct("=BBBxI48s")
_FOUND = struct.Struct("=BBBB48sIIIII")
_READ_BYTES = 1 << 18
_TIMEOUT_S = 5.0
"""For one answer of the kernel, which comes at once."""


@error
class CutError(AvinetError):
    """Connections to servers that were disabled could not be cut: {detail}. They end when their clients end them."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    detail: str


@attrs.frozen
class _Socket:
    family: int
    identity: bytes
    """Addresses, ports and cookie, as the kernel names it."""
    peer: tuple[str, int]
    inode: int


def _inodes(pid: int) -> frozenset[int]:
    """Of the sockets that the process has open."""
    found = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            target = str(entry.readlink())
        except OSError:
            continue  # closed meanwhile
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return frozenset(found)


def _messages(link: socket.socket) -> Iterator[tuple[int, bytes]]:
    """(type, body) of an answer, to its end."""
    while True:
        data = link.recv(_READ_BYTES)
        while len(data) >= _HEADER.size:
            length, kind, _, _, _ = _HEADER.unpack_from(data)
            body = data[_HEADER.size : length]
            if kind == _DONE:
                return
            yield kind, body
            if kind == _ERROR:
                return
            data = data[(length + 3) & ~3 :]


def _send(link: socket.socket, kind: int, flags: int, family: int, identity: bytes) -> None:
    body = _REQUEST_BODY.pack(family, socket.IPPROTO_TCP, 0, _CONNECTED, identity)
    link.send(_HEADER.pack(_HEADER.size + len(body), kind, flags, 1, 0) + body)


def _connected(link: socket.socket, family: int) -> list[_Socket]:
    _send(link, _SOCK_DIAG_BY_FAMILY, _REQUEST | _DUMP, family, bytes(48))
    found = []
    for kind, body in _messages(link):
        if kind == _ERROR or len(body) < _FOUND.size:
            continue
        fields = _FOUND.unpack_from(body)
        identity = fields[4]
        size = 4 if family == socket.AF_INET else 16
        address = socket.inet_ntop(family, identity[20 : 20 + size])
        port = int.from_bytes(identity[2:4], "big")
        found.append(_Socket(family, identity, (address, port), fields[9]))
    return found


def cut_connections(pid: int, servers: Iterable[tuple[str, int]]) -> int:
    """Abort what ``pid`` has open to ``servers``, (IP address, port) each; how many there were.  Blocking."""
    wanted = frozenset(servers)
    try:
        inodes = _inodes(pid)
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as link:
            link.settimeout(_TIMEOUT_S)
            found = [
                item
                for family in (socket.AF_INET, socket.AF_INET6)
                for item in _connected(link, family)
                if item.peer in wanted and item.inode in inodes
            ]
            for item in found:
                _destroy(link, item)
    except OSError as failure:
        raise CutError(detail=str(failure)) from failure
    return len(found)


def _destroy(link: socket.socket, item: _Socket) -> None:
    _send(link, _SOCK_DESTROY, _REQUEST | _ACK, item.family, item.identity)
    for kind, body in _messages(link):
        code = -struct.unpack_from("=i", body)[0] if kind == _ERROR else 0
        if code in {errno.EPERM, errno.EACCES}:
            raise CutError(detail="it needs CAP_NET_ADMIN")
        if code == errno.EOPNOTSUPP:
            raise CutError(detail="this kernel does not do it (CONFIG_INET_DIAG_DESTROY)")
        # ENOENT: it ended by itself meanwhile.
