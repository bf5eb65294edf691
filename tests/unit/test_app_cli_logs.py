"""``avinet logs`` as operators see it."""

import contextlib
import io
import json
import re
import time
from pathlib import Path

from rich.console import Console
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli import logs_pulls, logs_query
from avinet.app.cli.context import Place
from avinet.app.cli.errors import ReaderGoneError
from avinet.app.cli.logs_answers import missing_line, record_line
from avinet.app.cli.logs_status import _growing, _share
from avinet.app.cli.output import instant
from avinet.app.cli.sparkline import bar
from avinet.logs.query.asked import MAX_URL_FILTER_CHARS
from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import CliCase

RECORD = {
    "time": "2026-11-27T12:00:00.000001Z",
    "vs": "web",
    "se": "se-1",
    "client": "10.0.0.1",
    "server": "127.0.0.1:80",
    "method": "GET",
    "host": "x",
    "path": "/\x1b[31mred\nnext\u202e",
    "status": 503,
    "flags": "UF",
    "reason": "upstream_reset",
    "duration_ms": 1.5,
}
MISSING = {
    "se": "se-2",
    "se_uuid": "u2",
    "since": "2026-11-27T11:00:00.000000Z",
    "segments": 3,
    "records": 12,
    "bytes": 2048,
    "why": "not pulled",
}
PULL = {
    "id": 7,
    "state": "running",
    "stored": False,
    "since": "2026-11-27T11:00:00.000000Z",
    "until": "",
    "vs": [],
    "by": "olga",
    "why": "",
    "bytes": 1_048_576,
    "bytes_total": 4_194_304,
    "records": 10,
    "rate_bytes_per_s": 2_097_152.0,
    "left_s": 90.0,
    "service_engines": [{"name": "se-1", "state": "running", "why": "", "connected": True}],
}


@contextlib.contextmanager
def patch_echo(module):
    """What is told meanwhile."""
    told, echo = [], module.click.echo
    module.click.echo = lambda text, **_: told.append(text)
    try:
        yield told
    finally:
        module.click.echo = echo


