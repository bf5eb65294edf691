"""One SFTP session on a channel: requests are answered in order, some at a time, in a thread.

Memory is bounded both ways: the channel is held back while requests wait, and no more is done while answers do.
"""

from collections import deque
from collections.abc import Callable
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer, IReactorTime
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import RemoteProtocolError
from avinet.ssh import sftp_wire as wire
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.confined import ConfinedFolder
from avinet.ssh.fields import string, uint32
from avinet.ssh.sftp import SftpServer
from avinet.units import MIB, show_bytes

WAITING_BYTES = MIB
"""Of requests that were not looked at: more is left in the channel's window."""
BATCH_BYTES = MIB
"""Of answers to the requests of one turn in the thread, about; four of the largest reads."""
BATCH_REQUESTS = 64
"""As many as OpenSSH's client has under way."""

_PACKET_BYTES = 128
"""What a request takes beside its body while it waits: packets without one must not be free."""

InThread = Callable[..., "Deferred[Any]"]
_log = Logger()


def _cost(kind: int, body: bytes) -> int:
    """About how long the answer is."""
    return min(int.from_bytes(body[-4:], "big"), wire.MAX_DATA_BYTES) if kind == wire.READ else 256


@implementer(IHalfCloseableProtocol, IPushProducer)
class FilesSession(Protocol):
    """``ended`` is told what was moved, in words, and in how many seconds, once."""

    transport: ChannelTransport | None

    def __init__(
        self,
        clock: IReactorTime,
        folder: ConfinedFolder,
        in_thread: InThread,
        ended: Callable[[str, float], None],
    ) -> None:
        self._clock = clock
        self._started_at = clock.seconds()
        self._server = SftpServer(folder)
        self._in_thread = in_thread
        self._ended: Callable[[str, float], None] | None = ended
        self._packets = wire.Packets()
        self._waiting: deque[tuple[int, bytes]] = deque()
        self._waiting_bytes = 0
        self._busy = False
        self._paused = False
        self._input_over = False
        self._closing = False

    def connectionMade(self) -> None:
        """Hear of it when the peer takes no more."""
        self._channel.registerProducer(self, True)

    @property
    def _channel(self) -> ChannelTransport:
        return cast("ChannelTransport", self.transport)

    def dataReceived(self, data: bytes) -> None:
        """Requests, or parts of them."""
        if self._closing:
            return
        try:
            for packet in self._packets.feed(data):
                self._waiting.append(packet)
                self._waiting_bytes += len(packet[1]) + _PACKET_BYTES
        except RemoteProtocolError as why:
            self._close(why.detail)
            return
        if self._waiting_bytes > WAITING_BYTES:
            self._channel.pauseProducing()
        self._go_on()

    def _go_on(self) -> None:
        if self._busy or self._paused or self._closing:
            return
        batch: list[tuple[int, bytes]] = []
        cost = 0
        while self._waiting and len(batch) < BATCH_REQUESTS and cost < BATCH_BYTES:
            kind, body = self._waiting.popleft()
            self._waiting_bytes -= len(body) + _PACKET_BYTES
            cost += _cost(kind, body)
            batch.append((kind, body))
        if batch:
            self._busy = True
            self._in_thread(self._work, batch).addBoth(self._worked)
        elif self._input_over:
            self._close("")

    def _work(self, batch: list[tuple[int, bytes]]) -> tuple[bytes, str]:
        """Every answer, and why there are no more: in the thread."""
        answers: list[bytes] = []
        why = ""
        for kind, body in batch:
            try:
                answers.append(string(self._server.handle(kind, body)))
            except RemoteProtocolError as malformed:
                why = malformed.detail
                break
            except OSError as failed:
                why = f"the folder for files cannot be used: {failed.strerror}"
                break
        return b"".join(answers), why

    def _worked(self, outcome: tuple[bytes, str] | Failure) -> None:
        self._busy = False
        if isinstance(outcome, Failure):
            _log.failure("an SFTP session failed", outcome)
            outcome = (b"", "it failed")
        answers, why = outcome
        if self._closing:
            self._let_go()
            return
        self._channel.write(answers)
        if why:
            self._close(why)
            return
        if self._waiting_bytes <= WAITING_BYTES // 2:
            self._channel.resumeProducing()
        self._go_on()

    def _close(self, why: str) -> None:
        """In good order when ``why`` is empty; else the client's user reads it."""
        if self._closing:
            return
        channel = self._channel
        if why:
            channel.writeExtended(1, f"avinet: {why}\n".encode())
        channel.unregisterProducer()
        channel.conn.sendRequest(channel, b"exit-status", uint32(1 if why else 0))
        channel.loseConnection()
        self._stop()

    def _stop(self) -> None:
        self._closing = True
        self._waiting.clear()
        if not self._busy:
            self._let_go()

    def _let_go(self) -> None:
        """Close what is open, then tell."""
        ended, self._ended = self._ended, None
        if ended is None:
            return
        closing = self._in_thread(self._server.close)
        closing.addErrback(lambda failure: _log.failure("closing an SFTP session's files failed", failure))
        closing.addBoth(lambda _: ended(self._told(), self._clock.seconds() - self._started_at))

    def _told(self) -> str:
        server = self._server
        if not server.transfers:
            return "looked at files"
        more = server.transfers - len(server.told)
        rest = f" and {more} more" if more else ""
        return f"{', '.join(server.told)}{rest}; {show_bytes(server.moved_bytes)} in all"

    def readConnectionLost(self) -> None:
        """The peer asks for no more."""
        self._input_over = True
        self._go_on()

    def writeConnectionLost(self) -> None:
        """We closed that side ourselves."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The channel is gone."""
        if not self._closing:
            self._stop()

    def pauseProducing(self) -> None:
        """The peer takes no more answers for now."""
        self._paused = True

    def resumeProducing(self) -> None:
        """It does."""
        self._paused = False
        self._go_on()

    def stopProducing(self) -> None:
        """The channel is gone; ``connectionLost`` follows."""
