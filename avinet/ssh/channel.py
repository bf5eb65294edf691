"""A channel that is a transport: any Twisted protocol runs over it as over TCP.

Both directions push back.  What the protocol writes waits here (bounded, then the channel is cut) until it is this
channel's turn, while a registered producer is paused; what arrives is handed over at once, or waits here within the
window while the protocol has paused us, and credit goes back only for what was handed over.  Conch's own channel
returns credit on arrival and tells a writer to stop only once the window is *exceeded*, never when it is used up to
the byte.  The window itself grows while the peer fills it within a round trip (``Connection.received``), and shrinks
when memory is short.

Either direction can end first: ``loseWriteConnection`` sends EOF; the peer's EOF reaches an
``IHalfCloseableProtocol`` as ``readConnectionLost`` and closes the channel of any other protocol, as TCP does.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.conch.ssh.channel import SSHChannel
from twisted.internet.error import ConnectionAborted, ConnectionDone, ConnectionLost
from twisted.internet.interfaces import (
    IAddress,
    IConsumer,
    IHalfCloseableProtocol,
    IProducer,
    IProtocol,
    IPullProducer,
    IPushProducer,
    ITransport,
)
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError
from avinet.ssh import profile
from avinet.ssh.channel_protocols import CloseReceiver, ExtendedReceiver, RequestReceiver
from avinet.ssh.fields import malformed
from avinet.ssh.quiet import conch_log
from avinet.ssh.scheduler import Priority

STDOUT = 0
"""The plain data of a channel; other numbers are RFC 4254's extended data types."""
STDERR = 1

_CREDIT_BYTES = 1024 * 1024
"""Credit goes back for so much, or half the window where that is less: of a large window nearly all is then on its way,
and a small one costs a packet a round trip."""
_JOINED_BYTES = 4096
"""Small pieces that wait are joined up to this size: one by one, each byte would take a hundred of memory."""
_PIECE_BYTES = 128
"""What a piece takes beside its data: a tuple, a ``bytes`` and its place in the queue."""
_MSG_DATA, _MSG_EXTENDED_DATA = 94, 95
_DATA_HEAD = struct.Struct(">BLL")
_EXTENDED_HEAD = struct.Struct(">BLLL")

_own_log = Logger(namespace="avinet.ssh.channel")


