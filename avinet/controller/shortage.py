"""Events about what is short: virtual services on too few SEs, SEs with too many; once each, and once when it is over."""

from collections.abc import Callable, Collection, Iterable

import attrs

from avinet.controller.engines import Emit
from avinet.model.config import VirtualService
from avinet.model.configuration import Configuration
from avinet.model.events import Level
from avinet.model.ids import ObjectId
from avinet.model.placement import Engine, Overload, Placement, Short, overloads, short_of

MAX_TOLD = 50
"""Events of one computation: a group that loses all its SEs may have 5,000 virtual services; the rest are counted."""


@attrs.define(eq=False)
class Shortage:
    """``services`` and ``groups`` are what is short now."""

    emit: Emit
    services: dict[ObjectId, Short] = attrs.field(factory=dict, init=False)
    groups: dict[str, Overload] = attrs.field(factory=dict, init=False)

    def follow(self, configuration: Configuration, placement: Placement, engines: Collection[Engine]) -> None:
        """Another placement."""
        self.update(
            short_of(configuration, placement, engines),
            overloads(configuration, placement, engines),
            lambda uuid: _name_if_enabled(configuration, uuid),
        )

    def update(
        self,
        short: Iterable[Short],
        overloaded: Iterable[Overload],
        name_of: Callable[[ObjectId], str],
    ) -> None:
        """What is short now.  One without a name was deleted or disabled, and is not told to be well again."""
        before, self.services = self.services, {one.service: one for one in short}
        worse = [s for s in self.services.values() if _figures(before.get(s.service)) != _figures(s)]
        for one in worse[:MAX_TOLD]:
            self._short(one, name_of(one.service))
        if len(worse) > MAX_TOLD:
            more = len(worse) - MAX_TOLD
            self.emit(
                "VS_SHORT_OF_ENGINES",
                Level.ERROR if any(not one.placed for one in worse[MAX_TOLD:]) else Level.WARNING,
                "placement",
                f"{more} more virtual services are on fewer service engines than their group's minimum; see: "
                "avinet vs list --short",
                reason="many",
                count=more,
            )
        better = [name for uuid in before if uuid not in self.services and (name := name_of(uuid))]
        for name in better[:MAX_TOLD]:
            self.emit(
                "VS_ENGINES_SUFFICIENT",
                Level.INFO,
                name,
                f"Virtual service {name} is placed on as many service engines as its group's minimum again.",
                name=name,
            )
        self._overloads({one.group: one for one in overloaded})

    def _short(self, one: Short, name: str) -> None:
        where = f"{one.placed} service engine{'s' * (one.placed != 1)}" if one.placed else "no service engine"
        self.emit(
            "VS_SHORT_OF_ENGINES",
            Level.WARNING if one.placed else Level.ERROR,
            name,
            f"Virtual service {name} is placed on {where}, fewer than its group's minimum of {one.least}: {one.why}.",
            name=name,
            placed=one.placed,
            least=one.least,
        )

    def _overloads(self, now: dict[str, Overload]) -> None:
        before, self.groups = self.groups, now
        for group, one in now.items():
            if group not in before:
                self.emit(
                    "GROUP_OVERLOADED",
                    Level.WARNING,
                    group,
                    f"{one.engines} service engines of group {group} serve more than {one.limit} virtual services "
                    f"(max_vs_per_se), up to {one.most}: there are too few of them. Add some.",
                    engines=one.engines,
                    most=one.most,
                    limit=one.limit,
                )
        for group in before.keys() - now.keys():
            self.emit(
                "GROUP_LOAD_NORMAL",
                Level.INFO,
                group,
                f"No service engine of group {group} serves more virtual services than max_vs_per_se.",
            )


def _figures(one: Short | None) -> tuple[int, int] | None:
    """What makes it worth another event; the reason's own figures change more often."""
    return None if one is None else (one.placed, one.least)


def _name_if_enabled(configuration: Configuration, uuid: ObjectId) -> str:
    stored = configuration.objects.get(uuid)
    thing = None if stored is None else stored.thing
    return thing.name if isinstance(thing, VirtualService) and thing.enabled else ""
