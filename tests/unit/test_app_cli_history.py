"""``avinet config history``, ``show``, ``diff`` and ``rollback``."""

import json
from unittest import mock

import yaml

from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import CliCase

ROW = {
    "version": 3,
    "author": "olga",
    "at": 0.0,
    "created": ["pool/a", "pool/b", "pool/c", "pool/d"],
    "updated": [],
    "deleted": ["pool/e"],
    "objects": 500,
    "note": "CHG-1",
    "rolled_back_to": 2,
}
FIELDS = [
    {"path": "retries", "old": 2, "new": 0},
    {"path": "key", "old": "(secret)", "new": "(secret, changed)"},
    {"path": "pool_ref", "old": None, "new": "web"},
]
CHANGES = [
    {
        "kind": "pool",
        "name": "web",
        "uuid": "pool-1",
        "change": "updated",
        "fields": FIELDS,
        "fields_left_out": 9,
    }
]
APPLIED = {"version": 7, "created": [], "updated": ["pool/web"], "deleted": [], "unchanged": []}
ENGINES = [{"name": "se-1", "uuid": "se-11", "set": ["pool/web"], "removed": ["pool/old"]}]


class History(CliCase):
    def test_each_version_is_a_line(self):
        body = {"count": 9, "results": [ROW], "oldest": 1, "next": None}
        self.answers["GET", "/api/config/versions?limit=1"] = Answer(body=body)
        shown = self.answer_of("config", "history", "--limit", "1").splitlines()[1]
        for part in (
            "3",
            "olga",
            "created pool/a, pool/b, pool/c; deleted pool/e and 496 more",
            "back to 2: CHG-1",
        ):
            self.assertIn(part, shown)
        self.assertEqual(json.loads(self.answer_of("config", "history", "--limit", "1", "--json")), body)

    def test_a_version_is_shown_field_by_field(self):
        body = {**ROW, "changes": CHANGES, "whole": None}
        self.answers["GET", "/api/config/versions/3"] = Answer(body=body)
        lines = self.answer_of("config", "show", "3").splitlines()
        self.assertEqual(
            lines[lines.index("updated pool/web") :],
            [
                "updated pool/web",
                "  retries: 2 -> 0",
                "  key: (secret) -> (secret, changed)",
                "  pool_ref: (none) -> web",
                "  and 9 more fields",
            ],
        )

    def test_the_whole_is_yaml_that_apply_takes(self):
        whole = [{"kind": "pool", "name": "web"}, {"kind": "pool", "name": "b"}]
        self.answers["GET", "/api/config/versions/3?whole=true"] = Answer(body={"whole": whole})
        self.assertEqual(list(yaml.safe_load_all(self.answer_of("config", "show", "3", "--whole"))), whole)

    def test_a_version_that_is_gone_is_status_3(self):
        self.answers["GET", "/api/config/versions/3"] = problem(410, "version-gone", "gone; oldest is 9.")
        self.assertEqual(self.run_cli("config", "show", "3").exit_code, 3)


class Diff(CliCase):
    def test_of_versions(self):
        answer = {"before": 2, "after": 7, "changes": CHANGES, "service_engines": None}
        self.answers["GET", "/api/config/diff?before=2"] = Answer(body=answer)
        self.assertIn("retries: 2 -> 0", self.answer_of("config", "diff", "2"))
        self.answers["GET", "/api/config/diff?before=2&after=3"] = Answer(body={**answer, "changes": []})
        self.assertIn("Nothing differs.", self.answer_of("config", "diff", "2", "3"))

    def test_of_a_file(self):
        answer = {"before": 2, "after": None, "changes": CHANGES, "service_engines": ENGINES}
        self.answers["POST", "/api/config/diff"] = Answer(body=answer)
        shown = self.answer_of("config", "diff", "-f", "-", text="kind: pool\n")
        self.assertIn("engine se-1: set pool/web; removed pool/old", shown)

    def test_records_of_a_list_have_a_line_each(self):
        one, two = ({"ip": {"addr": f"10.0.0.{n}", "type": "V4"}, "port": 80, "tags": []} for n in (1, 2))
        fields = [
            {"path": "servers", "old": None, "new": [one, two]},
            {"path": "names", "old": None, "new": ["a", "b"]},
        ]
        created = {"change": "created", "kind": "pool", "name": "w", "fields": fields, "fields_left_out": 0}
        rules = [{"path": "rules", "old": [one], "new": [two, {"port": "x\ny"}]}]
        answer = {
            "before": 2,
            "after": 7,
            "changes": [created, {**created, "change": "updated", "fields": rules}],
            "service_engines": None,
        }
        self.answers["GET", "/api/config/diff?before=2"] = Answer(body=answer)
        self.assertEqual(
            self.answer_of("config", "diff", "2").splitlines(),
            [
                "created pool/w",
                "  servers:",
                "    ip (addr 10.0.0.1, type V4), port 80, tags -",
                "    ip (addr 10.0.0.2, type V4), port 80, tags -",
                "  names: a, b",
                "updated pool/w",
                "  rules:",
                "    - ip (addr 10.0.0.1, type V4), port 80, tags -",
                "    + ip (addr 10.0.0.2, type V4), port 80, tags -",
                "    + port x\ufffdy",
            ],
        )

    def test_of_both_or_of_nothing_is_refused(self):
        for arguments in ((), ("2", "-f", "-")):
            self.assertEqual(self.run_cli("config", "diff", *arguments, text="a: 1\n").exit_code, 2)


