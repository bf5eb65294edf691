"""The routes of users (``/api/user``) and of access tokens (``/api/accesstoken``).

Who is no admin sees and manages his own tokens and his own password, and nothing of anybody else.
"""

from typing import Annotated, ClassVar

import attrs
import msgspec

from avinet.controller.access_tokens import (
    DEFAULT_LIFE_S,
    MAX_LIFE_S,
    MIN_LIFE_S,
    AccessTokens,
    Owner,
    TokenRecord,
)
from avinet.controller.operators import LOCAL, Operators
from avinet.controller.users import UserRecord, Users
from avinet.errors import AvinetError, Kind, error
from avinet.rest.access import Principal, Role, lesser, require_role
from avinet.rest.problem import UnauthenticatedError
from avinet.rest.route import Request, Response, Route

USERS = "/api/user"
TOKENS = "/api/accesstoken"


@error
class CurrentPasswordError(AvinetError):
    """Changing your own password needs the current one beside it, as current."""

    kind: ClassVar[Kind] = Kind.DENIED


@error
class TokenOutlivesError(AvinetError):
    """The token would outlive the access token that makes it, which ends in {left_s:.0f} s. Give it less time, or log in with a password."""

    kind: ClassVar[Kind] = Kind.DENIED
    left_s: float


class UserRow(msgspec.Struct, frozen=True, kw_only=True):
    """One user; times are UNIX seconds."""

    name: str
    url: str
    role: Role
    enabled: bool
    created_at: float
    password_at: float
    """When the password was set."""
    sessions: int
    tokens: int


class UserList(msgspec.Struct, frozen=True, kw_only=True):
    """All users, by name."""

    count: int
    results: tuple[UserRow, ...]


class UserWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new user."""

    name: str
    password: str
    role: Role = Role.READ_ONLY

    def __repr__(self) -> str:
        return f"UserWish(name={self.name!r})"


class RoleWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another role."""

    role: Role


class PasswordWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Another password; ``current`` when it is one's own."""

    password: str
    current: str | None = None

    def __repr__(self) -> str:
        return "PasswordWish()"


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """One access token; times are UNIX seconds.  ``prefix`` is how its text begins."""

    uuid: str
    url: str
    name: str
    user: str
    role: Role
    prefix: str
    state: str
    """``active`` or ``expired``."""
    created_at: float
    expires_at: float
    used_at: float | None


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """Access tokens, newest first."""

    count: int
    results: tuple[TokenRow, ...]


class TokenWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new token: for oneself, or (as admin) for ``user``; its role is the lesser of this and its user's."""

    name: str
    role: Role | None = None
    life_s: Annotated[float, msgspec.Meta(ge=MIN_LIFE_S, le=MAX_LIFE_S)] | None = None
    """90 days, or what is left of the token that makes it, when not given."""
    user: str | None = None


class CreatedToken(msgspec.Struct, frozen=True, kw_only=True):
    """``secret`` is what a program sends as ``Authorization: Bearer``; it is shown only now."""

    name: str
    secret: str
    token: TokenRow

    def __repr__(self) -> str:
        return f"CreatedToken(name={self.name!r})"


def _who(request: Request) -> Principal:
    if request.login is None:
        raise UnauthenticatedError(what="nobody is known")
    return request.login


@attrs.frozen(eq=False)
class UserApi:
    """The handlers of ``/api/user``.  ``operators`` verifies current passwords, at its pace."""

    users: Users
    tokens: AccessTokens
    operators: Operators

    def _row(self, record: UserRecord) -> UserRow:
        return UserRow(
            name=record.name,
            url=f"{USERS}/{record.name}",
            role=record.role,
            enabled=not record.disabled,
            created_at=record.created_at,
            password_at=record.password_at,
            sessions=self.operators.sessions_of(record.name),
            tokens=len(self.tokens.all(record.name)),
        )

    def _answer(self, record: UserRecord, status: int = 200) -> Response:
        return Response(status=status, body=self._row(record))

    async def list(self, request: Request) -> Response:
        """``GET /api/user``."""
        rows = tuple(self._row(record) for record in self.users.all())
        return Response(body=UserList(count=len(rows), results=rows))

    async def get(self, request: Request) -> Response:
        """``GET /api/user/{name}``: anybody may look at himself."""
        name, who = request.params["name"], _who(request)
        if name != who.user:
            require_role(who, Role.ADMIN)
        return self._answer(self.users.get(name))

    async def create(self, request: Request) -> Response:
        """``POST /api/user``."""
        wish: UserWish = request.body
        return self._answer(await self.users.create(wish.name, wish.role, wish.password), 201)

    async def role(self, request: Request) -> Response:
        """``PUT /api/user/{name}/role``."""
        return self._answer(await self.users.set_role(request.params["name"], request.body.role))

    async def password(self, request: Request) -> Response:
        """``PUT /api/user/{name}/password``: one's own with the current one, anybody's as admin."""
        wish: PasswordWish = request.body
        name, who = request.params["name"], _who(request)
        if name != who.user:
            require_role(who, Role.ADMIN)
        elif wish.current is None:  # a session or token that was left lying about must not take the user over
            raise CurrentPasswordError
        else:
            await self.operators.login(name, wish.current, request.peer)
        return self._answer(await self.users.set_password(name, wish.password))

    async def enable(self, request: Request) -> Response:
        """``POST /api/user/{name}/enable``."""
        return self._answer(await self.users.set_disabled(request.params["name"], disabled=False))

    async def disable(self, request: Request) -> Response:
        """``POST /api/user/{name}/disable``."""
        return self._answer(await self.users.set_disabled(request.params["name"], disabled=True))

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/user/{name}``, with all of the user's tokens."""
        name = request.params["name"]
        await self.users.delete(name)
        await self.tokens.revoke_of(name)
        return Response(status=204)

    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        one = f"{USERS}/{{name}}"
        missing, last = {404: "No such user."}, {409: "It is the last admin who can log in."}

        def route(method: str, path: str, handler: object, summary: str, **more: object) -> Route:
            given = {"role": Role.ADMIN, "response": UserRow, **more}
            return Route(method=method, path=path, handler=handler, summary=summary, **given)  # type: ignore[arg-type]

        return (
            route("GET", USERS, self.list, "Every user.", response=UserList),
            route(
                "POST",
                USERS,
                self.create,
                "A new user.",
                request=UserWish,
                statuses={201: "Made.", 409: "There is one of that name."},
            ),
            route(
                "GET",
                one,
                self.get,
                "One user: oneself, or anybody as admin.",
                role=Role.READ_ONLY,
                statuses={200: "As it is.", **missing},
            ),
            route(
                "DELETE",
                one,
                self.delete,
                "Delete a user and all of its access tokens.",
                response=None,
                statuses={204: "Gone.", **missing, **last},
            ),
            route(
                "PUT",
                f"{one}/role",
                self.role,
                "Give a user another role.",
                request=RoleWish,
                statuses={200: "It counts from now on.", **missing, **last},
            ),
            route(
                "PUT",
                f"{one}/password",
                self.password,
                "Set a password: one's own with the current one, anybody's as admin.",
                request=PasswordWish,
                role=Role.READ_ONLY,
                statuses={200: "It counts from now on; the user's sessions have ended.", **missing},
            ),
            route(
                "POST",
                f"{one}/enable",
                self.enable,
                "Let a user log in again.",
                statuses={200: "Enabled.", **missing},
            ),
            route(
                "POST",
                f"{one}/disable",
                self.disable,
                "Let a user log in no more; sessions end, access tokens rest.",
                statuses={200: "Disabled.", **missing, **last},
            ),
        )


