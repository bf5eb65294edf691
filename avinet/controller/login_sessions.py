"""Login sessions: what a cookie stands for between a login and a logout.

A session's secret is 256 random bits that only its client has; here it is known by its SHA-256, so neither a look at
memory by chance nor the time of a look-up helps anybody.  Each has a second secret, the CSRF token, which its client
must repeat in a header of every write: another site's page can make a browser send the cookie, not the header.

Sessions are kept in memory.  A restart ends them all, clients log in again (the Avi SDK by itself on a 401), and what
a backup or a copied disk holds is no session.  They end after ``IDLE_S`` without a request, after ``LIFE_S`` in any
case, and at once when their user's rights change.
"""

import hashlib
import hmac
import secrets
from collections import OrderedDict
from collections.abc import Callable
from typing import ClassVar

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.errors import AvinetError, Kind, error

IDLE_S = 1_800.0
"""Half an hour; the SDK drops its side after 20 minutes, and OWASP gives 15 to 30 for such applications."""
LIFE_S = 12 * 3_600.0
"""A working day: a stolen cookie is good for no longer, however busy."""
MAX_SESSIONS = 1_000
"""In all; some 500 bytes each."""
MAX_OF_USER = 100
"""Scripts that never log out make one a run.  Over the bound the user's session that was idle longest ends."""


@error
class SessionEndedError(AvinetError):
    """The session has ended, or never was. Log in again."""

    kind: ClassVar[Kind] = Kind.DENIED
    http_status: ClassVar[int] = 401


@attrs.define(eq=False)
class Session:
    """One session.  ``id`` names it in logs and is no secret."""

    id: str
    user: str
    csrf: str = attrs.field(repr=False)
    started_at: float
    used_at: float


@attrs.frozen
class NewSession:
    """What its client is told, once."""

    secret: str = attrs.field(repr=False)
    session: Session


@attrs.define(eq=False)
class LoginSessions:
    """All sessions of this controller."""

    clock: IReactorTime
    _by_hash: OrderedDict[bytes, Session] = attrs.field(factory=OrderedDict, init=False, repr=False)
    """In order of their last use."""

    def __len__(self) -> int:
        return len(self._by_hash)

    def start(self, user: str) -> NewSession:
        """A session for a user who has just proved who it is."""
        self._drop_ended()
        of_user = [key for key, session in self._by_hash.items() if session.user == user]
        if len(of_user) >= MAX_OF_USER:
            del self._by_hash[of_user[0]]
        elif len(self._by_hash) >= MAX_SESSIONS:
            self._by_hash.popitem(last=False)
        secret, now = secrets.token_urlsafe(32), self.clock.seconds()
        session = Session(secrets.token_hex(6), user, secrets.token_urlsafe(32), now, now)
        self._by_hash[_hash(secret)] = session
        return NewSession(secret, session)

    def find(self, secret: str) -> Session:
        """The session that a cookie stands for, used now; ``SessionEndedError``."""
        key = _hash(secret)
        session = self._by_hash.get(key)
        if session is None or not self._lives(session):
            self._by_hash.pop(key, None)
            raise SessionEndedError
        session.used_at = self.clock.seconds()
        self._by_hash.move_to_end(key)
        return session

    def end(self, session_id: str) -> None:
        """A logout."""
        self._drop(lambda session: session.id == session_id)

    def end_of(self, user: str) -> None:
        """The user's rights have changed."""
        self._drop(lambda session: session.user == user)

    def count_of(self, user: str) -> int:
        """How many of a user's live."""
        return sum(session.user == user and self._lives(session) for session in self._by_hash.values())

    def _drop_ended(self) -> None:
        self._drop(lambda session: not self._lives(session))

    def _drop(self, ends: Callable[[Session], bool]) -> None:
        for key in [key for key, session in self._by_hash.items() if ends(session)]:
            del self._by_hash[key]

    def _lives(self, session: Session) -> bool:
        # A clock set back must not prolong it, so a time that is to come ends it too.
        now = self.clock.seconds()
        return 0 <= now - session.used_at < IDLE_S and 0 <= now - session.started_at < LIFE_S


def repeats(session: Session, token: str) -> bool:
    """Whether a request brought the session's CSRF token; takes as long whatever it brought."""
    return hmac.compare_digest(token.encode("utf-8", "replace"), session.csrf.encode())


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
