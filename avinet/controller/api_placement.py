"""The routes of where virtual services are: ``/api/placement``.  One is named by UUID or by name."""

import attrs
import msgspec

from avinet.controller.placement_view import PlacementView, ServicePlacement
from avinet.rest.route import Request, Response, Route

BASE = "/api/placement"
MAX_PAGE = 1_000


class PlacementQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a list may be narrowed by.  ``short``: only those on fewer SEs than their group's minimum, or only the others."""

    name: str | None = None
    group: str | None = None
    short: bool | None = None
    page: int = 1
    page_size: int = MAX_PAGE


class PlacementList(msgspec.Struct, frozen=True, kw_only=True):
    """A page; ``count`` is of all that match."""

    count: int
    results: tuple[ServicePlacement, ...]


@attrs.frozen(eq=False)
class PlacementApi:
    """The handlers."""

    view: PlacementView

    async def list(self, request: Request) -> Response:
        """``GET /api/placement``."""
        query: PlacementQuery = request.query
        found = [
            one
            for one in self.view.services()
            if query.name in {None, one.name}
            and query.group in {None, one.group}
            and query.short in {None, one.short}
        ]
        size = max(1, min(query.page_size, MAX_PAGE))
        start = (max(1, query.page) - 1) * size
        return Response(body=PlacementList(count=len(found), results=tuple(found[start : start + size])))

    async def get(self, request: Request) -> Response:
        """``GET /api/placement/{uuid}``."""
        return Response(body=self.view.service(request.params["uuid"]))

    def routes(self) -> tuple[Route, ...]:
        """Both."""
        return (
            Route(
                method="GET",
                path=BASE,
                handler=self.list,
                summary="Where every virtual service is placed, and what is short.",
                query=PlacementQuery,
                response=PlacementList,
            ),
            Route(
                method="GET",
                path=BASE + "/{uuid}",
                handler=self.get,
                summary="Where one virtual service is placed.",
                response=ServicePlacement,
                statuses={200: "Done.", 404: "No such virtual service."},
            ),
        )
