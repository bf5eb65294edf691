"""The router: from a twisted.web request to a route's handler and back, every check on the way by the table.

Checks run cheapest first: path, method, how often, who is calling, their role, query, media type, body.  Whatever is wrong is answered
as problem+json (``avinet.rest.problem``).  A handler's ``AvinetError`` becomes its problem; any other exception
becomes a 500 that names an incident, whose traceback goes to the log alone.  Body size is checked twice: by
``avinet.rest.site`` while the body arrives, which is what bounds memory, and here, for Sites that are not ours.
"""

import uuid
from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Any
from urllib.parse import unquote

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
from avinet.rest.access import (
    READS,
    Access,
    Caller,
    Guard,
    NoLogins,
    Principal,
    new_request_id,
    object_of,
    require_role,
)
from avinet.rest.decoding import decode_body, decode_query
from avinet.rest.elsewhere import (
    REASON_HEADER,
    SHOWN_STALE_S,
    STALE_HEADER,
    Elsewhere,
    FindOrigin,
    Here,
    Origin,
    direct,
)
from avinet.rest.openapi import Info, openapi
from avinet.rest.problem import (
    MalformedRequestError,
    MethodNotAllowedError,
    NoSuchPathError,
    SlowAnswerError,
    UnexpectedError,
    problem_of,
)
from avinet.rest.route import Auth, Request, Response, Route, parameter_of
from avinet.units import KIB

__all__ = ["Auth", "Caller", "Info", "Request", "Response", "Route", "Router", "openapi"]

STREAM_LIFE_S = 12 * 3_600.0
"""As long as a session; clients of streams come back by themselves, from where they were."""
UNROUTED_BODY_BYTES = 64 * KIB
"""As most routes take; clients send a body with a wrong path as with a right one."""

_ALWAYS = {
    "Cache-Control": "no-store",  # answers are facts of this moment, some of them secret
    "X-Content-Type-Options": "nosniff",
    "Server": "avinet",
}


@attrs.define(eq=False)
class _Exchange:
    """One request under way: what its audit needs, and twisted.web's half of it."""

    web: WebRequest
    request_id: str = attrs.field(factory=new_request_id)
    principal: Principal | None = None
    object: str = ""
    reads: bool = False
    dry_run: bool = False
    origin: Origin | None = None
    done_by: str = ""

    @property
    def method(self) -> str:
        return _text(self.web.method)

    @property
    def peer(self) -> str:
        """IP address; empty on a UNIX socket."""
        if self.origin is not None:
            return self.origin.peer
        host: str = getattr(self.web.getClientAddress(), "host", "")
        return host

    def access(self, response: Response, reason: str) -> Access:
        return Access(
            request_id=self.request_id,
            method=self.method,
            path=_text(self.web.path),
            peer=self.peer,
            principal=self.principal,
            status=response.status,
            reason=reason,
            object=self.object,
            reads=self.reads,
            dry_run=self.dry_run,
            asked_at="" if self.origin is None else self.origin.asked_at,
            done_by=self.done_by,
        )


