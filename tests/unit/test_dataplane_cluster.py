"""From pools and monitors to Envoy's clusters: servers, algorithms, checks, TLS, limits."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_cluster import render_cluster
from avinet.dataplane.envoy_pool_http import pool_filters, pool_replies, pool_routes, pool_tcp_proxy
from avinet.dataplane.interface import RejectedError
from avinet.model.config import (
    FailAction,
    FailActionType,
    HashBy,
    HealthMonitor,
    HealthMonitorType,
    HttpMonitor,
    IpAddr,
    IpAddrType,
    LbAlgorithm,
    OutlierDetection,
    Persistence,
    PersistenceType,
    Pool,
    Server,
    SslProfile,
)


def server(address="10.0.0.1", port=80, **more):
    named = not address[0].isdigit() and ":" not in address
    kind = IpAddrType.DNS if named else IpAddrType.V4
    return Server(ip=IpAddr(addr=address, type=kind), port=port, **more)


def pool(*servers, **more):
    return Pool(uuid="pool-1", name="p", servers=servers or (server(),), **more)


def monitor(**more):
    return HealthMonitor(uuid="healthmonitor-1", name="m", **more)


def rendered(thing, *monitors, **more):
    named = {f"healthmonitor/{n}": m for n, m in enumerate(monitors)}
    digests = {"pool/pool-1": "d", **dict.fromkeys(named, "d")}
    return render_cluster(thing, "pool/pool-1", named, digests, **more)


def levels(cluster):
    return [
        (
            group["priority"],
            [
                (e["endpoint"]["address"]["socket_address"]["address"], e.get("health_status"))
                for e in group["lb_endpoints"]
            ],
        )
        for group in cluster["load_assignment"]["endpoints"]
    ]


class Servers(SynchronousTestCase):
    def test_priorities_have_no_gaps_and_disabled_servers_come_after_all(self):
        cluster = rendered(
            pool(
                server("10.0.0.1", priority=7),
                server("10.0.0.2", priority=3),
                server("10.0.0.3", priority=3, enabled=False),
                server("10.0.0.4", priority=3),
            )
        )
        self.assertEqual(
            levels(cluster),
            [
                (0, [("10.0.0.2", None), ("10.0.0.4", None)]),
                (1, [("10.0.0.1", None)]),
                (2, [("10.0.0.3", "DRAINING")]),
            ],
        )

    def test_ratios_are_weights(self):
        cluster = rendered(pool(server(ratio=3)))
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        self.assertEqual(endpoint["load_balancing_weight"], 3)

    def test_a_disabled_pool_has_no_servers(self):
        self.assertEqual(levels(rendered(pool(enabled=False))), [])

    def test_a_server_by_name_makes_the_pool_resolve_names(self):
        self.assertEqual(rendered(pool(server("app.example"), server()))["type"], "STRICT_DNS")
        self.assertEqual(rendered(pool())["type"], "STATIC")

    def test_a_pool_without_healthy_servers_is_not_panicked_into(self):
        self.assertEqual(rendered(pool())["common_lb_config"]["healthy_panic_threshold"], {"value": 0})


class Algorithms(SynchronousTestCase):
    def policy(self, **more):
        (route, _) = pool_routes(pool(**more), "pool-1", {"prefix": "/"})
        cluster = rendered(pool(**more))
        return cluster.get("lb_policy"), route["route"].get("hash_policy")

    address = {"connection_properties": {"source_ip": True}}

    def test_each_is_translated(self):
        hashed = {"lb_algorithm": LbAlgorithm.CONSISTENT_HASH}
        header = {"lb_algorithm_consistent_hash_hdr": "x-user"}
        self.assertEqual(self.policy(), ("ROUND_ROBIN", None))
        self.assertEqual(self.policy(**hashed), ("RING_HASH", [self.address]))
        for by, name in ((HashBy.URI, ":path"), (HashBy.HEADER, "x-user")):
            policy = self.policy(**hashed, **header, lb_algorithm_hash=by)
            first = {"header": {"header_name": name}, "terminal": True}
            self.assertEqual(policy, ("RING_HASH", [first, self.address]))

    def test_all_servers_are_compared_where_they_are_few(self):
        for count, choice in ((64, {"selection_method": "FULL_SCAN"}), (65, {"choice_count": 5})):
            servers = [server(f"10.0.0.{n}") for n in range(1, count + 1)]
            cluster = rendered(pool(*servers, lb_algorithm=LbAlgorithm.LEAST_CONNECTIONS))
            (policy,) = cluster["load_balancing_policy"]["policies"]
            config = policy["typed_extension_config"]["typed_config"]
            self.assertEqual({k: v for k, v in config.items() if k != "@type"}, choice)

    def test_persistence_by_address_goes_before_the_algorithm(self):
        by_address = Persistence(persistence_type=PersistenceType.CLIENT_IP)
        for more in ({}, {"lb_algorithm": LbAlgorithm.CONSISTENT_HASH, "lb_algorithm_hash": HashBy.URI}):
            self.assertEqual(self.policy(persistence=by_address, **more), ("RING_HASH", [self.address]))

    def test_tcp_can_be_hashed_by_address_only(self):
        hashed = pool(lb_algorithm=LbAlgorithm.CONSISTENT_HASH, lb_algorithm_hash=HashBy.URI)
        self.assertEqual(pool_tcp_proxy(hashed, "pool-1")["hash_policy"], [{"source_ip": {}}])
        self.assertNotIn("hash_policy", pool_tcp_proxy(pool(), "pool-1"))

    def test_an_idle_tcp_connection_is_not_held_to_the_default_made_for_http(self):
        self.assertEqual(pool_tcp_proxy(pool(), "pool-1")["idle_timeout"], "3600s")
        self.assertEqual(pool_tcp_proxy(pool(idle_timeout_s=20), "pool-1")["idle_timeout"], "20s")


class Requests(SynchronousTestCase):
    def test_what_a_server_dropped_is_repeated_only_where_that_is_harmless(self):
        safe, other = pool_routes(pool(retries=1), "pool-1", {"prefix": "/", "headers": [{"name": "x"}]})
        self.assertEqual([h["name"] for h in safe["match"]["headers"]], ["x", ":method"])
        self.assertEqual(other["match"], {"prefix": "/", "headers": [{"name": "x"}]})
        self.assertIn("reset", safe["route"]["retry_policy"]["retry_on"].split(","))
        self.assertNotIn("reset", other["route"]["retry_policy"]["retry_on"].split(","))
        self.assertEqual(safe["route"]["retry_policy"]["num_retries"], 1)

    def test_no_retries_are_none(self):
        for route in pool_routes(pool(retries=0), "pool-1", {"prefix": "/"}):
            self.assertNotIn("retry_policy", route["route"])

    def test_a_cookie_needs_the_filter_and_is_the_pools_own(self):
        sticky = pool(persistence=Persistence(timeout_s=60))
        for route in pool_routes(sticky, "pool-1", {"prefix": "/"}):
            (config,) = route["typed_per_filter_config"].values()
            cookie = config["stateful_session"]["session_state"]["typed_config"]["cookie"]
            self.assertEqual(cookie, {"name": "avinet-pool-1", "path": "/", "ttl": "60s"})
        self.assertEqual(len(pool_filters([pool(), sticky])), 1)
        self.assertEqual(pool_filters([pool()]), [])

    def test_fail_actions_are_answers_of_the_pools_own_requests(self):
        action = FailAction(type=FailActionType.REDIRECT, redirect_url="https://sorry.example/a%20b")
        one, two = pool_replies([(pool(fail_action=action), "pool-1"), (pool(), "pool-2")])
        self.assertEqual(one["status_code"], 302)
        self.assertEqual(one["headers_to_add"][0]["header"]["value"], "https://sorry.example/a%%20b")
        self.assertIn("'pool-1'", str(one["filter"]))
        self.assertEqual((two["status_code"], two["body"]), (503, {"inline_string": ""}))


class Checks(SynchronousTestCase):
    def check(self, thing, **more):
        (check,) = rendered(thing, monitor(**more))["health_checks"]
        return check

    def test_an_http_monitor_is_translated_and_checks_without_traffic_too(self):
        wanted = HttpMonitor(
            http_request="HEAD /up?x=1 HTTP/1.1", http_response_code=("HTTP_2XX", "404"), http_response="ok"
        )
        check = self.check(pool(), send_interval=2.5, http_monitor=wanted)
        self.assertEqual((check["interval"], check["no_traffic_interval"]), ("2.5s", "2.5s"))
        self.assertEqual(
            check["http_health_check"],
            {
                "path": "/up?x=1",
                "method": "HEAD",
                "expected_statuses": [{"start": 200, "end": 300}, {"start": 404, "end": 405}],
                "receive": [{"text": b"ok".hex()}],
                "response_buffer_size": 65536,
            },
        )

    def test_an_http_monitor_that_says_nothing_asks_for_the_root(self):
        self.assertEqual(self.check(pool())["http_health_check"]["path"], "/")

    def test_several_monitors_have_names_so_that_all_must_pass(self):
        checks = rendered(pool(), monitor(), monitor(type=HealthMonitorType.TCP))["health_checks"]
        self.assertEqual([check["name"] for check in checks], ["healthmonitor/0", "healthmonitor/1"])

    def test_monitors_speak_tls_or_not_whatever_the_pool_does(self):
        plain, tls = pool(), pool(ssl_profile_ref=SslProfile.STANDARD)
        for kind, over_tls in (
            (HealthMonitorType.HTTP, False),
            (HealthMonitorType.TCP, False),
            (HealthMonitorType.HTTPS, True),
            (HealthMonitorType.TLS, True),
        ):
            marks = [self.check(p, type=kind).get("transport_socket_match_criteria") for p in (plain, tls)]
            expected = [{"check": "tls"}, None] if over_tls else [None, {"check": "plain"}]
            self.assertEqual(marks, expected, kind)

    def test_no_check_takes_longer_than_a_change_may_wait(self):
        self.assertEqual(self.check(pool(), receive_timeout=60)["timeout"], "20s")

    def test_another_port_is_the_servers(self):
        cluster = rendered(pool(), monitor(type=HealthMonitorType.TCP, monitor_port=99))
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        self.assertEqual(endpoint["endpoint"]["health_check_config"]["port_value"], 99)

    def test_monitors_that_ask_different_ports_are_refused(self):
        tcp = HealthMonitorType.TCP
        for ports in ((98, 99), (None, 99)):
            with self.assertRaises(RejectedError) as raised:
                rendered(pool(), *(monitor(type=tcp, monitor_port=port) for port in ports))
            self.assertEqual(raised.exception.resource, "pool/pool-1")
        rendered(pool(), monitor(type=tcp), monitor(type=tcp, monitor_port=80))

    def test_a_host_of_the_monitors_own_goes_before_the_servers_name(self):
        cluster = rendered(pool(), monitor(http_monitor=HttpMonitor(host="app.example")), monitor())
        hosts = [check["http_health_check"]["host"] for check in cluster["health_checks"]]
        self.assertEqual(hosts, ["app.example", "localhost"])
        (endpoint,) = cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        self.assertNotIn("hostname", endpoint["endpoint"]["health_check_config"])


class Tls(SynchronousTestCase):
    def contexts(self, **more):
        cluster = rendered(pool(**more))
        matches = cluster.get("transport_socket_matches", [])
        return [
            found["typed_config"]
            for found in (cluster["transport_socket"], *(m["transport_socket"] for m in matches))
        ]

    def test_the_pools_name_is_asked_for_and_must_be_proved(self):
        (context,) = self.contexts(
            ssl_profile_ref=SslProfile.MODERN, ca_certs=("A\n", "B"), server_name="app.example"
        )
        self.assertEqual(context["sni"], "app.example")
        validation = context["common_tls_context"]["validation_context"]
        self.assertEqual(validation["trusted_ca"], {"inline_string": "A\nB\n"})
        self.assertEqual(validation["match_typed_subject_alt_names"][0]["matcher"], {"exact": "app.example"})
        versions = context["common_tls_context"]["tls_params"]
        self.assertEqual(versions["tls_minimum_protocol_version"], "TLSv1_3")

    def test_servers_with_names_prove_their_own(self):
        thing = pool(
            server(hostname="a.example"),
            server("10.0.0.2"),
            ssl_profile_ref=SslProfile.STANDARD,
            ca_certs=("A",),
        )
        cluster = rendered(thing)
        (match,) = cluster["transport_socket_matches"]
        context = match["transport_socket"]["typed_config"]
        self.assertTrue(context["auto_host_sni"] and context["auto_sni_san_validation"])
        marks = [
            e.get("metadata", {}).get("filter_metadata", {}).get("envoy.transport_socket_match")
            for e in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]
        ]
        self.assertEqual(marks, [match["match"], None])

    def test_without_a_ca_nothing_is_verified(self):
        (context,) = self.contexts(ssl_profile_ref=SslProfile.STANDARD, server_name="app.example")
        self.assertNotIn("validation_context", context["common_tls_context"])

    def test_our_certificate_comes_by_sds(self):
        secret = {"name": "cert@1", "sds_config": {}}
        cluster = rendered(pool(ssl_profile_ref=SslProfile.STANDARD), client_certificate=secret)
        common = cluster["transport_socket"]["typed_config"]["common_tls_context"]
        self.assertEqual(common["tls_certificate_sds_secret_configs"], [secret])


class Limits(SynchronousTestCase):
    def test_a_limit_a_server_bounds_who_waits_as_well(self):
        breakers = rendered(pool(server(), server("10.0.0.2"), max_concurrent_connections_per_server=5))[
            "circuit_breakers"
        ]
        self.assertEqual(breakers["per_host_thresholds"], [{"max_connections": 5}])
        self.assertEqual(breakers["thresholds"][0]["max_pending_requests"], 10)

    def test_no_limit_is_none_of_envoys_either(self):
        breakers = rendered(pool())["circuit_breakers"]
        self.assertNotIn("per_host_thresholds", breakers)
        (threshold,) = breakers["thresholds"]
        for name in ("max_connections", "max_requests", "max_pending_requests"):
            self.assertEqual(threshold[name], 1_000_000)

    def test_a_count_of_0_ejects_nobody(self):
        found = rendered(pool(outlier_detection=OutlierDetection(consecutive_5xx=0)))["outlier_detection"]
        self.assertEqual(found["enforcing_consecutive_5xx"], 0)
        self.assertEqual(found["enforcing_consecutive_local_origin_failure"], 100)
        self.assertNotIn("outlier_detection", rendered(pool()))
