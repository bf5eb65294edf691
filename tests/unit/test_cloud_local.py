"""Service engines as processes of this machine."""

import json
import tempfile
from pathlib import Path

from twisted.internet.defer import succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.cloud.interface import CloudError
from avinet.cloud.local import LocalCloud, LocalSettings
from avinet.model.engine import SeRecord
from avinet.model.ids import ClusterId, SeId
from avinet.trust.files import FileUnwritableError
from avinet.wire.registration import MetaInfo
from tests.unit.test_cloud_child import Processes

RECORD = SeRecord(uuid=SeId("se-abc"), name="one", group="web", loopback="127.1.0.1", cloud="local")
META = MetaInfo(cluster=ClusterId("c"), controllers=("127.0.0.1:8443",), token="secret-token")


class Local(SynchronousTestCase):
    def setUp(self):
        folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
        self.base, self.image = folder / "engines", folder / "image.tar"
        self.image.write_bytes(b"the image")
        self.processes, self.ended = Processes(), []
        self.cloud = self.make()

    def make(self):
        def end(state):
            self.ended.append(state)
            return succeed(None)

        return LocalCloud(LocalSettings(self.base), self.processes, Clock(), end)

    def create(self):
        return self.successResultOf(self.cloud.create(RECORD, self.image, META))

    def test_an_engine_gets_a_folder_of_its_own_and_an_agent(self):
        self.create()
        folder = self.base / "se-abc"
        self.assertEqual(b"the image", (folder / "image.tar").read_bytes())
        self.assertEqual("secret-token", json.loads((folder / "meta-info.json").read_bytes())["token"])
        for path, mode in (
            (folder, 0o700),
            (folder / "image.tar", 0o600),
            (folder / "meta-info.json", 0o600),
        ):
            self.assertEqual(mode, path.stat().st_mode & 0o777)
        arguments = self.processes.calls[0][1]
        self.assertIn("avise", arguments)
        self.assertEqual(str(folder / "state"), arguments[arguments.index("--state") + 1])
        self.assertNotIn("secret-token", " ".join(arguments))
        self.assertEqual(100, self.cloud.pid(RECORD.uuid))

    def test_after_the_controllers_restart_the_agent_is_started_from_its_folder(self):
        self.create()
        self.cloud = self.make()
        self.successResultOf(self.cloud.resume(RECORD))
        self.assertEqual(2, len(self.processes.all))

    def test_resuming_an_engine_whose_folder_is_gone_says_so(self):
        failure = self.failureResultOf(self.cloud.resume(RECORD), CloudError)
        self.assertIn("folder is gone", str(failure.value))

    def test_a_connected_engines_image_and_token_are_destroyed(self):
        self.create()
        self.cloud.connected(RECORD)
        self.assertEqual({"state"}, {path.name for path in (self.base / "se-abc").iterdir()})

    def test_deleting_stops_the_agent_ends_the_data_plane_and_removes_the_folder(self):
        self.create()
        deleting = self.cloud.delete(RECORD)
        self.assertNoResult(deleting)
        self.processes.all[0].end()
        self.successResultOf(deleting)
        self.assertEqual([self.base / "se-abc" / "state"], self.ended)
        self.assertEqual([], list(self.base.iterdir()))
        self.successResultOf(self.cloud.delete(RECORD))

    def test_creating_again_replaces_the_agent_and_keeps_its_state(self):
        self.create()
        (self.base / "se-abc" / "state" / "kept").write_text("x")
        again = self.cloud.create(RECORD, self.image, META)
        self.assertNoResult(again)
        self.processes.all[0].end()
        self.successResultOf(again)
        self.assertEqual(2, len(self.processes.all))
        self.assertTrue((self.base / "se-abc" / "state" / "kept").exists())

    def test_a_folder_that_cannot_be_made_is_a_clear_error(self):
        self.base.write_text("a file is in the way")
        failure = self.failureResultOf(self.cloud.create(RECORD, self.image, META), FileUnwritableError)
        self.assertIn(str(self.base), str(failure.value))
        self.assertEqual([], self.processes.all)

    def test_an_image_that_cannot_be_read_is_a_clear_error(self):
        self.image.unlink()
        failure = self.failureResultOf(self.cloud.create(RECORD, self.image, META), CloudError)
        self.assertIn("image.tar", str(failure.value))

    def test_stopping_stops_every_agent(self):
        self.create()
        stopped = self.cloud.stop()
        self.assertNoResult(stopped)
        self.processes.all[0].end()
        self.successResultOf(stopped)
