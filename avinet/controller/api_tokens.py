"""The operator's routes for one-time tokens: ``/api/setoken``."""

from collections.abc import Callable
from typing import ClassVar

import attrs
import msgspec

from avinet.controller.api_engines import DEFAULT_GROUP, GroupNotFoundError
from avinet.controller.engines import Emit, Engines
from avinet.controller.tokens import NewToken, TokenView
from avinet.errors import AvinetError, Kind, error
from avinet.model.events import Level
from avinet.rest.route import Request, Response, Route
from avinet.wire.registration import MetaInfo

BASE = "/api/setoken"


@error
class TokenForEngineError(AvinetError):
    """A token for one service engine has a count of 1 and that engine's group; leave count and group out."""

    kind: ClassVar[Kind] = Kind.INVALID


class TokenRow(msgspec.Struct, frozen=True, kw_only=True):
    """One token; times are UNIX seconds, ``state`` is ``active``, ``spent``, ``expired`` or ``revoked``."""

    uuid: str
    url: str
    group: str
    se: str | None
    count: int
    used: int
    state: str
    created_at: float
    expires_at: float


class TokenList(msgspec.Struct, frozen=True, kw_only=True):
    """All tokens, newest first."""

    count: int
    results: tuple[TokenRow, ...]


class TokenWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For ``count`` new SEs of ``group``, or for one that exists and has not enrolled: ``se`` by UUID or name."""

    group: str | None = None
    count: int | None = None
    se: str | None = None


class CreatedToken(msgspec.Struct, frozen=True, kw_only=True):
    """``meta_info`` holds the token's text, which is shown only now."""

    token: TokenRow
    meta_info: MetaInfo


def row_of(view: TokenView) -> TokenRow:
    """A token as lists show it."""
    record = view.record
    return TokenRow(
        uuid=record.id,
        url=f"{BASE}/{record.id}",
        group=record.group,
        se=record.se,
        count=record.count,
        used=view.used,
        state=view.state,
        created_at=record.created_at,
        expires_at=record.expires_at,
    )


@attrs.frozen(eq=False)
class TokenApi:
    """The handlers."""

    engines: Engines
    emit: Emit
    meta: Callable[[str], MetaInfo]
    has_group: Callable[[str], bool]

    async def list(self, request: Request) -> Response:
        """``GET /api/setoken``."""
        rows = tuple(row_of(view) for view in await self.engines.tokens.list())
        return Response(body=TokenList(count=len(rows), results=rows))

    async def create(self, request: Request) -> Response:
        """``POST /api/setoken``."""
        token = await self._issue(request.body)
        self.emit(
            "TOKEN_CREATED",
            Level.INFO,
            token.record.id,
            f"A token for {token.record.se or token.record.count} of group {token.record.group} was created.",
            group=token.record.group,
            count=token.record.count,
            se=token.record.se,
        )
        row = row_of(TokenView(token.record, 0, "active"))
        return Response(status=201, body=CreatedToken(token=row, meta_info=self.meta(token.text)))

    async def _issue(self, wish: TokenWish) -> NewToken:
        if wish.se is not None:
            if wish.group is not None or wish.count is not None:
                raise TokenForEngineError
            return await self.engines.reissue(self.engines.named(wish.se).uuid)
        group = DEFAULT_GROUP if wish.group is None else wish.group
        if not self.has_group(group):
            raise GroupNotFoundError(group=group)
        return await self.engines.tokens.issue(group, 1 if wish.count is None else wish.count)

    async def revoke(self, request: Request) -> Response:
        """``DELETE /api/setoken/{uuid}``."""
        record = await self.engines.tokens.revoke(request.params["uuid"])
        self.emit(
            "TOKEN_REVOKED", Level.INFO, record.id, f"Token {record.id} was revoked.", group=record.group
        )
        return Response(status=204)

    def routes(self) -> tuple[Route, ...]:
        """All of ``/api/setoken``."""
        return (
            Route(
                method="GET",
                path=BASE,
                handler=self.list,
                summary="Every one-time token.",
                response=TokenList,
            ),
            Route(
                method="POST",
                path=BASE,
                handler=self.create,
                summary="A token for new service engines of a group, or a new one for one that has not enrolled.",
                request=TokenWish,
                response=CreatedToken,
                statuses={
                    201: "Created.",
                    404: "No such group or service engine.",
                    409: "It enrolled already.",
                },
            ),
            Route(
                method="DELETE",
                path=BASE + "/{uuid}",
                handler=self.revoke,
                summary="End a token; what enrolled with it stays enrolled.",
                statuses={204: "Revoked.", 404: "No such token."},
            ),
        )
