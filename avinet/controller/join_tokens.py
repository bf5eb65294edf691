"""One-time tokens with which a machine becomes a controller.  Nothing is kept in memory: the root key may move.

In the store a token is ``join-info/<id>``, which is kept for a day after its end, so that a late use can be told from
a forged one; and ``join-token/<id>``, a marker under a lease, so that ten minutes are counted by the store and not by a
wall clock.  The list in which the new controller is, the marker's removal and the word of who spent it are one
transaction (``Joining``).
"""

from typing import ClassVar

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ControllerName, Thumbprint, TokenId
from avinet.store.interface import Compare, Delete, Operation, Put, Store
from avinet.trust.tokens import matches, new_token, parse_token, secret_hash
from avinet.units import DAY_S, MINUTE_S

TTL_S = 10 * MINUTE_S
"""Enough to carry a file to a machine and run one command there."""
KEEP_ENDED_S = DAY_S
MAX_TOKENS = 100
"""Records at one time, ended ones of the last day included; a cluster has 7 controllers at most."""

MARKER = "join-token/"
INFO = "join-info/"


@error
class JoinTokenUnknownError(AvinetError):
    """The bundle's token is not one of this cluster's, or was altered. Copy the bundle whole, or make another: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.DENIED


@error
class JoinTokenExpiredError(AvinetError):
    """The bundle is too old: its token {token} was good for 10 minutes. Make another: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.DENIED
    token: TokenId


@error
class JoinTokenSpentError(AvinetError):
    """The bundle was used already, by another machine or state folder: its token {token} is spent. Make another: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    token: TokenId


@error
class TooManyJoinTokensError(AvinetError):
    """There were {limit} bundles within a day already. Wait for the oldest to be forgotten."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


class JoinToken(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one is for.  Times are UNIX seconds; ``hash`` proves nothing to who reads it."""

    id: TokenId
    hash: str
    replaces: str = ""
    created_at: float = 0.0
    expires_at: float = 0.0
    """For people; what counts is the lease."""
    spent_by: Thumbprint = Thumbprint("")
    """Of the node key that joined with it."""
    name: ControllerName = ControllerName("")
    """What it is called."""


@attrs.frozen
class JoinClaim:
    """What spends a token: belongs into the transaction with the list."""

    compares: tuple[Compare, ...]
    operations: tuple[Operation, ...]


@attrs.define(eq=False)
class JoinTokens:
    """All of them, in the store."""

    store: Store
    clock: IReactorTime

    async def issue(self, replaces: str = "") -> tuple[JoinToken, str]:
        """A new token and its text, which is shown once and never stored."""
        await self._prune()
        identifier, text = new_token()
        now = self.clock.seconds()
        token = JoinToken(
            id=identifier,
            hash=secret_hash(text),
            replaces=replaces,
            created_at=now,
            expires_at=now + TTL_S,
        )
        lease = await self.store.grant_lease(TTL_S)
        await self.store.transact(
            [],
            [
                Put(INFO + identifier, msgspec.json.encode(token)),
                Put(MARKER + identifier, b"", lease),
            ],
        )
        return token, text

    async def identify(self, text: str) -> JoinToken:
        """The token that ``text`` proves knowledge of, ended or not; ``JoinTokenUnknownError`` for anything else."""
        try:
            identifier = parse_token(text)
        except AvinetError as failure:
            raise JoinTokenUnknownError from failure
        entry = await self.store.get(INFO + identifier)
        if entry is None:
            raise JoinTokenUnknownError
        token = msgspec.json.decode(entry.value, type=JoinToken)
        if not matches(text, token.hash):
            raise JoinTokenUnknownError
        return token

    async def claim(self, token: JoinToken, name: ControllerName, thumbprint: Thumbprint) -> JoinClaim:
        """Spend a token that is good now; the transaction fails if it is not any more."""
        marker = await self.store.get(MARKER + token.id)
        if marker is None:
            info = await self.store.get(INFO + token.id)
            if info is not None and msgspec.json.decode(info.value, type=JoinToken).spent_by:
                raise JoinTokenSpentError(token=token.id)
            raise JoinTokenExpiredError(token=token.id)
        spent = msgspec.structs.replace(token, spent_by=thumbprint, name=name)
        return JoinClaim(
            (Compare(MARKER + token.id, marker.revision),),
            (Delete(MARKER + token.id), Put(INFO + token.id, msgspec.json.encode(spent))),
        )

    async def _prune(self) -> None:
        """Forget those that ended a day ago; whether one lives is the store's to say, since our clock may be off."""
        listing = await self.store.list(INFO)
        alive = {entry.key.removeprefix(MARKER) for entry in (await self.store.list(MARKER)).entries}
        limit = self.clock.seconds() - KEEP_ENDED_S
        tokens = [msgspec.json.decode(entry.value, type=JoinToken) for entry in listing.entries]
        old = [token.id for token in tokens if token.expires_at < limit and token.id not in alive]
        if old:
            await self.store.transact([], [Delete(INFO + identifier) for identifier in old])
        if len(tokens) - len(old) >= MAX_TOKENS:
            raise TooManyJoinTokensError(limit=MAX_TOKENS)
