"""The API's view of the whole: health, readiness, status, and what an SE's data plane reports now."""

import os
from collections.abc import Callable, Iterable
from typing import ClassVar

import attrs
import msgspec

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Engines
from avinet.controller.progress import restored_behind
from avinet.controller.seat import Seat
from avinet.controller.session import SeSession
from avinet.controller.sessions import Sessions
from avinet.controller.state_engine_health import EMBEDDED, EngineHealth
from avinet.controller.sync import Sync
from avinet.errors import AvinetError, Kind, error
from avinet.model.engine import SeState
from avinet.model.ids import ClusterId, ControllerName, SeId
from avinet.rest.route import Auth, Request, Response, Route
from avinet.units import KIB
from avinet.wire.messages import ServerHealth, ServiceStats


class Alive(msgspec.Struct, frozen=True):
    """``/healthz``: the process answers."""

    status: str = "ok"


class Ready(msgspec.Struct, frozen=True):
    """``/readyz``: it can be given work."""

    status: str
    why: str = ""


class EngineCounts(msgspec.Struct, frozen=True, kw_only=True):
    """SEs by what matters."""

    total: int
    up: int
    in_sync: int
    restored_behind: int = 0
    """That have a newer configuration than the restored one, and keep it."""
    by_state: dict[str, int]


class Straggler(msgspec.Struct, frozen=True):
    """An attached SE that does not have what it should."""

    name: str
    uuid: SeId
    stand: str
    why: str = ""
    since: float | None = None
    """UNIX seconds."""
    resends: int = 0
    """Times that what it should have was sent again."""


class ReactorHealth(msgspec.Struct, frozen=True, kw_only=True):
    """How long the one thread that serves everything was kept from it."""

    over_50_ms: int = 0
    """Times since the start."""
    p99_ms: int = 0
    """Of the last 10 to 20 minutes; a bound, such as 1, 2, 5, 10."""
    longest_minute_ms: float = 0.0
    longest_hour_ms: float = 0.0
    longest_collection_ms: float = 0.0
    """Of Python's garbage, since the start."""


class StrangerCounts(msgspec.Struct, frozen=True, kw_only=True):
    """Connections to the SSH server: those that have not logged in, and what came of the others since the start."""

    in_progress: int = 0
    turned_away: int = 0
    logged_in: int = 0
    refused: int = 0
    login_ms: float = 0.0
    """From one login to the next while there are more than can be done at once: what waits are computed from."""


class Lead(msgspec.Struct, frozen=True, kw_only=True):
    """Who leads the cluster, as this controller knows it."""

    role: str = "leader"
    """This one's: ``leader`` or ``follower``."""
    leader: str = ""
    """Empty while nobody is known to lead: nothing can be changed then."""
    term: int = 0
    why: str = ""
    """Why it became so."""
    stale_s: float = 0.0
    """How old what this controller knows may be; under 3 s is as it should be."""

    @classmethod
    def of(cls, seat: Seat) -> "Lead":
        """As it is now."""
        role = seat.role
        return cls(
            role="leader" if role.leads else "follower",
            leader=role.leader or "",
            term=role.term,
            why=role.why,
            stale_s=round(seat.stale_s, 1),
        )


class RestoredFrom(msgspec.Struct, frozen=True, kw_only=True):
    """When the controller's state was restored (UNIX seconds), and the version of the backup."""

    at: float
    version: int


class StatusAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/status``."""

    cluster: ClusterId
    name: ControllerName
    software: str
    started_at: float
    config_version: int
    membership: int
    service_engines: EngineCounts
    stragglers: tuple[Straggler, ...]
    memory_kib: int
    """Resident, of this process."""
    reactor: ReactorHealth
    logins: StrangerCounts
    store: EngineHealth
    lead: Lead
    restored: RestoredFrom | None = None
    """Until a restored configuration is accepted."""


class Runtime(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/serviceengine/{uuid}/runtime``: as the SE reports it now.  Times in ms."""

    uuid: SeId
    name: str
    boot: str
    data_plane: str
    data_plane_up: bool
    data_plane_started_at: float
    rtt_ms: float | None
    rtt_p99_ms: float | None
    health: tuple[ServerHealth, ...]
    services: tuple[ServiceStats, ...]


@error
class NotAttachedError(AvinetError):
    """Service engine {name} is not connected, so it cannot be asked. See: avinet se show {name}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    name: str


@attrs.frozen(kw_only=True, eq=False)
class Whole:
    """What the handlers look at."""

    cluster: ClusterId
    name: ControllerName
    software: str
    started_at: float
    membership: Callable[[], int]
    engines: Engines
    sessions: Sessions
    is_up: Callable[[SeId], bool]
    """Whether any controller has it."""
    config: ConfigService
    sync: Sync
    not_ready: Callable[[], str]
    """Why no work should be given to this controller; empty when it may be."""
    reactor: Callable[[], ReactorHealth] = ReactorHealth
    logins: Callable[[], StrangerCounts] = StrangerCounts
    store: Callable[[], EngineHealth] = lambda: EMBEDDED
    lead: Callable[[], Lead] = Lead

    def state(self, se: SeId) -> SeState:
        """One SE's state as operators read it."""
        return self.engines.state(se, attached=self.is_up(se))


