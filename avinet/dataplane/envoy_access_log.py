"""Request logs: what Envoy writes of each request and each TCP connection, and into which of two files.

``significant.ndjson`` has what went wrong or was slow, ``full.ndjson`` the rest.  Filters of Envoy's own decide, so no
code of ours runs for a request; each of the conditions has its exact opposite in the other file's filter, so each
request is in one of the two.  Envoy sorts the keys of an object, so ``_time`` and ``_vs`` are at the start of each line
(``avinet.model.logs``).
"""

from collections.abc import Iterable
from typing import Any

from avinet.dataplane.envoy_cluster import METADATA_KEY, NAME_KEY
from avinet.dataplane.interface import LogFiles
from avinet.model.config import AnalyticsPolicy, VirtualService
from avinet.model.logs import LineField, LogClass

SERVER_ERROR = 500
SWITCHING = 101
"""The status of a WebSocket, which is open for as long as its users like, until the client's side of it is closed."""
CLIENT_LEFT = 1 << 14
"""``DC`` alone, in Envoy's number for all response flags: the client closed its connection."""

_FILE = "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog"
_CEL = "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter"
_HANDSHAKE = "connection.transport_failure_reason"
"""Of a client's TLS, where it failed; an attribute that is not there is asked for by ``has`` alone."""
_CUT = "connection.termination_details"
"""Why Envoy ended a connection."""
_HANDSHAKE_FAILED = f"has({_HANDSHAKE})"
_HANDSHAKE_LATE = f"has({_CUT}) && {_CUT} == 'transport socket timeout was reached'"
_WENT_WRONG = (
    f"response.flags != 0 && (response.flags != {CLIENT_LEFT}"
    f" || !has(response.code) || response.code != {SWITCHING})"
)
"""For HTTP.  Envoy's own filter for flags has no opposite."""
_TIME = "%START_TIME(%Y-%m-%dT%H:%M:%S.%6fZ)%"
_POOL = f"%METADATA(CLUSTER:{METADATA_KEY}:{NAME_KEY})%"
_CONNECTION = {
    LineField.BYTES_IN: "%BYTES_RECEIVED%",
    LineField.BYTES_OUT: "%BYTES_SENT%",
    LineField.CLIENT: "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT%",
    LineField.CLIENT_PORT: "%DOWNSTREAM_DIRECT_REMOTE_PORT%",
    LineField.CONNECT_US: "%COMMON_DURATION(US_CX_BEG:US_CX_END:us)%",
    LineField.FLAGS: "%RESPONSE_FLAGS%",
    LineField.POOL: _POOL,
    LineField.SERVER: "%UPSTREAM_REMOTE_ADDRESS%",
    LineField.STATUS: "%RESPONSE_CODE%",
    LineField.TLS_CIPHER: "%DOWNSTREAM_TLS_CIPHER%",
    LineField.TLS_VERSION: "%DOWNSTREAM_TLS_VERSION%",
}
_HTTP = {
    LineField.DURATION_US: "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
    LineField.FIRST_BYTE_US: "%COMMON_DURATION(DS_RX_BEG:DS_TX_BEG:us)%",
    LineField.HOST: "%REQ(:AUTHORITY)%",
    LineField.METHOD: "%REQ(:METHOD)%",
    LineField.PATH: "%REQ(:PATH)%",
    LineField.PROTOCOL: "%PROTOCOL%",
    LineField.REASON: "%RESPONSE_CODE_DETAILS%",
    LineField.REQUEST_ID: "%REQ(X-REQUEST-ID)%",
    LineField.USER_AGENT: "%REQ(USER-AGENT)%",
}
_TCP = {
    # All that Envoy has of a connection is milliseconds.
    LineField.DURATION_US: "%TYPED_CEL(request.duration.getSeconds() * 1000000 + request.duration.getMilliseconds() * 1000)%",
    LineField.REASON: f"%CEL({_HANDSHAKE_FAILED} ? {_HANDSHAKE} : {_CUT})%",
}


