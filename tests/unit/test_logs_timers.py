"""Timers by name: one of each at a time, none after the end."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.timers import Timers


class TimersTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.timers = Timers(self.clock)
        self.rung = []

    def ring(self, name, seconds=1.0):
        self.timers.later(name, seconds, lambda: self.rung.append(name))

    def test_each_name_waits_once_until_it_has_run(self):
        self.ring("status")
        self.ring("status", 0.5)
        self.ring("retry")
        self.clock.advance(1)
        self.assertEqual(self.rung, ["status", "retry"])
        self.ring("status")
        self.clock.advance(1)
        self.assertEqual(self.rung, ["status", "retry", "status"])

    def test_one_may_set_itself_again_when_it_runs(self):
        def again():
            self.rung.append("again")
            self.timers.later("again", 1, again)

        self.timers.later("again", 1, again)
        self.clock.pump([1, 1, 1])
        self.assertEqual(len(self.rung), 3)

    def test_a_cancelled_one_does_not_run_and_one_that_never_was_is_no_error(self):
        self.ring("hello")
        self.timers.cancel("hello")
        self.timers.cancel("nothing")
        self.clock.advance(2)
        self.assertEqual(self.rung, [])

    def test_stopped_nothing_waits_and_nothing_begins(self):
        self.ring("hello")
        self.timers.stop()
        self.ring("status")
        self.assertEqual(self.clock.getDelayedCalls(), [])
