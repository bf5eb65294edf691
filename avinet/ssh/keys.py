"""Keys and signatures as SSH shows them.

avinet's keys are ``cryptography`` Ed25519 objects; on the wire a public key is a blob (RFC 8709), in files and
lists an OpenSSH line ``ssh-ed25519 AAAA...``, and for people a fingerprint ``SHA256:...``.
"""

import base64
import hashlib

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from avinet.errors import RemoteProtocolError
from avinet.ssh.fields import Reader, malformed, string

ALGORITHM = b"ssh-ed25519"
"""The only type of host and user keys: short, fast, and without parameters to get wrong."""
KEY_BYTES = 32
SIGNATURE_BYTES = 64


def blob_of(public: Ed25519PublicKey) -> bytes:
    """The wire form of a public key."""
    return string(ALGORITHM) + string(public.public_bytes(Encoding.Raw, PublicFormat.Raw))


def line_of(blob: bytes) -> str:
    """A wire form as an OpenSSH line without comment."""
    return f"{ALGORITHM.decode()} {base64.b64encode(blob).decode()}"


def blob_of_line(line: str) -> bytes:
    """The wire form of an OpenSSH line; a comment is ignored.  ``ValueError`` for anything but Ed25519."""
    words = line.split()
    if len(words) < 2 or words[0] != ALGORITHM.decode():
        raise ValueError(f"not an {ALGORITHM.decode()} line: {line[:40]!r}")
    blob = base64.b64decode(words[1], validate=True)
    try:
        public_key(blob)
    except RemoteProtocolError as failure:
        raise ValueError(failure.detail) from None
    return blob


def fingerprint_of(blob: bytes) -> str:
    """What ``ssh-keygen -l`` prints."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).decode().rstrip("=")


def public_key(blob: bytes) -> Ed25519PublicKey:
    """The key in a wire form; ``RemoteProtocolError`` when it is not one of ours."""
    reader = Reader(blob, "a public key")
    if reader.string() != ALGORITHM:
        raise malformed("a public key is not Ed25519")
    raw = reader.string()
    reader.end()
    if len(raw) != KEY_BYTES:
        raise malformed(f"an Ed25519 key has {len(raw)} bytes")
    return Ed25519PublicKey.from_public_bytes(raw)


def sign(private: Ed25519PrivateKey, message: bytes) -> bytes:
    """A signature over ``message`` in its wire form (RFC 8709 section 6)."""
    return string(ALGORITHM) + string(private.sign(message))


def verifies(blob: bytes, signature: bytes, message: bytes) -> bool:
    """Whether ``signature`` (in its wire form) over ``message`` was made by the key in ``blob``."""
    reader = Reader(signature, "a signature")
    algorithm, raw = reader.string(), reader.string()
    reader.end()
    if algorithm != ALGORITHM or len(raw) != SIGNATURE_BYTES:
        return False
    try:
        public_key(blob).verify(raw, message)
    except InvalidSignature:
        return False
    return True
