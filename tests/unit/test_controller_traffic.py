"""What the controller makes of its service engines' reports: sums, series, health, events; and what it does not believe."""

import random

from prometheus_client import CollectorRegistry, generate_latest
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.traffic_health import REST_S, Teller
from avinet.controller.traffic_intake import MAX_PER_S, EngineTraffic
from avinet.controller.traffic_metrics import TrafficCollector
from avinet.controller.traffic_series import Cell, Change, Series
from avinet.controller.traffic_watches import MAX_WATCHED, WATCH_S
from avinet.dataplane.interface import Failure
from avinet.model.counters import SERVICE_COUNTERS
from avinet.wire.messages import HealthRow, Name, Report, ServerHealth, ServiceStats, Traffic, TrafficRow
from tests.unit.config_kit import pool, run, service
from tests.unit.traffic_kit import REPORT_S, PoolCounters, Traffics

A, B = "10.0.0.1:8080", "10.0.0.1:8081"


class Case(SynchronousTestCase):
    def fleet(self, *engines, documents=None):
        found = Traffics(*(documents or (pool("web", 8080, 8081), service("www"))), engines=engines or ("1",))
        self.addCleanup(found.traffic.stop)
        return found

    def requests(self, fleet):
        totals = fleet.figures().totals
        return totals["requests"], totals["responses_2xx"], totals["responses_5xx"]


class Repeated(SynchronousTestCase):
    def test_a_report_tells_of_each_thing_once(self):
        engine = EngineTraffic()
        names = (Name(1, "pool/a"), Name(2, "10.0.0.1:80", 1), Name(3, "pool/a"))
        rows = tuple(TrafficRow(number, 1, (step,)) for step in range(1, 50) for number in (1, 3))
        health = tuple(HealthRow(2, state, 1.0) for state in ("UP", "DOWN") * 25)
        taken = engine.take(Traffic(names=names, rows=rows, health=health), 100.0, lambda subject: True)
        self.assertEqual(len(taken.happened), 1)
        self.assertEqual(taken.refused, {"the same thing told twice": 97 + 49})
        self.assertEqual(engine.health["a"]["10.0.0.1:80"].state, "UP")
        again = engine.take(Traffic(rows=rows[98 - 2 :], health=health[:1]), 101.0, lambda subject: True)
        self.assertEqual((len(again.happened), again.refused), (1, {"the same thing told twice": 1}))


