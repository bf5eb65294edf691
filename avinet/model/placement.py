"""Which SEs serve which virtual service: a plain function of the configuration and of who is there.

Each virtual service ranks the SEs of its group (``avinet.model.ranking``) and takes the first that can serve and have
room.  That needs no memory: every controller, also one that has just started, comes to the same answer, and an SE that
leaves moves only what it served.

While no SE is full, each virtual service is on the first ``max_scaleout_per_vs`` of its ranking.  When ``max_vs_per_se``
binds, places are given in rounds, so that none has four SEs while another has none: first one SE each, then up to the
minimum, then up to the maximum; within a round the oldest virtual service chooses first, and a new one never takes a
place from it.  Age is told by the UUID, which holds the time of creation.  Those that find no room are treated as the
group's ``when_short`` says: with OVERLOAD they get SEs up to the minimum all the same, with LEAVE they wait.

Two virtual services on one address and port cannot meet on an SE, since ``avinet.model.checks`` refuses them.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice

import attrs

from avinet.model.config import ServiceEngineGroup, VirtualService, WhenShort
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId, SeId, age_key
from avinet.model.ranking import Ranking

Placement = Mapping[SeId, frozenset[ObjectId]]


@attrs.frozen
class Engine:
    """An SE as placement sees it.  ``usable``: enrolled, placeable, enabled, and not gone for too long."""

    se: SeId
    group: str
    usable: bool
    settling: bool = False
    """Back from a failure that moved its virtual services: taken only where the group has no other."""
    drains: bool = True
    """Of one that is not usable: it may serve on what it has until others do (``avinet.model.moves``)."""


def place(configuration: Configuration, engines: Iterable[Engine]) -> Placement:
    """SE to its virtual services; every SE given is in the answer."""
    placed: dict[SeId, set[ObjectId]] = {}
    steady: dict[str, list[SeId]] = {}
    settling: dict[str, list[SeId]] = {}
    for engine in engines:
        placed[engine.se] = set()
        if engine.usable:
            (settling if engine.settling else steady).setdefault(engine.group, []).append(engine.se)
    for group, services in served(configuration):
        there = steady.get(group.name) or settling.get(group.name)
        if there:
            _place_group(group, services, Ranking(there), placed)
    return {se: frozenset(services) for se, services in placed.items()}


def served(configuration: Configuration) -> Iterator[tuple[ServiceEngineGroup, list[ObjectId]]]:
    """Each group with its virtual services that are enabled, the oldest first."""
    groups: dict[ObjectId, ServiceEngineGroup] = {}
    services: dict[ObjectId, list[ObjectId]] = {}
    for stored in configuration.objects.values():
        thing = stored.thing
        if isinstance(thing, ServiceEngineGroup):
            groups[thing.uuid] = thing
        elif isinstance(thing, VirtualService) and thing.enabled:
            services.setdefault(thing.se_group_ref, []).append(thing.uuid)
    for uuid, group in groups.items():
        if uuid in services:
            yield group, sorted(services[uuid], key=age_key)


def _place_group(
    group: ServiceEngineGroup,
    services: Sequence[ObjectId],
    ranking: Ranking[SeId],
    placed: Mapping[SeId, set[ObjectId]],
) -> None:
    wishes: dict[ObjectId, _Wish] = {}
    loads: dict[SeId, int] = {}
    for service in services:
        walk = ranking.by(service)
        first = list(islice(walk, group.max_scaleout_per_vs))
        wishes[service] = _Wish(first, walk)
        for se in first:
            loads[se] = loads.get(se, 0) + 1
    if max(loads.values()) > group.max_vs_per_se:
        _in_rounds(group, wishes, ranking)
    # While nobody is full the rounds would come to the same.
    for service, wish in wishes.items():
        for se in wish.has:
            placed[se].add(service)


@attrs.define
class _Wish:
    """One virtual service that looks for places; a full SE stays full, so it walks its ranking once."""

    has: list[SeId]
    rest: Iterator[SeId]


@attrs.define
class _Room:
    """How many places are left in one group."""

    limit: int
    engines: int
    left: dict[SeId, int] = attrs.field(factory=dict)
    full: int = 0
    """Of the engines."""

    def fill(self, wish: _Wish, upto: int) -> None:
        """Places in the order of its ranking until it has so many, or there are none."""
        while len(wish.has) < upto and self.full < self.engines:
            se = next(wish.rest, None)
            if se is None:
                return
            left = self.left.get(se, self.limit)
            if left:
                self.left[se] = left - 1
                self.full += left == 1
                wish.has.append(se)


def _in_rounds(group: ServiceEngineGroup, wishes: Mapping[ObjectId, _Wish], ranking: Ranking[SeId]) -> None:
    room = _Room(group.max_vs_per_se, len(ranking))
    for wish in wishes.values():
        wish.has, wish.rest = [], chain(wish.has, wish.rest)
    for upto in (1, group.min_scaleout_per_vs):
        for wish in wishes.values():
            room.fill(wish, upto)
    if group.when_short is WhenShort.OVERLOAD:
        for service, wish in wishes.items():
            missing = group.min_scaleout_per_vs - len(wish.has)
            if missing > 0:
                others = [se for se in ranking.by(service) if se not in wish.has]
                wish.has.extend(others[:missing])
    for wish in wishes.values():
        room.fill(wish, group.max_scaleout_per_vs)


# What is short


@attrs.frozen
class Short:
    """A virtual service on fewer SEs than its group's minimum."""

    service: ObjectId
    placed: int
    least: int
    why: str
    """What an operator can do something about."""


@attrs.frozen
class Overload:
    """A group with SEs that serve more than its ``max_vs_per_se``."""

    group: str
    engines: int
    most: int
    """Virtual services on the one that has most."""
    limit: int


def short_of(configuration: Configuration, placement: Placement, engines: Iterable[Engine]) -> list[Short]:
    """Virtual services on too few SEs."""
    counts = _counts(placement)
    usable: dict[str, int] = {}
    for engine in engines:
        usable[engine.group] = usable.get(engine.group, 0) + engine.usable
    return [
        Short(service, counts.get(service, 0), group.min_scaleout_per_vs, _why(group, usable))
        for group, services in served(configuration)
        for service in services
        if counts.get(service, 0) < group.min_scaleout_per_vs
    ]


def _why(group: ServiceEngineGroup, usable: Mapping[str, int]) -> str:
    there = usable.get(group.name, 0)
    if there < group.min_scaleout_per_vs:
        count = {0: "no service engine", 1: "1 service engine"}.get(there, f"{there} service engines")
        return f"group {group.name} has {count} that can serve"
    return (
        f"the {there} service engines of group {group.name} that can serve are full ({group.max_vs_per_se} "
        "virtual services each, max_vs_per_se)"
    )


def _counts(placement: Placement) -> dict[ObjectId, int]:
    counts: dict[ObjectId, int] = {}
    for services in placement.values():
        for service in services:
            counts[service] = counts.get(service, 0) + 1
    return counts


def overloads(
    configuration: Configuration, placement: Placement, engines: Iterable[Engine]
) -> list[Overload]:
    """Groups whose ``when_short`` filled SEs beyond the limit."""
    most: dict[str, list[int]] = {}
    for engine in engines:
        most.setdefault(engine.group, []).append(len(placement.get(engine.se, ())))
    found: list[Overload] = []
    for group, _ in served(configuration):
        over = [load for load in most.get(group.name, ()) if load > group.max_vs_per_se]
        if over:
            found.append(Overload(group.name, len(over), max(over), group.max_vs_per_se))
    return found
