"""The operator's routes for service engines: ``/api/serviceengine``.

An SE is named by UUID or by name wherever a path says ``{uuid}``.  A list answers ``{"count", "results"}``; a
row holds the record and, beside it, what other services know of the SE now (``EngineFacts``).
"""

from collections.abc import Awaitable, Callable
from typing import Any, ClassVar, Protocol

import attrs
import msgspec

from avinet.controller.engine_commands import EngineCommands
from avinet.controller.machines import MANUAL, Machines
from avinet.controller.placement_view import EngineLoad, EngineService
from avinet.errors import AvinetError, Kind, error
from avinet.model.channel import ChannelStatus
from avinet.model.engine import Lifecycle, SeRecord, SeState, state_of
from avinet.model.ids import SeId
from avinet.rest.route import Request, Response, Route
from avinet.trust.keys import fingerprint, parse_line
from avinet.wire.registration import MetaInfo

BASE = "/api/serviceengine"
DEFAULT_GROUP = "Default-Group"
CREATE_TIMEOUT_S = 120.0
"""A cloud driver may have to build an image first."""
MAX_PAGE = 10_000


@error
class GroupNotFoundError(AvinetError):
    """There is no service engine group {group!r}; see: avinet config get serviceenginegroup."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    group: str


class EngineRow(msgspec.Struct, frozen=True, kw_only=True):
    """One SE as lists show it.  Times are UNIX seconds."""

    uuid: SeId
    name: str
    url: str
    state: str
    in_sync: bool
    restored_behind: bool = False
    """It has a newer configuration than the restored one, and keeps it."""
    group: str
    cloud: str
    loopback: str
    placeable: bool
    rtt_ms: float | None = None
    version: int | None = None
    """Of the configuration in force."""
    software: str = ""
    fingerprint: str = ""
    """Of its SE key."""
    source: str = ""
    image: str | None = None
    token: str | None = None
    created_at: float
    enrolled_at: float | None = None
    note: str = ""
    services: int = 0
    """Virtual services that it is to serve."""
    draining: int = 0
    """Those that others have taken over, which it serves until the drain time of its group is over."""
    held: int = 0
    """Those that are to go to others, which it serves until they have taken over."""
    leaving: bool = False
    """It is deleted once it has drained."""


class EmptiedEngine(EngineRow, frozen=True, kw_only=True):
    """One SE that was told to serve nothing."""

    stranded: tuple[str, ...] = ()
    """Names of what it served that no other can take over.  One that was disabled, not ``now``, serves them on."""


class EngineDetail(EngineRow, frozen=True, kw_only=True):
    """One SE by itself."""

    virtual_services: tuple[EngineService, ...] = ()

    secure_channel: ChannelStatus | None = None
    """Of one that is attached."""


class EngineList(msgspec.Struct, frozen=True, kw_only=True):
    """A page of rows; ``count`` is of all that match."""

    count: int
    results: tuple[EngineRow, ...]


class EngineQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a list may be narrowed by."""

    name: str | None = None
    group: str | None = None
    state: str | None = None
    page: int = 1
    page_size: int = MAX_PAGE


class NewEngine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an SE is made from."""

    name: str
    group: str = DEFAULT_GROUP
    cloud: str = MANUAL


class CreatedEngine(msgspec.Struct, frozen=True, kw_only=True):
    """``meta_info``, with the token that is shown only now, for a machine made by hand."""

    engine: EngineRow
    meta_info: MetaInfo | None = None


class Approval(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """With a fingerprint, only that key is approved."""

    fingerprint: str | None = None


class Remark(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Why, in the operator's words."""

    note: str = ""


