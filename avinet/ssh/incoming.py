"""What comes in on a channel: handed over in order while its protocol takes it, and credited once it has."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from twisted.internet.interfaces import IHalfCloseableProtocol, IProtocol

from avinet.ssh.channel_protocols import ExtendedReceiver
from avinet.ssh.fields import malformed
from avinet.ssh.pieces import STDOUT, Pieces

if TYPE_CHECKING:
    from avinet.ssh.channel import ChannelTransport

_CREDIT_BYTES = 1024 * 1024
"""Credit goes back for so much, or half the window where that is less: of a large window nearly all is then on its way,
and a small one costs a packet a round trip."""
_WHOLE = 2**32
"""More than any piece."""


class Incoming:
    """The receiving half of one channel."""

    __slots__ = (
        "_channel",
        "_consumed",
        "_delivering",
        "_input_ended",
        "_view_received",
        "eof",
        "paused",
        "probed",
        "received",
        "waiting",
    )

    def __init__(
        self, channel: "ChannelTransport", view_received: Callable[[memoryview], None] | None
    ) -> None:
        self._channel = channel
        self._view_received = view_received
        self.waiting = Pieces()
        """What the protocol has not taken, since it is paused."""
        self.paused = False
        self.eof = False
        """Whether the peer will send no more."""
        self.received = 0
        """Bytes of data so far."""
        self.probed = 0
        """How many they were when the window was last tried for growth."""
        self._delivering = False
        self._consumed = 0
        """Bytes taken and not credited yet."""
        self._input_ended = False

    def hand_to(self, protocol: IProtocol) -> None:
        """Another protocol goes on with the channel from here."""
        self._channel.protocol = protocol
        self._view_received = getattr(protocol, "view_received", None)
        self._channel.guarded(protocol.makeConnection, self._channel)

    def take(self, kind: int, data: bytes | memoryview) -> None:
        """Data has come, within the window; a view is good during the call only."""
        if self.eof:
            raise malformed("data after EOF")
        channel = self._channel
        if channel.disconnecting or channel.over:
            return
        self.received += len(data)
        if self.waiting or self.paused or self._delivering:
            self.waiting.add(kind, data, channel.conn.memory)
            return
        self._delivering = True
        self._hand_over(kind, data)
        self._delivering = False
        if self.waiting:
            self.deliver()
        else:
            self._account()

    def _hand_over(self, kind: int, data: bytes | memoryview) -> None:
        channel = self._channel
        self._consumed += len(data)
        if kind != STDOUT:
            if isinstance(channel.protocol, ExtendedReceiver):
                channel.guarded(channel.protocol.extended_received, kind, bytes(data))
        elif self._view_received is not None:
            channel.guarded(self._view_received, memoryview(data))
        else:
            channel.guarded(channel.protocol.dataReceived, bytes(data))

    def deliver(self) -> None:
        """Hand over what waits, in order, until paused."""
        if self._delivering:
            return
        channel = self._channel
        self._delivering = True
        while self.waiting and not self.paused and not channel.disconnecting:
            self._hand_over(*self.waiting.pop(_WHOLE, channel.conn.memory))
        self._delivering = False
        self._account()

    def _account(self) -> None:
        """After a delivery: credit for what was consumed, and the end if it is next."""
        channel = self._channel
        if channel.disconnecting:
            self.forget()
        elif self.paused:
            return
        if self._consumed >= min(_CREDIT_BYTES, channel.localWindowSize // 2) and not self.eof:
            self._give_credit()
        if channel.end is not None and not self.waiting:
            channel.finish()
        elif self.eof and not self.waiting:
            self._hand_over_eof()

    def _give_credit(self) -> None:
        channel = self._channel
        credit, self._consumed = self._consumed, 0
        surplus = channel.localWindowSize - channel.base_window
        if surplus and channel.conn.memory.pressed:
            kept = min(surplus, credit)
            channel.localWindowSize -= kept
            credit -= kept
        if credit:
            channel.conn.adjustWindow(channel, credit)

    def grow_window(self, wanted: int) -> None:
        """Let the peer have up to ``wanted`` bytes unconsumed."""
        channel = self._channel
        if wanted > channel.localWindowSize and not (self.paused or self.eof or channel.disconnecting):
            more = wanted - channel.localWindowSize
            channel.localWindowSize = wanted
            channel.conn.adjustWindow(channel, more)

    def end_of_file(self) -> None:
        """The peer will send no more."""
        if self.eof:
            raise malformed("EOF after EOF")
        self.eof = True
        self.deliver()

    def _hand_over_eof(self) -> None:
        channel = self._channel
        if channel.disconnecting or channel.over or channel.end is not None:
            return
        if not IHalfCloseableProtocol.providedBy(channel.protocol):
            channel.loseConnection()
        elif not self._input_ended:
            self._input_ended = True
            channel.guarded(IHalfCloseableProtocol(channel.protocol).readConnectionLost)

    def forget(self) -> None:
        """Drop what waits."""
        self.waiting.clear(self._channel.conn.memory)
