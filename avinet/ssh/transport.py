"""One SSH connection below its services: Conch's transport with our profile, bounds and strictness.

``Link`` holds what both sides share.  It differs from Conch's base in this:

- only the algorithms of ``profile``, with strict key exchange (sequence numbers restart, nothing unexpected may
  come before the first keys), so that nobody can cut packets out of a handshake;
- a message is accepted only where the protocol allows it (no service before encryption, no second key exchange
  inside one), and whatever cannot be parsed ends the connection with a reason, never with a traceback;
- packets, bytes before login, parked replies and every wait are bounded;
- ``writable`` says whether data may be sent: not while keys are exchanged or the socket is full.  Channels wait
  for it, so what piles up here are short replies only.

The sides themselves are ``ServerLink`` and ``ClientLink``.
"""

import struct
from typing import Any, ClassVar

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.interfaces import IDelayedCall, IPushProducer, IReactorTime, ITCPTransport
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError, RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.fields import Reader, malformed, string
from avinet.ssh.flow import RateGuard
from avinet.ssh.profile import LinkLimits
from avinet.ssh.quiet import conch_log

_FIRST_CONNECTION = 80
_SEQUENCE_MASK = 0xFFFFFFFF
_MIN_PADDING = 4
_PACKET_OVERHEAD = 64
"""Length, padding and MAC of a packet, rounded up."""

_debug = Logger(namespace="avinet.ssh")


@implementer(IPushProducer)
class _Outlet:
    """Tells a link whether its socket takes more."""

    def __init__(self, link: "Link") -> None:
        self._link = link

    def pauseProducing(self) -> None:
        self._link.outlet_changed(full=True)

    def resumeProducing(self) -> None:
        self._link.outlet_changed(full=False)

    def stopProducing(self) -> None:
        self._link.outlet_changed(full=True)


