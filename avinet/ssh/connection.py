"""The ssh-connection service: channels and global requests, strict and bounded.

Conch's service believes the peer: an unknown channel number is a ``KeyError``, an answer nobody asked for an
``IndexError``, a short packet a ``struct.error``, and the number of channels is the peer's choice.  This one
reads every field strictly and raises ``RemoteProtocolError`` for what may not happen, which ends the connection.
What a peer may open or ask is decided by an ``Acceptor``, so that server and client share all the rest.
"""

from typing import Any, Protocol

from twisted.conch import error as conch_error
from twisted.conch.ssh import connection as conch
from twisted.conch.ssh.connection import SSHConnection
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IProtocol

from avinet.errors import AvinetError
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.errors import ChannelRefusedError, ConnectionEndedError, ForwardRefusedError
from avinet.ssh.fields import Reader, malformed, string, uint32
from avinet.ssh.flow import RateGuard
from avinet.ssh.profile import MIN_DATA_PACKET
from avinet.ssh.quiet import conch_log
from avinet.ssh.transport import Link

GRANTED = b""
"""A global request's answer without data; None is a refusal."""
_REFUSED = "refused"


class Acceptor(Protocol):
    """Decides what the peer of one connection may do."""

    def open_channel(self, kind: str, details: Reader) -> ChannelTransport:
        """A channel for the peer's request; ``ChannelRefusedError`` to refuse."""

    def global_request(self, kind: str, details: Reader) -> bytes | None:
        """The data of the answer, or None to refuse."""

    def connection_stopped(self, why: AvinetError) -> None:
        """The connection is gone; called once."""


def refused(
    what: str, detail: str, code: int = conch.OPEN_ADMINISTRATIVELY_PROHIBITED
) -> ChannelRefusedError:
    """A refusal as the peer will read it."""
    return ChannelRefusedError(what=what, detail=detail, code=code)


class _Opening(ChannelTransport):
    """A channel that we asked for."""

    def __init__(self, protocol: IProtocol, name: bytes, what: str) -> None:
        super().__init__(protocol, name)
        self.what = what
        self.opened: Deferred[IProtocol] = Deferred(lambda _: self._give_up())
        self._given_up = False

    def _give_up(self) -> None:
        self._given_up = True

    def channelOpen(self, specificData: bytes) -> None:
        """The peer agreed, perhaps too late."""
        super().channelOpen(specificData)
        if self._given_up:
            self.abortConnection()
        else:
            self.opened.callback(self.protocol)

    def openFailed(self, reason: object) -> None:
        """The peer refused, or the connection ended first."""
        super().openFailed(reason)
        if self._given_up:
            return
        failure: AvinetError = ConnectionEndedError(detail=f"while opening {self.what}")
        if isinstance(reason, conch_error.ConchError):
            text = bytes(reason.value)[:200].decode(errors="replace")
            failure = ChannelRefusedError(what=self.what, detail=text, code=int(reason.data or 0))
        self.opened.errback(failure)


