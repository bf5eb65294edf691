"""The guard of the operator API: who is calling, by password, session or access token, and how often they may.

A password (HTTP Basic, or a login) is verified by scrypt, which costs tens of milliseconds and 32 MiB on purpose, so
it runs on a thread of its own and few may wait for it.  A login that was right is remembered for a minute by a keyed
hash of what was sent, never by the password, and forgotten when the user's rights change.  Failures draw on a budget
of their source (``FailureBudget``), never of a user: nobody can lock another out by guessing.  A login that is
remembered passes whatever its neighbours do.  The answer to a wrong name, to a wrong password and for a user who is
disabled is the same, and takes as long.

On the UNIX socket file permissions are the login (``LocalGuard``).
"""

import base64
import binascii
import hmac
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import ClassVar
from urllib.parse import urlsplit

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from avinet.controller.access_tokens import AccessTokens
from avinet.controller.failure_budget import FailureBudget
from avinet.controller.login_sessions import LoginSessions, repeats
from avinet.controller.users import MAX_PASSWORD_BYTES, RESERVED, UserRecord, Users
from avinet.errors import AvinetError, Kind, error
from avinet.rest.access import READS, Access, Caller, Principal, Role, lesser
from avinet.rest.connections import source_of
from avinet.rest.problem import UnauthenticatedError
from avinet.rest.rates import Rates

LOCAL = "local"
"""The principal on the UNIX socket: whoever may open a 0600 socket could read every key beside it."""
SESSION_COOKIE = "sessionid"
CSRF_COOKIE = "csrftoken"
"""As the Avi SDK names them: it sends the first by this name whatever the login's answer said."""
REMEMBER_S = 60.0
"""Scripts call many times in a row; a password that was changed holds for no longer than this."""
MAX_REMEMBERED = 1_000
"""Distinct logins at once: one a user, and clients that spell their header differently."""
MAX_WAITING = 20
"""Half a second of scrypt, at some 25 ms each."""
MAX_COOKIE_BYTES = 4_096
"""What browsers keep of one cookie; ours are 43 bytes each."""
FAILURES_BURST = 10
"""Typing errors of a few people behind one address."""
FAILURES_PER_S = 0.1
"""Six guesses a minute a source: against 128 random bits, or even eight letters, that is never."""
TOKEN_FAILURES_BURST = 60
TOKEN_FAILURES_PER_S = 1.0
"""A program with a token that ended goes on asking; 256 bits are not guessed at any rate, this only spares the log."""
ONE_TENANT = frozenset({"admin", "*"})


@error
class TooManyLoginsError(AvinetError):
    """Too many logins from {source} failed or wait. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    source: str
    retry_after_s: float


@error
class ForgeryError(AvinetError):
    """The request changes something, but {why}. Another site's page may have made it."""

    kind: ClassVar[Kind] = Kind.DENIED
    why: str


@error
class TenantUnknownError(AvinetError):
    """There is no tenant {tenant}; the one there is here is admin. Leave X-Avi-Tenant out, or send admin."""

    kind: ClassVar[Kind] = Kind.INVALID
    tenant: str


LoginRefused = Callable[[str, str], None]
"""Told the source and the name tried (never the password) of each refused login; coalescing is its own."""
Audited = Callable[[Access], None]


@attrs.frozen(kw_only=True)
class RequestLimits:
    """How often one principal, and one source, may ask: a request costs a millisecond or two of the one thread that
    the fleet's heartbeats need too, so a single caller gets a tenth of it.
    """

    burst: int = 500
    per_s: float = 100.0


@attrs.frozen(eq=False)
class Credentials:
    """What can prove who somebody is."""

    users: Users
    sessions: LoginSessions
    tokens: AccessTokens


