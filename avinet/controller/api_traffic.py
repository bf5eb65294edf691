"""The routes of what the traffic looks like: figures and health of virtual services, pools and servers.

``/stats`` and ``/servers`` are ours; ``/runtime``, ``/runtime/server`` and the ``-inventory`` lists have the names and
shapes of the Avi API's, as far as avinet knows what they tell.
"""

from collections.abc import Mapping
from typing import Any
from urllib.parse import urlencode

import attrs
import msgspec

from avinet.controller.configuration import ConfigService
from avinet.controller.traffic import FleetTraffic
from avinet.controller.traffic_figures import FigureReader, Figures
from avinet.controller.traffic_health import Health, ServerVerdict, Verdict
from avinet.controller.traffic_intake import Subject
from avinet.controller.traffic_series import FINE_S, MINUTE_S, MINUTES_KEPT
from avinet.model.config import KINDS, Pool, Server, VirtualService
from avinet.model.counters import POOL_KIND, SERVER_COUNTERS, SERVER_KIND, SERVICE_KIND
from avinet.model.ids import SeId
from avinet.rest.problem import InvalidQueryError
from avinet.rest.route import Request, Response, Route

MAX_SINCE_S = int(MINUTE_S) * MINUTES_KEPT
MAX_PAGE = 200
"""Each object of an inventory is judged when it is asked for."""

_OPER = {
    Health.UP: "OPER_UP",
    Health.PARTLY: "OPER_PARTITIONED",
    Health.DOWN: "OPER_DOWN",
    Health.DISABLED: "OPER_DISABLED",
    Health.UNKNOWN: "OPER_INITIALIZING",
}


class StatsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``since``: seconds back, an hour at most.  ``step``: seconds a point; below 60 only what was watched is known."""

    since: int = MAX_SINCE_S
    step: int = 60


class InventoryQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a list may be narrowed by."""

    name: str | None = None
    page: int = 1
    page_size: int = MAX_PAGE
    include_name: str | None = None
    """Taken for the Avi SDK's sake."""


class LastFailure(msgspec.Struct, frozen=True, kw_only=True):
    """Why a server was not up last; ``until`` is null while it is so."""

    failure: str
    reason: str
    since: float
    until: float | None


class SeenBy(msgspec.Struct, frozen=True, kw_only=True):
    """One server as one SE sees it; counts since its pool changed last."""

    uuid: SeId
    name: str
    state: str
    failure: str
    reason: str
    since: float
    connections: int
    requests: int
    errors: int
    connect_failures: int


class ServerRow(msgspec.Struct, frozen=True, kw_only=True):
    """One server of a pool over all SEs."""

    server: str
    hostname: str
    enabled: bool
    ratio: int
    priority: int
    health: str
    state: str
    """The SEs' word where they agree: ``UP``, ``DOWN``, ``EJECTED``, ``DRAINING``, ``DISABLED``; ``PARTLY``, ``UNKNOWN``."""
    reason: str
    since: float | None
    last_failure: LastFailure | None
    connections: int
    requests: int
    errors: int
    connect_failures: int
    service_engines: tuple[SeenBy, ...]


class ServersAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/pool/{uuid}/servers``."""

    uuid: str
    name: str
    health: str
    reason: str
    count: int
    results: tuple[ServerRow, ...]


@attrs.frozen(eq=False)
class TrafficApi:
    """The handlers."""

    config: ConfigService
    traffic: FleetTraffic
    reader: FigureReader

    def _found(self, kind: str, request: Request) -> tuple[Any, Verdict]:
        """The object that the path names, and how it is."""
        thing = self.config.find(kind, request.params["uuid"]).thing
        if isinstance(thing, Pool):
            return thing, self.traffic.verdicts.pool(thing)
        if isinstance(thing, VirtualService):
            return thing, self.traffic.verdicts.service(thing)
        raise AssertionError(kind)

    async def stats(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>/{uuid}/stats``."""
        query: StatsQuery = request.query
        thing, _ = self._found(kind, request)
        if not 1 <= query.since <= MAX_SINCE_S:
            raise InvalidQueryError(
                where="since", what=f"it is {query.since}; 1 to {MAX_SINCE_S} s can be had"
            )
        base = int(MINUTE_S if query.step >= MINUTE_S else FINE_S)
        if query.step < base or query.step % base or query.step > MAX_SINCE_S:
            what = f"it is {query.step}; multiples of 5 below a minute, then of 60, up to {MAX_SINCE_S}"
            raise InvalidQueryError(where="step", what=what)
        subject = Subject(kind, thing.uuid)
        await self.traffic.fresh(subject)
        _, verdict = self._found(kind, request)
        return Response(body=self.reader.read(subject, thing.name, verdict, query.since, query.step))

    async def servers(self, request: Request) -> Response:
        """``GET /api/pool/{uuid}/servers``."""
        pool, _ = self._found(POOL_KIND, request)
        await self.traffic.fresh(Subject(POOL_KIND, pool.uuid))
        pool, verdict = self._found(POOL_KIND, request)
        rows = tuple(
            self._server(pool, server, one)
            for server, one in zip(pool.servers, self.traffic.verdicts.servers(pool), strict=True)
        )
        return Response(
            body=ServersAnswer(
                uuid=pool.uuid,
                name=pool.name,
                health=verdict.health.value,
                reason=verdict.reason,
                count=len(rows),
                results=rows,
            )
        )

    def _server(self, pool: Pool, server: Server, one: ServerVerdict) -> ServerRow:
        subject = Subject(SERVER_KIND, pool.uuid, one.label)
        shown = self.reader.shown_at
        seen = []
        for se, view in one.views.items():
            engine = self.traffic.engines[se]
            counts = dict(zip(SERVER_COUNTERS, engine.counts_of(subject), strict=True))
            seen.append(
                SeenBy(
                    uuid=se,
                    name=self.traffic.places.fleet.name_of(se),
                    state=view.state,
                    failure=view.failure,
                    reason=view.reason,
                    since=shown(view.since),
                    connections=engine.connections_of(subject),
                    **counts,
                )
            )
        totals = dict(zip(SERVER_COUNTERS, self.traffic.totals(subject), strict=True))
        trouble = one.trouble
        return ServerRow(
            server=one.label,
            hostname=server.hostname,
            enabled=server.enabled,
            ratio=server.ratio,
            priority=server.priority,
            health=one.verdict.health.value,
            state=one.state,
            reason=one.verdict.reason,
            since=None if one.verdict.since is None else shown(one.verdict.since),
            last_failure=None
            if trouble is None
            else LastFailure(
                failure=trouble.failure,
                reason=trouble.reason,
                since=shown(trouble.since),
                until=None if trouble.until is None else shown(trouble.until),
            ),
            connections=self.traffic.connections(subject),
            service_engines=tuple(sorted(seen, key=lambda one: one.name)),
            **totals,
        )

    # In the Avi API's shapes

    def _oper_status(self, verdict: Verdict) -> dict[str, Any]:
        found: dict[str, Any] = {"state": _OPER[verdict.health]}
        if verdict.reason:
            found["reason"] = [verdict.reason]
        if verdict.since is not None:
            secs, part = divmod(self.reader.shown_at(verdict.since), 1)
            found["last_changed_time"] = {"secs": int(secs), "usecs": int(part * 1_000_000)}
        return found

    def _pool_runtime(self, pool: Pool, verdict: Verdict) -> dict[str, Any]:
        servers = self.traffic.verdicts.servers(pool)
        up = sum(one.verdict.health is Health.UP for one in servers)
        enabled = sum(server.enabled for server in pool.servers)
        return {
            "oper_status": self._oper_status(verdict),
            "num_servers": len(servers),
            "num_servers_enabled": enabled,
            "num_servers_up": up,
            "percent_servers_up_total": _percent(up, len(servers)),
            "percent_servers_up_enabled": _percent(up, enabled),
        }

    def _service_runtime(self, service: VirtualService, verdict: Verdict) -> dict[str, Any]:
        places = self.traffic.places
        engines = places.serving.get(service.uuid, ())
        up = [se for se in engines if places.fleet.is_up(se)]
        listed = [
            {"uuid": se, "url": f"/api/serviceengine/{se}#{places.fleet.name_of(se)}"} for se in engines
        ]
        oper = self._oper_status(verdict)
        return {
            "oper_status": oper,
            "percent_ses_up": _percent(len(up), len(engines)),
            "vip_summary": [
                {
                    "vip_id": str(number),
                    "ip_address": msgspec.to_builtins(vip.ip_address),
                    "oper_status": oper,
                    "num_se_assigned": len(engines),
                    "service_engine": listed,
                }
                for number, vip in enumerate(service.vip)
            ],
        }

    def _runtime_of(self, thing: Pool | VirtualService, verdict: Verdict) -> dict[str, Any]:
        if isinstance(thing, Pool):
            return self._pool_runtime(thing, verdict)
        return self._service_runtime(thing, verdict)

    async def runtime(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>/{uuid}/runtime``."""
        thing, verdict = self._found(kind, request)
        return Response(body={"uuid": thing.uuid, "name": thing.name, **self._runtime_of(thing, verdict)})

    async def runtime_servers(self, request: Request) -> Response:
        """``GET /api/pool/{uuid}/runtime/server``."""
        pool, _ = self._found(POOL_KIND, request)
        rows = [
            {
                "ip_addr": msgspec.to_builtins(server.ip),
                "port": server.port,
                "hostname": server.hostname,
                "oper_status": self._oper_status(one.verdict),
            }
            for server, one in zip(pool.servers, self.traffic.verdicts.servers(pool), strict=True)
        ]
        return Response(body={"count": len(rows), "results": rows})

    async def inventory(self, kind: str, request: Request) -> Response:
        """``GET /api/<kind>-inventory``."""
        query: InventoryQuery = request.query
        found = [
            thing for thing in self.config.current.all_of(KINDS[kind]) if query.name in {None, thing.name}
        ]
        size = max(1, min(query.page_size, MAX_PAGE))
        start = (max(1, query.page) - 1) * size
        results = [self._row(kind, thing) for thing in found[start : start + size]]
        body: dict[str, Any] = {"count": len(found), "results": results}
        if start + size < len(found):
            narrowed = {"name": query.name} if query.name else {}
            more = urlencode({**narrowed, "page": start // size + 2, "page_size": size})
            body["next"] = f"/api/{kind}-inventory?{more}"
        return Response(body=body)

    def _row(self, kind: str, thing: Any) -> dict[str, Any]:
        verdicts = self.traffic.verdicts
        verdict = verdicts.pool(thing) if isinstance(thing, Pool) else verdicts.service(thing)
        subject = Subject(kind, thing.uuid)
        rates = self.reader.rates(subject)
        return {
            "uuid": thing.uuid,
            "config": {
                "uuid": thing.uuid,
                "name": thing.name,
                "url": f"/api/{kind}/{thing.uuid}#{thing.name}",
                "enabled": thing.enabled,
            },
            "runtime": self._runtime_of(thing, verdict),
            "health": verdict.health.value,
            "reason": verdict.reason,
            "connections": self.traffic.connections(subject),
            "now": rates,
        }

    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        none = {404: "There is none."}
        pool = f"/api/{POOL_KIND}/{{uuid}}"
        return (
            *(route for kind in (SERVICE_KIND, POOL_KIND) for route in self._routes_of(kind)),
            Route(
                method="GET",
                path=f"{pool}/servers",
                handler=self.servers,
                summary="The servers of a pool as each service engine sees them, with the last failure of each.",
                response=ServersAnswer,
                statuses={200: "As reported last.", **none},
            ),
            Route(
                method="GET",
                path=f"{pool}/runtime/server",
                handler=self.runtime_servers,
                summary="The servers of a pool in the Avi API's shape.",
                statuses={200: "As reported last.", **none},
            ),
        )

    def _routes_of(self, kind: str) -> tuple[Route, ...]:
        name = KINDS[kind].__name__

        def handler(method: Any) -> Any:
            async def handle(request: Request) -> Response:
                answer: Response = await method(kind, request)
                return answer

            return handle

        statuses: Mapping[int, str] = {200: "As reported last.", 404: "There is none."}
        return (
            Route(
                method="GET",
                path=f"/api/{kind}/{{uuid}}/stats",
                handler=handler(self.stats),
                summary=f"Figures of a {name} over all service engines: now, in all, and over the last hour.",
                query=StatsQuery,
                response=Figures,
                statuses=statuses,
            ),
            Route(
                method="GET",
                path=f"/api/{kind}/{{uuid}}/runtime",
                handler=handler(self.runtime),
                summary=f"How a {name} is, in the Avi API's shape.",
                statuses=statuses,
            ),
            Route(
                method="GET",
                path=f"/api/{kind}-inventory",
                handler=handler(self.inventory),
                summary=f"Every {name} with its health and its figures of now.",
                query=InventoryQuery,
            ),
        )


def _percent(part: int, whole: int) -> int:
    return round(100 * part / whole) if whole else 0
