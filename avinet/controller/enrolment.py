"""How a machine becomes a service engine: a signed request is judged and bound to a record exactly once.

The SE key's thumbprint is the identity.  A request whose key is bound already is the same request again (an
answer was lost, or an operator had to approve) and gets the facts as they are now; it needs no live token, no
good image and no budget, since both signatures prove whose it is.  A new key needs a good image and what its
group's policy asks for, and is bound in one transaction that spends the token, stores the record and claims the
key, each compared, so that whatever was lost or raced is found out and judged again.

Whoever asks learns little (``RegistrationRefusedError``); the operator's event names the check that failed.
"""

import base64
import json
from collections import Counter
from collections.abc import Callable
from typing import ClassVar

import attrs
import msgspec

from avinet.controller.admission import (
    Admission,
    GroupMissingError,
    ImageCountError,
    NothingShownError,
    admit,
)
from avinet.controller.engine_errors import EngineBusyError, EngineDeletedError
from avinet.controller.engine_index import Held
from avinet.controller.engines import KEY, MAX_ATTEMPTS, Engines
from avinet.controller.failure_budget import FailureBudget, plain_address
from avinet.controller.image_keys import ImageKeys
from avinet.controller.token_errors import TokenSpentError, TokenUnknownError
from avinet.controller.tokens import Claim, TokenRecord
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import ServiceEngineGroup
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.events import Level
from avinet.model.ids import ClusterId, SeId, Thumbprint, TokenId
from avinet.store.interface import Compare, Operation, Put
from avinet.trust.keys import fingerprint, parse_line, thumbprint
from avinet.trust.registration import Claims, open_request
from avinet.trust.tokens import parse_token
from avinet.units import MINUTE_S

CLOCK_SKEW_S = 5 * MINUTE_S
"""Further apart than this, the operator hears about it; with a live token it is no reason to refuse."""
MAX_IN_FLIGHT = 1_000
"""Requests waiting for the store at one time, about 20 MB; a commit takes all that wait."""
BUSY_RETRY_S = 2.0

_QUIET = frozenset({Kind.UNAVAILABLE, Kind.NO_SPACE, Kind.LIMITED, Kind.TIMEOUT})
"""Not the caller's doing: costs it nothing, and it may know."""

FindGroup = Callable[[str], ServiceEngineGroup | None]


@error
class RegistrationRefusedError(AvinetError):
    """The controller refused this registration. Its operator sees the reason: avinet events."""

    kind: ClassVar[Kind] = Kind.DENIED


@error
class RegistrationConflictError(AvinetError):
    """The token or key of this registration is bound to another machine. Make a new token: avinet se token create."""

    kind: ClassVar[Kind] = Kind.CONFLICT


@error
class RegistrationMalformedError(AvinetError):
    """This is not a registration request as this controller knows them."""

    kind: ClassVar[Kind] = Kind.INVALID


@error
class TooManyFailuresError(AvinetError):
    """Too many registrations from this address failed. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.LIMITED
    retry_after_s: float


@error
class EnrolmentBusyError(AvinetError):
    """This controller has {limit} registrations under way. Try again in {retry_after_s:.0f} s."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    limit: int
    retry_after_s: float = BUSY_RETRY_S


@error
class ForeignClusterError(AvinetError):
    """The registration is for cluster {cluster}, not for this one. Check the machine's image and meta-info."""

    kind: ClassVar[Kind] = Kind.DENIED
    cluster: str


@error
class KeyBoundError(AvinetError):
    """The SE key is bound to {se} by another token already. A machine cloned with its state must be wiped first."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    se: SeId


@attrs.frozen
class Applicant:
    """A request that proved both keys, with what follows from it."""

    claims: Claims
    thumbprint: Thumbprint
    source: str
    token: TokenId | None

    @classmethod
    def of(cls, claims: Claims, source: str) -> "Applicant":
        """``claims`` as they came from ``source``."""
        try:
            token = parse_token(claims.token) if claims.token else None
        except AvinetError as failure:
            raise TokenUnknownError from failure
        return cls(claims, thumbprint(parse_line(claims.se_key)), source, token)

    def bound(self, record: SeRecord, lifecycle: Lifecycle, now: float, *, placeable: bool) -> SeRecord:
        """``record`` once it is this machine's."""
        return msgspec.structs.replace(
            record,
            lifecycle=lifecycle,
            placeable=placeable,
            enrolled_at=now,
            image=self.claims.image,
            token=self.token,
            se_key=self.claims.se_key,
            host_key=self.claims.se_host_key,
            thumbprint=self.thumbprint,
            source=self.source,
        )


