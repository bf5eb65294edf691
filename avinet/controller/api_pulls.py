"""The operator's routes for pulls: ``/api/logs/pull``, what is fetched from service engines and how far that is."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, ClassVar, Protocol

import attrs
import msgspec

from avinet.controller.pull_cluster import PullsOfAll
from avinet.controller.pull_records import PullOrder, PullView
from avinet.controller.pull_rows import BASE, PullRow, PullRows
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Missing
from avinet.logs.query.times import MAX_US, SECOND_US, instant_us, size_bytes
from avinet.model.ids import ObjectId
from avinet.model.logs import MAX_PULL_BYTES, LogClass, Selection
from avinet.rest.problem import InvalidBodyError
from avinet.rest.route import Request, Response, Route

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


class PullList(msgspec.Struct, frozen=True, kw_only=True):
    """All pulls, newest first."""

    count: int
    results: tuple[PullRow, ...]
    missing: tuple[Missing, ...] = ()
    """Controllers that have not said which they have."""


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
class PullApi:
    """The handlers; what is new is a pull of this controller."""

    pulls: Pulling
    rows: PullRows
    cluster: PullsOfAll
    now: Callable[[], float]

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
        engines = tuple(map(self.rows.fleet.engine, wish.se)) or tuple(
            uuid for uuid, _ in self.rows.fleet.engines()
        )
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
        found = self.rows.fleet.service(name)
        if found is not None:
            return found
        if name.startswith("virtualservice-"):
            return ObjectId(name)  # one that is deleted has logs still
        raise NoSuchServiceError(name=name)

    # The routes

    async def create(self, request: Request) -> Response:
        """``POST /api/logs/pull``."""
        view = await self.pulls.create(self._order(request.body, request.principal or ""))
        row = await self.rows.row(view)
        return Response(status=201, body=row, headers={"Location": row.url})

    async def list(self, request: Request) -> Response:
        """``GET /api/logs/pull``."""
        rows, missing = await self.cluster.all()
        return Response(body=PullList(count=len(rows), results=tuple(rows), missing=missing))

    async def show(self, request: Request) -> Response:
        """``GET /api/logs/pull/{pull}``."""
        name, number = await self.cluster.find(request.params["pull"])
        if name != self.rows.me:
            return Response(body=await self.cluster.shown(name, number))
        return Response(body=await self.rows.row(self.pulls.get(number)))

    def _changed(self, what: str, change: Callable[[int], Awaitable[PullView]]) -> Any:
        async def handle(request: Request) -> Response:
            name, number = await self.cluster.find(request.params["pull"])
            if name != self.rows.me:
                return await self.cluster.changed(name, number, what, request)
            return Response(body=await self.rows.row(await change(number)))

        return handle

    def routes(self) -> tuple[Route, ...]:
        """All of ``/api/logs/pull``."""
        one = BASE + "/{pull}"
        none = {404: "No such pull.", 409: "Several controllers have a pull of that number."}
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
            Route(method="GET", path=BASE, handler=self.list, summary="Every pull of every controller, newest first.", response=PullList),
            Route(
                method="GET",
                path=one,
                handler=self.show,
                summary="One pull and how far each service engine is; ``7@c1`` is number 7 of controller c1.",
                response=PullRow,
                statuses={200: "As it is now.", **none},
            ),
            *(
                Route(
                    method="POST",
                    path=f"{one}/{name}",
                    handler=self._changed(name, change),
                    summary=summary,
                    response=PullRow,
                    leader=False,
                    statuses={200: "Done.", **none, 409: "It has ended, or several controllers have a pull of that number."},
                )
                for name, change, summary in changes
            ),
        )  # fmt: skip


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
