"""From resources to Envoy's clusters and listeners: what is rendered, what is refused, and by which name."""

from pathlib import Path

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_memory import Memory
from avinet.dataplane.envoy_readback import STRANGE, ReadBack
from avinet.dataplane.envoy_render import CARRIER, render
from avinet.dataplane.interface import LogFiles, RejectedError
from avinet.model.config import (
    ApplicationProfile,
    CertificateText,
    HealthMonitor,
    HttpMonitor,
    IpAddr,
    PathMatch,
    Pool,
    Route,
    Server,
    Service,
    SSLKeyAndCertificate,
    SslProfile,
    Vip,
    VirtualService,
)
from avinet.model.resources import Resource, hashes_of
from tests.unit.certificates import issued

FOLDER = Path("/run/x")


def resource(kind, thing):
    return Resource(f"{kind}/{thing.uuid}", msgspec.msgpack.encode(thing))


def state_of(*resources):
    return {r.name: r for r in resources}


def service(
    name="1",
    *,
    vips=("127.0.0.1",),
    ports=(8080,),
    ssl=(),
    certificates=(),
    pool="pool-1",
    http2=True,
    **more,
):
    thing = VirtualService(
        uuid=f"virtualservice-{name}",
        name=name,
        vip=tuple(Vip(ip_address=IpAddr(addr=a)) for a in vips),
        services=(
            *(Service(port=p, enable_http2=http2) for p in ports),
            *(Service(port=p, enable_ssl=True, enable_http2=http2) for p in ssl),
        ),
        pool_ref=pool,
        se_group_ref="serviceenginegroup-1",
        ssl_key_and_certificate_refs=tuple(f"sslkeyandcertificate-{c}" for c in certificates),
        **more,
    )
    return resource("virtualservice", thing)


def certificate(name="1", *names, key=None):
    pem, own_key = issued(*(names or (f"{name}.test",)))
    thing = SSLKeyAndCertificate(
        uuid=f"sslkeyandcertificate-{name}",
        name=name,
        certificate=CertificateText(certificate=pem),
        key=own_key if key is None else key,
    )
    return resource("sslkeyandcertificate", thing)


def pool(name="1", *, servers=("10.0.0.1",), monitors=(), **more):
    found = tuple(s if isinstance(s, Server) else Server(ip=IpAddr(addr=s), port=80) for s in servers)
    thing = Pool(uuid=f"pool-{name}", name=name, servers=found, health_monitor_refs=monitors, **more)
    return resource("pool", thing)


def monitor(name="1", **more):
    defaults = {"http_monitor": HttpMonitor()} | more
    return resource("healthmonitor", HealthMonitor(uuid=f"healthmonitor-{name}", name=name, **defaults))


def dumped(rendered):
    """What Envoy's configuration dump says once it has taken ``rendered``."""
    return ReadBack.of(
        [{"name": x["name"], "active_state": {"listener": x}} for x in rendered.listeners],
        [{"cluster": c} for c in rendered.clusters],
        {f"sds.{s.name}.version_text": s.digest for s in rendered.secrets},
    )


class Rendering(SynchronousTestCase):
    def test_each_address_and_port_becomes_one_listener_that_shares_its_port(self):
        state = state_of(service(vips=("127.0.0.1", "::1"), ports=(80, 81)), pool())
        rendered = render(state)
        found = [
            (x["address"]["socket_address"]["address"], x["address"]["socket_address"]["port_value"])
            for x in rendered.listeners
        ]
        self.assertEqual(found, [("127.0.0.1", 80), ("127.0.0.1", 81), ("::1", 80), ("::1", 81)])
        self.assertTrue(all(x["enable_reuse_port"] for x in rendered.listeners))

    def test_a_pool_that_changes_leaves_the_listeners_alone(self):
        before = render(state_of(service(), pool()))
        after = render(state_of(service(), pool(servers=("10.0.0.2",))))
        self.assertEqual(before.listeners, after.listeners)
        self.assertNotEqual(before.clusters, after.clusters)
        self.assertEqual(before, render(state_of(pool(), service())))

    def test_only_harmless_methods_are_sent_again_after_a_server_had_the_request(self):
        manager = render(state_of(service(), pool())).listeners[0]["filter_chains"][0]["filters"][0]
        routes = manager["typed_config"]["route_config"]["virtual_hosts"][0]["routes"]
        retries = [r["route"]["retry_policy"]["retry_on"].split(",") for r in routes]
        self.assertEqual(["reset" in found for found in retries], [False, True, False])
        self.assertEqual([h["name"] for h in routes[0]["match"]["headers"]], ["upgrade"])
        self.assertEqual([h["name"] for h in routes[1]["match"]["headers"]], [":method"])


