"""Ed25519 keys as avinet keeps, names and shows them.

Private keys are files in OpenSSH's own format, so that ``ssh -i`` can use them.  A public key is an OpenSSH line
without comment, ``ssh-ed25519 AAAA...``.  Machines know a key by its RFC 7638 thumbprint (JOSE's ``kid``), people
compare ``SHA256:...`` as ``ssh-keygen -l`` shows it.
"""

import base64
import hashlib
from pathlib import Path
from typing import ClassVar

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
    load_ssh_public_key,
)

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import Thumbprint
from avinet.trust.files import read_private, write_private

MAX_LINE_CHARS = 200
"""An Ed25519 line is 80 characters."""


@error
class InvalidKeyError(AvinetError):
    """Not a usable key: {what}. avinet takes Ed25519 keys in OpenSSH's format (ssh-keygen -t ed25519)."""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str


def generate() -> Ed25519PrivateKey:
    """A new private key."""
    return Ed25519PrivateKey.generate()


def openssh_private(key: Ed25519PrivateKey) -> bytes:
    """As in a key file, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def pkcs8_private(key: Ed25519PrivateKey) -> bytes:
    """As TLS libraries read it: PKCS #8, PEM, unencrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def parse_private(data: bytes, where: str) -> Ed25519PrivateKey:
    """The inverse of ``openssh_private``; ``where`` names the source in the error."""
    try:
        key = load_ssh_private_key(data, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as why:
        raise InvalidKeyError(what=f"{where} does not hold an unencrypted OpenSSH private key") from why
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidKeyError(what=f"{where} holds a key of another kind than Ed25519")
    return key


def save(path: Path, key: Ed25519PrivateKey) -> None:
    """Write a private key, 0600."""
    write_private(path, openssh_private(key))


def load(path: Path) -> Ed25519PrivateKey:
    """Read a private key; refused when others can read it."""
    return parse_private(read_private(path), str(path))


def load_or_create(path: Path) -> Ed25519PrivateKey:
    """The key at ``path``, made now if there is none.  The file is whole or absent, so a crash is harmless."""
    if path.exists():
        return load(path)
    key = generate()
    save(path, key)
    return key


def public_line(key: Ed25519PublicKey) -> str:
    """``ssh-ed25519 AAAA...`` without comment."""
    return key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def parse_line(line: str) -> Ed25519PublicKey:
    """The key of a line as ``public_line`` gives it; options and comments are refused."""
    parts = line.split(" ")
    if len(line) > MAX_LINE_CHARS or len(parts) != 2 or parts[0] != "ssh-ed25519":
        raise InvalidKeyError(what="the public key is not of the form 'ssh-ed25519 AAAA...'")
    try:
        key = load_ssh_public_key(line.encode())
    except (ValueError, UnsupportedAlgorithm) as why:
        raise InvalidKeyError(what="the public key's data is malformed") from why
    if not isinstance(key, Ed25519PublicKey) or public_line(key) != line:
        raise InvalidKeyError(what="the public key is not in its canonical form")
    return key


def key_blob(line: str) -> bytes:
    """The SSH wire form of a public key line."""
    return base64.b64decode(line.split(" ")[1])


def thumbprint(key: Ed25519PublicKey) -> Thumbprint:
    """RFC 7638 over the JWK of RFC 8037: members in lexical order, no white space."""
    x = _base64url(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    canonical = f'{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}'
    return Thumbprint(_base64url(hashlib.sha256(canonical.encode()).digest()))


def fingerprint(key: Ed25519PublicKey) -> str:
    """``SHA256:...`` as OpenSSH shows it."""
    digest = hashlib.sha256(key_blob(public_line(key))).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _base64url(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
