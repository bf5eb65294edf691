"""``GET /metrics``: the controller in Prometheus' text format, read from the live objects when somebody asks.

Nothing is counted for its sake but what cannot be read otherwise, and the number of series does not grow with the
fleet: SEs are counted by state and their round trips given as quantiles; only a small fleet has series of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import attrs
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from avinet.controller.api_status import Whole
from avinet.controller.versions import BOUNDS_S
from avinet.model.config import KINDS, kind_of
from avinet.model.engine import SeRecord, SeState
from avinet.rest.route import Request, Response, Route

MAX_ENGINE_SERIES = 200
"""SEs beyond which none has series of its own: three each, and a scrape each 15 s."""
QUANTILES = (0.5, 0.9, 0.99, 1.0)


@attrs.frozen(eq=False)
class ControllerCollector(Collector):
    """What the registry asks."""

    whole: Whole
    events: Callable[[], Mapping[str, int]]
    """Events since the start, by code."""

    def collect(self) -> Iterator[Metric]:
        """Every family but the process's own."""
        yield from self._about()
        yield from self._configuration()
        yield from self._pushes()
        yield from self._engines()
        yield from self._reactor()
        yield from self._logins()
        yield _counter("avinet_events", "Events, by code.", self.events(), "code")

    def _about(self) -> Iterator[Metric]:
        whole = self.whole
        info = GaugeMetricFamily(
            "avinet_info", "Always 1; the labels say what this is.", labels=("cluster", "name", "software")
        )
        info.add_metric((whole.cluster, whole.name, whole.software), 1)
        yield info
        yield _gauge("avinet_ready", "Whether the controller can be given work.", not whole.not_ready())
        store = whole.store()
        yield _gauge("avinet_store_well", "Whether the store's engine lacks nothing.", store.well)
        yield _gauge("avinet_store_bytes", "What etcd's file takes; 0 without one.", store.db_bytes)

    def _configuration(self) -> Iterator[Metric]:
        now, sync = self.whole.config.current, self.whole.sync
        yield _gauge("avinet_config_version", "The version in force.", now.version)
        objects = dict.fromkeys(KINDS, 0)
        for stored in now.objects.values():
            objects[kind_of(stored.thing)] += 1
        yield _gauges("avinet_config_objects", "Configuration objects, by kind.", objects, "kind")
        behind = sync.behind()
        yield _gauge("avinet_config_stragglers", "Attached SEs without what they should have.", len(behind))
        since = [at for se in behind if (at := sync.stragglers.since(se)) is not None]
        oldest = max(0.0, sync.clock.seconds() - min(since)) if since else 0.0
        yield _gauge("avinet_config_straggler_oldest_seconds", "How long the longest has been one.", oldest)
        times = sync.times.acks
        histogram = HistogramMetricFamily(
            "avinet_config_commit_to_ack_seconds", "From the commit of a version to the Ack of an SE."
        )
        buckets: list[tuple[str, float]] = []
        total = 0
        for bound, count in zip((*BOUNDS_S, float("inf")), times.counts, strict=True):
            total += count
            buckets.append(("+Inf" if bound == float("inf") else str(bound), total))
        histogram.add_metric((), buckets, times.sum_s)
        yield histogram

    def _pushes(self) -> Iterator[Metric]:
        pushed = self.whole.sync.pushed
        for name, said, value in (
            ("pushes", "States sent to SEs.", pushed.pushes),
            ("resends", "Of them: sent to the SE before, and not in force.", pushed.resends),
            ("pushed_bytes", "Bytes of the objects in them.", pushed.size),
            ("acks", "Pushes that SEs put in force.", pushed.acks),
            ("nacks", "Pushes that SEs refused.", pushed.nacks),
        ):
            yield _counter(f"avinet_config_{name}", said, {"": value})

    def _engines(self) -> Iterator[Metric]:
        whole = self.whole
        records = whole.engines.all()
        states: dict[str, int] = dict.fromkeys((state.value for state in SeState), 0)
        in_sync = 0
        for record in records:
            states[whole.state(record.uuid).value] += 1
            in_sync += whole.sync.in_sync(record.uuid)
        yield _gauges("avinet_service_engines", "SEs, by state.", states, "state")
        yield _gauge("avinet_service_engines_in_sync", "SEs that have what they should.", in_sync)
        sessions = whole.sessions.all()
        yield _gauge("avinet_sessions", "SEs attached to this controller.", len(sessions))
        trips = sorted(rtt for session in sessions if (rtt := session.rtt.smoothed) is not None)
        if trips:
            found = {f"{q:g}": trips[min(len(trips) - 1, int(q * len(trips)))] for q in QUANTILES}
            said = "Heartbeat round trips, smoothed for each SE: quantiles over the fleet."
            yield _gauges("avinet_heartbeat_rtt_seconds", said, found, "quantile")
        if len(records) <= MAX_ENGINE_SERIES:
            yield from self._each(records)

    def _each(self, records: tuple[SeRecord, ...]) -> Iterator[Metric]:
        whole = self.whole
        up: dict[str, float] = {}
        in_sync: dict[str, float] = {}
        rtt: dict[str, float] = {}
        for record in records:
            name, session = record.name, whole.sessions.get(record.uuid)
            up[name] = whole.state(record.uuid) is SeState.UP
            in_sync[name] = whole.sync.in_sync(record.uuid)
            if session is not None and session.rtt.smoothed is not None:
                rtt[name] = session.rtt.smoothed
        label = "service_engine"
        yield _gauges("avinet_service_engine_up", "Whether the SE is UP.", up, label)
        yield _gauges("avinet_service_engine_in_sync", "Whether it has what it should.", in_sync, label)
        yield _gauges(
            "avinet_service_engine_rtt_seconds", "Its heartbeats' round trip, smoothed.", rtt, label
        )

    def _reactor(self) -> Iterator[Metric]:
        health = self.whole.reactor()
        said = "Times that the reactor was kept from its work for over 50 ms."
        yield _counter("avinet_reactor_blocks", said, {"": health.over_50_ms})
        longest = {"1m": health.longest_minute_ms / 1000, "1h": health.longest_hour_ms / 1000}
        said = "The longest of them in the window."
        yield _gauges("avinet_reactor_longest_block_seconds", said, longest, "window")
        said = "The longest collection of garbage since the start."
        longest_s = health.longest_collection_ms / 1000
        yield _gauge("avinet_garbage_longest_collection_seconds", said, longest_s)

    def _logins(self) -> Iterator[Metric]:
        logins = self.whole.logins()
        said = "SSH connections that have not logged in yet."
        yield _gauge("avinet_ssh_unauthenticated", said, logins.in_progress)
        for name, text, value in (
            ("logins", "SSH logins that succeeded.", logins.logged_in),
            ("logins_refused", "SSH logins that were refused.", logins.refused),
            ("turned_away", "SSH connections told to come back later.", logins.turned_away),
        ):
            yield _counter(f"avinet_ssh_{name}", text, {"": value})


