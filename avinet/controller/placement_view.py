"""Where each virtual service is placed, as operators read it: who is to serve it, who does, and what is short and why."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import attrs
import msgspec
from twisted.internet.interfaces import IReactorTime

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Engines
from avinet.controller.sync import Sync
from avinet.model.config import ServiceEngineGroup, VirtualService
from avinet.model.ids import ObjectId, SeId

SERVING, PENDING, REFUSED, AWAY, DRAINING, HELD = "serving", "pending", "refused", "away", "draining", "held"
"""How far one virtual service is on one SE.  ``pending``: it is to have it, and has not acknowledged it yet.  ``held``:
it is placed elsewhere, and serves on until it is served there."""


class PlacedOn(msgspec.Struct, frozen=True, kw_only=True):
    """One SE of one virtual service."""

    uuid: SeId
    name: str
    stage: str
    why: str = ""
    """Of one that refuses."""
    over_in_s: float | None = None
    """Of one that drains."""


class ServicePlacement(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual service.  ``engines`` are those that are to serve it, then those it leaves."""

    uuid: ObjectId
    name: str
    url: str
    enabled: bool
    group: str
    least: int
    most: int
    wanted: int
    """SEs that are to serve it."""
    serving: int
    """Of all SEs here now that have it in force, those that drain it included."""
    short: bool = False
    why: str = ""
    """What is short, or why nothing is placed."""
    engines: tuple[PlacedOn, ...] = ()


class EngineService(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual service of one SE."""

    uuid: ObjectId
    name: str
    stage: str
    why: str = ""
    over_in_s: float | None = None


class EngineLoad(NamedTuple):
    """How many virtual services an SE is to serve in the end, and of those that it lets go how far that is."""

    services: int = 0
    draining: int = 0
    """Others have taken them over."""
    held: int = 0
    """It serves them until others do."""


@attrs.frozen(eq=False)
class PlacementView:
    """Reads what others keep; nothing of its own."""

    config: ConfigService
    engines: Engines
    sync: Sync
    clock: IReactorTime

    # One SE

    def load(self, se: SeId) -> EngineLoad:
        """In numbers."""
        drains = self.sync.moves.drains_of(se)
        held = sum(end is None for end in drains.values())
        return EngineLoad(len(self.sync.states.placed.get(se, ())), len(drains) - held, held)

    def services_of(self, se: SeId) -> tuple[EngineService, ...]:
        """What it is to have now, by name."""
        found = []
        for service in self.sync.moves.serving(se):
            on = self._on(se, service)
            name = self._name(service)
            found.append(
                EngineService(uuid=service, name=name, stage=on.stage, why=on.why, over_in_s=on.over_in_s)
            )
        return tuple(sorted(found, key=lambda one: one.name))

    def empty(self, se: SeId) -> bool:
        """Whether nothing would be lost with it: it is not here, or has acknowledged that it has nothing."""
        moves = self.sync.moves
        return not moves.attached_now(se) or (not moves.serving(se) and self.sync.in_sync(se))

    def stranded_without(self, se: SeId) -> tuple[str, ...]:
        """Names of what it serves that no other SE could take over."""
        mine = self.sync.moves.serving(se)
        elsewhere = self.sync.states.placed_without(se) if mine else frozenset()
        return tuple(sorted(self._name(service) for service in mine - elsewhere))

    # Virtual services

    def services(self) -> list[ServicePlacement]:
        """All, by name."""
        placed: dict[ObjectId, list[SeId]] = {}
        for se, services in self.sync.states.placed.items():
            for service in services:
                placed.setdefault(service, []).append(se)
        return [
            self._placement(service, placed.get(service.uuid, ()))
            for service in self.config.current.all_of(VirtualService)
        ]

    def service(self, name_or_uuid: str) -> ServicePlacement:
        """One; ``ObjectNotFoundError``."""
        thing = self.config.find("virtualservice", name_or_uuid).thing
        placed = [se for se, services in self.sync.states.placed.items() if thing.uuid in services]
        assert isinstance(thing, VirtualService)  # noqa: S101 - found by its kind
        return self._placement(thing, placed)

    def _placement(self, service: VirtualService, placed: Iterable[SeId]) -> ServicePlacement:
        moves = self.sync.moves
        group = self.config.current.objects[service.se_group_ref].thing
        assert isinstance(group, ServiceEngineGroup)  # noqa: S101 - references are of their kind
        wanted = sorted((self._on(se, service.uuid) for se in placed), key=lambda on: on.name)
        leaving = sorted(
            (self._on(se, service.uuid) for se in moves.drained_by(service.uuid)), key=lambda on: on.name
        )
        serving = sum(
            moves.attached_now(on.uuid) and bool(moves.has(on.uuid, service.uuid))
            for on in (*wanted, *leaving)
        )
        short = self.sync.shortage.services.get(service.uuid)
        return ServicePlacement(
            uuid=service.uuid,
            name=service.name,
            url=f"/api/placement/{service.uuid}",
            enabled=service.enabled,
            group=group.name,
            least=group.min_scaleout_per_vs,
            most=group.max_scaleout_per_vs,
            wanted=len(wanted),
            serving=serving,
            short=short is not None,
            why=short.why if short is not None else "" if service.enabled else "it is disabled",
            engines=(*wanted, *leaving),
        )

    def _on(self, se: SeId, service: ObjectId) -> PlacedOn:
        moves, progress = self.sync.moves, self.sync.progress(se)
        drains: Mapping[SeId, float | None] = moves.drained_by(service)
        why, over_in_s = "", None
        if not moves.attached_now(se):
            stage = AWAY
        elif se in drains:
            end = drains[se]
            stage = HELD if end is None else DRAINING
            over_in_s = None if end is None else round(max(0.0, end - self.clock.seconds()), 1)
            if moves.lacks_successor(service):
                why = "there is no other service engine to go to"
        elif moves.has(se, service):
            stage = SERVING
        else:
            refused = "" if progress is None else progress.refused
            stage, why = (REFUSED, refused) if refused else (PENDING, "")
        record = self.engines.find(se)
        return PlacedOn(
            uuid=se, name=se if record is None else record.name, stage=stage, why=why, over_in_s=over_in_s
        )

    def _name(self, service: ObjectId) -> str:
        stored = self.config.current.objects.get(service)
        return service if stored is None else stored.thing.name
