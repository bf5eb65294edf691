"""HTTP to etcd's JSON gateway: one POST, whose answer comes in pieces, over mutual TLS.

treq keeps the requests, this module the bounds: an answer's head has a limit, redirects, cookies and compressed
bodies are none of etcd's and are not taken, and giving a request up aborts its connection, since a peer that has
stopped would otherwise keep it open by not answering TLS's goodbye.
"""

from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Protocol, cast
from urllib.parse import urlsplit

import attrs
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import HostnameEndpoint, wrapClientTLS
from twisted.internet.interfaces import (
    IOpenSSLClientConnectionCreator,
    IProtocol,
    IProtocolFactory,
    IStreamClientEndpoint,
)
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.internet.ssl import (
    Certificate,
    KeyPair,
    PrivateCertificate,
    optionsForClientTLS,
    trustRootFromCertificates,
)
from twisted.protocols.policies import ProtocolWrapper, WrappingFactory
from twisted.python.failure import Failure
from twisted.web.client import URI, Agent, HTTPConnectionPool, ResponseDone
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgent, IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from avinet.store.interface import StoreUnavailableError

CONNECT_TIMEOUT_S = 5.0
"""The request's own time limit is shorter; this only keeps a dial from outliving it for long."""
IDLE_CONNECTION_S = 60
"""Go's servers close idle connections later or never; a closed one costs one more attempt."""
MAX_HEAD_BYTES = 64 * 1024
"""Of an answer; etcd's are below 400 bytes."""


@attrs.frozen
class EtcdAccess:
    """Where etcd is and who we are to it."""

    endpoints: tuple[str, ...]
    """URLs of the gateway, the nearest first: ``https://127.0.0.1:2379``.  Without TLS on loopback only."""
    ca_file: Path | None = None
    """PEM; the only authority that is believed (or authorities, while one replaces the other)."""
    certificate_file: Path | None = None
    """PEM, without a common name: etcd's gateway refuses who has one, since it is not the user that it names."""
    key_file: Path | None = None
    user: str = ""
    """Empty: no password is asked for."""
    password_file: Path | None = None
    namespace: str = ""
    """Put before every key, so that an etcd can be shared; the user needs all rights on what begins with it."""
    timeout_s: float = 5.0
    """For one operation, whatever fails meanwhile: etcd's elections take 1 to 2 s."""


class GatewayHttp(Protocol):
    """What the gateway's client needs of HTTP."""

    def post(self, url: str, token: str, body: bytes, on_piece: Callable[[bytes], None]) -> Deferred[int]:
        """Fires with the status when the answer has ended; cancelling aborts.  What ``on_piece`` raises fails it."""

    def close(self) -> Deferred[None]:
        """Let go of every connection."""


class TreqHttp:
    """``GatewayHttp`` on a reactor."""

    def __init__(self, reactor: Any, access: EtcdAccess) -> None:
        for url in access.endpoints:
            _check_url(url)
        self._pool = HTTPConnectionPool(reactor, persistent=True)
        self._pool.maxPersistentPerHost = 64  # more than run at once: transactions, reads
        self._pool.cachedConnectionTimeout = IDLE_CONNECTION_S
        self._pool.retryAutomatically = False
        self._agent = _Plain(Agent.usingEndpointFactory(reactor, _Endpoints(reactor, access), self._pool))

    def post(self, url: str, token: str, body: bytes, on_piece: Callable[[bytes], None]) -> Deferred[int]:
        """One request."""
        headers = Headers({"User-Agent": ["avinet"], "Content-Type": ["application/json"]})
        if token:
            headers.setRawHeaders("Authorization", [token])
        # A member cut off from its cluster ends watches by itself when it is asked so.
        headers.setRawHeaders("Grpc-Metadata-hasleader", ["true"])
        return Deferred.fromCoroutine(self._post(url, headers, body, on_piece))

    def close(self) -> Deferred[None]:
        """Let go of every connection."""
        return cast("Deferred[None]", self._pool.closeCachedConnections())

    async def _post(self, url: str, headers: Headers, body: bytes, on_piece: Callable[[bytes], None]) -> int:
        # A client a request: it would keep cookies.
        response = await HTTPClient(self._agent).request(
            "POST", url, headers=headers, data=body, unbuffered=True, allow_redirects=False
        )
        if response.length:
            await _Body(on_piece).of(response)
        return int(response.code)


def _check_url(url: str) -> None:
    parts = urlsplit(url)
    try:
        local = ip_address(parts.hostname or "").is_loopback
    except ValueError:
        local = False
    if parts.scheme != "https" and not (parts.scheme == "http" and local):
        raise StoreUnavailableError(
            where=url, detail="an endpoint is an https URL; http is for addresses of loopback only"
        )


class _Body(TwistedProtocol):
    """Takes an answer's body, piece by piece."""

    def __init__(self, on_piece: Callable[[bytes], None]) -> None:
        self._on_piece = on_piece
        self._done: Deferred[None] | None = None

    def of(self, response: Any) -> Deferred[None]:
        done: Deferred[None] = Deferred(self._cancelled)
        self._done = done
        response.deliverBody(self)
        return done

    def dataReceived(self, data: bytes) -> None:
        if self._done is None:
            return
        try:
            self._on_piece(data)
        except Exception:  # noqa: BLE001 - whatever it is belongs to who asked
            done, self._done = self._done, None
            self._drop()
            done.errback(Failure())

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        done, self._done = self._done, None
        if done is not None:
            if reason.check(ResponseDone):
                done.callback(None)
            else:
                done.errback(reason)

    def _cancelled(self, done: Deferred[None]) -> None:
        self._done = None
        self._drop()

    def _drop(self) -> None:
        if self.transport is not None:
            self.transport.loseConnection()


