"""What ``avinet se`` says of service engines."""

from unittest import mock

from avinet.model.config import KINDS
from tests.unit.api_double import Answer
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
        self.assertIn("This version runs one.", self.answer_of("demo", "--help"))


class Restored(CliCase):
    def test_a_restore_is_followed_by_what_to_do_next(self):
        with mock.patch("avinet.app.restore.mark_restored", return_value=2):
            shown = self.answer_of("restored")
        for word in ("start the controller", "Delete again"):
            self.assertIn(word, shown)
