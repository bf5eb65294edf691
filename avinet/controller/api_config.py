"""The routes of the configuration: each kind of object in the Avi API's shapes, many documents at once, and how far
the fleet is.
"""

import contextlib
from collections.abc import Callable, Mapping
from typing import Any, ClassVar
from urllib.parse import urlencode

import attrs
import msgspec
from twisted.internet.defer import Deferred, TimeoutError, execute  # noqa: A004 - Twisted's own name

from avinet.controller.api_shapes import shape
from avinet.controller.api_status import Straggler, stragglers_of
from avinet.controller.configuration import Applied, ConfigService
from avinet.controller.engines import Engines
from avinet.controller.sync import Sync
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import KINDS
from avinet.model.configuration import Stored
from avinet.model.documents import MAX_BYTES, MAX_DOCUMENTS, DocumentError, parse_documents
from avinet.model.ids import SeId
from avinet.rest.problem import InvalidBodyError
from avinet.rest.route import JSON_TYPE, Request, Response, Route
from avinet.units import MIB

MAX_PAGE = 1_000
MAX_WAIT_S = 300.0
"""Of one long poll; clients ask again."""
DOCUMENT_TYPES = ("application/yaml", "application/x-yaml", "text/yaml", "text/plain", JSON_TYPE)
OBJECT_BODY_BYTES = MIB
"""Twice what an object may be as stored: JSON with its field names is that much longer."""
APPLY_TIMEOUT_S = 120.0
"""YAML is read at about 100 KiB a second, so the largest text takes a while; in a thread."""
NOBODY = "unknown"


@error
class NotInSyncError(AvinetError):
    """Configuration version {version} is not in force everywhere after {waited_s:.0f} s: {waiting}. What is committed goes on being applied; see: avinet config status."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    version: int
    waited_s: float
    waiting: str


@error
class NoSuchVersionError(AvinetError):
    """There is no configuration version {version} yet; the newest is {newest}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    version: int
    newest: int


@error
class RefusedError(AvinetError):
    """Configuration version {version} is refused by {waiting}. Their last good configuration stays in force. Correct the objects at fault and apply again."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    version: int
    waiting: str


class ListQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a list may be narrowed by."""

    name: str | None = None
    page: int = 1
    page_size: int = MAX_PAGE
    include_name: str | None = None
    """Taken for the Avi SDK's sake; references always include the name."""


class ApplyQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``dry_run``: say what would change, and change nothing."""

    dry_run: bool = False


class StatusQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``wait``: answer once this version is in force on every attached SE, or ``timeout`` seconds are over."""

    wait: int | None = None
    timeout: float = 60.0


class ApplyAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """What a change came to; objects as ``kind/name``."""

    version: int
    created: tuple[str, ...]
    updated: tuple[str, ...]
    deleted: tuple[str, ...]
    unchanged: tuple[str, ...]


class EngineStand(msgspec.Struct, frozen=True, kw_only=True):
    """How far one SE is."""

    uuid: SeId
    name: str
    stand: str
    why: str = ""


class VersionRow(msgspec.Struct, frozen=True, kw_only=True):
    """How long one version took from commit to Ack, in seconds."""

    version: int
    committed_at: float
    acks: int
    p50_s: float | None
    p99_s: float | None
    last_s: float | None
    missing: tuple[str, ...]


class ConfigStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/config/status``."""

    version: int
    in_sync: bool
    service_engines: tuple[EngineStand, ...]
    stragglers: tuple[Straggler, ...]
    versions: tuple[VersionRow, ...]


@attrs.frozen(eq=False)
class ConfigApi:
    """The handlers."""

    config: ConfigService
    sync: Sync
    engines: Engines
    in_thread: Callable[..., "Deferred[Any]"] = execute
    """Runs a function where it may take its time: YAML is read slowly, and heartbeats must not wait for it."""

    def _answer(self, stored: Stored, status: int = 200) -> Response:
        body = shape(self.config.current, stored)
        return Response(status=status, body=body, headers={"ETag": f'"{stored.modified_us}"'})

    # One kind

    async def list(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>``."""
        query: ListQuery = request.query
        now = self.config.current
        found = [
            now.objects[thing.uuid] for thing in now.all_of(KINDS[kind]) if query.name in {None, thing.name}
        ]
        size = max(1, min(query.page_size, MAX_PAGE))
        start = (max(1, query.page) - 1) * size
        body: dict[str, Any] = {
            "count": len(found),
            "results": [shape(now, stored) for stored in found[start : start + size]],
        }
        if start + size < len(found):
            body["next"] = f"/api/{kind}?{urlencode({'page': start // size + 2, 'page_size': size})}"
        return Response(body=body)

    async def get(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>/{uuid}``."""
        return self._answer(self.config.find(kind, request.params["uuid"]))

    async def post(self, kind: str, request: Request) -> Response:
        """``POST /api/<kind>``."""
        document = _object(kind, request.body)
        made = await self.config.create(kind, document, request.principal or NOBODY)
        return self._answer(made, 201)

    async def put(self, kind: str, request: Request) -> Response:
        """``PUT /api/<kind>/{uuid}``."""
        document = _object(kind, request.body)
        expected = self._expected(kind, request, document)
        author = request.principal or NOBODY
        return self._answer(
            await self.config.replace(kind, request.params["uuid"], document, author, expected)
        )

    async def delete(self, kind: str, request: Request) -> Response:
        """``DELETE /api/<kind>/{uuid}``."""
        author = request.principal or NOBODY
        expected = self._expected(kind, request, {})
        return _applied(await self.config.delete(kind, request.params["uuid"], author, expected))

    def _expected(self, kind: str, request: Request, document: Mapping[str, Any]) -> str | None:
        """The ``_last_modified`` that a change is based on: ``If-Match`` before the body's."""
        match = request.headers.get("if-match")
        if match is None:
            modified = document.get("_last_modified")
            return None if modified is None else str(modified)
        if match.strip() == "*":
            return str(self.config.find(kind, request.params["uuid"]).modified_us)
        return match.strip().removeprefix("W/").strip('"')

    # The whole

    async def apply(self, request: Request) -> Response:
        """``POST /api/config``."""
        media_type = request.headers.get("content-type", "").split(";", maxsplit=1)[0].strip().lower()
        documents = await self.in_thread(documents_of, request.body, media_type)
        query: ApplyQuery = request.query
        author = request.principal or NOBODY
        return _applied(await self.config.apply(documents, author, dry_run=query.dry_run))

    async def status(self, request: Request) -> Response:
        """``GET /api/config/status``."""
        query: StatusQuery = request.query
        if query.wait is not None:
            await self._wait(query.wait, max(0.0, min(query.timeout, MAX_WAIT_S)))
        return Response(body=self._status())

    async def _wait(self, version: int, limit_s: float) -> None:
        clock = self.sync.clock
        end = clock.seconds() + limit_s
        newest = self.config.current.version
        if newest < version:
            raise NoSuchVersionError(version=version, newest=newest)
        while not self.sync.settled():
            left = end - clock.seconds()
            if self.sync.refused_everywhere():
                raise RefusedError(version=version, waiting=self._missing())
            if left <= 0:
                raise NotInSyncError(
                    version=version, waited_s=limit_s, waiting=self._missing() or "it is being placed"
                )
            changed = self.sync.changed()
            # Placement follows events by a moment of its own, so a look each second closes every gap.
            changed.addTimeout(min(left, 1.0), clock)
            with contextlib.suppress(TimeoutError):
                await changed

    def _missing(self) -> str:
        """Who does not have what it should, and why, in words."""
        stragglers = stragglers_of(self.engines, self.sync)
        return ", ".join(f"{one.name} ({one.why or one.stand})" for one in stragglers)

    def _status(self) -> ConfigStatus:
        rows: list[EngineStand] = []
        for record in self.engines.all():
            progress = self.sync.progress(record.uuid)
            stand, why = ("away", "") if progress is None else (progress.stand.value, progress.refused)
            rows.append(EngineStand(uuid=record.uuid, name=record.name, stand=stand, why=why))
        names = {row.uuid: row.name for row in rows}
        return ConfigStatus(
            version=self.config.current.version,
            in_sync=self.sync.settled(),
            service_engines=tuple(sorted(rows, key=lambda row: row.name)),
            stragglers=stragglers_of(self.engines, self.sync),
            versions=tuple(
                VersionRow(
                    version=one.version,
                    committed_at=one.committed_at,
                    acks=len(one.acks_s),
                    p50_s=one.quantile(0.5),
                    p99_s=one.quantile(0.99),
                    last_s=one.last_s,
                    missing=tuple(sorted(names.get(se, se) for se in one.missing)),
                )
                for one in self.sync.times.all()
            ),
        )

    def routes(self) -> tuple[Route, ...]:
        """Each kind's five, and the two of the whole."""
        whole = (
            Route(
                method="POST",
                path="/api/config",
                handler=self.apply,
                summary="Create or update every object of a YAML or JSON text, all or none.",
                request=bytes,
                response=ApplyAnswer,
                query=ApplyQuery,
                consumes=DOCUMENT_TYPES,
                body_bytes=MAX_BYTES,
                timeout_s=APPLY_TIMEOUT_S,
                statuses={
                    200: "In force on the controller, or what would change.",
                    400: "Each wrong field by its path.",
                },
            ),
            Route(
                method="GET",
                path="/api/config/status",
                handler=self.status,
                summary="The version in force and how far each service engine is; can wait.",
                response=ConfigStatus,
                query=StatusQuery,
                timeout_s=MAX_WAIT_S + 10,
                statuses={
                    200: "As it is now.",
                    504: "Not in force everywhere in time; the body names who is missing.",
                },
            ),
        )
        return (*whole, *(route for kind in KINDS for route in self._routes_of(kind)))

    def _routes_of(self, kind: str) -> tuple[Route, ...]:
        one, many, name = f"/api/{kind}/{{uuid}}", f"/api/{kind}", KINDS[kind].__name__

        def handler(method: Any) -> Any:
            async def handle(request: Request) -> Response:
                answer: Response = await method(kind, request)
                return answer

            return handle

        wrong = {400: "Each wrong field by its path."}
        return (
            Route(
                method="GET",
                path=many,
                handler=handler(self.list),
                summary=f"List {name} objects.",
                query=ListQuery,
            ),
            Route(
                method="POST",
                path=many,
                handler=handler(self.post),
                summary=f"Create a {name}.",
                request=bytes,
                body_bytes=OBJECT_BODY_BYTES,
                statuses={201: "Made.", 409: "The name is taken.", **wrong},
            ),
            Route(
                method="GET",
                path=one,
                handler=handler(self.get),
                summary=f"One {name}, by UUID or name.",
                statuses={200: "As stored.", 404: "There is none."},
            ),
            Route(
                method="PUT",
                path=one,
                handler=handler(self.put),
                summary=f"Replace a {name}; needs _last_modified in the body, or If-Match.",
                request=bytes,
                body_bytes=OBJECT_BODY_BYTES,
                statuses={
                    200: "Replaced.",
                    404: "There is none.",
                    412: "Stale.",
                    428: "Which version?",
                    **wrong,
                },
            ),
            Route(
                method="DELETE",
                path=one,
                handler=handler(self.delete),
                summary=f"Delete a {name} that no other object refers to.",
                response=ApplyAnswer,
                statuses={200: "Gone.", 404: "There is none.", 409: "Something refers to it.", 412: "Stale."},
            ),
        )


def _applied(applied: Applied) -> Response:
    plan = applied.plan
    return Response(
        body=ApplyAnswer(
            version=applied.version,
            created=plan.created,
            updated=plan.updated,
            deleted=plan.deleted,
            unchanged=plan.unchanged,
        )
    )


def documents_of(body: bytes, media_type: str) -> list[dict[str, Any]]:
    """The documents of a text: YAML or, where it is declared so, JSON (one object, or a list of them)."""
    try:
        text = body.decode()
    except UnicodeDecodeError as why:
        raise DocumentError(where="the input", why=f"it is not UTF-8 at byte {why.start}") from why
    if media_type != JSON_TYPE:
        return parse_documents(text)
    found = _json(body, "the input")
    documents = found if isinstance(found, list) else [found]
    if not 1 <= len(documents) <= MAX_DOCUMENTS:
        raise DocumentError(where="the input", why=f"it must have 1 to {MAX_DOCUMENTS} documents")
    for number, document in enumerate(documents, 1):
        if not isinstance(document, dict):
            odd = "it is not an object with kind, name and so on"
            raise DocumentError(where=f"the input, document {number}", why=odd)
    return documents


def _json(body: bytes, where: str) -> Any:
    try:
        return msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        raise DocumentError(where=where, why=f"it is not JSON: {why}") from why


def _object(kind: str, body: bytes) -> dict[str, Any]:
    """A JSON object.  Its fields are checked by the intake, which names every wrong one, not by the router."""
    found = _json(body, "the body")
    if not isinstance(found, dict):
        raise DocumentError(where="the body", why="it is not a JSON object")
    given = found.get("kind", kind)
    if not isinstance(given, str) or given.lower() != kind:
        raise InvalidBodyError(where="kind", what=f"this is the place of {KINDS[kind].__name__}")
    return found
