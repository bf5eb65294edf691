"""The SSH profile: which algorithms both sides speak, and the bounds of one connection.

DESIGN section 4 names the algorithms; those below are its part that Conch can do (no AEAD and no ETM MACs yet),
in order of preference.  Everything else that Conch offers (CBC, 3DES, SHA-1, MD5, group exchange, compression,
RSA, DSA, NIST curves) is off.  Strict key exchange (OpenSSH PROTOCOL 1.10) is ours, in ``transport``.
"""

import attrs

from avinet.ssh.keys import ALGORITHM
from avinet.units import KIB, MIB

KEY_EXCHANGES = [b"mlkem768x25519-sha256", b"curve25519-sha256", b"curve25519-sha256@libssh.org"]
HOST_KEYS = [ALGORITHM]
CIPHERS = [b"aes256-ctr", b"aes128-ctr"]
MACS = [b"hmac-sha2-256", b"hmac-sha2-512"]
COMPRESSIONS = [b"none"]
STRICT_CLIENT = b"kex-strict-c-v00@openssh.com"
STRICT_SERVER = b"kex-strict-s-v00@openssh.com"

VERSION = b"SSH-2.0-avinet"
"""Says no release: strangers need not know which one runs."""
MAX_VERSION_BYTES = 255
"""RFC 4253 section 4.2, with its CR LF."""
MAX_BANNER_BYTES = 8 * KIB
"""Lines that a server may send before its version; OpenSSH gives up after 8 KiB too."""

MAX_PACKET_BEFORE_LOGIN = 35_000
"""RFC 4253 section 6.1: every implementation must take this much; nobody unauthenticated gets more."""
MAX_PACKET_BYTES = 256 * KIB
"""OpenSSH's PACKET_MAX_SIZE; commands are longer than the RFC's minimum."""
MAX_DATA_PACKET = 32 * KIB
"""What we send and ask for in one data packet: what every peer expects."""
MIN_DATA_PACKET = 512
"""A peer that takes less at a time is refused: at one byte a packet a single MiB for it costs us half a minute.  The
smallest of known clients is 16 KiB."""
MAX_BYTES_BEFORE_LOGIN = 128 * KIB
"""All that a stranger may make us parse; a login with six keys and a hybrid key exchange takes 6 KiB."""
MAX_PARKED_BYTES = 1 * MIB
"""Replies that wait while keys are exchanged or while the peer does not read; data waits in its channel."""
WINDOW_BYTES = 1 * MIB
"""Credit a channel starts with: 14 MiB/s at 70 ms.  Fixed until windows follow the measured rate."""
MAX_UNSENT_BYTES = 4 * MIB
"""What a channel keeps for a peer that does not take it: four of the largest control frames, then it is cut."""
MAX_KEY_EXCHANGES = 100
"""In ``KEY_EXCHANGES_PER_S``, by one peer.  Each costs 1 to 2 ms, as much as a login; OpenSSH asks for one each GiB."""
KEY_EXCHANGES_PER_S = 60.0
MAX_WINDOW = 2**32 - 1
"""RFC 4254 section 5.2."""


@attrs.frozen
class LinkLimits:
    """The times and counts that bound one connection, on either side."""

    login_s: float = 10.0
    """From TCP to authenticated: ten round trips of a slow satellite link, and no more for strangers."""
    rekey_s: float = 30.0
    """A key exchange that takes longer is a peer that parks our data on purpose."""
    disconnect_s: float = 5.0
    """How long a peer has to take our last packet before the connection is reset."""
    idle_s: float = 60.0
    """A login that opens no channel and asks for no forward has no business here."""
    auth_attempts: int = 6
    """OpenSSH's MaxAuthTries."""
    channels: int = 64
    """Open at once that the peer asked for."""
    requests: int = 500
    """Channel opens and requests that the peer may make in ``requests_per_s``; a flood costs us an answer each."""
    requests_per_s: float = 10.0
