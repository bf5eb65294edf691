"""Health, counters and histograms as read from the shapes that Envoy's admin interface answers with."""

import re

from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_health import server_health, still_open
from avinet.dataplane.envoy_stats import STATS_PATTERN, Stats
from avinet.dataplane.interface import (
    Failure,
    Latency,
    PoolCounters,
    Responses,
    ServerState,
    ServerStatus,
    ServiceCounters,
)


def cluster(*servers, kind="STATIC"):
    return {
        "name": "pool-1",
        "type": kind,
        "load_assignment": {
            "endpoints": [
                {
                    "lb_endpoints": [
                        {
                            "endpoint": {
                                "address": {"socket_address": {"address": a, "port_value": p}},
                                "hostname": h,
                            }
                        }
                        for a, p, h in servers
                    ]
                }
            ]
        },
        "metadata": {"filter_metadata": {"avinet": {"pool": "pool/pool-1"}}},
    }


def host(address, port, hostname="", **health):
    return {
        "address": {"socket_address": {"address": address, "port_value": port}},
        "health_status": {"eds_health_status": "HEALTHY", **health},
        "hostname": hostname,
    }


def status(*hosts, name="pool-1"):
    return {"name": name, "host_statuses": list(hosts)}


class Health(SynchronousTestCase):
    def one(self, server, *hosts, kind="STATIC", name="pool-1"):
        (found,) = server_health([cluster(server, kind=kind)], [status(*hosts, name=name)])
        return found

    def test_a_server_without_a_flag_is_up(self):
        found = self.one(("10.0.0.1", 80, "10.0.0.1"), host("10.0.0.1", 80))
        self.assertEqual(found, ServerStatus("pool/pool-1", "10.0.0.1:80", True, ""))

    def test_a_flag_is_told_as_a_reason(self):
        flags = {"failed_active_health_check": True}
        found = self.one(("10.0.0.1", 80, ""), host("10.0.0.1", 80, **flags))
        self.assertEqual((found.up, found.reason), (False, "fails its health check"))

    def test_a_timed_out_check_is_told_apart_from_a_failed_one(self):
        flags = {"failed_active_health_check": True, "active_hc_timeout": True}
        found = self.one(("10.0.0.1", 80, ""), host("10.0.0.1", 80, **flags))
        self.assertEqual(found.reason, "no answer to its health check in time")

    def test_a_name_is_up_when_any_of_its_addresses_is(self):
        down = {"failed_active_health_check": True}
        found = self.one(
            ("app.example", 80, "app.example"),
            host("10.0.0.1", 80, "app.example", **down),
            host("10.0.0.2", 80, "app.example"),
            kind="STRICT_DNS",
        )
        self.assertEqual((found.server, found.up), ("app.example:80", True))

    def test_a_name_without_addresses_does_not_resolve(self):
        found = self.one(("app.example", 80, "app.example"), kind="STRICT_DNS")
        self.assertEqual((found.up, found.reason), (False, "its name does not resolve"))

    def test_other_clusters_hosts_do_not_count(self):
        found = self.one(("10.0.0.1", 80, ""), host("10.0.0.1", 80), name="pool-2")
        self.assertFalse(found.up)

    def test_an_ipv6_server_is_written_in_brackets(self):
        self.assertEqual(self.one(("::1", 80, ""), host("::1", 80)).server, "[::1]:80")

    def test_a_server_that_drains_gets_nothing_new_and_is_not_down(self):
        found = self.one(("10.0.0.1", 80, ""), host("10.0.0.1", 80, eds_health_status="DRAINING"))
        self.assertEqual((found.up, found.state, found.failure), (False, ServerState.DRAINING, Failure.NONE))

    def test_an_outlier_is_told_apart_from_a_server_that_fails_its_checks(self):
        found = self.one(("10.0.0.1", 80, ""), host("10.0.0.1", 80, failed_outlier_check=True))
        self.assertEqual((found.state, found.failure), (ServerState.EJECTED, Failure.OUTLIER))

    def test_what_a_servers_addresses_count_is_added(self):
        stats = [
            {"name": "rq_total", "value": "3"},
            {"name": "cx_active", "value": "1"},
            {"name": "rq_error"},
        ]
        hosts = [host(f"10.0.0.{n}", 80, "app.example") | {"stats": stats} for n in (1, 2)]
        found = self.one(("app.example", 80, "app.example"), *hosts, kind="STRICT_DNS")
        self.assertEqual((found.requests, found.connections, found.errors), (6, 2, 0))

    def test_connections_to_a_server_that_another_pool_uses_are_not_cut(self):
        one, two = ("10.0.0.1", 80, ""), ("10.0.0.2", 80, "")
        statuses = [
            status(host("10.0.0.1", 80), host("10.0.0.2", 80)),
            status(host("10.0.0.2", 80), name="pool-2"),
        ]
        over = [("pool-1", "10.0.0.1", 80), ("pool-1", "10.0.0.2", 80)]
        found = still_open(over, [cluster(one, two)], statuses)
        self.assertEqual(found, {("10.0.0.1", 80)})