def _gauge(name: str, said: str, value: float) -> Metric:
    return GaugeMetricFamily(name, said, value=float(value))


def _gauges(name: str, said: str, values: Mapping[str, float], label: str) -> Metric:
    family = GaugeMetricFamily(name, said, labels=(label,))
    for of, value in values.items():
        family.add_metric((of,), float(value))
    return family


def _counter(name: str, said: str, values: Mapping[str, float], label: str = "") -> Metric:
    """One without a label has one value, of the empty text."""
    family = CounterMetricFamily(name, said, labels=(label,) if label else ())
    for of, value in values.items():
        family.add_metric((of,) if label else (), float(value))
    return family


def metrics_route(
    whole: Whole, events: Callable[[], Mapping[str, int]], more: Iterable[Collector] = ()
) -> Route:
    """With a registry of its own: nothing else of the process is shown by accident."""
    registry = CollectorRegistry()
    registry.register(ControllerCollector(whole, events))
    for collector in more:
        registry.register(collector)
    ProcessCollector(registry=registry)

    async def metrics(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(body=encode(registry), content_type=content_type)

    return Route(
        method="GET",
        path="/metrics",
        handler=metrics,
        summary="The controller's metrics, in Prometheus' text format or OpenMetrics.",
        produces="text/plain",
    )
