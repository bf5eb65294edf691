"""What is wrong in a settings file is named by file, section and key."""

import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.app.settings import (
    SeSettings,
    SettingsError,
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

    def test_a_wrong_type_is_named(self):
        failure = self.refused('[ssh]\nport = "22"')
        self.assertEqual(failure.where, "[ssh] port")
        self.assertIn("int", failure.why)

    def test_a_value_out_of_range_is_named(self):
        self.assertEqual(self.refused("[ssh]\nport = 70000").where, "[ssh] port")
        self.assertEqual(
            self.refused("[uplink]\ndial_timeout_s = 0", load_se_settings).where, "[uplink] dial_timeout_s"
        )

    def test_a_section_that_is_a_value_is_named(self):
        self.assertEqual(self.refused("ssh = 22").where, "[ssh]")

    def test_a_prefix_that_is_no_loopback_is_refused(self):
        for prefix in ("128.1", "127.0", "127.256", "127.1.1", "127"):
            self.assertEqual(
                self.refused(f'[controller]\nloopback_prefix = "{prefix}"').where,
                "[controller] loopback_prefix",
            )

    def test_a_base_above_its_cap_is_refused(self):
        self.refused("[uplink]\nbackoff_base_s = 90.0", load_se_settings)

    def test_what_is_not_toml_is_said_so(self):
        self.assertIn("TOML", self.refused("[ssh").why)
        self.path.write_bytes(b"\xff\xfe")
        self.assertRaises(SettingsError, load_controller_settings, self.path)

    def test_a_file_that_is_not_there_is_named(self):
        self.assertRaises(SettingsError, load_controller_settings, self.path)

    def test_no_file_is_all_defaults(self):
        self.assertEqual(load_se_settings(None), SeSettings())
