"""One SSH connection below its services: Conch's transport with our packets, profile, bounds and strictness.

``Link`` holds what both sides share.  It keeps Conch's life cycle of a connection and its services, and has its own:

- packet codec (``codec``, ``ciphers``) and key exchange (``keying``, ``exchange``, ``kex``), with strict key
  exchange (sequence numbers restart, nothing unexpected may come before the first keys), so that nobody can cut
  packets out of a handshake, and with new keys by bytes, packets and time;
- order: a message is accepted only where the protocol allows it, and whatever cannot be parsed ends the connection
  with a reason, never with a traceback;
- bounds: packets, bytes before login, parked replies and every wait;
- ``writable``, which says whether data may be sent: not while keys are exchanged or the socket is full.  Channels
  wait for it, so what piles up here are short replies only.

The sides themselves are ``ServerLink`` and ``ClientLink``.
"""

import struct
from collections.abc import Callable, Iterable
from typing import Any

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.service import SSHService
from twisted.internet.interfaces import IDelayedCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from avinet.errors import AvinetError, RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.ciphers import MacError
from avinet.ssh.codec import SEQUENCE_MASK, PacketReader, PacketWriter
from avinet.ssh.exchange import (
    CLIENT_HALF,
    MSG_PING,
    MSG_PONG,
    SERVER_HALF,
    KeyLife,
    check_order,
    may_send,
    of_exchange,
)
from avinet.ssh.fields import Reader, malformed, string
from avinet.ssh.flow import RateGuard
from avinet.ssh.keying import Keying
from avinet.ssh.outlet import Outlet
from avinet.ssh.quiet import conch_log

MSG_CHANNEL_DATA = 94
_PACKET_OVERHEAD = 64
"""Length, padding and tag of a packet, rounded up."""
_MAX_EXTENSIONS = 64
_MAX_PING_BYTES = 1024
_IDLE_MESSAGES = frozenset({conch.MSG_IGNORE, conch.MSG_UNIMPLEMENTED, conch.MSG_DEBUG, MSG_PING})
_IDLE_BYTES = 1024
"""Moved either way between two of these: they go with data then, as the marks of our own governor do."""
_LEAST_READ_BYTES = 4096
"""However little is missing of a packet; Twisted pauses producers by the same number."""

_debug = Logger(namespace="avinet.ssh")


