"""What an SE keeps on disk cannot be read without its key."""

import tempfile
from pathlib import Path
from unittest import mock

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.ids import ConfigVersion
from avinet.model.resources import Resource
from avinet.se import at_rest
from avinet.se.at_rest import DECRYPT_PAUSE_S, DECRYPT_TRIES, MAGIC, UnsealedError, Vault
from avinet.se.config_files import ConfigFiles, LastGood, SavedStateError, _SavedResource, _SavedState
from avinet.trust.files import DiskFullError

SECRET = b"-----BEGIN PRIVATE KEY-----"


class Vaults(SynchronousTestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.folder = Path(held.name)

    def test_what_is_sealed_comes_back_for_the_same_folder_only(self):
        sealed = Vault(self.folder).seal(SECRET)
        self.assertNotIn(SECRET, sealed)
        self.assertEqual(Vault(self.folder).unseal(sealed), SECRET)
        self.assertEqual((self.folder / "at-rest.key").stat().st_mode & 0o777, 0o600)
        (self.folder / "at-rest.key").unlink()
        self.assertRaises(UnsealedError, Vault(self.folder).unseal, sealed)
        self.assertEqual(list(self.folder.iterdir()), [])  # reading makes no key

    def test_each_byte_counts(self):
        vault = Vault(self.folder)
        sealed = vault.seal(b"x")
        for at in range(len(MAGIC), len(sealed)):
            changed = bytearray(sealed)
            changed[at] ^= 1
            self.assertRaises(UnsealedError, vault.unseal, bytes(changed))
        self.assertRaises(UnsealedError, vault.unseal, MAGIC)

    def test_the_key_is_a_credential_of_the_machine_where_systemd_can_seal_one(self):
        def creds(verb, data):
            return b"sealed:" + data if verb == "encrypt" else data.removeprefix(b"sealed:")

        with mock.patch.object(at_rest, "_systemd_creds", creds):
            sealed = Vault(self.folder).seal(SECRET)
            self.assertEqual([p.name for p in self.folder.iterdir()], ["at-rest.cred"])
            self.assertEqual(Vault(self.folder).unseal(sealed), SECRET)
        with mock.patch.object(at_rest, "_systemd_creds", return_value=b""):  # another machine
            self.assertRaises(UnsealedError, Vault(self.folder, [].append).unseal, sealed)
        self.flushLoggedErrors()

    def sealed_by_the_machine(self):
        with mock.patch.object(at_rest, "_systemd_creds", side_effect=lambda verb, data: data):
            return Vault(self.folder).seal(SECRET)

    def test_a_credential_that_opens_late_opens(self):
        sealed, answers, slept = self.sealed_by_the_machine(), [b"", b""], []

        def creds(verb, data):
            return answers.pop() if answers else data

        with (
            mock.patch.object(at_rest, "_systemd_creds", creds),
            mock.patch.object(at_rest, "can_seal", return_value="systemd-creds"),
        ):
            self.assertEqual(Vault(self.folder, slept.append).unseal(sealed), SECRET)
        self.assertEqual(slept, [DECRYPT_PAUSE_S] * 2)

    def test_one_that_never_opens_is_given_up_after_some_tries_and_without_systemd_at_once(self):
        sealed, slept = self.sealed_by_the_machine(), []
        with mock.patch.object(at_rest, "_systemd_creds", return_value=b"") as creds:
            with mock.patch.object(at_rest, "can_seal", return_value="systemd-creds"):
                self.assertRaises(UnsealedError, Vault(self.folder, slept.append).unseal, sealed)
            self.assertEqual((creds.call_count, len(slept)), (DECRYPT_TRIES, DECRYPT_TRIES - 1))
            with mock.patch.object(at_rest, "can_seal", return_value=None):
                self.assertRaises(UnsealedError, Vault(self.folder, slept.append).unseal, sealed)
            self.assertEqual(creds.call_count, DECRYPT_TRIES + 1)
        self.flushLoggedErrors()

    def test_a_credential_that_cannot_be_opened_is_kept_beside_the_new_key_and_opens_what_it_sealed(self):
        sealed = self.sealed_by_the_machine()
        old = (self.folder / "at-rest.cred").read_bytes()
        with mock.patch.object(at_rest, "_systemd_creds", return_value=b""):  # a disk in another machine
            vault = Vault(self.folder, [].append)
            self.assertRaises(UnsealedError, vault.unseal, sealed)
            self.assertEqual(vault.unseal(vault.seal(b"new")), b"new")
        self.assertEqual(sorted(p.name for p in self.folder.iterdir()), ["at-rest.cred.bad", "at-rest.key"])
        self.assertEqual((self.folder / "at-rest.cred.bad").read_bytes(), old)
        (self.folder / "at-rest.key").unlink()  # and back in its own
        (self.folder / "at-rest.cred.bad").replace(self.folder / "at-rest.cred")
        with mock.patch.object(at_rest, "_systemd_creds", side_effect=lambda verb, data: data):
            self.assertEqual(Vault(self.folder).unseal(sealed), SECRET)
        self.flushLoggedErrors()

    def test_of_the_credentials_that_could_not_be_opened_the_last_one_is_kept(self):
        def elsewhere(machine):
            def creds(verb, data):
                mark = f"{machine}:".encode()
                if verb == "encrypt":
                    return mark + data
                return data.removeprefix(mark) if data.startswith(mark) else b""

            return mock.patch.object(at_rest, "_systemd_creds", creds)

        for machine in ("first", "second", "third"):
            with elsewhere(machine):
                Vault(self.folder, [].append).seal(SECRET)
        self.assertEqual(
            {path.name: path.read_bytes().partition(b":")[0] for path in self.folder.iterdir()},
            {"at-rest.cred": b"third", "at-rest.cred.bad": b"second"},
        )
        self.flushLoggedErrors()

    def test_a_credential_that_does_not_open_again_is_not_believed(self):
        with mock.patch.object(at_rest, "_systemd_creds", return_value=b"half"):
            Vault(self.folder).seal(SECRET)
        self.assertEqual([p.name for p in self.folder.iterdir()], ["at-rest.key"])


class Files(SynchronousTestCase):
    def setUp(self):
        held = tempfile.TemporaryDirectory()
        self.addCleanup(held.cleanup)
        self.files = ConfigFiles(Path(held.name) / "config")
        self.files.load()
        self.last = LastGood.of(ConfigVersion(3), {"pool/a": Resource("pool/a", SECRET)})

    def test_no_file_has_what_a_resource_says(self):
        self.files.save_candidate(self.last)
        self.files.keep_candidate()
        for path in self.files.folder.iterdir():
            self.assertNotIn(SECRET, path.read_bytes())
        self.assertEqual(ConfigFiles(self.files.folder).load(), self.last)

    def test_what_an_older_version_kept_in_clear_is_read_and_encrypted_at_once(self):
        saved = _SavedState(1, self.last.version, self.last.hash, (_SavedResource("pool/a", SECRET),))
        state = self.files.folder / "state.msgpack"
        state.write_bytes(msgspec.msgpack.encode(saved))
        with mock.patch.object(ConfigFiles, "save_candidate", side_effect=DiskFullError(path=state)):
            self.assertEqual(self.files.load(), self.last)  # on a full disk it serves all the same
        self.assertEqual(ConfigFiles(self.files.folder).peek(), self.last.state)
        self.assertIn(SECRET, state.read_bytes())  # a look changes nothing
        self.assertEqual(self.files.load(), self.last)
        self.assertNotIn(SECRET, state.read_bytes())
        self.assertEqual(ConfigFiles(self.files.folder).load(), self.last)

    def test_without_its_key_it_is_set_aside_with_the_reason(self):
        self.files.save_candidate(self.last)
        self.files.keep_candidate()
        (self.files.folder / "at-rest.key").unlink()
        why = self.assertRaises(SavedStateError, ConfigFiles(self.files.folder).load)
        self.assertIn("another key", str(why))
        self.assertTrue((self.files.folder / "state.msgpack.bad").exists())
