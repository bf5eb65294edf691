"""The router: from a twisted.web request to a route's handler and back, every check on the way by the table.

Checks run cheapest first: path, method, who is calling, query, media type, body.  Whatever is wrong is answered
as problem+json (``avinet.rest.problem``).  A handler's ``AvinetError`` becomes its problem; any other exception
becomes a 500 that names an incident, whose traceback goes to the log alone.  Body size is checked twice: by
``avinet.rest.site`` while the body arrives, which is what bounds memory, and here, for Sites that are not ours.
"""

import re
import uuid
from collections.abc import Awaitable, Callable, Iterable
from typing import Any
from urllib.parse import parse_qsl, unquote

import attrs
import msgspec
from twisted.internet.defer import CancelledError, Deferred, TimeoutError  # noqa: A004 - Twisted's own name
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET
from twisted.web.server import Request as WebRequest

from avinet.errors import AvinetError, LocalProtocolError
from avinet.rest.openapi import Info, openapi
from avinet.rest.problem import (
    BodyTooLargeError,
    InvalidBodyError,
    InvalidQueryError,
    MalformedRequestError,
    MediaTypeError,
    MethodNotAllowedError,
    NoSuchPathError,
    SlowAnswerError,
    UnauthenticatedError,
    UnexpectedError,
    problem_of,
)
from avinet.rest.route import Auth, Caller, Request, Response, Route, parameter_of
from avinet.units import KIB

__all__ = ["Auth", "Caller", "Info", "Request", "Response", "Route", "Router", "nobody", "openapi"]

Authenticate = Callable[[Caller], Awaitable[str]]
"""Names the caller, or raises ``UnauthenticatedError`` or another ``AvinetError``."""

UNROUTED_BODY_BYTES = 64 * KIB
"""As most routes take; clients send a body with a wrong path as with a right one."""

_AT = re.compile(r" - at `(?:key in )?\$(?P<path>.*)`$")
_READS = frozenset({"GET", "HEAD"})
_ALWAYS = {
    "Cache-Control": "no-store",  # answers are facts of this moment, some of them secret
    "X-Content-Type-Options": "nosniff",
    "Server": "avinet",
}


async def nobody(caller: Caller) -> str:
    """The ``authenticate`` of a surface without logins."""
    raise UnauthenticatedError(what="and this surface has none")


class Router(Resource):
    """The resource at the root of a Site."""

    isLeaf = True
    _log = Logger()

    def __init__(
        self, routes: Iterable[Route], clock: IReactorTime, *, authenticate: Authenticate = nobody
    ) -> None:
        super().__init__()
        self._clock = clock
        self._authenticate = authenticate
        self._table: dict[tuple[str, ...], dict[str, Route]] = {}
        for route in routes:
            pattern = tuple("{}" if parameter_of(s) else s for s in route.segments)
            methods = self._table.setdefault(pattern, {})
            if route.method in methods:
                raise LocalProtocolError(
                    protocol="REST", detail=f"two routes for {route.method} {route.path}"
                )
            methods[route.method] = route

    def body_limit(self, method: str, target: str) -> int:
        """How many bytes of body a request may bring, known from its first line.

        One that no route takes may bring a small one all the same: it is refused for what it is, not for its size.
        """
        try:
            return self._find(method, target)[0].body_bytes
        except AvinetError:
            return UNROUTED_BODY_BYTES

    def render(self, request: WebRequest) -> int:
        """Answer in time; twisted.web calls this when the whole request is there."""
        answer = Deferred.fromCoroutine(self._answer(request))

        def gone(reason: object) -> None:
            # Nobody waits any more.  A read stops; a write is let finish, since half of it may be done.
            if _text(request.method) in _READS:
                answer.cancel()

        request.notifyFinish().addErrback(gone)
        return NOT_DONE_YET

    async def _answer(self, request: WebRequest) -> None:
        try:
            response = _encoded(await self._respond(request))
        except CancelledError:
            return
        except AvinetError as error:
            response = problem_response(error)
        except Exception:  # noqa: BLE001 - the edge: a defect of ours must not become a hanging request
            incident = f"incident-{uuid.uuid4()}"
            self._log.failure(
                "{incident}: {method} {path} failed",
                incident=incident,
                method=_text(request.method),
                path=_text(request.path),
            )
            response = problem_response(UnexpectedError(incident=incident))
        if not request._disconnected and not request.finished:  # noqa: SLF001 - twisted.web has no public word for it
            await self._send(request, response)

    async def _respond(self, web: WebRequest) -> Response:
        method, target = _text(web.method), _text(web.uri)
        if method == "OPTIONS":
            _, methods, _ = self._methods(target)
            return Response(status=204, headers={"Allow": _allowed(methods)})
        route, path, params = self._find(method, target)
        headers = {
            _text(name).lower(): values[0].decode("utf-8", "replace")
            for name, values in web.requestHeaders.getAllRawHeaders()
        }
        peer = getattr(web.getClientAddress(), "host", "")
        principal = None
        if route.auth is Auth.OPERATOR:
            principal = await self._authenticate(
                Caller(peer=peer, authorization=headers.get("authorization"))
            )
        request = Request(
            method=method,
            path=path,
            params=params,
            query=_decode_query(route, target),
            body=_decode_body(route, web, headers.get("content-type", "")),
            headers=headers,
            peer=peer,
            principal=principal,
        )
        handling = Deferred.fromCoroutine(_await(route.handler(request)))
        if method not in _READS:
            # As when its client leaves: a write is let finish, since half of it may be done.  Only the answer goes.
            handling = self._apart(handling, route)
        handling.addTimeout(route.timeout_s, self._clock)
        try:
            return await handling
        except TimeoutError as why:
            raise SlowAnswerError(limit_s=route.timeout_s) from why

    def _apart(self, handling: Deferred[Response], route: Route) -> Deferred[Response]:
        """The same outcome in a Deferred of its own, whose cancelling does not reach the handler."""
        answer: Deferred[Response] = Deferred()

        def failed(why: Failure) -> None:
            if answer.called:
                self._log.failure("{method} {path} failed late", why, method=route.method, path=route.path)
            else:
                answer.errback(why)

        handling.addCallbacks(lambda response: None if answer.called else answer.callback(response), failed)
        return answer

    def _find(self, method: str, target: str) -> tuple[Route, str, dict[str, str]]:
        path, methods, values = self._methods(target)
        route = methods.get(method) or (methods.get("GET") if method == "HEAD" else None)
        if route is None:
            raise MethodNotAllowedError(path=path, method=method, allowed=_allowed(methods))
        return route, path, dict(zip(route.parameter_names, values, strict=True))

    def _methods(self, target: str) -> tuple[str, dict[str, Route], list[str]]:
        raw = target.split("?", 1)[0]
        try:
            segments = [unquote(segment, errors="strict") for segment in raw.split("/")[1:]]
        except UnicodeDecodeError as why:
            raise MalformedRequestError(what="its path is not UTF-8") from why
        for pattern, methods in self._table.items():
            if len(pattern) == len(segments) and all(
                segment if part == "{}" else part == segment
                for part, segment in zip(pattern, segments, strict=True)
            ):
                values = [s for part, s in zip(pattern, segments, strict=True) if part == "{}"]
                return raw, methods, values
        raise NoSuchPathError(path=raw)

    async def _send(self, request: WebRequest, response: Response) -> None:
        request.setResponseCode(response.status)
        for name, value in {**_ALWAYS, **response.headers}.items():
            request.setHeader(name, value)
        request.defaultContentType = None
        head = request.method == b"HEAD"
        if response.streamed:
            request.setHeader("Content-Type", response.content_type)
            if not head:
                await self._stream(request, response.body)
                return
            request.finish()
            return
        body = b""
        if response.body is not None:
            body = response.body
            if "Content-Type" not in response.headers:
                request.setHeader("Content-Type", response.content_type)
        if response.status != 204:
            request.setHeader("Content-Length", str(len(body)))
        if body and not head:
            request.write(body)
        request.finish()

    async def _stream(self, request: WebRequest, producer: Any) -> None:
        if isinstance(producer.length, int):
            request.setHeader("Content-Length", str(producer.length))
        request.notifyFinish().addErrback(lambda reason: producer.stopProducing())
        try:
            await producer.startProducing(request)
        except CancelledError:
            return
        except Exception:  # noqa: BLE001 - the status is on its way already: cutting is the only sign left
            self._log.failure("streaming {path} failed", path=_text(request.path))
            request.loseConnection()
            return
        if not request._disconnected:  # noqa: SLF001 - as above
            request.finish()


