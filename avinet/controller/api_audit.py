"""``GET /api/audit``: who changed what, as a list, or as a stream that goes on (``Accept: text/event-stream``)."""

from collections.abc import Callable, Sequence
from typing import Annotated

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.controller.api_events import DEFAULT_LIMIT, MAX_ID, MAX_LIMIT, resume_from
from avinet.controller.audit import Audit, AuditEntry, entry_of
from avinet.rest.access import Role
from avinet.rest.problem import InvalidQueryError
from avinet.rest.route import Request, Response, Route
from avinet.rest.stream import EVENT_STREAM_TYPE, EventStream, Item


class AuditQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which entries: those after id ``since``, without it the newest; of one ``user``."""

    since: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] | None = None
    limit: Annotated[int, msgspec.Meta(ge=1, le=MAX_LIMIT)] = DEFAULT_LIMIT
    user: Annotated[str, msgspec.Meta(min_length=1, max_length=63)] | None = None


class AuditPage(msgspec.Struct, frozen=True):
    """Entries, oldest first; asking again with ``since`` of ``last_id`` goes on where this ends."""

    count: int
    results: tuple[AuditEntry, ...]
    last_id: int


@attrs.frozen
class _Source:
    audit: Audit

    def since(self, after: int, limit: int) -> Deferred[Sequence[Item]]:
        return self.audit.log.since(after, limit).addCallback(
            lambda page: [Item(event.id, event.code, msgspec.json.encode(entry_of(event))) for event in page]
        )

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        return self.audit.follow(lambda event: woken())


def audit_routes(audit: Audit, clock: IReactorTime) -> tuple[Route, ...]:
    """The table."""

    async def read(request: Request) -> Response:
        query: AuditQuery = request.query
        if EVENT_STREAM_TYPE in request.headers.get("accept", ""):
            if query.user is not None:
                raise InvalidQueryError(where="user", what="a stream has everybody's entries")
            stream = EventStream(_Source(audit), resume_from(request, audit.log.last_id()), clock)
            return Response(body=stream, content_type=EVENT_STREAM_TYPE)
        page, last_id = await audit.page(query.since, query.limit, query.user)
        return Response(body=AuditPage(len(page), page, last_id))

    return (
        Route(
            method="GET",
            path="/api/audit",
            handler=read,
            summary="Every write and what came of it, oldest first; with Accept: text/event-stream those to come too.",
            query=AuditQuery,
            response=AuditPage,
            role=Role.ADMIN,
        ),
    )
