"""The operator API's table of routes, put together from the controller's parts."""

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.interfaces import IReactorTime
from twisted.internet.threads import deferToThread

from avinet.app.steady import WallClock
from avinet.controller.api_absent import absent_routes
from avinet.controller.api_backup import BackupApi
from avinet.controller.api_config import ConfigApi
from avinet.controller.api_engines import EngineApi, EngineFacts
from avinet.controller.api_events import event_routes
from avinet.controller.api_images import ImageApi
from avinet.controller.api_metrics import metrics_route
from avinet.controller.api_placement import PlacementApi
from avinet.controller.api_profiles import profile_routes
from avinet.controller.api_schemas import components
from avinet.controller.api_status import StatusApi, Whole
from avinet.controller.api_tokens import TokenApi
from avinet.controller.api_traffic import TrafficApi
from avinet.controller.departures import Departures
from avinet.controller.engine_commands import EngineCommands
from avinet.controller.events import Events
from avinet.controller.images import Images
from avinet.controller.machines import Machines
from avinet.controller.progress import restored_behind
from avinet.controller.traffic import FleetTraffic
from avinet.controller.traffic_figures import FigureReader
from avinet.controller.traffic_metrics import TrafficCollector
from avinet.model.channel import ChannelStatus
from avinet.model.ids import SeId
from avinet.rest.route import Response, Route
from avinet.rest.router import Info, openapi
from avinet.wire.registration import MetaInfo

INFO = Info(
    title="avinet operator API",
    version="1",
    description="What operators and programs do with a cluster; also on a UNIX socket in the state folder.",
    schemas=components(),
)


@attrs.frozen(eq=False)
class OperatorApi:
    """What the routes work on.  ``meta`` makes an SE's meta-info around a token's text."""

    whole: Whole
    commands: EngineCommands
    machines: Machines
    images: Images
    events: Events
    meta: Callable[[str], MetaInfo]
    traffic: FleetTraffic
    departures: Departures

    def routes(self, clock: IReactorTime, more: tuple[Route, ...]) -> tuple[Route, ...]:
        """All of them and ``more``, with the OpenAPI document of the very same table."""
        whole, view = self.whole, self.departures.view
        facts = EngineFacts(
            is_attached=whole.is_up,
            in_sync=whole.sync.in_sync,
            restored_behind=lambda se: restored_behind(whole.sync.progress(se)),
            rtt_s=self._rtt_s,
            version=self._version,
            software=self._software,
            channel=self._channel,
            load=view.load,
            services=view.services_of,
            stranded=view.stranded_without,
        )
        reader = FigureReader(self.traffic, WallClock(clock).seconds)
        engines = EngineApi(self.commands, self.machines, facts, self._has_group, self.departures.delete)
        table = (
            *StatusApi(whole).routes(),
            *engines.routes(),
            *PlacementApi(view).routes(),
            *TokenApi(whole.engines, self.events.emit, self.meta, self._has_group).routes(),
            *ImageApi(self.images, whole.engines, self._has_group).routes(),
            *ConfigApi(whole.config, whole.sync, whole.engines, deferToThread).routes(),
            *BackupApi(whole.config, self.events.emit, clock, deferToThread).routes(),
            *profile_routes(),
            *event_routes(self.events, clock),
            *TrafficApi(whole.config, self.traffic, reader).routes(),
            metrics_route(whole, lambda: self.events.counts, (TrafficCollector(self.traffic),)),
            *absent_routes(),
            *more,
        )
        return (*table, *_description_of(table))

    def _has_group(self, name: str) -> bool:
        return self.whole.config.group(name) is not None

    def _rtt_s(self, se: SeId) -> float | None:
        session = self.whole.sessions.get(se)
        return None if session is None else session.rtt.smoothed

    def _software(self, se: SeId) -> str:
        session = self.whole.sessions.get(se)
        return "" if session is None else session.hello.software

    def _channel(self, se: SeId) -> ChannelStatus | None:
        session = self.whole.sessions.get(se)
        return None if session is None else session.connection.status()

    def _version(self, se: SeId) -> int | None:
        progress = self.whole.sync.progress(se)
        return progress.wanted.version if progress is not None and progress.in_sync else None


def _description_of(table: tuple[Route, ...]) -> tuple[Route, ...]:
    document = openapi(table, INFO)

    async def describe(request: Any) -> Any:
        return Response(body=document)

    return tuple(
        Route(method="GET", path=path, handler=describe, summary="This API, described.")
        for path in ("/openapi.json", "/api/openapi.json")
    )
