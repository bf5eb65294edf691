"""The operator API's routes for request logs, on a controller's ledger, intake, pulls and store."""

from collections.abc import Sequence
from typing import Any

import attrs

from avinet.app.controller_logs import ControllerLogs
from avinet.app.controller_peers import ControllerPeers
from avinet.app.records import Records
from avinet.app.steady import WallClock
from avinet.controller.api_logs import LogApi, LostLogs
from avinet.controller.api_pulls import PullApi, PullFleet
from avinet.controller.log_peers import ClusterSearch
from avinet.controller.log_search import StoreSearch
from avinet.controller.log_tail import Arrivals
from avinet.controller.log_whereabouts import Spools, Whereabouts
from avinet.controller.pull_records import ENDED
from avinet.logs.entries import Dropped
from avinet.logs.query.times import SECOND_US, show_instant
from avinet.model.config import KINDS, VirtualService
from avinet.model.engine import Lifecycle
from avinet.model.ids import ObjectId, SeId
from avinet.model.logs import Selection
from avinet.rest.route import Route

SERVICE_KIND = next(kind for kind, thing in KINDS.items() if thing is VirtualService)
SHOWN_DROPS = 100


@attrs.frozen(eq=False)
class _Known:
    """What the routes ask of the rest of the controller."""

    logs: ControllerLogs
    records: Records

    def engines(self) -> Sequence[tuple[SeId, str]]:
        found = self.records.engines.all()
        named = [(one.uuid, one.name) for one in found if one.lifecycle is not Lifecycle.DELETED]
        return sorted(named, key=lambda one: one[1])

    def with_logs(self) -> Sequence[tuple[SeId, str]]:
        """Those that have been attached, ever: only they have served anything."""
        return [(se, name) for se, name in self.engines() if self._has_connected(se)]

    def _has_connected(self, se: SeId) -> bool:
        record = self.records.engines.find(se)
        return record is not None and record.connected_once

    def connected(self, se: SeId) -> bool:
        link = self.logs.intake.bulk_link(se)
        return link is not None and link.ready

    def pulled(self, se: SeId) -> bool:
        """Whether something of it is on its way."""
        return any(
            share.se == se and share.state not in ENDED
            for pull in self.logs.pulls.all()
            for share in pull.shares
        )

    def selection(self, pull: int) -> Selection | None:
        return next((one.order.selection for one in self.logs.pulls.all() if one.id == pull), None)

    def service(self, name: str) -> ObjectId | None:
        found = self.records.config.current.find(SERVICE_KIND, name)
        return None if found is None else found.thing.uuid

    def service_name(self, uuid: str) -> str:
        found = self.records.config.current.find(SERVICE_KIND, uuid)
        return uuid if found is None else found.thing.name

    async def drops(self) -> tuple[LostLogs, ...]:
        """The newest."""
        ledger = self.logs.ledger
        found: list[Dropped] = await self.logs.intake.threads.commits.run(
            lambda: ledger.newest_drops(SHOWN_DROPS)
        )
        return tuple(map(self._lost, found))

    def _lost(self, one: Dropped) -> LostLogs:
        drop = one.drop
        return LostLogs(
            se=self.records.name_of(one.se),
            at=show_instant(one.at_us),
            reason=drop.reason.value,
            log_class=drop.log_class.value,
            vs=self.service_name(drop.service) if drop.service else "",
            since=show_instant(drop.first_us) if drop.first_us else "",
            until=show_instant(drop.last_us) if drop.last_us else "",
            records=drop.records,
            bytes=drop.raw_bytes,
        )


def log_routes(
    logs: ControllerLogs, records: Records, peers: ControllerPeers, reactor: Any
) -> tuple[Route, ...]:
    """All of ``/api/logs``; from now on other controllers are answered, too."""
    known, wall = _Known(logs, records), WallClock(reactor).seconds
    in_thread = logs.intake.threads.commits.run
    fleet = PullFleet(
        engines=known.engines,
        engine=lambda name: records.engines.named(name).uuid,
        name_of=records.name_of,
        connected=known.connected,
        service=known.service,
        service_name=known.service_name,
    )
    pulls = PullApi(
        logs.pulls,
        fleet,
        wall,
        lambda: in_thread(logs.ledger.last_arrival),
        lambda arrival: in_thread(lambda: logs.ledger.waits(arrival)),
    )
    search = StoreSearch(logs.store, logs.exports, in_thread)
    peers.logs.search = search
    arrivals = Arrivals(search, wall)
    logs.store.stored = arrivals.stored
    spools = Spools(logs.intake, known.selection)
    logs.intake.add_listener(spools)
    where = Whereabouts(
        spools.now, known.with_logs, known.connected, known.pulled, lambda: int(wall() * SECOND_US)
    )
    return (
        *pulls.routes(),
        *LogApi(
            ClusterSearch(search, peers.links, reactor), where, arrivals, known.drops, reactor, wall
        ).routes(),
    )
