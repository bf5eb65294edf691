"""The state engine's folder: whole after any crash, nobody else's, and never begun anew over what was in use."""

import shutil

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.state_engine_files import (
    ROOT_USER,
    USER,
    EngineDataLostError,
    EngineFiles,
    EngineFilesDamagedError,
    Progress,
)
from avinet.model.ids import ControllerName
from avinet.trust.ca import RootDamagedError
from avinet.trust.files import FileExposedError, FileUnreadableError
from avinet.trust.keys import generate
from avinet.trust.state_ca import StateCa, belongs
from avinet.wire.joining import StateAdmission
from tests.unit.etcd_double import NAME, PLAN
from tests.unit.quick_folder import quick_folder as folder
from tests.unit.trust_kit import CLUSTER, OTHER_CLUSTER, mode


class Files(SynchronousTestCase):
    def setUp(self):
        self.files = EngineFiles(folder(self) / "etcd")

    def make(self):
        return self.files.make_first(CLUSTER, NAME, PLAN.peer_url)

    def wal(self):
        wal = self.files.data / "member" / "wal"
        wal.mkdir(parents=True, exist_ok=True)
        (wal / "0-0.wal").write_bytes(b"")
        return wal

    def test_a_first_member_has_all_that_it_needs_and_nobody_else_can_read_it(self):
        self.assertEqual(
            self.make(), Progress(phase="starting", initial_cluster="c1=https://127.0.0.1:12380")
        )
        self.assertEqual(self.files.check().phase, "starting")
        for path in self.files.secrets:
            if path.exists():
                self.assertEqual(mode(path) & 0o077, 0, path)
        certificate = x509.load_pem_x509_certificate(self.files.certificate.read_bytes())
        names = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        self.assertEqual(names, [])  # etcd's gateway answers 401 to who has one
        self.assertNotEqual(self.files.password(ROOT_USER).read_text(), self.files.password(USER).read_text())

    def test_a_crash_after_any_file_is_gone_on_from(self):
        self.make()
        whole = {path.name: path.read_bytes() for path in self.files.folder.iterdir()}
        order = (
            "ca.key",
            "ca.pem",
            "node.key",
            "node.pem",
            "root.password",
            "avinet.password",
            "engine.json",
        )
        self.assertEqual(set(order), set(whole))
        for count in range(len(order)):
            for name in order[count:]:
                (self.files.folder / name).unlink(missing_ok=True)
            self.make()
            self.files.check()
            for name in order[:count]:
                self.assertEqual((self.files.folder / name).read_bytes(), whole[name])
            for name, data in whole.items():
                (self.files.folder / name).write_bytes(data)

    def test_data_that_is_gone_is_not_made_anew(self):
        self.make()
        self.files.reached(Progress(phase="serving", initial_cluster=""))
        self.assertRaises(EngineDataLostError, self.files.check)
        wal = self.wal()
        self.files.check()
        (wal / "0-0.wal").unlink()  # etcd would begin anew with what is left
        self.assertRaises(EngineDataLostError, self.files.check)

    def test_what_is_damaged_or_exposed_is_named(self):
        self.make()
        self.files.password(USER).chmod(0o644)
        self.assertRaises(FileExposedError, self.files.check)
        self.files.password(USER).unlink()
        self.assertRaises(FileUnreadableError, self.files.check)
        self.make()
        self.files.key_file.write_bytes(b"no key")
        self.assertRaises(RootDamagedError, self.files.check)
        self.files.key_file.unlink()
        self.make()
        self.files.check()
        self.files.progress_file.write_bytes(b"{")
        self.assertRaises(EngineFilesDamagedError, self.files.check)
        self.files.progress_file.unlink()
        self.assertRaises(EngineFilesDamagedError, self.files.check)
        self.wal()
        self.assertRaises(EngineFilesDamagedError, self.make)  # a copy into it would begin by clearing it

    def test_a_member_that_another_let_in_begins_with_no_data(self):
        self.make()
        self.wal()
        other = EngineFiles(folder(self) / "etcd")
        other.make_first(CLUSTER, ControllerName("c0"), "https://127.0.0.1:1")
        ca = StateCa.load(other.ca_key, other.ca_pem)
        admission = StateAdmission(
            ca=other.ca_pem.read_text(),
            certificate=ca.issue(self.files.key(), NAME).decode(),
            passwords={ROOT_USER: "r", USER: "u"},
            members={"c0": "https://127.0.0.1:1", "c1": PLAN.peer_url},
        )
        self.files.admitted(admission)
        progress = self.files.check()
        self.assertTrue(progress.joining)
        self.assertEqual(progress.initial_cluster, "c0=https://127.0.0.1:1,c1=https://127.0.0.1:12380")
        self.assertFalse(self.files.data.exists())
        self.assertEqual(len(list(self.files.folder.glob("data.before-*"))), 1)


class Authorities(SynchronousTestCase):
    def test_a_certificate_is_its_own_cas_alone(self):
        base = folder(self)
        one = StateCa.load_or_create(base / "a.key", base / "a.pem", CLUSTER)
        two = StateCa.load_or_create(base / "b.key", base / "b.pem", OTHER_CLUSTER)
        key = generate().public_key()
        pem = one.issue(key, NAME)
        self.assertTrue(belongs(pem, one.certificate, key))
        self.assertFalse(belongs(pem, two.certificate, key))
        self.assertFalse(belongs(pem, one.certificate, generate().public_key()))
        self.assertFalse(belongs(b"", one.certificate, key))
        shutil.copy(base / "b.key", base / "a.key")
        self.assertRaises(RootDamagedError, StateCa.load, base / "a.key", base / "a.pem")