class Connection(SSHConnection):
    """The channels of one connection."""

    _log = conch_log()
    transport: Link

    def __init__(self, acceptor: Acceptor) -> None:
        super().__init__()
        self.acceptor = acceptor
        self._incoming = 0
        self._guard: RateGuard | None = None
        self._idle: Any = None

    # -- life

    def serviceStarted(self) -> None:
        """The login succeeded."""
        limits = self.transport.limits
        self._guard = RateGuard(limits.requests, limits.requests_per_s)
        self._idle = self.transport.clock.callLater(limits.idle_s, self._check_idle)

    def serviceStopped(self) -> None:
        """The connection is gone: every channel, request and timer ends."""
        if self._idle is not None and self._idle.active():
            self._idle.cancel()
        super().serviceStopped()
        why = self.transport.ended or ConnectionEndedError(detail="the peer closed it")
        self.acceptor.connection_stopped(why)

    @property
    def busy(self) -> bool:
        """Whether the peer uses the connection; acceptors may know more reasons."""
        return bool(self.channels) or bool(getattr(self.acceptor, "busy", False))

    def _check_idle(self) -> None:
        limits = self.transport.limits
        if not self.busy and not self.transport.isClient:
            self.transport.violate(malformed(f"nothing was asked for in {limits.idle_s:.0f} s"))
            return
        self._idle = self.transport.clock.callLater(limits.idle_s, self._check_idle)

    def writable_changed(self) -> None:
        """The link takes data again, or none for now."""
        for channel in list(self.channels.values()):
            channel.writable_changed()

    def _count(self) -> None:
        if self._guard is not None and not self._guard.allow(self.transport.clock.seconds()):
            raise malformed("too many requests")

    def _channel(self, number: int) -> ChannelTransport:
        channel = self.channels.get(number)
        if channel is None or channel not in self.channelsToRemoteChannel:
            raise malformed(f"channel {number} is not open")
        return channel  # type: ignore[no-any-return]  # Conch's dict is untyped

    # -- opening

    def open(self, kind: bytes, details: bytes, protocol: IProtocol, what: str) -> Deferred[IProtocol]:
        """Ask the peer for a channel to ``protocol``; cancelling closes it if it opens after all."""
        channel = _Opening(protocol, kind, what)
        self.openChannel(channel, details)
        return channel.opened

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """The peer wants a channel."""
        reader = Reader(packet, "CHANNEL_OPEN")
        kind = reader.text(64)
        theirs, window, largest = reader.uint32(), reader.uint32(), reader.uint32()
        self._count()
        try:
            if largest < MIN_DATA_PACKET:
                raise refused("a channel", f"a maximum packet size of {largest}")
            if self._incoming >= self.transport.limits.channels:
                raise refused("a channel", "too many channels", conch.OPEN_RESOURCE_SHORTAGE)
            channel = self.acceptor.open_channel(kind, reader)
        except ChannelRefusedError as refusal:
            self._refuse_open(theirs, refusal)
            return
        self._incoming += 1
        channel.conn = self
        channel.id = self.localChannelID
        channel.incoming = True  # type: ignore[attr-defined]  # counted until it closes
        channel.remoteWindowLeft, channel.remoteMaxPacket = window, largest
        self.localChannelID += 1
        self.channels[channel.id] = channel
        self.channelsToRemoteChannel[channel] = theirs
        self.localToRemoteChannel[channel.id] = theirs
        self.transport.sendPacket(
            conch.MSG_CHANNEL_OPEN_CONFIRMATION,
            uint32(theirs)
            + uint32(channel.id)
            + uint32(channel.localWindowSize)
            + uint32(channel.localMaxPacket),
        )
        channel.channelOpen(reader.rest())

    def _refuse_open(self, theirs: int, refusal: ChannelRefusedError) -> None:
        text = string(refusal.detail.encode()) + string(b"")
        self.transport.sendPacket(
            conch.MSG_CHANNEL_OPEN_FAILURE, uint32(theirs) + uint32(refusal.code) + text
        )

    def _opening(self, number: int) -> _Opening:
        channel = self.channels.get(number)
        if not isinstance(channel, _Opening) or channel in self.channelsToRemoteChannel:
            raise malformed(f"channel {number} was not being opened")
        return channel

    def ssh_CHANNEL_OPEN_CONFIRMATION(self, packet: bytes) -> None:
        """The peer opened what we asked for."""
        reader = Reader(packet, "CHANNEL_OPEN_CONFIRMATION")
        channel = self._opening(reader.uint32())
        theirs, window, largest = reader.uint32(), reader.uint32(), reader.uint32()
        if largest < MIN_DATA_PACKET:
            raise malformed(f"a maximum packet size of {largest}")
        channel.conn = self
        self.localToRemoteChannel[channel.id] = theirs
        self.channelsToRemoteChannel[channel] = theirs
        channel.remoteWindowLeft, channel.remoteMaxPacket = window, largest
        channel.channelOpen(reader.rest())

    def ssh_CHANNEL_OPEN_FAILURE(self, packet: bytes) -> None:
        """The peer refused what we asked for."""
        reader = Reader(packet, "CHANNEL_OPEN_FAILURE")
        channel = self._opening(reader.uint32())
        code, text = reader.uint32(), reader.string()
        del self.channels[channel.id]
        channel.openFailed(conch_error.ConchError(text, code))

    # -- data

    def _take(self, channel: ChannelTransport, data: bytes) -> None:
        if len(data) > channel.localWindowLeft:
            raise malformed("data beyond the window")
        if len(data) > channel.localMaxPacket:
            raise malformed("a data packet longer than was agreed")
        channel.localWindowLeft -= len(data)

    def ssh_CHANNEL_DATA(self, packet: bytes) -> None:
        """Data within the window."""
        reader = Reader(packet, "CHANNEL_DATA")
        channel = self._channel(reader.uint32())
        data = reader.string()
        self._take(channel, data)
        channel.dataReceived(data)

    def ssh_CHANNEL_EXTENDED_DATA(self, packet: bytes) -> None:
        """Data of another type within the window."""
        reader = Reader(packet, "CHANNEL_EXTENDED_DATA")
        channel = self._channel(reader.uint32())
        kind, data = reader.uint32(), reader.string()
        self._take(channel, data)
        channel.extReceived(kind or conch.EXTENDED_DATA_STDERR, data)

    def ssh_CHANNEL_WINDOW_ADJUST(self, packet: bytes) -> None:
        """Credit from the peer."""
        reader = Reader(packet, "CHANNEL_WINDOW_ADJUST")
        self._channel(reader.uint32()).addWindowBytes(reader.uint32())

    def ssh_CHANNEL_EOF(self, packet: bytes) -> None:
        """The peer will send no more."""
        self._channel(Reader(packet, "CHANNEL_EOF").uint32()).eofReceived()

    def ssh_CHANNEL_CLOSE(self, packet: bytes) -> None:
        """The peer closed; we do, too."""
        channel = self._channel(Reader(packet, "CHANNEL_CLOSE").uint32())
        channel.remoteClosed = True
        if channel.localClosed:
            self.channelClosed(channel)
        else:
            channel.closeReceived()

    def channelClosed(self, channel: Any) -> None:
        """Both sides closed, or the connection ends."""
        if channel in self.channelsToRemoteChannel and getattr(channel, "incoming", False):
            self._incoming -= 1
        super().channelClosed(channel)

    # -- requests

    def ssh_CHANNEL_REQUEST(self, packet: bytes) -> None:
        """The peer asks something of a channel."""
        reader = Reader(packet, "CHANNEL_REQUEST")
        channel = self._channel(reader.uint32())
        name, wants_answer = reader.string(), reader.boolean()
        self._count()
        granted = channel.requestReceived(name[:64], reader.rest())
        theirs = self.localToRemoteChannel.get(channel.id)
        if wants_answer and theirs is not None and not channel.localClosed:
            answer = conch.MSG_CHANNEL_SUCCESS if granted else conch.MSG_CHANNEL_FAILURE
            self.transport.sendPacket(answer, uint32(theirs))

    def ssh_CHANNEL_SUCCESS(self, packet: bytes) -> None:
        """The oldest request of a channel was granted."""
        self._answer(packet, "CHANNEL_SUCCESS").callback("")

    def ssh_CHANNEL_FAILURE(self, packet: bytes) -> None:
        """The oldest request of a channel was refused."""
        self._answer(packet, "CHANNEL_FAILURE").errback(conch_error.ConchError(_REFUSED))

    def _answer(self, packet: bytes, what: str) -> Deferred[Any]:
        waiting = self.deferreds.get(self._channel(Reader(packet, what).uint32()).id)
        if not waiting:
            raise malformed(f"a {what} that nobody waits for")
        return waiting.pop(0)  # type: ignore[no-any-return]  # Conch's dict is untyped

    def ssh_GLOBAL_REQUEST(self, packet: bytes) -> None:
        """The peer asks something of the connection."""
        reader = Reader(packet, "GLOBAL_REQUEST")
        kind, wants_answer = reader.text(64), reader.boolean()
        self._count()
        answer = self.acceptor.global_request(kind, reader)
        if wants_answer:
            failed = answer is None
            reply = conch.MSG_REQUEST_FAILURE if failed else conch.MSG_REQUEST_SUCCESS
            self.transport.sendPacket(reply, answer or b"")

    def _global_answer(self) -> Deferred[Any]:
        waiting = self.deferreds["global"]
        if not waiting:
            raise malformed("an answer to a request that was not made")
        return waiting.pop(0)  # type: ignore[no-any-return]  # Conch's dict is untyped

    def ssh_REQUEST_SUCCESS(self, packet: bytes) -> None:
        """Our oldest global request was granted."""
        self._global_answer().callback(packet)

    def ssh_REQUEST_FAILURE(self, packet: bytes) -> None:
        """Our oldest global request was refused."""
        self._global_answer().errback(conch_error.ConchError(_REFUSED))

    async def ask_to_listen(self, address: str, port: int) -> None:
        """Ask the server to listen for us (tcpip-forward)."""
        details = string(address.encode()) + uint32(port)
        try:
            await self.sendGlobalRequest(b"tcpip-forward", details, wantReply=1)
        except conch_error.ConchError as failure:
            if failure.value != _REFUSED:
                raise ConnectionEndedError(detail="while it was asked to listen") from None
            raise ForwardRefusedError(address=address, port=port) from None

    def logPrefix(self) -> str:
        """For Twisted's own messages."""
        return "ssh-connection"
