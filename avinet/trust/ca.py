"""The root CA and the certificates it signs.

One self-signed Ed25519 root a cluster.  It signs node certificates (TLS on 8443, read by SEs), the certificate of
the operator API (ECDSA P-256, since browsers refuse Ed25519), membership lists and image manifests.

Every certificate's notBefore is 1970: a service engine boots with whatever its clock says, often years in the past,
and must not refuse its controller for it.  Nothing is lost by it: a certificate that should not be believed is not
in the membership list, or is revoked there.
"""

import datetime as dt
import ipaddress
from collections.abc import Iterable
from pathlib import Path
from typing import ClassVar

import attrs
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, controller_dns_name
from avinet.trust.files import private_dir, read_private, write_private, write_public

NOT_BEFORE = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
ROOT_DAYS = 3650
"""10 years, as the product that this follows; it can be rotated earlier."""
NODE_DAYS = 365
"""Renewed by the controller itself; a list with the new certificate follows."""
API_DAYS = 365


@error
class RootKeyOfflineError(AvinetError):
    """The root key is not at {path}: it was taken offline. Bring it back for this, then take it away again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: Path


@error
class RootKeyLockedError(AvinetError):
    """The root key at {path} is wrapped in a passphrase, and none was given or the one given does not open it."""

    kind: ClassVar[Kind] = Kind.DENIED
    path: Path


@error
class RootKeyPlainError(AvinetError):
    """The root key at {path} is not wrapped, but a passphrase was given. Give none, or wrap it: openssl pkcs8 -topk8 -in {path}."""

    kind: ClassVar[Kind] = Kind.INVALID
    path: Path


@error
class PassphraseEmptyError(AvinetError):
    """The passphrase for the root key is empty. Give one, or none at all to keep the key unwrapped."""

    kind: ClassVar[Kind] = Kind.INVALID


@error
class RootDamagedError(AvinetError):
    """{path} does not hold what it should: {why}. Restore the folder from a backup."""

    path: Path
    why: str


@attrs.frozen
class RootCa:
    """The root: its certificate, and its key for as long as it is at hand."""

    certificate: x509.Certificate
    key_path: Path
    _key: Ed25519PrivateKey | None = attrs.field(repr=False)

    @classmethod
    def create(cls, folder: Path, cluster: ClusterId, passphrase: bytes | None = None) -> "RootCa":
        """Make a root, or go on where an earlier call was cut: the key first, then its certificate."""
        if passphrase is not None and not passphrase:
            raise PassphraseEmptyError
        private_dir(folder)
        key_path, certificate_path = folder / "root.key", folder / "root.pem"
        if certificate_path.exists():
            return cls.load(folder, passphrase)
        if key_path.exists():
            key = _load_key(key_path, passphrase)
            if key is None:
                raise RootKeyLockedError(path=key_path)
        else:
            key = Ed25519PrivateKey.generate()
            write_private(key_path, _pem(key, passphrase))
        certificate = self_signed(key, f"avinet root {cluster}", ROOT_DAYS)
        write_public(certificate_path, certificate.public_bytes(Encoding.PEM))
        return cls(certificate, key_path, key)

    @classmethod
    def load(cls, folder: Path, passphrase: bytes | None = None) -> "RootCa":
        """The root at ``folder``; without its key, or while that is wrapped, it can be trusted but signs nothing."""
        key_path, certificate_path = folder / "root.key", folder / "root.pem"
        try:
            certificate = x509.load_pem_x509_certificate(certificate_path.read_bytes())
        except (OSError, ValueError) as why:
            raise RootDamagedError(path=certificate_path, why=str(why)) from why
        key = _load_key(key_path, passphrase) if key_path.exists() else None
        if key is not None and key.public_key() != certificate.public_key():
            raise RootDamagedError(path=key_path, why="the key is not the certificate's")
        return cls(certificate, key_path, key)

    @property
    def pem(self) -> bytes:
        """The certificate."""
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key(self) -> Ed25519PrivateKey:
        """The private key; ``RootKeyOfflineError`` when it was taken away, ``RootKeyLockedError`` while wrapped."""
        if self._key is None:
            if self.key_path.exists():
                raise RootKeyLockedError(path=self.key_path)
            raise RootKeyOfflineError(path=self.key_path)
        return self._key

    @property
    def has_key(self) -> bool:
        """Whether it can sign now."""
        return self._key is not None

    def issued(self, pem: bytes) -> bool:
        """Whether a certificate is one of this root's."""
        try:
            x509.load_pem_x509_certificate(pem).verify_directly_issued_by(self.certificate)
        except (ValueError, TypeError, InvalidSignature):
            return False
        return True

    def issue_node(self, public_key: Ed25519PublicKey, cluster: ClusterId, name: str) -> bytes:
        """A controller's certificate for 8443, PEM: valid a year, good for a TLS server and nothing else."""
        names: list[x509.GeneralName] = [x509.DNSName(controller_dns_name(cluster))]
        return self._issue(public_key, f"avinet controller {name}", names, NODE_DAYS)

    def issue_api(self, public_key: EllipticCurvePublicKey, names: Iterable[str]) -> bytes:
        """The operator API's certificate for these host names and addresses, PEM."""
        return self._issue(public_key, "avinet operator API", [_general_name(n) for n in names], API_DAYS)

    def _issue(
        self,
        public_key: Ed25519PublicKey | EllipticCurvePublicKey,
        common_name: str,
        names: list[x509.GeneralName],
        days: int,
    ) -> bytes:
        subject = Subject(common_named(common_name), tuple(names), days)
        return signed(self.certificate, self.key, public_key, subject).public_bytes(Encoding.PEM)


