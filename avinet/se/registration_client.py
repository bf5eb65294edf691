"""The SE's HTTPS client of the registration API: one request, one bounded answer, one time limit.

Who the controller is gets checked by the options it is given (``avinet.rest.tls``): the address in
the URL says only where to dial, the certificate must bear the cluster's own name.
"""

from collections.abc import Callable
from typing import ClassVar, Protocol

import attrs
import msgspec
import treq
from treq.client import HTTPClient
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTCP, IReactorTime
from twisted.web.client import Agent
from twisted.web.http_headers import Headers

from avinet.errors import AvinetError, Kind, error
from avinet.rest.tls import ControllerClientOptions, ControllerPolicy
from avinet.wire.registration import ENROL_PATH, MAX_ANSWER_BYTES, MEMBERSHIP_PATH, REQUEST_CONTENT_TYPE

CONNECT_TIMEOUT_S = 10.0
"""As the dial of the secure channel."""
REQUEST_TIMEOUT_S = 30.0
"""The registration timeout of the product that this follows."""


@error
class AnswerTooLargeError(AvinetError):
    """The controller's answer is larger than {limit} bytes."""

    kind: ClassVar[Kind] = Kind.INVALID
    limit: int


@attrs.frozen
class Answer:
    """An HTTP answer, whole."""

    status: int
    body: bytes = attrs.field(repr=False)
    retry_after_s: float | None = None

    def problem_text(self) -> str:
        """What a problem document says to a person; the status where there is none."""
        try:
            problem = msgspec.json.decode(self.body, type=_Problem)
        except msgspec.DecodeError:
            return f"HTTP status {self.status}"
        return problem.detail or f"HTTP status {self.status}"


class _Problem(msgspec.Struct):
    detail: str = ""


class RegistrationHttp(Protocol):
    """What the enroller needs of HTTP; addresses are ``host:port``."""

    def enrol(self, address: str, body: bytes) -> Deferred[Answer]:
        """Send a signed request."""

    def membership(self, address: str) -> Deferred[Answer]:
        """Ask for the membership list."""


@attrs.define(eq=False)
class RegistrationClient:
    """``RegistrationHttp`` over TLS.

    ``options`` makes the checks anew for each connection, told whether the certificate must be in the membership
    list: for the list itself it need not, since a newer list is how a new certificate is learnt.
    """

    reactor: IReactorTCP
    clock: IReactorTime
    options: Callable[[bool], ControllerClientOptions]

    def enrol(self, address: str, body: bytes) -> Deferred[Answer]:
        """``POST /v1/service-engines``."""
        return Deferred.fromCoroutine(self._request("POST", address, ENROL_PATH, body))

    def membership(self, address: str) -> Deferred[Answer]:
        """``GET /v1/membership``."""
        return Deferred.fromCoroutine(self._request("GET", address, MEMBERSHIP_PATH, None))

    async def _request(self, method: str, address: str, path: str, body: bytes | None) -> Answer:
        listed = path != MEMBERSHIP_PATH
        policy = ControllerPolicy(self.options(listed))
        agent = Agent(self.reactor, policy, connectTimeout=CONNECT_TIMEOUT_S)
        headers = Headers({"User-Agent": ["avinet-se"], "Accept": ["application/json, application/jose"]})
        if body is not None:
            headers.setRawHeaders("Content-Type", [REQUEST_CONTENT_TYPE])
        exchange = Deferred.fromCoroutine(
            _exchange(HTTPClient(agent), method, f"https://{address}{path}", headers, body)
        )
        exchange.addTimeout(REQUEST_TIMEOUT_S, self.clock)
        return await exchange


async def _exchange(
    client: HTTPClient, method: str, url: str, headers: Headers, body: bytes | None
) -> Answer:
    response = await client.request(
        method, url, headers=headers, data=body, unbuffered=True, allow_redirects=False
    )
    received = bytearray()

    def collect(piece: bytes) -> None:
        received.extend(piece)
        if len(received) > MAX_ANSWER_BYTES:
            raise AnswerTooLargeError(limit=MAX_ANSWER_BYTES)

    await treq.collect(response, collect)
    waits = response.headers.getRawHeaders("Retry-After", [""])
    return Answer(response.code, bytes(received), _seconds(waits[0]))


def _seconds(text: str) -> float | None:
    """``Retry-After`` as seconds; the form with a date is not believed, since clocks may be wrong."""
    return float(text) if text.isascii() and text.isdigit() else None


def causes(failure: BaseException) -> list[BaseException]:
    """What lies behind a failure of a request; HTTP clients hide TLS errors in lists of reasons."""
    reasons = getattr(failure, "reasons", None)
    if not reasons:
        return [failure]
    return [cause for reason in reasons for cause in causes(reason.value)]
