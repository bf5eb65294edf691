"""What ``avinet se`` says of service engines."""

from unittest import mock

import attrs

from avinet.app.cli import leaving
from avinet.model.config import KINDS
from tests.unit.api_double import Answer, problem
from tests.unit.cli_kit import ENGINE, CliCase

NO_ENGINE = {"count": 0, "results": []}


class Lists(CliCase):
    def test_a_state_that_there_is_not_is_answered_with_the_states(self):
        result = self.run_cli("se", "list", "--state", "FOO")
        self.assertEqual((result.exit_code, self.api.asked), (2, []))
        self.assertIn("QUARANTINED", result.stderr)

    def test_a_filter_that_nothing_passes_is_told_as_that(self):
        self.answers["GET", "/api/serviceengine?state=DOWN"] = Answer(body=NO_ENGINE)
        said = self.run_cli("se", "list", "--state", "down").stderr
        self.assertIn("No service engine matches", said)
        self.assertNotIn("se create", said)

    def test_a_fleet_of_none_is_told_how_to_begin(self):
        self.answers["GET", "/api/serviceengine"] = Answer(body=NO_ENGINE)
        self.assertIn("avinet se create", self.run_cli("se", "list").stderr)


class Commands(CliCase):
    def said_by(self, verb, **before):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body={**ENGINE, **before})
        self.answers["POST", f"/api/serviceengine/se-1/{verb}"] = Answer(body=ENGINE)
        return self.answer_of("se", verb, "se-1")

    def test_an_approval_of_one_that_does_not_wait_says_that_nothing_was_done(self):
        self.assertIn("nothing was done", self.said_by("approve", state="UP"))
        self.assertNotIn("nothing was done", self.said_by("approve", state="PENDING"))

    def test_placement_allowed_twice_says_that_nothing_was_done(self):
        self.assertIn("nothing was done", self.said_by("place", placeable=True))
        self.assertNotIn("nothing was done", self.said_by("place", placeable=False))

    def test_one_out_of_quarantine_is_said_to_take_a_while(self):
        self.assertIn("within two minutes", self.said_by("enable", state="QUARANTINED"))
        self.assertNotIn("within two minutes", self.said_by("enable", state="DISABLED"))


class Leaving(CliCase):
    GONE = problem(404, "engine-not-found", "There is no service engine se-11.")

    def setUp(self):
        super().setUp()
        self.patch(leaving, "POLL_S", 0.0)
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body=ENGINE)

    def row(self, **more):
        return Answer(body={**ENGINE, "state": "DISABLED", "leaving": True, **more})

    def test_a_deletion_shows_what_is_left_until_it_is_gone(self):
        self.answers["DELETE", "/api/serviceengine/se-11"] = attrs.evolve(self.row(draining=2), status=202)
        held = {"name": "www", "stage": "held", "why": "se-2 is away"}
        self.answers["GET", "/api/serviceengine/se-11"] = [
            self.row(draining=2),
            self.row(draining=1, virtual_services=[held]),
            self.GONE,
        ]
        result = self.run_cli("se", "delete", "se-1", "--yes")
        self.assertEqual(result.exit_code, 0, result.output)
        self.assertEqual(
            result.stderr.splitlines(),
            [
                "Service engine se-1 drains 2 virtual services.",
                "Service engine se-1 drains 1 virtual service; 1 virtual service not yet served elsewhere: se-2 is away.",
            ],
        )
        self.assertIn("was deleted", result.stdout)

    def test_a_deletion_that_is_called_off_is_told_as_that(self):
        self.answers["DELETE", "/api/serviceengine/se-11"] = attrs.evolve(self.row(draining=2), status=202)
        self.answers["GET", "/api/serviceengine/se-11"] = Answer(body=ENGINE)
        result = self.run_cli("se", "delete", "se-1", "--yes")
        self.assertEqual(result.exit_code, 4)
        self.assertIn("was enabled meanwhile", result.stderr)

    def test_at_once_asks_for_no_drain(self):
        self.answers["DELETE", "/api/serviceengine/se-11?now=true"] = Answer(204)
        self.assertIn("was deleted", self.answer_of("se", "delete", "se-1", "--yes", "--now"))

    def test_one_that_is_disabled_is_said_to_drain_what_it_has(self):
        row = {**ENGINE, "state": "DISABLED"}
        self.answers["POST", "/api/serviceengine/se-1/disable"] = Answer(body=row)
        self.assertNotIn("drains", self.answer_of("se", "disable", "se-1"))
        self.answers["POST", "/api/serviceengine/se-1/disable"] = Answer(body={**row, "services": 3})
        self.assertIn("drains 3 virtual services", self.answer_of("se", "disable", "se-1"))
        self.assertNotIn("drains", self.answer_of("se", "disable", "se-1", "--now"))
        self.assertEqual(self.api.asked[-1].json, {"note": "", "now": True})

    def test_one_that_nobody_can_take_over_from_is_said_to_go_on_serving(self):
        row = {**ENGINE, "state": "DISABLED", "held": 2, "stranded": ["web", "api"]}
        self.answers["POST", "/api/serviceengine/se-1/disable"] = Answer(body=row)
        result = self.run_cli("se", "disable", "se-1")
        self.assertNotIn("drains", result.output)
        for words in ("warning: no other", "web, api", "goes on serving", "--now"):
            self.assertIn(words, result.stderr)
        self.assertIn("nobody serves web, api now", self.run_cli("se", "disable", "se-1", "--now").stderr)
        cut_off = {**row, "state": "QUARANTINED", "held": 0}
        self.answers["POST", "/api/serviceengine/se-1/quarantine"] = Answer(body=cut_off)
        said = self.run_cli("se", "quarantine", "se-1", "--yes").stderr
        self.assertIn("nobody serves web, api now", said)
        body = {**row, "held": 3}
        self.answers["POST", "/api/serviceengine/se-1/disable"] = Answer(body=body)
        self.assertIn("drains 1 virtual service;", self.run_cli("se", "disable", "se-1").stdout)

    def test_a_list_counts_what_each_serves_drains_and_holds(self):
        self.answers["GET", "/api/serviceengine"] = Answer(
            body={"count": 1, "results": [{**ENGINE, "services": 4, "draining": 2, "held": 1}]}
        )
        self.assertIn("4 (2 draining, 1 held)", self.answer_of("se", "list"))