class Link(SSHTransportBase):
    """What both sides of a connection share.  ``clock`` and ``limits`` are set by whoever builds it."""

    _log = conch_log()
    ourVersionString = profile.VERSION
    supportedVersions = (b"2.0", b"2.0")  # Conch's type wants two
    supportedKeyExchanges = profile.KEY_EXCHANGES
    supportedPublicKeys = profile.HOST_KEYS
    supportedCiphers = profile.CIPHERS
    supportedMACs = profile.MACS
    supportedCompressions = profile.COMPRESSIONS
    our_strict_marker: ClassVar[bytes]
    their_strict_marker: ClassVar[bytes]

    transport: Any
    """TCP, or anything else that takes producers and can abort, such as a channel."""
    clock: IReactorTime
    limits: LinkLimits

    authenticated = False
    ended: AvinetError | None = None
    """Why the connection ends, once something here decided that; the first reason stands."""
    _ended = False
    _strict = False
    _their_kexinit = False
    _full = False
    _first: bytes | None = None
    _parked_bytes = 0
    _bytes_before_login = 0
    _packets_in = 0
    _rekey_timer: IDelayedCall | None = None
    _cut_timer: IDelayedCall | None = None

    # -- life

    def connectionMade(self) -> None:
        """Send our version and our first KEXINIT."""
        if ITCPTransport.providedBy(self.transport):
            self.transport.setTcpNoDelay(True)
            self.transport.setTcpKeepAlive(True)
        self.transport.registerProducer(_Outlet(self), True)
        self._exchanges = RateGuard(profile.MAX_KEY_EXCHANGES, profile.KEY_EXCHANGES_PER_S)
        super().connectionMade()

    def connectionLost(self, reason: Failure | None = None) -> None:
        """Stop the service and every timer."""
        self._ended = True
        for timer in (self._rekey_timer, self._cut_timer):
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
            self.transport.write(b"Invalid SSH identification string.\r\n")
        self._close()

    def sendDisconnect(self, reason: int, desc: bytes | str) -> None:
        """Conch's own reasons to cut, such as no common algorithm."""
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
        self.transport.unregisterProducer()
        self.transport.loseConnection()
        self._cut_timer = self.clock.callLater(self.limits.disconnect_s, self.transport.abortConnection)

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
        self.buf += data
        try:
            if not self.gotVersion and not self._take_version():
                return
            while not self._ended and (packet := self.getPacket()) is not None:
                self.dispatchMessage(packet[0], packet[1:])
        except RemoteProtocolError as failure:
            self.violate(failure)

    def _take_version(self) -> bool:
        """RFC 4253 section 4.2.  Only a server may send other lines first, and not many."""
        limit = profile.MAX_BANNER_BYTES if self.isClient else profile.MAX_VERSION_BYTES
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

    def getPacket(self) -> bytes | None:
        """The next whole packet's payload (never empty), or None until more bytes come."""
        ciphers = self.currentEncryptions
        block, mac = ciphers.decBlockSize, ciphers.verifyDigestSize
        if len(self.buf) < block:
            return None
        first = self._first if self._first is not None else ciphers.decrypt(self.buf[:block])
        length, padding = struct.unpack_from(">LB", first)
        most = profile.MAX_PACKET_BYTES if self.authenticated else profile.MAX_PACKET_BEFORE_LOGIN
        if length > most:
            raise malformed(f"a packet of {length} bytes; {most} is the most")
        if (length + 4) % block or length < block - 4 or not _MIN_PADDING <= padding < length - 1:
            raise malformed("a packet whose length or padding is impossible")
        if len(self.buf) < 4 + length + mac:
            self._first = first
            return None
        self._first = None
        packet: bytes = first + ciphers.decrypt(self.buf[block : 4 + length])
        tag = self.buf[4 + length : 4 + length + mac]
        self.buf = self.buf[4 + length + mac :]
        if mac and not ciphers.verify(self.incomingPacketSequence, packet, tag):
            self.violate(malformed("a packet whose MAC is wrong"), conch.DISCONNECT_MAC_ERROR)
            return None
        self.incomingPacketSequence = (self.incomingPacketSequence + 1) & _SEQUENCE_MASK
        self._packets_in += 1
        return packet[5 : 4 + length - padding]

    def dispatchMessage(self, messageNum: int, payload: bytes) -> None:
        """Hand a message to whoever takes it, if it may come now."""
        self._check_order(messageNum)
        try:
            super().dispatchMessage(messageNum, payload)
        except RemoteProtocolError:
            raise
        except Exception as failure:
            # Conch indexes, unpacks and looks up what the peer sent without checks; which of the many types
            # comes out says nothing.  A defect of ours would look the same, hence the traceback at debug.
            _debug.debug(
                "message {number} raised {failure}", number=messageNum, failure=Failure().getTraceback()
            )
            raise malformed(f"message {messageNum} makes no sense") from failure

    def _check_order(self, number: int) -> None:
        # Not Conch's state: the side that answers a KEXINIT stays in "requested" until the new keys.
        progressing = self._their_kexinit
        first_keys = self.sessionID is None or not self.isEncrypted("in")
        if 30 <= number <= 49 or number == conch.MSG_NEWKEYS:
            keys_ready = progressing and self.nextEncryptions.encBlockSize != 0
            if not progressing or keys_ready != (number == conch.MSG_NEWKEYS):
                raise malformed(f"key exchange message {number} out of order")
        elif number == conch.MSG_KEXINIT:
            if progressing:
                raise malformed("a key exchange inside a key exchange")
        elif first_keys and (number > conch.MSG_DEBUG or (self._strict and number != conch.MSG_DISCONNECT)):
            raise malformed(f"message {number} before the first keys")
        elif number >= _FIRST_CONNECTION and not self.authenticated:
            raise malformed(f"message {number} before the login")

    def before_key_exchange(self, packet: bytes) -> None:
        """Each KEXINIT, before Conch settles the algorithms; the first settles whether both sides are strict."""
        if self.sessionID is None:
            self._strict = self.their_strict_marker in Reader(packet[16:], "KEXINIT").string().split(b",")
            if self._strict and self._packets_in != 1:
                raise malformed("KEXINIT was not the first packet of a strict key exchange")
        elif not self.authenticated:
            raise malformed("a second key exchange before the login")
        elif not self._exchanges.allow(self.clock.seconds()):
            raise malformed("too many key exchanges")
        self._their_kexinit = True
        self._watch_key_exchange()

    def sendKexInit(self) -> None:
        """Offer our algorithms, the first time with the marker of strict key exchange."""
        if self.sessionID is None:
            self.supportedKeyExchanges = [*profile.KEY_EXCHANGES, self.our_strict_marker]
        super().sendKexInit()
        self._watch_key_exchange()
        self.supportedKeyExchanges = profile.KEY_EXCHANGES  # the marker itself is never negotiated

    def _watch_key_exchange(self) -> None:
        if self._rekey_timer is None:
            late = malformed("the key exchange took too long")
            self._rekey_timer = self.clock.callLater(self.limits.rekey_s, self.violate, late)

    def _newKeys(self) -> None:
        """Both sides have keys: switch, and send what was parked."""
        if self._rekey_timer is not None:
            self._rekey_timer.cancel()
            self._rekey_timer = None
        if self._strict:
            self.incomingPacketSequence = 0
        self._parked_bytes = 0
        self._their_kexinit = False
        super()._newKeys()
        self._tell_service()

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
        """No extension is used."""

    def sendUnimplemented(self) -> None:
        """RFC 4253 section 11.4: names the sequence number of the packet itself."""
        number = (self.incomingPacketSequence - 1) & _SEQUENCE_MASK
        self.sendPacket(conch.MSG_UNIMPLEMENTED, struct.pack(">L", number))

    # -- sending

    @property
    def writable(self) -> bool:
        """Whether data should be sent now; channels keep theirs until it is."""
        return not (self._full or self._ended or self._keyExchangeState != self._KEY_EXCHANGE_NONE)

    def outlet_changed(self, *, full: bool) -> None:
        """The socket takes no more, or takes more again."""
        self._full = full
        if not full:
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
        if not self.writable:
            self._parked_bytes += len(payload) + _PACKET_OVERHEAD
            if self._parked_bytes > profile.MAX_PARKED_BYTES:
                self.ended = self.ended or malformed("it does not read what it asked for")
                self.abort()
                return
        super().sendPacket(messageType, payload)
        self.outgoingPacketSequence &= _SEQUENCE_MASK
        if messageType == conch.MSG_NEWKEYS and self._strict:
            self.outgoingPacketSequence = 0

    def logPrefix(self) -> str:
        """For Twisted's own messages."""
        return type(self).__name__
