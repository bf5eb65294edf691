"""Certificates and keys in PEM: read once, and told in words that repeat nothing of them.

Nothing here puts the text that it was given into an error, since an operator may paste a key where a certificate
belongs.
"""

import functools
import re
from datetime import UTC, datetime
from ipaddress import IPv4Address, IPv6Address

import attrs
from cryptography import x509
from cryptography.exceptions import InternalError, InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes, PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from avinet.units import DAY_S

MAX_CHAIN = 10
"""Certificates of one chain, as OpenSSL's own bound on what it verifies."""
MAX_BUNDLE = 300
"""Of one text of CA certificates; a system's whole bundle is some 150."""
MIN_RSA_BITS = 2_048
"""Envoy refuses shorter ones, as browsers do."""
MAX_RSA_BITS = 8_192
"""BoringSSL takes twice that; a handshake would cost 50 ms of a processor."""
CURVES = ("secp256r1", "secp384r1", "secp521r1")
"""P-256, P-384, P-521: what Envoy loads."""
WEAK_HASHES = ("md5", "sha1")

_PROOF = b"avinet: does this key sign for this certificate?"
_BLOCK = re.compile(r"-----BEGIN ([A-Z0-9 ]{1,64})-----")
_CERTIFICATES = frozenset({"CERTIFICATE", "X509 CERTIFICATE", "TRUSTED CERTIFICATE"})


class PemError(ValueError):
    """What is wrong with a PEM text, in words that repeat nothing of it."""


