"""What ``avinet login`` keeps and compares."""

import os
import socket
import tempfile
from pathlib import Path

import msgspec
from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.client import Client
from avinet.app.cli.context import Place
from avinet.app.cli.errors import NotHereError, UsageError
from avinet.app.cli.main import cli
from avinet.app.cli.pin import (
    LoginDamagedError,
    NoRootError,
    Pinned,
    Root,
    login_path,
    read_login,
    same_fingerprint,
    write_login,
)
from avinet.app.cli.users import seconds_of
from avinet.model.ids import new_cluster_id
from avinet.trust.ca import RootCa

LOGIN = Pinned(
    url="https://ctl",
    root="PEM",
    fingerprint="AB",
    user="olga",
    token="avo1.secret",
    token_id="1",
    expires_at=1.0,
)


class PinTests(SynchronousTestCase):
    def setUp(self):
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
        self.patch(os, "environ", {**os.environ, "XDG_CONFIG_HOME": str(self.folder / "config")})

    def test_a_login_is_kept_privately_and_read_back(self):
        self.assertIsNone(read_login())
        path = write_login(LOGIN)
        self.assertEqual(path, login_path())
        self.assertEqual((path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777), (0o600, 0o700))
        self.assertEqual(read_login(), LOGIN)
        self.assertNotIn("secret", repr(LOGIN))

    def test_a_login_counts_where_nothing_else_says_which_controller_and_no_local_file_is_needed(self):
        write_login(
            msgspec.structs.replace(LOGIN, root=RootCa.create(self.folder, new_cluster_id()).pem.decode())
        )
        given, silent = Place(state=Path("/x")), Place(state=Path("/x"), state_given=False)
        self.assertEqual((given.client().place, silent.client().place), ("/x/api.sock", "https://ctl"))
        silent.local_state("avinet se exec")
        self.assertEqual(silent.client().place, "/x/api.sock")

    def test_a_command_for_the_controllers_machine_says_so_to_who_is_logged_in_to_another(self):
        nowhere = ("--state", str(self.folder / "none"))
        for line in (("se", "exec", "se-1", "uptime"), ("se", "ssh", "se-1"), ("se", "copy", "se-1:x", ".")):
            said = self.failing(2, *nowhere, *line)
            self.assertIn("works on the controller's machine only", said)
            self.assertIn("--state DIR", said)
            self.assertNotIn("--api", said)
        write_login(LOGIN)
        place = Place(state=self.folder / "none", state_given=False)
        failure = self.assertRaises(NotHereError, place.local_keys, "avinet se exec")
        self.assertIn("logged in to https://ctl;", str(failure))

    def test_where_no_controller_answers_the_way_to_say_where_it_is_fits_the_command(self):
        said = self.failing(5, "--state", str(self.folder / "none"), "status")
        self.assertIn("avinet login URL", said)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            closed = f"https://127.0.0.1:{taken.getsockname()[1]}"
        for line in (("login", closed), ("--api", closed, "status")):
            said = self.failing(5, *line)
            self.assertNotIn("--api", said)
            self.assertIn("[api] port", said)

    def test_who_cannot_compare_a_fingerprint_is_told_how_it_is_shown(self):
        root = RootCa.create(self.folder, new_cluster_id())
        self.patch(Client, "root_of", lambda url: root.pem)
        for line in ((), ("--fingerprint", "AB")):
            said = self.failing(6 if line else 2, "login", "https://ctl", *line)
            self.assertIn("openssl x509 -noout -fingerprint -sha256", said)

    def failing(self, status, *line):
        result = CliRunner().invoke(cli, line)
        self.assertEqual(result.exit_code, status, result.output)
        return result.stderr

    def test_a_damaged_login_is_told(self):
        write_login(LOGIN).write_bytes(b"{")
        self.assertRaises(LoginDamagedError, read_login)

    def test_a_relative_configuration_folder_is_ignored(self):
        os.environ["XDG_CONFIG_HOME"] = "here"
        self.assertTrue(login_path().is_absolute())

    def test_fingerprints_are_the_same_however_they_are_written(self):
        for other in ("ab:cd", "ABCD", "AB:CD\n", "SHA256:abcd", "sha256=ABcd", "sha256 Fingerprint=AB:CD"):
            self.assertTrue(same_fingerprint("AB:CD", other), other)
        for other in ("", "AB", "AB:CE", "AB:CD:00"):
            self.assertFalse(same_fingerprint("AB:CD", other), other)

    def test_only_the_certificate_of_an_authority_is_a_root(self):
        root = RootCa.create(self.folder, new_cluster_id())
        self.assertEqual(len(Root.of(root.pem, "x").fingerprint), 32 * 3 - 1)
        from cryptography.hazmat.primitives.asymmetric import ec

        leaf = root.issue_api(ec.generate_private_key(ec.SECP256R1()).public_key(), ["localhost"])
        for pem in (b"", b"<html>", leaf, root.pem * 50):
            self.assertRaises(NoRootError, Root.of, pem, "x")

    def test_times_are_read_with_their_unit(self):
        self.assertEqual(
            [seconds_of(t) for t in ("90m", "12h", "30d", "2w")], [5400, 43200, 2592000, 1209600]
        )
        for text in ("", "0d", "1", "d", "1.5d", "-1d", "1y", "59s", "367d", "53w"):
            self.assertRaises(UsageError, seconds_of, text)
