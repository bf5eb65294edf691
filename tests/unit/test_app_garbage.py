"""When what lives long is set aside, and when it is looked at again."""

import gc

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.garbage import THRESHOLDS, Garbage


class Recorder:
    def __init__(self):
        self.done = []

    def __getattr__(self, name):
        return lambda: self.done.append(name)


class Keeping(SynchronousTestCase):
    def setUp(self):
        self.clock, self.now, self.kib, self.collector = Clock(), 0.0, 100_000, Recorder()
        before = gc.get_threshold()
        self.garbage = Garbage(self.clock, lambda: self.kib, self.collector, lambda: self.now)
        self.garbage.start()
        self.addCleanup(lambda: self.assertEqual(gc.get_threshold(), before))
        self.addCleanup(self.garbage.stop)

    def collection(self, took_s, generation=2):
        self.garbage.collected("start", {"generation": generation})
        self.now += took_s
        self.garbage.collected("stop", {"generation": generation})

    def since(self):
        done, self.collector.done = self.collector.done, []
        return done

    def test_all_that_is_there_from_the_start_is_set_aside(self):
        self.assertEqual(self.since(), ["collect", "freeze"])
        self.assertEqual(gc.get_threshold(), THRESHOLDS)

    def test_a_long_collection_sets_aside_what_it_looked_at_and_a_short_one_does_not(self):
        self.since()
        self.collection(0.005)
        self.collection(0.500, generation=1)
        self.clock.advance(0.5)
        self.assertEqual(self.since(), [])
        self.collection(0.020)
        self.clock.advance(0.5)
        self.clock.advance(0.5)
        self.assertEqual(self.since(), ["freeze"])

    def test_once_it_has_grown_all_is_looked_at_again_but_not_soon(self):
        self.since()
        self.kib = 200_000
        self.clock.pump([0.5] * 1199)
        self.assertEqual(self.since(), [])
        self.clock.advance(0.5)
        self.assertEqual(self.since(), ["unfreeze", "collect", "freeze"])
        self.clock.pump([0.5] * 2400)
        self.assertEqual(self.since(), [])

    def test_a_stopped_one_gives_all_back(self):
        self.since()
        self.garbage.stop()
        self.assertEqual((self.since(), self.clock.getDelayedCalls()), (["unfreeze"], []))
        self.garbage.start()
