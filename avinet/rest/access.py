"""Who calls and what they may: callers before and after they have proved who they are, and the roles.

A surface is guarded by one object, the ``Guard``: it admits a request at all, names its principal, and is told how
each request ended.  The router asks it in that order and knows nothing of passwords, sessions or tokens.
"""

import enum
import secrets
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.rest.problem import UnauthenticatedError

READS = frozenset({"GET", "HEAD"})
"""Methods that change nothing."""
MAX_OBJECT = 200
"""Characters of a name; those of ours have 128 at most."""


class Role(enum.StrEnum):
    """What an operator may do; each role may do what those before it may."""

    READ_ONLY = "read-only"
    """See everything but secrets."""
    OPERATOR = "operator"
    """Change the configuration and the service engines."""
    ADMIN = "admin"
    """Decide who else may do what."""

    def covers(self, needed: "Role") -> bool:
        """Whether this role is enough where ``needed`` is the least."""
        return _RANK[self] >= _RANK[needed]


_RANK = {role: rank for rank, role in enumerate(Role)}


def lesser(one: Role, other: Role) -> Role:
    """The one of two roles that may do less."""
    return other if one.covers(other) else one


@attrs.frozen
class Caller:
    """What is known of a caller before it is authenticated."""

    peer: str
    """IP address; empty on a UNIX socket."""
    method: str = "GET"
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    """By lower-case name."""


@attrs.frozen(kw_only=True)
class Principal:
    """Who is calling, once that is proved."""

    user: str
    role: Role
    """What it may do in this request: that of its user, or less."""
    token: str = ""
    """The name of the access token that proved it, if one did."""
    whole: Role | None = None
    """The user's own role, where an access token proved it and may do less."""
    session: str = ""
    """The id of the login session that proved it, if one did; no secret."""
    until: float | None = None
    """UNIX seconds: when the access token that proved it ends."""


@attrs.frozen(kw_only=True)
class Access:
    """One request as it ended: what an audit needs, and never a body or a query, which may hold secrets."""

    request_id: str
    method: str
    path: str
    peer: str
    principal: Principal | None
    """None: it was refused before it was known who calls."""
    status: int
    reason: str = ""
    """The problem's stable word; empty when it went well."""
    object: str = ""
    """What the answer says it was about."""
    reads: bool = False
    """It changes nothing by its nature."""
    dry_run: bool = False
    """It was asked to change nothing."""
    asked_at: str = ""
    """The other controller that was asked for it, on the one that did it."""
    done_by: str = ""
    """The other controller that it was handed on to, on the one that was asked."""


class Guard(Protocol):
    """What stands before a surface."""

    def admit(self, caller: Caller) -> None:
        """Raise an ``AvinetError`` when this source asks too much; before any other work."""

    async def authenticate(self, caller: Caller) -> Principal:
        """Who it is, or an ``UnauthenticatedError`` or another ``AvinetError``."""

    def ended(self, access: Access) -> None:
        """A request has its answer.  Raises nothing."""


class NoLogins:
    """The guard of a surface that has no operators."""

    def admit(self, caller: Caller) -> None:
        """Everybody."""

    async def authenticate(self, caller: Caller) -> Principal:
        """Nobody."""
        raise UnauthenticatedError(what="and this surface has none")

    def ended(self, access: Access) -> None:
        """Nobody keeps account."""


@error
class RoleNeededError(AvinetError):
    """This needs the role {needed}; {user} has {role}. Ask an admin: avinet user role {user} {needed}."""

    kind: ClassVar[Kind] = Kind.DENIED
    needed: str
    role: str
    user: str


@error
class TokenRoleNeededError(AvinetError):
    """This needs the role {needed}; {user} has it, but the access token {token} has only {role}. Make one that has it: avinet access-token create --name NAME --role {needed}; or log in anew, if it is a login's."""

    kind: ClassVar[Kind] = Kind.DENIED
    needed: str
    role: str
    user: str
    token: str

    @property
    def reason(self) -> str:
        """To programs it is the same; ``token`` among the facts tells the two apart."""
        return "role-needed"


def require_role(principal: Principal, needed: Role) -> None:
    """``RoleNeededError`` unless the principal's role is enough; ``TokenRoleNeededError`` where the user's own would be."""
    if principal.role.covers(needed):
        return
    has, user = principal.role.value, principal.user
    if principal.whole is not None and principal.whole.covers(needed):
        raise TokenRoleNeededError(needed=needed.value, role=has, user=user, token=principal.token)
    raise RoleNeededError(needed=needed.value, role=has, user=user)


def object_of(body: Any) -> str:
    """What an answer is about, for the audit: its ``name``, or the ``version`` of the configuration that it made."""
    given = body.get if isinstance(body, dict) else partial(getattr, body)
    name, version = given("name", None), given("version", None)
    if isinstance(name, str):
        return name[:MAX_OBJECT]
    return f"version {version}" if isinstance(version, int) else ""


def new_request_id() -> str:
    """96 random bits: told to the caller, and in the audit log."""
    return secrets.token_hex(12)
