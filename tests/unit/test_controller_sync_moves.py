"""Moves as SEs see them: the new one is sent to first, the old one loses what it had once that is served elsewhere."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.resources import EMPTY_STATE_HASH
from tests.unit.config_kit import World, pool, service

DRAIN_S = 30
GROUP = {"kind": "ServiceEngineGroup", "name": "Default-Group", "max_scaleout_per_vs": 1, "drain_s": DRAIN_S}


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.begin()
        self.world.apply(GROUP, pool(), service())
        for machine in self.machines:
            machine.apply_all()
        self.old = next(m for m in self.machines if m.state)
        self.new = next(m for m in self.machines if not m.state)

    def begin(self):
        self.world.start_sync()
        self.sync = self.world.sync
        self.addCleanup(self.sync.stop)
        self.machines = [self.world.engine(name) for name in "12"]

    def set(self, machine, **values):
        """Another answer of the registry about one SE."""
        self.world.engines[:] = [
            attrs.evolve(e, **values) if e.se == machine.se else e for e in self.world.engines
        ]
        self.sync.engines_changed()
        self.world.clock.advance(1)

    def pushes(self):
        """How many pushes each has had since this was asked last."""
        before = getattr(self, "counted", (0, 0))
        self.counted = (len(self.old.pushes), len(self.new.pushes))
        return tuple(now - was for now, was in zip(self.counted, before, strict=True))


class Moving(Case):
    def test_the_new_one_first_and_the_old_one_after_the_drain(self):
        self.pushes()
        self.set(self.old, usable=False)
        self.assertEqual(self.pushes(), (0, 1))
        self.world.clock.advance(10 * DRAIN_S)
        self.assertEqual(self.pushes(), (0, 0))
        self.new.apply()
        self.world.clock.advance(DRAIN_S - 0.5)
        self.assertEqual(self.pushes(), (0, 0))
        self.world.clock.advance(0.5)
        self.assertEqual(self.pushes(), (1, 0))
        self.old.apply()
        self.assertEqual((self.old.hash, self.sync.in_sync(self.old.se)), (EMPTY_STATE_HASH, True))

    def test_one_that_drains_is_kept_up_to_date(self):
        self.set(self.old, usable=False)
        self.pushes()
        self.world.apply(pool("web", 8081))
        self.assertEqual(self.pushes()[0], 1)
        self.old.apply()
        self.assertTrue(self.sync.in_sync(self.old.se))

    def test_a_refusal_by_the_new_one_keeps_the_old_one_serving(self):
        self.set(self.old, usable=False)
        self.new.refuse("rejected", "the port is taken")
        self.pushes()
        self.world.clock.advance(2 * DRAIN_S)
        self.assertEqual(self.pushes()[0], 0)
        self.new.apply()
        self.world.clock.advance(DRAIN_S)
        self.assertEqual(self.pushes()[0], 1)

    def test_one_that_must_not_serve_is_emptied_at_once(self):
        self.pushes()
        self.set(self.old, usable=False, drains=False)
        self.assertEqual(self.pushes(), (1, 1))

    def test_one_that_returns_keeps_what_it_has_until_it_is_its_share_again(self):
        self.old.leave()
        self.set(self.old, usable=False)
        self.new.apply_all()
        self.set(self.old, usable=True, settling=True)
        back = self.world.attach(self.old.se.removeprefix("se-"), self.old.state)
        self.world.clock.advance(DRAIN_S / 3)
        self.set(self.old, settling=False)
        self.assertEqual(back.pushes, [])
        # The stand-in drains in its turn.
        self.pushes()
        self.world.clock.advance(DRAIN_S)
        self.assertEqual(self.pushes()[1], 1)
        self.new.apply()
        self.assertEqual(self.new.hash, EMPTY_STATE_HASH)

    def test_nothing_is_left_to_happen_after_a_stop(self):
        self.set(self.old, usable=False)
        self.new.apply()
        self.sync.stop()
        self.assertEqual(self.world.clock.getDelayedCalls(), [])


class Restarting(Case):
    """Another controller's process: it knows the store and what SEs say."""

    def restart(self):
        self.sync.stop()
        self.world.restart()
        self.world.start_sync()
        self.sync = self.world.sync
        self.addCleanup(self.sync.stop)

    def test_an_se_that_drained_is_given_what_it_had_until_others_have_it(self):
        self.set(self.old, usable=False)
        self.restart()
        new = self.world.attach(self.new.se.removeprefix("se-"))
        old = self.world.attach(self.old.se.removeprefix("se-"), self.old.state)
        self.world.clock.advance(10 * DRAIN_S)
        self.assertEqual((len(new.pushes), old.pushes), (1, []))
        self.assertTrue(self.sync.in_sync(old.se))
        new.apply()
        self.world.clock.advance(DRAIN_S)
        old.apply()
        self.assertEqual(old.hash, EMPTY_STATE_HASH)

    def test_an_se_that_had_drained_has_nothing_to_drain(self):
        self.set(self.old, usable=False)
        self.new.apply()
        self.world.clock.advance(DRAIN_S)
        self.old.apply()
        self.restart()
        old = self.world.attach(self.old.se.removeprefix("se-"), self.old.state)
        self.world.clock.advance(10)
        self.assertEqual((old.pushes, self.sync.moves.drains_of(old.se)), ([], {}))

    def test_an_se_whose_state_is_not_known_loses_nothing_before_others_have_it(self):
        # It became the lesser of two in the moment when the controller went.
        self.restart()
        self.world.engines[:] = [attrs.evolve(e, settling=e.se == self.old.se) for e in self.world.engines]
        self.sync.engines_changed()
        old = self.world.attach(self.old.se.removeprefix("se-"), {**self.old.state, "pool/x": b"x"})
        new = self.world.attach(self.new.se.removeprefix("se-"))
        self.assertEqual((len(old.pushes), len(new.pushes)), (1, 1))
