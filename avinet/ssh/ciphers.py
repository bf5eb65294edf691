"""What turns a packet into bytes that nobody can read or change, and back: one class an algorithm and direction.

A packet in the clear is ``length | padding length | payload | padding`` (RFC 4253 section 6).  All ciphers here
authenticate what is on the wire, so a receiver needs the first four bytes to learn the length and the tag to
believe the rest; nothing is handed on before it is verified:

- AES-GCM as OpenSSH does it (RFC 5647): the length in the clear as associated data, a 12-byte nonce whose last
  eight bytes count packets;
- ChaCha20-Poly1305 (OpenSSH's PROTOCOL.chacha20poly1305): the length under a key of its own;
- AES-CTR with encrypt-then-MAC HMAC-SHA2 (OpenSSH's PROTOCOL section 1.5), for peers that have no AEAD.

``Plain`` serves until the first keys.  All are sans-IO and know no sequence of their own but GCM's counter.
"""

import hmac
import struct
from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.constant_time import bytes_eq
from cryptography.hazmat.primitives.poly1305 import Poly1305

from avinet.errors import AvinetError, Kind, error

LENGTH_BYTES = 4
_UINT32 = struct.Struct(">L")
_GCM_TAG_BYTES = 16
_GCM_FIXED_BYTES = 4
_POLY_TAG_BYTES = 16
_CHACHA_BLOCK_BYTES = 64
_CHACHA_KEY_BYTES = 32
_AES_BLOCK_BYTES = 16
_COUNTER_MASK = 2**64 - 1


@error
class MacError(AvinetError):
    """A packet was changed on its way, or made with other keys."""

    kind: ClassVar[Kind] = Kind.INVALID


class Sealer(Protocol):
    """One direction, sending."""

    block: int
    """What ``padding length | payload | padding`` is a multiple of, with ``plain_head`` before it."""
    plain_head: int

    def seal(self, sequence: int, plain: memoryview) -> tuple[bytes, ...]:
        """The wire form of a packet, in pieces; ``plain`` begins with its length."""


class Opener(Protocol):
    """One direction, receiving."""

    block: int
    tag: int
    """Bytes behind the packet."""
    plain_head: int
    """Of the length field, those that count into the block size."""

    def length(self, sequence: int, head: bytes) -> int:
        """The packet's length field, not yet verified, from its first four bytes on the wire."""

    def open(self, sequence: int, packet: memoryview, out: memoryview) -> None:
        """Verify ``packet`` (length, body, tag) and write its body in the clear into ``out``, which has just
        that size; ``MacError`` when it is not what was sent.
        """


class Plain:
    """No protection, before the first keys."""

    block = 8
    tag = 0
    plain_head = LENGTH_BYTES
    __slots__ = ()

    def seal(self, sequence: int, plain: memoryview) -> tuple[bytes, ...]:
        """See ``Sealer``."""
        return (bytes(plain),)

    def length(self, sequence: int, head: bytes) -> int:
        """See ``Opener``."""
        return int(_UINT32.unpack(head)[0])

    def open(self, sequence: int, packet: memoryview, out: memoryview) -> None:
        """See ``Opener``."""
        out[:] = packet[LENGTH_BYTES:]


class AesGcm:
    """aes128-gcm@openssh.com and aes256-gcm@openssh.com, either direction."""

    block = _AES_BLOCK_BYTES
    tag = _GCM_TAG_BYTES
    plain_head = 0
    __slots__ = ("_aead", "_counter", "_fixed")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._aead = AESGCM(key)
        self._fixed = iv[:_GCM_FIXED_BYTES]
        self._counter = int.from_bytes(iv[_GCM_FIXED_BYTES:12], "big")

    def _nonce(self) -> bytes:
        nonce = self._fixed + self._counter.to_bytes(8, "big")
        # A new key comes long before the counter is where it began.
        self._counter = (self._counter + 1) & _COUNTER_MASK
        return nonce

    def seal(self, sequence: int, plain: memoryview) -> tuple[bytes, ...]:
        """See ``Sealer``."""
        head = bytes(plain[:LENGTH_BYTES])
        return head, self._aead.encrypt(self._nonce(), plain[LENGTH_BYTES:], head)

    def length(self, sequence: int, head: bytes) -> int:
        """See ``Opener``."""
        return int(_UINT32.unpack(head)[0])

    def open(self, sequence: int, packet: memoryview, out: memoryview) -> None:
        """See ``Opener``."""
        try:
            self._aead.decrypt_into(self._nonce(), packet[LENGTH_BYTES:], packet[:LENGTH_BYTES], out)
        except InvalidTag:
            raise MacError from None


