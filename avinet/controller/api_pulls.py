"""The operator's routes for pulls: ``/api/logs/pull``, what is fetched from service engines and how far that is."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import attrs
import msgspec

from avinet.controller.pull_records import ENDED, PullOrder, PullState, PullView, ShareView
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.times import MAX_US, SECOND_US, instant_us, show_instant, size_bytes
from avinet.model.ids import ObjectId, SeId
from avinet.model.logs import MAX_PULL_BYTES, LogClass, Selection
from avinet.rest.problem import InvalidBodyError
from avinet.rest.route import Request, Response, Route

BASE = "/api/logs/pull"
MAX_NAMED = 1_000
"""Virtual services or service engines that one pull names; without any it is about all."""
MAX_RATE = 2**40
_Name = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]
_Words = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]


@error
class NothingToPullError(AvinetError):
    """There is no service engine to pull from. See: avinet se list."""

    kind: ClassVar[Kind] = Kind.CONFLICT


@error
class NoSuchServiceError(AvinetError):
    """There is no virtual service {name}. List them: avinet vs list."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    name: str


class PullWish(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to fetch.  Times are so long ago (``1h``) or RFC 3339, sizes are numbers or ``2GiB``."""

    since: _Words
    until: _Words | None = None
    vs: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_NAMED)] = ()
    """Names or UUIDs of virtual services; all when empty."""
    se: Annotated[tuple[_Name, ...], msgspec.Meta(max_length=MAX_NAMED)] = ()
    """Names or UUIDs of service engines; all when empty."""
    classes: tuple[LogClass, ...] = (LogClass.SIGNIFICANT, LogClass.FULL)
    byte_limit: int | _Words = 0
    """Compressed bytes, from each service engine; 0 is no limit."""
    rate: int | _Words = 0
    """Compressed bytes a second, from all of them together; 0 is no limit."""


class PullPart(msgspec.Struct, frozen=True, kw_only=True):
    """One service engine's part.  ``*_total`` are null until it has said them."""

    uuid: str
    name: str
    connected: bool
    state: PullState
    why: str
    limited: bool
    """The byte limit left some."""
    segments: int
    segments_total: int | None
    records: int
    records_total: int | None
    bytes: int
    bytes_total: int | None
    rate_bytes_per_s: float
    left_s: float | None


class PullRow(msgspec.Struct, frozen=True, kw_only=True):
    """One pull.  Bytes are compressed; times RFC 3339; ``stored``: what came of it can be asked about."""

    id: int
    url: str
    state: PullState
    stored: bool
    by: str
    created: str
    since: str
    until: str
    vs: tuple[str, ...]
    classes: tuple[LogClass, ...]
    byte_limit: int
    rate: int
    why: str
    segments: int
    segments_total: int | None
    records: int
    records_total: int | None
    bytes: int
    bytes_total: int | None
    rate_bytes_per_s: float
    left_s: float | None
    service_engines: tuple[PullPart, ...]


class PullList(msgspec.Struct, frozen=True, kw_only=True):
    """All pulls, newest first."""

    count: int
    results: tuple[PullRow, ...]


class Pulling(Protocol):
    """The pulls (``avinet.controller.pulls``)."""

    def create(self, order: PullOrder) -> Awaitable[PullView]:
        """Ask for it."""

    def all(self) -> Sequence[PullView]:
        """Newest first."""

    def get(self, pull: int) -> PullView:
        """One."""

    def pause(self, number: int) -> Awaitable[PullView]:
        """Nothing of it for now."""

    def resume(self, number: int) -> Awaitable[PullView]:
        """Go on."""

    def cancel(self, number: int) -> Awaitable[PullView]:
        """Nothing of it any more."""


@attrs.frozen(eq=False)
class PullFleet:
    """Who can be asked, and about what."""

    engines: Callable[[], Sequence[tuple[SeId, str]]]
    """UUIDs and names of those that have not been deleted."""
    engine: Callable[[str], SeId]
    """By name or UUID; its error says that there is none."""
    name_of: Callable[[SeId], str]
    connected: Callable[[SeId], bool]
    service: Callable[[str], ObjectId | None]
    """By name or UUID."""
    service_name: Callable[[ObjectId], str]


@attrs.define(eq=False)
class PullApi:
    """The handlers.  ``arrived`` and ``waits`` ask the ledger what is not in the store yet."""

    pulls: Pulling
    fleet: PullFleet
    now: Callable[[], float]
    arrived: Callable[[], Awaitable[int]]
    waits: Callable[[int], Awaitable[bool]]
    _ended_at: dict[int, int] = attrs.field(factory=dict, init=False)
    """Up to which arrival a pull's segments can be, once it has ended; -1: all of them are in the store."""

    # What it takes

    def _order(self, wish: PullWish, by: str) -> PullOrder:
        now_us = int(self.now() * SECOND_US)
        since = _instant("since", wish.since, now_us)
        until = MAX_US if wish.until is None else _instant("until", wish.until, now_us)
        if until <= since:
            raise InvalidBodyError(
                where="until", what="it is not after since, so there is nothing between them"
            )
        if not wish.classes:
            raise InvalidBodyError(where="classes", what=f"they are {' and '.join(LogClass)}; one at least")
        engines = tuple(map(self.fleet.engine, wish.se)) or tuple(uuid for uuid, _ in self.fleet.engines())
        if not engines:
            raise NothingToPullError
        return PullOrder(
            by=by,
            engines=engines,
            selection=Selection(
                services=tuple(map(self._service, wish.vs)),
                classes=wish.classes,
                since_us=since,
                until_us=until,
            ),
            byte_limit=_size("byte_limit", wish.byte_limit, MAX_PULL_BYTES),
            rate=_size("rate", wish.rate, MAX_RATE),
        )

    def _service(self, name: str) -> ObjectId:
        found = self.fleet.service(name)
        if found is not None:
            return found
        if name.startswith("virtualservice-"):
            return ObjectId(name)  # one that is deleted has logs still
        raise NoSuchServiceError(name=name)

    # What it answers

    async def row(self, view: PullView) -> PullRow:
        """A pull as lists show it."""
        order, parts = view.order, tuple(map(self._part, view.shares))
        known = None not in {part.bytes_total for part in parts}
        whole = [part for part in parts if part.bytes_total is not None] if known else []
        lefts = [part.left_s for part in parts if part.state not in ENDED]
        until = order.selection.until_us
        return PullRow(
            id=view.id,
            url=f"{BASE}/{view.id}",
            state=view.state,
            stored=await self._stored(view),
            by=order.by,
            created=show_instant(int(view.at * SECOND_US)),
            since=show_instant(order.selection.since_us),
            until=show_instant(until) if until < MAX_US else "",
            vs=tuple(map(self.fleet.service_name, order.selection.services)),
            classes=order.selection.classes,
            byte_limit=order.byte_limit,
            rate=order.rate,
            why="; ".join(f"{part.name}: {part.why}" for part in parts if part.why)[:1_000],
            segments=sum(part.segments for part in parts),
            segments_total=sum(part.segments_total or 0 for part in whole) if known else None,
            records=sum(part.records for part in parts),
            records_total=sum(part.records_total or 0 for part in whole) if known else None,
            bytes=sum(part.bytes for part in parts),
            bytes_total=sum(part.bytes_total or 0 for part in whole) if known else None,
            rate_bytes_per_s=sum(part.rate_bytes_per_s for part in parts),
            left_s=None if None in lefts else max((left for left in lefts if left is not None), default=0.0),
            service_engines=parts,
        )

    def _part(self, share: ShareView) -> PullPart:
        # An SE that has sent all of its part names no totals any more after a restart: it is what came.
        done = share.state in ENDED
        totals = (share.segments_in_all, share.records_in_all, share.size_in_all)
        came = (share.segments, share.records, share.size)
        segments, records, size = (
            now if whole is None and done else whole for whole, now in zip(totals, came, strict=True)
        )
        return PullPart(
            uuid=share.se,
            name=self.fleet.name_of(share.se),
            connected=self.fleet.connected(share.se),
            state=share.state,
            why=share.why,
            limited=share.limited,
            segments=share.segments,
            segments_total=segments,
            records=share.records,
            records_total=records,
            bytes=share.size,
            bytes_total=size,
            rate_bytes_per_s=share.rate,
            left_s=share.left_s,
        )

    async def _stored(self, view: PullView) -> bool:
        """Whether all that came of an ended pull is in the store."""
        if view.state not in ENDED:
            return False
        arrival = self._ended_at.get(view.id)
        if arrival is None:
            arrival = self._ended_at[view.id] = await self.arrived()
        if arrival >= 0 and not await self.waits(arrival):
            arrival = self._ended_at[view.id] = -1
        return arrival < 0

    # The routes

    async def create(self, request: Request) -> Response:
        """``POST /api/logs/pull``."""
        view = await self.pulls.create(self._order(request.body, request.principal or ""))
        row = await self.row(view)
        return Response(status=201, body=row, headers={"Location": row.url})

    async def list(self, request: Request) -> Response:
        """``GET /api/logs/pull``."""
        rows = [await self.row(view) for view in self.pulls.all()]
        kept = {row.id for row in rows}
        for number in self._ended_at.keys() - kept:
            del self._ended_at[number]
        return Response(body=PullList(count=len(rows), results=tuple(rows)))

    async def show(self, request: Request) -> Response:
        """``GET /api/logs/pull/{pull}``."""
        return Response(body=await self.row(self.pulls.get(_number(request))))

    def _changed(self, change: Callable[[int], Awaitable[PullView]]) -> Any:
        async def handle(request: Request) -> Response:
            return Response(body=await self.row(await change(_number(request))))

        return handle

    def routes(self) -> tuple[Route, ...]:
        """All of ``/api/logs/pull``."""
        one = BASE + "/{pull}"
        none = {404: "No such pull."}
        changes = (
            ("pause", self.pulls.pause, "Nothing of a pull for now; what is on its way arrives."),
            ("resume", self.pulls.resume, "A paused pull goes on."),
            ("cancel", self.pulls.cancel, "End a pull; what came already stays."),
        )
        return (
            Route(
                method="POST",
                path=BASE,
                handler=self.create,
                summary="Fetch full logs from service engines into this controller's store; it goes on by itself.",
                request=PullWish,
                response=PullRow,
                leader=False,
                statuses={201: "It has begun.", 404: "No such service engine or virtual service.", 409: "There is no service engine."},
            ),
            Route(method="GET", path=BASE, handler=self.list, summary="Every pull, newest first.", response=PullList),
            Route(
                method="GET",
                path=one,
                handler=self.show,
                summary="One pull and how far each service engine is.",
                response=PullRow,
                statuses={200: "As it is now.", **none},
            ),
            *(
                Route(
                    method="POST",
                    path=f"{one}/{name}",
                    handler=self._changed(change),
                    summary=summary,
                    response=PullRow,
                    leader=False,
                    statuses={200: "Done.", **none, 409: "It has ended."},
                )
                for name, change, summary in changes
            ),
        )  # fmt: skip


def _number(request: Request) -> int:
    text = request.params["pull"]
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise NoSuchPullError(pull=text)
    return int(text)


@error
class NoSuchPullError(AvinetError):
    """There is no pull {pull!r}. List them: avinet logs pulls."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    pull: str


def _instant(where: str, text: str, now_us: int) -> int:
    found = instant_us(text, now_us)
    if found is None:
        raise InvalidBodyError(where=where, what=f"{text!r} is no time; say 1h, 2d, or 2026-11-27T12:00:00Z")
    return found


def _size(where: str, given: int | str, most: int) -> int:
    found = given if isinstance(given, int) else size_bytes(given)
    if found is None or not 0 <= found <= most:
        raise InvalidBodyError(
            where=where, what=f"{given!r} is no size from 0 to {most}; say 1500, 10MiB, 2GiB"
        )
    return found