class Disabling(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``now``: it is emptied at once, whether or not others have taken over."""

    note: str = ""
    now: bool = False


class EngineDeleteQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``now``: without a drain."""

    now: bool = False


class Nothing(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``{}``."""


@attrs.frozen
class EngineFacts:
    """What sessions and configuration sync know of an SE."""

    is_attached: Callable[[SeId], bool] = attrs.field(default=lambda _: False)
    in_sync: Callable[[SeId], bool] = attrs.field(default=lambda _: False)
    restored_behind: Callable[[SeId], bool] = attrs.field(default=lambda _: False)
    rtt_s: Callable[[SeId], float | None] = attrs.field(default=lambda _: None)
    version: Callable[[SeId], int | None] = attrs.field(default=lambda _: None)
    software: Callable[[SeId], str] = attrs.field(default=lambda _: "")
    channel: Callable[[SeId], ChannelStatus | None] = attrs.field(default=lambda _: None)
    load: Callable[[SeId], EngineLoad] = attrs.field(default=lambda _: EngineLoad())
    stranded: Callable[[SeId], tuple[str, ...]] = attrs.field(default=lambda _: ())
    """Names of the virtual services that no other SE could take over."""
    services: Callable[[SeId], tuple[EngineService, ...]] = attrs.field(default=lambda _: ())


class Remove(Protocol):
    """Ends an SE: the record as it is then, DELETED or leaving."""

    def __call__(self, se: SeId, *, now: bool) -> Awaitable[SeRecord]:
        """``now``: without a drain."""


@attrs.frozen(eq=False)
class EngineApi:
    """The handlers.  ``has_group`` knows the groups of the configuration; ``remove`` is ``Departures.delete``."""

    commands: EngineCommands
    machines: Machines
    facts: EngineFacts
    has_group: Callable[[str], bool]
    remove: Remove

    def row(self, record: SeRecord) -> EngineRow:
        """One SE as it is now; ``avinet demo`` and the dashboard show the same."""
        rtt_s = self.facts.rtt_s(record.uuid)
        load = self.facts.load(record.uuid)
        return EngineRow(
            uuid=record.uuid,
            name=record.name,
            url=f"{BASE}/{record.uuid}",
            state=state_of(record, attached=self.facts.is_attached(record.uuid)),
            in_sync=self.facts.in_sync(record.uuid),
            restored_behind=self.facts.restored_behind(record.uuid),
            group=record.group,
            cloud=record.cloud,
            loopback=record.loopback,
            placeable=record.placeable,
            rtt_ms=None if rtt_s is None else round(rtt_s * 1000, 2),
            version=self.facts.version(record.uuid),
            software=self.facts.software(record.uuid),
            fingerprint=fingerprint(parse_line(record.se_key)) if record.se_key else "",
            source=record.source,
            image=record.image,
            token=record.token,
            created_at=record.created_at,
            enrolled_at=record.enrolled_at,
            note=record.note,
            services=load.services,
            draining=load.draining,
            held=load.held,
            leaving=record.leaving and record.lifecycle is not Lifecycle.DELETED,
        )

    def _se(self, request: Request) -> SeId:
        return self.commands.engines.named(request.params["uuid"]).uuid

    async def list(self, request: Request) -> Response:
        """``GET /api/serviceengine``."""
        query: EngineQuery = request.query
        engines = self.commands.engines
        deleted = query.state == SeState.DELETED
        rows = [
            self.row(record)
            for record in (engines.index.deleted() if deleted else engines.all())
            if query.name in {None, record.name} and query.group in {None, record.group}
        ]
        if query.state is not None:
            rows = [row for row in rows if row.state == query.state]
        rows.sort(key=lambda row: row.name)
        size = max(1, min(query.page_size, MAX_PAGE))
        start = (max(1, query.page) - 1) * size
        return Response(body=EngineList(count=len(rows), results=tuple(rows[start : start + size])))

    async def get(self, request: Request) -> Response:
        """``GET /api/serviceengine/{uuid}``."""
        row = self.row(self.commands.engines.named(request.params["uuid"]))
        channel = self.facts.channel(row.uuid)
        return Response(
            body=EngineDetail(
                **msgspec.structs.asdict(row),
                secure_channel=channel,
                virtual_services=self.facts.services(row.uuid),
            )
        )

    async def create(self, request: Request) -> Response:
        """``POST /api/serviceengine``."""
        new: NewEngine = request.body
        if not self.has_group(new.group):
            raise GroupNotFoundError(group=new.group)
        record, meta = await self.machines.create(new.name, new.group, new.cloud)
        by_hand = meta if new.cloud == MANUAL else None
        return Response(status=201, body=CreatedEngine(engine=self.row(record), meta_info=by_hand))

    async def disable(self, request: Request) -> Response:
        """``POST /api/serviceengine/{uuid}/disable``."""
        wish: Disabling = request.body
        return await self._empty(
            self._se(request), lambda se: self.commands.disable(se, wish.note, drains=not wish.now)
        )

    async def quarantine(self, request: Request) -> Response:
        """``POST /api/serviceengine/{uuid}/quarantine``."""
        wish: Remark = request.body
        return await self._empty(self._se(request), lambda se: self.commands.quarantine(se, wish.note))

    async def _empty(self, se: SeId, run: Callable[[SeId], Awaitable[SeRecord]]) -> Response:
        stranded = self.facts.stranded(se)  # what it serves is another thing a moment after the command
        row = self.row(await run(se))
        return Response(body=EmptiedEngine(**msgspec.structs.asdict(row), stranded=stranded))

    async def delete(self, request: Request) -> Response:
        """``DELETE /api/serviceengine/{uuid}``."""
        query: EngineDeleteQuery = request.query
        record = await self.remove(self._se(request), now=query.now)
        if record.lifecycle is Lifecycle.DELETED:
            return Response(status=204)
        return Response(status=202, body=self.row(record))

    def routes(self) -> tuple[Route, ...]:
        """All of ``/api/serviceengine``."""
        one, commands = BASE + "/{uuid}", self.commands
        return (
            Route(
                method="GET",
                path=BASE,
                handler=self.list,
                summary="Every service engine.",
                query=EngineQuery,
                response=EngineList,
            ),
            Route(
                method="POST",
                path=BASE,
                handler=self.create,
                summary="Create a service engine, and its machine unless that is made by hand.",
                request=NewEngine,
                response=CreatedEngine,
                statuses={
                    201: "Created.",
                    400: "Not a name, or no such cloud.",
                    404: "No such group.",
                    409: "The name is taken, or its cloud cannot make machines now.",
                },
                timeout_s=CREATE_TIMEOUT_S,
            ),
            Route(
                method="GET",
                path=one,
                handler=self.get,
                summary="One service engine, and its secure channel while it is attached.",
                response=EngineDetail,
                statuses=_ONE,
            ),
            Route(
                method="DELETE",
                path=one,
                handler=self.delete,
                summary="Delete a service engine for good, and its machine unless that was made by hand.",
                query=EngineDeleteQuery,
                response=EngineRow,
                statuses={
                    202: "It drains, and is deleted after that.",
                    204: "Deleted.",
                    404: "No such service engine.",
                    409: "It serves what no other service engine can take over.",
                },
                timeout_s=CREATE_TIMEOUT_S,
            ),
            self._command(
                "approve",
                "Approve a machine that waits.",
                Approval,
                lambda se, body: commands.approve(se, body.fingerprint),
            ),
            Route(
                method="POST",
                path=one + "/disable",
                handler=self.disable,
                summary="Keep it connected, give it nothing to carry; what it has it serves until others do.",
                request=Disabling,
                response=EmptiedEngine,
                statuses=_COMMANDED,
            ),
            Route(
                method="POST",
                path=one + "/quarantine",
                handler=self.quarantine,
                summary="Empty it as far as it can be reached, and cut it off until it is enabled.",
                request=Remark,
                response=EmptiedEngine,
                statuses=_COMMANDED,
            ),
            self._command(
                "enable",
                "Back from disabled or quarantined; calls off a deletion that waits for a drain.",
                Nothing,
                lambda se, body: commands.enable(se),
            ),
            self._command(
                "place",
                "Allow virtual services on one that enrolled without a token.",
                Nothing,
                lambda se, body: commands.place(se),
            ),
        )

    def _command(
        self, verb: str, summary: str, body: type, run: Callable[[SeId, Any], Awaitable[SeRecord]]
    ) -> Route:
        async def handle(request: Request) -> Response:
            return Response(body=self.row(await run(self._se(request), request.body)))

        return Route(
            method="POST",
            path=f"{BASE}/{{uuid}}/{verb}",
            handler=handle,
            summary=summary,
            request=body,
            response=EngineRow,
            statuses=_COMMANDED,
        )


_ONE = {200: "Done.", 404: "No such service engine.", 410: "It was deleted."}
_COMMANDED = {**_ONE, 409: "Not in its present state."}
