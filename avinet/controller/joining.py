"""How a machine becomes a controller, and how one tells what has changed about it: judged by who has the root key.

A request with a token joins.  Whoever asks is an operator with a bundle, so each refusal says in words what is wrong,
to the caller as well as in an event.  What is done, in this order, and where it is cut the same request goes on:

1. with a bundle that gives another's place: that one is taken out of the state engine (``Removal`` says why first);
2. one transaction of the store: the new list, and the token as spent by this node key;
3. the list's local copy, then all who live by it (``Members``);
4. the state engine lets the new one in, and the answer says what it is to be started with.

A token spent by this very node key is the same request once more, and gets facts as they are now: it needs no live
token.  A request without a token is a member's own, by the node key that the list has for it.
"""

from collections import OrderedDict
from typing import ClassVar

import attrs
from twisted.internet.defer import DeferredLock
from twisted.internet.interfaces import IReactorTime

from avinet.controller.engines import Emit
from avinet.controller.failure_budget import FailureBudget, plain_address
from avinet.controller.growth import OutsideGrowth, StateEngineGrowth
from avinet.controller.join_tokens import JoinToken, JoinTokens, JoinTokenSpentError
from avinet.controller.newcomers import check_newcomer, check_node_key, check_places, warn_of_size
from avinet.controller.root_holder import Draft, RootHolder, RootHolderLeavesError, with_controller
from avinet.errors import AvinetError, Kind, error
from avinet.model.events import Level
from avinet.model.ids import ClusterId, ControllerName
from avinet.model.membership import Controller, Membership
from avinet.trust.ca import bears_key, days_left
from avinet.trust.joining import ControllerClaims, open_claims, parse_api_key
from avinet.trust.keys import fingerprint, parse_line, thumbprint
from avinet.trust.node import RENEW_DAYS
from avinet.units import MINUTE_S
from avinet.wire.joining import JoinAnswer, StateAdmission

CLOCK_SKEW_S = 5 * MINUTE_S
"""As of an SE: with a live token it is told, and no reason to refuse."""
REPLAY_S = 15 * MINUTE_S
"""A member's request is good for so long by the clocks of both, and once."""
MAX_NONCES = 1_000
"""Requests of members within that time; each asks once at its start and then once a day."""

QUIET = frozenset({Kind.UNAVAILABLE, Kind.NO_SPACE, Kind.LIMITED, Kind.TIMEOUT})
"""Not the caller's doing: costs it nothing and is no event."""


@error
class WrongClusterError(AvinetError):
    """This is cluster {cluster}, and the request is for {asked}. The bundle belongs to another cluster; make one here: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.DENIED
    cluster: str
    asked: str


@error
class NotMemberError(AvinetError):
    """Controller {name} is not in membership list {number}: it was removed from the cluster, or never joined it. To join: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.GONE
    name: str
    number: int


@error
class NodeKeyForeignError(AvinetError):
    """The request is not signed by the node key of controller {name}. If it lost its key: avinet cluster replace {name}."""

    kind: ClassVar[Kind] = Kind.DENIED
    name: str


@error
class RequestStaleError(AvinetError):
    """The request was made {apart_s:.0f} s away from the time that it is here, or came twice. Set the clocks of both controllers right (NTP), then try again."""

    kind: ClassVar[Kind] = Kind.DENIED
    apart_s: float


@error
class StateKeyMissingError(AvinetError):
    """The request names no key for the new controller's state engine. Use the release that the cluster runs."""

    kind: ClassVar[Kind] = Kind.INVALID


@error
class ReplacedGoneError(AvinetError):
    """The bundle gives the place of controller {name}, which is not in the cluster any more. For a further one: avinet cluster bundle."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    name: str


@error
class TooManyJoinFailuresError(AvinetError):
    """Too many requests from this address were refused. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    retry_after_s: float


