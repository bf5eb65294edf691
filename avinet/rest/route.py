"""One operation of a REST surface as data: what it takes, what it answers, its limits, and who handles it.

The table of routes is the only description there is: the router checks requests by it and the OpenAPI document
is made from it, so the two cannot disagree.
"""

import enum
import re
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
import msgspec
from twisted.web.iweb import IBodyProducer

from avinet.errors import LocalProtocolError
from avinet.rest.access import READS, Principal, Role

DEFAULT_BODY_BYTES = 64 * 1024
"""A registration or one configuration object is a few KiB; a route that takes more says so."""
DEFAULT_TIMEOUT_S = 60.0
"""As long as an API client usually waits (requests, curl in scripts, proxies)."""
JSON_TYPE = "application/json"

_PARAMETER = re.compile(r"\{([a-z_]+)\}")


class Auth(enum.Enum):
    """Who may call."""

    ANYONE = "anyone"
    OPERATOR = "operator"


@attrs.frozen(kw_only=True)
class Request:
    """A request that passed every check of its route."""

    method: str
    path: str
    params: Mapping[str, str]
    """Values of the path's ``{names}``, percent-decoded."""
    query: Any = None
    """An instance of the route's ``query`` Struct, or None."""
    body: Any = attrs.field(default=None, repr=False)
    """An instance of the route's ``request`` type; bytes where that is ``bytes``; None where it takes none."""
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """By lower-case name; of repeated fields the first."""
    peer: str = ""
    """IP address of the caller; empty on a UNIX socket."""
    login: Principal | None = None
    """Who is calling, where the route asks for it."""
    target: str = ""
    """The first line's: path and query, as they came."""
    raw: Callable[[], bytes] = attrs.field(default=lambda: b"", repr=False)
    """The body as it came, for whoever hands it on."""
    request_id: str = ""
    handed_on: bool = False
    """Whether another process was asked for it, and asks this one."""

    @property
    def principal(self) -> str | None:
        """Its user's name."""
        return None if self.login is None else self.login.user


@attrs.frozen(kw_only=True)
class Response:
    """An answer.  ``body``: bytes as they are, an ``IBodyProducer`` streamed, None for none, all else as JSON."""

    status: int = 200
    body: Any = None
    headers: Mapping[str, str] = attrs.field(factory=dict)
    content_type: str = JSON_TYPE
    cookies: tuple[str, ...] = attrs.field(default=(), repr=False)
    """Values of ``Set-Cookie``, a field each."""
    login: Principal | None = None
    """Who it turned out to be, where that was the question."""
    done_by: str = ""
    """The other process that it was handed on to."""
    reason: str = ""
    """The stable word of a refusal that was made there."""

    @property
    def streamed(self) -> bool:
        """Whether the body comes from a producer."""
        return bool(IBodyProducer.providedBy(self.body))


Handler = Callable[[Request], Awaitable[Response]]


@attrs.frozen(kw_only=True)
class Route:
    """One method on one path.  ``path`` has ``{names}`` as whole segments: ``/api/pool/{uuid}``."""

    method: str
    path: str
    handler: Handler
    summary: str
    request: Any = None
    """A type for msgspec whose Structs refuse unknown fields, ``bytes`` for the raw body, or None for no body."""
    request_schema: Mapping[str, Any] | None = None
    """What a raw body should be, for the OpenAPI document; it may refer to ``schemas``."""
    response: Any = None
    """The type of a successful JSON answer, for the OpenAPI document."""
    response_schema: Mapping[str, Any] | None = None
    """The same where no type says it."""
    query: type[msgspec.Struct] | None = None
    """A Struct that refuses unknown fields; values arrive as text and are converted."""
    statuses: Mapping[int, str] = attrs.field(factory=lambda: {200: "Done."})
    """Every status the handler may answer with, and when.  The router's own refusals need no mention."""
    consumes: tuple[str, ...] = (JSON_TYPE,)
    produces: str | tuple[str, ...] = JSON_TYPE
    """Media types of a successful answer: several where the request chooses among them."""
    body_bytes: int = DEFAULT_BODY_BYTES
    timeout_s: float = DEFAULT_TIMEOUT_S
    """How long the handler may take to begin its answer."""
    headers: Mapping[str, str] = attrs.field(factory=dict)
    """Header fields that the handler looks at, and what for; for the OpenAPI document."""
    reads: bool = attrs.field()
    """Whether it changes nothing, whatever its method; told by the method unless it is given."""
    auth: Auth = Auth.OPERATOR
    leader: bool = attrs.field()
    """Whether only the leader of a cluster may do it; told by whether it changes something, unless it is given."""
    role: Role | None = None
    """The least role that may call; by default ``read-only`` for reads and ``operator`` for the rest."""

    @reads.default
    def _reads_by_method(self) -> bool:
        return self.method in READS

    @leader.default
    def _leader_by_effect(self) -> bool:
        return not self.reads and self.auth is Auth.OPERATOR

    @property
    def least_role(self) -> Role:
        """The least role that may call, where it asks for a login."""
        if self.role is not None:
            return self.role
        return Role.READ_ONLY if self.reads else Role.OPERATOR

    def __attrs_post_init__(self) -> None:
        for kind in (self.request, self.query):
            if kind is not None and kind is not bytes:
                for struct in _lenient_structs(kind):
                    raise LocalProtocolError(
                        protocol="REST",
                        detail=f"{self.method} {self.path} takes {struct}, which lets unknown fields pass",
                    )

    @property
    def media_types(self) -> tuple[str, ...]:
        """Of a successful answer."""
        return (self.produces,) if isinstance(self.produces, str) else self.produces

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's segments."""
        return tuple(self.path.split("/")[1:])

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """The ``{names}`` of the path, in order."""
        return tuple(_PARAMETER.findall(self.path))


def parameter_of(segment: str) -> str | None:
    """``uuid`` for ``{uuid}``, None for a fixed segment."""
    match = _PARAMETER.fullmatch(segment)
    return match.group(1) if match else None


def _lenient_structs(kind: Any) -> list[str]:
    """Names of Structs within ``kind`` that would silently drop an unknown field."""
    found: list[str] = []
    seen: set[int] = set()
    waiting: list[Any] = [msgspec.inspect.type_info(kind)]
    while waiting:
        info = waiting.pop()
        if id(info) in seen:
            continue
        seen.add(id(info))
        if isinstance(info, msgspec.inspect.StructType):
            if not info.forbid_unknown_fields:
                found.append(info.cls.__name__)
            waiting.extend(field.type for field in info.fields)
            continue
        for name in ("item_type", "key_type", "value_type"):
            part = getattr(info, name, None)
            if part is not None:
                waiting.append(part)
        for name in ("types", "item_types"):
            waiting.extend(getattr(info, name, ()))
    return found
