"""What ``avinet doctor`` finds on a machine."""

import os
import socket
import tempfile
from pathlib import Path
from unittest import mock

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from avinet.app import doctor
from avinet.app.cli.main import cli
from avinet.app.doctor import EARLIEST_CLOCK, Examination, examine
from avinet.model.ids import ControllerName
from avinet.trust.files import write_private
from avinet.trust.locks import StateLock, lock_holder
from avinet.trust.node import ControllerIdentity, ControllerPaths, NodeFacts
from avinet.units import YEAR_S


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Doctor(SynchronousTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="avinet-")
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)
        self.state = self.folder / "c1"
        self.config = self.folder / "c.toml"
        self.ports = [free_port() for _ in range(4)]
        self.configure()

    def configure(self, extra=""):
        ssh, registration, api, reverse = self.ports
        self.config.write_text(
            f'[controller]\naddresses = ["127.0.0.1"]\n[ssh]\nport = {ssh}\nbind = "127.0.0.1"\n'
            f"reverse_port = {reverse}\n{extra}"
            f'[registration]\nport = {registration}\nbind = "127.0.0.1"\n[api]\nport = {api}\nbind = "127.0.0.1"\n'
        )

    def listen(self, port):
        taken = socket.create_server(("127.0.0.1", port))
        self.addCleanup(taken.close)

    def init(self):
        facts = NodeFacts(
            name=ControllerName("c1"),
            addresses=("127.0.0.1",),
            ssh_port=1,
            registration_port=2,
            reverse_port=3,
        )
        ControllerIdentity.init(self.state, facts)

    def outcomes(self, **more):
        findings = examine(Examination(controller_state=self.state, controller_config=self.config, **more))
        for found in findings:
            self.assertEqual(found.outcome == "ok", found.advice == "", found)
        return {found.check: found.outcome for found in findings}

    def test_a_folder_without_a_controller_is_told_how_to_make_one(self):
        self.assertEqual(self.outcomes()["controller state"], "failed")

    def test_a_controller_that_still_starts_is_not_told_to_start(self):
        self.init()
        self.addCleanup(StateLock.take(self.state, "avinet controller").release)
        found = {
            one.check: one
            for one in examine(Examination(controller_state=self.state, controller_config=self.config))
        }
        self.assertIn(f"pid {os.getpid()}", found["controller"].found)
        self.assertIn("majority", found["controller"].advice)
        self.assertNotIn("[ssh] port", found)
        self.assertIsNone(lock_holder(self.folder))

    def test_the_state_folder_may_be_named_after_the_command_as_with_init(self):
        result = CliRunner().invoke(cli, ["doctor", "--state", str(self.state)])
        self.assertIn(f"nothing in {self.state}", result.stdout)

    def test_a_stopped_controller_has_only_that_against_it(self):
        self.init()
        wrong = {check for check, outcome in self.outcomes().items() if outcome != "ok"}
        self.assertEqual(wrong - {"controller disk"}, {"controller"})

    def test_a_key_that_others_can_read_is_found(self):
        self.init()
        ControllerPaths(self.state).node_key.chmod(0o644)
        self.assertEqual(self.outcomes()["controller files"], "failed")

    def test_certificates_are_judged_by_what_is_left(self):
        self.init()
        import time

        later = self.outcomes(now=time.time() + 0.95 * YEAR_S)
        self.assertEqual((later["node certificate"], later["root certificate"]), ("warning", "ok"))
        self.assertEqual(self.outcomes(now=time.time() + 2 * YEAR_S)["node certificate"], "failed")

    def test_a_lost_certificate_is_found(self):
        self.init()
        ControllerPaths(self.state).api_pem.unlink()
        self.assertEqual(self.outcomes()["API certificate"], "failed")

    def test_a_clock_from_before_this_software_is_found(self):
        self.assertEqual(self.outcomes(now=EARLIEST_CLOCK - 1)["clock"], "failed")

    def test_a_taken_port_is_found_by_its_setting(self):
        self.init()
        self.listen(self.ports[1])
        found = self.outcomes()
        self.assertEqual((found["[registration] port"], found["[ssh] port"]), ("failed", "ok"))

    def test_a_port_that_another_program_holds_is_not_the_running_controllers(self):
        self.init()
        controller = socket.socket(socket.AF_UNIX)
        self.addCleanup(controller.close)
        controller.bind(str(ControllerPaths(self.state).api_socket))
        controller.listen()
        self.listen(self.ports[0])
        self.assertEqual(self.port_outcomes(), ["ok", "warning", "warning"])
        self.patch(doctor, "_listener", lambda path: os.getppid())  # now the port is another program's
        self.assertEqual(self.port_outcomes(), ["warning", "warning", "warning"])

    def port_outcomes(self):
        found = self.outcomes()
        self.assertEqual(found["controller"], "ok")
        return [found[f"[{name}] port"] for name in ("ssh", "registration", "api")]

    def test_what_one_loopback_address_keeps_from_the_reverse_forwards_is_found(self):
        self.init()
        with socket.create_server(("127.1.77.7", self.ports[3])):
            findings = examine(Examination(controller_state=self.state, controller_config=self.config))
        (found,) = [found for found in findings if found.check == "[ssh] reverse_port"]
        self.assertEqual(found.outcome, "failed")
        self.assertIn("on 127.1.77.7", found.found)

    def test_ses_that_have_a_socket_each_need_no_port_of_the_controllers(self):
        self.init()
        self.patch(doctor, "device_refusal", lambda: "it is not to be had")
        self.assertNotIn("[ssh] reverse_port", self.outcomes())
        self.assertEqual(self.outcomes()["reverse forwards"], "ok")

    def test_wrong_settings_are_found(self):
        self.init()
        self.configure("prot = 1\n")
        self.assertEqual(self.outcomes()["controller settings"], "failed")

    def test_an_empty_se_folder_is_found(self):
        findings = examine(Examination(se_state=self.folder))
        self.assertEqual({f.check: f.outcome for f in findings}["SE state"], "failed")

    def at_rest(self):
        (self.folder / "enrolment").mkdir(exist_ok=True)
        (self.folder / "image").mkdir(exist_ok=True)
        findings = examine(Examination(se_state=self.folder))
        return [found for found in findings if found.check == "key at rest"]

    def test_where_an_ses_key_at_rest_is(self):
        config = self.folder / "config"
        (found,) = self.at_rest()
        self.assertEqual((found.outcome, found.found), ("ok", "none yet; made with the first configuration"))
        config.mkdir(mode=0o700)
        write_private(config / "at-rest.key", b"k" * 32)
        (found,) = self.at_rest()
        self.assertEqual(found.outcome, "ok")
        self.assertIn(f"{config}/at-rest.key, a 0600 file", found.found)
        (config / "at-rest.key").rename(config / "at-rest.cred")
        with mock.patch.object(doctor, "can_seal", return_value="/usr/bin/systemd-creds"):
            (found,) = self.at_rest()
        self.assertEqual(found.outcome, "ok")
        self.assertIn(f"{config}/at-rest.cred, sealed to this machine by systemd-creds", found.found)
        with mock.patch.object(doctor, "can_seal", return_value=None):
            (found,) = self.at_rest()
        self.assertEqual(found.outcome, "warning")
        self.assertIn("no systemd", found.found)

    def test_a_key_at_rest_that_others_can_read_is_found(self):
        (self.folder / "config").mkdir(mode=0o700)
        write_private(self.folder / "config" / "at-rest.key", b"k" * 32)
        (self.folder / "config" / "at-rest.key").chmod(0o644)
        self.at_rest()
        findings = examine(Examination(se_state=self.folder))
        failed = [found.found for found in findings if (found.check, found.outcome) == ("SE files", "failed")]
        self.assertIn(f"{self.folder}/config/at-rest.key has mode 0644", failed)

    def test_a_credential_that_could_not_be_opened_is_told_until_it_is_removed(self):
        (self.folder / "config").mkdir(mode=0o700)
        write_private(self.folder / "config" / "at-rest.cred.bad", b"sealed")
        _, found = self.at_rest()
        self.assertEqual(found.outcome, "warning")
        self.assertIn("at-rest.cred.bad", found.found)