def problem_response(error: AvinetError) -> Response:
    """An error as a response."""
    problem = problem_of(error)
    headers = problem.headers()
    if isinstance(error, MethodNotAllowedError):
        headers["Allow"] = error.allowed
    return Response(status=problem.status, body=problem.body(), headers=headers)


def _encoded(response: Response) -> Response:
    """The same with its body as bytes, before a byte is sent: what cannot be encoded is a defect to answer for."""
    if response.body is None or response.streamed or isinstance(response.body, bytes):
        return response
    return attrs.evolve(response, body=msgspec.json.encode(response.body))


async def _await(awaitable: Awaitable[Response]) -> Response:
    return await awaitable


def _text(value: bytes) -> str:
    return value.decode("ascii", "backslashreplace")


def _allowed(methods: dict[str, Route]) -> str:
    names = set(methods) | {"OPTIONS"} | ({"HEAD"} if "GET" in methods else set())
    return ", ".join(sorted(names))


def _decode_query(route: Route, target: str) -> Any:
    pairs = parse_qsl(target.partition("?")[2], keep_blank_values=True)
    values: dict[str, str] = {}
    for name, value in pairs:
        if name in values:
            raise InvalidQueryError(where=name, what="it is given twice")
        values[name] = value
    if route.query is None:
        for name in values:
            raise InvalidQueryError(where=name, what="nothing of that name is known here")
        return None
    try:
        return msgspec.convert(values, route.query, strict=False)
    except msgspec.ValidationError as why:
        where, what = _located(str(why))
        raise InvalidQueryError(where=where, what=what) from why


def _decode_body(route: Route, web: WebRequest, content_type: str) -> Any:
    content = web.content
    raw: bytes = content.read(route.body_bytes + 1) if content is not None else b""
    if len(raw) > route.body_bytes:
        raise BodyTooLargeError(limit=route.body_bytes)
    if route.request is None:
        if raw.strip() not in {b"", b"{}", b"null"}:  # clients that always send JSON mean nothing by these
            raise InvalidBodyError(where="the top", what="this takes no body")
        return None
    media_type = content_type.split(";", maxsplit=1)[0].strip().lower()
    if media_type not in route.consumes:
        raise MediaTypeError(got=media_type or "nothing", wanted=" or ".join(route.consumes))
    if route.request is bytes:
        return raw
    try:
        return msgspec.json.decode(raw, type=route.request)
    except msgspec.ValidationError as why:
        where, what = _located(str(why))
        raise InvalidBodyError(where=where, what=what) from why
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise InvalidBodyError(where="the top", what=f"it is not JSON: {why}") from why


def _located(message: str) -> tuple[str, str]:
    """Split msgspec's ``what - at `$.path``` into a path and what is wrong there."""
    match = _AT.search(message)
    if match is None:
        return "the top", message
    return match["path"].lstrip(".") or "the top", message[: match.start()]
