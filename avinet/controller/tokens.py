"""One-time tokens as the controller keeps them: issued, claimed, used up, revoked, expired.

A token's text is shown once and never stored; its hash is.  In the store a token is

- ``token-info/<id>``: what it is for, kept for a week after its end so that a late use can be told from a
  forged one (``TokenRecord``);
- ``token/<id>``: a marker under a lease, so that 60 minutes are counted by the store and not by a wall clock.  A
  token is good as long as its marker stands.  The marker of a token for one SE is deleted by the enrolment
  that spends it;
- ``token-use/<id>/<n>``: one key, under the same lease, for each use of a group's token.  An enrolment claims a
  number in memory and the store makes it exact, so that a thousand enrolments on one token share a commit
  instead of queueing for one counter.

``claim`` says what to compare and write; the enrolment puts that into its own transaction, then settles or
releases the claim.
"""

from collections.abc import Callable, Sequence

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.controller.token_errors import (
    TokenCountError,
    TokenExpiredError,
    TokenNotFoundError,
    TokenRevokedError,
    TokenSpentError,
    TokenUnknownError,
    TooManyTokensError,
)
from avinet.errors import AvinetError
from avinet.model.ids import SeId, TokenId
from avinet.store.interface import (
    NO_LEASE,
    Change,
    Compare,
    Delete,
    Entry,
    LeaseId,
    Operation,
    Put,
    Store,
    StoreUnavailableError,
)
from avinet.trust.tokens import matches, new_token, parse_token, secret_hash
from avinet.units import DAY_S, HOUR_S

TOKEN_TTL_S = HOUR_S
"""60 min, as the product that this follows."""
KEEP_ENDED_S = 7 * DAY_S
"""How long an ended token can still be named in an answer to "why was my SE refused"."""
MAX_TOKENS = 20_000
"""Records at one time, ended ones included: 10,000 SEs created in bulk, twice."""
MAX_GROUP_COUNT = 10_000
"""Uses of one group token."""

MARKER = "token/"
INFO = "token-info/"
USE = "token-use/"


class TokenRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one token is for.  Times are UNIX seconds; ``hash`` proves nothing to who reads it."""

    id: TokenId
    hash: str
    group: str
    se: SeId | None = None
    """The record it is bound to; None for a group's token."""
    count: int = 1
    created_at: float = 0.0
    expires_at: float = 0.0
    """For people; what counts is the lease."""
    revoked_at: float | None = None
    spent_at: float | None = None
    """When its one SE enrolled."""


@attrs.frozen
class NewToken:
    """A token about to exist: ``puts`` belong into the transaction that makes it."""

    record: TokenRecord
    text: str = attrs.field(repr=False)
    puts: tuple[Operation, ...]


@attrs.frozen
class Claim:
    """One use of a token, held until ``settle`` or ``release``."""

    token: TokenId
    slot: int | None
    compares: tuple[Compare, ...]
    lease: LeaseId = NO_LEASE
    after: TokenRecord | None = None
    """What becomes of a token for one SE."""

    def operations(self, se: SeId) -> tuple[Operation, ...]:
        """What spends it for ``se``."""
        if self.slot is None:
            return (Delete(MARKER + self.token), Put(INFO + self.token, msgspec.json.encode(self.after)))
        return (Put(_use_key(self.token, self.slot), se.encode(), self.lease),)


@attrs.frozen
class TokenView:
    """One row of a list.  ``state`` is ``active``, ``spent``, ``expired`` or ``revoked``."""

    record: TokenRecord
    used: int
    state: str


@attrs.define
class _Token:
    """A record with what memory knows of its marker and its uses; a use under way has no SE yet."""

    record: TokenRecord
    marker_revision: int = 0
    lease: LeaseId = NO_LEASE
    uses: dict[int, SeId | None] = attrs.field(factory=dict)
    next_slot: int = 0


def revocation(record: TokenRecord) -> tuple[Operation, ...]:
    """What ends a token in the store, given the record as it is afterwards."""
    return (Delete(MARKER + record.id), Put(INFO + record.id, msgspec.json.encode(record)))


def _use_key(token: TokenId, slot: int) -> str:
    return f"{USE}{token}/{slot:05d}"