class Sums(Case):
    def test_figures_add_up_over_engines(self):
        fleet = self.fleet("1", "2")
        fleet.engines["1"].served("www", ok=10, errors=1)
        fleet.engines["2"].served("www", ok=5)
        fleet.engines["2"].open("www", 3)
        fleet.pass_time(REPORT_S)
        self.assertEqual(self.requests(fleet), (16, 15, 1))
        found = fleet.figures()
        self.assertEqual(found.connections, 3)
        self.assertEqual([one.counts["requests"] for one in found.service_engines], [11, 5])

    def test_a_data_plane_that_starts_anew_loses_nothing(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        engine.served("www", ok=10)
        fleet.pass_time(REPORT_S)
        engine.restart()
        engine.served("www", ok=10)  # as many as before: only the start tells
        fleet.pass_time(REPORT_S)
        self.assertEqual(self.requests(fleet)[0], 20)

    def test_a_count_that_falls_began_anew(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        engine.served("www", ok=10)
        fleet.pass_time(REPORT_S)
        engine.services.clear()
        engine.served("www", ok=4)
        fleet.pass_time(REPORT_S)
        self.assertEqual(self.requests(fleet)[0], 14)

    def test_a_lost_session_loses_and_doubles_nothing(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        engine.served("www", ok=10)
        fleet.pass_time(REPORT_S)
        engine.lose()
        engine.served("www", ok=7)
        fleet.pass_time(30)
        engine.attach()
        fleet.pass_time(REPORT_S)
        self.assertEqual(self.requests(fleet)[0], 17)

    def test_what_was_counted_before_anybody_knew_of_the_engine_is_in_all_but_at_no_time(self):
        fleet = self.fleet(documents=(pool(), service("www")))
        late = self.fleet("1", documents=(pool(), service("www")))
        del fleet
        engine = late.engines["1"]
        late.traffic.engines.clear()  # as a controller that has just started
        engine.served("www", ok=1_000)
        engine.attach()
        late.pass_time(1)
        found = late.figures()
        self.assertEqual(found.totals["requests"], 1_000)
        self.assertEqual(sum(found.series["requests"]), 0)

    def test_an_old_engines_report_counts_too_and_twice_is_once(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        engine.lose()
        engine.attach(capabilities=())
        uuid, web = fleet.uuid("virtualservice", "www"), fleet.uuid("pool", "web")
        report = Report(
            data_plane_started_at=9.0,
            health=(ServerHealth(pool=f"pool/{web}", server=A, up=False, reason="no answer"),),
            services=(ServiceStats(service=f"virtualservice/{uuid}", requests=8, errors_5xx=2),),
        )
        engine.feed.next_all = 1e12
        for _ in range(2):
            engine.say(report)
            fleet.clock.advance(1.0)
        self.assertEqual(self.requests(fleet), (8, 0, 2))
        (first, _) = fleet.traffic.verdicts.servers(fleet.world.config.find("pool", "web").thing)
        self.assertEqual((first.state, first.verdict.reason), ("DOWN", "no answer"))
        self.assertEqual(fleet.clock.seconds() - first.verdict.since, 2.0)

    def test_pools_and_servers_are_counted_as_well(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        uuid = fleet.uuid("pool", "web")
        engine.pools[uuid] = PoolCounters(f"pool/{uuid}", requests=4, retries=1, no_server=2)
        engine.sees("web", A, requests=4, errors=1, connections=2)
        fleet.pass_time(REPORT_S)
        totals = fleet.figures("pool", "web").totals
        self.assertEqual((totals["requests"], totals["retries"], totals["no_server"]), (4, 1, 2))


class OverTime(Case):
    def test_every_request_is_in_exactly_one_point_whenever_reports_come(self):
        draw = random.Random(3)
        series, total, at = Series(60.0, 60), 0, 1_000_000.0
        for _ in range(200):
            begun, at = at, at + draw.choice((3.0, 59.9, 60.1, 200.0))
            if at > 1_000_000.0 + 3_000:
                break
            count = draw.randrange(1_000)
            total += count
            series.add(Change(begun, at, (count, 3 * count), 5, {7: count}))
        cells = [cell for _, cell in series.between(1_000_000.0, at, 60.0)]
        self.assertEqual(sum(cell.counts[0] for cell in cells if cell.counts), total)
        self.assertEqual(sum(cell.counts[1] for cell in cells if cell.counts), 3 * total)
        self.assertEqual(sum(sum(cell.latency[1::2]) for cell in cells), total)

    def test_a_change_is_spread_over_its_time(self):
        series = Series(60.0, 60)
        series.add(Change(30.0, 150.0, (100,)))
        self.assertEqual([c.counts for _, c in series.between(0.0, 150.0, 60.0)], [(25,), (50,), (25,)])

    def test_memory_is_bounded_and_what_is_too_old_goes(self):
        series = Series(5.0, 720)
        for at in range(0, 20_000, 5):
            series.add(Change(at, at + 4.0, (1,)))
        self.assertEqual(len(series), 720)
        series.add(Change(0.0, 1e9, (10**6,)))
        self.assertLessEqual(len(series), 720)
        series.trim(2e9)
        self.assertEqual(len(series), 0)

    def test_connections_stay_as_they_were_where_nothing_was_told(self):
        series = Series(60.0, 60)
        series.add(Change(0.0, 1.0, (1,), 7))
        self.assertEqual([c.connections for _, c in series.between(0.0, 179.0, 60.0)], [7, 7, 7])

    def test_points_of_longer_steps_add_up_and_merge_latency(self):
        series = Series(5.0, 720)
        for n in range(12):
            series.add(Change(n * 5.0, n * 5.0 + 1, (1,), n, {n: 1}))
        (cell,) = [c for _, c in series.between(0.0, 59.0, 60.0)]
        self.assertEqual(cell, Cell((12,), 11, tuple(x for n in range(12) for x in (n, 1))))

    def test_percentiles_of_two_engines_are_those_of_all_their_requests(self):
        fleet = self.fleet("1", "2")
        fleet.engines["1"].served("www", ok=98, ms=10.0)
        fleet.engines["2"].served("www", ok=2, ms=1000.0)
        fleet.pass_time(REPORT_S)
        latency = fleet.figures().latency_ms
        self.assertLess(abs(latency.p50 - 10.5) / 10.5, 0.1)
        self.assertLess(abs(latency.p99 - 1050) / 1050, 0.1)  # an average of both would be 535

    def test_the_rate_of_now_is_that_of_the_last_minute_that_all_have_told(self):
        fleet = self.fleet("1", "2")
        for _ in range(240):
            for engine in fleet.engines.values():
                engine.served("www", ok=3)
            fleet.pass_time(1)
        self.assertApproximates(
            fleet.reader.rates(fleet.subject("virtualservice", "www")).requests_per_s, 6, 0.2
        )

    def test_watched_it_is_seen_within_seconds(self):
        fleet = self.fleet()
        fleet.figures()
        for _ in range(60):
            fleet.engines["1"].served("www", ok=5, errors=5)
            fleet.pass_time(1)
        found = fleet.figures(since_s=60, step_s=5)
        self.assertApproximates(found.now.requests_per_s, 10, 0.5)
        self.assertApproximates(found.now.share_5xx, 0.5, 0.05)
        self.assertLess(found.at - found.now.begun_at, 30)
        self.assertGreater(sum(found.series["requests"]), 450)


class WhatIsNotBelieved(Case):
    def claim(self, fleet, *rows, names=None, **more):
        uuid = fleet.uuid("virtualservice", "www")
        names = names if names is not None else (Name(1, f"virtualservice/{uuid}"),)
        engine = fleet.engines["1"]
        engine.say(Traffic(scope="all", started_at=1.0, names=names, rows=rows, **more))

    def test_claims_of_what_is_placed_elsewhere_are_ignored_and_told(self):
        documents = (pool(), service("www"), service("other", 81, se_group_ref="B"))
        group = {"kind": "ServiceEngineGroup", "name": "B"}
        fleet = self.fleet(documents=(group, *documents))
        fleet.pass_time(1)
        uuid = fleet.uuid("virtualservice", "other")
        self.claim(fleet, TrafficRow(1, 5, (10,)), names=(Name(1, f"virtualservice/{uuid}"),))
        self.assertEqual(fleet.figures(name="other").totals["requests"], 0)
        self.assertIn("not placed on it", fleet.told("SE_REPORT_REFUSED")[0])

    def test_what_was_claimed_too_early_is_asked_for_again(self):
        fleet = self.fleet(documents=(pool(), service("www", enabled=False)))
        engine = fleet.engines["1"]
        engine.served("www", ok=3)
        engine.open("www", 2)
        fleet.pass_time(REPORT_S)
        self.assertEqual(self.requests(fleet)[0], 0)
        fleet.world.apply(service("www", enabled=True))
        fleet.pass_time(3)
        self.assertTrue(any(watch.anew for watch in engine.told))
        self.assertEqual(self.requests(fleet)[0], 3)

    def test_numbers_that_cannot_be_are_ignored_row_by_row(self):
        fleet = self.fleet()
        fleet.pass_time(2)
        for row in (
            TrafficRow(1, -1, (10,)),
            TrafficRow(1, 1, (-10,)),
            TrafficRow(1, 1, (2**60,)),
            TrafficRow(1, 1, (10,), (500, 3)),
            TrafficRow(1, 1, (10,), (3, -3)),
            TrafficRow(1, 1, (MAX_PER_S * 1_000,)),
            TrafficRow(77, 1, (10,)),
        ):
            self.claim(fleet, row)
            self.assertEqual(self.requests(fleet)[0], 0, row)
        self.claim(fleet, TrafficRow(1, 1, (10,)))
        self.assertEqual(self.requests(fleet)[0], 10)
        self.assertEqual(fleet.traffic.refused, 6)

    def test_starts_and_times_that_cannot_be_are_ignored(self):
        fleet = self.fleet()
        engine, web = fleet.engines["1"], fleet.uuid("pool", "web")
        for odd in (float("nan"), float("inf"), -1.0, 1e30):
            engine.say(Traffic(scope="whole", started_at=odd))
        names = (Name(1, f"pool/{web}"), Name(2, A, 1))
        for odd in (float("nan"), float("inf"), -5.0, 1e30):
            health = (HealthRow(2, "DOWN", odd),)
            engine.say(Traffic(scope="whole", started_at=1.0, names=names, health=health))
        self.assertEqual(fleet.traffic.engines["se-1"].health, {})
        self.assertEqual(fleet.traffic.refused, 8)

    def test_servers_that_the_pool_has_not_are_no_servers(self):
        fleet = self.fleet()
        web = fleet.uuid("pool", "web")
        names = (Name(1, f"pool/{web}"), *(Name(n, f"10.9.9.9:{n}", 1) for n in range(2, 1_000)))
        health = tuple(HealthRow(n, "DOWN", 1.0, "TIMEOUT", "x" * 500) for n in range(2, 1_000))
        fleet.engines["1"].say(Traffic(scope="whole", started_at=1.0, names=names, health=health))
        self.assertEqual(fleet.traffic.engines["se-1"].health, {})

    def test_a_reason_is_cut_and_stays_data(self):
        fleet = self.fleet()
        reason = "\x1b[2J<script>" + "x" * 10_000
        fleet.engines["1"].sees("web", A, "DOWN", "short")
        fleet.pass_time(1)
        web = fleet.uuid("pool", "web")
        fleet.engines["1"].say(
            Traffic(
                scope="whole",
                started_at=1.0,
                names=(Name(1, f"pool/{web}"), Name(2, A, 1)),
                health=(HealthRow(2, "DOWN" * 99, 1.0, "TIMEOUT" * 99, reason),),
            )
        )
        view = fleet.traffic.engines["se-1"].health[web][A]
        self.assertLess(len(view.state + view.failure + view.reason), 300)


class Healths(Case):
    def seen(self, fleet, states, reason="nothing listens"):
        """Engine's name to the states of A and B."""
        for name, (a, b) in states.items():
            for server, state in ((A, a), (B, b)):
                fleet.engines[name].sees("web", server, state, "" if state == "UP" else reason)
        fleet.pass_time(3)

    def test_all_up(self):
        fleet = self.fleet("1", "2")
        self.assertEqual(fleet.health()[0], "UNKNOWN")
        self.seen(fleet, {"1": ("UP", "UP"), "2": ("UP", "UP")})
        self.assertEqual((fleet.health(), fleet.health("pool", "web")), (("UP", ""), ("UP", "")))
        self.assertEqual(fleet.events, [])

    def test_one_engine_that_cannot_reach_a_server_is_named(self):
        fleet = self.fleet("1", "2")
        self.seen(fleet, {"1": ("UP", "UP"), "2": ("DOWN", "UP")})
        (first, second) = fleet.traffic.verdicts.servers(fleet.world.config.find("pool", "web").thing)
        self.assertEqual((first.verdict.health, second.verdict.health), ("PARTLY", "UP"))
        self.assertEqual(
            fleet.told("SERVER_DOWN"), [f"Server {A} of pool web is down on 2: nothing listens."]
        )
        self.assertEqual(fleet.health(), ("UP", ""))

    def test_reasons_that_differ_only_by_their_ports_are_one_reason(self):
        fleet = self.fleet("1", documents=(pool("web", 8080, 8081, 8082), service("www")))
        engine = fleet.engines["1"]

        def why(*reasons):
            for port, reason in zip((8080, 8081, 8082), reasons, strict=True):
                engine.sees("web", f"10.0.0.1:{port}", "DOWN", reason)
            fleet.pass_time(2)
            return fleet.health("pool", "web")[1].partition("is up: ")[2]

        closed = [f"nothing listens on port {port}" for port in (8080, 8081, 8082)]
        self.assertEqual(why(*closed), "nothing listens on ports 8080, 8081 and 8082")
        self.assertEqual(why(*closed[:1] * 3), "nothing listens on port 8080")
        late = "no answer within 1 s"
        self.assertEqual(why(late, *closed[1:]), f"{late}; nothing listens on ports 8081 and 8082")
        self.assertEqual(why(late, closed[1], "odd"), f"{late}; nothing listens on port 8081 and others")

    def test_servers_that_go_together_are_one_event_and_the_pool_and_its_service_others(self):
        fleet = self.fleet("1", "2")
        both = ("DOWN", "DOWN")
        self.seen(fleet, {"1": both, "2": both})
        (told,) = fleet.told("SERVER_DOWN")
        self.assertTrue(told.startswith("2 servers of pool web are down: "), told)
        why = "none of its 2 servers is up: nothing listens"
        self.assertEqual(fleet.told("POOL_DOWN"), [f"Pool web is down: {why}."])
        self.assertEqual(fleet.told("VS_DOWN"), [f"Virtual service www is down: pool web: {why}."])
        fleet.pass_time(REST_S)
        self.seen(fleet, {"1": ("UP", "DOWN"), "2": ("UP", "DOWN")})
        self.assertEqual(fleet.told("SERVER_UP"), [f"Server {A} of pool web is up again."])
        self.assertEqual((len(fleet.told("POOL_UP")), len(fleet.told("VS_UP"))), (1, 1))
        self.assertEqual(len(fleet.events), 6)

    def test_a_server_keeps_the_reason_of_its_last_failure_when_it_is_up_again(self):
        fleet = self.fleet()
        self.seen(fleet, {"1": ("DOWN", "UP")})
        begun = fleet.clock.seconds() - 3
        fleet.pass_time(10)
        self.seen(fleet, {"1": ("UP", "UP")})
        (first, _) = fleet.traffic.verdicts.servers(fleet.world.config.find("pool", "web").thing)
        self.assertEqual(
            (first.state, first.trouble.reason, first.trouble.failure), ("UP", "nothing listens", "REFUSED")
        )
        self.assertEqual((first.trouble.since, first.trouble.until), (begun, begun + 13))

    def test_what_flaps_is_told_twice_a_minute_and_as_it_is_at_the_end(self):
        fleet = self.fleet()
        for _ in range(30):
            self.seen(fleet, {"1": ("DOWN", "UP")})
            self.seen(fleet, {"1": ("UP", "UP")})
        fleet.pass_time(REST_S)
        told = fleet.told("SERVER_DOWN") + fleet.told("SERVER_UP")
        self.assertLessEqual(len(told), 2 + 180 / REST_S)
        self.assertEqual(len(fleet.told("SERVER_DOWN")), len(fleet.told("SERVER_UP")))

    def test_a_server_that_an_operator_disables_is_no_event(self):
        fleet = self.fleet()
        self.seen(fleet, {"1": ("UP", "UP")})
        servers = [{"ip": "10.0.0.1", "port": 8080, "enabled": False}, {"ip": "10.0.0.1", "port": 8081}]
        fleet.world.apply(pool("web", servers=servers))
        self.seen(fleet, {"1": ("DRAINING", "UP")})
        (first, _) = fleet.traffic.verdicts.servers(fleet.world.config.find("pool", "web").thing)
        self.assertEqual((first.state, fleet.events), ("DRAINING", []))
        fleet.engines["1"].servers.pop((f"pool/{fleet.uuid('pool', 'web')}", A))
        fleet.pass_time(REPORT_S)
        (first, _) = fleet.traffic.verdicts.servers(fleet.world.config.find("pool", "web").thing)
        self.assertEqual((first.state, fleet.events), ("DISABLED", []))

    def test_a_server_that_an_operator_enables_again_is_not_down_while_engines_still_drain_it(self):
        fleet = self.fleet("1", "2")
        self.seen(fleet, {"1": ("DRAINING", "DOWN"), "2": ("DRAINING", "DOWN")})
        pool = fleet.world.config.find("pool", "web").thing
        (first, _) = fleet.traffic.verdicts.servers(pool)
        self.assertEqual((first.state, first.verdict.health), ("DRAINING", "UNKNOWN"))
        (told,) = fleet.told("SERVER_DOWN")
        self.assertNotIn(A, told)
        self.assertEqual((fleet.health()[0], fleet.told("POOL_DOWN")), ("UNKNOWN", []))
        self.seen(fleet, {"1": ("UP", "DOWN"), "2": ("DRAINING", "DOWN")})
        (first, _) = fleet.traffic.verdicts.servers(pool)
        self.assertEqual((first.state, first.verdict.health, first.trouble), ("UP", "UP", None))
        fleet.pass_time(REST_S)
        self.seen(fleet, {"1": ("UP", "DOWN"), "2": ("DOWN", "DOWN")})
        self.assertIn(A, fleet.told("SERVER_DOWN")[-1])

    def test_a_pool_not_yet_checked_is_not_down(self):
        fleet = self.fleet()
        for server in (A, B):
            fleet.engines["1"].sees("web", server, "DOWN", "not checked yet", failure=Failure.UNCHECKED)
        fleet.pass_time(5)
        self.assertEqual((fleet.health()[0], fleet.events), ("UNKNOWN", []))

    def test_a_service_whose_engines_are_all_gone_is_down_and_comes_back_with_one(self):
        fleet = self.fleet("1", "2")
        self.seen(fleet, {"1": ("UP", "UP"), "2": ("UP", "UP")})
        fleet.engines["1"].lose(down=True)
        fleet.pass_time(3)
        self.assertEqual(fleet.health(), ("PARTLY", "on 1: service engine 1 is not connected"))
        self.assertEqual(fleet.events, [])
        fleet.engines["2"].lose(down=True)
        fleet.pass_time(3)
        self.assertEqual(len(fleet.told("VS_DOWN")), 1)
        fleet.pass_time(REST_S)
        fleet.engines["2"].attach()
        fleet.pass_time(3)
        self.assertEqual(len(fleet.told("VS_UP")), 1)

    def test_a_data_plane_that_does_not_answer_takes_its_services_down(self):
        fleet = self.fleet()
        self.seen(fleet, {"1": ("UP", "UP")})
        fleet.engines["1"].data_plane_up = False
        fleet.pass_time(3)
        self.assertEqual(fleet.health(), ("DOWN", "its data plane does not answer"))

    def test_a_service_that_nobody_serves_is_down_and_one_that_is_disabled_is_not(self):
        fleet = self.fleet(documents=(pool(), service("www"), service("off", 81, enabled=False)))
        fleet.world.engines.clear()
        fleet.world.sync.engines_changed()
        fleet.pass_time(3)
        self.assertEqual(fleet.told("VS_DOWN"), ["Virtual service www is down: no service engine serves it."])
        self.assertEqual(fleet.health(name="off"), ("DISABLED", "it is disabled"))

    def test_many_that_go_at_once_are_one_event(self):
        documents = [pool()] + [service(f"s{n}", 100 + n) for n in range(50)]
        fleet = self.fleet(documents=documents)
        fleet.engines["1"].sees("web", A)
        fleet.pass_time(3)
        fleet.engines["1"].lose(down=True)
        fleet.pass_time(3)
        (told,) = fleet.told("VS_DOWN")
        self.assertTrue(
            told.startswith("50 virtual services are down: service engine 1 is not connected"), told
        )

    def test_the_teller_tells_what_lasts(self):
        teller = Teller()
        self.assertIsNone(teller.look("x", 0.0, down=True))
        self.assertIsNone(teller.look("x", 0.5, down=False))
        self.assertIsNone(teller.look("x", 1.2, down=True))
        self.assertTrue(teller.look("x", 2.3, down=True))
        self.assertIsNone(teller.look("x", 9.0, down=False))
        self.assertIs(teller.look("x", 2.3 + REST_S, down=False), False)


class WatchingAndForgetting(Case):
    def test_a_look_opens_a_watch_that_ends_after_the_last(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        until = fleet.figures().watched_until
        self.assertApproximates(until, fleet.clock.seconds() + WATCH_S, 0.01)
        fleet.pass_time(2)
        self.assertEqual(
            [w.names for w in engine.told], [(f"virtualservice/{fleet.uuid('virtualservice', 'www')}",)]
        )
        fleet.pass_time(WATCH_S)
        self.assertEqual([len(w.names) for w in engine.told], [1, 0])

    def test_a_new_session_is_told_of_the_watch_again(self):
        fleet = self.fleet()
        fleet.figures()
        fleet.pass_time(2)
        fleet.engines["1"].attach()
        fleet.pass_time(2)
        self.assertEqual([len(w.names) for w in fleet.engines["1"].told], [1])

    def test_watches_are_bounded(self):
        documents = [pool()] + [service(f"s{n}", 1000 + n) for n in range(MAX_WATCHED + 20)]
        fleet = self.fleet(documents=documents)
        for n in range(MAX_WATCHED + 20):
            fleet.traffic.look(fleet.subject("virtualservice", f"s{n}"))
        fleet.pass_time(2)
        self.assertEqual(len(fleet.engines["1"].told[-1].names), MAX_WATCHED)

    def test_what_is_deleted_is_forgotten(self):
        fleet = self.fleet()
        engine = fleet.engines["1"]
        engine.served("www", ok=10)
        engine.sees("web", A, requests=2)
        fleet.pass_time(REPORT_S)
        fleet.figures()
        self.assertEqual(len(fleet.traffic.tallies), 2)
        uuids = [fleet.uuid("virtualservice", "www"), fleet.uuid("pool", "web")]
        for kind, uuid in zip(("virtualservice", "pool"), uuids, strict=True):
            stored = fleet.world.config.find(kind, uuid)
            run(fleet.world.config.delete(kind, uuid, "tester", str(stored.modified_us)))
        fleet.world.engines.clear()
        fleet.world.sync.engines_changed()
        engine.lose(down=True)
        fleet.pass_time(61)
        traffic = fleet.traffic
        self.assertEqual((traffic.tallies, traffic.engines, traffic._gone, traffic._fine), ({}, {}, {}, {}))
        self.assertEqual(traffic.watches._until, {})

    def test_samples_are_totals_with_names(self):
        fleet = self.fleet()
        fleet.engines["1"].served("www", ok=10)
        fleet.pass_time(REPORT_S)
        ((thing, verdict, connections, counts),) = fleet.traffic.samples(10)
        self.assertEqual(
            (thing.name, verdict.health, connections, counts["responses_2xx"]), ("www", "UNKNOWN", 0, 10)
        )
        self.assertEqual(tuple(counts), SERVICE_COUNTERS)
        self.assertEqual(list(fleet.traffic.samples(0)), [])

    def test_metrics_are_per_service_by_name(self):
        fleet = self.fleet()
        fleet.engines["1"].served("www", ok=10, errors=2)
        fleet.engines["1"].sees("web", A)
        fleet.pass_time(REPORT_S)
        registry = CollectorRegistry()
        registry.register(TrafficCollector(fleet.traffic))
        text = generate_latest(registry).decode()
        for line in (
            'avinet_virtual_service_up{virtual_service="www"} 1.0',
            'avinet_virtual_service_responses_total{class="5xx",virtual_service="www"} 2.0',
            'avinet_virtual_service_received_bytes_total{virtual_service="www"} 1200.0',
        ):
            self.assertIn(line, text)