class ChaChaPoly:
    """chacha20-poly1305@openssh.com, either direction.  64 bytes of key: the body's, then the length's."""

    block = 8
    tag = _POLY_TAG_BYTES
    plain_head = 0
    __slots__ = ("_body_key", "_length_key")

    def __init__(self, key: bytes, iv: bytes) -> None:
        self._body_key, self._length_key = key[:_CHACHA_KEY_BYTES], key[_CHACHA_KEY_BYTES:]

    def _stream(self, key: bytes, sequence: int) -> Any:
        # A 64-bit block counter from 0, then the packet's sequence number as the 64-bit nonce.
        nonce = bytes(8) + sequence.to_bytes(8, "big")
        return Cipher(algorithms.ChaCha20(key, nonce), mode=None).encryptor()

    def _body(self, sequence: int) -> tuple[Any, bytes]:
        """The body's key stream, and the one-time key of its tag: the first block's first half."""
        stream = self._stream(self._body_key, sequence)
        return stream, stream.update(bytes(_CHACHA_BLOCK_BYTES))[:_CHACHA_KEY_BYTES]

    def seal(self, sequence: int, plain: memoryview) -> tuple[bytes, ...]:
        """See ``Sealer``."""
        head = self._stream(self._length_key, sequence).update(plain[:LENGTH_BYTES])
        stream, tag_key = self._body(sequence)
        body = stream.update(plain[LENGTH_BYTES:])
        tag = Poly1305(tag_key)
        tag.update(head)
        tag.update(body)
        return head, body, tag.finalize()

    def length(self, sequence: int, head: bytes) -> int:
        """See ``Opener``."""
        return int(_UINT32.unpack(self._stream(self._length_key, sequence).update(head))[0])

    def open(self, sequence: int, packet: memoryview, out: memoryview) -> None:
        """See ``Opener``."""
        stream, tag_key = self._body(sequence)
        tag = Poly1305(tag_key)
        tag.update(packet[:-_POLY_TAG_BYTES])
        if not bytes_eq(tag.finalize(), bytes(packet[-_POLY_TAG_BYTES:])):
            raise MacError
        stream.update_into(packet[LENGTH_BYTES:-_POLY_TAG_BYTES], out)


class CtrEtm:
    """AES in counter mode with an encrypt-then-MAC HMAC, either direction: the MAC covers sequence number, length and
    ciphertext.
    """

    block = _AES_BLOCK_BYTES
    plain_head = 0
    __slots__ = ("_mac", "_stream", "tag")

    def __init__(self, key: bytes, iv: bytes, mac_key: bytes, digest: str) -> None:
        self._stream = Cipher(algorithms.AES(key), modes.CTR(iv[:_AES_BLOCK_BYTES])).encryptor()
        self._mac = hmac.new(mac_key, digestmod=digest)
        self.tag = self._mac.digest_size

    def _tag(self, sequence: int, *parts: bytes | memoryview) -> bytes:
        mac = self._mac.copy()
        mac.update(_UINT32.pack(sequence))
        for part in parts:
            mac.update(part)
        return mac.digest()

    def seal(self, sequence: int, plain: memoryview) -> tuple[bytes, ...]:
        """See ``Sealer``."""
        head, body = bytes(plain[:LENGTH_BYTES]), self._stream.update(plain[LENGTH_BYTES:])
        return head, body, self._tag(sequence, head, body)

    def length(self, sequence: int, head: bytes) -> int:
        """See ``Opener``."""
        return int(_UINT32.unpack(head)[0])

    def open(self, sequence: int, packet: memoryview, out: memoryview) -> None:
        """See ``Opener``."""
        body_end = len(packet) - self.tag
        if not hmac.compare_digest(self._tag(sequence, packet[:body_end]), packet[body_end:]):
            raise MacError
        self._stream.update_into(packet[LENGTH_BYTES:body_end], out)


@attrs.frozen
class CipherSpec:
    """What an algorithm's name stands for."""

    key_bytes: int
    aead: Callable[[bytes, bytes], Any] | None = None
    """Makes it from key and IV; None for counter mode, which wants a MAC."""


CIPHERS = {
    b"aes256-gcm@openssh.com": CipherSpec(32, AesGcm),
    b"aes128-gcm@openssh.com": CipherSpec(16, AesGcm),
    b"chacha20-poly1305@openssh.com": CipherSpec(64, ChaChaPoly),
    b"aes256-ctr": CipherSpec(32),
}
"""In order of preference (DESIGN section 4)."""
MACS = {b"hmac-sha2-256-etm@openssh.com": "sha256", b"hmac-sha2-512-etm@openssh.com": "sha512"}
"""For counter mode; the AEAD ciphers bring their own."""
_MAC_KEY_BYTES = {"sha256": 32, "sha512": 64}

DeriveKey = Callable[[bytes, int], bytes]
"""(Letter, size) to key material, RFC 4253 section 7.2."""


def protection(cipher: bytes, mac: bytes, letters: bytes, derive: DeriveKey) -> Any:
    """A ``Sealer`` and ``Opener`` in one for a direction; ``letters`` names its IV, key and MAC key."""
    spec = CIPHERS[cipher]
    iv, key = derive(letters[0:1], _AES_BLOCK_BYTES), derive(letters[1:2], spec.key_bytes)
    if spec.aead is not None:
        return spec.aead(key, iv)
    digest = MACS[mac]
    return CtrEtm(key, iv, derive(letters[2:3], _MAC_KEY_BYTES[digest]), digest)