@implementer(IAgent)
class _Plain:
    """An agent that takes no compressed body: a few bytes could hold a gigabyte."""

    def __init__(self, agent: IAgent) -> None:
        self._agent = agent

    def request(
        self,
        method: bytes,
        uri: bytes,
        headers: Headers | None = None,
        bodyProducer: IBodyProducer | None = None,
    ) -> Any:
        if headers is not None:
            headers.removeHeader(b"Accept-Encoding")
        return self._agent.request(method, uri, headers, bodyProducer).addCallback(self._checked)

    def _checked(self, response: IResponse) -> IResponse:
        response.headers.removeHeader(
            b"Content-Encoding"
        )  # then treq's decoder leaves it alone, and JSON's fails
        return response


@implementer(IAgentEndpointFactory)
class _Endpoints:
    """Connections as this module wants them."""

    def __init__(self, reactor: Any, access: EtcdAccess) -> None:
        self._reactor = reactor
        self._tls = _Tls(access)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        host = uri.host.decode("ascii")
        endpoint: IStreamClientEndpoint = HostnameEndpoint(
            self._reactor, host, uri.port, timeout=CONNECT_TIMEOUT_S
        )
        if uri.scheme == b"https":
            endpoint = wrapClientTLS(self._tls.options(host), endpoint)
        return _Metered(endpoint)


class _Tls:
    """What is shown and believed; files that were renewed are read again for the next connection."""

    def __init__(self, access: EtcdAccess) -> None:
        self._access = access
        self._state: object = None
        self._options: dict[str, IOpenSSLClientConnectionCreator] = {}

    def options(self, host: str) -> IOpenSSLClientConnectionCreator:
        access = self._access
        files = (access.ca_file, access.certificate_file, access.key_file)
        if any(path is None for path in files):
            raise StoreUnavailableError(
                where=host, detail="https needs an authority, a certificate and a key"
            )
        try:
            found = [path.stat() for path in files if path is not None]
            state = [(one.st_mtime_ns, one.st_ino) for one in found]
            if state != self._state:
                self._options = {}
                self._state = state
            if host not in self._options:
                self._options[host] = _options(
                    host, *[path.read_bytes() for path in files if path is not None]
                )
        except (OSError, ValueError, SSL.Error) as why:
            raise StoreUnavailableError(where=host, detail=f"its TLS files: {why}") from why
        return self._options[host]


def _options(host: str, authority: bytes, certificate: bytes, key: bytes) -> IOpenSSLClientConnectionCreator:
    own = PrivateCertificate.fromCertificateAndKeyPair(Certificate.loadPEM(certificate), KeyPair.load(key, 1))
    # More than one while an authority is being replaced.
    authorities = [one.public_bytes(Encoding.PEM) for one in x509.load_pem_x509_certificates(authority)]
    trust = trustRootFromCertificates([Certificate.loadPEM(one) for one in authorities])
    return optionsForClientTLS(host, trustRoot=trust, clientCertificate=own)


@implementer(IStreamClientEndpoint)
class _Metered:
    """An endpoint whose connections have a bounded head and end at once."""

    def __init__(self, endpoint: IStreamClientEndpoint) -> None:
        self._endpoint = endpoint

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[IProtocol]:
        cast(Any, protocolFactory).noisy = False  # a line for each connection's begin and end
        wrapping = WrappingFactory(cast(Any, protocolFactory))
        wrapping.noisy = False
        wrapping.protocol = _Meter
        connected = self._endpoint.connect(wrapping)
        return connected.addCallback(lambda meter: cast(_Meter, meter).wrappedProtocol)


class _Meter(ProtocolWrapper):
    """Twisted's HTTP client keeps headers without end, and closes politely; this does neither."""

    _head: bytes | None = None
    """Of the answer that is awaited, so far; None once it was whole, since the body's taker counts for itself."""

    def write(self, data: bytes) -> None:
        self._head = b""
        super().write(data)

    def writeSequence(self, data: Any) -> None:
        self._head = b""
        super().writeSequence(data)

    def dataReceived(self, data: bytes) -> None:
        if self._head is not None:
            self._head += data[: MAX_HEAD_BYTES + 1]
            interim = self._head.partition(b" ")[2].startswith(
                b"1"
            )  # none is asked for, and many would be a flood
            if interim or (b"\r\n\r\n" not in self._head and len(self._head) > MAX_HEAD_BYTES):
                self.loseConnection()
                return
            if b"\r\n\r\n" in self._head:
                self._head = None
        super().dataReceived(data)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self.connected = 0
        super().connectionLost(reason)

    def loseConnection(self) -> None:
        self.disconnecting = 1
        # Who keeps connections for later lets go of one that has ended long ago, too.
        if self.connected:
            cast(Any, self.transport).abortConnection()

    def stopProducing(self) -> None:
        self.loseConnection()
