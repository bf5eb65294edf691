"""``avinet vs`` and ``avinet pool`` as operators see them."""

import json

from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.sparkline import WIDTH, sparkline
from avinet.app.cli.traffic import WATCH_S, _show
from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import CliCase

LATENCY = {"p50": 1.04, "p90": 20.5, "p99": 1234.5}
NOW = {
    "begun_at": 0.0,
    "window_s": 15.0,
    "requests_per_s": 12.34,
    "connections_per_s": 1.0,
    "bytes_in_per_s": 1536.0,
    "bytes_out_per_s": 0.0,
    "share_5xx": 0.025,
    "latency_ms": LATENCY,
}
CLASSES = {f"responses_{n}xx": n if n != 3 else 0 for n in range(1, 6)}
STATS = {
    "uuid": "u",
    "name": "web",
    "at": 120.0,
    "health": "PARTLY",
    "reason": "on se-2: \x1b[2Jpool p",
    "since": 50.0,
    "connections": 7,
    "totals": {
        "requests": 12,
        "connections_total": 3,
        "bytes_in": 1,
        "bytes_out": 2048,
        **CLASSES,
        "retries": 4,
    },
    "now": NOW,
    "latency_ms": LATENCY,
    "step_s": 60.0,
    "series": {
        "at": [0.0, 60.0],
        "requests": [0, 120],
        "responses_5xx": [0, 1],
        "connections": [0, 7],
        "p99_ms": [None, 3.0],
    },
    "service_engines": [
        {"name": "se-1", "connected": True, "reported_at": 1.0, "connections": 7, "counts": {"requests": 12}}
    ],
}
SERVER = {
    "server": "10.0.0.1:80",
    "state": "UP",
    "reason": "",
    "since": 10.0,
    "last_failure": {"failure": "TIMEOUT", "reason": "no answer", "since": 0.0, "until": 10.0},
    "connections": 0,
    "requests": 5,
    "errors": 1,
    "service_engines": [{"name": "se-1", "state": "UP"}, {"name": "se-2", "state": "DOWN"}],
}


class Traffic(CliCase):
    def test_one_service_with_its_last_hour(self):
        self.answers["GET", "/api/virtualservice/web/stats"] = Answer(body=STATS)
        shown = self.answer_of("vs", "stats", "web")
        for words in (
            "PARTLY: on se-2:",
            "12.34 requests/s, 5xx 2.5 %",
            "p99 1234 ms",
            "in 1.5 KiB/s",
            "12 requests (1 1xx, 2 2xx, 4 4xx, 5 5xx)",
            "4 retries",
            "▁█  at most 2",
            "se-1",
        ):
            self.assertIn(words, shown)
        self.assertNotIn("\x1b", shown)

    def test_in_json_it_is_the_answer_itself(self):
        self.answers["GET", "/api/pool/web/stats"] = Answer(body=STATS)
        self.assertEqual(json.loads(self.answer_of("pool", "stats", "web", "--json")), STATS)

    def test_all_of_them_page_by_page(self):
        row = {"health": "UP", "reason": "", "connections": 1, "now": NOW}
        pages = [{"results": [{**row, "config": {"name": f"s{n}"}}]} for n in range(2)]
        pages[0]["next"] = "..."
        for number, page in enumerate(pages, 1):
            target = f"/api/virtualservice-inventory?page={number}&page_size=200"
            self.answers["GET", target] = Answer(body=page)
        shown = self.answer_of("vs", "stats")
        self.assertIn("s0", shown)
        self.assertIn("s1", shown)

    def test_servers_with_what_failed_last_and_where(self):
        partly = {**SERVER, "server": "10.0.0.2:80", "state": "PARTLY", "reason": "nothing listens"}
        body = {"name": "web", "health": "UP", "reason": "", "results": [SERVER, partly]}
        self.answers["GET", "/api/pool/web/servers"] = Answer(body=body)
        shown = self.answer_of("pool", "servers", "web")
        self.assertIn("after 10s: no answer", shown)
        self.assertIn("se-1 UP, se-2 DOWN", shown)
        self.assertIn("nothing listens", shown)

    def test_one_that_is_not_there(self):
        self.answers["GET", "/api/virtualservice/x/stats"] = problem(
            404, "object-not-found", "There is none."
        )
        self.assertEqual(self.run_cli("vs", "stats", "x").exit_code, 3)


class Watching(SynchronousTestCase):
    def test_it_is_shown_anew_each_five_seconds_until_interrupted(self):
        waits, shown = [], []

        def sleep(seconds):
            waits.append(seconds)
            if len(waits) == 3:
                raise KeyboardInterrupt

        class Where:
            json = False

        with self.assertRaises(KeyboardInterrupt):
            _show(
                Where(),
                lambda: {"n": len(waits)},
                lambda answer: shown.append(answer["n"]),
                watch=True,
                sleep=sleep,
            )
        self.assertEqual((shown, waits), ([0, 1, 2], [WATCH_S] * 3))


class Sparklines(SynchronousTestCase):
    def test_letters_rise_with_the_values_and_the_unknown_is_blank(self):
        self.assertEqual(sparkline([0, 1, None, 50, 100], blocks=True), "▁▂ ▅█")
        self.assertEqual(sparkline([0, 100], blocks=False), "_#")

    def test_nothing_at_all_and_far_too_much(self):
        self.assertEqual(sparkline([], blocks=True), "")
        self.assertEqual(sparkline([0, 0], blocks=True), "▁▁")
        self.assertEqual(len(sparkline([1.0] * 1_000, blocks=True)), WIDTH)