@attrs.define(eq=False)
class Tokens:
    """All tokens of this cluster."""

    store: Store
    clock: IReactorTime
    ttl_s: float = TOKEN_TTL_S
    make: Callable[[], tuple[TokenId, str]] = new_token
    _tokens: dict[TokenId, _Token] = attrs.field(factory=dict, init=False, repr=False)

    async def load(self) -> None:
        """Read all from the store."""
        self._tokens.clear()
        for prefix in self.prefixes:
            for entry in (await self.store.list(prefix)).entries:
                self._take(entry.key, entry)

    # Following, see ``Mirror``

    @property
    def prefixes(self) -> tuple[str, ...]:
        """Records first: markers and uses are of one."""
        return INFO, MARKER, USE

    def revisions(self) -> dict[str, int]:
        """Of every key; only those of markers are kept, and to take one of the others again changes nothing."""
        found: dict[str, int] = {}
        for name, token in self._tokens.items():
            found[INFO + name] = 0
            if token.marker_revision:
                found[MARKER + name] = token.marker_revision
            found.update((_use_key(name, slot), 0) for slot, se in token.uses.items() if se is not None)
        return found

    def took(self, changes: Sequence[Change]) -> None:
        """What others wrote, or a lease ended."""
        for prefix in self.prefixes:
            for change in changes:
                if change.key.startswith(prefix):
                    self._take(change.key, change.entry)

    def _take(self, key: str, entry: Entry | None) -> None:
        kind, _, name = key.partition("/")
        if kind == "token-info":
            self._take_record(TokenId(name), entry)
            return
        token = self._tokens.get(TokenId(name.split("/")[0]))
        if token is None:
            return
        if kind == "token":
            token.marker_revision = 0 if entry is None else entry.revision
            token.lease = token.lease if entry is None else entry.lease
        elif entry is None:
            token.uses.pop(int(name.partition("/")[2]), None)
        else:
            token.uses[int(name.partition("/")[2])] = SeId(entry.value.decode())

    def _take_record(self, identifier: TokenId, entry: Entry | None) -> None:
        if entry is None:
            self._tokens.pop(identifier, None)
            return
        record = msgspec.json.decode(entry.value, type=TokenRecord)
        token = self._tokens.setdefault(identifier, _Token(record))
        token.record = record

    # Writing

    async def prune(self) -> None:
        """Forget those that ended long ago; what is alive is the store's to say, since our clock may be years ahead."""
        limit = self.clock.seconds() - KEEP_ENDED_S
        alive = {entry.key.removeprefix(MARKER) for entry in (await self.store.list(MARKER)).entries}
        tokens = [t for t in self._tokens.values() if t.record.id not in alive]
        for old in [t for t in tokens if t.record.expires_at < limit]:
            await self.store.transact([], [Delete(INFO + old.record.id), Delete(MARKER + old.record.id)])
            self._tokens.pop(old.record.id, None)

    async def prepare(self, group: str, se: SeId | None = None, count: int = 1) -> NewToken:
        """A new token and its lease; it exists once the caller has written ``puts`` and calls ``adopt``."""
        if not 1 <= count <= MAX_GROUP_COUNT:
            raise TokenCountError(count=count, limit=MAX_GROUP_COUNT)
        if len(self._tokens) >= MAX_TOKENS:
            await self.prune()
            if len(self._tokens) >= MAX_TOKENS:
                raise TooManyTokensError(limit=MAX_TOKENS)
        identifier, text = self.make()
        now = self.clock.seconds()
        record = TokenRecord(
            id=identifier,
            hash=secret_hash(text),
            group=group,
            se=se,
            count=count,
            created_at=now,
            expires_at=now + self.ttl_s,
        )
        lease = await self.store.grant_lease(self.ttl_s)
        return NewToken(
            record,
            text,
            (
                Put(INFO + identifier, msgspec.json.encode(record)),
                Put(MARKER + identifier, (se or group).encode(), lease),
            ),
        )

    def adopt(self, new: NewToken, revision: int) -> None:
        """The store has written the token."""
        if new.record.id in self._tokens:
            return  # followed
        lease = next(put.lease for put in new.puts if isinstance(put, Put) and put.lease != NO_LEASE)
        self._tokens[new.record.id] = _Token(new.record, revision, lease)

    async def issue(self, group: str, count: int = 1, se: SeId | None = None) -> NewToken:
        """A token of its own transaction: for a group, or for a record that exists already."""
        new = await self.prepare(group, se, count)
        self.adopt(new, (await self.store.transact([], new.puts)).revision)
        return new

    def identify(self, text: str) -> TokenRecord:
        """The token that ``text`` proves knowledge of, ended or not; ``TokenUnknownError`` for anything else."""
        try:
            identifier = parse_token(text)
        except AvinetError as failure:
            raise TokenUnknownError from failure
        token = self._tokens.get(identifier)
        if token is None or not matches(text, token.record.hash):
            raise TokenUnknownError
        return token.record

    def claim(self, identifier: TokenId) -> Claim:
        """Hold one use of a token that is good as far as memory knows; the store has the last word."""
        token = self._tokens[identifier]
        if token.record.revoked_at is not None:
            raise TokenRevokedError(token=identifier)
        if token.record.spent_at is not None:
            raise TokenSpentError(token=identifier)
        if not token.marker_revision:
            raise TokenExpiredError(token=identifier)
        compares = (Compare(MARKER + identifier, token.marker_revision),)
        if token.record.se is not None:
            after = msgspec.structs.replace(token.record, spent_at=self.clock.seconds())
            return Claim(identifier, None, compares, after=after)
        while token.next_slot in token.uses:
            token.next_slot += 1
        slot = token.next_slot
        if slot >= token.record.count:
            raise TokenSpentError(token=identifier)
        token.uses[slot] = None
        token.next_slot += 1
        return Claim(identifier, slot, (*compares, Compare(_use_key(identifier, slot), 0)), token.lease)

    def settle(self, claim: Claim, se: SeId) -> None:
        """The store has written the claim."""
        token = self._tokens.get(claim.token)
        if token is None:
            return
        if claim.after is not None:
            token.record, token.marker_revision = claim.after, 0
        elif claim.slot is not None:
            token.uses[claim.slot] = se

    def release(self, claim: Claim) -> None:
        """The claim was not written, as far as is known."""
        token = self._tokens.get(claim.token)
        if token is not None and claim.slot is not None and token.uses.get(claim.slot, "") is None:
            del token.uses[claim.slot]
            token.next_slot = min(token.next_slot, claim.slot)

    async def refresh(self, claim: Claim) -> None:
        """Read again what the store says about a claim that it did not accept."""
        token = self._tokens.get(claim.token)
        if token is None:
            return
        entry = await self.store.get(MARKER + claim.token)
        token.marker_revision = 0 if entry is None else entry.revision
        if entry is None:
            info = await self.store.get(INFO + claim.token)
            if info is not None:
                token.record = msgspec.json.decode(info.value, type=TokenRecord)
        if claim.slot is not None:
            use = await self.store.get(_use_key(claim.token, claim.slot))
            if use is not None:
                token.uses[claim.slot] = SeId(use.value.decode())

    def withdrawal(self, se: SeId) -> tuple[TokenRecord, ...]:
        """The tokens bound to ``se`` that are good as far as memory knows, as they are after its deletion."""
        now = self.clock.seconds()
        return tuple(
            msgspec.structs.replace(token.record, revoked_at=now)
            for token in self._tokens.values()
            if token.record.se == se and token.marker_revision
        )

    def withdrawn(self, records: tuple[TokenRecord, ...]) -> None:
        """The store has written what ``revocation`` says about these."""
        for record in records:
            token = self._tokens.get(record.id)
            if token is not None:
                token.record, token.marker_revision = record, 0

    async def list(self) -> list[TokenView]:
        """Every token, newest first, with its state as the store sees it now; as it was seen last, without a store."""
        try:
            markers = {entry.key.removeprefix(MARKER) for entry in (await self.store.list(MARKER)).entries}
        except StoreUnavailableError:
            markers = {str(name) for name, token in self._tokens.items() if token.marker_revision}
        views = [self._view(token, alive=token.record.id in markers) for token in self._tokens.values()]
        return sorted(views, key=lambda view: -view.record.created_at)

    def _view(self, token: _Token, *, alive: bool) -> TokenView:
        record = token.record
        used = sum(se is not None for se in token.uses.values()) + (record.spent_at is not None)
        if record.revoked_at is not None:
            return TokenView(record, used, "revoked")
        if used >= record.count:
            return TokenView(record, used, "spent")
        return TokenView(record, used, "active" if alive else "expired")

    async def revoke(self, identifier: str) -> TokenRecord:
        """End a token now; what has enrolled with it stays enrolled."""
        token = self._tokens.get(TokenId(identifier))
        if token is None:
            raise TokenNotFoundError(token=identifier)
        record = msgspec.structs.replace(token.record, revoked_at=self.clock.seconds())
        await self.store.transact([], revocation(record))
        token.record, token.marker_revision = record, 0
        return record