@attrs.frozen(eq=False)
class AccessTokenApi:
    """The handlers of ``/api/accesstoken``."""

    users: Users
    tokens: AccessTokens

    def _row(self, record: TokenRecord) -> TokenRow:
        return TokenRow(
            uuid=record.id,
            url=f"{TOKENS}/{record.id}",
            name=record.name,
            user=record.user,
            role=record.role,
            prefix=record.prefix,
            state="active" if self.tokens.is_live(record) else "expired",
            created_at=record.created_at,
            expires_at=record.expires_at,
            used_at=record.used_at,
        )

    async def list(self, request: Request) -> Response:
        """``GET /api/accesstoken``: one's own; everybody's as admin."""
        who = _who(request)
        rows = tuple(map(self._row, self.tokens.all(None if who.role is Role.ADMIN else who.user)))
        return Response(body=TokenList(count=len(rows), results=rows))

    async def create(self, request: Request) -> Response:
        """``POST /api/accesstoken``."""
        wish: TokenWish = request.body
        who = _who(request)
        user = who.user if wish.user is None else wish.user
        if user != who.user:
            require_role(who, Role.ADMIN)
        uid, most = "", who.role
        if user != LOCAL:
            record = self.users.get(user)
            # One's own token can do no more than the login that makes it: a read-only token makes no other.
            uid, most = record.uid, who.role if user == who.user else record.role
        role = most if wish.role is None else wish.role
        require_role(who if user == who.user else Principal(user=user, role=most), role)
        life_s = self._life_s(who, wish.life_s)
        new = await self.tokens.create(Owner(user=user, uid=uid), wish.name, lesser(most, role), life_s)
        row = self._row(new.record)
        return Response(status=201, body=CreatedToken(name=row.name, secret=new.text, token=row))

    def _life_s(self, who: Principal, wished: float | None) -> float:
        """A token that was stolen must not make itself a longer life."""
        if who.until is None:
            return DEFAULT_LIFE_S if wished is None else wished
        left_s = who.until - self.tokens.clock.seconds()
        if wished is not None and wished > left_s:
            raise TokenOutlivesError(left_s=left_s)
        return min(DEFAULT_LIFE_S, left_s) if wished is None else wished

    async def revoke(self, request: Request) -> Response:
        """``DELETE /api/accesstoken/{uuid}``: one's own by id or name, anybody's by id as admin."""
        who, token = _who(request), request.params["uuid"]
        record = self.tokens.find_for(who.user, token, everybodys=who.role is Role.ADMIN)
        await self.tokens.revoke(record)
        return Response(status=204)

    def routes(self) -> tuple[Route, ...]:
        """All three; a login of any role may have tokens of its own."""
        return (
            Route(
                method="GET",
                path=TOKENS,
                handler=self.list,
                summary="One's own access tokens; as admin everybody's.",
                response=TokenList,
            ),
            Route(
                method="POST",
                path=TOKENS,
                handler=self.create,
                summary="A new access token, whose text is shown only now.",
                request=TokenWish,
                response=CreatedToken,
                role=Role.READ_ONLY,
                statuses={
                    201: "Made.",
                    404: "No such user.",
                    409: "There is one of that name.",
                    429: "There are too many already.",
                },
            ),
            Route(
                method="DELETE",
                path=TOKENS + "/{uuid}",
                handler=self.revoke,
                summary="End an access token, by its id or one's own by its name.",
                role=Role.READ_ONLY,
                statuses={204: "Ended.", 404: "There is none."},
            ),
        )
