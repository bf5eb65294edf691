"""What is wrong in a settings file is named by file, section and key."""

import tempfile
from pathlib import Path

import msgspec
from twisted.python.usage import UsageError
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.se_tap import started_by
from avinet.app.settings import (
    SeSettings,
    SettingsError,
    SettingsUnreadableError,
    load_controller_settings,
    load_se_settings,
)


class Wrong(SynchronousTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "a.toml"

    def refused(self, text, load=load_controller_settings):
        self.path.write_text(text)
        failure = self.assertRaises(SettingsError, load, self.path)
        self.assertIn(str(self.path), str(failure))
        return failure

    def test_an_unknown_section_is_named(self):
        self.assertEqual(self.refused("[shh]\nport = 22").where, "[shh]")

    def test_an_unknown_key_is_named_with_its_section(self):
        failure = self.refused("[ssh]\nprot = 22")
        self.assertEqual((failure.where, failure.why), ("[ssh] prot", "there is no such setting"))

    def test_a_word_that_is_none_of_those_allowed_is_named(self):
        failure = self.refused('[data_plane]\nstarted_by = "me"', load_se_settings)
        self.assertEqual(failure.where, "[data_plane] started_by")

    def test_a_wrong_type_is_named(self):
        failure = self.refused('[ssh]\nport = "22"')
        self.assertEqual(failure.where, "[ssh] port")
        self.assertIn("int", failure.why)

    def test_a_value_out_of_range_is_named(self):
        self.assertEqual(self.refused("[ssh]\nport = 70000").where, "[ssh] port")
        self.assertEqual(
            self.refused("[uplink]\ndial_timeout_s = 0", load_se_settings).where, "[uplink] dial_timeout_s"
        )

    def test_what_is_wrong_with_a_value_is_said(self):
        for text, where, why in (
            ("[control]\nheartbeat_interval_s = 0.0\n", "[control] heartbeat_interval_s", "0.1"),
            ("[registration]\ntoken_lifetime_s = inf\n", "[registration] token_lifetime_s", "<="),
            ('[controller]\nname = "a b"\n', "[controller] name", "regex"),
            ('[controller]\naddresses = "one"\n', "[controller] addresses", "array"),
            ('[controller]\nloopback_prefix = "10.1"\n', "[controller] loopback_prefix", "127.N"),
            ("ssh = 5\n", "[ssh]", "object"),
        ):
            failure = self.refused(text)
            self.assertEqual(failure.where, where)
            self.assertIn(why, failure.why)
        for text, where, why in (
            ("[uplnk]\n", "[uplnk]", "no such section"),
            ("[data_plane]\nconcurrency = 1.5\n", "[data_plane] concurrency", "int"),
            ("[uplink]\nbackoff_base_s = 100.0\n", "[uplink] backoff_base_s", "backoff_cap_s"),
        ):
            failure = self.refused(text, load_se_settings)
            self.assertEqual(failure.where, where)
            self.assertIn(why, failure.why)

    def test_a_section_that_is_a_value_is_named(self):
        self.assertEqual(self.refused("ssh = 22").where, "[ssh]")

    def test_a_prefix_that_is_no_loopback_is_refused(self):
        for prefix in ("128.1", "127.0", "127.256", "127.1.1", "127"):
            self.assertEqual(
                self.refused(f'[controller]\nloopback_prefix = "{prefix}"').where,
                "[controller] loopback_prefix",
            )

    def test_a_prefix_in_other_digits_is_refused(self):
        self.assertEqual(
            self.refused('[controller]\nloopback_prefix = "127.\u0661"').where, "[controller] loopback_prefix"
        )

    def test_what_is_no_address_is_refused_before_it_is_signed(self):
        for bad in (
            "host:8443",
            "[::1]",
            "::1:::2",
            "2001:db8::1/64",
            "a\\n",
            "b\u00fccher.example",
            "",
            "a b",
        ):
            for key in ("[controller]\naddresses", "[api]\nnames"):
                failure = self.refused(f'{key} = ["ok.example", "{bad}"]')
                self.assertTrue(failure.where.endswith("[1]"), (bad, failure.where))

    def test_a_name_does_not_end_in_a_line_feed(self):
        self.assertEqual(self.refused('[controller]\nname = "a\\n"').where, "[controller] name")

    def test_host_names_and_addresses_of_both_kinds_are_taken(self):
        self.path.write_text(
            '[controller]\naddresses = ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "lb-1.example"]'
        )
        self.assertEqual(len(load_controller_settings(self.path).addresses), 4)

    def test_an_operators_certificate_may_be_for_every_name_of_a_domain(self):
        self.path.write_text('[api]\nnames = ["*.lb.example"]')
        self.assertIn("*.lb.example", load_controller_settings(self.path).api_names)
        self.refused('[controller]\naddresses = ["*.lb.example"]')

    def test_a_base_above_its_cap_is_refused(self):
        self.refused("[uplink]\nbackoff_base_s = 90.0", load_se_settings)

    def test_one_connection_may_not_hold_more_than_all(self):
        for load in (load_controller_settings, load_se_settings):
            failure = self.refused("[ssh]\nmemory_mib = 32\nconnection_memory_mib = 33", load)
            self.assertEqual(failure.where, "[ssh] connection_memory_mib")

    def test_keys_serve_neither_too_short_nor_too_long(self):
        for bad in ("rekey_bytes = 1048575", "rekey_bytes = 68719476737", "rekey_s = 59", "rekey_s = 86401"):
            for load in (load_controller_settings, load_se_settings):
                self.assertEqual(self.refused(f"[ssh]\n{bad}", load).where, f"[ssh] {bad.split()[0]}")

    def test_what_is_not_toml_is_said_so(self):
        self.assertIn("TOML", self.refused("[ssh").why)
        self.path.write_bytes(b"\xff\xfe")
        self.assertRaises(SettingsError, load_controller_settings, self.path)

    def test_a_file_that_is_not_there_is_named(self):
        why = self.assertRaises(SettingsUnreadableError, load_controller_settings, self.path)
        self.assertEqual(
            str(why), f"The settings file {self.path} cannot be read: No such file or directory."
        )

    def test_no_file_is_all_defaults(self):
        self.assertEqual(load_se_settings(None), SeSettings())


class OnTheCommandLine(SynchronousTestCase):
    def test_who_starts_envoy_wins_over_the_file_and_leaves_the_rest(self):
        chosen = msgspec.structs.replace(SeSettings().data_plane, drain_s=7)
        settings = started_by(SeSettings(data_plane=chosen), "service")
        self.assertEqual((settings.data_plane.started_by, settings.data_plane.drain_s), ("service", 7))

    def test_who_starts_envoy_is_one_of_two(self):
        failure = self.assertRaises(UsageError, started_by, SeSettings(), "me")
        self.assertIn("agent or service", str(failure))