def chain_of(rendered, n=0):
    return rendered.listeners[n]["filter_chains"][0]


def manager_of(rendered, n=0):
    return chain_of(rendered, n)["filters"][0]["typed_config"]


def context_of(rendered, n=0):
    return chain_of(rendered, n)["transport_socket"]["typed_config"]["common_tls_context"]


class Tls(SynchronousTestCase):
    def rendered(self, **more):
        more = {"ports": (), "ssl": (443,), "certificates": ("2", "1")} | more
        return render(state_of(service(**more), pool(), certificate("1"), certificate("2")), FOLDER)

    def test_a_port_with_tls_has_all_certificates_in_their_order_by_files(self):
        rendered = self.rendered(ports=(80,))
        self.assertNotIn("transport_socket", chain_of(rendered, 0))
        configs = context_of(rendered, 1)["tls_certificate_sds_secret_configs"]
        self.assertEqual([c["name"] for c in configs], ["sslkeyandcertificate-2", "sslkeyandcertificate-1"])
        path = configs[0]["sds_config"]["path_config_source"]["path"]
        self.assertEqual(path, "/run/x/sslkeyandcertificate-2.json")

    def test_profiles_are_versions_and_protocols_are_offered(self):
        standard = context_of(self.rendered())
        self.assertEqual(standard["tls_params"]["tls_minimum_protocol_version"], "TLSv1_2")
        self.assertEqual(standard["alpn_protocols"], ["h2", "http/1.1"])
        modern = context_of(self.rendered(ssl_profile_ref=SslProfile.MODERN, http2=False))
        self.assertEqual(modern["tls_params"]["tls_minimum_protocol_version"], "TLSv1_3")
        self.assertEqual(modern["alpn_protocols"], ["http/1.1"])

    def test_tcp_may_be_over_tls_and_offers_no_protocol(self):
        rendered = self.rendered(application_profile_ref=ApplicationProfile.TCP)
        self.assertNotIn("alpn_protocols", context_of(rendered))
        self.assertEqual(manager_of(rendered)["cluster"], "pool-1")
        self.assertEqual(manager_of(rendered)["stat_prefix"], "virtualservice-1")

    def test_a_renewed_certificate_touches_neither_listeners_nor_pools(self):
        def rendered():
            shows = pool(
                ssl_profile_ref=SslProfile.STANDARD, ssl_key_and_certificate_ref="sslkeyandcertificate-1"
            )
            return render(
                state_of(service(ports=(), ssl=(443,), certificates=("1",)), shows, certificate("1")), FOLDER
            )

        one, two = rendered(), rendered()
        self.assertEqual((one.listeners, one.clusters), (two.listeners, two.clusters))
        self.assertNotEqual(one.secrets, two.secrets)
        self.assertEqual(dumped(one).in_force.keys(), dumped(two).in_force.keys())

    def test_no_key_is_in_anything_but_the_secrets_and_not_in_their_repr(self):
        rendered = self.rendered()
        self.assertIn("PRIVATE KEY", rendered.secrets[0].key)
        self.assertNotIn("PRIVATE KEY", repr(rendered))


