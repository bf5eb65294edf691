"""The operator API's routes for request logs, on a controller's ledger, intake and pulls."""

from collections.abc import Sequence
from typing import Any

from avinet.app.controller_logs import ControllerLogs
from avinet.app.records import Records
from avinet.app.steady import WallClock
from avinet.controller.api_pulls import PullApi, PullFleet
from avinet.model.config import KINDS, VirtualService
from avinet.model.engine import Lifecycle
from avinet.model.ids import ObjectId, SeId
from avinet.rest.route import Route

SERVICE_KIND = next(kind for kind, thing in KINDS.items() if thing is VirtualService)


def log_routes(logs: ControllerLogs, records: Records, reactor: Any) -> tuple[Route, ...]:
    """All of ``/api/logs``."""
    in_thread = logs.intake.threads.commits.run

    def engines() -> Sequence[tuple[SeId, str]]:
        found = [
            (one.uuid, one.name) for one in records.engines.all() if one.lifecycle is not Lifecycle.DELETED
        ]
        return sorted(found, key=lambda one: one[1])

    def connected(se: SeId) -> bool:
        link = logs.intake.bulk_link(se)
        return link is not None and link.ready

    def service(name: str) -> ObjectId | None:
        found = records.config.current.find(SERVICE_KIND, name)
        return None if found is None else found.thing.uuid

    def service_name(uuid: ObjectId) -> str:
        found = records.config.current.find(SERVICE_KIND, uuid)
        return uuid if found is None else found.thing.name

    fleet = PullFleet(
        engines=engines,
        engine=lambda name: records.engines.named(name).uuid,
        name_of=records.name_of,
        connected=connected,
        service=service,
        service_name=service_name,
    )
    pulls = PullApi(
        logs.pulls,
        fleet,
        WallClock(reactor).seconds,
        lambda: in_thread(logs.ledger.last_arrival),
        lambda arrival: in_thread(lambda: logs.ledger.waits(arrival)),
    )
    return pulls.routes()
