"""Certificates with their keys, and the profiles of TLS by which virtual services and pools use them."""

import enum
from typing import Annotated, Any

import msgspec

from avinet.model.fields import ChainText, ConfigObject, KeyText


class SslProfile(enum.StrEnum):
    """Versions and ciphers of TLS.  The Avi API has objects of these names; here they are fixed."""

    STANDARD = "System-Standard"
    """TLS 1.2 (ECDHE with AEAD ciphers) and 1.3."""
    MODERN = "System-Modern"
    """TLS 1.3 alone."""


SslProfileRef = Annotated[SslProfile, msgspec.Meta(extra={"named": "sslprofile"})]
"""``named``: a name out of a closed set that API clients write as a reference, ``/api/sslprofile?name=System-Modern``."""


class CertificateText(msgspec.Struct, frozen=True, kw_only=True):
    """The certificate itself."""

    certificate: ChainText
    """PEM: the leaf, then its issuers in order; the root may be left out."""


class SSLKeyAndCertificate(ConfigObject, frozen=True, kw_only=True):
    """A private key and the certificates that go with it.  ``key`` is in no repr and in no answer of the API."""

    certificate: CertificateText
    """The leaf and its chain; a bare PEM text will do."""
    key: KeyText
    """PEM, not encrypted: the leaf's; RSA of 2,048 to 8,192 bits, or EC on P-256, P-384 or P-521."""

    def __repr__(self) -> str:
        return f"SSLKeyAndCertificate(uuid={self.uuid!r}, name={self.name!r})"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """What a traceback of rich shows, which asks this and not ``repr``."""
        return [("uuid", self.uuid), ("name", self.name)]