class QueryTests(CliCase):
    def ask(self, target, body, *arguments):
        self.answers["GET", target] = Answer(body=body)
        return self.run_cli("logs", "query", *arguments)

    def test_a_count_is_a_number(self):
        found = self.ask(
            "/api/logs/query?q=host%3Dx+since+1h&count=true",
            {"count": 12, "missing": []},
            "host=x since 1h",
            "--count",
        )
        self.assertEqual((found.exit_code, found.stdout, found.stderr), (0, "12\n", ""))

    def test_a_limit_of_zero_is_asked_and_not_left_out(self):
        found = self.ask("/api/logs/records?q=&limit=0", {"results": [], "missing": []}, "--limit", "0")
        self.assertEqual(found.exit_code, 0, found.output)

    def test_json_is_the_answer_as_it_came(self):
        body = {"results": [{"path": "/a", "count": 2}], "missing": [MISSING]}
        found = self.ask(
            "/api/logs/query?q=vs%3Dweb&top=path&limit=5",
            body,
            "vs=web",
            "--top",
            "path",
            "--limit",
            "5",
            "--json",
        )
        self.assertEqual((json.loads(found.stdout), found.stderr), (body, ""))

    def test_a_filter_may_be_several_words(self):
        found = self.ask(
            "/api/logs/query?q=host%3Dx+since+1h&count=true",
            {"count": 1, "missing": []},
            "host=x",
            "since",
            "1h",
            "--count",
        )
        self.assertEqual(found.stdout, "1\n")

    def test_the_most_frequent_are_a_table_without_control_characters(self):
        body = {"results": [{"path": RECORD["path"], "count": 2}], "missing": []}
        found = self.ask("/api/logs/query?q=&top=path", body, "--top", "path")
        self.assertEqual(found.stdout.splitlines()[0].split(), ["PATH", "COUNT"])
        self.assertEqual(found.stdout.count("\n"), 2)
        self.assertNotIn("\x1b", found.stdout)
        self.assertNotIn("\u202e", found.stdout)

    def test_one_long_value_does_not_make_every_row_as_long(self):
        rows = [{"path": "/" + "a" * 50_000, "count": 2}, *({"path": f"/{n}", "count": 1} for n in range(99))]
        found = self.ask("/api/logs/query?q=&top=path", {"results": rows, "missing": []}, "--top", "path")
        self.assertLess(len(found.stdout), 100_000)
        self.assertIn("a" * 50_000, found.stdout)

    def test_what_is_not_here_yet_is_said_with_how_to_get_it(self):
        silent = {"se": "se-3", "se_uuid": "u3", "why": "has not said yet what it keeps"}
        body = {"count": 0, "missing": [MISSING, silent]}
        found = self.ask("/api/logs/query?q=&count=true", body, "--count")
        self.assertIn("  se-3: has not said yet what it keeps\n", found.stderr)
        self.assertEqual(found.stdout, "0\n")
        since = instant(MISSING["since"])
        self.assertIn(f"se-2: 12 records, 2.0 KiB from {since} (not pulled)", found.stderr)
        self.assertIn("avinet logs pull --since 2026-11-27T11:00:00.000000Z --se se-2 --wait", found.stderr)

    def test_a_histogram_has_a_bar_for_each_interval_also_for_empty_ones(self):
        rows = [
            {"time": "2026-11-27T12:00:00.000000Z", "count": 4},
            {"time": "2026-11-27T12:02:00.000000Z", "count": 8},
        ]
        found = self.ask(
            "/api/logs/query?q=&histogram=1m", {"results": rows, "missing": []}, "--histogram", "1m"
        )
        lines = found.stdout.splitlines()
        self.assertEqual([line.split()[2] for line in lines], ["4", "0", "8"])
        self.assertEqual([line.count("█") for line in lines], [20, 0, 40])
        self.assertIn("12 in all", found.stderr)

    def test_percentiles_over_time_are_lines_above_a_table(self):
        rows = [
            {"time": "2026-11-27T12:00:00.000000Z", "count": 4, "p50": 1.25, "p99": None},
            {"time": "2026-11-27T12:01:00.000000Z", "count": 8, "p50": 2.5, "p99": 9.0},
        ]
        target = "/api/logs/query?q=&percentiles=duration_ms&histogram=1m"
        found = self.ask(
            target, {"results": rows, "missing": []}, "--percentiles", "duration_ms", "--histogram", "1m"
        )
        self.assertEqual((found.exit_code, found.stderr), (0, ""))
        self.assertIn("p50    ▅█  at most 2.5 ms", found.stdout)
        self.assertIn("P99", found.stdout)

    def test_times_and_percentiles_of_a_table_are_for_people(self):
        row = {"time": "2026-11-27T12:00:00.000000Z", "vs": "web", "count": 4, "p50": 1.25, "p99": None}
        target = "/api/logs/query?q=&percentiles=latency&histogram=1m&by=vs"
        words = ("--percentiles", "latency", "--histogram", "1m", "--by", "vs")
        found = self.ask(target, {"results": [row], "missing": []}, *words)
        line = [instant(row["time"]), "web", "4", "1.25 ms", "-"]
        self.assertEqual(re.split(" {2,}", found.stdout.splitlines()[1]), line)
        body = {"results": [{"count": 1, "p50": 2048.0}], "missing": []}
        found = self.ask("/api/logs/query?q=&percentiles=size", body, "--percentiles", "size")
        self.assertIn("2.0 KiB", found.stdout)

    def test_what_goes_with_what_is_said_in_options(self):
        said = problem(
            400, "invalid-shape", "as the API says it", where="figures", what="it goes with group_by"
        )
        self.answers["GET", "/api/logs/query?q=&figures=count"] = said
        found = self.run_cli("logs", "query", "--figures", "count")
        self.assertEqual(found.exit_code, 2)
        self.assertIn("--figures: it goes with --group-by", found.stderr)
        said = problem(400, "invalid-shape", "", where="by", what="there is no field 'x'")
        self.answers["GET", "/api/logs/query?q=&histogram=1m&by=x"] = said
        found = self.run_cli("logs", "query", "--histogram", "1m", "--by", "x")
        self.assertIn("--by: there is no field 'x'", found.stderr)

    def test_cut_and_estimated_answers_say_so(self):
        body = {
            "results": [{"vs": "web", "p50_duration_ms": 1.0}],
            "truncated": True,
            "approximate": True,
            "missing": [],
        }
        found = self.ask(
            "/api/logs/query?q=&group_by=vs&figures=p50%28latency%29",
            body,
            "--group-by",
            "vs",
            "--figures",
            "p50(latency)",
        )
        self.assertIn("There are more", found.stderr)
        self.assertIn("estimates", found.stderr)

    def test_without_a_shape_records_are_shown_and_how_to_go_on(self):
        found = self.ask(
            "/api/logs/records?q=&limit=1",
            {"results": [RECORD], "next": "abc", "missing": []},
            "--limit",
            "1",
        )
        self.assertEqual(found.stdout.count("\n"), 1)
        self.assertIn("--cursor abc", found.stderr)

    def test_figures_take_no_cursor(self):
        self.assertEqual(self.run_cli("logs", "query", "--count", "--cursor", "x").exit_code, 2)

    def test_a_long_question_goes_in_a_body(self):
        text = f"path in ({', '.join(f'/{n}' for n in range(1_000))})"
        self.answers["POST", "/api/logs/query"] = Answer(body={"count": 3, "missing": []})
        self.assertEqual(self.answer_of("logs", "query", text, "--count"), "3\n")
        self.assertEqual(self.api.asked[0].json, {"q": text, "count": True})

    def test_a_question_goes_in_a_body_where_the_api_takes_no_longer_url(self):
        self.assertEqual(logs_query.MAX_URL_FILTER_CHARS, MAX_URL_FILTER_CHARS)
        text = f"path={'a' * (MAX_URL_FILTER_CHARS - 5)}"
        body = {"count": 3, "missing": []}
        self.answers["GET", f"/api/logs/query?q={text.replace('=', '%3D')}&count=true"] = Answer(body=body)
        self.answers["POST", "/api/logs/query"] = Answer(body=body)
        for asked in (text, text + "a", "path=/\u4e16" + "\u4e16" * 900):
            self.assertEqual(self.answer_of("logs", "query", asked, "--count"), "3\n")
        self.assertEqual([asked.method for asked in self.api.asked], ["GET", "POST", "POST"])

    def test_a_malformed_query_is_shown_with_its_place(self):
        detail = "The query is wrong at character 7: >> is no operator.\n| status>>500\n|       ^\nAllowed here: =."
        self.answers["GET", "/api/logs/query?q=status%3E%3E500&count=true"] = problem(
            400, "invalid-log-query", detail, column=7
        )
        found = self.run_cli("logs", "query", "status>>500", "--count")
        self.assertEqual((found.exit_code, found.stdout), (2, ""))
        self.assertIn("  | status>>500\n  |       ^\n", found.stderr)


