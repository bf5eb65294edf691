"""Health and counters as read from the shapes that Envoy's admin interface answers with."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_readback import server_health, service_counters
from avinet.dataplane.interface import ServerStatus, ServiceCounters


def cluster(*servers, kind="STATIC"):
    return {
        "name": "pool-1@abc",
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


def status(*hosts, name="pool-1@abc"):
    return {"name": name, "host_statuses": list(hosts)}


class Health(SynchronousTestCase):
    def one(self, server, *hosts, kind="STATIC", name="pool-1@abc"):
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
        found = self.one(("10.0.0.1", 80, ""), host("10.0.0.1", 80), name="pool-1@older")
        self.assertFalse(found.up)

    def test_an_ipv6_server_is_written_in_brackets(self):
        self.assertEqual(self.one(("::1", 80, ""), host("::1", 80)).server, "[::1]:80")


class Counters(SynchronousTestCase):
    def test_counters_are_found_by_virtual_service(self):
        stats = {
            "http.virtualservice-1.downstream_rq_total": 7,
            "http.virtualservice-1.downstream_rq_5xx": 1,
            "http.virtualservice-1.downstream_cx_active": 2,
            "http.virtualservice-1.downstream_cx_rx_bytes_total": 100,
            "http.virtualservice-1.downstream_cx_tx_bytes_total": 200,
            "http.admin.downstream_rq_total": 99,
        }
        self.assertEqual(
            service_counters(["virtualservice/virtualservice-1", "virtualservice/virtualservice-2"], stats),
            (
                ServiceCounters("virtualservice/virtualservice-1", 7, 1, 2, 100, 200),
                ServiceCounters("virtualservice/virtualservice-2"),
            ),
        )
