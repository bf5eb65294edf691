"""The state engine's own CA: it says which processes may speak to etcd, as a client or as a member, and nothing else.

It is not the cluster's root: that one signs what SEs trust and may be offline, and a certificate of this one must
open nothing but etcd.  Whoever makes the first member holds the key; another controller gets a certificate signed
over its own public key when it joins.

A certificate bears 127.0.0.1 alone, since etcd listens nowhere else and other members are reached through forwards
that begin there.  It has no common name: etcd takes a client's for its user where no password was sent (also its own, for a
request of its JSON gateway without an Accept header), and the gateway answers 401 to every client that has one.
"""

import ipaddress
from pathlib import Path

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from avinet.model.ids import ClusterId, ControllerName
from avinet.trust.ca import ROOT_DAYS, RootDamagedError, Subject, self_signed, signed
from avinet.trust.files import read_private, write_private, write_public
from avinet.trust.keys import generate, pkcs8_private

MEMBER_DAYS = ROOT_DAYS
"""10 years, as the CA itself.  What withdraws a member is its removal from the cluster's list (it reaches no port any
more) and from etcd's; a date that comes sooner would stop the state engine for nothing."""
_LOOPBACK = x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))
_USES = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)
"""A member is both to its peers, and etcd's JSON gateway is a client of its own process."""


@attrs.frozen
class StateCa:
    """The CA with its key."""

    certificate: x509.Certificate
    _key: Ed25519PrivateKey = attrs.field(repr=False)

    @classmethod
    def load_or_create(cls, key_path: Path, certificate_path: Path, cluster: ClusterId) -> "StateCa":
        """Make it, or go on where an earlier call was cut: the key first, then its certificate."""
        key = load_or_create_tls_key(key_path)
        if not certificate_path.exists():
            made = self_signed(key, f"avinet state {cluster}", ROOT_DAYS)
            write_public(certificate_path, made.public_bytes(Encoding.PEM))
        return cls.load(key_path, certificate_path)

    @classmethod
    def load(cls, key_path: Path, certificate_path: Path) -> "StateCa":
        """The CA where it was made; ``FileUnreadableError`` elsewhere."""
        key, certificate = load_tls_key(key_path), load_certificate(certificate_path)
        if key.public_key() != certificate.public_key():
            raise RootDamagedError(path=key_path, why="the key is not the certificate's")
        return cls(certificate, key)

    def issue(self, public_key: Ed25519PublicKey, name: ControllerName) -> bytes:
        """A member's certificate, PEM: for its server, its peers and its clients."""
        title = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "avinet state engine"),
                x509.NameAttribute(NameOID.ORGANIZATIONAL_UNIT_NAME, name),
            ]
        )
        subject = Subject(title, (_LOOPBACK,), MEMBER_DAYS, _USES)
        made = signed(self.certificate, self._key, public_key, subject)
        return made.public_bytes(Encoding.PEM)


def load_or_create_tls_key(path: Path) -> Ed25519PrivateKey:
    """The key at ``path`` as TLS libraries read it (PKCS #8), made now if there is none."""
    if not path.exists():
        write_private(path, pkcs8_private(generate()))
    return load_tls_key(path)


def load_tls_key(path: Path) -> Ed25519PrivateKey:
    """The key at ``path``; ``FileUnreadableError`` when there is none."""
    try:
        key = load_pem_private_key(read_private(path), None)
    except (TypeError, ValueError, UnsupportedAlgorithm) as why:
        raise RootDamagedError(path=path, why="it is not an unencrypted PEM private key") from why
    if not isinstance(key, Ed25519PrivateKey):
        raise RootDamagedError(path=path, why="it is not an Ed25519 key")
    return key


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate at ``path``."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as why:
        raise RootDamagedError(path=path, why=str(why)) from why


def belongs(pem: bytes, ca: x509.Certificate, key: Ed25519PublicKey) -> bool:
    """Whether a certificate is one of this CA's for this key."""
    try:
        found = x509.load_pem_x509_certificate(pem)
        found.verify_directly_issued_by(ca)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return found.public_key() == key
