"""``GET /api/events``: the events as a list, or as a stream that goes on (``Accept: text/event-stream``)."""

from collections.abc import Callable, Sequence
from typing import Annotated

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.controller.events import Events
from avinet.model.events import Event
from avinet.rest.problem import InvalidQueryError
from avinet.rest.router import Request, Response, Route
from avinet.rest.stream import EVENT_STREAM_TYPE, EventStream, Item

DEFAULT_LIMIT = 100
MAX_LIMIT = 1_000
MAX_ID = 2**63 - 1
"""SQLite's largest integer."""


class EventsQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which events: those after id ``since``; without it the newest of a list, or what comes from now on."""

    since: Annotated[int, msgspec.Meta(ge=0, le=MAX_ID)] | None = None
    limit: int = DEFAULT_LIMIT


class EventPage(msgspec.Struct, frozen=True):
    """Events, oldest first; ``last_id`` is the newest there is, so that a caller knows whether to ask again."""

    count: int
    results: tuple[Event, ...]
    last_id: int


@attrs.frozen
class EventSource:
    """The events as a stream's source."""

    events: Events

    def since(self, after: int, limit: int) -> Deferred[Sequence[Item]]:
        """Events after an id, encoded."""
        return self.events.since(after, limit).addCallback(lambda page: [_item(event) for event in page])

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        """Wake the stream at each new event."""
        return self.events.follow(lambda event: woken())


def event_routes(events: Events, clock: IReactorTime) -> tuple[Route, ...]:
    """The table."""

    async def read(request: Request) -> Response:
        query: EventsQuery = request.query
        if not 1 <= query.limit <= MAX_LIMIT:
            raise InvalidQueryError(where="limit", what=f"it is {query.limit}; 1 to {MAX_LIMIT} can be had")
        if EVENT_STREAM_TYPE in request.headers.get("accept", ""):
            stream = EventStream(EventSource(events), resume_from(request, events.last_id()), clock)
            return Response(body=stream, content_type=EVENT_STREAM_TYPE)
        last = events.last_id()
        after = max(0, last - query.limit) if query.since is None else query.since
        page = await events.since(after, query.limit)
        return Response(body=EventPage(len(page), page, events.last_id()))

    return (
        Route(
            method="GET",
            path="/api/events",
            handler=read,
            summary="Events, oldest first; with Accept: text/event-stream those to come too, resumed by Last-Event-ID.",
            query=EventsQuery,
            response=EventPage,
            statuses={200: "Events."},
        ),
    )


def resume_from(request: Request, last_id: int) -> int:
    """Where a stream starts: after what its client saw last, or from now on.

    An id from the future (a client of a controller that was made anew) would never be reached: start from now.
    """
    seen = request.headers.get("last-event-id", "")
    if seen:
        if not (seen.isascii() and seen.isdigit() and len(seen) < 20):
            raise InvalidQueryError(where="Last-Event-ID", what="it is not an event's id")
        return min(int(seen), last_id)
    since: int | None = request.query.since
    return last_id if since is None else min(max(0, since), last_id)


def _item(event: Event) -> Item:
    return Item(event.id, event.code, msgspec.json.encode(event))
