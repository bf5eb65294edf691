"""After a restore: who has a newer configuration keeps it until the operator says otherwise."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_convergence import ConvergenceApi
from avinet.controller.incarnation import begin
from avinet.controller.progress import WITHHELD, Stand, restored_behind
from avinet.model.fence import Fence
from avinet.model.ids import ConfigVersion
from tests.unit.config_kit import World, pool, run, service


class Withholding(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.world.start_sync()
        self.world.apply(pool(), service())
        self.machine = self.world.engine()
        self.machine.apply_all()
        self.seen = self.world.config.fence
        self.machine.leave()
        self.world.sync.stop()

    def restore(self, accepted=False):
        """The store as it is now, as a backup that was put back."""
        run(begin(self.world.config.stored, 1000.0, accepted=accepted))
        self.world.restart()
        self.world.start_sync()
        self.addCleanup(self.world.sync.stop)

    def back(self, versions=1, have=None):
        """The SE comes back, having seen so many versions that the store has not."""
        have = {"pool/newer": b"x"} if have is None else have
        seen = Fence(self.seen.incarnation, self.seen.term, ConfigVersion(self.seen.version + versions))
        return self.world.attach("1", have, seen=seen)

    def events(self):
        return [event for event in self.world.events if event[0] == "RESTORED_BEHIND"]

    def test_one_that_has_newer_is_sent_nothing_is_told_of_once_and_shows(self):
        self.restore()
        machine, sync = self.back(), self.world.sync
        self.world.clock.pump([1.0] * 10)
        self.world.apply(pool("web", 8081))
        self.assertEqual(machine.pushes, [])
        progress = sync.progress(machine.se)
        self.assertIs(progress.stand, Stand.RESTORED_BEHIND)
        self.assertTrue(restored_behind(progress))
        self.assertFalse(sync.settled())
        ((_, subject, text, facts),) = self.events()
        self.assertEqual(subject, machine.se)
        self.assertIn("accept-restored", text)
        self.assertEqual(facts, {"version": self.seen.version + 1, "restored": self.seen.version})
        (row,) = ConvergenceApi(self.world.config, sync, self.world)._status().service_engines
        self.assertEqual((row.stand, row.why), ("restored-behind", WITHHELD))

    def test_one_that_has_seen_nothing_newer_is_served_at_once(self):
        self.restore()
        machine = self.back(versions=0)
        self.assertEqual(len(machine.pushes), 1)
        machine.apply()
        self.assertEqual((self.world.sync.settled(), self.events()), (True, []))

    def test_one_that_has_newer_and_the_same_state_is_in_sync(self):
        self.restore()
        machine = self.back(have=self.machine.state)
        self.assertTrue(self.world.sync.in_sync(machine.se))
        self.assertEqual(self.events(), [])

    def test_once_accepted_it_is_sent_what_was_restored(self):
        self.restore()
        machine = self.back()
        version = run(self.world.config.accept_restored("me"))
        self.assertEqual(len(machine.pushes), 1)
        self.assertEqual(machine.pushes[0].start.fence.version, version)
        self.assertGreater(machine.pushes[0].start.fence, machine.hello.fence)
        machine.apply()
        self.assertTrue(self.world.sync.settled())

    def test_accepted_with_the_restore_it_is_sent_at_once(self):
        self.restore(accepted=True)
        self.assertEqual(len(self.back().pushes), 1)

    def test_who_follows_says_nothing_and_tells_once_it_leads(self):
        self.restore()
        self.world.sync.rest()
        machine = self.back()
        self.assertTrue(restored_behind(self.world.sync.progress(machine.se)))
        self.assertEqual(self.events(), [])
        self.world.sync.lead()
        self.world.clock.advance(0.1)
        self.assertEqual((len(self.events()), machine.pushes), (1, []))
