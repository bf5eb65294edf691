"""One leads at a time, what it writes counts, and what one writes that was deposed does not."""

from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.fencing import NotLeaderError, WriteUnansweredError
from avinet.controller.leadership import TERM, Role
from avinet.model.election import LEASE_S
from avinet.store.interface import FENCE_KEY, Compare, Outcome, Put, StoreUnavailableError
from tests.unit.leadership_kit import Member, World


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.world.start()
        self.addCleanup(self.world.stop)


class Electing(Case):
    def test_the_first_that_starts_leads_and_the_others_know(self):
        self.assertEqual(self.world.leaders(), ["a"])
        self.assertEqual([self.world.members[name].leadership.role.leader for name in "abc"], ["a"] * 3)
        self.assertEqual(self.world.a.terms, [1])

    def test_it_keeps_the_lead(self):
        self.world.run(60)
        self.assertEqual((self.world.leaders(), len(self.world.a.roles)), (["a"], 1))

    def test_one_that_stops_hands_over_at_once(self):
        self.world.a.stop()
        self.world.turn()
        self.assertEqual(len(self.world.leaders()), 1)
        self.assertNotIn("a", self.world.leaders())

    def test_one_that_dies_unseen_is_replaced_when_its_lease_ends(self):
        self.world.a.link.cut = True
        self.world.a.link.lose_watch()
        self.world.run(LEASE_S + 0.2)
        self.assertEqual(self.world.leaders(), ["b"])
        self.assertEqual(self.world.b.terms, [2])

    def test_a_store_that_elects_a_leader_of_its_own_delays_ours_by_little_more_than_that(self):
        for member in (self.world.b, self.world.c):
            member.link.hangs = True  # what is asked now is answered in five seconds or never
        self.world.hub.cut("a")
        self.world.run(2)
        self.assertEqual(self.world.leaders(), ["a"])
        for member in (self.world.b, self.world.c):
            member.link.hangs = False
        self.world.run(1.5)
        self.assertEqual(len(self.world.leaders()), 1)
        self.assertNotIn("a", self.world.leaders())

    def test_a_leader_outlasts_a_renewal_that_is_never_answered(self):
        self.world.a.link.hangs = True
        self.world.run(2.5)
        self.world.a.link.hangs = False
        self.world.run(10)
        self.assertEqual((self.world.leaders(), len(self.world.a.roles)), (["a"], 1))

    def test_one_that_a_majority_has_lost_is_replaced_at_once(self):
        self.world.hub.cut("a")
        self.world.turn()
        self.assertEqual(len(self.world.leaders()), 1)
        self.assertNotIn("a", self.world.leaders())
        self.world.run(60)
        self.assertEqual(sum(len(member.terms) for member in self.world.members.values()), 2)

    def test_one_link_less_replaces_nobody(self):
        self.world.hub.cut("a", "b")
        self.world.run(30)
        self.assertEqual(self.world.leaders(), ["a"])

    def test_the_term_goes_up_and_is_kept_when_nobody_leads(self):
        for member in (self.world.b, self.world.c):
            member.stop()
        self.world.a.stop()
        self.world.turn()
        self.assertIsNone(self.successResultOf(self.world.store.get(FENCE_KEY)))
        self.assertEqual(self.successResultOf(self.world.store.get(TERM)).value, b"1")

    def test_one_leads_only_once_it_is_prepared(self):
        self.world.b.prepares, self.world.c.prepares = Deferred(), Deferred()
        self.world.a.stop()
        self.world.turn()
        self.assertEqual(self.world.leaders(), [])
        for member in (self.world.b, self.world.c):
            member.prepares.callback(None)
        self.assertEqual(len(self.world.leaders()), 1)

    def test_one_that_cannot_be_prepared_lets_another_lead(self):
        self.world.b.prepares = fail(StoreUnavailableError(where="test", detail="no"))
        self.world.a.stop()
        self.world.run(5)
        self.assertEqual(self.world.leaders(), ["c"])

    def test_while_it_is_prepared_its_lease_is_renewed(self):
        self.world.b.prepares = self.world.c.prepares = waiting = Deferred()
        self.world.a.stop()
        self.world.run(30)
        waiting.callback(None)
        self.assertEqual(len(self.world.leaders()), 1)
        self.assertEqual(len(self.world.b.terms + self.world.c.terms), 1)

    def test_a_controller_that_comes_back_under_the_leaders_name_leads_at_once(self):
        self.world.a.following.stop()  # killed: nothing is given back
        self.world.a.leadership._ticks.stop()
        member = Member(self.world, "a")
        self.world.members["a"] = member
        member.start()
        self.world.turn()
        self.assertTrue(member.leads)
        self.assertEqual(member.terms, [2])


