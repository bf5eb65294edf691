"""The traffic as metrics: a few series for each virtual service, by name."""

from collections.abc import Iterator

import attrs
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from avinet.controller.traffic import FleetTraffic
from avinet.controller.traffic_health import Health

MAX_SERVICES = 500
"""Virtual services beyond which none has series: ten each, and judging them takes some 20 ms."""
LABEL = "virtual_service"


@attrs.frozen(eq=False)
class TrafficCollector(Collector):
    """What the registry asks."""

    traffic: FleetTraffic

    def collect(self) -> Iterator[Metric]:
        """Counters begin anew when the controller does; Prometheus knows how to read that."""
        up = GaugeMetricFamily("avinet_virtual_service_up", "1 up, 0.5 in part, 0 down.", labels=(LABEL,))
        connections = GaugeMetricFamily(
            "avinet_virtual_service_connections", "Open now, on all SEs.", labels=(LABEL,)
        )
        requests = CounterMetricFamily(
            "avinet_virtual_service_requests", "Requests, on all SEs.", labels=(LABEL,)
        )
        responses = CounterMetricFamily(
            "avinet_virtual_service_responses", "Answers, by class.", labels=(LABEL, "class")
        )
        received = CounterMetricFamily(
            "avinet_virtual_service_received_bytes", "From clients.", labels=(LABEL,)
        )
        sent = CounterMetricFamily("avinet_virtual_service_sent_bytes", "To clients.", labels=(LABEL,))
        for service, verdict, open_now, counts in self.traffic.samples(MAX_SERVICES):
            name = (service.name,)
            if verdict.health in _UP:
                up.add_metric(name, _UP[verdict.health])
            connections.add_metric(name, open_now)
            requests.add_metric(name, counts["requests"])
            for digit in range(1, 6):
                responses.add_metric((service.name, f"{digit}xx"), counts[f"responses_{digit}xx"])
            received.add_metric(name, counts["bytes_in"])
            sent.add_metric(name, counts["bytes_out"])
        yield from (up, connections, requests, responses, received, sent)
        refused = CounterMetricFamily(
            "avinet_report_refusals", "Things in SEs' reports that were ignored, since they cannot be so."
        )
        refused.add_metric((), self.traffic.refused)
        yield refused


_UP = {Health.UP: 1.0, Health.PARTLY: 0.5, Health.DOWN: 0.0}
"""Those that are disabled or unknown have none."""