class Router(Resource):
    """The resource at the root of a Site."""

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        routes: Iterable[Route],
        clock: IReactorTime,
        guard: Guard | None = None,
        elsewhere: Elsewhere | None = None,
        find_origin: FindOrigin = direct,
    ) -> None:
        super().__init__()
        self._clock = clock
        self._guard = NoLogins() if guard is None else guard
        self._elsewhere = Here() if elsewhere is None else elsewhere
        self._find_origin = find_origin
        self._streams: dict[Any, Principal | None] = {}
        """What is being streamed, to whom."""
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
        exchange = _Exchange(request)
        answer = Deferred.fromCoroutine(self._answer(exchange))

        def gone(reason: object) -> None:
            # Nobody waits any more.  A read stops, also one by POST; a write is let finish, since half of it may be done.
            if exchange.reads or exchange.method in READS:
                answer.cancel()

        request.notifyFinish().addErrback(gone)
        return NOT_DONE_YET

    async def _answer(self, exchange: _Exchange) -> None:
        web, reason = exchange.web, ""
        try:
            answered = await self._respond(exchange)
            exchange.principal = answered.login or exchange.principal
            exchange.object = object_of(answered.body)
            exchange.done_by, reason = answered.done_by, answered.reason
            response = _encoded(answered)
        except CancelledError:
            return
        except AvinetError as error:
            reason, response = error.reason, problem_response(error)
        except Exception:  # noqa: BLE001 - the edge: a defect of ours must not become a hanging request
            incident = f"incident-{uuid.uuid4()}"
            self._log.failure(
                "{incident}: {method} {path} failed",
                incident=incident,
                method=exchange.method,
                path=_text(web.path),
            )
            defect = UnexpectedError(incident=incident)
            reason, response = defect.reason, problem_response(defect)
        self._guard.ended(exchange.access(response, reason))
        if not web._disconnected and not web.finished:  # noqa: SLF001 - twisted.web has no public word for it
            web.setHeader("X-Request-Id", exchange.request_id)
            if exchange.origin is not None:
                for name, value in {REASON_HEADER: reason, **self._elsewhere.marks()}.items():
                    web.setHeader(name, value)
            if exchange.reads and self._elsewhere.stale_s >= SHOWN_STALE_S:
                web.setHeader(STALE_HEADER, str(int(self._elsewhere.stale_s)))
            await self._send(exchange, response)
        elif response.streamed:
            response.body.stopProducing()  # it may hold a file

    def end_streams(self, ends: Callable[[Principal], bool]) -> None:
        """End what is streamed to principals whose rights have changed; they come back, and are asked who they are."""
        for producer, principal in list(self._streams.items()):
            if principal is not None and ends(principal):
                producer.stopProducing()

    async def _respond(self, exchange: _Exchange) -> Response:
        web, method, target = exchange.web, exchange.method, _text(exchange.web.uri)
        headers = {
            _text(name).lower(): values[0].decode("utf-8", "replace")
            for name, values in web.requestHeaders.getAllRawHeaders()
        }
        caller = Caller(exchange.peer, method, headers)
        origin = self._find_origin(caller)
        if origin is not None:
            exchange.origin, exchange.request_id = origin, origin.request_id
            caller = attrs.evolve(caller, peer=origin.peer)
        self._guard.admit(caller)
        if method == "OPTIONS":
            _, methods, _ = self._methods(target)
            return Response(status=204, headers={"Allow": _allowed(methods)})
        route, path, params = self._find(method, target)
        exchange.reads = route.reads
        if route.auth is Auth.OPERATOR:
            exchange.principal = await self._guard.authenticate(caller)
            require_role(exchange.principal, route.least_role)
        request = Request(
            method=method,
            path=path,
            params=params,
            query=decode_query(route, target),
            body=decode_body(route, web.content, headers.get("content-type", "")),
            headers=headers,
            peer=caller.peer,
            login=exchange.principal,
            target=target,
            raw=lambda: _whole(web),
            request_id=exchange.request_id,
            handed_on=origin is not None,
        )
        exchange.dry_run = getattr(request.query, "dry_run", False)
        here = partial(route.handler, request)
        answer = self._elsewhere.hand_on(request, here) if route.leader else here()
        handling = Deferred.fromCoroutine(_await(answer))
        if not route.reads:
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

    async def _send(self, exchange: _Exchange, response: Response) -> None:
        request = exchange.web
        request.setResponseCode(response.status)
        for name, value in {**_ALWAYS, **response.headers}.items():
            request.setHeader(name, value)
        if response.cookies:
            request.responseHeaders.setRawHeaders("Set-Cookie", response.cookies)
        request.defaultContentType = None
        head = request.method == b"HEAD"
        if response.streamed:
            request.setHeader("Content-Type", response.content_type)
            if not head:
                await self._stream(exchange, response.body)
                return
            response.body.stopProducing()
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

    async def _stream(self, exchange: _Exchange, producer: Any) -> None:
        request = exchange.web
        if isinstance(producer.length, int):
            request.setHeader("Content-Length", str(producer.length))
        request.notifyFinish().addErrback(lambda reason: producer.stopProducing())
        self._streams[producer] = exchange.principal
        # A login that would have ended meanwhile must not be outlived for long by what it once asked for.
        ending = self._clock.callLater(STREAM_LIFE_S, producer.stopProducing)
        try:
            await producer.startProducing(request)
        except CancelledError:
            return
        except Exception:  # noqa: BLE001 - the status is on its way already: cutting is the only sign left
            self._log.failure("streaming {path} failed", path=_text(request.path))
            request.loseConnection()
            return
        finally:
            del self._streams[producer]
            if ending.active():
                ending.cancel()
        if not request._disconnected:  # noqa: SLF001 - as above
            if request.producer is not None:  # one that was told to stop
                request.unregisterProducer()
            request.finish()


def _whole(web: WebRequest) -> bytes:
    if web.content is None:
        return b""
    web.content.seek(0)
    return bytes(web.content.read())


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
