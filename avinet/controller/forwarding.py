"""Requests that another controller must do, handed on to it: the leader's, and those of who has the root key.

What was asked goes on as it came, with who asks: the one that was asked first has proved that, and checked the role, and the
other one believes it, since only controllers reach its service ``peer-api``.  The answer goes back as it is.  A request is
handed on once: a controller that finds that it is not the leader says so instead of asking a third.

Nothing is ever sent twice.  Where the way to the other broke before anything was sent, nothing was done; where it broke
before the answer came, the answer says that it may have been done, and where to look.
"""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from http import HTTPStatus
from typing import Any, ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.internet.interfaces import IConsumer, IProtocolFactory, IReactorTime, IStreamClientEndpoint
from twisted.internet.task import deferLater
from twisted.web.client import URI, Agent
from twisted.web.http_headers import Headers
from twisted.web.iweb import IAgentEndpointFactory, IBodyProducer, IResponse
from zope.interface import implementer

from avinet.controller.forwarded_body import ForwardedBody
from avinet.controller.peers import PEER_API, PeerEndpoint, Peers, PeerUnreachableError
from avinet.controller.seat import Seat
from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName
from avinet.rest.access import Access, Caller, Principal
from avinet.rest.elsewhere import REASON_HEADER, Do, Origin
from avinet.rest.problem import UnauthenticatedError
from avinet.rest.route import JSON_TYPE, Request, Response

FOR = "x-avinet-for"
"""For whom another controller asks: ``Origin`` and ``Principal`` as JSON.  Believed on ``peer-api`` alone."""
REVISION_HEADER = "X-Avinet-Revision"
"""The store's revision that the one that did it knows: the one that was asked waits for it, so that whoever wrote reads it."""
MAX_FORWARDED = 200
"""Under way or waiting for a leader at a time, each with its body (8 MiB at most, 16 of those over 64 KiB); a channel of the link each."""
BUSY_RETRY_S = 1.0
NO_LEADER_RETRY_S = 2.0
"""An election takes a second, or a lease."""
PATIENCE_S = 3.0
"""For a leader to be elected while nothing says that there will be none: a planned restart is then no error to anybody."""
LOOK_S = 0.1
_KEPT_HERE = frozenset(
    {
        *(
            "connection",
            "keep-alive",
            "proxy-connection",
            "te",
            "trailer",
            "transfer-encoding",
            "upgrade",
            "expect",
        ),
        *("content-length", "accept-encoding", "authorization", "cookie", "x-csrftoken"),
    }
)
"""Header fields of a request that are about this connection, or prove who asks."""
_PASSED_BACK = frozenset(
    {
        *("content-type", "content-disposition", "etag", "location", "retry-after", "allow"),
        "x-avinet-image",
    }
)


@error
class NoQuorumError(AvinetError):
    """The cluster has no quorum, so nothing can be changed now: {why}. Nothing was done; try again in a moment. See: avinet cluster status."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    why: str
    retry_after_s: float = NO_LEADER_RETRY_S


@error
class LeaderUnreachableError(AvinetError):
    """Controller {controller} must do this and cannot be reached from here, so nothing was done: {why}. Try again in a moment, or ask another controller."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    controller: ControllerName
    why: str
    retry_after_s: float = BUSY_RETRY_S


@error
class LeaderMovedError(AvinetError):
    """The controller that was taken for the leader does not lead now, so nothing was done. Try again in a moment."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    retry_after_s: float = BUSY_RETRY_S


MOVED = LeaderMovedError().reason


@error
class ForwardLostError(AvinetError):
    """Controller {controller} was asked to do this, and the way to it broke before it answered ({why}): it may have been done. Look before you ask again: {look}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    http_status: ClassVar[int] = HTTPStatus.BAD_GATEWAY
    controller: ControllerName
    why: str
    look: str