class Link(Keying):
    """What both sides of a connection share.  ``clock`` and ``limits`` are set by whoever builds it."""

    _log = conch_log()
    ourVersionString = profile.VERSION
    supportedVersions = (b"2.0", b"2.0")  # Conch's type wants two

    transport: Any
    """TCP, or anything else that takes producers and can abort, such as a channel."""

    ended: AvinetError | None = None
    """Why the connection ends, once something here decided that; the first reason stands."""
    peer_pings = False
    """Whether the peer answers ``MSG_PING``."""
    _reads = 0
    """What reads of the socket are fitted to; 0 for Twisted's own 64 KiB."""
    _bytes_before_login = 0
    _idle_packet = 0
    _idle_moved = 0
    _idle_guard: RateGuard | None = None
    _cut_timer: IDelayedCall | None = None

    # -- life

    def connectionMade(self) -> None:
        """Send our version and our first KEXINIT."""
        self._outlet = Outlet(self.transport, self._outlet_changed)
        self.reader, self.writer = PacketReader(), PacketWriter()
        self._life = KeyLife(self.limits, self.chance, server=not self.isClient)
        self._parked: list[bytes] = []
        self._outlet.send((self.ourVersionString + b"\r\n",))
        self.sendKexInit()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the service and every timer."""
        self._ended = True
        for timer in (self._exchange_timer, self._age_timer, self._cut_timer):
            if timer is not None and timer.active():
                timer.cancel()
        if self.service is not None:
            service, self.service = self.service, None
            service.serviceStopped()

    def violate(self, failure: AvinetError, code: int = conch.DISCONNECT_PROTOCOL_ERROR) -> None:
        """The peer broke the protocol or a bound: say so and cut."""
        text = failure.detail if isinstance(failure, RemoteProtocolError) else str(failure)
        self.end(failure, code, text)

    def end(self, why: AvinetError | None, code: int, text: str) -> None:
        """Send DISCONNECT with ``text`` and close; reset if the peer does not take it in time."""
        if self._ended:
            return
        if self.ended is None:
            self.ended = why
        if self.gotVersion:
            payload = struct.pack(">L", code) + string(text.encode()) + string(b"")
            self.sendPacket(conch.MSG_DISCONNECT, payload)
        elif not self.isClient:
            # Before both versions are known there are no packets; OpenSSH says it in a line, too.
            self._outlet.send((b"Invalid SSH identification string.\r\n",))
        self._close()

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Conch's own reasons to cut."""
        text = desc.decode(errors="replace") if isinstance(desc, bytes) else desc
        self.end(malformed(text), reason, text)

    def loseConnection(self) -> None:
        """Close in good order."""
        self.end(None, conch.DISCONNECT_BY_APPLICATION, "closed")

    def abort(self) -> None:
        """Reset the connection now."""
        self._ended = True
        self.transport.abortConnection()

    def _close(self) -> None:
        self._ended = True
        self._outlet.close()
        self.transport.loseConnection()
        self._cut_timer = self.clock.callLater(self.limits.disconnect_s, self.transport.abortConnection)

    def enter(self, service: SSHService) -> None:
        """The login succeeded; ``service`` goes on."""
        self.authenticated = True
        self.reader.limit = profile.MAX_PACKET_BYTES
        self.setService(service)

    # -- receiving

    def dataReceived(self, data: bytes) -> None:
        """Take the version, then packets."""
        if self._ended:
            return
        if not self.authenticated:
            self._bytes_before_login += len(data)
            if self._bytes_before_login > profile.MAX_BYTES_BEFORE_LOGIN:
                self.violate(malformed("too much data before the login"))
                return
        self._outlet.hold()
        try:
            if not self.gotVersion:
                self.buf += data
                if not self._take_version():
                    return
                data, self.buf = self.buf, b""
            self._take_packets(data)
        except MacError as failure:
            self.violate(failure, conch.DISCONNECT_MAC_ERROR)
        except RemoteProtocolError as failure:
            self.violate(failure)
        finally:
            self._outlet.let_go()

    def _take_packets(self, data: bytes) -> None:
        reader = self.reader
        reader.feed(data)
        while not self._ended and (payload := reader.next()) is not None:
            if payload[0] == MSG_CHANNEL_DATA and self.authenticated and self._exchange is None:
                self._guarded(MSG_CHANNEL_DATA, self.service.ssh_CHANNEL_DATA, payload[1:])  # type: ignore[union-attr]  # logged in
            else:
                self.dispatchMessage(payload[0], bytes(payload[1:]))
        if self.authenticated and not self._ended:
            self._fit_reads()
            self._count_keys()

    def _fit_reads(self) -> None:
        """While large packets come, let each read of the socket end where a packet does: it needs no copy then."""
        wanted = self.reader.wanted
        if wanted != self._reads:
            self._reads = wanted
            if wanted:
                self.transport.bufferSize = max(wanted, _LEAST_READ_BYTES)
            else:
                self.transport.__dict__.pop("bufferSize", None)

    def _take_version(self) -> bool:
        """RFC 4253 section 4.2.  Only a server may send other lines first, and not many."""
        limit = profile.MAX_VERSION_BYTES
        if self.isClient:
            # Less what lines before have taken.
            limit = profile.MAX_BANNER_BYTES - (self._bytes_before_login - len(self.buf))
        while b"\n" in self.buf[:limit]:
            line, self.buf = self.buf.split(b"\n", 1)
            line = line.removesuffix(b"\r")
            if not line.startswith(b"SSH-"):
                limit -= len(line) + 1
                if self.isClient:
                    continue
                raise malformed("the first line is not an SSH version")
            if len(line) > profile.MAX_VERSION_BYTES - 2 or b"\0" in line:
                raise malformed("the SSH version is too long or has a NUL")
            self.otherVersionString = line
            self.gotVersion = True
            version = line.split(b"-")[1]
            if version not in self.supportedVersions:
                text = f"SSH protocol version {version[:16].decode(errors='replace')} is not supported"
                self.violate(malformed(text), conch.DISCONNECT_PROTOCOL_VERSION_NOT_SUPPORTED)
                return False
            return True
        if len(self.buf) >= limit:
            raise malformed("no SSH version in the first bytes")
        return False

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand a message to whoever takes it, if it may come now."""
        exchange = self._exchange
        check_order(
            messageNum,
            exchange,
            half=SERVER_HALF if self.isClient else CLIENT_HALF,
            first_keys=not self._encrypted,
            strict=self._strict,
            authenticated=self.authenticated,
        )
        if messageNum in _IDLE_MESSAGES:
            self._count_idle()
        if exchange is not None and exchange.ignore_next and of_exchange(messageNum):
            exchange.ignore_next = False
        elif messageNum == MSG_PING:
            self._guarded(messageNum, self._answer_ping, payload)
        elif messageNum == MSG_PONG:
            self._guarded(messageNum, self.service.pong_received, payload)  # type: ignore[union-attr]  # logged in
        else:
            self._guarded(messageNum, super().dispatchMessage, messageNum, payload)

    def _guarded(self, number: int, handler: Callable[..., object], *arguments: object) -> None:
        """Run a handler of a message: whatever comes out of it ends the connection in good order."""
        try:
            handler(*arguments)
        except RemoteProtocolError:
            raise
        except Exception as failure:
            # Conch indexes, unpacks and looks up what the peer sent without checks; which of the many types
            # comes out says nothing.  A defect of ours would look the same, hence the traceback at debug.
            _debug.debug("message {number} raised {failure}", number=number, failure=Failure().getTraceback())
            raise malformed(f"message {number} makes no sense") from failure

    def _count_idle(self) -> None:
        """A message that moves nothing came; behind another such one it counts, unless data moved meanwhile."""
        reader, moved = self.reader, self.reader.opened_bytes + self.writer.sealed_bytes
        alone = reader.packets == self._idle_packet + 1 and 0 <= moved - self._idle_moved < _IDLE_BYTES
        self._idle_packet, self._idle_moved = reader.packets, moved
        if not alone:
            return
        if self._idle_guard is None:
            self._idle_guard = RateGuard(self.limits.idle_messages, self.limits.rate_window_s)
        if not self._idle_guard.allow(self.clock.seconds()):
            raise malformed("too many messages that say nothing")

    def _answer_ping(self, payload: bytes) -> None:
        echo = Reader(payload, "PING").string()
        if len(echo) > _MAX_PING_BYTES:
            raise malformed(f"a ping of {len(echo)} bytes")
        self.sendPacket(MSG_PONG, string(echo))

    # -- other messages of the transport layer

    def ssh_DISCONNECT(self, packet: bytes) -> None:
        """The peer is leaving and says why."""
        reader = Reader(packet, "DISCONNECT")
        code, text = reader.uint32(), reader.string()[:400].decode(errors="replace")
        if self.ended is None:
            self.ended = self.peer_left(code, text)
        self._close()

    def peer_left(self, code: int, text: str) -> AvinetError | None:
        """What a DISCONNECT with ``code`` means here; None for an ordinary end."""
        return None if code == conch.DISCONNECT_BY_APPLICATION else malformed(f"it disconnected: {text}")

    def ssh_UNIMPLEMENTED(self, packet: bytes) -> None:
        """The peer skipped something of ours; nothing we send is optional enough to care."""

    def ssh_DEBUG(self, packet: bytes) -> None:
        """Not for us."""

    def ssh_EXT_INFO(self, packet: bytes) -> None:
        """What else the peer can do (RFC 8308)."""
        reader = Reader(packet, "EXT_INFO")
        count = reader.uint32()
        if count > _MAX_EXTENSIONS:
            raise malformed(f"{count} extensions")
        names = [(reader.string(), reader.string())[0] for _ in range(count)]
        self.peer_pings = profile.PING_EXTENSION in names

    def sendUnimplemented(self) -> None:
        """RFC 4253 section 11.4: names the sequence number of the packet itself."""
        number = (self.reader.sequence - 1) & SEQUENCE_MASK
        self.sendPacket(conch.MSG_UNIMPLEMENTED, struct.pack(">L", number))

    # -- sending

    @property
    def writable(self) -> bool:
        """Whether data should be sent now; channels keep theirs until it is."""
        return not (
            self._outlet.full or self._ended or (self._exchange is not None and self._exchange.holds_back)
        )

    @property
    def most_data(self) -> int:
        """Data in one packet, either way: between two of us more than others expect."""
        ours = self.otherVersionString == profile.VERSION
        return profile.MAX_OWN_DATA_PACKET if ours else profile.MAX_DATA_PACKET

    def _outlet_changed(self) -> None:
        """The socket takes no more, or takes more again."""
        if not self._outlet.full and not self._parked:
            self._parked_bytes = 0
        self._tell_service()

    def _tell_service(self) -> None:
        changed = getattr(self.service, "writable_changed", None)
        if changed is not None:
            changed()

    def sendPacket(self, messageType: int, payload: bytes) -> None:
        """Send, or park while keys are exchanged; a peer that lets replies pile up is cut."""
        if self._ended:
            return
        message = bytes((messageType,)) + payload
        if not self.writable:
            self._parked_bytes += len(message) + _PACKET_OVERHEAD
            if self._parked_bytes > profile.MAX_PARKED_BYTES:
                self.ended = self.ended or malformed("it does not read what it asked for")
                self.abort()
                return
            if self._exchange is not None and self._exchange.holds_back and not may_send(messageType):
                self._parked.append(message)
                return
        self._emit(message)

    def send_data(self, packets: Iterable[tuple[bytes, bytes | memoryview]]) -> None:
        """Packets of channel data, each with its head, as one; only while ``writable``."""
        seal = self.writer.seal
        self._outlet.send([piece for head, data in packets for piece in seal(head, data)])
        self._count_keys()

    def fit_packets(self, size: int) -> None:
        """Data packets are of about so many bytes now."""
        self._outlet.fit(size)

    def blank(self, size: int) -> memoryview:
        """Room for ``size`` bytes of data in the next packet; fill it, then ``send_blank``, with no other between."""
        return self.writer.blank(size)

    def send_blank(self, head: bytes, size: int) -> None:
        """The packet of the ``size`` bytes that were put into ``blank``."""
        self._outlet.send(self.writer.seal_blank(head, size))
        self._count_keys()

    def _emit(self, head: bytes, data: bytes | memoryview = b"") -> None:
        self._outlet.send(self.writer.seal(head, data))

    def logPrefix(self) -> str:
        """For Twisted's own messages."""
        return type(self).__name__