class Routing(SynchronousTestCase):
    def hosts(self, *routes, **more):
        pools = {route.pool_ref for route in routes}
        state = state_of(
            service(routes=routes, **more), pool(), *(pool(p.removeprefix("pool-")) for p in pools)
        )
        return {
            host["domains"][0]: [
                (next(v for k, v in r["match"].items() if k != "headers"), r["route"]["cluster"])
                for r in host["routes"]
                if "headers" not in r["match"]
            ]
            for host in manager_of(render(state))["route_config"]["virtual_hosts"]
        }

    def test_each_host_has_the_routes_that_take_it_in_their_order_and_the_default_pool_last(self):
        found = self.hosts(
            Route(hosts=("A.example.com",), path="/a", pool_ref="pool-2"),
            Route(hosts=("*.example.com",), path="/w/", pool_ref="pool-3"),
            Route(path="/any", path_match=PathMatch.EQUALS, pool_ref="pool-4"),
            Route(hosts=("a.example.com",), path="/[ab]+", path_match=PathMatch.REGEX, pool_ref="pool-5"),
            Route(hosts=("*.x.example.com",), pool_ref="pool-2"),
        )
        wild, default = ("/w/", "pool-3"), ("/", "pool-1")
        self.assertEqual(
            found,
            {
                "a.example.com": [
                    ("/a", "pool-2"),
                    wild,
                    ("/any", "pool-4"),
                    ({"regex": "/[ab]+"}, "pool-5"),
                    default,
                ],
                "*.example.com": [wild, ("/any", "pool-4"), default],
                "*.x.example.com": [wild, ("/any", "pool-4"), ("/", "pool-2"), default],
                "*": [("/any", "pool-4"), default],
            },
        )

    def test_paths_are_compared_as_the_model_says(self):
        def match(**route):
            state = state_of(service(routes=(Route(pool_ref="pool-1", **route),)), pool())
            return manager_of(render(state))["route_config"]["virtual_hosts"][0]["routes"][2]["match"]

        self.assertEqual(match(path="/api"), {"path_separated_prefix": "/api"})
        self.assertEqual(match(path="/api/"), {"prefix": "/api/"})
        self.assertEqual(match(path="/"), {"prefix": "/"})
        self.assertEqual(match(path="/x", path_match=PathMatch.EQUALS), {"path": "/x"})
        self.assertEqual(match(path="/x.*", path_match=PathMatch.REGEX), {"safe_regex": {"regex": "/x.*"}})

    def test_a_websocket_has_no_time_limit(self):
        routes = manager_of(render(state_of(service(), pool(request_timeout_s=5))))["route_config"]
        timeouts = [r["route"]["timeout"] for r in routes["virtual_hosts"][0]["routes"]]
        self.assertEqual(timeouts, ["0s", "5s", "5s"])

    def test_ports_without_tls_redirect_to_the_first_with_it(self):
        def redirects(*ssl):
            tls = service(ssl=ssl, certificates=("1",), http_to_https=True)
            manager = manager_of(render(state_of(tls, pool(), certificate("1")), FOLDER))
            return [r["redirect"] for r in manager["route_config"]["virtual_hosts"][0]["routes"]]

        self.assertEqual(
            redirects(443),
            [{"https_redirect": True}, {"https_redirect": True, "response_code": "PERMANENT_REDIRECT"}],
        )
        self.assertEqual([r["port_redirect"] for r in redirects(8443, 443)], [8443, 8443])


