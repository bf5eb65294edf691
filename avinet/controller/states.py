"""What each SE should have, kept up to date by what changes: a version costs what it touches, not what there is.

Placement is asked again only when virtual services, groups or engines changed in what it looks at; a state is made
again only when an object in it changed.  SEs with the same virtual services share one state.
"""

import collections
from collections.abc import Callable, Iterable, Mapping

import attrs

from avinet.controller.progress import Wanted
from avinet.model.config import ConfigObject, ServiceEngineGroup, VirtualService
from avinet.model.configuration import Configuration
from avinet.model.ids import ObjectId, SeId
from avinet.model.placement import Engine
from avinet.model.projection import Projector, resource_name
from avinet.model.resources import EMPTY_STATE_HASH, Delta, delta_between, hashes_of

KNOWN_STATES = 2_000
"""States whose resources are remembered to send deltas from; SEs of one group mostly share theirs."""
KNOWN_RESOURCES = 500_000
"""In all of these states: some 50 MiB."""
Place = Callable[[Configuration, tuple[Engine, ...]], Mapping[SeId, frozenset[ObjectId]]]
"""SE to its virtual services; every SE given is in the answer."""


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


@attrs.define(eq=False)
class WantedStates:
    """``placed`` and ``of`` are as of the last call of ``follow`` or ``engines_are``."""

    configuration: Configuration
    place: Place = attrs.field(repr=False)
    engines: tuple[Engine, ...] | None = attrs.field(default=None, init=False, repr=False)
    """Whom it was placed on; None before the first time."""
    placed: Mapping[SeId, frozenset[ObjectId]] = attrs.field(factory=dict, init=False, repr=False)
    _states: dict[frozenset[ObjectId], Wanted] = attrs.field(factory=dict, init=False, repr=False)
    _projector: Projector = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._projector = Projector(self.configuration)

    def of(self, se: SeId) -> Wanted:
        """What one SE should have; it must be placed."""
        return self._states[self.placed[se]]

    def engines_are(self, engines: tuple[Engine, ...]) -> bool:
        """Place on these; False when they are those there were, so that nothing is another."""
        if engines == self.engines:
            return False
        self.engines = engines
        self.placed = self.place(self.configuration, engines)
        self._renew(())
        return True

    def follow(self, configuration: Configuration) -> bool:
        """Another version; True when it was placed anew."""
        before, self.configuration = self.configuration, configuration
        changed = configuration.differing(before)
        self._projector.follow(configuration, changed)
        anew = self.engines is not None and any(
            _placing(before, uuid) != _placing(configuration, uuid) for uuid in changed
        )
        if anew and self.engines is not None:
            self.placed = self.place(configuration, self.engines)
        self._renew(_names(before, configuration, changed))
        return anew

    def _renew(self, changed: Iterable[str]) -> None:
        """Make what is not known for the placement, and what has one of the ``changed`` resources."""
        names = set(changed)
        version, old = self.configuration.version, self._states
        self._states = {}
        for services in self.placed.values():
            if services in self._states:
                continue
            state = old.get(services)
            if state is not None and state.resources.keys().isdisjoint(names):
                self._states[services] = attrs.evolve(state, version=version)
            else:
                resources = self._projector.resources_for(services)
                self._states[services] = Wanted.of(version, resources)

    def preview(
        self, configuration: Configuration, engines: tuple[Engine, ...], now: Callable[[SeId], Wanted]
    ) -> dict[SeId, Delta]:
        """What each SE would be sent if ``configuration`` were in force; those that it does not touch are left out.

        ``now`` is what an SE should have until then.
        """
        projector = Projector(configuration)
        found: dict[SeId, Delta] = {}
        made: dict[tuple[frozenset[ObjectId], str], Delta] = {}
        for se, services in self.place(configuration, engines).items():
            wanted = now(se)
            delta = made.get((services, wanted.hash))
            if delta is None:
                have = hashes_of(wanted.resources.values())
                delta = made[services, wanted.hash] = delta_between(have, projector.resources_for(services))
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


def _names(before: Configuration, after: Configuration, changed: Iterable[ObjectId]) -> Iterable[str]:
    for uuid in changed:
        stored = after.objects.get(uuid) or before.objects[uuid]
        yield resource_name(stored.thing)
