"""A service engine's parts in the order in which they come up."""

from pathlib import Path

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.engine import Engine
from avinet.app.settings import SeSettings
from avinet.model.ids import ConfigVersion
from avinet.se.first_boot import FirstBoot
from avinet.se.paths import SePaths, lock_state
from avinet.ssh.policy import Use
from avinet.wire.messages import InForce


class AnEngineThatIsNotYetUp(SynchronousTestCase):
    def setUp(self):
        paths = SePaths(Path(self.mktemp()))
        lock = lock_state(paths)
        self.addCleanup(lock.release)
        self.engine = Engine(Clock(), SeSettings(), FirstBoot(paths, lock, "image", None))

    def test_lets_what_its_data_plane_lacks_be_announced_before_anyone_can_hear(self):
        # An Envoy that was lost with its files: the applier says so while it puts the configuration back.
        self.engine._announce(InForce(version=ConfigVersion(2), hash="0"), None)

    def test_lets_a_command_end_before_anyone_can_hear(self):
        self.engine._command_used(Use("exec", "true", "SHA256:x", 0, 0.1))
