"""What each SE should have, kept up to date by what changes: a version costs what it touches, not what there is.

Placement is asked again only when virtual services, groups or engines changed in what it looks at; a state is made
again only when an object in it changed.  SEs with the same virtual services share one state, unless one is of an older
version and does not know of everything that is in it.
"""

import collections
import itertools
from collections.abc import Callable, Collection, Iterable, Mapping

import attrs

from avinet.controller.progress import Wanted
from avinet.model.config import ConfigObject, ServiceEngineGroup, VirtualService
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId, SeId
from avinet.model.log_settings import KIND as LOG_LIMITS_KIND
from avinet.model.moves import Moves
from avinet.model.placement import Engine, Placement
from avinet.model.projection import Projector, resource_name, told_of_group
from avinet.model.resources import EMPTY_STATE_HASH, Delta, Resource, delta_between, hashes_of
from avinet.wire.messages import LOG_LIMITS

KNOWN_STATES = 2_000
"""States whose resources are remembered to send deltas from; SEs of one group mostly share theirs."""
KNOWN_RESOURCES = 500_000
"""In all of these states: some 50 MiB."""
Place = Callable[[Configuration, tuple[Engine, ...]], Placement]
"""SE to its virtual services; every SE given is in the answer."""
_SERVICE = "virtualservice/"
"""How the names of their resources begin."""
_NEEDED = {LOG_LIMITS_KIND: LOG_LIMITS}
"""Kinds of resources that came later, and the capability of an SE that knows them."""
_Share = tuple[frozenset[ObjectId], frozenset[str]]
"""The virtual services of an SE, and the kinds that it does not know."""


def unknown_kinds(capabilities: Collection[str]) -> frozenset[str]:
    """Kinds of resources that an SE with these capabilities refuses."""
    return frozenset(kind for kind, needed in _NEEDED.items() if needed not in capabilities)


@attrs.define(eq=False)
class KnownStates:
    """States that SEs have or had lately, by hash: resource name to resource hash.  What is used last goes last."""

    states: "collections.OrderedDict[str, Mapping[str, str]]" = attrs.field(init=False, repr=False)
    _resources: int = attrs.field(default=0, init=False)

    @states.default
    def _with_the_empty_one(self) -> "collections.OrderedDict[str, Mapping[str, str]]":
        return collections.OrderedDict({EMPTY_STATE_HASH: {}})

    def remember(self, wanted: Wanted) -> None:
        """A state that an SE has, or is being sent."""
        if wanted.hash not in self.states:
            self.states[wanted.hash] = hashes_of(wanted.resources.values())
            self._resources += len(wanted.resources)
        self.states.move_to_end(wanted.hash)
        while len(self.states) > KNOWN_STATES or (self._resources > KNOWN_RESOURCES and len(self.states) > 1):
            _, dropped = self.states.popitem(last=False)
            self._resources -= len(dropped)

    def services_of(self, state: str | None) -> frozenset[ObjectId] | None:
        """The virtual services in a state; None when it is not known."""
        hashes = None if state is None else self.states.get(state)
        if hashes is None:
            return None
        return frozenset(
            ObjectId(name.removeprefix(_SERVICE)) for name in hashes if name.startswith(_SERVICE)
        )


