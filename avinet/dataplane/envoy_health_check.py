"""A pool's health monitors as Envoy's health checks.

Envoy runs each of a cluster's checks against each server; a server is up while all of them pass.  What a check
cannot have of its own is a port and, for most uses, a host name: Envoy keeps both with the server.  So monitors of
one pool agree on the port, and those with a host of their own share it.
"""

from collections.abc import Mapping
from typing import Any

from avinet.dataplane.envoy_upstream_tls import CHECK_PLAIN, CHECK_TLS
from avinet.dataplane.interface import RejectedError
from avinet.model.checks_monitor import MAX_RECEIVE_S
from avinet.model.config import HealthMonitor, HealthMonitorType, HttpMonitor, Pool, Server

BODY_BYTES = 64 * 1024
"""How much of an answer's body the wanted text is looked for in; Envoy's default is 1 KiB, less than a page."""
PATIENT_HOST = "localhost"
"""The host header where monitors of one pool disagree on theirs and one has none: any server has it."""

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "TRACE", "PATCH"})
_OVER_HTTP = frozenset({HealthMonitorType.HTTP, HealthMonitorType.HTTPS})
_OVER_TLS = frozenset({HealthMonitorType.HTTPS, HealthMonitorType.TLS})


def seconds(value: float) -> str:
    """A duration as Envoy writes it; it takes nothing under a millisecond."""
    return f"{value:g}s" if value >= 0.001 else "0.001s"


def _code_ranges(codes: tuple[str, ...], resource: str) -> list[dict[str, int]]:
    ranges = []
    for code in codes:
        word = code.removeprefix("HTTP_")
        if len(word) == 3 and word[1:] == "XX" and word[0] in "12345":
            start = int(word[0]) * 100
            ranges.append({"start": start, "end": start + 100})
        elif word.isdigit() and 100 <= int(word) < 600:
            ranges.append({"start": int(word), "end": int(word) + 1})
        else:
            raise RejectedError(resource=resource, detail=f"{code!r} is not a response code")
    return ranges


def request_of(monitor: HttpMonitor, resource: str) -> tuple[str, str]:
    """(method, path) of the request that it sends."""
    words = monitor.http_request.split()
    if len(words) not in {2, 3} or words[0] not in _METHODS or not words[1].startswith("/"):
        raise RejectedError(
            resource=resource,
            detail=f"{monitor.http_request!r} is not a request such as 'GET / HTTP/1.1'",
        )
    return words[0], words[1]


def _http_check(http: HttpMonitor, resource: str) -> dict[str, Any]:
    method, path = request_of(http, resource)
    check: dict[str, Any] = {
        "path": path,
        "method": method,
        "expected_statuses": _code_ranges(http.http_response_code, resource),
    }
    if http.http_response:
        check["receive"] = [{"text": http.http_response.encode().hex()}]
        check["response_buffer_size"] = BODY_BYTES
    return check


def _check(monitor: HealthMonitor, pool: Pool, resource: str) -> dict[str, Any]:
    interval = seconds(monitor.send_interval)
    check: dict[str, Any] = {
        "name": resource,
        "timeout": seconds(min(monitor.receive_timeout, MAX_RECEIVE_S)),
        "interval": interval,
        # Without it a cluster that carries no traffic is checked once a minute only.
        "no_traffic_interval": interval,
        "healthy_threshold": monitor.successful_checks,
        "unhealthy_threshold": monitor.failed_checks,
        "initial_jitter": "0.1s",
        "interval_jitter_percent": 10,
    }
    if monitor.type in _OVER_HTTP:
        check["http_health_check"] = _http_check(monitor.http_monitor or HttpMonitor(), resource)
    else:
        # Over TLS a connection counts once the handshake is done.
        check["tcp_health_check"] = {}
    over_tls = monitor.type in _OVER_TLS
    if over_tls != (pool.ssl_profile_ref is not None):
        check["transport_socket_match_criteria"] = CHECK_TLS if over_tls else CHECK_PLAIN
    return check


def own_hosts(monitors: Mapping[str, HealthMonitor]) -> dict[str, str]:
    """Monitor to the host header that it names; those that name one."""
    return {
        name: monitor.http_monitor.host
        for name, monitor in monitors.items()
        if monitor.type in _OVER_HTTP and monitor.http_monitor is not None and monitor.http_monitor.host
    }


def render_checks(pool: Pool, monitors: Mapping[str, HealthMonitor]) -> list[dict[str, Any]]:
    """The cluster's checks, by monitor name; ``RejectedError`` names the monitor at fault."""
    hosts = own_hosts(monitors)
    checks = []
    for name, monitor in sorted(monitors.items()):
        check = _check(monitor, pool, name)
        if hosts and "http_health_check" in check:
            check["http_health_check"]["host"] = hosts.get(name) or pool.server_name or PATIENT_HOST
        checks.append(check)
    return checks


def check_config(server: Server, monitors: Mapping[str, HealthMonitor], resource: str) -> dict[str, Any]:
    """What a server's checks need of the server: ``health_check_config``."""
    check: dict[str, Any] = {}
    ports = {monitor.monitor_port or server.port for monitor in monitors.values()}
    if len(ports) > 1:
        raise RejectedError(resource=resource, detail="its health monitors ask different ports of one server")
    if ports - {server.port}:
        check["port_value"] = ports.pop()
    if not own_hosts(monitors):
        # It goes before the monitor's own.  The server's own name, as people use who look at it directly.
        address = f"[{server.ip.addr}]" if ":" in server.ip.addr else server.ip.addr
        check["hostname"] = server.hostname or address
    return check
