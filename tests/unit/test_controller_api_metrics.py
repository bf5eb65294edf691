"""What a Prometheus server reads of a controller."""

from types import SimpleNamespace

from prometheus_client.openmetrics.parser import text_string_to_metric_families as open_families
from prometheus_client.parser import text_string_to_metric_families
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller import api_metrics
from avinet.controller.api_metrics import metrics_route
from avinet.controller.api_status import ReactorHealth, StrangerCounts, Whole
from avinet.model.engine import SeState
from avinet.rest.access import Role
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from tests.unit.config_kit import World, pool, service
from tests.unit.rest_client import Connection, Known, request_bytes


class Metrics(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.world.start_sync()
        self.addCleanup(self.world.sync.stop)
        self.machines = [self.world.engine(str(n)) for n in range(3)]
        self.events = {"SE_UP": 3}
        self.rtts = [0.001, 0.002, 0.07]
        engines = SimpleNamespace(
            all=lambda: tuple(self.world.all()),
            find=self.world.find,
            state=lambda se, attached: SeState.UP if attached else SeState.DOWN,
        )
        whole = Whole(
            cluster="c",
            name='one"two',
            software="1",
            started_at=0.0,
            membership=lambda: 1,
            engines=engines,
            sessions=SimpleNamespace(all=self.sessions, get=self.session),
            is_up=lambda se: se != "se-2",
            config=self.world.config,
            sync=self.world.sync,
            not_ready=lambda: "",
            reactor=lambda: ReactorHealth(over_50_ms=4, longest_minute_ms=120.0),
            logins=lambda: StrangerCounts(in_progress=1, turned_away=2, logged_in=30, refused=5),
        )
        self.whole = whole

    def sessions(self):
        return tuple(SimpleNamespace(rtt=SimpleNamespace(smoothed=rtt)) for rtt in self.rtts)

    def session(self, se):
        return self.sessions()[int(se.removeprefix("se-"))]

    def answer(self, accept=None):
        router = Router(
            [metrics_route(self.whole, lambda: self.events)], self.world.clock, Known("r", Role.READ_ONLY)
        )
        connection = Connection(BoundedSite(router, self.world.clock))
        connection.send(request_bytes("GET", "/metrics", headers={"Accept": accept} if accept else None))
        return connection.answer()

    def values(self):
        answer = self.answer()
        self.assertEqual(answer.status, 200)
        self.assertIn("text/plain; version=", answer.headers["content-type"])
        found = {}
        for family in text_string_to_metric_families(answer.body.decode()):
            for sample in family.samples:
                found[sample.name, *sample.labels.values()] = sample.value
        return found

    def test_versions_acks_stragglers_and_pushes(self):
        self.world.apply(pool(), service())
        for machine in self.machines[:2]:
            self.world.clock.advance(0.2)
            machine.apply()
        self.machines[2].refuse()
        self.world.clock.advance(10)
        found = self.values()
        self.assertEqual(found["avinet_config_version",], 2)
        self.assertEqual(found["avinet_config_objects", "virtualservice"], 1)
        self.assertEqual(found["avinet_config_objects", "sslkeyandcertificate"], 0)
        self.assertEqual(found["avinet_config_stragglers",], 1)
        self.assertAlmostEqual(found["avinet_config_straggler_oldest_seconds",], 10.4, places=5)
        for bound, count in (("0.1", 0), ("0.25", 1), ("0.5", 2), ("+Inf", 2)):
            self.assertEqual(found["avinet_config_commit_to_ack_seconds_bucket", bound], count, bound)
        self.assertAlmostEqual(found["avinet_config_commit_to_ack_seconds_sum",], 0.6, places=5)
        self.assertEqual(found["avinet_config_commit_to_ack_seconds_count",], 2)
        self.assertEqual(found["avinet_config_acks_total",], 2)
        self.assertEqual(found["avinet_config_nacks_total",], 1)
        self.assertEqual(found["avinet_config_pushes_total",], 3 + found["avinet_config_resends_total",])
        sent = sum(len(put.body) for machine in self.machines for push in machine.pushes for put in push.puts)
        self.assertEqual(found["avinet_config_pushed_bytes_total",], sent)

    def test_the_fleet_is_counted_and_its_round_trips_are_quantiles(self):
        found = self.values()
        self.assertEqual(found["avinet_service_engines", "UP"], 2)
        self.assertEqual(found["avinet_service_engines", "DOWN"], 1)
        self.assertEqual(found["avinet_service_engines", "QUARANTINED"], 0)
        self.assertEqual(found["avinet_service_engines_in_sync",], 3)
        self.assertEqual(found["avinet_sessions",], 3)
        self.assertEqual(found["avinet_heartbeat_rtt_seconds", "0.5"], 0.002)
        self.assertEqual(found["avinet_heartbeat_rtt_seconds", "0.99"], 0.07)
        self.assertEqual(found["avinet_service_engine_up", "2"], 0)
        self.assertEqual(found["avinet_service_engine_rtt_seconds", "0"], 0.001)

    def test_a_large_fleet_has_no_series_of_each(self):
        self.patch(api_metrics, "MAX_ENGINE_SERIES", 2)
        found = self.values()
        self.assertFalse([name for name in found if name[0].startswith("avinet_service_engine_")])
        self.assertEqual(found["avinet_service_engines", "UP"], 2)

    def test_the_process_its_logins_and_its_events(self):
        found = self.values()
        self.assertEqual(found["avinet_reactor_blocks_total",], 4)
        self.assertEqual(found["avinet_reactor_longest_block_seconds", "1m"], 0.12)
        self.assertEqual(found["avinet_ssh_logins_total",], 30)
        self.assertEqual(found["avinet_ssh_logins_refused_total",], 5)
        self.assertEqual(found["avinet_ssh_turned_away_total",], 2)
        self.assertEqual(found["avinet_events_total", "SE_UP"], 3)
        self.assertGreater(found["process_resident_memory_bytes",], 1_000_000)
        self.assertGreater(found["process_cpu_seconds_total",], 0)
        self.assertEqual(found["avinet_info", "c", 'one"two', "1"], 1)

    def test_without_engines_or_events_it_is_still_whole(self):
        self.world.engines.clear()
        self.rtts, self.events = [], {}
        found = self.values()
        self.assertEqual(found["avinet_sessions",], 0)
        self.assertNotIn(("avinet_heartbeat_rtt_seconds", "0.5"), found)

    def test_openmetrics_for_who_asks_for_it(self):
        answer = self.answer("application/openmetrics-text; version=1.0.0")
        self.assertIn("application/openmetrics-text", answer.headers["content-type"])
        names = {family.name for family in open_families(answer.body.decode())}
        self.assertIn("avinet_config_commit_to_ack_seconds", names)
