"""The ssh-connection service: channels and global requests, strict and bounded.

Conch's service believes the peer: an unknown channel number is a ``KeyError``, an answer nobody asked for an
``IndexError``, a short packet a ``struct.error``, and the number of channels is the peer's choice.  This one
reads every field strictly and raises ``RemoteProtocolError`` for what may not happen, which ends the connection.
What a peer may open or ask is decided by an ``Acceptor``, so that server and client share all the rest.

Its channels take turns (``Turns``).
"""

import struct
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
from avinet.ssh.memory import ConnectionMemory, ProcessMemory
from avinet.ssh.opening import Opening
from avinet.ssh.profile import MIN_DATA_PACKET
from avinet.ssh.quiet import conch_log
from avinet.ssh.scheduler import Priority
from avinet.ssh.transport import Link
from avinet.ssh.turns import Turns

GRANTED = b""
"""A global request's answer without data; None is a refusal."""
_REFUSED = "refused"
_DATA = struct.Struct(">LL")
_KEEPALIVE = b"keepalive@openssh.com"
"""A question that every SSH peer answers, in order, with a refusal at least: the ping of those that have none."""


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


class Connection(SSHConnection):
    """The channels of one connection."""

    _log = conch_log()
    transport: Link

    def __init__(self, acceptor: Acceptor, process: ProcessMemory | None = None) -> None:
        super().__init__()
        self.acceptor = acceptor
        self.memory = ConnectionMemory(process or ProcessMemory(), self._cut)
        self.turns = Turns(self.memory, self._ask)
        self.lingering: set[ChannelTransport] = set()
        """Channels that are closed, whose readers have not taken everything yet: they count until they have."""
        self._incoming = 0
        self._guard: RateGuard | None = None
        self._idle: Any = None

    # -- life

    def serviceStarted(self) -> None:
        """The login succeeded."""
        limits = self.transport.limits
        self.turns.link = self.transport
        self.memory.limit = limits.memory_bytes
        self._guard = RateGuard(limits.requests, limits.rate_window_s)
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

    def _cut(self, why: AvinetError) -> None:
        """Not in good order: a peer that takes nothing would not take a farewell either."""
        self.transport.ended = self.transport.ended or why
        self.transport.abort()
        # Now, and not when the socket is gone: others would be cut meanwhile.
        for channel in (*self.channels.values(), *self.lingering):
            channel.abandon()

    # -- taking turns

    def writable_changed(self) -> None:
        """The link takes data again, or none for now."""
        self.turns.pump()

    def _ask(self) -> None:
        """A ping for peers that have none."""
        answered = self.sendGlobalRequest(_KEEPALIVE, b"", wantReply=1)
        answered.addBoth(lambda _: self.turns.answered())

    def pong_received(self, packet: bytes) -> None:
        """A ping is answered."""
        self.turns.answered()

    # -- bounds

    def _count(self) -> None:
        if self._guard is not None and not self._guard.allow(self.transport.clock.seconds()):
            raise malformed("too many requests")

    def _channel(self, number: int) -> ChannelTransport:
        channel = self.channels.get(number)
        if channel is None or channel not in self.channelsToRemoteChannel:
            raise malformed(f"channel {number} is not open")
        return channel  # type: ignore[no-any-return]  # Conch's dict is untyped

    # -- opening

    def open(
        self,
        kind: bytes,
        details: bytes,
        protocol: IProtocol,
        what: str,
        priority: Priority = Priority.COMMANDS,
    ) -> Deferred[IProtocol]:
        """Ask the peer for a channel to ``protocol``; cancelling closes it if it opens after all."""
        channel = Opening(protocol, kind, what, priority)
        channel.localMaxPacket = self.transport.most_data
        channel.conn = self
        self.openChannel(channel, details)
        return channel.opened

    def ssh_CHANNEL_OPEN(self, packet: bytes) -> None:
        """The peer wants a channel."""
        reader = Reader(packet, "CHANNEL_OPEN")
        kind = reader.text(64)
        theirs, window, largest = reader.uint32(), reader.uint32(), reader.uint32()
        self._count()
        self._check_number(theirs)
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
        channel.localMaxPacket = self.transport.most_data
        if self.turns.learned_window > channel.localWindowSize and not self.memory.pressed:
            channel.localWindowSize = channel.localWindowLeft = self.turns.learned_window
        channel.id = self.localChannelID
        channel.counted = True
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

    def _check_number(self, theirs: int) -> None:
        """The peer numbers a channel; a number is free again once both sides have closed."""
        if theirs in self.localToRemoteChannel.values():
            raise malformed(f"channel {theirs} is open already")

    def _refuse_open(self, theirs: int, refusal: ChannelRefusedError) -> None:
        text = string(refusal.detail.encode()) + string(b"")
        self.transport.sendPacket(
            conch.MSG_CHANNEL_OPEN_FAILURE, uint32(theirs) + uint32(refusal.code) + text
        )

    def _opening(self, number: int) -> Opening:
        channel = self.channels.get(number)
        if not isinstance(channel, Opening) or channel in self.channelsToRemoteChannel:
            raise malformed(f"channel {number} was not being opened")
        return channel

    def ssh_CHANNEL_OPEN_CONFIRMATION(self, packet: bytes) -> None:
        """The peer opened what we asked for."""
        reader = Reader(packet, "CHANNEL_OPEN_CONFIRMATION")
        channel = self._opening(reader.uint32())
        theirs, window, largest = reader.uint32(), reader.uint32(), reader.uint32()
        if largest < MIN_DATA_PACKET:
            raise malformed(f"a maximum packet size of {largest}")
        self._check_number(theirs)
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

    def _take(self, channel: ChannelTransport, size: int) -> None:
        if size > channel.localWindowLeft:
            raise malformed("data beyond the window")
        if size > channel.localMaxPacket:
            raise malformed("a data packet longer than was agreed")
        if not size:
            self._count()  # it costs the sender nothing, and us a turn
        channel.localWindowLeft -= size

    def ssh_CHANNEL_DATA(self, packet: bytes | memoryview) -> None:
        """Data within the window."""
        if len(packet) < _DATA.size:
            raise malformed("CHANNEL_DATA ends inside an integer")
        number, size = _DATA.unpack_from(packet)
        if len(packet) - _DATA.size != size:
            raise malformed("CHANNEL_DATA has a string that runs past its end")
        channel = self._channel(number)
        self._take(channel, size)
        channel.dataReceived(packet[_DATA.size :])
        self.turns.received(channel)

    def sendClose(self, channel: Any) -> None:
        """Close our side.  Conch's own marks it only after the packet, whose sending may lead back here."""
        if channel.localClosed:
            return
        channel.localClosed = True
        self.transport.sendPacket(conch.MSG_CHANNEL_CLOSE, uint32(self.channelsToRemoteChannel[channel]))
        if channel.remoteClosed:
            self.channelClosed(channel)

    def adjustWindow(self, channel: Any, bytesToAdd: int) -> None:
        """Give the peer credit.  Conch's own also logs, which costs more than the packet."""
        if channel in self.channelsToRemoteChannel and not channel.localClosed:
            channel.localWindowLeft += bytesToAdd
            theirs = self.channelsToRemoteChannel[channel]
            self.transport.sendPacket(conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(theirs) + uint32(bytesToAdd))

    def ssh_CHANNEL_EXTENDED_DATA(self, packet: bytes) -> None:
        """Data of another type within the window."""
        reader = Reader(packet, "CHANNEL_EXTENDED_DATA")
        channel = self._channel(reader.uint32())
        kind, data = reader.uint32(), reader.string()
        self._take(channel, len(data))
        channel.extReceived(kind or conch.EXTENDED_DATA_STDERR, data)

    def ssh_CHANNEL_WINDOW_ADJUST(self, packet: bytes) -> None:
        """Credit from the peer."""
        reader = Reader(packet, "CHANNEL_WINDOW_ADJUST")
        channel, credit = self._channel(reader.uint32()), reader.uint32()
        if not credit:
            self._count()
        channel.addWindowBytes(credit)

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
        if channel in self.channelsToRemoteChannel and channel.counted:
            self._incoming -= 1
        super().channelClosed(channel)
        if channel.waits:
            self.lingering.add(channel)

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