class Rollback(CliCase):
    PATH = "/api/config/versions/3/rollback"

    def test_it_tells_the_new_version_and_waits(self):
        self.answers["POST", f"{self.PATH}?note=slow&expect_version=6"] = Answer(body=APPLIED)
        self.answers["GET", "/api/config/status?wait=7&timeout=60"] = Answer(
            body={"versions": [{"version": 7, "left": ["se-9"]}, {"version": 6, "left": ["se-8"]}]}
        )
        shown = self.answer_of(
            "config", "rollback", "3", "--yes", "--wait", "--note", "slow", "--expect-version", "6"
        )
        self.assertEqual(
            shown.splitlines(),
            [
                "updated  pool/web",
                "Version 7: 1 updated.",
                "Every service engine that is connected has it.",
                "se-9 went away without it; it gets it when it comes back.",
            ],
        )

    def test_a_dry_run_tells_which_engines_and_waits_for_none(self):
        self.answers["POST", f"{self.PATH}?dry_run=true"] = Answer(
            body={**APPLIED, "service_engines": ENGINES}
        )
        shown = self.answer_of("config", "rollback", "3", "--dry-run", "--wait")
        self.assertIn("engine se-1: set pool/web; removed pool/old", shown)
        self.assertIn("Nothing was changed", shown)

    def test_warnings_are_told_beside_the_answer(self):
        warning = {
            "kind": "sslkeyandcertificate",
            "name": "tls\x1b",
            "path": "certificate",
            "why": "it expired",
        }
        self.answers["POST", self.PATH] = Answer(body={**APPLIED, "warnings": [warning]})
        result = self.run_cli("config", "rollback", "3", "--yes")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("Version 7", result.stdout)
        self.assertRegex(
            result.stderr, r"^warning: sslkeyandcertificate tls[^\x1b]*: certificate: it expired\n$"
        )

    def look(self, deleted):
        """What a dry run says, with version 6 in force."""
        answer = {**APPLIED, "version": 6, "deleted": deleted, "service_engines": []}
        self.answers["POST", f"{self.PATH}?dry_run=true"] = Answer(body=answer)

    def test_without_a_terminal_one_that_deletes_needs_yes_and_says_why(self):
        self.look(["healthmonitor/h", "pool/a", "pool/c\x1b", "virtualservice/web"])
        self.answers["POST", self.PATH] = Answer(body=APPLIED)
        for extra in ((), ("--json",)):
            result = self.run_cli("config", "rollback", "3", *extra)
            self.assertEqual(result.exit_code, 2)
            self.assertIn("--yes", result.stderr)
            self.assertIn(
                "rollback 3, which deletes virtualservice/web, healthmonitor/h, pool/a and 1 more, needs",
                result.stderr,
            )
        self.assertTrue(all("dry_run" in asked.target for asked in self.api.asked))
        self.answer_of("config", "rollback", "3", "--yes")
        self.assertEqual(self.api.asked[-1].target, self.PATH)

    def test_without_a_terminal_one_that_deletes_nothing_goes_on_from_what_was_looked_at(self):
        self.look([])
        self.answers["POST", f"{self.PATH}?note=slow&expect_version=6"] = Answer(body=APPLIED)
        self.assertIn("Version 7", self.answer_of("config", "rollback", "3", "--note", "slow"))

    def test_at_a_terminal_the_question_names_what_is_deleted(self):
        self.look(["virtualservice/web"])
        with mock.patch("avinet.app.cli.asking.at_terminal", return_value=True):
            result = self.run_cli("config", "rollback", "3", text="n\n")
        self.assertEqual(result.exit_code, 130)
        self.assertIn("deletes virtualservice/web", result.stderr)
        self.assertEqual(len(self.api.asked), 1)

    def test_a_refusal_is_a_conflict_with_every_reason(self):
        detail = "Version 3 does not fit.\n  serviceenginegroup edge: 2 engines"
        self.answers["POST", self.PATH] = problem(409, "rollback-refused", detail)
        result = self.run_cli("config", "rollback", "3", "--yes")
        self.assertEqual(result.exit_code, 4)
        self.assertIn("edge", result.stderr)

    def test_engines_that_refuse_are_named_after_what_changed_and_are_a_conflict(self):
        self.answers["POST", self.PATH] = Answer(body=APPLIED)
        late = problem(409, "refused", "Version 7 is refused by se-1 (port 80 is taken by nginx).")
        self.answers["GET", "/api/config/status?wait=7&timeout=60"] = late
        result = self.run_cli("config", "rollback", "3", "--yes", "--wait")
        self.assertEqual(result.exit_code, 4)
        self.assertIn("Version 7: 1 updated.", result.stdout)
        self.assertIn("taken by nginx", result.stderr)


class Status(CliCase):
    def test_stragglers_and_times_are_tables(self):
        straggler = {
            "name": "se-2",
            "uuid": "u",
            "stand": "waiting",
            "why": "port 80",
            "since": 0.0,
            "resends": 3,
        }
        version = {
            "version": 7,
            "committed_at": 0.0,
            "concerned": 4,
            "acks": 3,
            "p50_s": 0.0124,
            "p99_s": 0.5,
            "last_s": None,
            "missing": ["se-2"],
            "left": [],
            "resends": 5,
            "nacks": 6,
        }
        body = {
            "version": 7,
            "in_sync": False,
            "service_engines": [],
            "stragglers": [straggler],
            "versions": [version],
        }
        self.answers["GET", "/api/config/status"] = Answer(body=body)
        lines = [line.split() for line in self.answer_of("config", "status").splitlines() if line]
        late, last = lines[-3], lines[-1]
        self.assertEqual((late[0], late[-3:]), ("se-2", ["3", "port", "80"]))
        self.assertEqual(last[3:], ["3", "of", "4", "12.40", "ms", "500.00", "ms", "-", "5", "6", "se-2"])
