"""The ``avinet`` commands against recorded answers."""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from unittest import mock

from click.testing import CliRunner

from avinet.app.cli.main import cli
from avinet.app.cli.remote import HostKeyUnknownError, target_of
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_start import record
from avinet.dataplane.processes import identify
from avinet.trust.locks import StateLock
from avinet.trust.node import ControllerPaths
from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import ENGINE, META, CliCase

LIST = {"count": 1, "results": [ENGINE]}


class Engines(CliCase):
    def test_a_piped_list_is_plain_aligned_text(self):
        self.answers["GET", "/api/serviceengine"] = Answer(body=LIST)
        head, row = self.answer_of("se", "list").splitlines()
        self.assertEqual(head.split()[:3], ["NAME", "STATE", "IN"])
        self.assertEqual(row.split()[:3], ["se-1", "UP", "yes"])
        self.assertEqual(head.index("STATE"), row.index("UP"))

    def test_json_may_stand_anywhere_on_the_line(self):
        self.answers["GET", "/api/serviceengine"] = Answer(body=LIST)
        for line in (("--json", "se", "list"), ("se", "--json", "list"), ("se", "list", "--json")):
            self.assertEqual(json.loads(self.answer_of(*line)), LIST)

    def test_filters_are_sent(self):
        self.answers["GET", "/api/serviceengine?group=G&state=UP"] = Answer(body=LIST)
        self.answer_of("se", "list", "--group", "G", "--state", "up")

    def test_an_engine_that_is_not_there_is_status_3(self):
        self.answers["GET", "/api/serviceengine/a%2Fb"] = problem(404, "se-not-found", "There is no a/b.")
        result = self.run_cli("se", "show", "a/b")
        self.assertEqual((result.exit_code, result.stderr), (3, "avinet: There is no a/b.\n"))

    def test_control_characters_of_others_do_not_reach_the_terminal(self):
        self.answers["GET", "/api/serviceengine/x"] = Answer(body={**ENGINE, "note": "a\x1b[2Jb"})
        self.assertNotIn("\x1b", self.answer_of("se", "show", "x"))

    def test_a_command_is_posted_with_its_note(self):
        self.answers["POST", "/api/serviceengine/se-1/disable"] = Answer(body={**ENGINE, "state": "DISABLED"})
        self.assertIn("is DISABLED", self.answer_of("se", "disable", "se-1", "--note", "why"))
        self.assertEqual(self.api.asked[0].json, {"note": "why"})

    def test_deletion_asks_first(self):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body=ENGINE)
        with mock.patch("avinet.app.cli.asking.at_terminal", return_value=True):
            self.assertEqual(self.run_cli("se", "delete", "se-1", "--json", text="n\n").exit_code, 130)
        self.assertEqual([asked.method for asked in self.api.asked], ["GET"])

    def test_deletion_goes_by_uuid(self):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body=ENGINE)
        self.answers["DELETE", "/api/serviceengine/se-11"] = Answer(status=204)
        self.assertIn("was deleted", self.answer_of("se", "delete", "se-1", "--yes"))

    def test_creation_by_hand_tells_the_token_and_what_to_run(self):
        self.answers["POST", "/api/serviceengine"] = Answer(201, {"engine": ENGINE, "meta_info": META})
        shown = self.answer_of("se", "create", "--name", "se-1")
        for part in ("avt1.a.b", "install.sh", "twistd -n avise --image"):
            self.assertIn(part, shown)

    def test_meta_info_goes_to_a_file_of_ours_alone_and_not_to_the_screen(self):
        self.answers["POST", "/api/setoken"] = Answer(
            201, {"token": {"uuid": "t", "count": 2, "group": "G", "expires_at": 0.0}, "meta_info": META}
        )
        out = self.api.state / "meta.json"
        shown = self.answer_of("se", "token", "create", "--count", "2", "--out", str(out))
        self.assertNotIn("avt1", shown)
        self.assertEqual(json.loads(out.read_text()), META)
        self.assertEqual(out.stat().st_mode & 0o777, 0o600)
        self.assertEqual(self.api.asked[0].json, {"count": 2})

    def test_a_command_for_an_engine_that_is_away_is_status_5(self):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body={**ENGINE, "state": "DOWN"})
        result = self.run_cli("se", "exec", "se-1", "uptime", "--json")
        self.assertEqual(result.exit_code, 5)
        self.assertIn("se-1 is DOWN", result.stderr)

    def test_commands_on_engines_need_the_controllers_own_files(self):
        result = CliRunner().invoke(cli, ["--api", "https://h", "se", "ssh", "se-1"])
        self.assertEqual(result.exit_code, 2)
        self.assertIn("--state", result.stderr)

    def test_the_host_key_comes_from_known_hosts(self):
        paths = ControllerPaths(self.api.state)
        paths.known_hosts.parent.mkdir()
        paths.known_hosts.write_text(
            "[127.1.0.11]:5097 ssh-ed25519 AAAA\n[127.1.0.1]:5098 ssh-ed25519 BBBB\n"
        )
        target = target_of(paths, "127.1.0.1")
        self.assertEqual((target.port, target.host_key_line), (5098, "ssh-ed25519 BBBB"))
        self.assertRaises(HostKeyUnknownError, target_of, paths, "127.1.0.2")


