"""Access tokens: what a program shows instead of a password (``Authorization: Bearer avo1.<id>.<secret>``).

The secret is 256 random bits and is told once; the store (``accesstoken/<id>``) has its SHA-256, which is enough for
so many bits.  The id is in the token's text, so that a token found somewhere can be recognised and revoked.  A token
belongs to a user and can do no more than that user can now: it ends with the user, and rests while the user is
disabled.  It always expires.
"""

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from avinet.errors import AvinetError, Kind, error
from avinet.rest.access import Role
from avinet.store.interface import Change, Compare, Delete, Put, Store
from avinet.units import DAY_S

PREFIX = "accesstoken/"
MARK = "avo1"
"""By which scanners for leaked secrets can know one."""
DEFAULT_LIFE_S = 90 * DAY_S
MAX_LIFE_S = 366 * DAY_S
"""A year: whatever uses it will have been looked at by then."""
MIN_LIFE_S = 60.0
MAX_OF_USER = 100
"""A program each; more are made by a script that should keep its token."""
MAX_TOKENS = 2_000
"""In all; some 400 bytes each in memory."""
KEEP_ENDED_S = 30 * DAY_S
"""An expired token is listed for so long, so that whoever asks why something stopped can see it."""
NOTE_USE_S = 300.0
"""The time of last use is written no more often: a busy program must not make every read a write."""

_TEXT = re.compile(rf"{MARK}\.([0-9a-f]{{16}})\.([A-Za-z0-9_-]{{43}})")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_log = Logger()


@error
class TokenNameError(AvinetError):
    """{name!r} cannot be a token's name: 1 to 63 letters, digits and . _ @ - that begin with a letter or digit."""

    kind: ClassVar[Kind] = Kind.INVALID
    name: str


@error
class TokenNameTakenError(AvinetError):
    """{user} has a token {name} already. Revoke it first, or take another name."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    user: str
    name: str


@error
class TokenLifeError(AvinetError):
    """A token lives from {least_s:.0f} to {most_s:.0f} seconds, not {life_s:.0f}."""

    kind: ClassVar[Kind] = Kind.INVALID
    life_s: float
    least_s: float = MIN_LIFE_S
    most_s: float = MAX_LIFE_S


@error
class AccessTokenUnknownError(AvinetError):
    """There is no access token {token}. See: avinet access-token list."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    token: str


@error
class TooManyAccessTokensError(AvinetError):
    """There are {limit} access tokens {where} already. Revoke some that are not used any more."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int
    where: str


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One token as stored.  ``uid`` is its user's; times are UNIX seconds."""

    id: str
    name: str
    user: str
    uid: str
    role: Role
    hash: str
    created_at: float
    expires_at: float
    used_at: float | None = None

    @property
    def prefix(self) -> str:
        """How its text begins, by which it can be recognised."""
        return f"{MARK}.{self.id}."

    def __repr__(self) -> str:
        return f"TokenRecord(id={self.id!r}, name={self.name!r}, user={self.user!r})"


@attrs.frozen
class NewAccessToken:
    """``text`` is shown now and never again."""

    text: str = attrs.field(repr=False)
    record: TokenRecord


@attrs.frozen(kw_only=True)
class Owner:
    """Whose a token is to be."""

    user: str
    uid: str