@attrs.define(eq=False)
class Enrolment:
    """Judges registrations.  ``groups`` finds a group by its name."""

    cluster: ClusterId
    engines: Engines
    images: ImageKeys
    groups: FindGroup
    budget: FailureBudget
    max_in_flight: int = MAX_IN_FLIGHT
    _in_flight: int = attrs.field(default=0, init=False)
    _counting: Counter[str] = attrs.field(factory=Counter, init=False, repr=False)

    async def enrol(self, body: bytes, source: str) -> SeRecord:
        """The record that the request's key is bound to, PENDING or further; else an error fit for strangers."""
        source = plain_address(source)
        if self._in_flight >= self.max_in_flight:
            raise EnrolmentBusyError(limit=self.max_in_flight)
        wait_s = self.budget.wait_s(source)
        if wait_s > 0 and not self._names_a_token(body):
            raise TooManyFailuresError(retry_after_s=wait_s)
        self._in_flight += 1
        try:
            record = await self._enrol(body, source)
        except AvinetError as failure:
            if failure.kind in _QUIET:
                raise
            self.budget.failed(source)
            self._report(failure, body, source)
            raise _for_strangers(failure) from failure
        else:
            # Whoever learns that this SE exists may reach for it with OpenSSH at once.
            await self.engines.permits.written()
            return record
        finally:
            self._in_flight -= 1

    def _names_a_token(self, body: bytes) -> bool:
        """Whether the request, unverified, shows a token's secret: then its source's failures are not its own."""
        token = _peek(body).get("token")
        try:
            return isinstance(token, str) and bool(self.engines.tokens.identify(token))
        except AvinetError:
            return False

    async def _enrol(self, body: bytes, source: str) -> SeRecord:
        claims = open_request(body, self.images.key)
        if claims.cluster != self.cluster:
            raise ForeignClusterError(cluster=claims.cluster)
        applicant = Applicant.of(claims, source)
        for _ in range(MAX_ATTEMPTS):
            known = self.engines.index.by_key(applicant.thumbprint)
            if known is not None:
                return _again(known.record, applicant)
            record = await self._bind(applicant, self._admit(applicant))
            if record is not None:
                self._welcome(record, applicant)
                return record
        raise EngineBusyError(se=source)

    def _admit(self, applicant: Applicant) -> Admission:
        image = self.images.require_good(applicant.claims.image)
        text = applicant.claims.token
        token = self.engines.tokens.identify(text) if text else None
        name = image.group if token is None else token.group
        if token is None and not name:
            raise NothingShownError
        group = self.groups(name)
        if group is None:
            raise GroupMissingError(group=name)
        return admit(group, token, applicant.source)

    async def _bind(self, applicant: Applicant, admission: Admission) -> SeRecord | None:
        """One attempt; None when the store knew better, and memory has been told."""
        if admission.token is None:
            return await self._bind_counted(applicant, admission)
        held = self._waiting_record(admission.token)
        claim = self.engines.tokens.claim(admission.token.id)
        try:
            if held is None:
                record = await self._bind_new(applicant, admission, claim)
            else:
                record = await self._bind_held(applicant, admission, claim, held)
            if record is None:
                await self.engines.tokens.refresh(claim)
                await self.engines.refresh_holder(KEY + applicant.thumbprint)
            else:
                self.engines.tokens.settle(claim, record.uuid)
        finally:
            self.engines.tokens.release(claim)
        return record

    def _waiting_record(self, token: TokenRecord) -> Held | None:
        """The record that a token was made for; None for a group's token."""
        if token.se is None:
            return None
        held = self.engines.index.get(token.se)
        if held is None or held.record.lifecycle is Lifecycle.DELETED:
            raise EngineDeletedError(se=token.se)
        if held.record.lifecycle is not Lifecycle.CREATING:
            raise TokenSpentError(token=token.id)
        return held

    async def _bind_held(
        self, applicant: Applicant, admission: Admission, claim: Claim, held: Held
    ) -> SeRecord | None:
        after = applicant.bound(
            held.record, admission.lifecycle, self.engines.clock.seconds(), placeable=held.record.placeable
        )
        compares, operations = _spend(applicant, after, claim)
        return after if await self.engines.write(held, after, compares, operations) else None

    async def _bind_new(
        self, applicant: Applicant, admission: Admission, claim: Claim | None
    ) -> SeRecord | None:
        fresh = self.engines.fresh("", admission.group.name)
        try:
            self.engines.check_new_name(fresh.name)
            after = applicant.bound(
                fresh, admission.lifecycle, fresh.created_at, placeable=not admission.by_image_alone
            )
            compares, operations = _spend(applicant, after, claim)
            return after if await self.engines.write_new(after, compares, operations) else None
        finally:
            self.engines.index.release(fresh.loopback)

    async def _bind_counted(self, applicant: Applicant, admission: Admission) -> SeRecord | None:
        name, limit = admission.group.name, admission.group.enrolment_count
        if self.engines.index.by_image_alone(name) + self._counting[name] >= limit:
            raise ImageCountError(group=name, limit=limit)
        self._counting[name] += 1
        try:
            record = await self._bind_new(applicant, admission, None)
            if record is None:
                await self.engines.refresh_holder(KEY + applicant.thumbprint)
        finally:
            self._counting[name] -= 1
        return record

    def _welcome(self, record: SeRecord, applicant: Applicant) -> None:
        emit, pending = self.engines.emit, record.lifecycle is Lifecycle.PENDING
        key = fingerprint(parse_line(record.se_key))
        said = f"waits for approval with key {key}" if pending else "enrolled"
        emit(
            "SE_PENDING" if pending else "SE_ENROLLED",
            Level.WARNING if pending else Level.INFO,
            record.uuid,
            f"Service engine {record.name} {said} from {record.source}.",
            name=record.name,
            group=record.group,
            source=record.source,
            fingerprint=key,
            image=record.image,
            token=record.token,
        )
        skew = applicant.claims.issued_at - self.engines.clock.seconds()
        if abs(skew) > CLOCK_SKEW_S:
            emit(
                "SE_CLOCK_SKEW",
                Level.WARNING,
                record.uuid,
                f"The clock of service engine {record.name} is {abs(skew):.0f} s {'ahead' if skew > 0 else 'behind'}.",
                name=record.name,
                skew_s=round(skew),
            )

    def _report(self, failure: AvinetError, body: bytes, source: str) -> None:
        """Tell the operator which check failed.  What the request claims is unverified and cut short."""
        claimed = _peek(body)
        image, token = claimed.get("image"), claimed.get("token")
        try:
            token_id = str(parse_token(token)) if isinstance(token, str) else None
        except AvinetError:
            token_id = None
        self.engines.emit(
            "ENROLMENT_REFUSED",
            Level.WARNING,
            source,
            f"A registration from {source} was refused: {failure}",
            reason=failure.reason,
            claimed_image=image[:64] if isinstance(image, str) else None,
            claimed_token=token_id,
        )


