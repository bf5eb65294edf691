"""Sets of segments as runs of counters."""

from hypothesis import given, strategies
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.runs import Names
from avinet.model.ids import SeId

SPOOLS = tuple((SeId(se), incarnation * 32) for se in ("se-1", "se-2") for incarnation in "ab")
SETS = strategies.sets(strategies.tuples(strategies.sampled_from(SPOOLS), strategies.integers(1, 12)))


def names(found):
    return Names.of((*spool, counter) for spool, counter in found)


def listed(found):
    return {
        (spool, counter)
        for spool, runs in found
        for first, last in runs
        for counter in range(first, last + 1)
    }


class NamesTest(SynchronousTestCase):
    @given(SETS, SETS)
    def test_they_are_sets(self, one, other):
        both, left = names(one).plus(names(other)), names(one).minus(names(other))
        self.assertEqual((one | other, one - other), (listed(both), listed(left)))
        self.assertEqual((len(one), bool(one)), (names(one).count, bool(names(one))))
        self.assertEqual(both, names(one | other))

    def test_what_lies_side_by_side_is_one_run(self):
        ((_, runs),) = names({(SPOOLS[0], counter) for counter in (5, 1, 2, 3, 7)})
        self.assertEqual(((1, 3), (5, 5), (7, 7)), runs)
