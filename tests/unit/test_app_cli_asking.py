"""What is asked before it is done, and what happens where nobody can be asked."""

from unittest import mock

from tests.unit.api_double import Answer
from tests.unit.cli_kit import ENGINE, CliCase


class WithoutATerminal(CliCase):
    def setUp(self):
        super().setUp()
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body=ENGINE)
        self.answers["POST", "/api/serviceengine/se-1/quarantine"] = Answer(body=ENGINE)
        for path in ("virtualservice/web", "pool/p", "image/i", "setoken/t", "serviceengine/se-11"):
            gone = {"version": 3, "created": [], "updated": [], "deleted": [path], "unchanged": []}
            body = gone if path in {"virtualservice/web", "pool/p"} else None
            self.answers["DELETE", f"/api/{path}"] = Answer(200 if body else 204, body)

    def methods(self):
        return [asked.method for asked in self.api.asked]

    def test_what_ends_traffic_needs_yes_however_it_is_printed(self):
        for line in (("se", "delete", "se-1"), ("config", "delete", "virtualservice", "web")):
            for extra in ((), ("--json",)):
                result = self.run_cli(*line, *extra)
                self.assertEqual(result.exit_code, 2, line)
                self.assertIn("--yes", result.stderr)
        self.assertNotIn("DELETE", self.methods())

    def test_with_yes_it_is_done(self):
        for line in (("se", "delete", "se-1"), ("config", "delete", "virtualservice", "web")):
            self.answer_of(*line, "--yes")
        self.assertEqual(self.methods().count("DELETE"), 2)

    def test_the_others_go_on(self):
        self.answer_of("config", "delete", "pool", "p")
        self.answer_of("image", "revoke", "i")
        self.answer_of("se", "token", "revoke", "t")
        self.answer_of("se", "quarantine", "se-1")
        self.assertEqual(self.methods(), ["DELETE", "DELETE", "DELETE", "POST"])


class AtATerminal(WithoutATerminal):
    def setUp(self):
        super().setUp()
        patch = mock.patch("avinet.app.cli.asking.at_terminal", return_value=True)
        patch.start()
        self.addCleanup(patch.stop)

    def test_no_is_no(self):
        for line in (
            ("se", "delete", "se-1"),
            ("config", "delete", "virtualservice", "web"),
            ("image", "revoke", "i"),
            ("se", "token", "revoke", "t"),
            ("se", "quarantine", "se-1"),
        ):
            self.assertEqual(self.run_cli(*line, text="n\n").exit_code, 130, line)
        self.assertLessEqual(set(self.methods()), {"GET"})

    def test_what_ends_traffic_needs_yes_however_it_is_printed(self):
        for extra in ((), ("--json",)):
            self.run_cli("se", "delete", "se-1", *extra, text="y\n")
        self.assertEqual(self.methods().count("DELETE"), 2)

    def test_the_others_go_on(self):
        self.answer_of("image", "revoke", "i", text="y\n")
        self.answer_of("image", "revoke", "i", "--yes")
        self.assertEqual(self.methods(), ["DELETE", "DELETE"])