@attrs.define(eq=False)
class Operators:
    """The guard of the TLS surface."""

    _known: Credentials
    _clock: IReactorTime
    _key: bytes = attrs.field(repr=False)
    """32 random bytes, for this process alone."""
    _limits: RequestLimits = RequestLimits()
    _refused: LoginRefused = lambda source, user: None
    _audited: Audited = lambda access: None
    _budget: FailureBudget = attrs.field(init=False)
    _token_budget: FailureBudget = attrs.field(init=False)
    _rates: Rates = attrs.field(init=False)
    _source_rates: Rates = attrs.field(init=False)
    _remembered: OrderedDict[bytes, tuple[float, UserRecord]] = attrs.field(
        factory=OrderedDict, init=False, repr=False
    )
    _waiting: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._budget = FailureBudget(self._clock, burst=FAILURES_BURST, per_s=FAILURES_PER_S)
        self._token_budget = FailureBudget(
            self._clock, burst=TOKEN_FAILURES_BURST, per_s=TOKEN_FAILURES_PER_S
        )
        self._rates = Rates(self._clock, self._limits.per_s, self._limits.burst)
        # Several people and programs may sit behind one address.
        self._source_rates = Rates(self._clock, 2 * self._limits.per_s, 2 * self._limits.burst)
        self._known.users.listen(self._user_changed)

    # The guard

    def admit(self, caller: Caller) -> None:
        """By its source, before anything is known."""
        self._source_rates.take(source_of(caller.peer))

    async def authenticate(self, caller: Caller) -> Principal:
        """Who it is; a session or a token is looked up, a password verified."""
        _require_tenant(caller.headers)
        if caller.method not in READS:
            # However it proves who it is: a browser repeats a Basic login by itself, as it does a cookie.
            require_same_origin(caller.headers)
        authorization = caller.headers.get("authorization")
        if authorization is None:
            found = self._by_session(caller)
        elif authorization[:7].lower() == "bearer ":
            found = self._by_token(authorization[7:].strip(), caller.peer)
        else:
            found = await self._by_password(authorization, caller.peer)
        self._rates.take(f"token {found.token} of {found.user}" if found.token else found.user)
        return found

    def ended(self, access: Access) -> None:
        """Told to the audit."""
        self._audited(access)

    def sessions_of(self, user: str) -> int:
        """How many sessions a user has on this controller."""
        return self._known.sessions.count_of(user)

    # Passwords

    async def login(self, user: str, password: str, peer: str) -> UserRecord:
        """The user, for a login form; ``UnauthenticatedError``, ``TooManyLoginsError``."""
        wait_s = self._budget.wait_s(peer)
        if wait_s > 0 or self._waiting >= MAX_WAITING:
            raise TooManyLoginsError(source=peer, retry_after_s=max(1.0, wait_s))
        if len(password.encode("utf-8", "replace")) > MAX_PASSWORD_BYTES:
            raise UnauthenticatedError(what="the password is longer than any")
        record = await self._verified(user, password, peer)
        if record is None:
            raise UnauthenticatedError(what="this user and password are not right")
        return record

    async def _by_password(self, authorization: str, peer: str) -> Principal:
        mark = hmac.digest(self._key, authorization.encode("utf-8", "replace"), "sha256")
        record = self._remembers(mark)
        if record is None:
            user, password = _credentials(authorization)
            record = await self.login(user, password, peer)
            self._remember(mark, record)
        return Principal(user=record.name, role=record.role)

    def _verified(self, user: str, password: str, source: str) -> Deferred[UserRecord | None]:
        """The user if both are right.  A caller that leaves frees no place and is spared no charge: the work goes on."""
        answer: Deferred[UserRecord | None] = Deferred()
        self._waiting += 1

        def done(result: UserRecord | Failure | None) -> None:
            self._waiting -= 1
            if result is None:
                self._budget.failed(source)
                self._refused(source, user)
            if not answer.called:
                answer.callback(result)

        Deferred.fromCoroutine(self._known.users.verified(user, password)).addBoth(done)
        return answer

    def _remembers(self, mark: bytes) -> UserRecord | None:
        until, record = self._remembered.get(mark, (0.0, None))
        # A wall clock set back must not prolong it, so an end further off than it ever could be is over too.
        return record if 0 < until - self._clock.seconds() <= REMEMBER_S else None

    def _remember(self, mark: bytes, record: UserRecord) -> None:
        if self._known.users.find(record.name) is not record:
            return  # changed a moment ago
        self._remembered.pop(mark, None)
        self._remembered[mark] = (self._clock.seconds() + REMEMBER_S, record)
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)

    def _user_changed(self, name: str) -> None:
        self._known.sessions.end_of(name)
        for mark in [mark for mark, (_, record) in self._remembered.items() if record.name == name]:
            del self._remembered[mark]

    # Sessions

    def _by_session(self, caller: Caller) -> Principal:
        cookies = _cookies(caller.headers)
        if SESSION_COOKIE not in cookies:
            raise UnauthenticatedError(
                what="send a user and a password, an access token, or a session's cookie"
            )
        session = self._known.sessions.find(cookies[SESSION_COOKIE])
        if caller.method not in READS and not repeats(session, caller.headers.get("x-csrftoken", "")):
            raise ForgeryError(why="its X-CSRFToken is missing or is not the session's")
        record = self._known.users.get(session.user)
        return Principal(user=record.name, role=record.role, session=session.id)

    # Tokens

    def _by_token(self, text: str, peer: str) -> Principal:
        wait_s = self._token_budget.wait_s(peer)
        token = self._known.tokens.verified(text)
        role = None
        if token is not None:
            role = token.role if token.user in RESERVED else self._role_of(token.user, token.uid)
        if token is None or role is None:
            self._token_budget.failed(peer)
            if wait_s > 0:
                raise TooManyLoginsError(source=peer, retry_after_s=max(1.0, wait_s))
            raise UnauthenticatedError(what="this access token is not, or no longer, good")
        self._known.tokens.note_use(token)
        # Of those that have no record the controller's machine made it, where everything is allowed.
        whole = Role.ADMIN if token.user in RESERVED else role
        return Principal(
            user=token.user,
            role=lesser(role, token.role),
            token=token.name,
            whole=whole,
            until=token.expires_at,
        )

    def _role_of(self, user: str, uid: str) -> Role | None:
        record = self._known.users.find(user)
        return None if record is None or record.uid != uid or record.disabled else record.role


