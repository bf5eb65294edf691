"""``avinet cluster`` against recorded answers."""

import json
from unittest import mock

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.errors import CONFLICT, DENIED, INTERRUPTED, INVALID, NOT_FOUND, UNAVAILABLE
from avinet.app.cli.removal_logs import fate
from avinet.app.join import Join
from avinet.controller.join_tokens import JoinTokenSpentError
from avinet.trust.bundle import Bundle
from avinet.trust.files import write_private
from avinet.trust.membership import sign_membership
from tests.unit import signing_kit
from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import CliCase
from tests.unit.trust_kit import mode

ROW = {
    "name": "c1",
    "role": "leader",
    "software": "1.0",
    "rtt_ms": None,
    "why": "",
    "addresses": ["192.0.2.1"],
    "ssh_port": 22,
    "registration_port": 8443,
    "root_key": True,
    "links": [],
    "ports": [],
}
STATUS = {
    "cluster": "u",
    "name": "c1",
    "membership": 4,
    "quorum": True,
    "root_holder": "c1",
    "members": [ROW, {**ROW, "name": "c2", "role": "unreachable", "why": "it does not answer"}],
    "warnings": ["Have 3."],
}


OWN = {
    "controller": "c2",
    "store": {"records": 60},
    "store_id": "new",
    "uncopied": 7,
    "copies": [{"store_id": "one", "controller": "c1", "records": 5, "uncopied": 9}],
}
"""Its ledger was made anew once: of its records before there are copies alone."""
KEEPER = {
    "controller": "c1",
    "store": {"records": 1},
    "store_id": "one",
    "copies": [
        {"store_id": "new", "controller": "c2", "records": 50, "uncopied": 7},
        {"store_id": "old", "controller": "c2", "records": 40, "uncopied": 30},
    ],
}


class Fates(SynchronousTestCase):
    def told(self, *rows):
        return fate(rows, "c2").after()

    def test_one_that_is_lost_is_known_by_its_copies(self):
        lost = {"controller": "c2", "store": None, "why": "It is gone."}
        self.assertEqual((fate([lost, KEEPER], "c2").stay, fate([lost, KEEPER], "c2").go), (90, 30))
        self.assertIn("nobody knows how many", self.told(lost, {**KEEPER, "copies": []})[0])

    def test_without_copies_all_of_it_goes(self):
        (line, *_) = self.told({**OWN, "uncopied": 99}, {**KEEPER, "copies": []})
        self.assertIn(" 0 records stay as copies with others; 60 without a copy go with it.", line)

    def test_who_says_nothing_is_named(self):
        silent = {"controller": "c3", "store": None, "why": "It hangs."}
        self.assertIn("Not counted is what c3 may have.", self.told(OWN, KEEPER, silent))

    def test_of_one_that_nobody_knows_nothing_is_said(self):
        self.assertIsNone(fate([KEEPER], "c2"))


class Case(CliCase):
    def setUp(self):
        super().setUp()
        root = signing_kit.root_in_memory()
        self.bundle = Bundle(
            cluster=signing_kit.CLUSTER,
            root=root.pem.decode(),
            membership=sign_membership(root.key, signing_kit.membership(root)),
            controllers=("192.0.2.1:8443",),
            token="avt1.a.secret",
            expires_at=0.0,
        )
        self.out = self.api.state / "bundle"


