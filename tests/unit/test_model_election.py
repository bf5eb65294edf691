"""Each fact in each state of the election, and that it does not go to and fro."""

from itertools import product

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.election import GRACE_S, RETRY_S, Election, Seize, Stand, Standing, StepDown
from avinet.model.ids import ControllerName
from avinet.model.sight import majority_lost

ME, OTHER = ControllerName("a"), ControllerName("b")


def following(other=OTHER, now=0.0):
    election = Election(ME)
    election.seen(Standing(other, 4), 10, now)
    return election


def seizing():
    election = Election(ME)
    election.seen(None, 10, 0.0)
    return election


def leading():
    election = seizing()
    election.won(Standing(ME, 5), 11)
    return election


class Following(SynchronousTestCase):
    def test_it_seizes_nothing_before_the_store_has_spoken(self):
        election = Election(ME)
        self.assertEqual(election.tick(100.0), ())
        self.assertEqual(election.peers(lost=True, now=100.0), ())

    def test_it_seizes_what_nobody_has(self):
        self.assertEqual(Election(ME).seen(None, 10, 0.0), (Seize(0, "nobody led"),))
        self.assertEqual(following().seen(None, 11, 1.0), (Seize(0, "nobody led"),))

    def test_it_seizes_what_its_own_name_has_from_before(self):
        self.assertEqual(Election(ME).seen(Standing(ME, 4), 10, 0.0), (Seize(10, "it led before"),))

    def test_it_leaves_a_leader_alone_that_is_seen(self):
        election = following()
        self.assertEqual(election.tick(1e9), ())
        self.assertEqual(election.peers(lost=False, now=1e9), ())

    def test_a_leader_that_a_majority_has_lost_is_seized_from_at_once(self):
        (effect,) = following().peers(lost=True, now=GRACE_S)
        self.assertEqual((effect.revision, effect.why), (10, "a majority of the controllers has lost b"))

    def test_but_not_one_that_is_new(self):
        election = following()
        self.assertEqual(election.peers(lost=True, now=GRACE_S - 0.1), ())
        self.assertEqual(len(election.tick(GRACE_S)), 1)

    def test_what_was_lost_before_is_not_held_against_the_next_leader(self):
        election = following()
        election.peers(lost=True, now=0.0)
        election.seen(Standing(ControllerName("c"), 5), 12, 1.0)
        self.assertEqual(election.tick(1e9), ())

    def test_an_older_word_changes_nothing(self):
        election = following()
        self.assertEqual(election.seen(None, 10, 1.0), ())
        self.assertEqual(election.standing, Standing(OTHER, 4))

    def test_it_has_no_lease_to_end(self):
        self.assertEqual(following().ended("it ended", 1.0), ())


class Seizing(SynchronousTestCase):
    def test_it_asks_once(self):
        election = seizing()
        self.assertEqual(election.tick(1e9), ())
        self.assertEqual(election.peers(lost=True, now=1e9), ())
        self.assertEqual(election.seen(None, 12, 1.0), ())

    def test_it_waits_after_a_refusal(self):
        election = seizing()
        election.refused(1.0)
        self.assertEqual(election.tick(1.0), ())
        self.assertEqual(len(election.tick(1.0 + RETRY_S)), 1)

    def test_refused_it_follows_whoever_was_first(self):
        election = seizing()
        election.seen(Standing(OTHER, 5), 12, 1.0)
        election.refused(1.0)
        self.assertEqual(election.tick(1e9), ())

    def test_its_own_word_by_the_watch_may_come_before_the_answer_or_after(self):
        before = seizing()
        self.assertEqual(before.seen(Standing(ME, 5), 11, 0.0), ())
        before.won(Standing(ME, 5), 11)
        after = leading()
        self.assertEqual(after.seen(Standing(ME, 5), 11, 0.0), ())
        self.assertEqual((before.stand, after.stand), (Stand.LEADING, Stand.LEADING))


class Leading(SynchronousTestCase):
    def test_it_goes_on(self):
        election = leading()
        self.assertEqual(election.tick(1e9), ())
        self.assertEqual(election.peers(lost=True, now=1e9), ())

    def test_it_steps_down_for_another(self):
        election = leading()
        self.assertEqual(election.seen(Standing(OTHER, 6), 12, 1.0), (StepDown("b leads now"),))
        self.assertIs(election.stand, Stand.FOLLOWING)

    def test_whose_lease_ended_steps_down_and_may_seize_anew(self):
        effects = leading().seen(None, 12, 1.0)
        self.assertEqual(effects, (StepDown("its lease ended"), Seize(0, "nobody led")))

    def test_a_silent_store_ends_it_and_its_own_name_is_seized_from_later(self):
        election = leading()
        self.assertEqual(election.ended("silence", 6.0), (StepDown("silence"),))
        self.assertEqual(election.ended("silence", 6.0), ())
        self.assertEqual(election.tick(6.0), ())
        self.assertEqual(election.tick(6.0 + RETRY_S), (Seize(11, "it led before"),))


class Partitions(SynchronousTestCase):
    """Links between three controllers; the state engine is reached by all, which is the worst case."""

    NAMES = tuple(map(ControllerName, "abc"))
    PAIRS = (("a", "b"), ("a", "c"), ("b", "c"))

    def changes(self, links, leader, rounds=200):
        """How often the lead changes while the links stay as they are."""
        sees = {
            one: {other for other in self.NAMES if (one, other) in links or (other, one) in links}
            for one in self.NAMES
        }
        elections = {one: Election(one) for one in self.NAMES}
        revision, count = 1, 0
        for one, election in elections.items():
            if one == leader:
                election.seen(None, 0, 0.0)
                election.won(Standing(one, 1), 1)
            else:
                election.seen(Standing(leader, 1), 1, 0.0)
        for now in range(rounds):
            for one, election in elections.items():
                told = {other: sees[other] for other in (one, *sees[one])}
                lost = majority_lost(election.standing.name, one, self.NAMES, told)
                for effect in election.peers(lost=lost, now=float(now)):
                    self.assertEqual(effect.revision, revision)
                    revision, count = revision + 1, count + 1
                    standing = Standing(one, 1 + count)
                    election.won(standing, revision)
                    for other in self.NAMES:
                        elections[other].seen(standing, revision, float(now))
        return count

    def test_whatever_links_are_cut_the_lead_changes_once_at_most(self):
        for cut, leader in product(product((False, True), repeat=3), self.NAMES):
            links = {pair for pair, is_cut in zip(self.PAIRS, cut, strict=True) if not is_cut}
            self.assertLessEqual(self.changes(links, leader), 1, (links, leader))

    def test_a_leader_that_both_others_have_lost_is_replaced(self):
        self.assertEqual(self.changes({("b", "c")}, "a"), 1)

    def test_one_link_less_replaces_nobody(self):
        self.assertEqual(self.changes({("a", "b"), ("b", "c")}, "a"), 0)
