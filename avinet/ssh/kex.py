"""The key exchanges: the client's half, the server's half, and what both hash and derive.

``mlkem768x25519-sha256`` (draft-ietf-sshm-mlkem-hybrid-kex) sends an ML-KEM-768 and an X25519 key and hashes
both secrets into one; ``curve25519-sha256`` (RFC 8731) sends the X25519 key alone.  Sans-IO: bytes to send, then
bytes received, then the shared secret in the form that goes into the exchange hash.
"""

import hashlib
from collections.abc import Iterable
from typing import Protocol

import attrs
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from avinet.ssh.fields import malformed, string

X25519_BYTES = 32
MLKEM_CIPHERTEXT_BYTES = 1088
MLKEM_KEY_BYTES = 1184
"""FIPS 203, ML-KEM-768."""
HYBRID = b"mlkem768x25519-sha256"


class ClientExchange(Protocol):
    """One exchange, from the client's side."""

    def offer(self) -> bytes:
        """What goes into the client's first packet."""

    def secret(self, answer: bytes) -> bytes:
        """The shared secret as it is hashed; ``RemoteProtocolError`` when the answer is not one."""


def _x25519(own: X25519PrivateKey, theirs: bytes) -> bytes:
    if len(theirs) != X25519_BYTES:
        raise malformed(f"a Curve25519 key of {len(theirs)} bytes")
    try:
        return own.exchange(X25519PublicKey.from_public_bytes(theirs))
    except ValueError:
        raise malformed("a Curve25519 key of low order") from None


def _integer(raw: bytes) -> bytes:
    """A multiple-precision integer (RFC 4251 section 5)."""
    raw = raw.lstrip(b"\0")
    return string(b"\0" + raw if raw[:1] >= b"\x80" else raw)


@attrs.frozen
class Curve25519:
    """RFC 8731."""

    _own: X25519PrivateKey = attrs.field(factory=X25519PrivateKey.generate, repr=False)

    def offer(self) -> bytes:
        """Our public key."""
        return self._own.public_key().public_bytes_raw()

    def secret(self, answer: bytes) -> bytes:
        """The curve's result as a multiple-precision integer."""
        return _integer(_x25519(self._own, answer))


@attrs.frozen
class Hybrid:
    """ML-KEM-768 and X25519; safe while either is."""

    _kem: MLKEM768PrivateKey = attrs.field(factory=MLKEM768PrivateKey.generate, repr=False)
    _own: X25519PrivateKey = attrs.field(factory=X25519PrivateKey.generate, repr=False)

    def offer(self) -> bytes:
        """C_INIT: the post-quantum key, then the traditional one."""
        return self._kem.public_key().public_bytes_raw() + self._own.public_key().public_bytes_raw()

    def secret(self, answer: bytes) -> bytes:
        """SHA-256 over both secrets, as a string."""
        if len(answer) != MLKEM_CIPHERTEXT_BYTES + X25519_BYTES:
            raise malformed(f"a hybrid key exchange answer of {len(answer)} bytes")
        quantum = self._kem.decapsulate(answer[:MLKEM_CIPHERTEXT_BYTES])
        classical = _x25519(self._own, answer[MLKEM_CIPHERTEXT_BYTES:])
        return string(hashlib.sha256(quantum + classical).digest())


def start(algorithm: bytes) -> ClientExchange:
    """Fresh keys for the negotiated algorithm."""
    return Hybrid() if algorithm == HYBRID else Curve25519()


def answer(algorithm: bytes, offer: bytes) -> tuple[bytes, bytes]:
    """The server's half: what goes back for the client's ``offer``, and the shared secret as it is hashed."""
    own = X25519PrivateKey.generate()
    public = own.public_key().public_bytes_raw()
    if algorithm != HYBRID:
        return public, _integer(_x25519(own, offer))
    if len(offer) != MLKEM_KEY_BYTES + X25519_BYTES:
        raise malformed(f"a hybrid key exchange offer of {len(offer)} bytes")
    try:
        quantum, ciphertext = MLKEM768PublicKey.from_public_bytes(offer[:MLKEM_KEY_BYTES]).encapsulate()
    except ValueError:
        raise malformed("an ML-KEM-768 key that is none") from None
    classical = _x25519(own, offer[MLKEM_KEY_BYTES:])
    return ciphertext + public, string(hashlib.sha256(quantum + classical).digest())


def exchange_hash(parts: Iterable[bytes], secret: bytes) -> bytes:
    """H of RFC 8731 section 3: the strings that both sides have seen, then the secret as it is encoded already."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(string(part))
    hashed.update(secret)
    return hashed.digest()


def derive(secret: bytes, exchange: bytes, session: bytes, letter: bytes, size: int) -> bytes:
    """Key material of RFC 4253 section 7.2; ``letter`` says for what."""
    material = hashlib.sha256(secret + exchange + letter + session).digest()
    while len(material) < size:
        material += hashlib.sha256(secret + exchange + material).digest()
    return material[:size]