class Stopping(CliCase):
    def test_nothing_is_stopped_unless_something_is_named(self):
        self.assertEqual(self.run_cli("se", "stop", "--state", str(self.api.state)).exit_code, 2)

    def test_a_folder_that_is_not_there_is_status_3(self):
        self.assertEqual(self.run_cli("se", "stop", "--data-plane", "--state", "/nonexistent").exit_code, 3)

    def test_a_data_plane_that_does_not_run_is_told_and_is_no_failure(self):
        self.api.state.chmod(0o700)
        shown = self.answer_of("se", "stop", "--data-plane", "--state", str(self.api.state))
        self.assertEqual(shown, "Data plane: was not running.\n")

    def test_a_running_agent_keeps_its_data_plane(self):
        from avinet.se.paths import SePaths, lock_state

        lock = lock_state(SePaths(self.api.state))
        self.addCleanup(lock.release)
        result = self.run_cli("se", "stop", "--data-plane", "--state", str(self.api.state))
        self.assertEqual(result.exit_code, 4)
        self.assertIn("systemctl stop avise", result.stderr)

    def test_an_envoy_that_a_service_manager_started_is_left_to_it(self):
        self.api.state.chmod(0o700)
        files = EnvoyFiles(self.api.state / "data-plane")
        files.prepare()
        record(files, identify(os.getpid()), by_service=True)
        result = self.run_cli("se", "stop", "--data-plane", "--state", str(self.api.state))
        self.assertEqual(result.exit_code, 4)
        self.assertIn("systemctl stop avinet-envoy", result.stderr)


class Images(CliCase):
    def test_a_built_image_is_a_file_of_ours_alone(self):
        self.answers["POST", "/api/image"] = Answer(
            201, b"tar", "application/x-tar", {"X-Avinet-Image": "i-1"}
        )
        out = self.api.state / "se.tar"
        self.assertIn("i-1", self.answer_of("image", "build", "--out", str(out)))
        self.assertEqual((out.read_bytes(), out.stat().st_mode & 0o777), (b"tar", 0o600))

    def test_a_refused_image_leaves_no_file(self):
        self.answers["POST", "/api/image"] = problem(404, "group-not-found", "There is no group.")
        self.assertEqual(self.run_cli("image", "build", "--out", str(self.api.state / "se.tar")).exit_code, 3)
        self.assertEqual([path.name for path in self.api.state.iterdir()], ["api.sock"])

    def test_a_folder_that_cannot_be_written_is_named(self):
        result = self.run_cli("image", "build", "--out", "/nonexistent/se.tar")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("/nonexistent/se.tar", result.stderr)


