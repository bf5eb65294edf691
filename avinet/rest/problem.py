"""Errors as HTTP answers: RFC 9457 problem details, and the one table from ``Kind`` to status.

The body is ``{"type", "title", "status", "detail", "reason", ...facts}``.  ``reason`` is the error's stable word
and ``type`` is a URN made of it; ``detail`` is the sentence for a person; the facts are the error's attributes,
left out where they would hide one of the five.  An error class that needs another status than its kind's says so
by a class attribute ``http_status`` (428 beside 412, say); an attribute ``retry_after_s`` becomes ``Retry-After``.
"""

import json
import math
from http import HTTPStatus
from typing import Any, ClassVar, cast

import attrs
import msgspec

from avinet.errors import AvinetError, Kind, error

PROBLEM_TYPE = "application/problem+json"
PAGES_ASK = frozenset({"session-ended"})
"""Reasons of a 401 that are told to a page that logs in by a form."""
_RESERVED = frozenset({"type", "title", "status", "detail", "reason"})

STATUS_OF_KIND: dict[Kind, int] = {
    Kind.INVALID: 400,
    Kind.DENIED: 403,
    Kind.NOT_FOUND: 404,
    Kind.GONE: 410,
    Kind.CONFLICT: 409,
    Kind.PRECONDITION: 412,
    Kind.TOO_LARGE: 413,
    Kind.LIMITED: 429,
    Kind.UNAVAILABLE: 503,
    Kind.NO_SPACE: 507,
    Kind.TIMEOUT: 504,
    Kind.INTERNAL: 500,
}


@error
class NoSuchPathError(AvinetError):
    """There is nothing at {path}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    path: str


@error
class MethodNotAllowedError(AvinetError):
    """{path} does not answer {method}; it answers {allowed}."""

    kind: ClassVar[Kind] = Kind.INVALID
    http_status: ClassVar[int] = 405
    path: str
    method: str
    allowed: str


@error
class BodyTooLargeError(AvinetError):
    """The request's body is too large; {limit} bytes is the most that is accepted here."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    limit: int


@error
class TooManyBodiesError(AvinetError):
    """{limit} requests with large bodies are under way. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    limit: int
    retry_after_s: float


@error
class MediaTypeError(AvinetError):
    """The request's body is declared as {got}; send {wanted}."""

    kind: ClassVar[Kind] = Kind.INVALID
    http_status: ClassVar[int] = 415
    got: str
    wanted: str


@error
class InvalidBodyError(AvinetError):
    """The request's body is wrong at {where}: {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    where: str
    """A path such as ``servers[0].port``, or ``the top``."""
    what: str


@error
class InvalidQueryError(AvinetError):
    """The query is wrong at {where}: {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    where: str
    what: str


@error
class MalformedRequestError(AvinetError):
    """The request is not HTTP as we speak it: {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str


@error
class TargetTooLongError(AvinetError):
    """The request's first line is longer than {limit} bytes. What is long goes in a body, where there is a POST for it."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    http_status: ClassVar[int] = 414
    limit: int


@error
class SlowRequestError(AvinetError):
    """The request did not arrive within {limit_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    http_status: ClassVar[int] = 408
    limit_s: float


@error
class SlowAnswerError(AvinetError):
    """There was no answer within {limit_s:.0f} s; what was asked for may still happen."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    limit_s: float


@error
class UnauthenticatedError(AvinetError):
    """This needs a login: {what}."""

    kind: ClassVar[Kind] = Kind.DENIED
    http_status: ClassVar[int] = 401
    what: str


@error
class UnexpectedError(AvinetError):
    """Something went wrong inside avinet. The controller's log has the details under {incident}."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    incident: str


@attrs.frozen
class Problem:
    """One error, ready to be answered."""

    status: int
    reason: str
    detail: str
    facts: dict[str, Any] = attrs.field(factory=dict)
    retry_after_s: float | None = None

    def body(self) -> bytes:
        """The JSON document."""
        fields = {
            "type": f"urn:avinet:problem:{self.reason}",
            "title": HTTPStatus(self.status).phrase,
            "status": self.status,
            "detail": self.detail,
            "reason": self.reason,
        }
        whole = fields | self.facts
        try:
            return msgspec.json.encode(whole, enc_hook=str)
        except UnicodeEncodeError:
            # Half of a character that the request had in it: every error must have an answer.
            return json.dumps(whole, default=str).encode()

    def headers(self) -> dict[str, str]:
        """The header fields that go with it."""
        headers = {"Content-Type": PROBLEM_TYPE}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(max(0, math.ceil(self.retry_after_s)))
        if self.status == HTTPStatus.UNAUTHORIZED:
            # A browser that meets Basic asks by a window of its own; who came with a cookie has a page for that.
            basic = 'Basic realm="avinet", charset="UTF-8", '
            headers["WWW-Authenticate"] = f'{"" if self.reason in PAGES_ASK else basic}Bearer realm="avinet"'
        return headers


def status_of(problem: AvinetError) -> int:
    """The HTTP status for an error."""
    status: int = getattr(problem, "http_status", STATUS_OF_KIND[problem.kind])
    return status


def problem_of(problem: AvinetError) -> Problem:
    """``problem`` as an answer."""
    facts = {
        field.name: getattr(problem, field.name)
        for field in attrs.fields(cast("type[attrs.AttrsInstance]", type(problem)))
        if field.name not in _RESERVED and field.repr
    }
    return Problem(
        status=status_of(problem),
        reason=problem.reason,
        detail=str(problem),
        facts=facts,
        retry_after_s=facts.get("retry_after_s"),
    )
