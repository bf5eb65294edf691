"""How far the fleet is with the configuration: the route that shows it, and waits."""

import contextlib
from typing import ClassVar

import attrs
import msgspec
from twisted.internet.defer import TimeoutError  # noqa: A004 - Twisted's own name

from avinet.controller.api_status import Straggler, named_stragglers, stragglers_of
from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Engines
from avinet.controller.history import NoSuchVersionError
from avinet.controller.progress import WITHHELD, Stand
from avinet.controller.sync import Sync
from avinet.errors import AvinetError, Kind, error
from avinet.model.ids import ConfigVersion, SeId
from avinet.rest.route import Request, Response, Route

MAX_WAIT_S = 300.0
"""Of one long poll; clients ask again."""
MAX_NAMED = 100
"""SEs that a sentence names; the status has all."""


@error
class NotInSyncError(AvinetError):
    """Configuration version {version} is not in force everywhere after {waited_s:.0f} s: {waiting}. What is committed goes on being applied; see: avinet config status."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    version: int
    waited_s: float
    waiting: str


@error
class RefusedError(AvinetError):
    """Configuration version {version} is refused by {waiting}. Their last good configuration stays in force. Correct the objects at fault and apply again."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    version: int
    waiting: str


class StatusQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``wait``: answer once this version is in force on every attached SE, or ``timeout`` seconds are over."""

    wait: int | None = None
    timeout: float = 60.0


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
    concerned: int
    """Attached SEs that it gave something else to have."""
    acks: int
    p50_s: float | None
    p99_s: float | None
    last_s: float | None
    missing: tuple[str, ...]
    left: tuple[str, ...]
    """Those that went away without it; they get it when they come back."""
    resends: int
    nacks: int


class ConfigStatus(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/config/status``."""

    version: int
    in_sync: bool
    service_engines: tuple[EngineStand, ...]
    stragglers: tuple[Straggler, ...]
    versions: tuple[VersionRow, ...]


@attrs.frozen(eq=False)
class ConvergenceApi:
    """The handler."""

    config: ConfigService
    sync: Sync
    engines: Engines

    async def status(self, request: Request) -> Response:
        """``GET /api/config/status``."""
        query: StatusQuery = request.query
        if query.wait is not None:
            await self._wait(ConfigVersion(query.wait), max(0.0, min(query.timeout, MAX_WAIT_S)))
        return Response(body=self._status())

    async def _wait(self, version: ConfigVersion, limit_s: float) -> None:
        clock, sync = self.sync.clock, self.sync
        end = clock.seconds() + limit_s
        newest = self.config.current.version
        if newest < version:
            raise NoSuchVersionError(version=version, newest=newest)
        while sync.placing or sync.waits(version) is not None:
            left = end - clock.seconds()
            if self._refused_by_all(version):
                raise RefusedError(version=version, waiting=self._missing(version))
            if left <= 0:
                waiting = self._missing(version) or "it is being placed"
                raise NotInSyncError(version=version, waited_s=limit_s, waiting=waiting)
            changed = sync.changed()
            # Placement follows events by a moment of its own, so a look each second closes every gap.
            changed.addTimeout(min(left, 1.0), clock)
            with contextlib.suppress(TimeoutError):
                await changed

    def _refused_by_all(self, version: ConfigVersion) -> bool:
        """Whether all that is missing is SEs that have refused and wait to be asked again."""
        first = self.sync.waits(version)
        if first is None or self.sync.placing or not self._has_refused(first):
            return False
        return all(map(self._has_refused, self.sync.waits_for(version)))

    def _has_refused(self, se: SeId) -> bool:
        progress = self.sync.progress(se)
        if progress is None:
            return False
        return progress.stand is Stand.RESTORED_BEHIND or (
            progress.stand is Stand.WAITING and bool(progress.refused)
        )

    def _missing(self, version: ConfigVersion) -> str:
        """Who does not have what it should, and why, in words."""
        waiting = named_stragglers(self.engines, self.sync, self.sync.waits_for(version))
        said = [f"{one.name} ({one.why or one.stand})" for one in waiting[:MAX_NAMED]]
        more = len(waiting) - len(said)
        return ", ".join(said) + (f" and {more} more" if more else "")

    def _status(self) -> ConfigStatus:
        rows: list[EngineStand] = []
        for record in self.engines.all():
            progress = self.sync.progress(record.uuid)
            stand, why = ("away", "") if progress is None else (progress.stand.value, progress.refused)
            if stand == Stand.RESTORED_BEHIND:
                why = WITHHELD
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
                    concerned=one.concerned,
                    acks=len(one.acks_s),
                    p50_s=one.quantile(0.5),
                    p99_s=one.quantile(0.99),
                    last_s=one.last_s,
                    missing=tuple(sorted(names.get(se, se) for se in one.missing)),
                    left=tuple(sorted(names.get(se, se) for se in one.left)),
                    resends=one.resends,
                    nacks=one.nacks,
                )
                for one in self.sync.times.all()
            ),
        )

    def routes(self) -> tuple[Route, ...]:
        """The one there is."""
        return (
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
                    404: "There is no such version to wait for.",
                    504: "Not in force everywhere in time; the body names who is missing.",
                },
            ),
        )
