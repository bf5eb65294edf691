"""What must hold within a health monitor."""

import re

from avinet.model.config import HealthMonitor, HealthMonitorType
from avinet.model.patterns import is_address, is_host_name
from avinet.model.problems import Found, quoted

HTTP_TYPES = frozenset({HealthMonitorType.HTTP, HealthMonitorType.HTTPS})
MAX_RECEIVE_S = 20.0
"""A changed pool serves once the first checks of its servers have ended, and an SE gives a change 30 s."""

_CODE = re.compile(r"HTTP_[1-5]XX|[1-5][0-9]{2}")
_REQUEST = re.compile(r"(GET|HEAD|OPTIONS) (/[\x21-\x7e]*)( HTTP/1\.[01])?")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[^:\[\]]+)(:(?P<port>[0-9]{1,5}))?")


def _times(monitor: HealthMonitor) -> Found:
    if monitor.receive_timeout > MAX_RECEIVE_S:
        yield (
            "receive_timeout",
            f"it is over {MAX_RECEIVE_S:g}: a change waits for the first check of new servers",
        )
    if monitor.receive_timeout > monitor.send_interval:
        yield "receive_timeout", "it is longer than send_interval, so checks would overlap"


def check_monitor(monitor: HealthMonitor) -> Found:
    """Problems of one."""
    yield from _times(monitor)
    http = monitor.http_monitor
    if http is None:
        return
    if monitor.type not in HTTP_TYPES:
        allowed = " and ".join(sorted(one.value for one in HTTP_TYPES))
        yield "http_monitor", f"a monitor of type {monitor.type.value} has none; {allowed} do"
        return
    request = _REQUEST.fullmatch(http.http_request)
    if request is None:
        why = "it must be GET, HEAD or OPTIONS and a path, such as 'GET /health HTTP/1.1'"
        yield "http_monitor.http_request", why
    if not http.http_response_code:
        yield "http_monitor.http_response_code", "it must have at least one code"
    for index, code in enumerate(http.http_response_code):
        if not _CODE.fullmatch(code):
            path = f"http_monitor.http_response_code[{index}]"
            yield path, f"it must be HTTP_2XX or alike, or a status such as '204', not {quoted(code)}"
    if http.http_response and request is not None and request[1] == "HEAD":
        yield "http_monitor.http_response", "an answer to HEAD has no body; ask with GET"
    if http.host and not _is_host_header(http.host):
        yield "http_monitor.host", "it must be a host name or an address, with a port or without"


def _is_host_header(text: str) -> bool:
    found = _HOST_PORT.fullmatch(text)
    if found is None or (found["port"] is not None and not 1 <= int(found["port"]) <= 65535):
        return False
    host = found["host"]
    return is_address(host[1:-1]) if host.startswith("[") else is_address(host) or is_host_name(host)
