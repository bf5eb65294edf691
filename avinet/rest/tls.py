"""TLS as controllers serve it and SEs check it.

Registration (8443) speaks TLS 1.3 only, with the node certificate under the cluster's root.  The operators' port
takes TLS 1.2 too, for their tools, with AEAD and forward secrecy only, and a certificate of its own.

An SE believes a controller when, each with an error of its own: its certificate chains to the SE's root; it bears
the name ``controller.<cluster>.avinet`` (service-identity decides); its serial is not revoked; it is one of the
membership list's, by fingerprint; and its dates hold.  Dates only warn once an SE has enrolled, since a clock
that is wrong by years must not brick it: by then the list, whose number only rises, says what is current.  The
list itself is asked for with ``listed=False``: a controller that the SE has not heard of yet may hand out the
next list, which bears the root's signature.  No session is resumed and no ticket issued, so every connection is
checked; a handshake is cheap here.
"""

from typing import Any, ClassVar, Literal, cast

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from OpenSSL import SSL, crypto
from service_identity import VerificationError
from service_identity.pyopenssl import verify_hostname
from twisted.internet.interfaces import IOpenSSLClientConnectionCreator, IOpenSSLServerConnectionCreator
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOProtocol
from twisted.python.failure import Failure
from twisted.web.iweb import IPolicyForHTTPS
from zope.interface import implementer

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ClusterId, controller_dns_name
from avinet.model.membership import Membership

Dates = Literal["strict", "warn"]

API_CIPHERS_TLS12 = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""Mozilla's intermediate profile without finite-field DH; TLS 1.3 has a list of its own."""
_DATE_ERRORS = frozenset({9, 10})
"""X509_V_ERR_CERT_NOT_YET_VALID and X509_V_ERR_CERT_HAS_EXPIRED (openssl/x509_vfy.h)."""

_log = Logger()


@error
class CertificateForeignError(AvinetError):
    """The controller's certificate {subject} does not come from this cluster's root: {detail}. Check the address: another cluster, or something in between, answers there."""

    kind: ClassVar[Kind] = Kind.DENIED
    subject: str
    detail: str


@error
class CertificateDatesError(AvinetError):
    """The controller's certificate {subject} is valid from {not_before} to {not_after}, which is not now: {detail}. Check this machine's clock and the controller's certificate."""

    kind: ClassVar[Kind] = Kind.DENIED
    subject: str
    not_before: str
    not_after: str
    detail: str


@error
class CertificateNameError(AvinetError):
    """The controller's certificate {subject} does not bear the name {wanted}: it is another cluster's, or no controller's."""

    kind: ClassVar[Kind] = Kind.DENIED
    subject: str
    wanted: str


@error
class CertificateRevokedError(AvinetError):
    """The controller's certificate {subject} with serial number {serial} was revoked by the membership list {number}."""

    kind: ClassVar[Kind] = Kind.DENIED
    subject: str
    serial: str
    number: int


@error
class CertificateUnlistedError(AvinetError):
    """The controller's certificate {subject} is not in the membership list {number}. The list may be older than the controller."""

    kind: ClassVar[Kind] = Kind.DENIED
    subject: str
    number: int


@error
class CertificateUnusableError(AvinetError):
    """The certificate and the key of this controller cannot serve TLS: {detail}."""

    detail: str


@implementer(IOpenSSLServerConnectionCreator)
class ServerOptions:
    """Makes the server side of connections from one context."""

    def __init__(self, context: SSL.Context) -> None:
        self._context = context

    def serverConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """One connection."""
        return SSL.Connection(self._context, None)

    def use(self, other: "ServerOptions") -> None:
        """From the next connection on, be as ``other``: a certificate was renewed."""
        self._context = other._context  # noqa: SLF001 - of the same class


def node_context_factory(key_pem: bytes, certificate_pem: bytes) -> ServerOptions:
    """The registration surface: TLS 1.3 and nothing else."""
    return ServerOptions(_server_context(key_pem, certificate_pem, SSL.TLS1_3_VERSION))


def api_context_factory(key_pem: bytes, certificate_pem: bytes) -> ServerOptions:
    """The operators' surface: TLS 1.2 and 1.3; ``certificate_pem`` may be followed by its chain."""
    context = _server_context(key_pem, certificate_pem, SSL.TLS1_2_VERSION)
    context.set_cipher_list(API_CIPHERS_TLS12)
    return ServerOptions(context)


def controller_client_options(
    root_pem: bytes | str,
    cluster: ClusterId,
    membership: Membership | None,
    *,
    dates: Dates = "strict",
    listed: bool = True,
) -> "ControllerClientOptions":
    """How an SE checks the controllers of its cluster."""
    root = x509.load_pem_x509_certificate(root_pem.encode() if isinstance(root_pem, str) else root_pem)
    controllers = membership.controllers if membership else ()
    fingerprints = frozenset(
        x509.load_pem_x509_certificate(c.node_certificate.encode()).fingerprint(hashes.SHA256())
        for c in controllers
    )
    revoked = frozenset(int(serial, 16) for serial in (membership.revoked_serials if membership else ()))
    expected = Expected(
        name=controller_dns_name(cluster),
        number=membership.number if membership else 0,
        fingerprints=fingerprints if listed else None,
        revoked=revoked,
        dates=dates,
    )
    return ControllerClientOptions(root, expected)


