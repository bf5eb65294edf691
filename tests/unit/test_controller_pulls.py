"""Pulls as operators see them: kept, bounded, and believed only as far as they were asked for."""

from twisted.internet.defer import Deferred

from avinet.controller import pulls as pulls_module
from avinet.controller.pull_records import PullEndedError, PullUnknownError, TooManyPullsError, ledger_key
from avinet.model.logs import LogClass
from avinet.units import KIB
from avinet.wire import log_messages as m
from tests.unit.log_kit import FULL, Fleet


class Pulls(Fleet):
    def failed(self, coroutine, kind):
        return self.failureResultOf(Deferred.fromCoroutine(coroutine), kind).value

    def test_that_are_unknown_or_over_cannot_be_steered(self):
        self.assertRaises(PullUnknownError, self.pulls.get, 7)
        self.failed(self.pulls.cancel(7), PullUnknownError)
        pull = self.pull()
        self.done(self.pulls.cancel(pull))
        for steer in (self.pulls.pause, self.pulls.resume, self.pulls.cancel):
            self.assertEqual(self.failed(steer(pull), PullEndedError).state, "cancelled")

    def test_under_way_are_bounded(self):
        self.patch(pulls_module, "MAX_UNDER_WAY", 3)
        for _ in range(3):
            last = self.pull()
        self.failed(self.pulls.create(self.pulls.get(last).order), TooManyPullsError)
        self.done(self.pulls.cancel(last))
        self.assertEqual(self.pull(), last + 1)

    def test_that_ended_are_forgotten_the_oldest_first_and_numbers_never_come_again(self):
        self.patch(pulls_module, "MAX_KEPT", 2)
        for _ in range(5):
            self.done(self.pulls.cancel(self.pull()))
        self.assertEqual([pull.id for pull in self.pulls.all()], [5, 4, 3])
        self.ledger.close()
        self.start_controller()
        self.assertEqual([pull.id for pull in self.pulls.all()], [5, 4, 3])
        self.assertEqual(self.pull(), 6)

    def test_that_cannot_be_read_are_forgotten_and_the_others_go_on(self):
        one, other = self.pull(), self.pull()
        self.ledger.put_pull(ledger_key(one), b"\x81\xa1a\x01")
        self.ledger.close()
        self.start_controller()
        self.assertEqual([pull.id for pull in self.pulls.all()], [other])
        self.flushLoggedErrors()

    def test_that_are_paused_stay_so_over_a_restart_and_resume(self):
        self.engine.log_bulk(FULL, 50 * KIB)
        pull = self.pull()
        self.done(self.pulls.pause(pull))
        self.ledger.close()
        self.start_controller()
        self.attach()
        self.pump()
        self.assertEqual(self.state_of(pull), "paused")
        self.assertEqual(self.received()[FULL], [])
        self.done(self.pulls.resume(pull))
        self.pump()
        self.assertEqual(self.state_of(pull), "done")
        self.assert_all_here(FULL)

    def test_of_an_engine_that_is_deleted_have_failed(self):
        pull = self.pull()
        self.pulls.forget(self.engine.se)
        (share,) = self.pulls.get(pull).shares
        self.assertEqual((share.state, share.why), ("failed", "the service engine was deleted"))
        self.assertEqual(self.state_of(pull), "failed")

    def test_are_not_ended_by_an_engine_that_was_not_asked(self):
        other = self.add_engine(2)
        pull = self.pull(other)
        self.attach()
        self.pump()
        link = self.intake.bulk_link(self.engine.se)
        self.pulls.told(link, m.PullDone(pull=pull))
        self.pulls.told(link, m.PullDone(pull=pull + 1))
        self.pulls.told(link, m.Planned(pull=pull, segments=1, size=1, raw_bytes=1, records=1, up_to=1))
        self.assertEqual(self.state_of(pull), "waiting")

    def test_say_what_an_engine_left_out_since_others_may_have_it(self):
        pull = self.pull()
        self.attach()
        self.pump()
        other = self.pull()
        link = self.intake.bulk_link(self.engine.se)
        self.pulls.told(link, m.PullDone(pull=other, elsewhere={"c2": 7}))
        self.ledger.close()
        self.start_controller()
        self.assertEqual(
            {one.id: one.shares[0].elsewhere for one in self.pulls.all()}, {pull: {}, other: {"c2": 7}}
        )

    def test_two_of_one_engine_follow_one_another_and_nothing_comes_twice(self):
        for _ in range(3):
            self.engine.log_bulk(FULL, 200 * KIB)
        self.attach()
        self.pump()
        one, two = self.pull(), self.pull(classes=(LogClass.FULL,))
        states = set()
        while self.state_of(two) != "done":
            states.add((self.state_of(one), self.state_of(two)))
            self.step()
            self.clock.advance(0.01)
        self.assertNotIn(("running", "running"), states)
        self.assertEqual(self.state_of(one), "done")
        self.assert_all_here(FULL)

    def test_show_how_they_get_on(self):
        for _ in range(8):
            self.engine.log_bulk(FULL, 300 * KIB)
        self.attach()
        self.pump()
        pull = self.pull(rate=200 * KIB)
        for _ in range(40):
            self.clock.advance(0.1)
            self.pump()
        (share,) = self.pulls.get(pull).shares
        self.assertEqual(share.state, "running")
        self.assertEqual(share.segments_in_all, 8)
        self.assertTrue(0 < share.segments < 8)
        self.assertTrue(150 * KIB < share.rate < 250 * KIB, share.rate)
        left = (share.size_in_all - share.size) / share.rate
        self.assertAlmostEqual(share.left_s, left)