@error
class TooManyForwardedError(AvinetError):
    """{limit} requests are being handed on to other controllers. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    limit: int
    retry_after_s: float = BUSY_RETRY_S


class _For(msgspec.Struct, frozen=True, kw_only=True):
    request_id: str
    peer: str
    asked_at: str
    principal: Principal | None = None


LOOK = (
    ("/api/config", "avinet config history"),
    ("/api/serviceengine/", "avinet se list"),
    ("/api/serviceengine", "avinet se list"),
    ("/api/enrolment", "avinet se token list"),
    ("/api/image", "avinet image list"),
    ("/api/user", "avinet user list"),
    ("/api/access-token", "avinet access-token list"),
    ("/api/cluster", "avinet cluster status"),
    ("/v1/", "the same request may be sent again, it is done once"),
)
"""Where to see whether something was done, by the beginning of its path."""


def look_for(path: str) -> str:
    """Where to see whether it was done."""
    return next((where for begin, where in LOOK if path.startswith(begin)), "avinet config history")


@implementer(IBodyProducer)
@attrs.frozen(eq=False)
class _Whole:
    """A body that is there already."""

    body: bytes

    @property
    def length(self) -> int:
        """In bytes."""
        return len(self.body)

    def startProducing(self, consumer: IConsumer) -> Deferred[None]:
        """All of it."""
        consumer.write(self.body)
        return succeed(None)

    def pauseProducing(self) -> None:
        """It is written."""

    def resumeProducing(self) -> None:
        """It is written."""

    def stopProducing(self) -> None:
        """It is written."""


@implementer(IAgentEndpointFactory, IStreamClientEndpoint)
@attrs.frozen(eq=False)
class _Way:
    """The way to one controller; ``reached`` remembers whether anything can have been sent."""

    endpoint: PeerEndpoint
    reached: list[bool] = attrs.field(factory=list)

    def endpointForURI(self, uri: URI) -> IStreamClientEndpoint:
        """Whatever its address."""
        return self

    def connect(self, protocolFactory: IProtocolFactory) -> Deferred[Any]:
        """A channel."""
        return self.endpoint.connect(protocolFactory).addCallback(self._connected)

    def _connected(self, protocol: Any) -> Any:
        self.reached.append(True)
        return protocol


@attrs.define(eq=False)
class Forwarding:
    """The ``Elsewhere`` of a controller's surfaces."""

    seat: Seat
    peers: Peers
    clock: IReactorTime
    _under_way: int = attrs.field(default=0, init=False)

    @property
    def stale_s(self) -> float:
        """How old what is known here may be."""
        return self.seat.stale_s

    def hand_on(self, request: Request, here: Do) -> Awaitable[Response]:
        """To the leader, unless that is this one."""
        return here() if self.seat.role.leads else self._led(request, here)

    async def _led(self, request: Request, here: Do) -> Response:
        """By whoever leads, now or in a moment.  Only what was certainly not begun is tried again."""
        ends, body = self.clock.seconds() + PATIENCE_S, request.raw()
        with self._place():
            while not self.seat.role.leads:
                try:
                    return await self._ask(self._leader(), request, body)
                except (NoQuorumError, LeaderUnreachableError, LeaderMovedError):
                    if self.clock.seconds() >= ends or self.seat.silent:
                        raise
                await deferLater(self.clock, LOOK_S)
        return await here()

    def _leader(self) -> ControllerName:
        role = self.seat.role
        if role.leader is None:
            raise NoQuorumError(why=role.why or "no leader is elected")
        return role.leader

    @contextlib.contextmanager
    def _place(self) -> Iterator[None]:
        if self._under_way >= MAX_FORWARDED:
            raise TooManyForwardedError(limit=MAX_FORWARDED)
        self._under_way += 1
        try:
            yield
        finally:
            self._under_way -= 1

    def marks(self) -> Mapping[str, str]:
        """Nobody hands on to a surface of operators."""
        return {}

    async def ask(self, name: ControllerName, request: Request) -> Response:
        """What ``name`` answers to a request that came here; ``LeaderMovedError`` for one that was handed on already."""
        if request.handed_on:
            raise LeaderMovedError
        with self._place():
            return await self._ask(name, request, request.raw())

    async def _ask(self, name: ControllerName, request: Request, body: bytes) -> Response:
        way = _Way(PeerEndpoint(self.peers, name, PEER_API))
        agent = Agent.usingEndpointFactory(self.clock, way)
        try:
            answer = await agent.request(
                request.method.encode("ascii"),
                b"http://peer" + request.target.encode("ascii", "backslashreplace"),
                self._headers(request),
                _Whole(body),
            )
        except PeerUnreachableError as why:
            raise LeaderUnreachableError(controller=name, why=why.why.rstrip(".")) from why
        except Exception as why:
            if not way.reached:
                raise LeaderUnreachableError(controller=name, why=_said(why).rstrip(".")) from why
            raise ForwardLostError(controller=name, why=_said(why), look=look_for(request.path)) from why
        return await self._answered(name, answer)

    def _headers(self, request: Request) -> Headers:
        told = _For(
            request_id=request.request_id,
            peer=request.peer,
            asked_at=self.peers.me,
            principal=request.login,
        )
        headers = Headers()
        for field, value in request.headers.items():
            if field not in _KEPT_HERE and not field.startswith("x-avinet-"):
                headers.addRawHeader(field.encode("latin-1", "replace"), value.encode("utf-8", "replace"))
        headers.setRawHeaders(FOR.encode(), [msgspec.json.encode(told)])
        return headers

    async def _answered(self, name: ControllerName, answer: IResponse) -> Response:
        """As a response of ours; ``LeaderMovedError`` when it says that."""
        fields = {
            field.decode("ascii", "replace").lower(): values[0].decode("utf-8", "replace")
            for field, values in answer.headers.getAllRawHeaders()
        }
        reason = fields.get(REASON_HEADER.lower(), "")
        if reason == MOVED:
            ForwardedBody(answer).stopProducing()
            raise LeaderMovedError
        revision = fields.get(REVISION_HEADER.lower(), "0")
        await self.seat.caught_up(int(revision) if revision.isdecimal() else 0)
        back = {field.title(): value for field, value in fields.items() if field in _PASSED_BACK}
        content_type = back.pop("Content-Type", JSON_TYPE)
        empty = answer.code == HTTPStatus.NO_CONTENT or answer.length == 0
        return Response(
            status=answer.code,
            body=None if empty else ForwardedBody(answer),
            headers=back,
            content_type=content_type,
            done_by=name,
            reason=reason,
        )


