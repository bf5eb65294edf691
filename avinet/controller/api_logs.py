"""The operator's routes for what request logs say: ``/api/logs/query``, ``records``, ``export``, ``tail``, ``status``."""

import enum
import json
from collections.abc import Awaitable, Callable, Sequence
from typing import Annotated, Any, BinaryIO, ClassVar, Protocol

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.controller.log_status import LogsStatus
from avinet.controller.log_tail import LATER
from avinet.controller.log_tail_cluster import Tails
from avinet.controller.log_whereabouts import EngineLogs, Whereabouts
from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Answer, Missing
from avinet.logs.query.asked import (
    Question,
    UrlFilter,
    UrlQuestion,
    UrlWanted,
    Wanted,
    query_of,
    records_of,
)
from avinet.logs.query.expressions import Expression
from avinet.logs.query.parser import parse
from avinet.logs.query.shapes import Query, Whole
from avinet.logs.query.times import SECOND_US
from avinet.rest.file_body import FileBody
from avinet.rest.problem import InvalidQueryError
from avinet.rest.route import Handler, Request, Response, Route
from avinet.rest.stream import EVENT_STREAM_TYPE, EventStream, Source

BASE = "/api/logs"
QUERY_TIMEOUT_S = 120.0
"""50 million records take seconds; the store itself gives up earlier, and says so."""
EXPORT_TIMEOUT_S = 600.0
MAX_TAILS = 50
"""Each asks the store about each new file, once for all that ask the same."""
RECORDS_HEADER = "X-Avinet-Records"
"""How many records are in the file."""
MISSING_HEADER = "X-Avinet-Missing"
"""How many service engines, and other controllers, may have records that are not in it."""
MISSING_WHAT_HEADER = "X-Avinet-Missing-What"
"""Which, as ``missing`` of an answer, as far as it fits."""
MAX_WHAT_CHARS = 4_000
"""Of 8 KiB that proxies let pass."""


MAX_RESUME_CHARS = 1_000
"""Seven controllers' names, and a number of 19 digits each."""


class ExportKind(enum.StrEnum):
    """What a file of records is."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


MEDIA_TYPES = {
    ExportKind.NDJSON: "application/x-ndjson",
    ExportKind.CSV: "text/csv; charset=utf-8",
    ExportKind.PARQUET: "application/vnd.apache.parquet",
}


@error
class TooManyTailsError(AvinetError):
    """{limit} tails are open at this controller. End one of them first."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


@attrs.frozen
class Exported:
    """A file that was made for one caller, open, and without a name already."""

    file: BinaryIO
    size: int
    records: int
    missing: tuple[Missing, ...] = ()
    """What of the controllers is not in it."""


class LogSearch(Protocol):
    """The log store, as far as it answers."""

    def ask(self, query: Query) -> Awaitable[Answer]:
        """The answer; ``missing`` has what is here and not in it, service engines are left to the caller."""

    def check(self, query: Query) -> Awaitable[None]:
        """Refuse what its engine would refuse of any record."""


class ExportQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records, and as what."""

    q: UrlFilter = ""
    format: ExportKind = ExportKind.NDJSON


class TailQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which records; ``full`` has those of the full logs, too.  ``since`` is a record's ``id``, as Last-Event-ID."""

    q: UrlFilter = ""
    full: bool = False
    since: Annotated[str, msgspec.Meta(max_length=MAX_RESUME_CHARS)] = ""