def _spend(
    applicant: Applicant, after: SeRecord, claim: Claim | None
) -> tuple[tuple[Compare, ...], tuple[Operation, ...]]:
    """What makes a binding exact beside the record itself: the key is new, the token's use is free."""
    key = KEY + applicant.thumbprint
    compares, operations = (Compare(key, 0),), (Put(key, after.uuid.encode()),)
    if claim is None:
        return compares, operations
    return (*compares, *claim.compares), (*operations, *claim.operations(after.uuid))


def _again(record: SeRecord, applicant: Applicant) -> SeRecord:
    """The same key once more."""
    if record.lifecycle is Lifecycle.DELETED:
        raise EngineDeletedError(se=record.uuid)
    if record.token != applicant.token:
        raise KeyBoundError(se=record.uuid)
    return record


def _for_strangers(failure: AvinetError) -> AvinetError:
    if failure.kind is Kind.GONE:
        return failure
    if failure.kind is Kind.CONFLICT:
        return RegistrationConflictError()
    if failure.kind is Kind.INVALID:
        return RegistrationMalformedError()
    return RegistrationRefusedError()


def _peek(body: bytes) -> dict[str, object]:
    """A request's claims without any check, for limits and reports only; empty when there are none to see."""
    try:
        payload = json.loads(body)["payload"]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (ValueError, TypeError, KeyError, RecursionError):
        return {}
    return claims if isinstance(claims, dict) else {}
