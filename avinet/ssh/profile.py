"""The SSH profile: which algorithms both sides speak, and the bounds of one connection.

DESIGN section 4 names the algorithms, in order of preference.  Everything else that Conch offers (CBC, 3DES, SHA-1,
MD5, group exchange, compression, RSA, DSA, NIST curves) is off.  Strict key exchange (OpenSSH PROTOCOL 1.10) is ours,
in ``transport``.
"""

import attrs

from avinet.ssh.ciphers import CIPHERS as _CIPHERS
from avinet.ssh.ciphers import MACS as _MACS
from avinet.ssh.keys import ALGORITHM
from avinet.ssh.memory import CONNECTION_BYTES
from avinet.units import GIB, HOUR_S, KIB, MIB

POST_QUANTUM = b"mlkem768x25519-sha256"
KEY_EXCHANGES = (POST_QUANTUM, b"curve25519-sha256", b"curve25519-sha256@libssh.org")
HOST_KEYS = (ALGORITHM,)
CIPHERS = tuple(_CIPHERS)
MACS = tuple(_MACS)
NEEDS_STRICT = b"chacha20-poly1305@openssh.com"
"""Sequence numbers are its nonces: without strict key exchange it can be cheated of packets."""
STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"
EXTENSIONS_CLIENT = b"ext-info-c"
EXTENSIONS_SERVER = b"ext-info-s"
PING_EXTENSION = b"ping@openssh.com"

VERSION = b"SSH-2.0-avinet"
"""Says no release: strangers need not know which one runs."""
MAX_VERSION_BYTES = 255
"""RFC 4253 section 4.2, with its CR LF."""
MAX_BANNER_BYTES = 8 * KIB
"""Lines that a server may send before its version; OpenSSH gives up after 8 KiB too."""

MAX_PACKET_BEFORE_LOGIN = 35_000
"""RFC 4253 section 6.1: every implementation must take this much; nobody unauthenticated gets more."""
MAX_DATA_PACKET = 32 * KIB
"""Data in one packet: what every peer expects."""
MAX_OWN_DATA_PACKET = 256 * KIB
"""Between two of us, where the governor allows it: the longer, the fewer turns of Python a byte."""
MAX_PACKET_BYTES = MAX_OWN_DATA_PACKET + 1 * KIB
"""With its header and padding.  OpenSSH's PACKET_MAX_SIZE is 256 KiB in all; it sends no more than 32 KiB of data."""
MIN_DATA_PACKET = 512
"""A peer that takes less at a time is refused: at one byte a packet a single MiB for it costs us half a minute.  The
smallest of known clients is 16 KiB."""
MAX_BYTES_BEFORE_LOGIN = 128 * KIB
"""All that a stranger may make us parse; a login with six keys and a hybrid key exchange takes 6 KiB."""
MAX_PARKED_BYTES = 1 * MIB
"""Replies that wait while keys are exchanged or while the peer does not read; data waits in its channel."""
WINDOW_BYTES = 2 * MIB
"""Credit a channel starts with, as OpenSSH's; it grows with what a round trip takes."""
MAX_WINDOW_BYTES = 16 * MIB
"""The most: 228 MiB/s at 70 ms."""
MAX_UNSENT_BYTES = 4 * MIB
"""What a channel keeps for a peer that does not take it: four of the largest control frames, then it is cut."""
MAX_KEY_EXCHANGES = 100
"""In ``KEY_EXCHANGES_WINDOW_S``, by one peer, beside those that it has earned.  Each costs 1 to 2 ms, as a login does."""
KEY_EXCHANGES_WINDOW_S = 60.0
EARNED_KEY_EXCHANGE_BYTES = 512 * KIB
"""Moved under the present keys, this much earns new ones: a peer may rekey each MiB, as ``RekeyLimit=1M`` does."""
MAX_WINDOW = 2**32 - 1
"""RFC 4254 section 5.2."""


@attrs.frozen
class LinkLimits:
    """The times and counts that bound one connection, on either side."""

    login_s: float = 10.0
    """From TCP to authenticated: ten round trips of a slow satellite link, and no more for strangers."""
    rekey_s: float = 30.0
    """A key exchange that takes longer is a peer that parks our data on purpose."""
    rekey_after_bytes: int = 4 * GIB
    """Either way, under one pair of keys.  AES-GCM and counter mode would allow 64 GiB and more (RFC 4344 section 3.2);
    ChaCha20-Poly1305 as SSH uses it has no limit below its sequence numbers."""
    rekey_after_packets: int = 2**31
    """RFC 4344 section 3.1: half the sequence numbers, before any repeats."""
    rekey_after_s: float = HOUR_S
    """RFC 4253 section 9."""
    rekey_spread: float = 0.2
    """All three are this much shorter at most, by chance, so that a fleet does not rekey in step."""
    memory_bytes: int = CONNECTION_BYTES
    """Held for one connection; see ``memory``."""
    disconnect_s: float = 5.0
    """How long a peer has to take our last packet before the connection is reset."""
    idle_s: float = 60.0
    """A login that opens no channel and asks for no forward has no business here."""
    auth_attempts: int = 6
    """OpenSSH's MaxAuthTries."""
    channels: int = 64
    """Open at once that the peer asked for."""
    requests: int = 500
    """Channel opens and requests that the peer may make in ``rate_window_s``; a flood costs us an answer each."""
    idle_messages: int = 2000
    """Messages in a row that say nothing (IGNORE, DEBUG, UNIMPLEMENTED, pings without data), in ``rate_window_s``:
    four times the 50/s that OpenSSH sends to hide keystrokes."""
    rate_window_s: float = 10.0