class PullTests(CliCase):
    def test_a_pull_begins_and_says_its_number(self):
        self.answers["POST", "/api/logs/pull"] = Answer(201, PULL)
        arguments = ("--since", "1h", "--vs", "web", "--se", "se-1", "--bytes", "2GiB", "--rate", "10MiB")
        self.assertIn("Pull 7 has begun", self.answer_of("logs", "pull", *arguments))
        wish = {"since": "1h", "vs": ["web"], "se": ["se-1"], "byte_limit": "2GiB", "rate": "10MiB"}
        self.assertEqual(self.api.asked[0].json, wish)

    def test_waiting_ends_when_all_of_it_can_be_asked_about(self):
        done = PULL | {"state": "done", "records": 40, "left_s": 0.0}
        self.answers["POST", "/api/logs/pull"] = Answer(201, PULL)
        self.answers["GET", "/api/logs/pull/7"] = [
            Answer(body=PULL),
            Answer(body=done),
            Answer(body=done | {"stored": True}),
        ]
        self.assertIn(
            "Pull 7 is done: 1.0 MiB of 4.0 MiB, 40 records.",
            self.answer_of("logs", "pull", "--since", "1h", "--wait"),
        )
        self.assertEqual(len(self.api.asked), 4)

    def test_a_pull_that_ends_otherwise_fails_the_command(self):
        ended = PULL | {"state": "failed", "stored": True, "why": "se-1: its disk is full"}
        self.answers["POST", "/api/logs/pull"] = Answer(201, ended)
        found = self.run_cli("logs", "pull", "--since", "1h", "--wait")
        self.assertEqual(found.exit_code, 1)
        self.assertIn("its disk is full", found.stderr)

    def test_ctrl_c_leaves_the_pull_running_and_says_so(self):
        def interrupted(seconds):
            raise KeyboardInterrupt

        self.patch(time, "sleep", interrupted)
        self.answers["POST", "/api/logs/pull"] = Answer(201, PULL)
        found = self.run_cli("logs", "pull", "--since", "1h", "--wait")
        self.assertEqual(found.exit_code, 130)
        self.assertIn("pull 7 goes on", found.stderr)
        self.assertEqual([asked.method for asked in self.api.asked], ["POST"])

    def test_waiting_for_engines_that_are_away_is_said_and_ends_in_time_while_the_pull_goes_on(self):
        rows = [{"name": f"se-{n}", "state": "waiting", "why": "", "connected": n == 9} for n in range(5)]
        away = PULL | {"service_engines": [*rows, *PULL["service_engines"]]}
        self.answers["POST", "/api/logs/pull"] = Answer(201, away)
        self.answers["GET", "/api/logs/pull/7"] = Answer(body=away)
        found = self.run_cli("logs", "pull", "--since", "1h", "--wait", "--timeout", "0.6")
        self.assertEqual(found.exit_code, 7)
        waits = "waits for se-0, se-1, se-2 and 2 more, which are not connected"
        self.assertIn(f"avinet: pull 7 {waits}\n", found.stderr)
        self.assertIn(f"not done in 0.6 s; it {waits}. It goes on", found.stderr)
        self.assertEqual(found.stderr.count(waits), 2)
        self.assertEqual({asked.method for asked in self.api.asked[1:]}, {"GET"})

    def test_a_timeout_goes_with_waiting_alone(self):
        self.assertEqual(self.run_cli("logs", "pull", "--since", "1h", "--timeout", "5").exit_code, 2)
        self.assertEqual(self.api.asked, [])

    def test_progress_says_who_is_waited_for(self):
        shown = io.StringIO()
        self.patch(logs_pulls, "Console", lambda **_: Console(file=shown, force_terminal=True, width=200))
        away = [{"name": "se-2", "state": "waiting", "why": "", "connected": False}]
        with logs_pulls._progress(Place()) as show:
            show(PULL | {"service_engines": away})
        self.assertIn("waits for se-2, which is not connected", shown.getvalue())

    def test_progress_is_a_bar_on_a_terminal(self):
        shown = io.StringIO()
        self.patch(logs_pulls, "Console", lambda **_: Console(file=shown, force_terminal=True, width=100))
        with logs_pulls._progress(Place()) as show:
            show(PULL)
        self.assertIn("1.0 MiB of 4.0 MiB", shown.getvalue())
        self.assertIn("25 %", shown.getvalue())

    def test_pulls_are_listed_and_changed(self):
        self.answers["GET", "/api/logs/pull"] = Answer(body={"count": 1, "results": [PULL]})
        self.assertIn(
            "1.0 MiB of 4.0 MiB, 10 records, 2.0 MiB/s, 1m 30s left", self.answer_of("logs", "pulls")
        )
        away = {"name": "se-2", "state": "waiting", "connected": False}
        short = {"name": "se-1", "state": "done", "limited": True, "elsewhere": {"c2": 7}}
        rows = [
            PULL | {"state": "waiting", "service_engines": [away]},
            PULL | {"state": "done", "service_engines": [short]},
        ]
        self.answers["GET", "/api/logs/pull"] = Answer(body={"count": 2, "results": rows})
        shown = self.answer_of("logs", "pulls")
        self.assertIn("waits for se-2, which is not connected", shown)
        self.assertIn("the rest is over its --bytes; 7 records go to c2 alone", shown)
        self.answers["GET", "/api/logs/pull"] = Answer(body={"count": 1, "results": [PULL]})
        for name in ("pause", "resume", "cancel"):
            self.answers["POST", f"/api/logs/pull/7/{name}"] = Answer(body=PULL)
            self.assertIn("Pull 7", self.answer_of("logs", name, "7"))

    def test_pulls_of_several_controllers_are_called_by_both(self):
        rows = [PULL | {"name": name} for name in ("7@c1", "7@c2")]
        silent = {"controller": "c3", "why": "It hangs."}
        self.answers["GET", "/api/logs/pull"] = Answer(
            body={"count": 2, "results": rows, "missing": [silent]}
        )
        found = self.run_cli("logs", "pulls")
        self.assertIn("7@c2", found.stdout)
        self.assertIn("those of c3. It hangs.", found.stderr)
        self.answers["POST", "/api/logs/pull/7%40c2/pause"] = Answer(body=rows[1])
        self.assertIn("Pull 7@c2 is paused", self.answer_of("logs", "pause", "7@c2"))
        found = self.run_cli("logs", "pause", "7")
        self.assertIn("Say which: 7@c1 or 7@c2 or 7@c3", found.stderr)

    def test_one_that_plans_is_named_after_a_while(self):
        planning = {"name": "se-2", "state": "planning", "connected": True}
        state = PULL | {"state": "planning", "service_engines": [planning]}
        lines = logs_pulls._Lines()
        with patch_echo(logs_pulls) as told:
            for _ in range(30):
                lines.show(state)
        self.assertEqual(told, ["avinet: pull 7 waits for se-2, which has not said yet how much there is"])