class Refusing(SynchronousTestCase):
    def refused(self, name, *resources):
        with self.assertRaises(RejectedError) as raised:
            render(state_of(*resources))
        self.assertEqual(raised.exception.resource, name)
        return raised.exception.detail

    def test_an_unknown_kind_is_named(self):
        self.refused("wafpolicy/w", Resource("wafpolicy/w", b"\x80"))

    def test_a_body_that_cannot_be_read_is_named(self):
        for body in (b"", b"\xc1", b"\x80", b"\x93\x01\x02\x03"):
            self.refused("pool/pool-1", Resource("pool/pool-1", body))

    def test_a_body_under_another_name_is_refused(self):
        self.refused("pool/pool-2", Resource("pool/pool-2", pool("1").body))

    def test_a_reference_to_what_was_not_sent_is_refused(self):
        self.assertIn("pool/pool-1", self.refused("virtualservice/virtualservice-1", service()))
        self.assertIn(
            "healthmonitor/healthmonitor-1",
            self.refused("pool/pool-1", service(), pool(monitors=("healthmonitor-1",))),
        )

    def test_one_address_and_port_twice_is_refused(self):
        detail = self.refused("virtualservice/virtualservice-2", service("1"), service("2"), pool())
        self.assertIn("virtualservice/virtualservice-1", detail)

    def test_one_address_written_in_two_ways_is_seen_as_one(self):
        one, two = service("1", vips=("::1",)), service("2", vips=("0:0::1",))
        self.refused("virtualservice/virtualservice-2", one, two, pool())

    def test_addresses_and_ports_that_are_none_are_refused(self):
        self.refused("virtualservice/virtualservice-1", service(vips=("10.0.0.256",)), pool())
        self.refused("virtualservice/virtualservice-1", service(ports=(0,)), pool())
        self.refused("pool/pool-1", service(), pool(servers=("10.0.0",)))
        bad_port = Server(ip=IpAddr(addr="10.0.0.1"), port=70000)
        self.refused("pool/pool-1", service(), pool(servers=(bad_port,)))

    def test_a_certificate_that_cannot_be_had_is_named(self):
        name = "sslkeyandcertificate/sslkeyandcertificate-1"
        tls = service(ssl=(443,), certificates=("1",))
        other = certificate("2")
        wrong_key = issued("x.test")[1]
        for state, folder, words in (
            (certificate("1"), None, "tmpfs"),
            (certificate("1", key=wrong_key), FOLDER, "not the one of its certificate"),
            (certificate("1", key="nonsense"), FOLDER, "key cannot be read"),
        ):
            with self.assertRaises(RejectedError) as raised:
                render(state_of(tls, pool(), state, other), folder)
            self.assertEqual(raised.exception.resource, name)
            self.assertIn(words, raised.exception.detail)
        self.assertIn(name, self.refused("virtualservice/virtualservice-1", tls, pool()))
        self.refused("virtualservice/virtualservice-1", service(ssl=(443,)), pool())

    def test_a_monitor_that_makes_no_sense_is_named(self):
        uses = pool(monitors=("healthmonitor-1",))
        for wrong in (
            {"http_monitor": HttpMonitor(http_request="GET")},
            {"http_monitor": HttpMonitor(http_request="FETCH / HTTP/1.1")},
            {"http_monitor": HttpMonitor(http_request="GET up HTTP/1.1")},
            {"http_monitor": HttpMonitor(http_response_code=("HTTP_9XX",))},
            {"http_monitor": HttpMonitor(http_response_code=("ok",))},
        ):
            self.refused("healthmonitor/healthmonitor-1", service(), uses, monitor(**wrong))


class ReadingBack(SynchronousTestCase):
    def both(self, state):
        return dumped(render(state)).in_force, hashes_of(state.values())

    def test_everything_rendered_is_read_back_as_in_force(self):
        found, sent = self.both(
            state_of(
                service("1", vips=("127.0.0.1", "::1")),
                service("2", ports=(81,), pool="pool-2", enabled=False),
                pool("1", monitors=("healthmonitor-1",)),
                pool("2"),
                monitor("1"),
                monitor("2"),
            )
        )
        self.assertEqual(found, sent)

    @given(st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.sets(st.integers(1, 9)), st.booleans())
    def test_any_mix_of_used_and_unused_resources_is_read_back(self, services, pools, monitors, enabled):
        refs = tuple(f"healthmonitor-{m}" for m in sorted(monitors))
        state = state_of(
            *(service(f"{n}", ports=(n,), pool=f"pool-{n}", enabled=enabled) for n in services & pools),
            *(pool(f"{n}", monitors=refs) for n in pools),
            *(monitor(f"{n}") for n in monitors),
        )
        found, sent = self.both(state)
        self.assertEqual(found, sent)

    def test_the_empty_state_is_read_back_as_empty(self):
        self.assertEqual(self.both({}), ({}, {}))

    def test_a_listener_that_is_missing_takes_its_service_out_of_force(self):
        rendered = render(state_of(service(ports=(80, 81)), pool()))
        readback = dumped(rendered)
        partial = ReadBack(readback.listeners[:1], readback.clusters)
        self.assertEqual(set(partial.in_force), {"pool/pool-1"})

    def test_a_listener_whose_cluster_is_gone_is_not_in_force(self):
        readback = dumped(render(state_of(service(), pool())))
        only_carrier = tuple(c for c in readback.clusters if c["name"] == CARRIER)
        self.assertEqual(ReadBack(readback.listeners, only_carrier).in_force, {})

    def test_a_listener_of_nobodys_is_told_and_a_cluster_that_nothing_uses_is_passed_over(self):
        foreign = {"active_state": {"listener": {"name": "x"}}}
        found = ReadBack.of([foreign, {"name": "warming"}], [{"cluster": {"name": "y"}}], {})
        self.assertEqual(found.in_force, {"listener/x": STRANGE})

    def test_a_listener_with_other_content_or_too_many_of_them_are_told(self):
        old, new = (dumped(render(state_of(service(ports=ports), pool()))) for ports in ((80, 81), (80,)))
        self.assertNotIn("virtualservice/virtualservice-1", ReadBack(old.listeners, new.clusters).in_force)
        gone = dumped(render({}))
        self.assertEqual(
            ReadBack(old.listeners, gone.clusters).in_force["virtualservice/virtualservice-1"], STRANGE
        )

    def test_a_certificate_is_in_force_in_the_version_that_envoy_has_taken(self):
        state = state_of(service(ssl=(443,), certificates=("1",)), pool(), certificate("1"), certificate("2"))
        readback = dumped(render(state, FOLDER))
        self.assertEqual(readback.in_force, hashes_of(state.values()))
        for taken in ({}, {"sslkeyandcertificate-1": ""}):
            found = ReadBack(readback.listeners, readback.clusters, taken).in_force
            self.assertEqual(set(state) - set(found), {"sslkeyandcertificate/sslkeyandcertificate-1"})

    def test_a_description_touches_no_listener(self):
        one, two = (render(state_of(service(description=text), pool())) for text in ("a", "b"))
        self.assertEqual(one.listeners, two.listeners)
        self.assertNotEqual(dumped(one).in_force, dumped(two).in_force)


