"""The terminal of a session: what was asked for, and how its input holds the channel back."""

import struct

import attrs
from twisted.internet.interfaces import IPushProducer
from zope.interface import implementer

from avinet.ssh.channel import ChannelTransport
from avinet.ssh.fields import Reader

EOT = b"\x04"
"""What ends the input of a terminal: Ctrl-D."""


@attrs.frozen
class Terminal:
    """As the peer asked for it."""

    name: str
    size: bytes = attrs.field(repr=False)
    """As TIOCSWINSZ wants it."""


def window_of(reader: Reader) -> bytes:
    """Columns, rows, and both in pixels; as rows first in 16 bits each."""
    columns, rows, width, height = (min(reader.uint32(), 0xFFFF) for _ in range(4))
    return struct.pack("4H", rows, columns, width, height)


@implementer(IPushProducer)
class Intake:
    """Holds the channel back while the terminal does not take input.  A command that closes it ends nothing."""

    def __init__(self, channel: ChannelTransport) -> None:
        self._channel = channel

    def pauseProducing(self) -> None:
        """Wait."""
        self._channel.pauseProducing()

    def resumeProducing(self) -> None:
        """Go on."""
        self._channel.resumeProducing()

    def stopProducing(self) -> None:
        """Nobody takes it: let it come, and go nowhere."""
        self._channel.resumeProducing()