class RecordsTests(CliCase):
    def test_a_tail_shows_a_line_a_record(self):
        data = f"id: 1\nevent: record\ndata: {json.dumps({'id': 1, **RECORD})}\n\n".encode()
        target = "/api/logs/tail?q=vs%3Dweb&full=false"
        self.answers["GET", target] = [
            Answer(body=data, content_type="text/event-stream"),
            problem(400, "invalid-query", "enough"),
        ]
        found = self.run_cli("logs", "tail", "vs=web")
        self.assertEqual(found.stdout.count("\n"), 1)
        self.assertIn("503", found.stdout)
        self.assertEqual(self.api.asked[1].headers["Last-Event-ID"], "1")

    def test_a_tail_of_several_says_who_cannot_be_asked(self):
        gone = {"id": "a:1,b:2", "controller": "b", "why": "It hangs."}
        events = [{"id": "a:1", **RECORD}, gone, gone | {"why": ""}]
        data = b"".join(b"data: %s\n\n" % json.dumps(one).encode() for one in events)
        self.answers["GET", "/api/logs/tail?q=&full=false"] = [
            Answer(body=data, content_type="text/event-stream"),
            problem(400, "invalid-query", "enough"),
        ]
        found = self.run_cli("logs", "tail")
        self.assertEqual(found.stdout.count("\n"), 1)
        self.assertIn("What controller b receives is not in it now: It hangs.", found.stderr)
        self.assertIn("What controller b receives is in it again.", found.stderr)
        self.assertEqual(self.api.asked[1].headers["Last-Event-ID"], "a:1,b:2")

    def test_an_export_is_a_file_of_the_kind_that_its_name_says(self):
        self.answers["GET", "/api/logs/export?q=since+1h&format=csv"] = Answer(
            body=b"time,path\n",
            content_type="text/csv",
            headers={
                "X-Avinet-Records": "3",
                "X-Avinet-Missing": "4",
                "X-Avinet-Missing-What": json.dumps([MISSING, {"controller": "c2", "why": "It hangs."}]),
            },
        )
        path = Path(self.api.state) / "out.csv"
        told = self.run_cli("logs", "export", str(path), "since 1h")
        self.assertIn("3 records", told.stdout)
        self.assertIn("  se-2: 12 records, 2.0 KiB from", told.stderr)
        self.assertIn("  c2: It hangs.\n  2 more.", told.stderr)
        self.assertEqual(path.read_bytes(), b"time,path\n")
        self.assertEqual(path.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.run_cli("logs", "export", "out.xyz").exit_code, 2)

    def test_a_reader_that_has_gone_is_not_a_lost_connection(self):
        class Gone(io.BytesIO):
            def write(self, _data):
                raise BrokenPipeError

        self.answers["GET", "/api/logs/export?q="] = Answer(body=b"{}", content_type="application/x-ndjson")
        with self.assertRaises(ReaderGoneError):
            Place(state=Path(self.api.state)).client().fetch("/api/logs/export", {"q": ""}, Gone())

    def test_what_is_being_written_is_told_beside_what_is_kept(self):
        said = missing_line(MISSING | {"raw_bytes": 1024})
        kept = f"se-2: 12 records, 2.0 KiB from {instant(MISSING['since'])}"
        self.assertEqual(said, f"{kept}, and 1.0 KiB of NDJSON (not pulled)")
        alone = {"se": "se-2", "raw_bytes": 1024, "why": "not pulled"}
        self.assertEqual(missing_line(alone), "se-2: 1.0 KiB of NDJSON (not pulled)")
        self.assertEqual(
            [_growing({"growing_bytes": size}) for size in (0, 1024)], ["-", "1.0 KiB of NDJSON"]
        )

    def test_a_small_share_of_the_limit_is_told_as_such(self):
        def share(kept):
            return _share({"limit_bytes": 1000_000, "significant": {"bytes": kept}, "full": {"bytes": 0}})

        self.assertTrue(share(1).startswith("below 0.1 % of"), share(1))
        self.assertTrue(share(0).startswith("0 % of"), share(0))

    def test_the_status_of_several_has_a_row_for_each(self):
        store = {"records": 5, "bytes": 1024, "files": 1, "waiting_segments": 0, "waiting_bytes": 0}
        rows = [
            {"controller": "c1", "store": store | {"since": "", "until": "2026-11-27T11:00:00Z"}, "why": ""},
            {"controller": "c2", "store": None, "why": "It hangs."},
        ]
        rows[0]["copies"] = [
            {"controller": "c2", "records": 3},
            {"controller": "c2", "records": 4},
            {"controller": "c3", "records": 0},
        ]
        rows[0]["uncopied"] = 2
        body = {"store": store, "controllers": rows, "service_engines": [], "drops": []}
        self.answers["GET", "/api/logs/status"] = Answer(body=body)
        lines = self.answer_of("logs", "status").splitlines()
        self.assertIn(instant("2026-11-27T11:00:00Z"), lines[1])
        self.assertEqual(re.split(" {2,}", lines[2]), ["c2", *"------", "It hangs."])
        self.assertEqual(re.split(" {2,}", lines[1])[-3:], ["2 records", "7 records of c2", "-"])

    def test_the_status_says_what_is_where(self):
        kept = {"segments": 2, "records": 30, "bytes": 2048, "oldest": ""}
        none = {"segments": 0, "records": 0, "bytes": 0, "oldest": ""}
        row = {"name": "se-1", "connected": True, "significant": none, "full": kept, "limit_bytes": 20480}
        drop = {"se": "se-1", "reason": "torn", "class": "full", "records": 0, "bytes": 77}
        store = {"records": 5, "bytes": 1024, "files": 1, "waiting_segments": 0, "waiting_bytes": 0}
        self.answers["GET", "/api/logs/status"] = Answer(
            body={
                "store": store,
                "service_engines": [row | {"dropped_records": 4, "oldest": "t"}],
                "drops": [drop, drop | {"reason": "unwritten", "records": 3}],
            }
        )
        shown = self.answer_of("logs", "status")
        for words in (
            "5 records, 1.0 KiB, in 1 files",
            "30 records, 2.0 KiB",
            "10 % of 20.0 KiB",
            "torn",
            "not counted",
            "about 3",
        ):
            self.assertIn(words, shown)


class LineTests(SynchronousTestCase):
    def test_a_record_is_one_line_and_moves_nothing(self):
        line = record_line(RECORD)
        self.assertTrue(line.replace("\x1b[31m503\x1b[0m", "").isprintable(), line)
        self.assertIn("[UF upstream_reset]", line)
        self.assertIn("1.5 ms", line)

    def test_a_record_of_which_little_is_known_has_a_line_too(self):
        self.assertIn("-", record_line({}))

    def test_bars_tell_anything_from_nothing(self):
        self.assertEqual(bar(0, 10, 40, blocks=True), "")
        self.assertEqual(bar(1, 10_000, 40, blocks=True), "▏")
        self.assertEqual(bar(10, 10, 4, blocks=True), "████")
        self.assertEqual(bar(5, 10, 4, blocks=False), "##")