@attrs.frozen
class CertificateFacts:
    """What a certificate says, as people read it."""

    subject: str
    issuer: str
    names: tuple[str, ...]
    """DNS names and addresses; the common name where there is no subjectAltName."""
    not_before: datetime
    not_after: datetime
    fingerprint: str
    """SHA-256, hexadecimal, in pairs."""
    key_type: str
    """``RSA-2048``, ``EC-secp256r1``."""
    has_alternative_names: bool

    def days_left(self, now: float) -> int:
        """Whole days at ``now`` (UNIX seconds) until it expires; negative after that."""
        return int((self.not_after.timestamp() - now) // DAY_S)


@functools.lru_cache(maxsize=512)
def parse_chain(pem: str) -> tuple[x509.Certificate, ...]:
    """A leaf and its issuers, in the order of the text; ``PemError`` as below."""
    return parse_certificates(pem, MAX_CHAIN)


def parse_certificates(pem: str, most: int) -> tuple[x509.Certificate, ...]:
    """The certificates of a text in their order; ``PemError`` when it has something else, none, or over ``most``."""
    kinds = _BLOCK.findall(pem)
    if any("PRIVATE KEY" in kind for kind in kinds):
        raise PemError("it has a private key in it; that belongs into the field key alone")
    odd = sorted({kind for kind in kinds if kind not in _CERTIFICATES})
    if odd:
        raise PemError(f"it has a {odd[0]} in it; only certificates belong here")
    if not kinds:
        raise PemError("it is not PEM: there is no line -----BEGIN CERTIFICATE----- in it")
    if len(kinds) > most:
        raise PemError(f"it has {len(kinds)} certificates; {most} is the most")
    found: list[x509.Certificate] = []
    starts = [match.start() for match in _BLOCK.finditer(pem)]
    for number, (start, end) in enumerate(zip(starts, [*starts[1:], len(pem)], strict=True), 1):
        try:
            found.append(x509.load_pem_x509_certificate(pem[start:end].encode()))
        except (ValueError, UnsupportedAlgorithm) as why:
            raise PemError(f"certificate {number} cannot be read; it may be cut off or not X.509") from why
    return tuple(found)


@functools.lru_cache(maxsize=2_048)
def facts_of(pem: str) -> CertificateFacts:
    """Of the first certificate of a text; ``PemError`` when it cannot be read."""
    return facts_of_certificate(parse_chain(pem)[0])


def facts_of_certificate(certificate: x509.Certificate) -> CertificateFacts:
    """Of one certificate; ``PemError`` when its parts cannot be read."""
    try:
        names = _names(certificate)
        return CertificateFacts(
            subject=certificate.subject.rfc4514_string(),
            issuer=certificate.issuer.rfc4514_string(),
            names=names or _common_names(certificate),
            not_before=certificate.not_valid_before_utc.replace(tzinfo=UTC),
            not_after=certificate.not_valid_after_utc.replace(tzinfo=UTC),
            fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper(),
            key_type=key_type(certificate.public_key()),
            has_alternative_names=bool(names),
        )
    except (ValueError, UnsupportedAlgorithm, x509.DuplicateExtension) as why:
        raise PemError("its fields cannot be read") from why


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    except x509.ExtensionNotFound:
        return ()
    found: list[str] = []
    for name in extension.value:
        if isinstance(name, x509.DNSName):
            found.append(name.value.lower())
        elif isinstance(name, x509.IPAddress) and isinstance(name.value, IPv4Address | IPv6Address):
            found.append(str(name.value))
    return tuple(found)


def _common_names(certificate: x509.Certificate) -> tuple[str, ...]:
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    return tuple(str(attribute.value).lower() for attribute in found)


def key_type(key: CertificatePublicKeyTypes) -> str:
    """``RSA-2048``, ``EC-secp384r1``, or the name of another kind."""
    if isinstance(key, rsa.RSAPublicKey):
        return f"RSA-{key.key_size}"
    if isinstance(key, ec.EllipticCurvePublicKey):
        return f"EC-{key.curve.name}"
    return type(key).__name__.lstrip("_").removesuffix("PublicKey")


def parse_key(pem: str) -> PrivateKeyTypes:
    """A private key; ``PemError`` when it is none, or needs a passphrase."""
    kinds = _BLOCK.findall(pem)
    if "OPENSSH PRIVATE KEY" in kinds:
        raise PemError("it is a key of OpenSSH; TLS needs PKCS#8: ssh-keygen -p -m PKCS8 -f KEYFILE")
    if not any("PRIVATE KEY" in kind for kind in kinds):
        raise PemError("it is not a private key in PEM: there is no line -----BEGIN PRIVATE KEY----- in it")
    if "ENCRYPTED PRIVATE KEY" in kinds or "Proc-Type: 4,ENCRYPTED" in pem:
        raise PemError("it is encrypted, and nobody can be asked: openssl pkey -in KEYFILE -out PLAIN.pem")
    try:
        # Without the test of its primes, which takes 0.25 s with 4,096 bits: ``same_key`` signs with it instead.
        return load_pem_private_key(pem.encode(), None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Not even as the cause: what such an exception says of the text is not ours to know.
        raise PemError("it cannot be read; it may be cut off or damaged") from None


def same_key(certificate: x509.Certificate, key: PrivateKeyTypes) -> bool:
    """Whether ``key`` is the private half of the certificate's key, and works."""
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    try:
        public = certificate.public_key()
        if key.public_key().public_bytes(*form) != public.public_bytes(*form):
            return False
        if isinstance(key, rsa.RSAPrivateKey) and isinstance(public, rsa.RSAPublicKey):
            signature = key.sign(_PROOF, PKCS1v15(), hashes.SHA256())
            public.verify(signature, _PROOF, PKCS1v15(), hashes.SHA256())
    except (ValueError, UnsupportedAlgorithm, InvalidSignature, InternalError):
        return False
    return True


def signs(issuer: x509.Certificate, subject: x509.Certificate) -> bool:
    """Whether ``issuer`` bears the name that ``subject`` gives, and made its signature."""
    try:
        subject.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def weak_hash(certificate: x509.Certificate) -> str:
    """The hash of its signature when that can be forged; empty when not."""
    try:
        algorithm = certificate.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return ""
    return algorithm.name if algorithm is not None and algorithm.name in WEAK_HASHES else ""
