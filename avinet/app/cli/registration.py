"""Port 8443 as another controller asks it: by the cluster's name, root and list, wherever it is reached.

Blocking, for the command line and for threads.  What is checked is what SEs check (``avinet.rest.tls``).
"""

import hashlib
import http.client
import io
import socket
import ssl
from collections.abc import Callable, Iterable
from typing import TypeVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from avinet.app.cli.client import Client
from avinet.app.cli.errors import (
    ControllerUnreachableError,
    ControllerUntrustedError,
    RefusedError,
    StrangeAnswerError,
)
from avinet.errors import AvinetError, Kind
from avinet.model.ids import controller_dns_name
from avinet.model.membership import Membership
from avinet.rest.tls import CertificateRevokedError, CertificateUnlistedError
from avinet.wire.joining import JOIN_PATH, MANIFEST_PATH, JoinAnswer
from avinet.wire.registration import MEMBERSHIP_PATH, REQUEST_CONTENT_TYPE

_Answer = TypeVar("_Answer")

JOIN_TIMEOUT_S = 75.0
"""More than the route takes, so that the controller's own error is what is read."""
LIST_TIMEOUT_S = 5.0
"""For one small document; who does not answer within it is asked again soon."""
NOBODY_ADVICE = "Port 8443 ([registration] port there) must be open from here."
_NOT_ITS_WORD = frozenset({Kind.UNAVAILABLE, Kind.TIMEOUT})
"""What one controller could not do another may."""
CHAIN_ADVICE = "Another cluster, or something in between, answers there; or this machine's clock is wrong."


class _Connection(http.client.HTTPSConnection):
    """TLS 1.3 to whoever is one of the cluster's controllers."""

    def __init__(self, place: tuple[str, int], trust: "ClusterTrust", timeout_s: float) -> None:
        super().__init__(place[0], place[1], timeout=timeout_s, context=trust.context)
        self._trust = trust

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        try:
            self.sock = self._trust.context.wrap_socket(raw, server_hostname=self._trust.name)
        except ssl.SSLCertVerificationError as why:
            raw.close()
            raise ControllerUntrustedError(
                place=f"{self.host}:{self.port}", why=why.verify_message.rstrip("."), advice=CHAIN_ADVICE
            ) from why
        except OSError:
            raw.close()
            raise
        try:
            self._trust.check(self.sock.getpeercert(binary_form=True) or b"")
        except AvinetError:
            self.close()
            raise


class ClusterTrust:
    """Whom to believe on 8443: by a list's certificates, or for the list itself by the root alone."""

    def __init__(self, root_pem: str, membership: Membership) -> None:
        self.name = controller_dns_name(membership.cluster)
        self.context = ssl.create_default_context(cadata=root_pem)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_3
        self._number = membership.number
        self._revoked = frozenset(membership.revoked_serials)
        self._fingerprints = frozenset(
            x509.load_pem_x509_certificate(c.node_certificate.encode()).fingerprint(hashes.SHA256())
            for c in membership.controllers
        )
        self._listed = True

    def unlisted(self) -> "ClusterTrust":
        """Believe who is not in the list, yet: a newer list, which the root has signed, may say so."""
        self._listed = False
        return self

    def check(self, certificate: bytes) -> None:
        """Raise for a certificate that chains to the root and is still not to be believed."""
        found = x509.load_der_x509_certificate(certificate)
        subject = found.subject.rfc4514_string()
        serial = f"{found.serial_number:x}"
        if serial in self._revoked:
            raise CertificateRevokedError(subject=subject, serial=serial, number=self._number)
        if self._listed and hashlib.sha256(certificate).digest() not in self._fingerprints:
            raise CertificateUnlistedError(subject=subject, number=self._number)

    def client(self, address: str, timeout_s: float) -> Client:
        """The registration API at ``host:port``."""
        host, _, port = address.rpartition(":")
        place = (host.strip("[]"), int(port))
        return Client(
            address,
            lambda limit_s: _Connection(place, self, limit_s),
            timeout_s=timeout_s,
            advice=NOBODY_ADVICE,
        )


def ask_to_join(trust: ClusterTrust, addresses: Iterable[str], body: bytes) -> JoinAnswer:
    """Send a controller's request to one after another, until one answers for the cluster."""

    def ask(client: Client) -> JoinAnswer:
        answer = client.post(JOIN_PATH, raw=body, content_type=REQUEST_CONTENT_TYPE)
        try:
            return msgspec.convert(answer, JoinAnswer)
        except msgspec.ValidationError as why:
            raise StrangeAnswerError(place=client.place, why=str(why)) from why

    return _first(trust, addresses, ask)


def ask_for_signature(trust: ClusterTrust, addresses: Iterable[str], body: bytes) -> str:
    """The root's signature of an image's manifest."""

    def ask(client: Client) -> str:
        out = io.BytesIO()
        client.send(MANIFEST_PATH, body, REQUEST_CONTENT_TYPE, out)
        return out.getvalue().decode("ascii", "replace")

    return _first(trust, addresses, ask)


def _first(trust: ClusterTrust, addresses: Iterable[str], ask: Callable[[Client], _Answer]) -> _Answer:
    """What the first answers that is asked and can; a refusal is an answer."""
    failure: AvinetError = ControllerUnreachableError(place="none", why="none is named", advice=NOBODY_ADVICE)
    for address in addresses:
        try:
            return ask(trust.client(address, JOIN_TIMEOUT_S))
        except AvinetError as why:
            if isinstance(why, RefusedError) and why.answered_kind not in _NOT_ITS_WORD:
                raise
            failure = why
    raise failure


def fetch_list(trust: ClusterTrust, address: str) -> str:
    """The membership list that a controller hands out; the root's signature is the reader's to check."""
    return trust.client(address, LIST_TIMEOUT_S).text(MEMBERSHIP_PATH)