def _said(why: Exception) -> str:
    reasons = getattr(why, "reasons", None)
    return str(reasons[0].value if reasons else why) or type(why).__name__


# The other side: the surface behind ``peer-api``.


def _told(caller: Caller) -> _For:
    try:
        return msgspec.json.decode(caller.headers.get(FOR, ""), type=_For)
    except msgspec.DecodeError as why:
        raise UnauthenticatedError(what="another controller must say for whom it asks") from why


def origin_of(caller: Caller) -> Origin:
    """For whom another controller asks."""
    told = _told(caller)
    return Origin(request_id=told.request_id[:64], peer=told.peer, asked_at=told.asked_at)


@attrs.frozen(eq=False)
class PeerGuard:
    """The guard of ``peer-api``: the one that was asked has proved who calls, and counted it."""

    audited: Callable[[Access], None]

    def admit(self, caller: Caller) -> None:
        """Everybody: the other one has."""

    async def authenticate(self, caller: Caller) -> Principal:
        """Whom the other one names."""
        principal = _told(caller).principal
        if principal is None:
            raise UnauthenticatedError(what="another controller must say for whom it asks")
        return principal

    def ended(self, access: Access) -> None:
        """Told to the audit of the one that did it; what strangers ask on port 8443 is none of its business here either."""
        if access.principal is not None:
            self.audited(access)


@attrs.frozen(eq=False)
class OnlyHere:
    """The ``Elsewhere`` of ``peer-api``: a leader's work is done here, or refused."""

    seat: Seat

    @property
    def stale_s(self) -> float:
        """As elsewhere."""
        return self.seat.stale_s

    def hand_on(self, request: Request, here: Do) -> Awaitable[Response]:
        """``LeaderMovedError`` rather than to a third: that would go round while nobody leads."""
        if not self.seat.role.leads:
            raise LeaderMovedError
        return here()

    def marks(self) -> Mapping[str, str]:
        """What the other one waits for."""
        return {REVISION_HEADER: str(self.seat.revision)}