@attrs.define(eq=False)
class LogApi:
    """The handlers.  ``now`` gives UNIX seconds, ``make`` a file of all records of a query,
    ``stores`` what is in all stores.
    """

    store: LogSearch
    where: Whereabouts
    tails: Tails
    make: Callable[[Query, str], Awaitable[Exported]]
    stores: Callable[[Sequence[EngineLogs]], Awaitable[LogsStatus]]
    clock: IReactorTime
    now: Callable[[], float]
    _tails: int = attrs.field(default=0, init=False)

    def _now_us(self) -> int:
        return int(self.now() * SECOND_US)

    async def _answered(self, query: Query) -> Response:
        answer = await self.store.ask(query)
        missing = (*answer.missing, *self.where.missing(query.since_us, query.until_us))
        return Response(body=msgspec.structs.replace(answer, missing=missing).document())

    async def query(self, request: Request) -> Response:
        """``/api/logs/query``; ``POST`` is for what is too long for an URL."""
        question: Question = request.query if request.body is None else request.body
        return await self._answered(query_of(question, self._now_us()))

    async def records(self, request: Request) -> Response:
        """``/api/logs/records``."""
        wanted: Wanted = request.query if request.body is None else request.body
        return await self._answered(records_of(wanted, self._now_us()))

    async def export(self, request: Request) -> Response:
        """``GET /api/logs/export``."""
        wanted: ExportQuery = request.query
        asked = parse(wanted.q, self._now_us())
        query = Query(filter=asked.filter, since_us=asked.since_us, until_us=asked.until_us, shape=Whole())
        made = await self.make(query, wanted.format.value)
        missing = (*made.missing, *self.where.missing(query.since_us, query.until_us))
        return Response(
            body=FileBody(made.file, made.size, self.clock),
            content_type=MEDIA_TYPES[wanted.format],
            headers={
                RECORDS_HEADER: str(made.records),
                MISSING_HEADER: str(len(missing)),
                MISSING_WHAT_HEADER: _in_a_header(missing),
                "Content-Disposition": f'attachment; filename="logs.{wanted.format.value}"',
            },
        )

    async def tail(self, request: Request) -> Response:
        """``GET /api/logs/tail``."""
        wanted: TailQuery = request.query
        asked = parse(wanted.q, self._now_us())
        if asked.since_us is not None or asked.until_us is not None:
            raise InvalidQueryError(where="q", what="since and until do not go with what is still to come")
        await self._check(asked.filter)
        if self._tails >= MAX_TAILS:
            raise TooManyTailsError(limit=MAX_TAILS)
        since = request.headers.get("last-event-id", "")[:MAX_RESUME_CHARS] or wanted.since
        source, start = self.tails.source(asked.filter, full=wanted.full, since=since)
        stream = EventStream(_Counted(source, self._count), start, self.clock)
        return Response(body=stream, content_type=EVENT_STREAM_TYPE)

    async def _check(self, filter_: Expression | None) -> None:
        """A stream has begun before the first record comes, and could no longer refuse what cannot be searched for."""
        if filter_ is None:
            return
        try:
            await self.store.check(Query(filter=filter_))
        except AvinetError as why:
            if why.kind not in LATER:
                raise

    def _count(self, more: int) -> None:
        self._tails += more

    async def status(self, request: Request) -> Response:
        """``GET /api/logs/status``."""
        return Response(body=await self.stores(self.where.status()))

    def _asking(
        self,
        name: str,
        handler: Handler,
        kinds: tuple[type[msgspec.Struct], type[msgspec.Struct]],
        summary: str,
    ) -> tuple[Route, ...]:
        """By URL, or by the same names in a body, which can be longer."""
        in_url, in_body = kinds
        return tuple(
            Route(
                method=method,
                path=f"{BASE}/{name}",
                handler=handler,
                summary=summary,
                query=in_url if method == "GET" else None,
                request=in_body if method == "POST" else None,
                response_schema=ANSWER_SCHEMA,
                statuses={200: "As far as it is in the store; ``missing`` says what is not.", **WRONG},
                timeout_s=QUERY_TIMEOUT_S,
                reads=True,
            )
            for method in ("GET", "POST")
        )

    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        return (
            *self._asking(
                "query",
                self.query,
                (UrlQuestion, Question),
                "Count, most frequent values, figures by group, percentiles or a histogram of request logs.",
            ),
            *self._asking(
                "records",
                self.records,
                (UrlWanted, Wanted),
                "Records of request logs, a page at a time, newest first unless asked otherwise.",
            ),
            Route(
                method="GET",
                path=f"{BASE}/export",
                handler=self.export,
                summary=f"All records of all controllers that a filter leaves as a file, oldest first; {RECORDS_HEADER} has their number, "
                f"{MISSING_HEADER} how many service engines and controllers may have more, {MISSING_WHAT_HEADER} which.",
                query=ExportQuery,
                produces=tuple(MEDIA_TYPES.values()),
                statuses={200: "The file.", **WRONG, 507: "There is no room to make it."},
                timeout_s=EXPORT_TIMEOUT_S,
            ),
            Route(
                method="GET",
                path=f"{BASE}/tail",
                handler=self.tail,
                summary="Records as they come into the stores of all controllers, as an event stream, resumed by Last-Event-ID.",
                query=TailQuery,
                produces=EVENT_STREAM_TYPE,
                statuses={200: "Records.", **WRONG},
            ),
            Route(
                method="GET",
                path=f"{BASE}/status",
                handler=self.status,
                summary="What is in the store of each controller, what service engines still keep, and what was lost.",
                response=LogsStatus,
            ),
        )


@attrs.define(eq=False)
class _Counted:
    """A source that says when it is followed and when no more."""

    source: Source
    count: Callable[[int], None]

    def since(self, after: int, limit: int) -> Any:
        return self.source.since(after, limit)

    def follow(self, woken: Callable[[], None]) -> Callable[[], None]:
        unfollow = self.source.follow(woken)
        self.count(1)

        def end() -> None:
            self.count(-1)
            unfollow()

        return end


def _in_a_header(missing: Sequence[Missing]) -> str:
    """The first of them, ASCII on one line."""
    while len(text := json.dumps(msgspec.to_builtins(missing))) > MAX_WHAT_CHARS:
        missing = missing[: len(missing) * MAX_WHAT_CHARS // len(text)]
    return text


WRONG = {400: "The query is wrong: ``column`` and ``allowed`` say where, and what may stand there."}
MISSING_SCHEMA = {
    "type": "array",
    "description": "Service engines that still keep records of that time, and controllers whose records are not in the answer.",
    "items": {
        "type": "object",
        "properties": {
            "se": {"type": "string"},
            "se_uuid": {"type": "string"},
            "since": {"type": "string"},
            "until": {"type": "string"},
            "segments": {"type": "integer"},
            "records": {"type": "integer"},
            "bytes": {"type": "integer", "description": "Compressed."},
            "raw_bytes": {"type": "integer", "description": "As NDJSON."},
            "controller": {"type": "string"},
            "why": {"type": "string"},
        },
    },
}
ANSWER_SCHEMA = {
    "type": "object",
    "description": "``count``, or ``results`` with named columns.",
    "properties": {
        "count": {"type": "integer"},
        "results": {"type": "array", "items": {"type": "object", "additionalProperties": True}},
        "next": {"type": "string", "description": "The cursor of the next page."},
        "truncated": {"type": "boolean", "description": "There are more rows than the limit."},
        "approximate": {"type": "boolean", "description": "Percentiles are estimates."},
        "missing": MISSING_SCHEMA,
    },
    "required": ["missing"],
}
