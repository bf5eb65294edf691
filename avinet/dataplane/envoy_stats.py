"""A running Envoy's counters and histograms in the words of the data plane interface.

Pure functions from the admin interface's answers.  Virtual services and pools are counted under their UUIDs
(``stat_prefix`` of listeners and of their filters, the name of clusters), so that a change continues the numbers.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from avinet.dataplane.interface import Latency, PoolCounters, Responses, ServiceCounters

_CLASSES = {
    "1xx": "informational",
    "2xx": "ok",
    "3xx": "redirects",
    "4xx": "client_errors",
    "5xx": "server_errors",
}
_HTTP = {
    "downstream_rq_total": "requests",
    "downstream_cx_active": "connections",
    "downstream_cx_total": "connections_total",
    "downstream_cx_rx_bytes_total": "bytes_in",
    "downstream_cx_tx_bytes_total": "bytes_out",
}
_TCP = {
    "downstream_cx_total": "connections_total",
    "downstream_cx_rx_bytes_total": "bytes_in",
    "downstream_cx_tx_bytes_total": "bytes_out",
}
_LISTENER = {"downstream_cx_active": "connections"}
"""What a TCP proxy does not count itself."""
_CLUSTER = {
    "upstream_rq_total": "requests",
    "upstream_cx_active": "connections",
    "upstream_cx_total": "connections_total",
    "upstream_cx_rx_bytes_total": "bytes_in",
    "upstream_cx_tx_bytes_total": "bytes_out",
    "upstream_rq_retry": "retries",
    "upstream_cx_connect_fail": "connect_failures",
    "upstream_rq_timeout": "timeouts",
    "upstream_cx_none_healthy": "no_server",
    "upstream_rq_pending_overflow": "refused_by_limit",
}
_SCOPES: dict[str, tuple[Mapping[str, str], str, str]] = {
    "http": (_HTTP, "downstream_rq_", "downstream_rq_time"),
    "tcp": (_TCP, "", ""),
    "listener": (_LISTENER, "", "downstream_cx_length_ms"),
    "cluster": (_CLUSTER, "upstream_rq_", "upstream_rq_time"),
}
"""Scope to what is counted in it, the start of its response classes, and its histogram."""


def _pattern() -> str:
    parts = []
    for scope, (counters, classes, histogram) in _SCOPES.items():
        names = [*counters, *([histogram] if histogram else ())]
        if classes:
            names.append(f"{classes}[1-5]xx")
        parts.append(rf"{scope}\.[^.]+\.({'|'.join(names)})")
    return "|".join(parts)


STATS_PATTERN = _pattern()
"""RE2 of the names of everything that is read here, whole."""
_NAME = re.compile(r"(\w+)\.([^.]+)\.(\w+)")


@attrs.define
class _Found:
    """What one scope counts of one service or pool."""

    counters: dict[str, int] = attrs.field(factory=dict)
    responses: dict[str, int] = attrs.field(factory=dict)
    latency: Latency = attrs.field(factory=Latency)


@attrs.define
class Stats:
    """One answer of ``/stats``, sorted by whom it is about."""

    _found: dict[tuple[str, str], _Found] = attrs.field(factory=dict)

    @classmethod
    def of(cls, items: Iterable[Mapping[str, Any]]) -> "Stats":
        """From the items of ``/stats?format=json&histogram_buckets=detailed``; what is not ours is passed over."""
        stats = cls()
        for item in items:
            if "histograms" in item:
                for detail in item["histograms"].get("details", ()):
                    stats._take_histogram(detail)
            elif isinstance(item.get("value"), int):
                stats._take_counter(item["name"], item["value"])
        return stats

    def _at(self, name: str) -> tuple[_Found, str, str] | None:
        match = _NAME.fullmatch(name)
        if match is None or match[1] not in _SCOPES:
            return None
        return self._found.setdefault((match[1], match[2]), _Found()), match[1], match[3]

    def _take_counter(self, name: str, value: int) -> None:
        at = self._at(name)
        if at is None:
            return
        found, scope, last = at
        counters, classes, _ = _SCOPES[scope]
        if last in counters:
            found.counters[counters[last]] = value
        elif classes and last.removeprefix(classes) in _CLASSES:
            found.responses[_CLASSES[last.removeprefix(classes)]] = value

    def _take_histogram(self, detail: Mapping[str, Any]) -> None:
        at = self._at(detail["name"])
        if at is not None and at[2] == _SCOPES[at[1]][2]:
            bins = ((float(b["lower_bound"]), float(b["width"]), int(b["count"])) for b in detail["totals"])
            at[0].latency = Latency(tuple(sorted(bins)))

    def _of(self, scope: str, who: str) -> _Found:
        return self._found.get((scope, who), _Found())

    def service(self, name: str) -> ServiceCounters:
        """Of the virtual service resource ``name``; 0 for what Envoy has not counted yet."""
        uuid = name.partition("/")[2]
        http, tcp, listener = (self._of(scope, uuid) for scope in ("http", "tcp", "listener"))
        responses = Responses(**http.responses)
        if http.counters:
            return ServiceCounters(
                service=name,
                errors_5xx=responses.server_errors,
                responses=responses,
                latency=http.latency,
                **http.counters,
            )
        counters: dict[str, Any] = {**listener.counters, **tcp.counters}
        return ServiceCounters(service=name, latency=listener.latency, **counters)

    def pool(self, name: str) -> PoolCounters:
        """Of the pool resource ``name``."""
        found = self._of("cluster", name.partition("/")[2])
        return PoolCounters(
            pool=name, responses=Responses(**found.responses), latency=found.latency, **found.counters
        )