class Placed(CliCase):
    WEB = {
        "name": "web", "uuid": "virtualservice-1", "enabled": True, "group": "G", "least": 2, "most": 4,
        "wanted": 1, "serving": 2, "short": True, "why": "group G has 1 service engine that can serve",
        "engines": [
            {"name": "se-1", "uuid": "se-11", "stage": "serving", "why": ""},
            {"name": "se-2", "uuid": "se-22", "stage": "draining", "why": "", "over_in_s": 12.4},
        ],
    }  # fmt: skip

    def test_virtual_services_are_listed_with_where_they_are_and_what_is_short(self):
        self.answers["GET", "/api/placement?short=true"] = Answer(body={"count": 1, "results": [self.WEB]})
        shown = self.answer_of("vs", "list", "--short")
        for words in ("1 of 2 to 4", "se-1, se-2 (draining)", "group G has 1 service engine"):
            self.assertIn(words, shown)

    def test_one_is_shown_with_the_stage_of_each_engine(self):
        self.answers["GET", "/api/placement/web"] = Answer(body=self.WEB)
        shown = self.answer_of("vs", "show", "web")
        for words in ("se-11", "12 s", "that can serve"):
            self.assertIn(words, shown)

    def test_one_that_is_nowhere_says_why(self):
        nowhere = {**self.WEB, "engines": [], "short": False, "why": "it is disabled"}
        self.answers["GET", "/api/placement/web"] = Answer(body=nowhere)
        self.assertIn("it is disabled", self.run_cli("vs", "show", "web").output)


class Shown(CliCase):
    CHANNEL = {
        "address": "192.0.2.7", "age_s": 61.5, "peer": "SSH-2.0-other\x1b[2J", "kex": "curve25519-sha256",
        "host_key": "ssh-ed25519", "cipher_in": "aes256-gcm@openssh.com", "cipher_out": "aes256-ctr",
        "mac_in": "implicit", "mac_out": "hmac-sha2-256-etm@openssh.com", "strict": True, "rekeys": 2,
        "channels": 1, "rtt_min_ms": 70.25, "rate_bytes_s": 12_582_912, "window_bytes": 131_072, "held_bytes": 0,
    }  # fmt: skip

    def test_one_that_is_attached_is_shown_with_its_secure_channel(self):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(
            body={**ENGINE, "secure_channel": self.CHANNEL}
        )
        shown = self.answer_of("se", "show", "se-1")
        for words in (
            "aes256-gcm@openssh.com, aes256-ctr",
            "implicit, hmac-sha2-256-etm@openssh.com",
            "curve25519-sha256",
            "70.25 ms",
            "12.0 MiB/s",
            "128.0 KiB",
        ):
            self.assertIn(words, shown)
        self.assertNotIn("\x1b[2J", shown)

    def test_one_that_is_not_attached_has_none(self):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body={**ENGINE, "secure_channel": None})
        self.assertNotIn("secure channel", self.answer_of("se", "show", "se-1"))


class Runtime(CliCase):
    def test_what_a_data_plane_reports_bears_the_names_that_operators_gave(self):
        self.answers["GET", "/api/serviceengine/se-1"] = Answer(body=ENGINE)
        for kind, uuid, name in (("pool", "u-1", "web-pool"), ("virtualservice", "u-2", "web")):
            self.answers["GET", f"/api/{kind}?page=1&page_size=1000"] = Answer(
                body={"count": 1, "results": [{"name": name, "uuid": uuid}]}
            )
        self.answers["GET", "/api/serviceengine/se-11/runtime"] = Answer(
            body={
                "data_plane": "envoy",
                "data_plane_up": True,
                "data_plane_started_at": 0.0,
                "health": [{"pool": "u-1", "server": "h:1", "up": True}, {"pool": "u-9", "server": "h:2"}],
                "services": [{"service": "virtualservice/u-2", "requests": 3}],
            }
        )
        shown = self.answer_of("se", "show", "se-1", "--runtime")
        for word in ("web-pool", "web ", "u-9"):
            self.assertIn(word, shown)
        self.assertNotIn("u-1", shown)


class Help(CliCase):
    def test_kinds_are_listed_where_one_is_wanted(self):
        for verb in ("get", "delete"):
            shown = self.answer_of("config", verb, "--help")
            for kind in KINDS:
                self.assertIn(kind, shown)

    def test_no_sentence_in_a_list_of_commands_is_cut(self):
        for group in ((), ("se",), ("config",), ("se", "token")):
            listed = self.answer_of(*group, "--help").partition("Commands:")[2].partition("A first tour")[0]
            self.assertNotIn("...", listed)

    def test_the_demo_says_how_many_controllers_it_runs(self):
        self.assertIn("3 that form a cluster", self.answer_of("demo", "--help"))


class Restored(CliCase):
    def test_a_restore_is_followed_by_what_to_do_next(self):
        with mock.patch("avinet.app.restore.mark_restored", return_value=2):
            shown = self.answer_of("restored")
        for word in ("start the controller", "Delete again"):
            self.assertIn(word, shown)