@attrs.define(eq=False)
class WantedStates:
    """``placed`` and ``of`` are as of the last call of ``follow``, ``engines_are`` or ``time_is``.

    ``placed`` is who is to serve what in the end; ``serving`` what each is to have now (``avinet.model.moves``).
    """

    configuration: Configuration
    place: Place = attrs.field(repr=False)
    engines: tuple[Engine, ...] | None = attrs.field(default=None, init=False, repr=False)
    """Whom it was placed on; None before the first time."""
    placed: Placement = attrs.field(factory=dict, init=False, repr=False)
    serving: Placement = attrs.field(factory=dict, init=False, repr=False)
    moves: Moves = attrs.field(factory=Moves, init=False, repr=False)
    _states: dict[_Share, Wanted] = attrs.field(factory=dict, init=False, repr=False)
    _unknown: dict[SeId, frozenset[str]] = attrs.field(factory=dict, init=False, repr=False)
    """Of SEs that do not know all kinds of resources."""
    _projector: Projector = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._projector = Projector(self.configuration)

    def of(self, se: SeId) -> Wanted:
        """What one SE should have; it must be placed."""
        return self._states[self._share(se, self.serving[se])]

    def knows(self, se: SeId, capabilities: Collection[str]) -> bool:
        """An SE has said what it can; True when it should have another state for that.  Nothing said means all."""
        before, unknown = self._unknown.pop(se, frozenset()), unknown_kinds(capabilities)
        if unknown:
            self._unknown[se] = unknown
        if unknown == before or se not in self.serving:
            return False
        self._renew(())
        return True

    def forget(self, se: SeId) -> None:
        """It is gone."""
        self._unknown.pop(se, None)

    def _share(self, se: SeId, services: frozenset[ObjectId]) -> _Share:
        return services, self._unknown.get(se, frozenset())

    def engines_are(self, engines: tuple[Engine, ...], now: float) -> bool:
        """Place on these; False when they are those there were, so that nothing is another."""
        if engines == self.engines:
            return False
        self.engines = engines
        self._place(now)
        self._renew(())
        return True

    def arrived(self, arrived: Mapping[SeId, frozenset[ObjectId] | None], now: float) -> bool:
        """SEs have come, with these virtual services in force, or with what is not known; False when that is nothing.

        One without a share whose state is not known may have what it would have with one: a controller that has just
        started finds it so when it drained.
        """
        another = [self.moves.attached(se, in_force, now) for se, in_force in arrived.items()]
        strangers = [e for e in self.engines or () if e.se in self.moves.unsure and not e.usable and e.drains]
        if strangers:
            names = {e.se for e in strangers}
            others = [e for e in self.engines or () if e.se not in names]
            placed = self.place(
                self.configuration, (*others, *(attrs.evolve(e, usable=True) for e in strangers))
            )
            for engine in strangers:
                self.moves.adopt(engine.se, placed[engine.se], now)
        if any(another) or strangers:
            self._serve()
            return True
        return False

    def placed_without(self, se: SeId) -> frozenset[ObjectId]:
        """The virtual services that would be placed somewhere if one SE were gone."""
        others = tuple(engine for engine in self.engines or () if engine.se != se)
        return frozenset().union(*self.place(self.configuration, others).values())

    def time_is(self, now: float) -> set[SeId]:
        """End drains: the SEs that are to have something else."""
        over = self.moves.tick(now)
        if over:
            self._serve()
        return over

    def _serve(self) -> None:
        self.serving = self.moves.all_serving
        self._renew(())

    def _place(self, now: float) -> None:
        engines = self.engines or ()
        self.placed = self.place(self.configuration, engines)
        self.moves.retarget(self.configuration, self.placed, engines, now)
        self.serving = self.moves.all_serving

    def follow(self, configuration: Configuration, now: float) -> bool:
        """Another version; True when it was placed anew."""
        before, self.configuration = self.configuration, configuration
        changed = configuration.differing(before)
        changed |= _told_otherwise(before, configuration, changed)
        self._projector.follow(configuration, changed)
        anew = self.engines is not None and any(
            _placing(before, uuid) != _placing(configuration, uuid) for uuid in changed
        )
        if anew:
            self._place(now)
        self._renew(_names(before, configuration, changed))
        return anew

    def _renew(self, changed: Iterable[str]) -> None:
        """Make what is not known for the placement, and what has one of the ``changed`` resources."""
        names = set(changed)
        version, old = self.configuration.version, self._states
        self._states = {}
        for share in itertools.starmap(self._share, self.serving.items()):
            if share in self._states:
                continue
            state = old.get(share)
            if state is not None and state.resources.keys().isdisjoint(names):
                self._states[share] = attrs.evolve(state, version=version)
            else:
                resources = self._projector.resources_for(*share)
                self._states[share] = Wanted.of(version, resources)

    def preview(
        self, configuration: Configuration, engines: tuple[Engine, ...], now: Callable[[SeId], Wanted]
    ) -> dict[SeId, Delta]:
        """What each SE would be sent if ``configuration`` were in force; those that it does not touch are left out.

        ``now`` is what an SE should have until then.
        """
        projector = Projector(configuration)
        found: dict[SeId, Delta] = {}
        made: dict[tuple[_Share, str], Delta] = {}
        for se, services in self.place(configuration, engines).items():
            wanted, share = now(se), self._share(se, services)
            delta = made.get((share, wanted.hash))
            if delta is None:
                have = hashes_of(wanted.resources.values())
                delta = made[share, wanted.hash] = delta_between(have, projector.resources_for(*share))
            if not delta.empty:
                found[se] = delta
        return found


def _placing(configuration: Configuration, uuid: ObjectId) -> object:
    """What placement looks at of an object; the same before and after means that it need not be asked."""
    stored = configuration.objects.get(uuid)
    if stored is None:
        return None
    thing: ConfigObject = stored.thing
    if isinstance(thing, VirtualService):
        return thing.enabled, thing.se_group_ref
    return thing if isinstance(thing, ServiceEngineGroup) else None


def _told_otherwise(
    before: Configuration, after: Configuration, changed: Iterable[ObjectId]
) -> set[ObjectId]:
    """Virtual services whose group tells SEs something else now: they come with what says so."""

    def told(configuration: Configuration, uuid: ObjectId) -> tuple[Resource, ...]:
        stored = configuration.objects.get(uuid)
        thing = None if stored is None else stored.thing
        return told_of_group(thing) if isinstance(thing, ServiceEngineGroup) else ()

    groups = {uuid for uuid in changed if told(before, uuid) != told(after, uuid)}
    if not groups:
        return set()
    return {
        uuid
        for uuid, stored in after.objects.items()
        if isinstance(stored.thing, VirtualService) and stored.thing.se_group_ref in groups
    }


def _names(before: Configuration, after: Configuration, changed: Iterable[ObjectId]) -> Iterable[str]:
    for uuid in changed:
        stored = after.objects.get(uuid) or before.objects[uuid]
        yield resource_name(stored.thing)
