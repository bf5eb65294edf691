"""The operator API's routes for request logs, on a controller's ledger, intake, pulls and store."""

from collections.abc import Sequence
from typing import Any

import attrs
from twisted.internet.threads import deferToThread

from avinet.app.controller_logs import ControllerLogs
from avinet.app.controller_peers import ControllerPeers
from avinet.app.records import Records
from avinet.app.steady import WallClock
from avinet.controller.api_logs import Exported, LogApi
from avinet.controller.api_pulls import PullApi
from avinet.controller.forwarding import Forwarding
from avinet.controller.log_export import ClusterExport
from avinet.controller.log_parts import AskPart, PartFetcher, PartHead
from avinet.controller.log_peers import SHOWN_DROPS, ClusterSearch, StatusOfAll
from avinet.controller.log_questions import AskPulls, AskSearch, AskStatus, AskTail, LogQuestions, Said
from avinet.controller.log_search import StoreSearch
from avinet.controller.log_status import LostLogs, OwnStatus
from avinet.controller.log_tail import Arrivals
from avinet.controller.log_tail_cluster import TailAnswers, Tails
from avinet.controller.log_whereabouts import UNDER_WAY, Spools, Whereabouts
from avinet.controller.pull_cluster import PullsOfAll
from avinet.controller.pull_records import ENDED
from avinet.controller.pull_rows import PullFleet, PullRow, PullRows
from avinet.logs.copies import CopiesElsewhere
from avinet.logs.entries import Dropped
from avinet.logs.query.times import SECOND_US, show_instant
from avinet.model.config import KINDS, VirtualService
from avinet.model.engine import Lifecycle
from avinet.model.ids import ObjectId, SeId
from avinet.model.logs import Selection
from avinet.rest.route import Route

SERVICE_KIND = next(kind for kind, thing in KINDS.items() if thing is VirtualService)


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

    def pulled(self) -> set[SeId]:
        """Those of which something is on its way here."""
        pulls = self.logs.pulls.all()
        return {share.se for pull in pulls for share in pull.shares if share.state not in ENDED}

    def selection(self, pull: int) -> Selection | None:
        return next((one.order.selection for one in self.logs.pulls.all() if one.id == pull), None)

    def service(self, name: str) -> ObjectId | None:
        found = self.records.config.current.find(SERVICE_KIND, name)
        return None if found is None else found.thing.uuid

    def service_name(self, uuid: str) -> str:
        found = self.records.config.current.find(SERVICE_KIND, uuid)
        return uuid if found is None else found.thing.name

    @property
    def fleet(self) -> PullFleet:
        """For pulls."""
        engines = self.records.engines
        return PullFleet(
            engines=self.engines,
            engine=lambda name: engines.named(name).uuid,
            name_of=self.records.name_of,
            connected=self.connected,
            service=self.service,
            service_name=self.service_name,
        )

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
    logs: ControllerLogs, records: Records, peers: ControllerPeers, forwarding: Forwarding, reactor: Any
) -> tuple[Route, ...]:
    """All of ``/api/logs``; from now on other controllers are answered, too."""
    known, wall = _Known(logs, records), WallClock(reactor).seconds
    in_thread, questions = logs.intake.threads.commits.run, LogQuestions(peers.links, reactor)
    search = StoreSearch(logs.store, logs.exports, in_thread, logs.copies)
    arrivals = Arrivals(search, wall)
    logs.store.stored = arrivals.stored
    spools = Spools(logs.intake, known.selection, reactor.seconds)
    logs.intake.add_listener(spools)
    rows = PullRows(
        known.fleet,
        peers.links.me,
        lambda: bool(questions.others),
        lambda: in_thread(logs.ledger.last_arrival),
        lambda arrival: in_thread(lambda: logs.ledger.waits(arrival)),
    )

    async def own_rows() -> tuple[PullRow, ...]:
        return await rows.all(logs.pulls.all())

    async def own_status() -> OwnStatus:
        return OwnStatus(
            store=await search.status(),
            store_id=logs.ledger.store_id,
            uncopied=(await in_thread(CopiesElsewhere(logs.ledger).uncopied)).records,
            copies=await search.kept(),
            drops=await known.drops(),
        )

    async def searched(asked: AskSearch) -> Said:
        answer = await search.ask(asked, asked.sets)
        pulled = {**spools.emptied(), **dict.fromkeys(known.pulled(), UNDER_WAY)}
        counted = search.counted(asked.sets)
        return Said(answer=answer, store=logs.ledger.store_id, counted=counted, pulled=pulled)

    async def told_status(_: AskStatus) -> Said:
        return Said(status=await own_status())

    async def told_pulls(_: AskPulls) -> Said:
        return Said(pulls=await own_rows())

    async def made(asked: AskPart) -> tuple[Exported, PartHead]:
        exported = await search.export(asked.query, "parquet", asked.sets)
        return exported, PartHead(store=logs.ledger.store_id, counted=search.counted(asked.sets))

    peers.parts.make = made
    peers.logs.by_kind = {
        AskSearch: searched,
        AskStatus: told_status,
        AskPulls: told_pulls,
        AskTail: TailAnswers(arrivals, reactor).answer,
    }
    where = Whereabouts(
        spools.now,
        known.with_logs,
        known.connected,
        lambda: known.pulled() | spools.pulled_elsewhere(),
        lambda: int(wall() * SECOND_US),
    )
    pulls = PullsOfAll(questions, own_rows, logs.pulls.get, forwarding.ask)
    everywhere = ClusterSearch(search, questions, spools.elsewhere)
    export = ClusterExport(everywhere, search, PartFetcher(peers.links, reactor, deferToThread))
    stores = StatusOfAll(own_status, questions)
    return (
        *PullApi(logs.pulls, rows, pulls, wall).routes(),
        *LogApi(
            everywhere, where, Tails(arrivals, questions), export.make, stores.told, reactor, wall
        ).routes(),
    )
