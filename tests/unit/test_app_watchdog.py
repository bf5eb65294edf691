"""The reactor's lateness: what is counted, what is told, and what was seen."""

import gc

from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.watchdog import STOOD_STILL, UNSEEN, Lateness, Peak, Watchdog, said


class Blocks(SynchronousTestCase):
    def setUp(self):
        self.clock, self.told = Clock(), []
        self.dog = Watchdog(self.clock, lambda seconds, where: self.told.append((round(seconds, 2), where)))
        self.dog.start(thread=False)
        self.addCleanup(self.dog.stop)

    def ticks(self, count):
        for _ in range(count):
            self.clock.advance(0.05)

    def test_a_reactor_that_is_on_time_has_blocked_nobody(self):
        self.ticks(1000)
        health = self.dog.health()
        self.assertEqual((health.over_50_ms, health.longest_hour_ms, health.p99_ms), (0, 0.0, 1))

    def test_what_blocks_is_counted_and_the_longest_kept_for_its_time(self):
        for late_s in (0.08, 0.02, 0.12):
            self.clock.advance(0.05 + late_s)
            self.ticks(3)
        health = self.dog.health()
        self.assertEqual((health.over_50_ms, health.longest_minute_ms), (2, 145.0))
        self.ticks(70 * 20)
        health = self.dog.health()
        self.assertEqual((health.longest_minute_ms, health.longest_hour_ms, health.p99_ms), (0.0, 145.0, 1))

    def test_a_long_one_names_what_was_seen_in_the_log(self):
        with capturedLogs() as lines:
            self.clock.rightNow += 0.35
            self.dog.look()
            self.clock.advance(0.05)
        [line] = lines
        self.assertAlmostEqual(line["seconds"], 0.375)
        self.assertIn("test_a_long_one_names_what_was_seen", line["where"])
        self.assertEqual(self.told, [])

    def test_an_operator_hears_of_a_second_and_the_log_is_not_filled(self):
        with capturedLogs() as lines:
            for _ in range(5):
                self.clock.advance(1.525)
            self.clock.advance(10.025)
        self.assertEqual(self.told, [(1.5, UNSEEN)] * 5 + [(10.0, UNSEEN)])
        self.assertEqual([line["more"] for line in lines], [0, 4])

    def test_what_was_seen_of_one_block_is_not_told_of_the_next(self):
        self.clock.rightNow += 2.0
        self.dog.look()
        self.clock.advance(0.1)
        self.clock.advance(2.0)
        self.assertEqual(self.told[1][1], UNSEEN)
        self.assertNotEqual(self.told[0][1], UNSEEN)

    def test_collections_of_garbage_are_measured(self):
        gc.collect()
        self.assertGreater(self.dog.gc_longest_s, 0.0)

    def test_a_stopped_one_leaves_nothing(self):
        self.dog.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
        self.assertNotIn(self.dog._collected, gc.callbacks)


class Figures(SynchronousTestCase):
    def test_the_percentile_is_the_bound_that_99_of_100_kept(self):
        lateness = Lateness()
        for late_s in [0.0005] * 980 + [0.04] * 20:
            lateness.add(0.0, late_s)
        self.assertEqual(lateness.p99_ms(), 50)
        for late_s in [0.0005] * 1100:
            lateness.add(0.0, late_s)
        self.assertEqual(lateness.p99_ms(), 1)
        lateness.add(700.0, 0.3)
        lateness.add(1300.0, 0.3)
        self.assertEqual(lateness.p99_ms(), 500)

    def test_a_peak_goes_with_its_slot_and_takes_bounded_room(self):
        peak = Peak(5.0, 12)
        for second in range(1000):
            peak.add(float(second), 3.0 if second == 500 else 1.0)
        self.assertEqual(peak.highest(1000.0), 1.0)
        self.assertLessEqual(len(peak._kept), 12)
        self.assertEqual(peak.highest(5000.0), 0.0)

    def test_a_machine_that_stood_still_is_not_our_function(self):
        def doPoll():
            import sys

            return said(sys._getframe())

        self.assertEqual(doPoll(), STOOD_STILL)
        self.assertEqual(said(None), UNSEEN)
