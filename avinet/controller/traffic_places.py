"""Who serves what, as far as reports go: an index of what the service engines should have, made anew when that changes."""

from collections.abc import Callable, Iterable, Mapping

import attrs
from twisted.internet.interfaces import IReactorTime

from avinet.controller.configuration import ConfigService
from avinet.controller.engines import Engines
from avinet.controller.progress import Wanted
from avinet.controller.session import SeSession
from avinet.controller.sessions import Sessions
from avinet.controller.sync import Sync
from avinet.controller.traffic_health import label_of
from avinet.controller.traffic_intake import Subject
from avinet.model.config import Pool, VirtualService
from avinet.model.configuration import Configuration
from avinet.model.counters import POOL_KIND, SERVICE_KIND
from avinet.model.ids import ObjectId, SeId
from avinet.model.references import pools_of

REST = 20.0
"""After making the index, as many times as long as that took: a large fleet's arrivals move much at once."""
MAX_REST_S = 10.0


@attrs.frozen
class Fleet:
    """What is asked of others, each time anew."""

    configuration: Callable[[], Configuration]
    engines: Callable[[], Iterable[SeId]]
    """All there are."""
    wanted: Callable[[SeId], Wanted | None]
    """What an SE should have."""
    is_up: Callable[[SeId], bool]
    session: Callable[[SeId], SeSession | None]
    name_of: Callable[[SeId], str]


def fleet_of(config: ConfigService, engines: Engines, sync: Sync, sessions: Sessions) -> Fleet:
    """As a controller's parts know it."""

    def name_of(se: SeId) -> str:
        record = engines.find(se)
        return se if record is None else record.name

    return Fleet(
        configuration=lambda: config.current,
        engines=lambda: [record.uuid for record in engines.all()],
        wanted=sync.wanted,
        is_up=sessions.is_up,
        session=sessions.get,
        name_of=name_of,
    )


@attrs.define(eq=False)
class Places:
    """The index.  ``refresh`` looks whether it is still right."""

    fleet: Fleet
    clock: IReactorTime
    serving: Mapping[str, tuple[SeId, ...]] = attrs.field(factory=dict, init=False, repr=False)
    """A virtual service's UUID to the SEs that should serve it."""
    using: Mapping[str, tuple[SeId, ...]] = attrs.field(factory=dict, init=False, repr=False)
    """A pool's UUID to the SEs that should have it."""
    _made_of: tuple[Configuration, tuple[tuple[SeId, str], ...]] | None = attrs.field(
        default=None, init=False, repr=False
    )
    _labels: dict[str, frozenset[str]] = attrs.field(factory=dict, init=False, repr=False)
    _labels_of: Configuration | None = attrs.field(default=None, init=False, repr=False)
    _rest_until: float = attrs.field(default=0.0, init=False)

    def refresh(self) -> bool:
        """Make the index anew if something moved; whether it did."""
        begun = self.clock.seconds()
        if begun < self._rest_until:
            return False
        configuration = self.fleet.configuration()
        wanted = [(se, self.fleet.wanted(se)) for se in self.fleet.engines()]
        made_of = (configuration, tuple((se, one.hash) for se, one in wanted if one is not None))
        before = self._made_of
        if before is not None and before[0] is configuration and before[1] == made_of[1]:
            return False
        self._made_of = made_of
        serving: dict[str, list[SeId]] = {}
        using: dict[str, list[SeId]] = {}
        for se, one in wanted:
            for name in one.resources if one is not None else ():
                kind, _, uuid = name.partition("/")
                if kind == SERVICE_KIND:
                    serving.setdefault(uuid, []).append(se)
                elif kind == POOL_KIND:
                    using.setdefault(uuid, []).append(se)
        self.serving = {uuid: tuple(engines) for uuid, engines in serving.items()}
        self.using = {uuid: tuple(engines) for uuid, engines in using.items()}
        self._rest_until = begun + min(MAX_REST_S, REST * max(0.0, self.clock.seconds() - begun))
        return True

    def engines_of(self, subject: Subject) -> tuple[SeId, ...]:
        """The SEs that have it."""
        index = self.serving if subject.kind == SERVICE_KIND else self.using
        return index.get(subject.uuid, ())

    def hash_of(self, se: SeId) -> str:
        """Of what it should have; empty when nobody knows."""
        wanted = self.fleet.wanted(se)
        return "" if wanted is None else wanted.hash

    def may(self, se: SeId, subject: Subject) -> bool:
        """Whether an SE has something to say about a subject."""
        wanted = self.fleet.wanted(se)
        kind = POOL_KIND if subject.server else subject.kind
        if wanted is None or f"{kind}/{subject.uuid}" not in wanted.resources:
            return False
        return self.exists(subject)

    def exists(self, subject: Subject) -> bool:
        """Whether the configuration has it."""
        if subject.server:
            return subject.server in self._servers_of(subject.uuid)
        stored = self.fleet.configuration().objects.get(ObjectId(subject.uuid))
        wanted = VirtualService if subject.kind == SERVICE_KIND else Pool
        return stored is not None and isinstance(stored.thing, wanted)

    def pool(self, uuid: str) -> Pool | None:
        """One pool of the configuration."""
        stored = self.fleet.configuration().objects.get(ObjectId(uuid))
        return stored.thing if stored is not None and isinstance(stored.thing, Pool) else None

    def service(self, uuid: str) -> VirtualService | None:
        """One virtual service of the configuration."""
        stored = self.fleet.configuration().objects.get(ObjectId(uuid))
        return stored.thing if stored is not None and isinstance(stored.thing, VirtualService) else None

    def pools_of(self, service: VirtualService) -> tuple[Pool, ...]:
        """Those of a virtual service, the default one first, each once."""
        found = (self.pool(uuid) for uuid in dict.fromkeys(ref for _, ref in pools_of(service)))
        return tuple(pool for pool in found if pool is not None)

    def _servers_of(self, pool: str) -> frozenset[str]:
        configuration = self.fleet.configuration()
        if self._labels_of is not configuration:
            self._labels_of = configuration
            self._labels.clear()
        if pool not in self._labels:
            found = self.pool(pool)
            self._labels[pool] = frozenset(label_of(one) for one in found.servers) if found else frozenset()
        return self._labels[pool]
