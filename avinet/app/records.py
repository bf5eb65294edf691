"""What a controller knows from its store, put together and loaded: configuration, SEs and their permits, image keys."""

from typing import Any

import attrs
from twisted.internet.threads import deferToThread

from avinet.app.settings import ControllerSettings
from avinet.app.steady import WallClock
from avinet.controller.config_mirror import ConfigMirror
from avinet.controller.config_news import BESIDE
from avinet.controller.config_store import ConfigStore, HistoryLimits
from avinet.controller.configuration import ConfigService
from avinet.controller.engine_index import EngineIndex
from avinet.controller.engines import Emit, Engines
from avinet.controller.following import Mirror
from avinet.controller.groups import Groups
from avinet.controller.image_keys import ImageKeys
from avinet.controller.permits import PermitFiles, PermitRules, Permits
from avinet.controller.reports import ConfigEvents
from avinet.controller.seat import Duty, Seat
from avinet.controller.tokens import Tokens
from avinet.model.ids import SeId
from avinet.store.interface import Store
from avinet.trust.node import ControllerPaths
from avinet.units import MIB


@attrs.frozen(eq=False)
class Records:
    """All of it."""

    config: ConfigService
    engines: Engines
    groups: Groups
    image_keys: ImageKeys
    config_mirror: ConfigMirror
    mirrors: tuple[Mirror, ...]
    """What is to follow the store, where others write to it, too."""

    @classmethod
    async def load(
        cls, store: Store, settings: ControllerSettings, paths: ControllerPaths, emit: Emit, reactor: Any
    ) -> "Records":
        """Configuration first: the permits of an SE ask for the networks of its group."""
        wall = WallClock(reactor)
        config = ConfigService(
            ConfigStore(
                store, HistoryLimits(settings.config.history_versions, settings.config.history_mib * MIB)
            ),
            wall,
            lambda thing: groups.why_needed(thing),  # noqa: PLW0108 - groups are made from this, a moment later
            ConfigEvents(emit).committed,
            deferToThread,
        )
        await config.load()
        permits = Permits(
            PermitRules(
                settings.ssh.reverse_port,
                permit_open=tuple(("localhost", port) for port in settings.services.values()),
                networks=lambda group: groups.networks(group),  # noqa: PLW0108 - and the engines from this
            ),
            PermitFiles(paths.aviseuser_keys, paths.known_hosts),
            reactor,
            in_thread=deferToThread,
        )
        tokens = Tokens(store, wall, ttl_s=settings.registration.token_lifetime_s)
        index = EngineIndex(prefix=settings.controller.loopback_prefix)
        engines = Engines(store, wall, emit, tokens, permits, index)
        groups = Groups(config, engines)
        image_keys = ImageKeys(store, wall)
        await engines.load()
        await image_keys.load()
        config.listen(lambda _: permits.update_all(engines.all()))
        mirror = ConfigMirror(config, wall)
        return cls(config, engines, groups, image_keys, mirror, (mirror, tokens, engines, image_keys))

    async def follow(self, seat: Seat) -> None:
        """Stay what the store says, and do what is due whenever this controller leads."""
        for mirror in self.mirrors:
            seat.follow(mirror, BESIDE if mirror is self.config_mirror else ())
        seat.wait_for(self.config_mirror)
        await seat.prepare(self.lead)
        await seat.duty(Duty("tidying up", self.tidy, lambda: None))

    def stop(self) -> None:
        """Follow no more."""
        self.config_mirror.stop()

    async def lead(self, term: int) -> None:
        """What only who writes may do to what it has loaded, in this term."""
        self.config.stored.term = term
        await self.config.lead()

    async def tidy(self) -> None:
        """What may wait: to read all that there is takes seconds where the store is large."""
        await self.config.tidy()
        await self.engines.tokens.prune()

    def name_of(self, se: SeId) -> str:
        """What operators call an SE; its UUID where there is no record."""
        record = self.engines.find(se)
        return se if record is None else record.name
