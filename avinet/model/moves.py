"""Planned moves: whoever takes a virtual service over serves it before whoever had it lets go.

Placement says who should serve what in the end; this says what each SE is to have until then: its share, and beside it
what it *drains*: virtual services that went to others, of which it must still be able to take requests.  A drain passes
through three stages.

1. *Held*: not all SEs that are to have the virtual service now, and are attached, have acknowledged it; or none is
   attached.  It is held for as long as that takes: when all of them die, the one that drains serves on.
2. *Draining*: they have.  Clients that know only this SE have the group's ``drain_s`` to finish and to look anew.
   When one of the others is lost meanwhile, it is held again, and the time starts anew.
3. *Over*: it loses it.

Where nobody is left to take over (the only SE of a group was disabled) it stays held; an operator who wants it to end
says so (``Engine.drains`` is False then).  Only when the SE itself was to have it, and the group's limits took the place
away (``when_short`` LEAVE), it drains without a successor.  A virtual service that was deleted or disabled, or that the
SE never had in force, is no drain.  An SE that is away keeps what it had, since it goes on serving headless; its drain
begins when it is back.

What is known of others is what they acknowledged to this controller.  After a restart an SE whose state this controller
does not know is *unsure*: it may serve alone what another is about to get.  So those of whom more is known come first,
for a bounded time (``holds_back``).

A machine without clock; ``now`` is in seconds.
"""

from collections.abc import Collection, Iterable, Mapping

import attrs

from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId, SeId
from avinet.model.placement import Engine, Placement, served

UNSURE_S = 5.0
"""How long an SE of unknown state is not sent to while others are behind: a push takes a tenth of it, and none of them
may be well enough to acknowledge."""
_NOTHING: frozenset[ObjectId] = frozenset()


@attrs.frozen
class Rule:
    """What holds for one virtual service."""

    group: str
    drain_s: float