class Fencing(Case):
    def test_a_leader_writes_and_a_follower_is_told_that_it_is_none(self):
        self.assertIsInstance(self.world.a.write(), Outcome)
        self.assertIsInstance(self.world.b.write(), NotLeaderError)

    def test_what_a_deposed_leader_writes_before_it_hears_of_it_is_refused(self):
        self.world.a.link.hold()
        self.world.hub.cut("a")
        self.world.turn()
        (leader,) = [name for name in self.world.leaders() if name != "a"]
        self.assertTrue(self.world.a.leads)  # it has not heard
        self.assertIsInstance(self.world.members[leader].write("k", b"new"), Outcome)
        self.assertIsInstance(self.world.a.write("k", b"old"), NotLeaderError)
        self.assertFalse(self.world.a.leads)
        self.assertEqual(self.successResultOf(self.world.store.get("k")).value, b"new")

    def test_a_write_that_the_store_did_not_answer_may_have_been_done_and_says_so(self):
        self.world.a.link.loses_answers = True
        why = self.world.a.write("k", b"kept")
        self.assertIsInstance(why, WriteUnansweredError)
        self.assertIn("no quorum", str(why))
        self.assertIn("may have been done", str(why))
        self.assertEqual(self.successResultOf(self.world.store.get("k")).value, b"kept")

    def test_what_its_author_compared_is_not_taken_for_a_fence(self):
        done = self.world.a.store.transact([Compare("k", 77)], [Put("k", b"")])
        self.assertFalse(self.successResultOf(done).succeeded)
        self.assertTrue(self.world.a.leads)

    def test_a_leader_that_the_store_does_not_answer_stops_within_its_lease(self):
        self.world.a.link.cut = True
        self.world.a.link.lose_watch()
        self.world.run(LEASE_S - 1.2)
        self.assertTrue(self.world.a.leads)
        self.world.run(1.4)
        self.assertFalse(self.world.a.leads)
        self.assertEqual(
            self.world.a.roles[-1], Role(why="the store has not answered for as long as the lease")
        )
        self.assertIsInstance(self.world.a.write(), NotLeaderError)

    def test_and_when_it_answers_again_it_follows_whoever_leads(self):
        self.world.a.link.cut = True
        self.world.run(LEASE_S + 1)
        self.world.a.link.cut = False
        self.world.run(2)
        self.assertEqual(self.world.leaders(), ["b"])
        self.assertEqual(self.world.a.leadership.role.leader, "b")

    def test_a_seizing_whose_answer_was_lost_is_done_again_under_its_own_name(self):
        self.world.b.link.loses_answers = True
        self.world.c.link.loses_answers = True
        self.world.a.stop()
        self.world.turn()
        self.assertEqual(self.world.leaders(), [])
        self.world.b.link.loses_answers = False
        self.world.run(LEASE_S + 3)
        self.assertEqual(self.world.leaders(), ["b"])

    def test_the_lead_is_never_two_at_once_in_the_store(self):
        outcomes = []
        for name in "abcabc":
            self.world.hub.cut(name)
            self.world.run(7)
            outcomes.append([one for one in "abc" if isinstance(self.world.members[one].write(), Outcome)])
            self.world.hub.heal(name)
            self.world.run(7)
        self.assertTrue(all(len(one) == 1 for one in outcomes), outcomes)
