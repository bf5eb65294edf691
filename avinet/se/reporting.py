"""A data plane's status as the ``Report`` that travels upward, within the bounds of one frame."""

from avinet.dataplane.interface import Status
from avinet.wire.messages import Report, ServerHealth, ServiceStats

MAX_SERVERS = 4_000
"""Some 150 bytes each: with the services below, a report stays under the 1 MiB of a frame.  Those down come first."""
MAX_SERVICES = 2_000
"""Some 180 bytes each."""
MAX_REASON_CHARS = 60


def health_of(status: Status) -> tuple[ServerHealth, ...]:
    """Every server's health, those that are down first, then by pool and server."""
    servers = sorted(status.servers, key=lambda s: (s.up, s.pool, s.server))
    return tuple(
        ServerHealth(pool=s.pool, server=s.server, up=s.up, reason=s.reason[:MAX_REASON_CHARS])
        for s in servers[:MAX_SERVERS]
    )


def report_of(status: Status) -> Report:
    """The whole status as one message, ``id`` 0: whoever answers a request sets it."""
    return Report(
        data_plane_up=True,
        data_plane_started_at=status.started_at,
        health=health_of(status),
        services=tuple(
            ServiceStats(
                service=s.service,
                requests=s.requests,
                errors_5xx=s.errors_5xx,
                connections=s.connections,
                bytes_in=s.bytes_in,
                bytes_out=s.bytes_out,
            )
            for s in sorted(status.services, key=lambda s: s.service)[:MAX_SERVICES]
        ),
    )