class Config(CliCase):
    def setUp(self):
        super().setUp()
        self.file = self.api.state / "a.yaml"
        self.file.write_text("kind: pool\nname: p\n")
        self.applied = {"version": 7, "created": ["pool/p"], "updated": [], "deleted": [], "unchanged": []}

    def test_files_are_sent_as_they_are_and_the_changes_told(self):
        self.answers["POST", "/api/config"] = Answer(body=self.applied)
        self.assertIn("Version 7: 1 created.", self.answer_of("config", "apply", "-f", str(self.file)))
        self.assertEqual(self.api.asked[0].body, b"kind: pool\nname: p\n")

    def test_a_dry_run_says_that_nothing_was_changed(self):
        self.answers["POST", "/api/config?dry_run=true"] = Answer(body=self.applied)
        shown = self.answer_of("config", "apply", "--dry-run", "-f", "-", text="kind: pool\n")
        self.assertIn("Nothing was changed", shown)

    def test_a_file_that_is_not_yaml_is_named_with_the_line_before_anything_is_sent(self):
        self.file.write_text("kind: pool\nservers: [\n")
        result = self.run_cli("config", "apply", "-f", str(self.file))
        self.assertEqual((result.exit_code, self.api.asked), (2, []))
        self.assertIn(f"{self.file}, line 3", result.stderr)

    def test_each_wrong_field_is_a_line(self):
        detail = "The configuration was not changed.\n  pool p: a: wrong\n  pool p: b: wrong"
        self.answers["POST", "/api/config"] = problem(400, "invalid-config", detail)
        result = self.run_cli("config", "apply", "-f", str(self.file))
        self.assertEqual(len(result.stderr.splitlines()), 3)

    def test_engines_that_are_late_are_status_7_after_the_change_was_told(self):
        self.answers["POST", "/api/config"] = Answer(body=self.applied)
        late = problem(504, "not-in-sync", "Version 7 is not in force: se-1.")
        self.answers["GET", "/api/config/status?wait=7&timeout=1"] = late
        result = self.run_cli("config", "apply", "--wait", "--timeout", "1", "-f", str(self.file))
        self.assertEqual(result.exit_code, 7)
        self.assertIn("Version 7", result.stdout)
        self.assertIn("se-1", result.stderr)

    def test_what_get_prints_can_be_applied(self):
        self.answers["GET", "/api/pool/p"] = Answer(body={"name": "p", "servers": [{"ip": "1.2.3.4"}]})
        text = self.answer_of("config", "get", "pool", "p")
        self.answers["POST", "/api/config"] = Answer(body=self.applied)
        self.answer_of("config", "apply", "-f", "-", text=text)

    def test_a_certificate_is_printed_line_by_line(self):
        pem = "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n"
        path = "/api/sslkeyandcertificate/tls"
        self.answers["GET", path] = Answer(body={"name": "tls", "certificate": {"certificate": pem}})
        text = self.answer_of("config", "get", "sslkeyandcertificate", "tls")
        self.assertIn("    -----BEGIN CERTIFICATE-----\n    MIIB\n", text)
        self.answers["POST", "/api/config"] = Answer(body=self.applied)
        self.answer_of("config", "apply", "-f", "-", text=text)

    def test_a_list_is_read_page_by_page(self):
        for page, name in ((1, "a"), (2, "b")):
            self.answers["GET", f"/api/pool?page={page}&page_size=1000"] = Answer(
                body={"count": 2, "results": [{"name": name, "uuid": name}]}
            )
        found = json.loads(self.answer_of("config", "get", "pool", "--json"))
        self.assertEqual([row["name"] for row in found["results"]], ["a", "b"])

    def test_what_is_built_in_is_said_to_be(self):
        for kind, name in (("sslprofile", "System-Modern"), ("ApplicationProfile", "System-L4-Application")):
            result = self.run_cli("config", "get", kind)
            self.assertEqual((result.exit_code, self.api.asked), (2, []))
            self.assertIn("built in", result.stderr)
            self.assertIn(name, result.stderr)

    def test_an_unknown_kind_is_answered_with_the_kinds(self):
        result = self.run_cli("config", "get", "pol")
        self.assertEqual(result.exit_code, 2)
        self.assertIn("virtualservice", result.stderr)