@attrs.frozen
class Subject:
    """What a certificate says of its key: a title for people, who it is, for how long from now, and what for."""

    title: x509.Name
    names: tuple[x509.GeneralName, ...]
    days: int
    uses: tuple[x509.ObjectIdentifier, ...] = (ExtendedKeyUsageOID.SERVER_AUTH,)


def signed(
    issuer: x509.Certificate,
    issuer_key: Ed25519PrivateKey,
    public_key: Ed25519PublicKey | EllipticCurvePublicKey,
    subject: Subject,
) -> x509.Certificate:
    """A certificate of a key that signs no others."""
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=subject.days)
    return (
        _builder(issuer.subject, subject.title, end)
        .public_key(public_key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(subject.uses), critical=False)
        .add_extension(x509.SubjectAlternativeName(subject.names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False
        )
        .sign(issuer_key, None)
    )


def names_of(pem: bytes) -> set[str]:
    """The DNS names and addresses that a certificate bears."""
    names = x509.load_pem_x509_certificate(pem).extensions.get_extension_for_class(
        x509.SubjectAlternativeName
    )
    return {str(name.value) for name in names.value}


def same_names(pem: bytes, names: Iterable[str]) -> bool:
    """Whether a certificate bears exactly these names; ``0:0::1`` is ``::1``."""
    return names_of(pem) == {str(_general_name(name).value) for name in names}


def bears_key(pem: bytes, key: Ed25519PublicKey | EllipticCurvePublicKey) -> bool:
    """Whether a certificate is for this key; false for what is no certificate."""
    try:
        return x509.load_pem_x509_certificate(pem).public_key() == key
    except ValueError:
        return False


def serial_of(pem: bytes) -> str:
    """The serial number as the membership list's ``revoked_serials`` write it."""
    return f"{x509.load_pem_x509_certificate(pem).serial_number:x}"


def days_left(pem: bytes, now: float) -> float:
    """Until the certificate ends; negative when it has."""
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    return (end.timestamp() - now) / 86400


def self_signed(key: Ed25519PrivateKey, common_name: str, days: int) -> x509.Certificate:
    """A CA's own certificate; it signs those of keys, not of further CAs."""
    subject = common_named(common_name)
    end = dt.datetime.now(dt.UTC) + dt.timedelta(days=days)
    public = key.public_key()
    return (
        _builder(subject, subject, end)
        .public_key(public)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        .sign(key, None)
    )


def common_named(text: str) -> x509.Name:
    """A title of a common name alone, which holds 64 characters."""
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _builder(issuer: x509.Name, title: x509.Name, not_after: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(title)
        .issuer_name(issuer)
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(not_after)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: Ed25519PrivateKey, passphrase: bytes | None) -> bytes:
    wrapping: KeySerializationEncryption = (
        NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    )
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, wrapping)


def _load_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey | None:
    """The key, or None when it is wrapped and no passphrase was given."""
    pem = read_private(path)
    wrapped = b"ENCRYPTED" in pem
    if wrapped and passphrase is None:
        return None
    if not wrapped and passphrase is not None:
        raise RootKeyPlainError(path=path)
    try:
        key = load_pem_private_key(pem, passphrase)
    except (TypeError, ValueError, UnsupportedAlgorithm) as why:
        if wrapped:
            raise RootKeyLockedError(path=path) from why
        raise RootDamagedError(path=path, why="it is not a PEM private key") from why
    if not isinstance(key, Ed25519PrivateKey):
        raise RootDamagedError(path=path, why="it is not an Ed25519 key")
    return key
