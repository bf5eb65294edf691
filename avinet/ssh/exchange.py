"""Key exchanges of one connection: when one is due, how far one has come, and which messages may come meanwhile.

An exchange begins with either side's KEXINIT and ends with the peer's NEWKEYS.  Each direction changes keys at its
own NEWKEYS, so that a server, which has the new keys first, sends data again at once, and its client one round trip
after it asked.  No clock and no socket here; ``keying`` does what follows.
"""

from collections.abc import Callable

import attrs
from twisted.conch.ssh import transport as conch

from avinet.ssh import profile
from avinet.ssh.ciphers import Opener
from avinet.ssh.codec import PacketReader, PacketWriter
from avinet.ssh.fields import malformed
from avinet.ssh.flow import RateGuard
from avinet.ssh.kex import ClientExchange
from avinet.ssh.negotiation import Algorithms, KexInit
from avinet.ssh.profile import LinkLimits

MSG_EXT_INFO = 7
MSG_PING, MSG_PONG = 192, 193
"""OpenSSH's PROTOCOL section 1.9: an echo of the transport layer, answered at once."""
FIRST_CONNECTION = 80
_FIRST_KEX, _LAST_KEX = 30, 49
CLIENT_HALF, SERVER_HALF = 30, 31
"""The two messages of every exchange that we speak (RFC 8731 section 3)."""
_BARRED_IN_EXCHANGE = frozenset({conch.MSG_SERVICE_REQUEST, conch.MSG_SERVICE_ACCEPT, MSG_EXT_INFO})
"""RFC 4253 section 7.1, RFC 8308 section 2.4."""


@attrs.define(eq=False)
class Exchange:
    """One key exchange under way."""

    ours: bytes | None = None
    """Our KEXINIT as sent."""
    theirs: bytes | None = None
    agreed: Algorithms | None = None
    ignore_next: bool = False
    """The client guessed wrong: its next packet of the exchange is for nobody."""
    client: ClientExchange | None = attrs.field(default=None, repr=False)
    opener: Opener | None = attrs.field(default=None, repr=False)
    """For what comes after their NEWKEYS; set once our own is sent."""

    @property
    def holds_back(self) -> bool:
        """Whether nothing but the exchange itself may be sent: from our KEXINIT to our NEWKEYS."""
        return self.ours is not None and self.opener is None


def of_exchange(number: int) -> bool:
    """Whether a message belongs to whatever key exchange was agreed on."""
    return _FIRST_KEX <= number <= _LAST_KEX


def may_send(number: int) -> bool:
    """Whether a message may be sent between our KEXINIT and our NEWKEYS."""
    return number <= _LAST_KEX and number not in _BARRED_IN_EXCHANGE


def check_order(  # noqa: PLR0913 - each is one fact of where the connection stands; all by name
    number: int, exchange: Exchange | None, *, half: int, first_keys: bool, strict: bool, authenticated: bool
) -> None:
    """Whether message ``number`` may come now; ``RemoteProtocolError`` when not.

    ``half`` is the one message of the exchanges proper that the peer sends: a strict exchange takes no other, not even
    to answer that it is not implemented.  ``first_keys`` says that nothing from the peer is encrypted yet.
    """
    begun = exchange is not None and exchange.theirs is not None
    keyed = exchange is not None and exchange.opener is not None
    if of_exchange(number) or number == conch.MSG_NEWKEYS:
        guess = exchange is not None and exchange.ignore_next and number != conch.MSG_NEWKEYS
        if not begun or not (guess or number == (conch.MSG_NEWKEYS if keyed else half)):
            raise malformed(f"key exchange message {number} out of order")
    elif number == conch.MSG_KEXINIT:
        if begun:
            raise malformed("a key exchange inside a key exchange")
    elif first_keys:
        if number > conch.MSG_DEBUG or (strict and number != conch.MSG_DISCONNECT):
            raise malformed(f"message {number} before the first keys")
    elif begun and not may_send(number):
        raise malformed(f"message {number} inside a key exchange")
    elif number >= FIRST_CONNECTION and not authenticated:
        raise malformed(f"message {number} before the login")


class KeyLife:
    """How long the present keys may serve, and how many the peer may ask for."""

    __slots__ = ("_bytes", "_guard", "_packets", "seconds")

    def __init__(self, limits: LinkLimits, chance: Callable[[], float], *, server: bool) -> None:
        # A server that asks for new keys costs one round trip, a client two: where both would, let the server.
        share = 1 - limits.rekey_spread * (chance() + server) / 2
        self._bytes = limits.rekey_after_bytes * share
        self._packets = limits.rekey_after_packets * share
        self.seconds = limits.rekey_after_s * share
        self._guard: RateGuard | None = None

    def over(self, reader: PacketReader, writer: PacketWriter) -> bool:
        """Whether one direction has carried enough."""
        return (
            reader.opened_bytes >= self._bytes
            or writer.sealed_bytes >= self._bytes
            or max(reader.packets, writer.packets) >= self._packets
        )

    def allow(self, now: float, reader: PacketReader, writer: PacketWriter) -> bool:
        """Whether the peer may ask for new keys at ``now``: it has moved enough, or does not ask often."""
        if max(reader.opened_bytes, writer.sealed_bytes) >= profile.EARNED_KEY_EXCHANGE_BYTES:
            return True
        if self._guard is None:
            self._guard = RateGuard(profile.MAX_KEY_EXCHANGES, profile.KEY_EXCHANGES_WINDOW_S)
        return self._guard.allow(now)


def offer(marker: bytes, extensions: bytes, *, first: bool, hybrid_only: bool = False) -> KexInit:
    """What we offer, the first time with the ``marker`` of strict key exchange."""
    exchanges = profile.KEY_EXCHANGES[:1] if hybrid_only else profile.KEY_EXCHANGES
    return KexInit(
        kex=(*exchanges, extensions, *((marker,) if first else ())),
        host_keys=profile.HOST_KEYS,
        ciphers_cs=profile.CIPHERS,
        ciphers_sc=profile.CIPHERS,
        macs_cs=profile.MACS,
        macs_sc=profile.MACS,
    )