@attrs.frozen(eq=False)
class StatusApi:
    """The handlers."""

    whole: Whole

    async def alive(self, request: Request) -> Response:
        """``GET /healthz``."""
        return Response(body=Alive())

    async def ready(self, request: Request) -> Response:
        """``GET /readyz``."""
        why = self.whole.not_ready()
        return Response(status=503 if why else 200, body=Ready("no" if why else "ok", why))

    async def status(self, request: Request) -> Response:
        """``GET /api/status``."""
        whole, restored = self.whole, self.whole.config.restored
        states: dict[str, int] = {}
        in_sync = behind = 0
        for record in whole.engines.all():
            state = whole.state(record.uuid)
            states[state] = states.get(state, 0) + 1
            in_sync += whole.sync.in_sync(record.uuid)
            behind += restored_behind(whole.sync.progress(record.uuid))
        return Response(
            body=StatusAnswer(
                cluster=whole.cluster,
                name=whole.name,
                software=whole.software,
                started_at=whole.started_at,
                config_version=whole.config.current.version,
                membership=whole.membership(),
                service_engines=EngineCounts(
                    total=sum(states.values()),
                    up=states.get(SeState.UP, 0),
                    in_sync=in_sync,
                    restored_behind=behind,
                    by_state=states,
                ),
                stragglers=stragglers_of(whole.engines, whole.sync),
                memory_kib=resident_kib(),
                reactor=whole.reactor(),
                logins=whole.logins(),
                store=whole.store(),
                lead=whole.lead(),
                restored=None
                if restored is None
                else RestoredFrom(at=restored.at, version=restored.known.version),
            )
        )

    async def runtime(self, request: Request) -> Response:
        """``GET /api/serviceengine/{uuid}/runtime``."""
        record = self.whole.engines.named(request.params["uuid"])
        session: SeSession | None = self.whole.sessions.get(record.uuid)
        if session is None:
            raise NotAttachedError(name=record.name)
        report = await session.request_stats()
        rtt, p99 = session.rtt.smoothed, session.rtt.p99
        return Response(
            body=Runtime(
                uuid=record.uuid,
                name=record.name,
                boot=session.boot,
                data_plane=session.hello.data_plane,
                data_plane_up=report.data_plane_up,
                data_plane_started_at=report.data_plane_started_at,
                rtt_ms=None if rtt is None else round(rtt * 1000, 2),
                rtt_p99_ms=None if p99 is None else round(p99 * 1000, 2),
                health=report.health,
                services=report.services,
            )
        )

    def routes(self) -> tuple[Route, ...]:
        """All of them."""
        return (
            Route(
                method="GET",
                path="/healthz",
                handler=self.alive,
                summary="Whether the process answers.",
                response=Alive,
                auth=Auth.ANYONE,
            ),
            Route(
                method="GET",
                path="/readyz",
                handler=self.ready,
                summary="Whether this controller can be given work.",
                response=Ready,
                statuses={200: "It can.", 503: "It cannot now; the body says why."},
                auth=Auth.ANYONE,
            ),
            Route(
                method="GET",
                path="/api/status",
                handler=self.status,
                summary="The cluster at a glance.",
                response=StatusAnswer,
            ),
            Route(
                method="GET",
                path="/api/serviceengine/{uuid}/runtime",
                handler=self.runtime,
                summary="What a service engine's data plane reports now: health and counters.",
                response=Runtime,
                statuses={200: "As it is now.", 404: "No such SE.", 503: "The SE is not connected."},
            ),
        )


def stragglers_of(engines: Engines, sync: Sync) -> tuple[Straggler, ...]:
    """Attached SEs that do not have what they should, by name."""
    return named_stragglers(engines, sync, sync.behind())


def named_stragglers(engines: Engines, sync: Sync, behind: Iterable[SeId]) -> tuple[Straggler, ...]:
    """Those of ``behind``, by name."""
    found: list[Straggler] = []
    for se in behind:
        record, progress = engines.find(se), sync.progress(se)
        if record is not None and progress is not None:
            found.append(
                Straggler(
                    name=record.name,
                    uuid=se,
                    stand=progress.stand.value,
                    why=progress.refused,
                    since=sync.stragglers.since(se),
                    resends=progress.resends,
                )
            )
    return tuple(sorted(found, key=lambda one: one.name))


def resident_kib() -> int:
    """Of this process, from /proc; 0 where there is none."""
    try:
        with open("/proc/self/statm", "rb") as file:  # noqa: PTH123 - the shortest way to two words
            return int(file.read().split()[1]) * (os.sysconf("SC_PAGE_SIZE") // KIB)
    except OSError:
        return 0