class Operators(Case):
    def test_status_shows_which_connections_are_up_and_ports_that_are_not_forwarded(self):
        links = [{"lane": "state", "up": True}, {"lane": "bulk", "up": False}]
        ports = [{"port": 2379, "how": "direct"}, {"port": 2380, "how": "direct"}]
        other = {**ROW, "name": "c2", "role": "follower", "links": links, "ports": ports}
        self.answers["GET", "/api/cluster"] = Answer(body={**STATUS, "members": [ROW, other]})
        result = self.run_cli("cluster", "status")
        self.assertRegex(result.output, r"c2 +follower +1\.0 +state, direct ")
        self.assertRegex(result.output, r"c1 +leader +1\.0 +- ")

    def test_status_shows_every_controller_and_notes_on_stderr(self):
        self.answers["GET", "/api/cluster"] = Answer(body=STATUS)
        result = self.run_cli("cluster", "status")
        for part in ("c1", "leader", "c2", "unreachable", "it does not answer", "root key", "yes"):
            self.assertIn(part, result.stdout)
        self.assertIn("Have 3.", result.stderr)
        self.assertEqual(json.loads(self.answer_of("cluster", "status", "--json")), STATUS)

    def test_without_quorum_or_root_it_says_what_that_means(self):
        self.answers["GET", "/api/cluster"] = Answer(body={**STATUS, "quorum": False, "root_holder": None})
        shown = self.answer_of("cluster", "status")
        self.assertIn("nothing can be changed", shown)
        self.assertIn("nobody can join", shown)

    def test_a_bundle_goes_to_a_file_of_ours_alone_and_not_to_the_screen(self):
        self.answers["POST", "/api/cluster/bundle"] = Answer(201, msgspec.to_builtins(self.bundle))
        for more in ((), ("--json",)):
            shown = self.run_cli("cluster", "bundle", "--out", str(self.out), *more)
            self.assertEqual(shown.exit_code, 0)
            self.assertNotIn("avt1", shown.output)
            self.assertEqual(mode(self.out), 0o600)
            self.assertEqual(msgspec.json.decode(self.out.read_bytes(), type=Bundle), self.bundle)
            self.out.unlink()
        self.assertEqual(self.api.asked[0].json, {})

    def test_a_bundle_that_is_refused_leaves_no_file(self):
        self.answers["POST", "/api/cluster/bundle"] = problem(409, "state-engine-alone", "Alone.")
        result = self.run_cli("cluster", "bundle", "--out", str(self.out))
        self.assertEqual((result.exit_code, list(self.api.state.glob("*bundle*"))), (CONFLICT, []))

    def test_a_place_is_given_after_asking(self):
        self.answers["POST", "/api/cluster/bundle"] = Answer(201, msgspec.to_builtins(self.bundle))
        arguments = ("cluster", "replace", "c2", "--out", str(self.out))
        with mock.patch("avinet.app.cli.asking.at_terminal", return_value=True):
            self.assertEqual(self.run_cli(*arguments, text="n\n").exit_code, INTERRUPTED)
        self.assertEqual([asked.method for asked in self.api.asked], ["GET"])
        self.answer_of(*arguments, "--yes")
        self.assertEqual(self.api.asked[-1].json, {"replaces": "c2"})

    def test_a_place_is_given_once_it_is_told_what_becomes_of_request_logs(self):
        self.answers["POST", "/api/cluster/bundle"] = Answer(201, msgspec.to_builtins(self.bundle))
        self.answers["GET", "/api/logs/status"] = Answer(body={"controllers": [OWN, KEEPER]})
        result = self.run_cli("cluster", "replace", "c2", "--out", str(self.out), "--yes")
        self.assertEqual(result.exit_code, 0)
        self.assertIn("Of its request logs", result.stderr)

    def test_removing_asks_and_says_what_came_of_it(self):
        done = {"name": "c2", "membership": 5, "warnings": ["Have 3."]}
        self.answers["DELETE", "/api/cluster/controller/c2"] = Answer(body=done)
        with mock.patch("avinet.app.cli.asking.at_terminal", return_value=True):
            self.assertEqual(self.run_cli("cluster", "remove", "c2", text="n\n").exit_code, INTERRUPTED)
        self.assertEqual(self.run_cli("cluster", "remove", "c2").exit_code, INVALID)
        self.assertEqual(self.api.asked, [])
        result = self.run_cli("cluster", "remove", "c2", "--yes")
        self.assertIn("list 5", result.stdout)
        self.assertIn("Have 3.", result.stderr)
        self.assertEqual(json.loads(self.answer_of("cluster", "remove", "c2", "--yes", "--json")), done)

    def test_removing_says_what_becomes_of_its_request_logs(self):
        done = {"name": "c2", "membership": 5, "warnings": []}
        self.answers["DELETE", "/api/cluster/controller/c2"] = Answer(body=done)
        self.answers["GET", "/api/logs/status"] = Answer(body={"controllers": [OWN, KEEPER]})
        with (
            mock.patch("avinet.app.cli.asking.at_terminal", return_value=True),
            mock.patch("avinet.app.cli.cluster.at_terminal", return_value=True),
        ):
            before = self.run_cli("cluster", "remove", "c2", text="n\n")
        self.assertIn("90 records stay as copies with others; 7 without a copy go with it.", before.stderr)
        self.assertIn("avinet logs export", before.stderr)
        after = self.answer_of("cluster", "remove", "c2", "--yes")
        self.assertIn("90 records stay as copies", after)
        found = json.loads(self.answer_of("cluster", "remove", "c2", "--yes", "--json"))
        self.assertEqual(found["request_logs"], {"stay": 90, "go": 7, "bared": 5, "not_counted": []})

    def test_refusals_have_their_exit_status(self):
        for status, expected in ((404, NOT_FOUND), (409, CONFLICT), (503, UNAVAILABLE), (403, DENIED)):
            self.answers["DELETE", "/api/cluster/controller/c2"] = problem(status, "why", "So.")
            result = self.run_cli("cluster", "remove", "c2", "--yes")
            self.assertEqual((result.exit_code, result.stderr), (expected, "avinet: So.\n"))


class Joining(Case):
    def join(self, *more):
        return self.run_cli("cluster", "join", str(self.out), "--state", str(self.api.state / "new"), *more)

    def test_it_says_what_was_made_and_what_comes_next(self):
        write_private(self.out, msgspec.json.encode(self.bundle))
        self.patch(Join, "run", lambda join: join.bundle.verified())
        shown = self.join()
        self.assertEqual(shown.exit_code, 0, shown.output)
        for part in (signing_kit.CLUSTER, "c1", "twistd -n avicontroller", f"delete {self.out}"):
            self.assertIn(part, shown.stdout)
        made = json.loads(self.join("--json").stdout)
        self.assertEqual((made["controllers"], made["membership"]), (["c1"], 1))

    def test_what_goes_wrong_is_a_line_and_a_status(self):
        self.assertEqual(self.join().exit_code, NOT_FOUND)
        write_private(self.out, b"{}")
        self.assertEqual(self.join().exit_code, INVALID)
        write_private(self.out, msgspec.json.encode(self.bundle))

        def spent(join):
            raise JoinTokenSpentError(token="a")

        self.patch(Join, "run", spent)
        result = self.join()
        self.assertEqual(result.exit_code, CONFLICT)
        self.assertIn("avinet cluster bundle", result.stderr)
        self.out.chmod(0o644)
        self.assertEqual(self.join().exit_code, DENIED)
        self.assertNotIn("secret", result.output)

    def test_it_works_on_this_machine_alone(self):
        write_private(self.out, msgspec.json.encode(self.bundle))
        result = self.run_cli("--api", "https://c1", "cluster", "join", str(self.out))
        self.assertEqual(result.exit_code, INVALID)
