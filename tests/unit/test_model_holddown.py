"""How long one that failed settles."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.holddown import FORGIVE_S, SETTLE_CAP_S, SETTLE_S, HoldDown


class HoldDowns(SynchronousTestCase):
    def failing(self, times, up_s=0.0):
        hold, now = HoldDown(), 0.0
        for _ in range(times):
            hold.failed(now)
            now += 30
            hold.came_back(now)
            now += up_s
        return hold, now

    def test_one_that_never_failed_has_settled(self):
        hold = HoldDown()
        hold.came_back(0)
        self.assertEqual(hold.settles_in(0), 0)

    def test_each_failure_doubles_it_up_to_the_bound(self):
        found = []
        for times in range(1, 12):
            hold, now = self.failing(times)
            found.append(hold.settles_in(now))
        self.assertEqual(found[:4], [SETTLE_S, 2 * SETTLE_S, 4 * SETTLE_S, 8 * SETTLE_S])
        self.assertEqual(found[-1], SETTLE_CAP_S)

    def test_it_counts_from_when_it_came_back_and_ends(self):
        hold, now = self.failing(1)
        self.assertEqual(hold.settles_in(now + SETTLE_S - 1), 1)
        self.assertEqual(hold.settles_in(now + SETTLE_S + 1), 0)

    def test_being_up_forgives_one_failure_at_a_time(self):
        hold, now = self.failing(4)
        hold.failed(now + 2 * FORGIVE_S)
        hold.came_back(0)
        self.assertEqual(hold.settles_in(0), 4 * SETTLE_S)
        hold.failed(100 * FORGIVE_S)
        hold.came_back(0)
        self.assertEqual(hold.settles_in(0), SETTLE_S)
