"""A channel that is a transport: any Twisted protocol runs over it as over TCP.

Both directions push back.  What the protocol writes waits here (bounded, then the channel is cut) until it is this
channel's turn, while a registered producer is paused; what arrives is handed over at once, or waits here within the
window while the protocol has paused us, and credit goes back only for what was handed over.  Conch's own channel
returns credit on arrival and tells a writer to stop only once the window is *exceeded*, never when it is used up to
the byte.  The window itself grows while the peer fills it within a round trip (``Turns.received``), and shrinks
when memory is short.

Either direction can end first: ``loseWriteConnection`` sends EOF; the peer's EOF reaches an
``IHalfCloseableProtocol`` as ``readConnectionLost`` and closes the channel of any other protocol, as TCP does.
"""

from collections.abc import Callable, Iterable
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IProducer,
    IProtocol,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError
from avinet.ssh import profile
from avinet.ssh.channel_protocols import CloseReceiver, RequestReceiver
from avinet.ssh.fields import malformed
from avinet.ssh.incoming import Incoming
from avinet.ssh.pieces import STDOUT, Pieces, data_head
from avinet.ssh.quiet import conch_log
from avinet.ssh.scheduler import Priority
from avinet.ssh.source import Source

STDERR = 1
"""RFC 4254's type of extended data for standard error."""

_own_log = Logger(namespace="avinet.ssh.channel")


