"""A connection that gets nothing but the news that there is no room for it, and how the other side reads it."""

import re
import struct

from twisted.conch.ssh import transport as conch
from twisted.internet.protocol import Protocol

from avinet.ssh import profile
from avinet.ssh.errors import ServerBusyError
from avinet.ssh.fields import string

_WAIT = re.compile(r"retry after ([0-9]{1,5}(?:\.[0-9]{1,3})?) s\Z")
_UNSAID_S = 1.0
"""From a server of another make, which does not say."""


class Refusal(Protocol):
    """Says when to come back, and closes."""

    def __init__(self, retry_after_s: float) -> None:
        self._text = busy_text(retry_after_s)

    def connectionMade(self) -> None:
        """Everything there is to say."""
        if self.transport is not None:
            self.transport.write(refusal_packet(self._text))
            self.transport.loseConnection()


def busy_text(retry_after_s: float) -> str:
    """What a server that is full says; ``busy_from`` reads it."""
    return f"too many connections; retry after {retry_after_s:.1f} s"


def busy_from(text: str) -> ServerBusyError:
    """The server's wish as an error."""
    said = _WAIT.search(text)
    return ServerBusyError(retry_after_s=float(said[1]) if said else _UNSAID_S)


def refusal_packet(text: str) -> bytes:
    """Version and DISCONNECT in the clear, for a connection that gets nothing else."""
    body = (
        b"\x01"
        + struct.pack(">L", conch.DISCONNECT_TOO_MANY_CONNECTIONS)
        + string(text.encode())
        + string(b"")
    )
    padding = 8 - (5 + len(body)) % 8
    padding += 8 if padding < 4 else 0
    return (
        profile.VERSION
        + b"\r\n"
        + struct.pack(">LB", 1 + len(body) + padding, padding)
        + body
        + bytes(padding)
    )
