"""The operators: their names, roles and what verifies their passwords, kept in the store (``user/<name>``).

``init`` makes the first admin (``admin.json``); a controller whose store has no user takes it over, and from then on
the store alone counts.  There is always an admin who can log in: the last one can be neither removed, nor demoted,
nor disabled.  To hold that also when two admins act at once, on two controllers, every change compares and writes one
counter beside the record that it is about.

A password is verified by scrypt in a thread.  For a name that nobody has the same work is done on a record of nobody's,
so that an answer's time tells nothing; whether a user is disabled is looked at only after that.
"""

import hmac
import re
import secrets
from collections.abc import Callable, Sequence
from typing import ClassVar, Protocol, TypeVar

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.errors import AvinetError, Kind, error
from avinet.rest.access import Role
from avinet.store.interface import (
    Change,
    Compare,
    Delete,
    Entry,
    Operation,
    Put,
    Store,
    StoreUnavailableError,
)
from avinet.trust.node import Admin, password_hash

PREFIX = "user/"
CHANGES = "userchanges"
"""The counter; a key of its own, outside the prefix."""
MAX_USERS = 1_000
"""People and programs of one site; more belong into a directory service, and a list of them all is one answer."""
MIN_PASSWORD = 12
"""Characters.  Guesses are slowed down a source, not a user, so a botnet may try some; NIST SP 800-63B-4 asks for 15
where a password is all, and 12 random ones are beyond any such guessing."""
MAX_PASSWORD_BYTES = 1_024
MAX_TRIES = 5
"""Of a change that others overtake; each of them is done then."""
RESERVED = frozenset({"local", "unknown"})
"""What the UNIX socket's principal is called, and nobody."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_T = TypeVar("_T")


@error
class UserUnknownError(AvinetError):
    """There is no user {user}. See: avinet user list."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    user: str


@error
class UserExistsError(AvinetError):
    """There is a user {user} already. To change it: avinet user role {user} ROLE, avinet user password {user}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    user: str


@error
class UserNameError(AvinetError):
    """{user!r} cannot be a user's name: 1 to 63 letters, digits and . _ @ - that begin with a letter or digit, and neither local nor unknown."""

    kind: ClassVar[Kind] = Kind.INVALID
    user: str


@error
class WeakPasswordError(AvinetError):
    """The password is not accepted: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    why: str


@error
class LastAdminError(AvinetError):
    """{user} is the last admin who can log in, so nobody could undo this. Make another user admin first."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    user: str


@error
class TooManyUsersError(AvinetError):
    """There are {limit} users already. Delete some that are not needed any more."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


class Thread(Protocol):
    """Runs blocking calls away from the reactor."""

    def run(self, call: Callable[[], _T]) -> Deferred[_T]:
        """The call's result."""


class UserRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One user as stored.  ``uid`` tells two apart that had the same name one after the other; times are UNIX seconds."""

    name: str
    uid: str
    role: Role
    salt: str
    hash: str
    n: int
    r: int
    p: int
    disabled: bool = False
    created_at: float = 0.0
    password_at: float = 0.0

    def __repr__(self) -> str:
        return f"UserRecord(name={self.name!r}, role={self.role!r})"


def check_name(name: str) -> None:
    """``UserNameError`` unless it can be a user's."""
    if not _NAME.fullmatch(name) or name in RESERVED:
        raise UserNameError(user=name[:64])


def check_password(name: str, password: str) -> None:
    """``WeakPasswordError`` with the reason."""
    if len(password) < MIN_PASSWORD:
        raise WeakPasswordError(why=f"it has fewer than {MIN_PASSWORD} characters")
    if len(password.encode("utf-8", "surrogatepass")) > MAX_PASSWORD_BYTES:
        raise WeakPasswordError(why=f"it has more than {MAX_PASSWORD_BYTES} bytes")
    if not password.isprintable():
        raise WeakPasswordError(why="it has characters in it that cannot be printed")
    if len(set(password)) < 4 or (name.lower() in password.lower() and len(password) < 2 * len(name) + 6):
        raise WeakPasswordError(why="it is too easily guessed")