@implementer(ITransport, IConsumer, IPushProducer)
class ChannelTransport(SSHChannel):
    """One channel with ``protocol`` at our end."""

    _log = conch_log()
    conn: Any
    """The ``Connection``; Conch sets it once the channel opens."""
    id: Any
    counted = False
    """Whether it is among those that the peer opened and that are bounded."""
    max_window = profile.MAX_WINDOW_BYTES

    def __init__(
        self,
        protocol: IProtocol,
        name: bytes = b"direct-tcpip",
        *,
        priority: Priority = Priority.COMMANDS,
        window: int = profile.WINDOW_BYTES,
        max_unsent: int = profile.MAX_UNSENT_BYTES,
    ) -> None:
        super().__init__(localWindow=window, localMaxPacket=profile.MAX_DATA_PACKET)
        self.name = name
        self.priority = priority
        self.base_window = window
        self.protocol: IProtocol = protocol
        self.connected = False
        self.disconnecting = False
        self._max_unsent = max_unsent
        self.unsent = Pieces()
        """What was written and waits for its turn, or for the peer's window."""
        self._eof_wanted = False
        self._eof_sent = False
        self.source = Source()
        self._producing = False
        self.incoming = Incoming(self, getattr(protocol, "view_received", None))
        self.end: Exception | None = None
        """Why it ends, once that is decided."""
        self.over = False
        """Whether the protocol knows that it is over."""

    # -- life

    def channelOpen(self, specificData: bytes) -> None:
        """Both sides agreed: the protocol gets its transport."""
        self.remoteMaxPacket = min(self.remoteMaxPacket, self.conn.transport.most_data)
        self.connected = True
        self.guarded(self.protocol.makeConnection, self)

    def openFailed(self, reason: object) -> None:
        """The peer refused; whoever opened the channel hears of it, the protocol never knew."""
        self.over = True

    def closed(self) -> None:
        """Both sides closed, or the connection is gone."""
        if self.end is None:
            self.end = ConnectionDone() if self.incoming.eof else ConnectionLost()
        if isinstance(self.protocol, CloseReceiver) and not self.over:
            self.guarded(self.protocol.peer_closed)
        if isinstance(self.end, ConnectionLost):
            self.finish()
        else:
            self.incoming.deliver()

    def finish(self) -> None:
        """Tell the protocol that it is over, once."""
        if self.over:
            return
        self.over = True
        self.conn.lingering.discard(self)
        self.connected = False
        self.disconnecting = True
        self._forget_unsent()
        self.incoming.forget()
        producer = self.source.drop()
        if producer is not None:
            self.guarded(producer.stopProducing)
        reason = Failure(self.end or ConnectionDone())
        self.guarded(self.protocol.connectionLost, reason)

    def _finish_soon(self, reason: Exception) -> None:
        # As TCP does it: never inside the call that closes.
        if self.end is None:
            self.end = reason
        self.conn.transport.clock.callLater(0, self.finish)

    def guarded(self, call: Callable[..., object], *args: object) -> None:
        """Run the protocol's code: its defects end this channel, not the connection it shares."""
        try:
            call(*args)
        except Exception:  # noqa: BLE001 - the edge between a connection and the services on it
            _own_log.failure("a protocol on channel {name} failed", name=self.name.decode())
            self.abortConnection()

    # -- closing

    def loseConnection(self) -> None:
        """Close once everything written has been sent."""
        if self.disconnecting or not self.connected:
            return
        self.disconnecting = True
        self._eof_wanted = True
        if self.localClosed:
            self.incoming.forget()
            self._finish_soon(ConnectionDone())
        else:
            self._send()

    def loseWriteConnection(self) -> None:
        """Say that no more will be written, once everything has been sent."""
        self._eof_wanted = True
        self._send()

    def abortConnection(self) -> None:
        """Close now; what was not sent is dropped."""
        if self.over or not self.connected:
            return
        self.disconnecting = True
        self._forget_unsent()
        self.incoming.forget()
        self.conn.sendClose(self)
        self._finish_soon(ConnectionAborted())

    @property
    def waits(self) -> bool:
        """Whether the peer's data waits for a paused reader."""
        return bool(self.incoming.waiting)

    def abandon(self) -> None:
        """Memory is short, and the connection was cut for it: drop what waits here either way."""
        self._forget_unsent()
        if self.waits:
            self.incoming.forget()
            self.end = ConnectionLost()
            self._finish_soon(self.end)

    def _forget_unsent(self) -> None:
        self.unsent.clear(self.conn.memory)
        self.conn.turns.scheduler.withdraw(self)

    # -- sending

    def write(self, data: bytes) -> None:
        """Send, or keep until the window allows."""
        self._enqueue(STDOUT, data)

    def writeSequence(self, data: Iterable[bytes]) -> None:
        """Each in turn."""
        self._enqueue(STDOUT, b"".join(data))

    def writeExtended(self, dataType: int, data: bytes) -> None:
        """Send as extended data, in order with the rest."""
        self._enqueue(dataType, data)

    def _enqueue(self, kind: int, data: bytes) -> None:
        if not data or not self.connected or self._eof_wanted or self.localClosed:
            return
        if self.priority == Priority.CONTROL and self._goes_at_once(len(data)):
            self.remoteWindowLeft -= len(data)
            self.conn.transport.send_data([(self._head(kind, len(data)), data)])
            return
        self.unsent.add(kind, data, self.conn.memory)
        self._send()
        if self.unsent.size > self._max_unsent:
            _own_log.warn(
                "channel {name} was cut: {unsent} bytes wait for a peer that does not take them",
                name=self.name.decode(),
                unsent=self.unsent.size,
            )
            self.abortConnection()

    def _send(self) -> None:
        """Ask for turns as long as there is something that may be sent; then close, half close, or go on producing."""
        if not self.connected or self.localClosed:
            return
        if self.remoteWindowLeft and (self.unsent or self._pulls):
            self.conn.turns.scheduler.ready(self)
            self.conn.turns.pump()
        self._settle()

    @property
    def _pulls(self) -> bool:
        """Whether the producer has to be asked for each piece."""
        return self.source.pulls and not self.disconnecting

    def take_turn(self, most: int) -> int:
        """It is our turn: send at most ``most`` bytes of data, in as few packets as the peer takes; how many were sent.

        Withdraws from the scheduler when there is nothing left that may be sent.
        """
        most = min(most, self.remoteWindowLeft)
        produce_into = self.source.produce_into
        if not self.unsent and produce_into is not None and self._pulls and most:
            size = self._send_produced(produce_into, min(most, self.remoteMaxPacket))
        else:
            size = self._send_queued(most)
        if self.localClosed or not self.remoteWindowLeft or not (self.unsent or (size and self._pulls)):
            self.conn.turns.scheduler.withdraw(self)
            self._settle()
        return size

    def _send_produced(self, produce_into: Callable[[memoryview], int], most: int) -> int:
        self._producing = True  # an end that comes with the last piece goes behind it
        try:
            size = produce_into(self.conn.transport.blank(most))
        except Exception:  # noqa: BLE001 - the edge between a connection and the services on it
            _own_log.failure("a producer on channel {name} failed", name=self.name.decode())
            self.abortConnection()
            return 0
        finally:
            self._producing = False
        if self.localClosed:
            return 0
        if size:
            self.remoteWindowLeft -= size
            self.conn.transport.send_blank(self._head(STDOUT, size), size)
        return size

    def _send_queued(self, most: int) -> int:
        if not self.unsent and self._pulls:
            self.guarded(self.source.pull)
        left = most
        packets: list[tuple[bytes, bytes | memoryview]] = []
        while self.unsent and left and not self.localClosed:
            kind, data = self.unsent.pop(min(left, self.remoteMaxPacket), self.conn.memory)
            left -= len(data)
            packets.append((self._head(kind, len(data)), data))
        if packets:
            self.remoteWindowLeft -= most - left
            self.conn.transport.send_data(packets)
        return most - left

    def _head(self, kind: int, size: int) -> bytes:
        return data_head(self.conn.channelsToRemoteChannel[self], kind, size)

    def _goes_at_once(self, size: int) -> bool:
        """Whether control data needs no turn: nothing of ours waits, and what else waits is of a lower class."""
        most = min(self.remoteWindowLeft, self.remoteMaxPacket)
        return not self.unsent and size <= most and self.conn.transport.writable

    def _settle(self) -> None:
        """After sending: the end that was asked for, or the producer's turn."""
        if not self.connected or self.localClosed or self._producing:
            return
        if not self.unsent and self._eof_wanted:
            if not self._eof_sent:
                self._eof_sent = True
                self.conn.sendEOF(self)
            if self.disconnecting:
                self.conn.sendClose(self)
                self._finish_soon(ConnectionDone())
                return
        self._drive()

    @property
    def _blocked(self) -> bool:
        # Not whether the link is full: whoever was resumed first would then fill it again and again, and only those
        # that have something waiting take turns.
        return bool(self.unsent) or not self.remoteWindowLeft

    def _drive(self) -> None:
        """Pause a push producer while there is anything unsent, and let it go on when there is not."""
        turn = self.source.turn(blocked=self._blocked) if self.source else None
        if turn is not None:
            self.guarded(turn)

    def addWindowBytes(self, data: int) -> None:
        """The peer gives credit."""
        if self.remoteWindowLeft + data > profile.MAX_WINDOW:
            raise malformed("a window beyond 2^32 - 1")
        self.remoteWindowLeft += data
        self._send()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:  # noqa: FBT001 - IConsumer's
        """``producer`` writes to us and is paused while the peer gives no credit."""
        if not self.source and (self.over or self.disconnecting):
            producer.stopProducing()
            return
        self.source.register(producer, streaming=streaming)
        if self.connected:
            self._send()

    def unregisterProducer(self) -> None:
        """No producer any more."""
        self.source.drop()

    # -- receiving

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Plain data arrived, within the window; a view is good during the call only."""
        self.incoming.take(STDOUT, data)

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Extended data arrived, within the window."""
        self.incoming.take(dataType, data)

    def eofReceived(self) -> None:
        """The peer will write no more."""
        self.incoming.end_of_file()

    def closeReceived(self) -> None:
        """The peer closed: it takes no more, and what it sent is still handed over."""
        self._forget_unsent()
        self.incoming.eof = True
        if self.end is None:
            self.end = ConnectionDone()
        self.conn.sendClose(self)

    def requestReceived(self, requestType: bytes, data: bytes) -> bool:
        """A request from the peer; refused unless the protocol takes requests."""
        if not isinstance(self.protocol, RequestReceiver) or self.over:
            return False
        try:
            return self.protocol.request_received(requestType.decode("ascii", errors="replace"), data)
        except AvinetError:
            raise
        except Exception:  # noqa: BLE001 - the edge between a connection and the services on it
            _own_log.failure("a request on channel {name} failed", name=self.name.decode())
            self.abortConnection()
            return False

    def pauseProducing(self) -> None:
        """Hand over nothing more, and give no more credit, until resumed."""
        self.incoming.paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self.incoming.paused = False
        if self.connected:
            self.incoming.deliver()

    def stopProducing(self) -> None:
        """The consumer is gone."""
        self.loseConnection()

    def getPeer(self) -> IAddress:
        """The address of the SSH peer."""
        return self.conn.transport.transport.getPeer()  # type: ignore[no-any-return]  # as that transport has it

    def getHost(self) -> IAddress:
        """Our address of the SSH connection."""
        return self.conn.transport.transport.getHost()  # type: ignore[no-any-return]  # as that transport has it