@attrs.frozen(kw_only=True)
class Expected:
    """What a controller's certificate must be, beside chaining to the root."""

    name: str
    number: int
    """The membership list's."""
    fingerprints: frozenset[bytes] | None
    """SHA-256 of the listed certificates; None to accept unlisted ones."""
    revoked: frozenset[int]
    dates: Dates

    def check(self, certificate: x509.Certificate) -> None:
        """Raise what is wrong with a certificate whose chain and name hold."""
        subject = certificate.subject.rfc4514_string()
        if certificate.serial_number in self.revoked:
            raise CertificateRevokedError(
                subject=subject, serial=f"{certificate.serial_number:x}", number=self.number
            )
        if (
            self.fingerprints is not None
            and certificate.fingerprint(hashes.SHA256()) not in self.fingerprints
        ):
            raise CertificateUnlistedError(subject=subject, number=self.number)


@implementer(IOpenSSLClientConnectionCreator)
class ControllerClientOptions:
    """Makes the SE's side of connections to controllers; what is wrong ends the connection with its reason."""

    def __init__(self, root: x509.Certificate, expected: Expected) -> None:
        self._expected = expected
        self._context = context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_min_proto_version(SSL.TLS1_3_VERSION)
        context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
        store = context.get_cert_store()
        if store is None:
            raise CertificateUnusableError(detail="OpenSSL made a context without a store")
        store.add_cert(crypto.X509.from_cryptography(root))
        context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, self._chain_checked)
        context.set_info_callback(self._progressed)

    def clientConnectionForTLS(self, tlsProtocol: TLSMemoryBIOProtocol) -> SSL.Connection:
        """One connection, which asks for the cluster's name whatever address it goes to."""
        connection = SSL.Connection(self._context, None)
        connection.set_app_data(tlsProtocol)
        connection.set_tlsext_host_name(self._expected.name.encode("ascii"))
        connection.set_connect_state()
        return connection

    def _chain_checked(
        self, connection: SSL.Connection, certificate: crypto.X509, code: int, depth: int, ok: int
    ) -> bool:
        if ok:
            return True
        found = certificate.to_cryptography()
        subject = found.subject.rfc4514_string()
        detail = _reason_of(code)
        if code in _DATE_ERRORS:
            wrong: AvinetError = CertificateDatesError(
                subject=subject,
                not_before=found.not_valid_before_utc.isoformat(),
                not_after=found.not_valid_after_utc.isoformat(),
                detail=detail,
            )
            if self._expected.dates == "warn":
                _log.warn("believing it all the same: {why}", why=str(wrong))
                return True
        else:
            wrong = CertificateForeignError(subject=subject, detail=detail)
        _fail(connection, wrong)
        return False

    def _progressed(self, connection: SSL.Connection, where: int, result: int) -> None:
        if where & SSL.SSL_CB_HANDSHAKE_DONE:
            try:
                self._check(connection)
            except Exception as why:  # noqa: BLE001 - OpenSSL's C code calls this: an exception would be dropped
                _fail(connection, why)

    def _check(self, connection: SSL.Connection) -> None:
        peer = connection.get_peer_certificate(as_cryptography=True)
        if peer is None:
            raise CertificateForeignError(subject="", detail="it showed none")
        try:
            verify_hostname(connection, self._expected.name)
        except VerificationError as why:
            raise CertificateNameError(
                subject=peer.subject.rfc4514_string(), wanted=self._expected.name
            ) from why
        self._expected.check(peer)


@implementer(IPolicyForHTTPS)
class ControllerPolicy:
    """The same check for ``twisted.web.client.Agent`` and treq, whatever host the URL names."""

    def __init__(self, options: ControllerClientOptions) -> None:
        self._options = options

    def creatorForNetloc(self, hostname: bytes, port: int) -> ControllerClientOptions:
        """The options; they do not depend on the address."""
        return self._options


def _server_context(key_pem: bytes, certificate_pem: bytes, oldest: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(oldest)
    context.set_options(
        SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_TICKET | SSL.OP_CIPHER_SERVER_PREFERENCE
    )
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_alpn_select_callback(_only_http11)
    try:
        certificate, *chain = x509.load_pem_x509_certificates(certificate_pem)
        context.use_certificate(certificate)
        for link in chain:
            context.add_extra_chain_cert(link)
        context.use_privatekey(cast(Any, load_pem_private_key(key_pem, password=None)))
        context.check_privatekey()
    except (ValueError, TypeError, SSL.Error) as why:
        raise CertificateUnusableError(detail=str(why) or "they do not belong together") from why
    return context


def _only_http11(connection: SSL.Connection, offered: list[bytes]) -> Any:
    return b"http/1.1" if b"http/1.1" in offered else SSL.NO_OVERLAPPING_PROTOCOLS


def _reason_of(code: int) -> str:
    words = {
        9: "it is not valid yet",
        10: "it has expired",
        18: "it is signed by itself",
        19: "its chain ends in another root",
        20: "its issuer is unknown",
        21: "its issuer is unknown",
    }
    return words.get(code, f"OpenSSL's verification error {code}")


def _fail(connection: SSL.Connection, why: Exception) -> None:
    transport = cast(TLSMemoryBIOProtocol, connection.get_app_data())
    transport.failVerification(Failure(why))