def hashed(password: str) -> tuple[str, str]:
    """(salt, hash) in hexadecimal; blocks for some 80 ms."""
    salt = secrets.token_bytes(16)
    return salt.hex(), password_hash(password, salt).hex()


@attrs.frozen
class _Held:
    record: UserRecord
    revision: int


_Edit = Callable[[UserRecord | None], UserRecord | None]


@attrs.define(eq=False)
class Users:
    """All users.  ``load`` before anything else; ``listen`` to be told whose rights changed."""

    store: Store
    clock: IReactorTime
    """UNIX seconds."""
    thread: Thread
    _held: dict[str, _Held] = attrs.field(factory=dict, init=False, repr=False)
    _changes: int = attrs.field(default=0, init=False)
    """The counter's revision."""
    _listeners: list[Callable[[str], None]] = attrs.field(factory=list, init=False, repr=False)
    _nobody: Admin = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._nobody = Admin(user="", salt=secrets.token_hex(16), hash=secrets.token_hex(32))

    async def load(self) -> None:
        """Read all."""
        await self._read()

    async def lead(self, first: Admin) -> None:
        """What only who writes may do: a store without users takes over the admin that ``init`` made."""
        if self._held:
            return
        now = self.clock.seconds()
        admin = UserRecord(
            name=first.user,
            uid=secrets.token_hex(8),
            role=Role.ADMIN,
            salt=first.salt,
            hash=first.hash,
            n=first.n,
            r=first.r,
            p=first.p,
            created_at=now,
            password_at=now,
        )
        await self._change(admin.name, lambda held: admin if held is None else held)

    async def _read(self) -> None:
        # The counter first: who knows an older one is refused, and who knows older users than it would not be.
        counter = await self.store.get(CHANGES)
        listing = await self.store.list(PREFIX)
        self._changes = 0 if counter is None else counter.revision
        there = {entry.key.removeprefix(PREFIX) for entry in listing.entries}
        for entry in listing.entries:
            self._take(_held_of(entry))
        for name in [name for name in self._held if name not in there]:
            self._drop(name)

    # Following, see ``Mirror``

    @property
    def prefixes(self) -> tuple[str, ...]:
        """The counter first, as above."""
        return CHANGES, PREFIX

    def revisions(self) -> dict[str, int]:
        """Of every user, and of the counter."""
        found = {PREFIX + name: held.revision for name, held in self._held.items()}
        return {**found, CHANGES: self._changes} if self._changes else found

    def took(self, changes: Sequence[Change]) -> None:
        """What others wrote."""
        for change in changes:
            if change.key == CHANGES:
                self._changes = max(self._changes, change.revision)
            elif change.entry is None:
                self._drop(change.key.removeprefix(PREFIX))
            else:
                self._take(_held_of(change.entry))

    def _take(self, new: _Held) -> None:
        """Whoever is here already as the store says stays the very same record; see ``verified``."""
        name = new.record.name
        held = self._held.get(name)
        if held is None or held.revision < new.revision:
            self._held[name] = new
            for listener in self._listeners:
                listener(name)

    def _drop(self, name: str) -> None:
        if self._held.pop(name, None) is not None:
            for listener in self._listeners:
                listener(name)

    def listen(self, changed: Callable[[str], None]) -> None:
        """Call ``changed`` with the name of each user whose role, password or being changed."""
        self._listeners.append(changed)

    # Reading

    def all(self) -> list[UserRecord]:
        """Every user, by name."""
        return sorted((held.record for held in self._held.values()), key=lambda record: record.name)

    def find(self, name: str) -> UserRecord | None:
        """The user of that name."""
        held = self._held.get(name)
        return None if held is None else held.record

    def get(self, name: str) -> UserRecord:
        """The same, or ``UserUnknownError``."""
        record = self.find(name)
        if record is None:
            raise UserUnknownError(user=name[:64])
        return record

    async def verified(self, name: str, password: str) -> UserRecord | None:
        """The user, if the password is right and the user may log in; None in every other case, after the same work."""
        record = self.find(name)
        found = self._nobody if record is None else record
        salt, wanted, cost = bytes.fromhex(found.salt), bytes.fromhex(found.hash), (found.n, found.r, found.p)

        def right() -> bool:
            return hmac.compare_digest(password_hash(password, salt, *cost), wanted)

        is_right = await self.thread.run(right)
        # Whoever was changed meanwhile proves it again.
        same = record is not None and self.find(name) is record
        return record if is_right and same and record is not None and not record.disabled else None

    # Changing

    async def create(self, name: str, role: Role, password: str) -> UserRecord:
        """A new user."""
        check_name(name)
        check_password(name, password)
        if len(self._held) >= MAX_USERS:
            raise TooManyUsersError(limit=MAX_USERS)
        salt, digest = await self.thread.run(lambda: hashed(password))
        now = self.clock.seconds()
        made = _record(name, role, salt, digest, now)

        def edit(before: UserRecord | None) -> UserRecord:
            if before is not None:
                raise UserExistsError(user=name)
            return made

        await self._change(name, edit)
        return made

    async def set_password(self, name: str, password: str) -> UserRecord:
        """Another password, from now on."""
        check_password(name, password)
        self.get(name)
        salt, digest = await self.thread.run(lambda: hashed(password))
        blank = _record(name, Role.READ_ONLY, salt, digest, self.clock.seconds())

        def edit(before: UserRecord) -> UserRecord:
            return msgspec.structs.replace(
                before, salt=salt, hash=digest, n=blank.n, r=blank.r, p=blank.p, password_at=blank.password_at
            )

        return await self._edit(name, edit)

    async def set_role(self, name: str, role: Role) -> UserRecord:
        """Another role, from now on."""
        return await self._edit(name, lambda before: msgspec.structs.replace(before, role=role))

    async def set_disabled(self, name: str, *, disabled: bool) -> UserRecord:
        """Whether the user's password, sessions and tokens count."""
        return await self._edit(name, lambda before: msgspec.structs.replace(before, disabled=disabled))

    async def delete(self, name: str) -> None:
        """Forget a user."""
        self.get(name)
        await self._change(name, lambda before: None)

    async def _edit(self, name: str, edit: Callable[[UserRecord], UserRecord]) -> UserRecord:
        def known(before: UserRecord | None) -> UserRecord:
            if before is None:
                raise UserUnknownError(user=name[:64])
            return edit(before)

        after = await self._change(name, known)
        assert after is not None  # noqa: S101 - for the checker: ``known`` gives a record
        return after

    async def _change(self, name: str, edit: _Edit) -> UserRecord | None:
        """Do one change by compare-and-set; others that come first are seen by the next try."""
        for _ in range(MAX_TRIES):
            held = self._held.get(name)
            before = None if held is None else held.record
            after = edit(before)
            if after == before:
                return after
            self._require_admin(name, after)
            key = PREFIX + name
            operation: Operation = Delete(key) if after is None else Put(key, msgspec.json.encode(after))
            outcome = await self.store.transact(
                [Compare(key, 0 if held is None else held.revision), Compare(CHANGES, self._changes)],
                [operation, Put(CHANGES, secrets.token_bytes(8))],
            )
            if outcome.succeeded:
                if not outcome.followed:
                    self._changes = max(self._changes, outcome.revision)
                    if after is None:
                        self._drop(name)
                    else:
                        self._take(_Held(after, outcome.revision))
                return after
            await self._read()
        raise StoreUnavailableError(where=PREFIX, detail="others change users all the time")

    def _require_admin(self, name: str, after: UserRecord | None) -> None:
        if after is not None and _is_admin(after):
            return
        held = self._held.get(name)
        others = any(_is_admin(other.record) for key, other in self._held.items() if key != name)
        if held is not None and _is_admin(held.record) and not others:
            raise LastAdminError(user=name)


def _is_admin(record: UserRecord) -> bool:
    return record.role is Role.ADMIN and not record.disabled


def _held_of(entry: Entry) -> _Held:
    return _Held(msgspec.json.decode(entry.value, type=UserRecord), entry.revision)


def _record(name: str, role: Role, salt: str, digest: str, now: float) -> UserRecord:
    cost = Admin(user=name, salt=salt, hash=digest)
    return UserRecord(
        name=name,
        uid=secrets.token_hex(8),
        role=role,
        salt=salt,
        hash=digest,
        n=cost.n,
        r=cost.r,
        p=cost.p,
        created_at=now,
        password_at=now,
    )
