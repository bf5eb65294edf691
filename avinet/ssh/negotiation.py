"""KEXINIT: what each side offers, and what follows from both (RFC 4253 section 7.1).  Sans-IO.

An AEAD cipher brings its own authentication, so with one no MAC needs to be common to both sides (OpenSSH's
PROTOCOL section 1.6); every other list must have something in common.
"""

from collections.abc import Iterable

import attrs
from twisted.conch.ssh.transport import MSG_KEXINIT

from avinet.ssh.ciphers import CIPHERS
from avinet.ssh.fields import Reader, malformed, string

COOKIE_BYTES = 16
_NONE = (b"none",)

Names = tuple[bytes, ...]


@attrs.frozen
class Algorithms:
    """What a key exchange settled.  ``cs`` is from client to server, ``sc`` the other way; MACs are empty with AEAD."""

    kex: bytes
    host_key: bytes
    cipher_cs: bytes
    cipher_sc: bytes
    mac_cs: bytes
    mac_sc: bytes


@attrs.frozen
class KexInit:
    """One side's offer, in its order of preference."""

    kex: Names
    host_keys: Names
    ciphers_cs: Names
    ciphers_sc: Names
    macs_cs: Names
    macs_sc: Names
    compressions_cs: Names = _NONE
    compressions_sc: Names = _NONE
    guessed: bool = False
    """Whether a first packet for a guessed algorithm follows."""

    def encode(self, cookie: bytes) -> bytes:
        """The payload, its message number included."""
        lists = (
            self.kex, self.host_keys, self.ciphers_cs, self.ciphers_sc, self.macs_cs, self.macs_sc,
            self.compressions_cs, self.compressions_sc, (), (),
        )  # fmt: skip
        names = b"".join(string(b",".join(one)) for one in lists)
        return bytes((MSG_KEXINIT,)) + cookie + names + bytes((self.guessed,)) + bytes(4)

    @classmethod
    def decode(cls, packet: bytes) -> "KexInit":
        """``packet`` without its message number; ``RemoteProtocolError`` when it is not one."""
        reader = Reader(packet[COOKIE_BYTES:], "KEXINIT")
        lists = [tuple(reader.string().split(b",")) for _ in range(10)]
        guessed = reader.boolean()
        reader.uint32()  # reserved
        reader.end()
        return cls(*lists[:8], guessed=guessed)  # type: ignore[misc, arg-type]  # eight lists, in order


def _first(what: str, client: Names, server: Names) -> bytes:
    """The client's first choice that the server has."""
    for name in client:
        if name in server:
            return name
    raise malformed(f"no {what} in common")


def agree(client: KexInit, server: KexInit, kex: Iterable[bytes]) -> Algorithms:
    """What both offers lead to; ``kex`` are the key exchanges proper, since markers share their list.

    ``RemoteProtocolError`` names what is not in common.
    """
    proper = frozenset(kex)
    cipher_cs = _first("cipher", client.ciphers_cs, server.ciphers_cs)
    cipher_sc = _first("cipher", client.ciphers_sc, server.ciphers_sc)
    _first("compression", client.compressions_cs, server.compressions_cs)
    _first("compression", client.compressions_sc, server.compressions_sc)
    return Algorithms(
        kex=_first("key exchange", tuple(name for name in client.kex if name in proper), server.kex),
        host_key=_first("host key algorithm", client.host_keys, server.host_keys),
        cipher_cs=cipher_cs,
        cipher_sc=cipher_sc,
        mac_cs=b"" if CIPHERS[cipher_cs].aead else _first("MAC", client.macs_cs, server.macs_cs),
        mac_sc=b"" if CIPHERS[cipher_sc].aead else _first("MAC", client.macs_sc, server.macs_sc),
    )


def guess_was_right(client: KexInit, server: KexInit) -> bool:
    """Whether a first packet that the client sent unasked is of the exchange agreed on (RFC 4253 section 7)."""
    return client.kex[:1] == server.kex[:1] and client.host_keys[:1] == server.host_keys[:1]
