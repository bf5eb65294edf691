"""When a peer is dead, and when it is far away."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.wire.heartbeat import RTT_WINDOW, Beat, HeartbeatTracker, RttChange, RttTracker


class Heartbeats(SynchronousTestCase):
    def test_a_peer_that_answers_each_ping_lives(self):
        tracker = HeartbeatTracker(misses=1)
        for _ in range(10):
            self.assertIs(tracker.tick(), Beat.PING)
            tracker.heard()

    def test_the_sixth_miss_in_a_row_is_death(self):
        tracker = HeartbeatTracker(misses=6)
        self.assertEqual([tracker.tick() for _ in range(7)], [Beat.PING] * 6 + [Beat.DEAD])
        self.assertEqual(tracker.missed, 6)

    def test_anything_heard_starts_the_count_anew(self):
        tracker = HeartbeatTracker(misses=2)
        self.assertEqual([tracker.tick(), tracker.tick()], [Beat.PING, Beat.PING])
        tracker.heard()
        self.assertEqual([tracker.tick() for _ in range(3)], [Beat.PING, Beat.PING, Beat.DEAD])

    def test_patience_is_interval_times_misses(self):
        self.assertAlmostEqual(HeartbeatTracker(interval_s=0.1, misses=5).patience_s, 0.5)

    def test_beats_fall_into_slots_and_never_drift(self):
        tracker = HeartbeatTracker(interval_s=10.0)
        for start in (0.0, 3.14159, 12345.6789):
            now = start
            for _ in range(1000):
                wait = tracker.next_in(now)
                self.assertLess(abs(wait - 10.0), 0.013)
                now += wait
                self.assertAlmostEqual(now / 0.025, round(now / 0.025), places=3)
            self.assertLess(abs(now - start - 10_000), 0.026)

    def test_a_busy_interval_has_slots_of_its_own(self):
        self.assertLess(abs(HeartbeatTracker(interval_s=0.1).next_in(7.0) - 0.1), 0.0002)


class RoundTripTimes(SynchronousTestCase):
    def test_nothing_is_known_before_the_first_sample(self):
        rtt = RttTracker()
        self.assertEqual((rtt.last, rtt.smoothed, rtt.p99, rtt.judged), (None, None, None, None))

    def test_last_and_smoothed_follow(self):
        rtt = RttTracker()
        rtt.sample(0.008)
        rtt.sample(0.016)
        self.assertEqual(rtt.last, 0.016)
        self.assertAlmostEqual(rtt.smoothed, 0.009)

    def test_p99_is_by_nearest_rank_over_the_window(self):
        rtt = RttTracker()
        for number in range(1, 101):
            rtt.sample(number / 1000)
        self.assertEqual(rtt.p99, 0.099)
        for _ in range(RTT_WINDOW):
            rtt.sample(0.001)
        self.assertEqual(rtt.p99, 0.001)

    def test_three_far_samples_raise_the_warning_once(self):
        rtt = RttTracker()
        changes = [rtt.sample(0.071) for _ in range(5)]
        self.assertEqual(changes, [RttChange.NONE] * 2 + [RttChange.RAISED] + [RttChange.NONE] * 2)

    def test_exactly_the_limit_is_not_over_it(self):
        rtt = RttTracker()
        self.assertEqual({rtt.sample(0.070) for _ in range(5)}, {RttChange.NONE})

    def test_one_slow_answer_raises_nothing(self):
        rtt = RttTracker()
        self.assertEqual({rtt.sample(s) for s in (0.01, 0.01, 3.0, 0.01, 0.01)}, {RttChange.NONE})

    def test_between_the_limits_the_warning_stays_as_it_is(self):
        rtt = RttTracker()
        for _ in range(3):
            rtt.sample(0.1)
        self.assertEqual({rtt.sample(0.065) for _ in range(5)}, {RttChange.NONE})
        self.assertTrue(rtt.high)
        self.assertEqual([rtt.sample(0.05), rtt.sample(0.05)], [RttChange.NONE, RttChange.CLEARED])
        self.assertEqual({rtt.sample(0.065) for _ in range(5)}, {RttChange.NONE})
        self.assertFalse(rtt.high)

    def test_the_warning_follows_the_window_as_it_wraps(self):
        rtt = RttTracker()
        for _ in range(RTT_WINDOW + 1):
            rtt.sample(0.01)
        self.assertEqual([rtt.sample(0.2), rtt.sample(0.2)], [RttChange.NONE, RttChange.RAISED])
