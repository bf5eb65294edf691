"""How servers, pools and virtual services are now: what the service engines' views come to."""

from collections.abc import Mapping

import attrs

from avinet.controller.traffic_health import (
    Health,
    ServerVerdict,
    Verdict,
    all_of,
    label_of,
    pool_on_engine,
    server_verdict,
    service_on_engine,
)
from avinet.controller.traffic_intake import EngineTraffic, View
from avinet.controller.traffic_places import Places
from avinet.model.config import Pool, VirtualService
from avinet.model.ids import SeId

_NO_VIEWS: Mapping[str, View] = {}


@attrs.frozen(eq=False)
class Verdicts:
    """Computed when asked.  ``gone``: SEs that are down, and since when."""

    places: Places
    engines: Mapping[SeId, EngineTraffic]
    gone: Mapping[SeId, float]

    def telling(self, pool: Pool) -> dict[SeId, EngineTraffic]:
        """The SEs whose word about a pool counts now."""
        found: dict[SeId, EngineTraffic] = {}
        for se in self.places.using.get(pool.uuid, ()):
            engine = self.engines.get(se)
            if (
                engine is not None
                and engine.heard_at is not None
                and engine.up
                and self.places.fleet.is_up(se)
            ):
                found[se] = engine
        return found

    def servers(self, pool: Pool) -> tuple[ServerVerdict, ...]:
        """Every server of a pool, in the pool's order."""
        views = {se: engine.health.get(pool.uuid, _NO_VIEWS) for se, engine in self.telling(pool).items()}
        return tuple(
            server_verdict(
                server,
                {se: of[label] for se, of in views.items() for label in (label_of(server),) if label in of},
            )
            for server in pool.servers
        )

    def pool(self, pool: Pool) -> Verdict:
        """A pool over all SEs that use it."""
        if not pool.enabled:
            return Verdict(Health.DISABLED, "it is disabled")
        return all_of(
            {
                se: pool_on_engine(pool, engine.health.get(pool.uuid, _NO_VIEWS))
                for se, engine in self.telling(pool).items()
            },
            self._names(self.places.using.get(pool.uuid, ())),
        )

    def service(self, service: VirtualService) -> Verdict:
        """A virtual service over all SEs that should serve it."""
        if not service.enabled:
            return Verdict(Health.DISABLED, "it is disabled")
        engines = self.places.serving.get(service.uuid, ())
        if not engines:
            return Verdict(Health.DOWN, "no service engine serves it")
        pools = self.places.pools_of(service)
        verdicts = {se: self._service_on(se, pools) for se in engines}
        return all_of(verdicts, self._names(engines))

    def _service_on(self, se: SeId, pools: tuple[Pool, ...]) -> Verdict:
        if se in self.gone:
            why = f"service engine {self.places.fleet.name_of(se)} is not connected"
            return Verdict(Health.DOWN, why, self.gone[se])
        engine = self.engines.get(se)
        if engine is None or engine.heard_at is None or not self.places.fleet.is_up(se):
            return Verdict(Health.UNKNOWN)
        if not engine.up:
            return Verdict(Health.DOWN, "its data plane does not answer")
        return service_on_engine(
            [(pool.name, pool_on_engine(pool, engine.health.get(pool.uuid, _NO_VIEWS))) for pool in pools]
        )

    def _names(self, engines: tuple[SeId, ...]) -> dict[SeId, str]:
        return {se: self.places.fleet.name_of(se) for se in engines}
