"""The settings of the data plane as its Envoy has them."""

from pathlib import Path

import attrs

from avinet.app.settings import SeSettings
from avinet.dataplane.envoy_settings import EnvoySettings


def envoy_settings(settings: SeSettings) -> EnvoySettings:
    """The operator's choices over the defaults."""
    chosen = settings.data_plane
    made = EnvoySettings(
        started_by=chosen.started_by,
        binary=Path(chosen.binary) if chosen.binary else None,
        drain_s=chosen.drain_s,
        max_connections=chosen.max_connections,
    )
    return attrs.evolve(made, concurrency=chosen.concurrency) if chosen.concurrency else made
