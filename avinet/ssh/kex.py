"""The client's half of the key exchanges, which Conch has only for elliptic curves.

``mlkem768x25519-sha256`` (draft-ietf-sshm-mlkem-hybrid-kex) sends an ML-KEM-768 and an X25519 key and hashes
both secrets into one; ``curve25519-sha256`` (RFC 8731) sends the X25519 key alone.  Sans-IO: bytes to send, then
bytes received, then the shared secret in the form that goes into the exchange hash.
"""

import hashlib
from typing import Protocol

import attrs
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from avinet.ssh.fields import malformed, string

X25519_BYTES = 32
MLKEM_CIPHERTEXT_BYTES = 1088
"""FIPS 203, ML-KEM-768."""


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


@attrs.frozen
class Curve25519:
    """RFC 8731."""

    _own: X25519PrivateKey = attrs.field(factory=X25519PrivateKey.generate, repr=False)

    def offer(self) -> bytes:
        """Our public key."""
        return self._own.public_key().public_bytes_raw()

    def secret(self, answer: bytes) -> bytes:
        """The curve's result as a multiple-precision integer."""
        raw = _x25519(self._own, answer).lstrip(b"\0")
        return string(b"\0" + raw if raw[:1] >= b"\x80" else raw)


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
    return Hybrid() if algorithm == b"mlkem768x25519-sha256" else Curve25519()
