"""A file that only who knows its passphrase can read, and that nobody can change unseen.

Version 1: ``avinet sealed 1`` and a line feed, 16 bytes of salt, 32 bytes of check; then chunks, each four bytes of head and what
AES-256-GCM makes of the plaintext.  The head's first bit says that it is the last one, the other 31 how many bytes follow.
scrypt makes 64 bytes of passphrase and salt: the cipher's key, and the key of the check, an HMAC-SHA256 over what is before
it, so that a wrong passphrase is told from a damaged file.

A chunk's nonce is its number, and its head is authenticated with it.  So chunks that were changed, left out, put in another
order, taken from another file (another salt, another key) or cut off are found, and what is read before that is what was
written.
"""

import hashlib
import hmac
import os
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, ClassVar

import attrs
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from avinet.errors import AvinetError, Kind, error
from avinet.units import MIB

FAMILY = b"avinet sealed "
MAGIC = FAMILY + b"1\n"
SALT_BYTES = 16
CHECK_BYTES = 32
TAG_BYTES = 16
HEAD = struct.Struct(">I")
LAST = 1 << 31
MAX_CHUNK_BYTES = 4 * MIB
"""Of plaintext: what a reader holds at a time, whatever the file says."""
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**17, 8, 1
"""OWASP's 2023 figure for the strongest of its list: 128 MiB and half a second a guess.  A part of version 1, since a file that
could choose them could ask its reader for any amount of memory."""
MIN_PASSPHRASE_CHARS = 12
"""With what a guess costs, four random words or so many random letters are out of reach; eight letters are not."""


@error
class NotSealedError(AvinetError):
    """{name} is no backup of avinet's: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    name: str
    why: str


@error
class SealVersionError(AvinetError):
    """{name} was written in a format that this avinet does not know ({found}). Use the release that wrote it, or a newer one."""

    kind: ClassVar[Kind] = Kind.INVALID
    name: str
    found: str


@error
class PassphraseWrongError(AvinetError):
    """That is not the passphrase of {name}. (Or its first {first} bytes were changed.)"""

    kind: ClassVar[Kind] = Kind.DENIED
    name: str
    first: int = len(MAGIC) + SALT_BYTES + CHECK_BYTES


@error
class PassphraseShortError(AvinetError):
    """The passphrase has {found} characters; {least} are the least, since the file holds every key of the cluster."""

    kind: ClassVar[Kind] = Kind.INVALID
    found: int
    least: int = MIN_PASSPHRASE_CHARS


@error
class SealDamagedError(AvinetError):
    """{name} is damaged: {why}. Use another copy of it."""

    kind: ClassVar[Kind] = Kind.INVALID
    name: str
    why: str


Derive = Callable[[bytes, bytes], bytes]
"""64 bytes from passphrase and salt."""


def derive(passphrase: bytes, salt: bytes) -> bytes:
    """By scrypt; blocks for half a second."""
    n, r, p = SCRYPT_N, SCRYPT_R, SCRYPT_P
    return hashlib.scrypt(passphrase, salt=salt, n=n, r=r, p=p, maxmem=256 * n * r, dklen=64)


@attrs.define(eq=False)
class Sealer:
    """Writes: ``put`` any number of times, then ``end``.  ``OSError`` as the file has it."""

    _file: BinaryIO
    _cipher: AESGCM = attrs.field(repr=False)
    _number: int = 0

    @classmethod
    def begin(cls, file: BinaryIO, passphrase: bytes, derive: Derive = derive) -> "Sealer":
        """With a salt of its own."""
        if len(passphrase.decode("utf-8", "replace")) < MIN_PASSPHRASE_CHARS:
            raise PassphraseShortError(found=len(passphrase.decode("utf-8", "replace")))
        salt = os.urandom(SALT_BYTES)
        keys = derive(passphrase, salt)
        file.write(MAGIC + salt + _check(keys, salt))
        return cls(file, AESGCM(keys[:32]))

    def put(self, plaintext: bytes) -> None:
        """One chunk."""
        self._write(plaintext, 0)

    def end(self, plaintext: bytes) -> None:
        """The last one."""
        self._write(plaintext, LAST)

    def _write(self, plaintext: bytes, last: int) -> None:
        if len(plaintext) > MAX_CHUNK_BYTES:
            raise ValueError(f"a chunk of {len(plaintext)} bytes")
        head = HEAD.pack(len(plaintext) + TAG_BYTES | last)
        self._file.write(head + self._cipher.encrypt(_nonce(self._number), plaintext, head))
        self._number += 1


def unsealed(file: BinaryIO, name: str, passphrase: bytes, derive: Derive = derive) -> Iterator[bytes]:
    """Each chunk, once it is known to be as written; ends only where the file was ended."""
    magic = file.read(len(MAGIC))
    if magic != MAGIC:
        if magic and MAGIC.startswith(magic):
            raise SealDamagedError(name=name, why="it was cut off in its first bytes")
        if magic.startswith(FAMILY):
            raise SealVersionError(name=name, found=magic[len(FAMILY) :].decode("ascii", "replace").strip())
        raise NotSealedError(name=name, why="it does not begin as one" if magic else "it is empty")
    salt, check = file.read(SALT_BYTES), file.read(CHECK_BYTES)
    if len(check) < CHECK_BYTES:
        raise SealDamagedError(name=name, why="it was cut off in its first bytes")
    keys = derive(passphrase, salt)
    if not hmac.compare_digest(check, _check(keys, salt)):
        raise PassphraseWrongError(name=name)
    return _chunks(file, name, AESGCM(keys[:32]))


def _chunks(file: BinaryIO, name: str, cipher: AESGCM) -> Iterator[bytes]:
    number = 0
    while True:
        head = file.read(HEAD.size)
        if len(head) < HEAD.size:
            raise SealDamagedError(name=name, why=f"it was cut off after {number} pieces")
        (said,) = HEAD.unpack(head)
        size = said & ~LAST
        if not TAG_BYTES <= size <= MAX_CHUNK_BYTES + TAG_BYTES:
            raise SealDamagedError(name=name, why=f"piece {number} says that it has {size} bytes")
        body = file.read(size)
        if len(body) < size:
            raise SealDamagedError(name=name, why=f"it was cut off within piece {number}")
        try:
            plaintext = cipher.decrypt(_nonce(number), body, head)
        except InvalidTag as why:
            raise SealDamagedError(name=name, why=f"piece {number} is not as it was written") from why
        yield plaintext
        if said & LAST:
            break
        number += 1
    if file.read(1):
        raise SealDamagedError(name=name, why="something follows its end")


def _nonce(number: int) -> bytes:
    return number.to_bytes(12, "big")


def _check(keys: bytes, salt: bytes) -> bytes:
    return hmac.digest(keys[32:], MAGIC + salt, "sha256")