@attrs.define(eq=False)
class AccessTokens:
    """All tokens.  ``load`` before anything else."""

    store: Store
    clock: IReactorTime
    """UNIX seconds."""
    ended: Callable[[TokenRecord], None] = lambda token: None
    """Told of each that was revoked."""
    notes: Callable[[], bool] = lambda: True
    """Whether uses may be written: only who leads does; on others they are known until the next start."""
    _held: dict[str, tuple[TokenRecord, int]] = attrs.field(factory=dict, init=False, repr=False)
    _used_at: dict[str, float] = attrs.field(factory=dict, init=False, repr=False)

    async def load(self) -> None:
        """Read all."""
        for entry in (await self.store.list(PREFIX)).entries:
            self._take(msgspec.json.decode(entry.value, type=TokenRecord), entry.revision)

    # Following, see ``Mirror``

    @property
    def prefixes(self) -> tuple[str, ...]:
        """One."""
        return (PREFIX,)

    def revisions(self) -> dict[str, int]:
        """Of every token that the store has."""
        return {PREFIX + token: revision for token, (_, revision) in self._held.items() if revision}

    def took(self, changes: Sequence[Change]) -> None:
        """What others wrote."""
        for change in changes:
            token = change.key.removeprefix(PREFIX)
            if change.entry is None:
                self._drop(token)
            else:
                self._take(msgspec.json.decode(change.entry.value, type=TokenRecord), change.revision)

    def _take(self, record: TokenRecord, revision: int) -> None:
        _, has = self._held.get(record.id, (None, 0))
        if has < revision:
            self._held[record.id] = (record, revision)

    # Reading

    def all(self, user: str | None = None) -> list[TokenRecord]:
        """Every token, or a user's, newest first."""
        found = [self._seen(record) for record, _ in self._held.values() if user in {None, record.user}]
        return sorted(found, key=lambda record: -record.created_at)

    def _seen(self, record: TokenRecord) -> TokenRecord:
        used_at = self._used_at.get(record.id, record.used_at)
        return msgspec.structs.replace(record, used_at=used_at)

    def find_for(self, user: str, token: str, *, everybodys: bool) -> TokenRecord:
        """A user's own token by its id or name, or with ``everybodys`` any by its id."""
        for record in self.all(user):
            if token in {record.id, record.name}:
                return record
        held = self._held.get(token)
        if held is None or not everybodys:
            raise AccessTokenUnknownError(token=token[:64])
        return held[0]

    def is_live(self, record: TokenRecord) -> bool:
        """Whether it has not expired."""
        return self.clock.seconds() < record.expires_at

    async def create(self, owner: Owner, name: str, role: Role, life_s: float) -> NewAccessToken:
        """A new token."""
        if not _NAME.fullmatch(name):
            raise TokenNameError(name=name[:64])
        if not MIN_LIFE_S <= life_s <= MAX_LIFE_S:
            raise TokenLifeError(life_s=life_s)
        await self._drop_ended()
        of_user = self.all(owner.user)
        if any(record.name == name and self.is_live(record) for record in of_user):
            raise TokenNameTakenError(user=owner.user, name=name)
        if len(of_user) >= MAX_OF_USER:
            raise TooManyAccessTokensError(limit=MAX_OF_USER, where=f"of {owner.user}")
        if len(self._held) >= MAX_TOKENS:
            raise TooManyAccessTokensError(limit=MAX_TOKENS, where="in all")
        secret, now = secrets.token_urlsafe(32), self.clock.seconds()
        record = TokenRecord(
            id=secrets.token_hex(8),
            name=name,
            user=owner.user,
            uid=owner.uid,
            role=role,
            hash=_hash(secret).hex(),
            created_at=now,
            expires_at=now + life_s,
        )
        key = PREFIX + record.id
        self._held[record.id] = (record, 0)  # before the wait: its name and its place are taken
        try:
            outcome = await self.store.transact([Compare(key, 0)], [Put(key, msgspec.json.encode(record))])
        except BaseException:
            self._held.pop(record.id, None)
            raise
        if not outcome.followed:
            self._take(record, outcome.revision)
        elif not self._held.get(record.id, (record, 1))[1]:
            del self._held[record.id]  # gone again before the answer came
        return NewAccessToken(record.prefix + secret, record)

    async def revoke(self, record: TokenRecord) -> None:
        """End a token, now."""
        await self._delete(record.id)

    async def revoke_of(self, user: str) -> None:
        """End all of a user's."""
        for record in self.all(user):
            await self._delete(record.id)

    def verified(self, text: str) -> TokenRecord | None:
        """The token whose text it is, if it has not ended; whose user it is and may what, others decide."""
        match = _TEXT.fullmatch(text)
        record, _ = self._held.get(match[1], (None, 0)) if match else (None, 0)
        wanted = bytes(32) if record is None else bytes.fromhex(record.hash)
        is_right = hmac.compare_digest(_hash(match[2] if match else text), wanted)
        if record is None or not is_right or not self.is_live(record):
            return None
        return record

    def note_use(self, record: TokenRecord) -> None:
        """It has just let somebody in."""
        now = self.clock.seconds()
        self._used_at[record.id] = now
        held, revision = self._held.get(record.id, (record, 0))
        if not self.notes() or (held.used_at is not None and 0 <= now - held.used_at < NOTE_USE_S):
            return
        noted = msgspec.structs.replace(held, used_at=now)
        self._held[record.id] = (noted, revision)
        writing = Deferred.fromCoroutine(self._write_use(noted, revision))
        writing.addErrback(lambda why: _log.failure("the use of token {id} was not noted", why, id=noted.id))

    async def _write_use(self, noted: TokenRecord, revision: int) -> None:
        key = PREFIX + noted.id
        outcome = await self.store.transact([Compare(key, revision)], [Put(key, msgspec.json.encode(noted))])
        if outcome.succeeded and not outcome.followed and noted.id in self._held:
            self._take(noted, outcome.revision)

    async def _drop_ended(self) -> None:
        limit = self.clock.seconds() - KEEP_ENDED_S
        for record, _ in list(self._held.values()):
            if record.expires_at < limit:
                await self._delete(record.id)

    async def _delete(self, token: str) -> None:
        # The store first: a token that ended in memory alone would be back after a restart.
        await self.store.transact([], [Delete(PREFIX + token)])
        self._drop(token)

    def _drop(self, token: str) -> None:
        held = self._held.pop(token, None)
        self._used_at.pop(token, None)
        if held is not None:
            self.ended(held[0])


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode("utf-8", "replace")).digest()