@attrs.define(eq=False)
class Moves:
    """All of them.  ``retarget`` first; what it and the others answer is which SEs are to have something else."""

    _target: Placement = attrs.field(factory=dict, init=False)
    _engines: dict[SeId, Engine] = attrs.field(factory=dict, init=False, repr=False)
    _rules: dict[ObjectId, Rule] = attrs.field(factory=dict, init=False, repr=False)
    """Of those that are enabled."""
    _attached: set[SeId] = attrs.field(factory=set, init=False)
    _in_force: dict[SeId, frozenset[ObjectId]] = attrs.field(factory=dict, init=False, repr=False)
    """What each SE said last that it has; none for one of whom that is not known."""
    _unsure: dict[SeId, float] = attrs.field(factory=dict, init=False, repr=False)
    """Attached, and not known what it has: since when."""
    _drains: dict[ObjectId, dict[SeId, float | None]] = attrs.field(factory=dict, init=False)
    """When each is over; None while it is held."""
    _draining: dict[SeId, set[ObjectId]] = attrs.field(factory=dict, init=False, repr=False)
    """The same by SE."""
    _heirs: dict[ObjectId, list[SeId]] = attrs.field(factory=dict, init=False, repr=False)
    """Who is to have those that drain."""

    # What is asked

    def serving(self, se: SeId) -> frozenset[ObjectId]:
        """What the SE is to have now."""
        share = self._target.get(se, _NOTHING)
        draining = self._draining.get(se)
        return share | draining if draining else share

    @property
    def all_serving(self) -> Placement:
        """The same of every SE."""
        if not self._draining:
            return self._target
        return {se: self.serving(se) for se in self._target}

    @property
    def due(self) -> float | None:
        """When the next drain is over."""
        ends = [end for drains in self._drains.values() for end in drains.values() if end is not None]
        return min(ends, default=None)

    def drains_of(self, se: SeId) -> dict[ObjectId, float | None]:
        """What one SE drains, and when that is over; None while it is held."""
        return {service: self._drains[service][se] for service in sorted(self._draining.get(se, ()))}

    def drained_by(self, service: ObjectId) -> Mapping[SeId, float | None]:
        """Who drains one virtual service, and when that is over."""
        return self._drains.get(service, {})

    def has(self, se: SeId, service: ObjectId) -> bool | None:
        """Whether the SE said that it has it in force; None when that is not known."""
        in_force = self._in_force.get(se)
        return None if in_force is None else service in in_force

    def attached_now(self, se: SeId) -> bool:
        """Whether it is attached."""
        return se in self._attached

    def lacks_successor(self, service: ObjectId) -> bool:
        """Whether a drain of it waits for an SE that there is not."""
        return service in self._drains and not self._heirs.get(service)

    def holds_back(self, se: SeId, now: float) -> bool:
        """Whether to send nothing to it yet: it may serve alone what others, who are behind, are about to get."""
        since = self._unsure.get(se)
        if since is None or now - since >= UNSURE_S:
            return False
        return any(
            other not in self._unsure
            and not self._target.get(other, _NOTHING) <= self._in_force.get(other, _NOTHING)
            for other in self._attached
        )

    @property
    def unsure(self) -> Collection[SeId]:
        """Attached SEs of whom it is not known what they have."""
        return self._unsure.keys()

    # What happens

    def retarget(
        self, configuration: Configuration, placement: Placement, engines: Iterable[Engine], now: float
    ) -> None:
        """Another placement."""
        before, self._target = self._target, placement
        self._engines = {engine.se: engine for engine in engines}
        self._rules = {
            service: Rule(group.name, group.drain_s)
            for group, services in served(configuration)
            for service in services
        }
        for se in before.keys() - placement.keys():
            self._forget(se)
        self._drop_drains()
        for se, share in placement.items():
            had = before.get(se, _NOTHING)
            if had is not share and had != share:
                for service in had - share:
                    self._begin(se, service)
        self._find_heirs()
        self._judge(list(self._drains), now)

    def adopt(self, se: SeId, services: Iterable[ObjectId], now: float) -> None:
        """One that has no share, and came with a state that is not known: it may have had these."""
        begun = [service for service in services if self._begin(se, service)]
        self._find_heirs()
        self._judge(begun, now)

    def attached(self, se: SeId, in_force: frozenset[ObjectId] | None, now: float) -> bool:
        """It is here, with these; None when what it has is not known.  Whether it is to have something else now.

        What it has beyond its share it drains: it served others while it was away, or this controller was.
        """
        self._attached.add(se)
        if in_force is None:
            self._in_force.pop(se, None)
            self._unsure[se] = now
            self._concerns(se, now)
            return False
        self._unsure.pop(se, None)
        self._in_force[se] = in_force
        draining = self._draining.get(se, _NOTHING)
        never_had = draining - in_force
        for service in never_had:
            self._end(service, se)
        begun = [service for service in in_force - self.serving(se) if self._begin(se, service)]
        if begun:
            self._find_heirs()
        self._concerns(se, now)
        return bool(begun or never_had)

    def said(self, se: SeId, in_force: frozenset[ObjectId], now: float) -> None:
        """It acknowledged, or reported, that it has these in force."""
        before = self._in_force.get(se)
        if self._unsure.pop(se, None) is None and (before is in_force or before == in_force):
            return
        self._in_force[se] = in_force
        self._concerns(se, now)

    def detached(self, se: SeId, now: float) -> None:
        """It is gone; what it had it goes on serving, or nobody knows."""
        self._attached.discard(se)
        self._unsure.pop(se, None)
        self._concerns(se, now)

    def tick(self, now: float) -> set[SeId]:
        """End the drains whose time is over: the SEs that lose something."""
        over = [
            (service, se)
            for service, drains in self._drains.items()
            for se, end in drains.items()
            if end is not None and end <= now
        ]
        for service, se in over:
            self._end(service, se)
        return {se for _, se in over}

    # Inside

    def _forget(self, se: SeId) -> None:
        self._in_force.pop(se, None)
        for service in list(self._draining.get(se, ())):
            self._end(service, se)

    def _drop_drains(self) -> None:
        """Those that are no drains any more: its share again, not enabled any more, or it must let go."""
        for se, services in list(self._draining.items()):
            share, may = self._target[se], self._may_drain(se)
            for service in list(services):
                if service in share or service not in self._rules or not may:
                    self._end(service, se)

    def _may_drain(self, se: SeId) -> bool:
        engine = self._engines.get(se)
        return engine is not None and (engine.usable or engine.drains)

    def _begin(self, se: SeId, service: ObjectId) -> bool:
        if service not in self._rules or not self._may_drain(se) or self.has(se, service) is False:
            return False
        self._drains.setdefault(service, {}).setdefault(se, None)
        self._draining.setdefault(se, set()).add(service)
        return True

    def _end(self, service: ObjectId, se: SeId) -> None:
        drains, draining = self._drains[service], self._draining[se]
        del drains[se]
        draining.discard(service)
        if not drains:
            del self._drains[service]
            self._heirs.pop(service, None)
        if not draining:
            del self._draining[se]

    def _find_heirs(self) -> None:
        self._heirs = {service: [] for service in self._drains}
        if not self._drains:
            return
        drained = self._drains.keys()
        for se, share in self._target.items():
            for service in share & drained:
                self._heirs[service].append(se)

    def _concerns(self, se: SeId, now: float) -> None:
        """Something is known anew of one SE: look at what it drains, and at what it is to take over."""
        if self._drains:
            share = self._target.get(se, _NOTHING)
            self._judge([*(share & self._drains.keys()), *self._draining.get(se, ())], now)

    def _judge(self, services: Iterable[ObjectId], now: float) -> None:
        for service in services:
            drains, rule = self._drains[service], self._rules[service]
            taken = self._taken_over(service)
            for se, end in drains.items():
                free = se in self._attached and (taken or self._was_crowded_out(service, se))
                drains[se] = None if not free else now + rule.drain_s if end is None else end

    def _taken_over(self, service: ObjectId) -> bool:
        here = [se for se in self._heirs[service] if se in self._attached]
        return bool(here) and all(self.has(se, service) for se in here)

    def _was_crowded_out(self, service: ObjectId, se: SeId) -> bool:
        """Nobody is to have it although this SE could: the group's limits say that it waits."""
        engine = self._engines[se]
        return not self._heirs[service] and engine.usable and engine.group == self._rules[service].group
