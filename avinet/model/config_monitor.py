"""Health monitors, as they are stored."""

import enum

import msgspec

from avinet.model.fields import Checks, ConfigObject, Port, Seconds


class HealthMonitorType(enum.StrEnum):
    """How a server is asked whether it is well."""

    HTTP = "HEALTH_MONITOR_HTTP"
    HTTPS = "HEALTH_MONITOR_HTTPS"
    """HTTP over TLS, whatever the pool itself speaks."""
    TCP = "HEALTH_MONITOR_TCP"
    TLS = "HEALTH_MONITOR_TLS"
    """A connection and a TLS handshake."""


class HttpMonitor(msgspec.Struct, frozen=True, kw_only=True):
    """The request an HTTP monitor sends and the answers it takes for healthy (``HTTP_2XX`` ... or ``"204"``)."""

    http_request: str = "GET / HTTP/1.1"
    """Method, path and version."""
    http_response_code: tuple[str, ...] = ("HTTP_2XX", "HTTP_3XX")
    """Classes such as ``HTTP_2XX``, and single statuses such as ``204``."""
    http_response: str = ""
    """Text that must be in the body; nothing when empty."""
    host: str = ""
    """The host header; the server's name or address when empty."""


class HealthMonitor(ConfigObject, frozen=True, kw_only=True):
    """Intervals and time-outs in seconds."""

    type: HealthMonitorType = HealthMonitorType.HTTP
    """How a server is asked."""
    send_interval: Seconds = 10.0
    """Between the checks of one server."""
    receive_timeout: Seconds = 4.0
    """For one check; not longer than ``send_interval``."""
    successful_checks: Checks = 2
    """In a row, until a server is up again."""
    failed_checks: Checks = 2
    """In a row, until a server is down."""
    monitor_port: Port | None = None
    """Another port than the server's own."""
    http_monitor: HttpMonitor | None = None
    """Of the two HTTP types alone; they have its defaults when it is left out."""