@attrs.define(eq=False)
class Joining:
    """Judges them, on whichever controller has the root key."""

    cluster: ClusterId
    holder: RootHolder
    tokens: JoinTokens
    growth: StateEngineGrowth
    budget: FailureBudget
    clock: IReactorTime
    emit: Emit
    _turn: DeferredLock = attrs.field(factory=DeferredLock, init=False, repr=False)
    _nonces: OrderedDict[str, float] = attrs.field(factory=OrderedDict, init=False, repr=False)

    async def judge(self, body: bytes, source: str) -> JoinAnswer:
        """The answer; else the error that the caller is to read."""
        source = plain_address(source)
        wait_s = self.budget.wait_s(source)
        if wait_s > 0:
            raise TooManyJoinFailuresError(retry_after_s=wait_s)
        try:
            return await self._judge(body, source)
        except AvinetError as failure:
            if failure.kind not in QUIET:
                self.budget.failed(source)
                self.emit(
                    "CONTROLLER_REFUSED",
                    Level.WARNING,
                    source,
                    f"A controller's request from {source} was refused: {failure}",
                    reason=failure.reason,
                )
            raise

    async def _judge(self, body: bytes, source: str) -> JoinAnswer:
        claims = open_claims(body)
        if claims.cluster != self.cluster:
            raise WrongClusterError(cluster=self.cluster, asked=claims.cluster[:64])
        await self.holder.require()
        # Memory is behind the store after a full disk kept a list from its local copy.
        await self.holder.members.refresh()
        if claims.token is None:
            return self._answer(claims, await self._tell(claims))
        # One after another: a request sent again while its first is under way is to find that done.
        await self._turn.acquire()
        try:
            token = await self.tokens.identify(claims.token)
            if token.spent_by:
                member = self._joined(claims, token)
            else:
                member = await self._join(claims, token, source)
            # Whoever has no state engine of its own asks for nothing there.
            key = parse_line(claims.state_key or claims.node_key)
            state = await self.growth.admit(member, key)
        finally:
            self._turn.release()
        return self._answer(claims, member, state)

    # A newcomer

    @property
    def _outside(self) -> bool:
        return isinstance(self.growth, OutsideGrowth)

    def _joined(self, claims: ControllerClaims, token: JoinToken) -> Controller:
        """The same request once more."""
        if token.spent_by != thumbprint(parse_line(claims.node_key)):
            raise JoinTokenSpentError(token=token.id)
        return self._member(claims)

    async def _join(self, claims: ControllerClaims, token: JoinToken, source: str) -> Controller:
        node_key = parse_line(claims.node_key)
        name = ControllerName(claims.name)
        await self.growth.require()
        self._others(claims, token, self.holder.members.current)
        if not (claims.state_key or self._outside):
            raise StateKeyMissingError
        await self.tokens.claim(token, name, thumbprint(node_key))
        if token.replaces:
            await self.growth.dismiss(ControllerName(token.replaces))
        pem = self.holder.root.issue_node(node_key, self.cluster, claims.name).decode()
        member = claims.controller(pem)

        async def make(before: Membership) -> Draft | None:
            if before.by_name(name) == member:
                return None  # done by an attempt whose answer was lost
            others = self._others(claims, token, before)
            claim = await self.tokens.claim(token, name, thumbprint(node_key))
            return Draft((*others, member), claim.compares, claim.operations)

        change = self.holder.change_after_dismissal if token.replaces else self.holder.change
        after = await change(make)
        self._welcome(claims, token, source, after)
        return member

    def _others(
        self, claims: ControllerClaims, token: JoinToken, before: Membership
    ) -> tuple[Controller, ...]:
        """Who is beside the new one, once it has been checked against them."""
        if token.replaces == self.holder.members.name:
            raise RootHolderLeavesError(name=token.replaces)
        if token.replaces and before.by_name(token.replaces) is None:
            raise ReplacedGoneError(name=token.replaces)
        others = tuple(known for known in before.controllers if known.name != token.replaces)
        check_newcomer(others, claims.controller(""), own_engine=not self._outside)
        check_node_key(others, claims.node_key)
        return others

    def _welcome(self, claims: ControllerClaims, token: JoinToken, source: str, after: Membership) -> None:
        key = fingerprint(parse_line(claims.node_key))
        place = f" in the place of {token.replaces}" if token.replaces else ""
        self.emit(
            "CONTROLLER_JOINED",
            Level.INFO,
            claims.name,
            f"Controller {claims.name} joined from {source}{place}, with node key {key}.",
            source=source,
            fingerprint=key,
            token=token.id,
            replaces=token.replaces,
            membership=after.number,
        )
        warn_of_size(self.emit, after)
        skew = claims.issued_at - self.clock.seconds()
        if abs(skew) > CLOCK_SKEW_S:
            self.emit(
                "CONTROLLER_CLOCK_SKEW",
                Level.WARNING,
                claims.name,
                f"The clock of controller {claims.name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}.",
                skew_s=round(skew),
            )

    # A member

    async def _tell(self, claims: ControllerClaims) -> Controller:
        """The list says what a member says of itself, with a fresh certificate where the old one nears its end."""
        self._member(claims)
        self._require_fresh(claims)
        told: list[Controller] = []

        async def make(before: Membership) -> Draft | None:
            known = self._member(claims)
            pem = known.node_certificate
            if days_left(pem.encode(), self.clock.seconds()) < RENEW_DAYS:
                key = parse_line(claims.node_key)
                pem = self.holder.root.issue_node(key, self.cluster, claims.name).decode()
            member = claims.controller(pem)
            check_places((other for other in before.controllers if other.name != known.name), member)
            told[:] = [member]
            return None if member == known else Draft(with_controller(before, member))

        await self.holder.change(make)
        return told[0]

    def _member(self, claims: ControllerClaims) -> Controller:
        """The member that made the request."""
        current = self.holder.members.current
        known = current.by_name(claims.name)
        if known is None:
            raise NotMemberError(name=claims.name, number=current.number)
        if not bears_key(known.node_certificate.encode(), parse_line(claims.node_key)):
            raise NodeKeyForeignError(name=claims.name)
        return known

    def _require_fresh(self, claims: ControllerClaims) -> None:
        """Whoever has recorded a member's request must not bring back an address that it had."""
        now = self.clock.seconds()
        while self._nonces and next(iter(self._nonces.values())) < now - 2 * REPLAY_S:
            self._nonces.popitem(last=False)
        apart_s = abs(claims.issued_at - now)
        if apart_s > REPLAY_S or claims.nonce in self._nonces or len(self._nonces) >= MAX_NONCES:
            raise RequestStaleError(apart_s=apart_s)
        self._nonces[claims.nonce] = now

    def _answer(
        self, claims: ControllerClaims, member: Controller, state: StateAdmission | None = None
    ) -> JoinAnswer:
        api = ""
        if claims.api_key:
            key = parse_api_key(claims.api_key)
            api = self.holder.root.issue_api(key, claims.api_names or claims.addresses).decode()
        return JoinAnswer(
            cluster=self.cluster,
            name=member.name,
            membership=self.holder.members.document,
            api_certificate=api,
            state=state,
        )
