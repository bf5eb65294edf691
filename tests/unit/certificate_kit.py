"""Certificates and keys for tests, made in a moment; EC on P-256 unless said otherwise."""

import functools
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.unit.config_kit import NOW

START = datetime.fromtimestamp(NOW, UTC)


@functools.cache
def key(number=0):
    """One of some keys."""
    return ec.generate_private_key(ec.SECP256R1())


@functools.cache
def rsa_key(bits):
    return rsa.generate_private_key(65537, bits)


def key_pem(private, password=None, form=PrivateFormat.PKCS8):
    encryption = NoEncryption() if password is None else BestAvailableEncryption(password)
    return private.private_bytes(Encoding.PEM, form, encryption).decode()


def certificate(name="www.example", *, private=None, issuer=None, signer=None, days=(-1, 90), names=None):
    """A certificate; self-signed unless ``issuer`` (a name) and ``signer`` (its key) are given."""
    private = private or key()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, issuer)]) if issuer else subject)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(START + timedelta(days=days[0]))
        .not_valid_after(START + timedelta(days=days[1]))
    )
    if names != []:
        alternative = [x509.DNSName(one) for one in names or [name]]
        builder = builder.add_extension(x509.SubjectAlternativeName(alternative), critical=False)
    algorithm = None if not hasattr(signer or private, "key_size") else hashes.SHA256()
    return builder.sign(signer or private, algorithm).public_bytes(Encoding.PEM).decode()


def chain():
    """Leaf, intermediate and root, of keys 0, 1 and 2."""
    leaf = certificate("www.example", issuer="Middle", signer=key(1))
    middle = certificate("Middle", private=key(1), issuer="Root", signer=key(2))
    return leaf, middle, certificate("Root", private=key(2))


def key_and_certificate(name="tls", pem=None, private=None, **more):
    """A document."""
    return {
        "kind": "SSLKeyAndCertificate",
        "name": name,
        "certificate": {"certificate": pem or certificate()},
        "key": key_pem(private or key()),
        **more,
    }