def item(name, value):
    return {"name": name, "value": value}


class Counting(SynchronousTestCase):
    def test_an_http_service_has_its_classes_and_its_latency(self):
        totals = [{"lower_bound": 2, "width": 0.1, "count": 1}, {"lower_bound": 1, "width": 0.1, "count": 3}]
        stats = Stats.of(
            [
                item("http.virtualservice-1.downstream_rq_total", 7),
                item("http.virtualservice-1.downstream_rq_2xx", 6),
                item("http.virtualservice-1.downstream_rq_5xx", 1),
                item("http.virtualservice-1.downstream_cx_active", 2),
                item("http.virtualservice-1.downstream_cx_rx_bytes_total", 100),
                item("http.admin.downstream_rq_total", 99),
                item("listener.virtualservice-1.downstream_cx_active", 5),
                item("cluster_manager.cds.version_text", "x"),
                {
                    "histograms": {
                        "details": [
                            {"name": "http.virtualservice-1.downstream_rq_time", "totals": totals},
                            {"name": "http.virtualservice-1.downstream_cx_length_ms", "totals": totals},
                        ]
                    }
                },
            ]
        )
        self.assertEqual(
            stats.service("virtualservice/virtualservice-1"),
            ServiceCounters(
                "virtualservice/virtualservice-1",
                requests=7,
                errors_5xx=1,
                connections=2,
                bytes_in=100,
                responses=Responses(ok=6, server_errors=1),
                latency=Latency(((1.0, 0.1, 3), (2.0, 0.1, 1))),
            ),
        )
        self.assertEqual(
            stats.service("virtualservice/virtualservice-2"),
            ServiceCounters("virtualservice/virtualservice-2"),
        )

    def test_a_tcp_service_has_connections_and_bytes(self):
        stats = Stats.of(
            [
                item("tcp.virtualservice-1.downstream_cx_total", 4),
                item("tcp.virtualservice-1.downstream_cx_tx_bytes_total", 9),
                item("listener.virtualservice-1.downstream_cx_active", 1),
            ]
        )
        self.assertEqual(
            stats.service("virtualservice/virtualservice-1"),
            ServiceCounters(
                "virtualservice/virtualservice-1", connections=1, connections_total=4, bytes_out=9
            ),
        )

    def test_a_pool_counts_what_it_could_not_serve(self):
        names = {
            "upstream_rq_total": 5,
            "upstream_cx_none_healthy": 2,
            "upstream_rq_pending_overflow": 1,
            "upstream_rq_retry": 3,
        }
        stats = Stats.of(item(f"cluster.pool-1.{name}", value) for name, value in names.items())
        self.assertEqual(
            stats.pool("pool/pool-1"),
            PoolCounters("pool/pool-1", requests=5, no_server=2, refused_by_limit=1, retries=3),
        )

    def test_the_pattern_takes_what_is_read_and_nothing_else(self):
        for name in ("http.a.downstream_rq_4xx", "cluster.a-1.upstream_rq_time", "tcp.a.downstream_cx_total"):
            self.assertTrue(re.fullmatch(STATS_PATTERN, name), name)
        for name in ("http.a.downstream_rq_6xx", "cluster.a.b.upstream_rq_time", "server.live"):
            self.assertFalse(re.fullmatch(STATS_PATTERN, name), name)


class Latencies(SynchronousTestCase):
    some = Latency(((1.0, 1.0, 90), (10.0, 1.0, 9), (100.0, 10.0, 1)))

    def test_percentiles_are_within_the_bin_that_has_them(self):
        self.assertEqual(self.some.count, 100)
        self.assertEqual((self.some.p90, self.some.p99), (2.0, 11.0))
        self.assertEqual(self.some.percentile(1), 110.0)
        self.assertAlmostEqual(self.some.p50, 1 + 50 / 90)

    def test_nothing_measured_has_no_percentile(self):
        self.assertIsNone(Latency().p99)

    def test_an_interval_is_the_difference_and_adds_up_again(self):
        earlier = Latency(((1.0, 1.0, 90),))
        later = self.some.since(earlier)
        self.assertEqual(later, Latency(((10.0, 1.0, 9), (100.0, 10.0, 1))))
        self.assertEqual(earlier.plus(later), self.some)

    def test_a_data_plane_that_began_anew_has_no_earlier(self):
        self.assertEqual(self.some.since(Latency(((1.0, 1.0, 91),))), self.some)
        self.assertEqual(self.some.since(Latency(((5.0, 1.0, 1),))), self.some)
