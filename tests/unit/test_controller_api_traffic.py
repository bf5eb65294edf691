"""The routes of the traffic, through the real Site."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_traffic import TrafficApi
from avinet.rest.openapi import Info, openapi
from avinet.rest.router import Router
from tests.unit.config_kit import pool, service
from tests.unit.rest_client import Client, Known, request_bytes
from tests.unit.traffic_kit import REPORT_S, Traffics

A, B = "10.0.0.1:8080", "10.0.0.1:8081"


class Api(SynchronousTestCase):
    def setUp(self):
        self.fleet = Traffics(pool("web", 8080, 8081), service("www"))
        self.addCleanup(self.fleet.traffic.stop)
        engine = self.fleet.engines["1"]
        engine.looks_at_once = True
        engine.served("www", ok=9, errors=1)
        engine.sees("web", A, requests=7, errors=1, connections=2)
        engine.sees("web", B, "DOWN", "nothing listens")
        self.fleet.pass_time(REPORT_S)
        api = TrafficApi(self.fleet.world.config, self.fleet.traffic, self.fleet.reader)
        self.routes = api.routes()
        self.client = Client(Router(self.routes, self.fleet.clock, Known("olga")), self.fleet.clock)

    def get(self, path, status=200):
        connection = self.client.connect()
        connection.send(request_bytes("GET", path))
        self.fleet.clock.advance(0)
        answer = connection.answer()
        self.assertEqual(answer.status, status, answer.body)
        return answer.json

    def test_figures_of_a_service_by_its_name(self):
        found = self.get("/api/virtualservice/www/stats?since=3600&step=60")
        self.assertEqual((found["totals"]["requests"], found["totals"]["responses_5xx"]), (10, 1))
        self.assertEqual((found["name"], found["health"]), ("www", "UP"))
        columns = found["series"]
        self.assertEqual({len(column) for column in columns.values()}, {len(columns["at"])})
        self.assertEqual(sum(columns["requests"]), 10)
        self.assertIsNotNone(found["latency_ms"]["p99"])
        self.assertEqual(found["service_engines"][0]["counts"]["requests"], 10)

    def test_the_first_look_waits_for_what_the_engine_knows_now(self):
        self.fleet.engines["1"].served("www", ok=5)
        found = self.get("/api/virtualservice/www/stats")
        self.assertEqual(found["totals"]["requests"], 15)
        self.assertGreater(found["now"]["requests_per_s"], 0)
        self.fleet.engines["1"].served("www", ok=5)
        self.assertEqual(self.get("/api/virtualservice/www/stats")["totals"]["requests"], 15)

    def test_an_engine_that_says_nothing_is_waited_for_three_seconds(self):
        self.fleet.engines["1"].looks_at_once = False
        connection = self.client.connect()
        connection.send(request_bytes("GET", "/api/virtualservice/www/stats"))
        self.fleet.clock.advance(2.9)
        self.assertEqual(connection.transport.value(), b"")
        self.fleet.clock.advance(0.2)
        self.assertEqual(connection.answer().json["totals"]["requests"], 10)
        self.assertEqual(self.fleet.traffic._waiting, [])

    def test_a_pool_has_figures_and_servers_with_the_reason(self):
        self.assertIn("no_server", self.get("/api/pool/web/stats")["totals"])
        found = self.get("/api/pool/web/servers")
        up, down = found["results"]
        self.assertEqual((up["server"], up["state"], up["requests"], up["errors"]), (A, "UP", 7, 1))
        self.assertEqual((down["state"], down["reason"]), ("DOWN", "nothing listens"))
        self.assertEqual(down["last_failure"]["failure"], "REFUSED")
        self.assertIsNone(down["last_failure"]["until"])
        self.assertEqual(up["service_engines"][0]["connections"], 2)

    def test_the_shapes_of_the_avi_api(self):
        runtime = self.get("/api/pool/web/runtime")
        self.assertEqual(runtime["oper_status"]["state"], "OPER_UP")
        self.assertEqual(
            [runtime[f"num_servers{which}"] for which in ("", "_enabled", "_up")]
            + [runtime["percent_servers_up_total"]],
            [2, 2, 1, 50],
        )
        (first, second) = self.get("/api/pool/web/runtime/server")["results"]
        self.assertEqual((first["ip_addr"]["addr"], first["port"]), ("10.0.0.1", 8080))
        self.assertEqual(second["oper_status"]["reason"], ["nothing listens"])
        service = self.get("/api/virtualservice/www/runtime")
        self.assertEqual((service["percent_ses_up"], service["oper_status"]["state"]), (100, "OPER_UP"))
        self.assertEqual(service["vip_summary"][0]["service_engine"][0]["uuid"], "se-1")

    def test_inventories_are_paged_and_narrowed(self):
        self.fleet.world.apply(*(service(f"s{n}", 100 + n) for n in range(4)))
        page = self.get("/api/virtualservice-inventory?page_size=2")
        self.assertEqual(
            (page["count"], [row["config"]["name"] for row in page["results"]]), (5, ["s0", "s1"])
        )
        self.assertEqual(self.get(page["next"])["results"][0]["config"]["name"], "s2")
        (row,) = self.get("/api/virtualservice-inventory?name=www")["results"]
        self.assertEqual((row["health"], row["runtime"]["oper_status"]["state"]), ("UP", "OPER_UP"))
        self.assertEqual(self.get("/api/pool-inventory")["results"][0]["runtime"]["num_servers"], 2)

    def test_what_cannot_be_had_is_refused_with_what_can(self):
        for query in (
            "since=0",
            "since=99999",
            "step=7",
            "step=90",
            "step=-5",
            "step=0",
            "step=x",
            "until=1",
        ):
            problem = self.get(f"/api/pool/web/stats?{query}", status=400)
            self.assertIn(query.partition("=")[0], problem["detail"], query)
        self.get("/api/pool/none/stats", status=404)
        self.get("/api/virtualservice/web/stats", status=404)

    def test_the_document_describes_them(self):
        paths = openapi(self.routes, Info(title="t", version="1", description="d"))["paths"]
        self.assertIn("/api/pool/{uuid}/servers", paths)