class Events(CliCase):
    def test_nothing_to_show_is_said_beside_the_answer(self):
        nothing = {"results": [], "last_id": 7}
        self.answers["GET", "/api/events?limit=100"] = Answer(body=nothing)
        self.answers["GET", "/api/audit?user=bob&limit=100"] = Answer(body=nothing)
        for line, said in ((("events",), "no event"), (("audit", "--user", "bob"), "no entry")):
            result = self.run_cli(*line)
            self.assertEqual((result.exit_code, result.stdout), (0, ""), result.output)
            self.assertIn(said, result.stderr)

    def test_events_after_an_id_are_read_page_by_page(self):
        pages = [list(range(1, 1001)), [1001]]
        for after, page in zip((0, 1000), pages, strict=True):
            rows = [{"id": n, "at": 0.0, "level": "info", "code": "A", "text": "t"} for n in page]
            self.answers["GET", f"/api/events?since={after}&limit=1000"] = Answer(
                body={"results": rows, "last_id": 1001}
            )
        self.assertEqual(json.loads(self.answer_of("events", "--since", "0", "--json"))["count"], 1001)

    def test_a_follower_goes_on_where_it_was_when_the_controller_comes_back(self):
        from avinet.app.cli.client import Client
        from avinet.app.cli.events import followed

        texts = [b'data: {"id": 4}\n\n', b'data: {"id": 5}\n\n']
        self.answers["GET", "/api/events"] = [Answer(body=text) for text in texts]
        waits = []
        stream = followed(Client.unix(self.api.state / "api.sock"), 3, waits.append)
        self.assertEqual([next(stream)["id"], next(stream)["id"]], [4, 5])
        self.assertEqual([asked.headers["Last-Event-ID"] for asked in self.api.asked], ["3", "4"])
        self.assertEqual(len(waits), 1)


class Whole(CliCase):
    def test_a_controller_that_is_not_there_is_status_5_in_one_line(self):
        result = CliRunner().invoke(cli, ["--state", "/nonexistent", "status"])
        self.assertEqual((result.exit_code, len(result.stderr.splitlines())), (5, 1))

    def test_wrong_usage_is_status_2(self):
        self.assertEqual(self.run_cli("se", "lst").exit_code, 2)

    def test_a_defect_is_two_lines_and_no_traceback(self):
        self.answers["GET", "/api/serviceengine"] = Answer(body={"results": [{}]})
        result = self.run_cli("se", "list")
        self.assertEqual((result.exit_code, len(result.stderr.splitlines())), (1, 2))

    def test_every_command_has_json_and_help(self):
        def walk(command, path):
            options = [name for param in command.params for name in param.opts]
            self.assertEqual("--json" in options, path not in [["se", "ssh"], ["completion"]], path)
            self.assertTrue(command.help or command.callback.__doc__, path)
            for name, child in getattr(command, "commands", {}).items():
                walk(child, [*path, name])

        walk(cli, [])


class Edges(CliCase):
    def test_a_url_that_is_none_is_a_mistake_and_no_defect(self):
        for url in ("https://[::1", "https://127.0.0.1:99999"):
            result = self.run_cli("--api", url, "status")
            self.assertEqual(result.exit_code, 2, result.output)
            self.assertIn("is no URL", result.output)

    def test_output_that_nobody_wants_is_no_defect(self):
        program = [sys.executable, "-c", "from avinet.app.cli.main import main; main()", "version"]
        line = f"{shlex.join(program)} >&-"
        done = subprocess.run(["/bin/sh", "-c", line], capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_a_controllers_folder_is_not_initialised_under_it(self):
        state = Path(self.mktemp())
        state.mkdir(mode=0o700)
        self.addCleanup(StateLock.take(state, "avinet controller").release)
        result = CliRunner().invoke(cli, ["--state", str(state), "init"])
        self.assertEqual(result.exit_code, 4, result.output)
        self.assertIn("Another avinet controller", result.output)
        self.assertFalse(ControllerPaths(state).cluster.exists())
