"""The keys of one connection: exchanging them, changing each direction at its own NEWKEYS, asking for new ones in time.

``Keying`` is the lower half of a ``Link``, between Conch's life cycle and the order of messages.  What a message may do
and when keys are due is decided in ``exchange``, what both sides agree on in ``negotiation``, and the mathematics are in
``kex`` and ``ciphers``; here they meet the clock and the wire.
"""

import random
import struct
from collections.abc import Callable
from typing import ClassVar

from twisted.conch.ssh import transport as conch
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.errors import AvinetError, RemoteProtocolError
from avinet.ssh import kex, profile
from avinet.ssh.ciphers import protection
from avinet.ssh.codec import PacketReader, PacketWriter
from avinet.ssh.exchange import MSG_EXT_INFO, Exchange, KeyLife, offer
from avinet.ssh.fields import malformed, string
from avinet.ssh.negotiation import COOKIE_BYTES, Algorithms, KexInit, agree, guess_was_right
from avinet.ssh.profile import LinkLimits

_CHANCE = random.SystemRandom()


class Keying(SSHTransportBase):
    """The keys of a connection.  ``clock`` and ``limits`` are set by whoever builds it."""

    our_marker: ClassVar[bytes]
    """Of strict key exchange."""
    their_marker: ClassVar[bytes]
    our_extensions: ClassVar[bytes]
    """That we take extension messages (RFC 8308)."""
    their_extensions: ClassVar[bytes]
    extensions: ClassVar[tuple[tuple[bytes, bytes], ...]] = ((profile.PING_EXTENSION, b"0"),)
    clock: IReactorTime
    limits: LinkLimits
    chance: Callable[[], float] = _CHANCE.random
    """Numbers from 0 to 1."""
    hybrid_only = False
    """Offer no key exchange but the post-quantum one."""
    authenticated = False
    algorithms: Algorithms | None = None
    """Settled by the latest key exchange."""
    exchanges = 0
    """Key exchanges that were completed."""
    _ended = False
    _strict = False
    _takes_extensions = False
    _encrypted = False
    _parked_bytes = 0
    _exchange: Exchange | None = None
    _exchange_timer: IDelayedCall | None = None
    _age_timer: IDelayedCall | None = None
    _parked: list[bytes]
    """Messages that wait for our NEWKEYS."""
    _life: KeyLife
    reader: PacketReader
    writer: PacketWriter

    @property
    def strict(self) -> bool:
        """Whether both sides demand strict key exchange."""
        return self._strict

    def isEncrypted(self, direction: str = "out") -> bool:
        """Whether keys protect what is sent and received; both change with the first key exchange."""
        return self._encrypted

    isVerified = isEncrypted

    # -- what a ``Link`` does; no ``Keying`` is ever built by itself

    def violate(self, failure: AvinetError, code: int = conch.DISCONNECT_PROTOCOL_ERROR) -> None:
        """The peer broke the protocol or a bound: say so and cut."""
        raise NotImplementedError

    def _emit(self, head: bytes, data: bytes | memoryview = b"") -> None:
        raise NotImplementedError

    def _tell_service(self) -> None:
        raise NotImplementedError

    # -- key exchange

    def sendKexInit(self) -> None:
        """Begin a key exchange, or answer the peer's beginning; once in each."""
        exchange = self._exchange = self._exchange or Exchange()
        if exchange.ours is not None:
            return
        first = self.sessionID is None
        ours = offer(self.our_marker, self.our_extensions, first=first, hybrid_only=self.hybrid_only)
        payload = ours.encode(_CHANCE.randbytes(COOKIE_BYTES))
        self._emit(payload)
        exchange.ours = payload
        if self._exchange_timer is None:
            late = malformed("the key exchange took too long")
            self._exchange_timer = self.clock.callLater(self.limits.rekey_s, self.violate, late)

    def ssh_KEXINIT(self, packet: bytes) -> None:
        """The peer's offer: settle the algorithms; the first also settles whether both sides are strict."""
        theirs = KexInit.decode(packet)
        if self.sessionID is None:
            self._strict = self.their_marker in theirs.kex
            self._takes_extensions = self.their_extensions in theirs.kex
            if self._strict and self.reader.packets != 1:
                raise malformed("KEXINIT was not the first packet of a strict key exchange")
        elif not self.authenticated:
            raise malformed("a second key exchange before the login")
        elif self._exchange is None and not self._life.allow(self.clock.seconds(), self.reader, self.writer):
            raise malformed("too many key exchanges")
        self.sendKexInit()
        exchange = self._exchange
        if exchange is None or exchange.ours is None:
            raise AssertionError("an exchange has our half")
        exchange.theirs = bytes((conch.MSG_KEXINIT,)) + packet
        ours = KexInit.decode(exchange.ours[1:])
        client, server = (ours, theirs) if self.isClient else (theirs, ours)
        try:
            exchange.agreed = agree(client, server, profile.KEY_EXCHANGES)
        except RemoteProtocolError as failure:
            self.violate(failure, conch.DISCONNECT_KEY_EXCHANGE_FAILED)
            return
        if not self._strict and profile.NEEDS_STRICT in (
            exchange.agreed.cipher_cs,
            exchange.agreed.cipher_sc,
        ):
            # Terrapin (CVE-2023-48795): packets could be cut out of the handshake unnoticed.
            text = f"{profile.NEEDS_STRICT.decode()} without strict key exchange"
            self.violate(malformed(text), conch.DISCONNECT_KEY_EXCHANGE_FAILED)
            return
        exchange.ignore_next = theirs.guessed and not guess_was_right(client, server)
        self.offers_exchanged(exchange)

    def offers_exchanged(self, exchange: Exchange) -> None:
        """Both offers are known; the client goes on."""

    def hashed_parts(
        self, exchange: Exchange, host_key: bytes, offered: bytes, answer: bytes
    ) -> tuple[bytes, ...]:
        """What the exchange hash covers, in order (RFC 8731 section 3)."""
        ours, theirs = exchange.ours or b"", exchange.theirs or b""
        versions = (self.ourVersionString, self.otherVersionString)
        offers = (ours, theirs)
        if not self.isClient:
            versions, offers = (versions[1], versions[0]), (theirs, ours)
        return (*versions, *offers, host_key, offered, answer)

    def change_keys(self, exchange: Exchange, secret: bytes, exchange_hash: bytes) -> None:
        """Both sides have the secret: send NEWKEYS, and what follows under the new keys."""
        if exchange.agreed is None:
            raise AssertionError("keys follow an agreement")
        first = self.sessionID is None
        session = self.sessionID = self.sessionID or exchange_hash
        agreed = exchange.agreed

        def derive(letter: bytes, size: int) -> bytes:
            return kex.derive(secret, exchange_hash, session, letter, size)

        cs = protection(agreed.cipher_cs, agreed.mac_cs, b"ACE", derive)
        sc = protection(agreed.cipher_sc, agreed.mac_sc, b"BDF", derive)
        sealer, opener = (cs, sc) if self.isClient else (sc, cs)
        self._emit(bytes((conch.MSG_NEWKEYS,)))
        self.writer.switch(sealer, restart=self._strict)
        exchange.opener = opener
        if first and self._takes_extensions:
            listed = b"".join(string(name) + string(value) for name, value in self.extensions)
            self._emit(bytes((MSG_EXT_INFO,)) + struct.pack(">L", len(self.extensions)) + listed)
        parked, self._parked, self._parked_bytes = self._parked, [], 0
        for payload in parked:
            self._emit(payload)
        self._tell_service()

    def ssh_NEWKEYS(self, packet: bytes) -> None:
        """The peer's keys change with its next packet; the exchange is over."""
        exchange = self._exchange
        if exchange is None or exchange.opener is None:
            raise AssertionError("the order of messages is checked before")
        self.reader.switch(exchange.opener, restart=self._strict)
        self.algorithms = exchange.agreed
        self.exchanges += 1
        self._encrypted = True
        self._exchange = None
        if self._exchange_timer is not None:
            self._exchange_timer.cancel()
            self._exchange_timer = None
        if self._age_timer is not None and self._age_timer.active():
            self._age_timer.cancel()
        self._age_timer = self.clock.callLater(self._life.seconds, self._keys_aged)
        self.keys_changed()

    def keys_changed(self) -> None:
        """An exchange is complete."""

    def _keys_aged(self) -> None:
        if self.authenticated and not self._ended:
            self.sendKexInit()

    def _count_keys(self) -> None:
        """Ask for new keys if these have carried enough."""
        if self._exchange is None and self._life.over(self.reader, self.writer):
            self.sendKexInit()