class Remembering(SynchronousTestCase):
    """A rendering that recalls the last one."""

    STATES = (
        state_of(service("1"), pool("1")),
        state_of(service("1"), service("2", ports=(81,), pool="pool-2"), pool("1"), pool("2")),
        state_of(
            service("1"),
            service("2", ports=(81,), pool="pool-2"),
            pool("1"),
            pool("2", servers=("10.0.0.2",)),
        ),
        state_of(service("1"), pool("1", monitors=("healthmonitor-1",)), monitor("1")),
        state_of(service("1"), pool("1", monitors=("healthmonitor-1",)), monitor("1", send_interval=7)),
        state_of(service("1"), pool("1", request_timeout_s=5)),
        state_of(service("1", ssl=(444,), certificates=("1",)), pool("1"), certificate("1")),
        state_of(service("1", ssl=(444,), certificates=("1",)), pool("1"), certificate("1", "new.test")),
        state_of(
            service("1", ssl=(444,), certificates=("1", "2")), pool("1"), certificate("1"), certificate("2")
        ),
        state_of(
            service("1"), pool("1", ssl_key_and_certificate_ref="sslkeyandcertificate-1"), certificate("1")
        ),
        {},
    )

    def test_it_comes_to_the_same_as_one_that_recalls_nothing(self):
        for before in self.STATES:
            for after in self.STATES:
                memory = Memory()
                render(before, FOLDER, None, memory)
                self.assertEqual(render(after, FOLDER, None, memory), render(after, FOLDER))

    def test_where_files_are_counts(self):
        state, memory = self.STATES[6], Memory()
        for folder, logs in (
            (FOLDER, None),
            (Path("/run/y"), None),
            (Path("/run/y"), LogFiles(Path("/logs"))),
        ):
            self.assertEqual(render(state, folder, logs, memory), render(state, folder, logs))

    def test_what_is_made_of_the_same_is_the_same_object(self):
        memory = Memory()
        before, after = (render(state, FOLDER, None, memory) for state in self.STATES[1:3])
        self.assertIs(before.listeners[0], after.listeners[0])
        self.assertIs(before.clusters[0], after.clusters[0])
        self.assertNotEqual(before.clusters[1], after.clusters[1])

    def test_what_is_refused_is_forgotten_and_what_was_whole_is_not(self):
        memory = Memory()
        before = render(self.STATES[0], FOLDER, None, memory)
        with self.assertRaises(RejectedError):
            render(state_of(service("1"), service("2", pool="pool-9"), pool("1")), FOLDER, None, memory)
        self.assertIs(render(self.STATES[0], FOLDER, None, memory).clusters[0], before.clusters[0])
