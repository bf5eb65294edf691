"""Logging in and out, as the Avi SDK does it: ``/login``, ``/logout``, ``/api/initial-data``; and ``/api/whoami``."""

from typing import Any
from urllib.parse import parse_qsl

import attrs
import msgspec

from avinet.controller.login_sessions import LIFE_S, LoginSessions
from avinet.controller.operators import CSRF_COOKIE, SESSION_COOKIE, Operators, require_same_origin
from avinet.controller.users import UserRecord
from avinet.rest.access import Principal, Role
from avinet.rest.problem import InvalidBodyError, UnauthenticatedError
from avinet.rest.route import JSON_TYPE, Auth, Request, Response, Route
from avinet.units import KIB

FORM_TYPE = "application/x-www-form-urlencoded"
PEM_TYPE = "application/x-pem-file"
LOGIN_BYTES = 8 * KIB
"""A name and a password, each character three bytes in a form."""
API_VERSION = "22.1.3"
"""Of the Avi API, whose shapes the objects have."""
_SENT = "Path=/; Secure; SameSite=Strict"
_LOGIN_SCHEMA = {
    "type": "object",
    "required": ["username", "password"],
    "properties": {
        "username": {"type": "string", "minLength": 1, "maxLength": 63},
        "password": {"type": "string", "maxLength": 1024},
    },
}


class Version(msgspec.Struct, frozen=True, rename={"product": "Product", "version": "Version"}):
    """What runs here: ``Version`` is the software's, ``api_version`` that of the Avi API whose shapes objects have."""

    product: str = "avinet"
    version: str = ""
    """Told to who has logged in."""
    api_version: str = API_VERSION


class UserFacts(msgspec.Struct, frozen=True, kw_only=True):
    """Who has logged in."""

    name: str
    username: str
    role: Role
    is_superuser: bool


class LoginAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``POST /login``; the session's cookies come with it."""

    user: UserFacts
    version: Version
    session_cookie_name: str = SESSION_COOKIE
    user_initialized: bool = True
    tenants: tuple[dict[str, str], ...] = ({"name": "admin", "uuid": "admin", "url": "/api/tenant/admin"},)


class InitialData(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/initial-data``: what a client may know before it has logged in."""

    version: Version
    session_cookie_name: str = SESSION_COOKIE
    welcome_workflow_complete: bool = True


class WhoAmI(msgspec.Struct, frozen=True, kw_only=True):
    """The caller as the API sees it; ``token`` names the access token in use, if one is."""

    user: str
    role: Role
    token: str = ""


@attrs.frozen(eq=False)
class LoginApi:
    """The handlers.  ``operators`` is the TLS surface's guard, which paces logins."""

    operators: Operators
    sessions: LoginSessions
    software: str
    root_pem: bytes
    """Public; a client that has it compares its fingerprint before it believes anything else."""

    async def root(self, request: Request) -> Response:
        """``GET /root.pem``."""
        return Response(body=self.root_pem, content_type=PEM_TYPE)

    async def login(self, request: Request) -> Response:
        """``POST /login``."""
        require_same_origin(
            request.headers
        )  # else a stranger's page could log its visitor in as somebody else
        user, password = _form(request)
        record = await self.operators.login(user, password, request.peer)
        new = self.sessions.start(record.name)
        return Response(
            body=LoginAnswer(user=_facts(record), version=Version(version=self.software)),
            cookies=(
                f"{SESSION_COOKIE}={new.secret}; {_SENT}; HttpOnly; Max-Age={LIFE_S:.0f}",
                # A page must be able to read this one, to repeat it in a header.
                f"{CSRF_COOKIE}={new.session.csrf}; {_SENT}; Max-Age={LIFE_S:.0f}",
            ),
            login=Principal(user=record.name, role=record.role, session=new.session.id),
        )

    async def logout(self, request: Request) -> Response:
        """``POST /logout``: ends the session that came with the request; other logins have nothing to end."""
        if request.login is not None and request.login.session:
            self.sessions.end(request.login.session)
        gone = tuple(f"{name}=; {_SENT}; Max-Age=0" for name in (SESSION_COOKIE, CSRF_COOKIE))
        return Response(body={}, cookies=gone)

    async def initial_data(self, request: Request) -> Response:
        """``GET /api/initial-data``."""
        return Response(body=InitialData(version=Version()))

    async def whoami(self, request: Request) -> Response:
        """``GET /api/whoami``."""
        who = request.login
        if who is None:
            raise UnauthenticatedError(what="nobody is known")
        return Response(body=WhoAmI(user=who.user, role=who.role, token=who.token))

    def routes(self) -> tuple[Route, ...]:
        """All five."""
        return (
            Route(
                method="GET",
                path="/root.pem",
                handler=self.root,
                summary="The cluster's root certificate, whose fingerprint a client compares before it pins it.",
                response=str,
                produces=PEM_TYPE,
                auth=Auth.ANYONE,
            ),
            Route(
                method="POST",
                path="/login",
                handler=self.login,
                summary="Start a session: cookies sessionid and csrftoken; writes repeat the latter as X-CSRFToken.",
                request=bytes,
                request_schema=_LOGIN_SCHEMA,
                response=LoginAnswer,
                consumes=(FORM_TYPE, JSON_TYPE),
                body_bytes=LOGIN_BYTES,
                auth=Auth.ANYONE,
                statuses={
                    200: "Logged in.",
                    401: "This user and password are not right.",
                    403: "Another site's page sent it.",
                },
            ),
            Route(
                method="POST",
                path="/logout",
                handler=self.logout,
                summary="End the session.",
                response=dict[str, str],
                role=Role.READ_ONLY,
                leader=False,  # sessions are each controller's own
            ),
            Route(
                method="GET",
                path="/api/initial-data",
                handler=self.initial_data,
                summary="What a client may know before it logs in.",
                response=InitialData,
                auth=Auth.ANYONE,
            ),
            Route(
                method="GET",
                path="/api/whoami",
                handler=self.whoami,
                summary="Who this login is, and what it may.",
                response=WhoAmI,
            ),
        )


def _facts(record: UserRecord) -> UserFacts:
    return UserFacts(
        name=record.name,
        username=record.name,
        role=record.role,
        is_superuser=record.role is Role.ADMIN,
    )


def _form(request: Request) -> tuple[str, str]:
    """(user, password) of a form or a JSON object."""
    media_type = request.headers.get("content-type", "").split(";", maxsplit=1)[0].strip().lower()
    try:
        if media_type == FORM_TYPE:
            text = request.body.decode("ascii")
            found: Any = dict(parse_qsl(text, keep_blank_values=True, max_num_fields=16, errors="strict"))
        else:
            found = msgspec.json.decode(request.body)
    except (ValueError, RecursionError) as why:
        raise InvalidBodyError(where="the top", what="it is no form with username and password") from why
    if not isinstance(found, dict):
        raise InvalidBodyError(where="the top", what="it is no object with username and password")
    for name in ("username", "password"):
        if not isinstance(found.get(name), str) or not found[name]:
            raise InvalidBodyError(where=name, what="it is needed, as text")
    return found["username"], found["password"]
