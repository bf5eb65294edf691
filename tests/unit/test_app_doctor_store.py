"""What ``avinet doctor`` finds of the store."""

from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.app import doctor_store
from avinet.app.doctor_store import store_findings
from avinet.app.store_settings import StoreSection
from avinet.controller.state_engine_binary import EtcdBinary, EtcdMissingError
from avinet.controller.state_engine_files import Progress, engine_files
from avinet.model.ids import ControllerName
from avinet.trust.node import ControllerPaths
from tests.unit.quick_folder import quick_folder
from tests.unit.trust_kit import CLUSTER

ETCD = StoreSection(engine="etcd", client_port=1, peer_port=2)


class Store(SynchronousTestCase):
    def setUp(self):
        self.paths = ControllerPaths(quick_folder(self))
        self.files = engine_files(self.paths.state)
        self.patch(doctor_store, "find_etcd", lambda path: EtcdBinary(Path("/usr/bin/etcd"), "3.4.23"))

    def find(self, settings=ETCD, *, running=False):
        found = list(store_findings(self.paths, settings, running=running))
        for one in found:
            self.assertEqual(one.outcome == "ok", one.advice == "", one)
        return {one.check: (one.outcome, one.found) for one in found}

    def make(self, phase="serving"):
        self.files.make_first(CLUSTER, ControllerName("c1"), "https://127.0.0.1:2")
        self.files.reached(Progress(phase=phase, initial_cluster=""))
        wal = self.files.data / "member" / "wal"
        wal.mkdir(parents=True)
        (wal / "0-0.wal").write_bytes(b"")
        return wal

    def test_a_file_is_enough(self):
        self.assertEqual(self.find(StoreSection()), {"store": ("ok", "sqlite")})

    def test_what_the_folder_says_counts_more_than_the_setting(self):
        self.make()
        self.assertIn("state engine files", self.find(StoreSection()))

    def test_before_its_first_start_it_is_said_what_becomes_of_the_file(self):
        self.assertEqual(self.find()["store"], ("ok", "etcd, made at the first start"))
        self.paths.store.write_bytes(b"")
        self.assertEqual(self.find()["store"], ("ok", "etcd, from the next start on"))

    def test_a_missing_binary_and_lost_data_are_said(self):
        wal = self.make()
        self.assertEqual(self.find()["state engine files"][0], "ok")
        (wal / "0-0.wal").unlink()

        def missing(path):
            raise EtcdMissingError(where="any folder of PATH")

        self.patch(doctor_store, "find_etcd", missing)
        found = self.find()
        self.assertEqual(found["etcd"][0], "failed")
        self.assertEqual(found["state engine files"][0], "failed")
        self.assertIn("is gone", found["state engine files"][1])

    def test_a_damaged_note_of_its_progress_is_said(self):
        self.make()
        self.files.progress_file.write_bytes(b"?")
        self.assertEqual(self.find()["store"][0], "failed")

    def test_why_it_last_ended_is_told_while_it_does_not_run(self):
        self.make()
        self.files.log.write_text('{"level":"fatal","msg":"write db","error":"no space left on device"}\n')
        self.assertIn("disk is full", self.find()["state engine"][1])

    def test_one_that_should_run_and_does_not_answer_is_a_failure(self):
        self.make()
        outcome, found = self.find(running=True)["state engine"]
        self.assertEqual(outcome, "failed")
        self.assertIn("no answer from https://127.0.0.1:1", found)

    def test_of_an_etcd_that_others_run_the_files_are_looked_at(self):
        here = str(self.paths.state / "ca.pem")
        Path(here).write_bytes(b"")
        settings = StoreSection(
            engine="etcd", endpoints=("https://e:1",), ca=here, certificate="/nowhere", key=here
        )
        found = self.find(settings)
        self.assertEqual(found["[store] certificate"], ("failed", "/nowhere is not there"))
        self.assertEqual(found["store"], ("ok", "etcd at https://e:1"))
        self.assertNotIn("[store] ca", found)
