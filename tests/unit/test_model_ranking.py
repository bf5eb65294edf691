"""Rendezvous hashing by one long multiplication."""

import hashlib

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.ranking import Ranking

NAMES = st.sets(st.text("abc123", min_size=1, max_size=4), min_size=1, max_size=40)


def number(name):
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")


def plainly(members, name):
    """As the module says it, one product each."""
    factor = number(name) | 1

    def rank(member):
        return (number(member) * factor).to_bytes(16, "little")[9:4:-1]

    return sorted(sorted(members), key=rank)


class Rankings(SynchronousTestCase):
    @settings(max_examples=100, deadline=None)
    @given(NAMES, st.text(max_size=5))
    def test_it_is_what_a_product_each_would_give(self, members, name):
        self.assertEqual(list(Ranking(members).by(name)), plainly(members, name))

    @settings(max_examples=50, deadline=None)
    @given(NAMES, st.text(max_size=5), st.randoms())
    def test_one_that_leaves_changes_nothing_among_the_others(self, members, name, random):
        gone = random.choice(sorted(members))
        left = [member for member in Ranking(members).by(name) if member != gone]
        self.assertEqual(list(Ranking(members - {gone}).by(name)), left)

    def test_first_and_second_places_are_spread(self):
        ranking = Ranking([f"m{n}" for n in range(20)])
        orders = [list(ranking.by(f"n{n}"))[:2] for n in range(4000)]
        for place in (0, 1):
            shares = [sum(order[place] == f"m{n}" for order in orders) for n in range(20)]
            # 200 each; five standard deviations.
            self.assertGreater(min(shares), 130)
            self.assertLess(max(shares), 270)
        # Whoever loses one member spreads what it had over all others.
        heirs = {order[1] for order in orders if order[0] == "m0"}
        self.assertEqual(len(heirs), 19)

    def test_nobody_ranks_in_an_empty_set(self):
        self.assertEqual(list(Ranking([]).by("a")), [])
