"""Which SEs serve which virtual service: a plain function of the configuration and of who is there.

Each virtual service ranks the SEs of its group by a hash of both names (rendezvous hashing) and takes the first
``max_scaleout_per_vs`` that can serve.  That needs no memory: every controller, also one that has just started,
comes to the same answer, and an SE that leaves moves only what it served.
"""

import hashlib
from collections.abc import Iterable, Mapping

import attrs

from avinet.model.config import ServiceEngineGroup, VirtualService
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId, SeId

DOWN_DELAY_S = 60.0
"""How long an SE may be gone before its virtual services go to another: a reboot is shorter, and moving costs
clients their connections."""


@attrs.frozen
class Engine:
    """An SE as placement sees it.  ``usable``: enrolled, placeable, enabled, and not gone for too long."""

    se: SeId
    group: str
    usable: bool


def place(configuration: Configuration, engines: Iterable[Engine]) -> Mapping[SeId, frozenset[ObjectId]]:
    """SE to its virtual services; every SE given is in the answer."""
    placed: dict[SeId, set[ObjectId]] = {}
    by_group: dict[str, list[Engine]] = {}
    for engine in engines:
        placed[engine.se] = set()
        if engine.usable:
            by_group.setdefault(engine.group, []).append(engine)
    groups = {group.uuid: group for group in configuration.all_of(ServiceEngineGroup)}
    for service in configuration.all_of(VirtualService):
        group = groups.get(service.se_group_ref)
        if not service.enabled or group is None:
            continue
        for engine in _ranked(service, by_group.get(group.name, []))[: group.max_scaleout_per_vs]:
            placed[engine.se].add(service.uuid)
    return {se: frozenset(services) for se, services in placed.items()}


def _ranked(service: VirtualService, engines: list[Engine]) -> list[Engine]:
    return sorted(engines, key=lambda e: hashlib.sha256(f"{service.uuid}\0{e.se}".encode()).digest())


def short_of(configuration: Configuration, placement: Mapping[SeId, frozenset[ObjectId]]) -> dict[str, int]:
    """Virtual services on fewer SEs than their group's minimum: name to how many they have."""
    counts: dict[ObjectId, int] = {}
    for services in placement.values():
        for uuid in services:
            counts[uuid] = counts.get(uuid, 0) + 1
    short: dict[str, int] = {}
    for service in configuration.all_of(VirtualService):
        stored = configuration.objects.get(service.se_group_ref)
        if not service.enabled or stored is None or not isinstance(stored.thing, ServiceEngineGroup):
            continue
        if counts.get(service.uuid, 0) < stored.thing.min_scaleout_per_vs:
            short[service.name] = counts.get(service.uuid, 0)
    return short
