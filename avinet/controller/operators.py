"""Who is an operator: HTTP Basic on the TLS surface, file permissions on the UNIX socket.

A password is verified by scrypt, which costs tens of milliseconds and 16 MiB on purpose, so it runs on a thread of
its own and few may wait for it.  A login that was right is remembered for a minute by a keyed hash of what was
sent, never by the password.  Failures draw on a budget of their source (``FailureBudget``); a login that is
remembered passes whatever its neighbours do.  The answer to a wrong name and to a wrong password is the same, and
takes as long.
"""

import base64
import binascii
import hmac
from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.python.failure import Failure

from avinet.controller.failure_budget import FailureBudget
from avinet.errors import AvinetError, Kind, error
from avinet.rest.problem import UnauthenticatedError
from avinet.rest.route import Caller
from avinet.trust.node import Admin, password_hash

LOCAL = "local"
"""The principal on the UNIX socket: whoever may open a 0600 socket could read every key beside it."""
REMEMBER_S = 60.0
"""Scripts call many times in a row; a password that was changed holds for no longer than this."""
MAX_REMEMBERED = 100
"""Distinct logins at once; there is one admin, so this is clients that spell its header differently."""
MAX_WAITING = 20
"""Half a second of scrypt, at some 25 ms each."""
MAX_PASSWORD_BYTES = 1_024
FAILURES_BURST = 10
"""Typing errors of a few people behind one address."""
FAILURES_PER_S = 0.1
"""Six guesses a minute a source: against 128 random bits, or even eight letters, that is never."""


@error
class TooManyLoginsError(AvinetError):
    """Too many logins from {source} failed or wait. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    source: str
    retry_after_s: float


class Thread(Protocol):
    """Runs blocking calls away from the reactor."""

    def run(self, call: Callable[[], bool]) -> Deferred[bool]:
        """The call's result."""


LoginRefused = Callable[[str, str], None]
"""Told the source and the name tried (never the password) of each refused login; coalescing is its own."""


@attrs.define(eq=False)
class Operators:
    """Checks logins against the admin that ``init`` made."""

    _admin: Admin
    _clock: IReactorTime
    _thread: Thread
    _key: bytes = attrs.field(repr=False)
    """32 random bytes, for this process alone."""
    _refused: LoginRefused = lambda source, user: None
    _budget: FailureBudget = attrs.field(init=False)
    _remembered: OrderedDict[bytes, float] = attrs.field(factory=OrderedDict, init=False, repr=False)
    _waiting: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._budget = FailureBudget(self._clock, burst=FAILURES_BURST, per_s=FAILURES_PER_S)

    async def authenticate(self, caller: Caller) -> str:
        """The operator's name, for the router of the TLS surface."""
        if caller.authorization is None:
            raise UnauthenticatedError(what="send a user and a password by HTTP Basic")
        mark = hmac.digest(self._key, caller.authorization.encode(), "sha256")
        if self._remembers(mark):
            return self._admin.user
        wait_s = self._budget.wait_s(caller.peer)
        if wait_s > 0 or self._waiting >= MAX_WAITING:
            raise TooManyLoginsError(source=caller.peer, retry_after_s=max(1.0, wait_s))
        user, password = _credentials(caller.authorization)
        if not await self._verified(user, password, caller.peer):
            raise UnauthenticatedError(what="this user and password are not right")
        self._remember(mark)
        return self._admin.user

    def _verified(self, user: str, password: str, source: str) -> Deferred[bool]:
        """Whether they are right.  A caller that leaves frees no place and is spared no charge: the work goes on."""
        answer: Deferred[bool] = Deferred()
        self._waiting += 1

        def done(result: bool | Failure) -> None:  # noqa: FBT001 - a Deferred's callback
            self._waiting -= 1
            if result is False:
                self._budget.failed(source)
                self._refused(source, user)
            if not answer.called:
                answer.callback(result)

        self._thread.run(lambda: self._right(user, password)).addBoth(done)
        return answer

    def _right(self, user: str, password: str) -> bool:
        admin = self._admin
        found = password_hash(password, bytes.fromhex(admin.salt), admin.n, admin.r, admin.p)
        same_password = hmac.compare_digest(found, bytes.fromhex(admin.hash))
        same_user = hmac.compare_digest(user.encode(), admin.user.encode())
        return same_password and same_user

    def _remembers(self, mark: bytes) -> bool:
        until = self._remembered.get(mark)
        if until is None:
            return False
        # A wall clock set back must not prolong it, so an end further off than it ever could be is over too.
        return 0 < until - self._clock.seconds() <= REMEMBER_S

    def _remember(self, mark: bytes) -> None:
        self._remembered.pop(mark, None)
        self._remembered[mark] = self._clock.seconds() + REMEMBER_S
        while len(self._remembered) > MAX_REMEMBERED:
            self._remembered.popitem(last=False)


async def local_operator(caller: Caller) -> str:
    """The ``authenticate`` of the UNIX socket: being connected is the proof."""
    return LOCAL


def _credentials(authorization: str) -> tuple[str, str]:
    scheme, _, encoded = authorization.partition(" ")
    if scheme.lower() != "basic":
        raise UnauthenticatedError(what="only HTTP Basic is understood")
    try:
        text = base64.b64decode(encoded.strip(), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError, ValueError) as why:
        raise UnauthenticatedError(what="what was sent is not HTTP Basic") from why
    user, colon, password = text.partition(":")
    if not colon or len(text.encode()) > MAX_PASSWORD_BYTES:
        raise UnauthenticatedError(what="what was sent is not HTTP Basic")
    return user, password
