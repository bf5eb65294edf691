"""How errors end the program: for people in lines, for programs in JSON."""

import json
from pathlib import Path
from unittest import mock

import yaml
from click.testing import CliRunner

from avinet.app.cli.main import cli
from avinet.ssh.errors import CommandTimeoutError, DialError
from avinet.ssh.remote import CommandRefusedError, Target
from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import ENGINE, CliCase


class InJson(CliCase):
    def error_of(self, *line, status):
        result = self.run_cli(*line)
        self.assertEqual((result.exit_code, result.stdout), (status, ""), result.output)
        return json.loads(result.stderr)["error"]

    def test_a_refusal_has_the_controllers_word_and_facts(self):
        problems = [{"path": "a", "why": "wrong"}]
        self.answers["GET", "/api/serviceengine"] = problem(400, "invalid-config", "No.", problems=problems)
        told = self.error_of("se", "list", "--json", status=2)
        self.assertEqual(
            (told["reason"], told["detail"], told["problems"]), ("invalid-config", "No.", problems)
        )

    def test_an_error_found_here_has_its_facts(self):
        told = self.error_of("image", "build", "--out", "/nonexistent/x", "--json", status=1)
        self.assertEqual((told["reason"], told["path"]), ("file", "/nonexistent/x"))

    def test_wrong_usage_is_json_wherever_the_option_stands(self):
        self.assertEqual(self.error_of("se", "lst", "--json", status=2)["reason"], "usage")
        self.assertEqual(self.error_of("--json", "se", "create", status=2)["reason"], "usage")

    def test_a_defect_is_json_too(self):
        self.answers["GET", "/api/serviceengine?state=UP"] = Answer(body=b"1")
        self.answers["GET", "/api/status"] = Answer(body=b"hello")
        self.assertEqual(self.error_of("status", "--json", status=1)["reason"], "strange-answer")

    def test_the_help_tells_of_it(self):
        shown = CliRunner().invoke(cli, ["--help"]).output
        for word in ('"error"', "AVINET_PASSWORD", "124"):
            self.assertIn(word, shown)


HOSTILE = "\x1b[2J\x9b31m\u202eevil\r"
"""What clears a terminal, colours it, and turns the direction of writing."""


class OfOthersMaking(CliCase):
    """Texts of other operators, and of SEs."""

    def assert_visible(self, text):
        odd = [letter for letter in text if not letter.isprintable() and letter != "\n"]
        self.assertEqual(odd, [])

    def test_json_and_yaml_mean_the_same_and_can_be_seen(self):
        row = {"kind": "pool", "name": "caf\u00e9", "description": HOSTILE}
        self.answers["GET", "/api/pool/web"] = Answer(body=row)
        told = self.answer_of("config", "get", "pool", "web")
        self.assert_visible(told)
        self.assertEqual(yaml.safe_load(told)["description"], HOSTILE)
        told = self.answer_of("config", "get", "pool", "web", "--json")
        self.assert_visible(told)
        self.assertIn("caf\u00e9", told)
        self.assertIn(json.dumps(HOSTILE)[1:-1], told)

    def test_errors_can_be_seen(self):
        self.answers["GET", "/api/serviceengine"] = problem(
            400, "invalid-config", f"No,\n  {HOSTILE}.", why=HOSTILE
        )
        for more in ([], ["--json"]):
            with mock.patch("click._compat.strip_ansi", lambda text: text):
                result = self.run_cli("se", "list", *more)
            self.assertIn("evil", result.stderr)
            self.assert_visible(result.stderr)


class OnAnEngine(CliCase):
    def setUp(self):
        super().setUp()
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body={**ENGINE, "group": "edge"})
        self.allow("EXEC", "FILES")
        target = Target(address="127.1.0.1", port=1, id_se_path=self.api.state, host_key_line="x")
        patch = mock.patch("avinet.app.cli.remote.target_of", return_value=target)
        patch.start()
        self.addCleanup(patch.stop)

    def allow(self, *classes):
        self.answers["GET", "/api/serviceenginegroup/edge"] = Answer(body={"commands": list(classes)})

    def test_what_the_group_leaves_out_is_named_before_anything_is_tried(self):
        self.allow("FILES")
        ran = self.run_cli("se", "exec", "se-1", "uptime")
        self.assertEqual(ran.exit_code, 6)
        for word in ("EXEC", "edge", "se-1"):
            self.assertIn(word, ran.stderr)

    def test_scp_is_given_the_engines_address_and_a_host_key_to_check(self):
        source = f"{self.api.state}/a:b"
        Path(source).touch()
        with (
            mock.patch("avinet.app.cli.files.shutil.which", return_value="/usr/bin/scp"),
            mock.patch("avinet.app.cli.files._run", return_value=(1, "scp: no")) as run,
        ):
            ran = self.run_cli("se", "copy", "-r", source, "se-1:in")
        self.assertEqual(ran.exit_code, 1)
        line = run.call_args[0][0]
        self.assertEqual(line[-4:], ["-r", "--", source, "aviseuser@127.1.0.1:in"])
        self.assertIn("StrictHostKeyChecking=yes", line)

    def test_a_copy_has_one_end_here_and_one_there(self):
        for arguments in (("a", "b"), ("se-1:a", "se-2:b")):
            self.assertEqual(self.run_cli("se", "copy", *arguments).exit_code, 2)

    def status_of(self, outcome):
        with mock.patch("avinet.app.cli.remote.in_reactor", side_effect=[outcome]):
            return self.run_cli("se", "exec", "se-1", "uptime").exit_code

    def test_the_commands_own_status_is_kept(self):
        self.assertEqual(self.status_of(7), 7)

    def test_a_timeout_of_ours_is_124(self):
        self.assertEqual(self.status_of(CommandTimeoutError(step="It", limit_s=1.0)), 124)

    def test_a_connection_that_failed_is_255(self):
        for failure in (DialError(address="h", detail="no"), CommandRefusedError(what="x")):
            self.assertEqual(self.status_of(failure), 255)

    def test_a_terminal_has_no_json(self):
        self.assertEqual(self.run_cli("se", "ssh", "--json", "se-1").exit_code, 2)
        self.assertEqual(self.run_cli("--json", "se", "ssh", "se-1").exit_code, 2)