@attrs.define(eq=False)
class LocalGuard:
    """The guard of the UNIX socket: being connected is the proof, and there is nobody to slow down."""

    _audited: Audited = lambda access: None

    def admit(self, caller: Caller) -> None:
        """Everybody."""

    async def authenticate(self, caller: Caller) -> Principal:
        """The local admin."""
        _require_tenant(caller.headers)
        return Principal(user=LOCAL, role=Role.ADMIN)

    def ended(self, access: Access) -> None:
        """Told to the audit."""
        self._audited(access)


def require_same_origin(headers: Mapping[str, str]) -> None:
    """``ForgeryError`` when a browser says that the request comes from another site's page.

    Programs say nothing and pass; the Avi SDK sends the API's own address as ``Referer``.
    """
    host = _authority(headers.get("host", ""))
    if headers.get("sec-fetch-site", "none") not in {"none", "same-origin"}:
        raise ForgeryError(why="the browser says that it comes from another site")
    for name in ("origin", "referer"):
        said = headers.get(name)
        if said is None:
            continue
        try:
            parts = urlsplit(said)
        except ValueError:
            parts = urlsplit("")
        if parts.scheme not in {"https", "http"} or _authority(parts.netloc) != host:
            raise ForgeryError(why=f"its {name.capitalize()} is not this API's address")


def _authority(netloc: str) -> str:
    return netloc.rpartition("@")[2].lower().removesuffix(":443")


def _require_tenant(headers: Mapping[str, str]) -> None:
    for name in ("x-avi-tenant", "x-avi-tenant-uuid"):
        tenant = headers.get(name)
        if tenant is not None and tenant.strip() not in ONE_TENANT:
            raise TenantUnknownError(tenant=tenant[:64])


def _cookies(headers: Mapping[str, str]) -> dict[str, str]:
    sent = headers.get("cookie", "")
    if len(sent) > MAX_COOKIE_BYTES:
        return {}
    # Not by http.cookies: it stops at another application's cookie that is not as it likes them.
    found: dict[str, str] = {}
    for pair in sent.split(";"):
        name, equals, value = pair.partition("=")
        if equals:
            found.setdefault(name.strip(), value.strip().strip('"'))
    return found


def _credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise UnauthenticatedError(what="only HTTP Basic and Bearer are understood")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as why:
        raise UnauthenticatedError(what="what was sent is not HTTP Basic") from why
    user, colon, password = text.partition(":")
    if not colon or len(text.encode()) > MAX_PASSWORD_BYTES:
        raise UnauthenticatedError(what="what was sent is not HTTP Basic")
    return user, password