@implementer(ITransport, IConsumer, IPushProducer)
class ChannelTransport(SSHChannel):
    """One channel with ``protocol`` at our end."""

    _log = conch_log()
    conn: Any
    """The ``Connection``; Conch sets it once the channel opens."""
    id: Any

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
        self.received = 0
        """Bytes of data so far."""
        self.probed = 0
        """How many they were when the window was last tried for growth."""
        self.protocol: IProtocol = protocol
        self.connected = False
        self.disconnecting = False
        self._max_unsent = max_unsent
        self._unsent: deque[tuple[int, memoryview]] = deque()
        self._unsent_bytes = 0
        self._eof_wanted = False
        self._eof_sent = False
        self._producer: IPushProducer | IPullProducer | None = None
        self._streaming = False
        self._producer_paused = False
        self._produce_into: Callable[[memoryview], int] | None = None
        self._producing = False
        self._pending: deque[tuple[int, bytes]] = deque()
        self._pending_bytes = 0
        self._view_received: Callable[[memoryview], None] | None = getattr(protocol, "view_received", None)
        self._delivering = False
        self._paused = False
        self._eof_received = False
        self._consumed = 0
        self._end: Exception | None = None
        self._over = False

    # -- life

    def channelOpen(self, specificData: bytes) -> None:
        """Both sides agreed: the protocol gets its transport."""
        self.remoteMaxPacket = min(self.remoteMaxPacket, self.conn.transport.most_data)
        self.connected = True
        self._guarded(self.protocol.makeConnection, self)

    def openFailed(self, reason: object) -> None:
        """The peer refused; whoever opened the channel hears of it, the protocol never knew."""
        self._over = True

    def closed(self) -> None:
        """Both sides closed, or the connection is gone."""
        if self._end is None:
            self._end = ConnectionDone() if self._eof_received else ConnectionLost()
        if isinstance(self.protocol, CloseReceiver) and not self._over:
            self._guarded(self.protocol.peer_closed)
        if isinstance(self._end, ConnectionLost):
            self._finish()
        else:
            self._deliver()

    def _finish(self) -> None:
        """Tell the protocol that it is over, once."""
        if self._over:
            return
        self._over = True
        self.conn.lingering.discard(self)
        self.connected = False
        self.disconnecting = True
        self._forget_unsent()
        self._forget_pending()
        producer = self._drop_producer()
        if producer is not None:
            self._guarded(producer.stopProducing)
        reason = Failure(self._end or ConnectionDone())
        self._guarded(self.protocol.connectionLost, reason)

    def _finish_soon(self, reason: Exception) -> None:
        # As TCP does it: never inside the call that closes.
        if self._end is None:
            self._end = reason
        self.conn.transport.clock.callLater(0, self._finish)

    def _guarded(self, call: Callable[..., object], *args: object) -> None:
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
            self._forget_pending()
            self._finish_soon(ConnectionDone())
        else:
            self._send()

    def loseWriteConnection(self) -> None:
        """Say that no more will be written, once everything has been sent."""
        self._eof_wanted = True
        self._send()

    def abortConnection(self) -> None:
        """Close now; what was not sent is dropped."""
        if self._over or not self.connected:
            return
        self.disconnecting = True
        self._forget_unsent()
        self._forget_pending()
        self.conn.sendClose(self)
        self._finish_soon(ConnectionAborted())

    @property
    def waits(self) -> bool:
        """Whether the peer's data waits for a paused reader."""
        return bool(self._pending)

    def abandon(self) -> None:
        """Memory is short, and the connection was cut for it: drop what waits here either way."""
        self._forget_unsent()
        if self._pending:
            self._forget_pending()
            self._end = ConnectionLost()
            self._finish_soon(self._end)

    def _forget_unsent(self) -> None:
        self._unsent.clear()
        self.conn.memory.release(self._unsent_bytes)
        self._unsent_bytes = 0
        self.conn.scheduler.withdraw(self)

    def _forget_pending(self) -> None:
        self._pending.clear()
        self.conn.memory.release(self._pending_bytes)
        self._pending_bytes = 0

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
            self.conn.transport.send_data([(self._head(kind, len(data)), memoryview(data))])
            return
        last = self._unsent[-1] if self._unsent else None
        if last is not None and last[0] == kind and len(last[1]) + len(data) <= _JOINED_BYTES:
            self._unsent[-1] = (kind, memoryview(b"".join((last[1], data))))
        else:
            self._unsent.append((kind, memoryview(bytes(data))))
        self._unsent_bytes += len(data)
        self.conn.memory.hold(len(data))
        self._send()
        if self._unsent_bytes > self._max_unsent:
            _own_log.warn(
                "channel {name} was cut: {unsent} bytes wait for a peer that does not take them",
                name=self.name.decode(),
                unsent=self._unsent_bytes,
            )
            self.abortConnection()

    def _send(self) -> None:
        """Ask for turns as long as there is something that may be sent; then close, half close, or go on producing."""
        if not self.connected or self.localClosed:
            return
        if self.remoteWindowLeft and (self._unsent or self._pulls):
            self.conn.scheduler.ready(self)
            self.conn.pump()
        self._settle()

    @property
    def _pulls(self) -> bool:
        """Whether the producer has to be asked for each piece."""
        return self._producer is not None and not self._streaming and not self.disconnecting

    def take_turn(self, most: int) -> int:
        """It is our turn: send at most ``most`` bytes of data, in as few packets as the peer takes; how many were sent.

        Withdraws from the scheduler when there is nothing left that may be sent.
        """
        most = min(most, self.remoteWindowLeft)
        if not self._unsent and self._produce_into is not None and self._pulls and most:
            size = self._send_produced(self._produce_into, min(most, self.remoteMaxPacket))
        else:
            size = self._send_queued(most)
        if self.localClosed or not self.remoteWindowLeft or not (self._unsent or (size and self._pulls)):
            self.conn.scheduler.withdraw(self)
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
        if not self._unsent and self._pulls:
            self._guarded(self._producer.resumeProducing)  # type: ignore[union-attr]  # it pulls
        left = most
        packets: list[tuple[bytes, memoryview]] = []
        while self._unsent and left and not self.localClosed:
            kind, data = self._unsent[0]
            size = min(len(data), left, self.remoteMaxPacket)
            if size < len(data):
                self._unsent[0] = (kind, data[size:])
                data = data[:size]
            else:
                self._unsent.popleft()
            left -= size
            packets.append((self._head(kind, size), data))
        if packets:
            self._unsent_bytes -= most - left
            self.remoteWindowLeft -= most - left
            self.conn.memory.release(most - left)
            self.conn.transport.send_data(packets)
        return most - left

    def _head(self, kind: int, size: int) -> bytes:
        theirs = self.conn.channelsToRemoteChannel[self]
        if kind == STDOUT:
            return _DATA_HEAD.pack(_MSG_DATA, theirs, size)
        return _EXTENDED_HEAD.pack(_MSG_EXTENDED_DATA, theirs, kind, size)

    def _goes_at_once(self, size: int) -> bool:
        """Whether control data needs no turn: nothing of ours waits, and what else waits is of a lower class."""
        most = min(self.remoteWindowLeft, self.remoteMaxPacket)
        return not self._unsent and size <= most and self.conn.transport.writable

    def _settle(self) -> None:
        """After sending: the end that was asked for, or the producer's turn."""
        if not self.connected or self.localClosed or self._producing:
            return
        if not self._unsent and self._eof_wanted:
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
        return bool(self._unsent) or not self.remoteWindowLeft

    def _drive(self) -> None:
        """Pause a push producer while there is anything unsent, and let it go on when there is not."""
        producer = self._producer
        if producer is None or not self._streaming:
            return
        if self._blocked != self._producer_paused:
            self._producer_paused = self._blocked
            self._guarded(producer.pauseProducing if self._blocked else producer.resumeProducing)  # type: ignore[union-attr]  # streaming

    def addWindowBytes(self, data: int) -> None:
        """The peer gives credit."""
        if self.remoteWindowLeft + data > profile.MAX_WINDOW:
            raise malformed("a window beyond 2^32 - 1")
        self.remoteWindowLeft += data
        self._send()

    def registerProducer(self, producer: IProducer, streaming: bool) -> None:  # noqa: FBT001 - IConsumer's
        """``producer`` writes to us and is paused while the peer gives no credit."""
        if self._producer is not None:
            raise RuntimeError("a producer is already registered")
        if self._over or self.disconnecting:
            producer.stopProducing()
            return
        self._producer = producer  # type: ignore[assignment]  # IProducer is one of the two
        self._streaming, self._producer_paused = streaming, False
        self._produce_into = None if streaming else getattr(producer, "produce_into", None)
        if self.connected:
            self._send()

    def unregisterProducer(self) -> None:
        """No producer any more."""
        self._drop_producer()

    def _drop_producer(self) -> IPushProducer | IPullProducer | None:
        producer, self._producer = self._producer, None
        return producer

    # -- receiving

    def dataReceived(self, data: bytes | memoryview) -> None:
        """Plain data arrived, within the window; a view is good during the call only."""
        self._receive(STDOUT, data)

    def extReceived(self, dataType: int, data: bytes) -> None:
        """Extended data arrived, within the window."""
        self._receive(dataType, data)

    def _receive(self, kind: int, data: bytes | memoryview) -> None:
        if self._eof_received:
            raise malformed("data after EOF")
        if self.disconnecting or self._over:
            return
        self.received += len(data)
        if self._pending or self._paused or self._delivering:
            self._keep(kind, data)
            return
        self._delivering = True
        self._hand_over(kind, data)
        self._delivering = False
        if self._pending:
            self._deliver()
        else:
            self._account()

    def _keep(self, kind: int, data: bytes | memoryview) -> None:
        """Data that is not wanted yet.  What is held is counted as it is in memory: pieces of a byte are dear."""
        last = self._pending[-1] if self._pending else None
        if last is not None and last[0] == kind and len(last[1]) + len(data) <= _JOINED_BYTES:
            self._pending[-1] = (kind, b"".join((last[1], data)))
            size = len(data)
        else:
            self._pending.append((kind, bytes(data)))
            size = len(data) + _PIECE_BYTES
        self._pending_bytes += size
        self.conn.memory.hold(size)

    def _hand_over(self, kind: int, data: bytes | memoryview) -> None:
        self._consumed += len(data)
        if kind != STDOUT:
            if isinstance(self.protocol, ExtendedReceiver):
                self._guarded(self.protocol.extended_received, kind, bytes(data))
        elif self._view_received is not None:
            self._guarded(self._view_received, memoryview(data))
        else:
            self._guarded(self.protocol.dataReceived, bytes(data))

    def _deliver(self) -> None:
        """Hand over what waits, in order, until paused."""
        if self._delivering:
            return
        self._delivering = True
        while self._pending and not self._paused and not self.disconnecting:
            kind, data = self._pending.popleft()
            self._pending_bytes -= len(data) + _PIECE_BYTES
            self.conn.memory.release(len(data) + _PIECE_BYTES)
            self._hand_over(kind, data)
        self._delivering = False
        self._account()

    def _account(self) -> None:
        """After a delivery: credit for what was consumed, and the end if it is next."""
        if self.disconnecting:
            self._forget_pending()
        elif self._paused:
            return
        if self._consumed >= min(_CREDIT_BYTES, self.localWindowSize // 2) and not self._eof_received:
            self._give_credit()
        if self._end is not None and not self._pending:
            self._finish()
        elif self._eof_received and not self._pending:
            self._hand_over_eof()

    def _give_credit(self) -> None:
        credit, self._consumed = self._consumed, 0
        surplus = self.localWindowSize - self.base_window
        if surplus and self.conn.memory.pressed:
            kept = min(surplus, credit)
            self.localWindowSize -= kept
            credit -= kept
        if credit:
            self.conn.adjustWindow(self, credit)

    def grow_window(self, wanted: int) -> None:
        """Let the peer have up to ``wanted`` bytes unconsumed."""
        if wanted > self.localWindowSize and not (self._paused or self._eof_received or self.disconnecting):
            more = wanted - self.localWindowSize
            self.localWindowSize = wanted
            self.conn.adjustWindow(self, more)

    def _hand_over_eof(self) -> None:
        if self.disconnecting or self._over or self._end is not None:
            return
        if IHalfCloseableProtocol.providedBy(self.protocol):
            self._end_of_input()
        else:
            self.loseConnection()

    def _end_of_input(self) -> None:
        if not self._input_ended:
            self._input_ended = True
            self._guarded(IHalfCloseableProtocol(self.protocol).readConnectionLost)

    _input_ended = False

    def eofReceived(self) -> None:
        """The peer will write no more."""
        if self._eof_received:
            raise malformed("EOF after EOF")
        self._eof_received = True
        self._deliver()

    def closeReceived(self) -> None:
        """The peer closed: it takes no more, and what it sent is still handed over."""
        self._forget_unsent()
        self._eof_received = True
        if self._end is None:
            self._end = ConnectionDone()
        self.conn.sendClose(self)

    def requestReceived(self, requestType: bytes, data: bytes) -> bool:
        """A request from the peer; refused unless the protocol takes requests."""
        if not isinstance(self.protocol, RequestReceiver) or self._over:
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
        self._paused = True

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        if self.connected:
            self._deliver()

    def stopProducing(self) -> None:
        """The consumer of what arrives is gone."""
        self.loseConnection()

    def getPeer(self) -> IAddress:
        """The address of the SSH peer."""
        return self.conn.transport.transport.getPeer()  # type: ignore[no-any-return]  # as that transport has it

    def getHost(self) -> IAddress:
        """Our address of the SSH connection."""
        return self.conn.transport.transport.getHost()  # type: ignore[no-any-return]  # as that transport has it
