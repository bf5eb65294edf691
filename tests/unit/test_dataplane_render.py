"""From resources to Envoy's clusters and listeners: what is rendered, what is refused, and by which name."""

import msgspec
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_readback import ReadBack
from avinet.dataplane.envoy_render import CARRIER, render
from avinet.dataplane.interface import RejectedError
from avinet.model.config import (
    HealthMonitor,
    HttpMonitor,
    IpAddr,
    Pool,
    Server,
    Service,
    Vip,
    VirtualService,
)
from avinet.model.resources import Resource, hashes_of


def resource(kind, thing):
    return Resource(f"{kind}/{thing.uuid}", msgspec.msgpack.encode(thing))


def state_of(*resources):
    return {r.name: r for r in resources}


def service(name="1", *, vips=("127.0.0.1",), ports=(8080,), pool="pool-1", enabled=True):
    thing = VirtualService(
        uuid=f"virtualservice-{name}",
        name=name,
        enabled=enabled,
        vip=tuple(Vip(ip_address=IpAddr(addr=a)) for a in vips),
        services=tuple(Service(port=p) for p in ports),
        pool_ref=pool,
        se_group_ref="serviceenginegroup-1",
    )
    return resource("virtualservice", thing)


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
        self.assertIn("headers", routes[0]["match"])
        self.assertIn("reset", retries[0])
        self.assertNotIn("reset", retries[1])


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

    def test_what_others_configured_is_passed_over(self):
        foreign = {"active_state": {"listener": {"name": "x"}}}
        self.assertEqual(
            ReadBack.of([foreign, {"name": "warming"}], [{"cluster": {"name": "y"}}]).in_force, {}
        )