def _literal(text: str) -> str:
    """``text`` where Envoy expects a format."""
    return text.replace("%", "%%")


def _line(service: VirtualService, listener: str, fields: dict[LineField, str]) -> dict[str, Any]:
    return {
        "_time": _TIME,
        "_vs": service.uuid,
        **{field.value: source for field, source in (_CONNECTION | fields).items()},
        LineField.LISTENER.value: listener,
        LineField.SERVICE.value: _literal(service.name),
    }


def _any(filters: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found = list(filters)
    return found[0] if len(found) == 1 else {"or_filter": {"filters": found}}


def _all(filters: Iterable[dict[str, Any]]) -> dict[str, Any]:
    found = list(filters)
    return found[0] if len(found) == 1 else {"and_filter": {"filters": found}}


def _compared(what: str, op: str, value: int) -> dict[str, Any]:
    # Envoy wants a key that could set the value while it runs; nobody sets it.
    comparison = {"op": op, "value": {"default_value": value, "runtime_key": "avinet"}}
    return {what: {"comparison": comparison}}


def _status(op: str, value: int) -> dict[str, Any]:
    return _compared("status_code_filter", op, value)


def _cel(expression: str) -> dict[str, Any]:
    # It must not ask for what may not be there: that is false, and so is its opposite.
    cel = {"@type": _CEL, "expression": expression}
    return {"extension_filter": {"name": "cel", "typed_config": cel}}


def _conditions(policy: AnalyticsPolicy, *, http: bool) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """What makes a request significant, each with its opposite."""
    if not http:
        asked = (_HANDSHAKE_FAILED, f"has({_CUT})")
        return [(_cel("response.flags != 0"), _cel("response.flags == 0"))] + [
            (_cel(one), _cel(f"!{one}")) for one in asked
        ]
    found = [(_cel(_WENT_WRONG), _cel(f"!({_WENT_WRONG})"))]
    found.append((_status("GE", SERVER_ERROR), _status("LE", SERVER_ERROR - 1)))
    found.extend((_status("EQ", code), _status("NE", code)) for code in policy.significant_client_errors)
    if policy.slow_ms:
        slow = _compared("duration_filter", "GE", policy.slow_ms)
        quick = _compared("duration_filter", "LE", policy.slow_ms - 1)
        found.append((_all((slow, _status("NE", SWITCHING))), _any((quick, _status("EQ", SWITCHING)))))
    return found


def access_logs(
    service: VirtualService, listener: str, logs: LogFiles, *, http: bool
) -> list[dict[str, Any]]:
    """The loggers of a connection manager or TCP proxy; ``listener`` is the address and port that it is for."""
    policy = service.analytics_policy
    line = _line(service, listener, _HTTP if http else _TCP)
    conditions = _conditions(policy, http=http)
    wanted = [(LogClass.SIGNIFICANT, _any(yes for yes, _ in conditions))]
    if policy.full_client_logs.enabled:
        wanted.append((LogClass.FULL, _all(no for _, no in conditions)))
    return [_logger(logs, log_class, line, chosen) for log_class, chosen in wanted]


def refused_log(service: VirtualService, listener: str, logs: LogFiles) -> list[dict[str, Any]]:
    """The loggers of a whole listener with TLS and HTTP: connections whose handshake failed.

    No request came of those, so the connection manager does not know of them; a TCP proxy does.
    """
    line = _line(service, listener, _TCP)
    failed = _any((_cel(_HANDSHAKE_FAILED), _cel(_HANDSHAKE_LATE)))
    return [_logger(logs, LogClass.SIGNIFICANT, line, failed)]


def _logger(
    logs: LogFiles, log_class: LogClass, line: dict[str, Any], chosen: dict[str, Any]
) -> dict[str, Any]:
    config = {"@type": _FILE, "path": str(logs.current(log_class)), "log_format": {"json_format": line}}
    return {"name": "file", "filter": chosen, "typed_config": config}
