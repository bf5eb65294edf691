"""Throttles: the first records of each second stay, of each virtual service and of all."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs import throttle
from avinet.logs.split import split
from avinet.logs.throttle import RECENT_S, Throttle, Throttler
from avinet.model.logs import LogClass
from tests.unit.log_lines import line, service

S = 1_000_000


def lines(wanted):
    """``wanted``: services' numbers and seconds."""
    text = b"".join(line(number, second * S + n) for n, (number, second) in enumerate(wanted))
    return split(text, LogClass.FULL, final=True).lines


def plainly(wanted, per_se, per_service, counted):
    kept = []
    for number, second in wanted:
        limit = per_service.get(number, 0)
        counted[number, second] += 1
        well = not limit or counted[number, second] <= limit
        if well and per_se:
            counted[second] += 1
            well = counted[second] <= per_se
        kept.append(well)
    return kept


class Throttling(SynchronousTestCase):
    @settings(deadline=None)
    @given(
        st.lists(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 3)), max_size=30), max_size=4),
        st.integers(0, 6),
        st.dictionaries(st.integers(0, 3), st.integers(0, 4)),
    )
    def test_it_counts_as_one_would_a_line_at_a_time_over_all_chunks(self, chunks, per_se, per_service):
        throttler = Throttler(Throttle(per_se, {service(n): limit for n, limit in per_service.items()}))
        counted = Counter()
        for wanted in chunks:
            self.assertEqual(
                throttler.admit(lines(wanted)).tolist(), plainly(wanted, per_se, per_service, counted)
            )

    def test_nothing_limited_is_nothing_counted(self):
        self.assertFalse(Throttle(0, {service(1): 0}))
        throttler = Throttler(Throttle(0, {service(1): 0}))
        self.assertTrue(throttler.admit(lines([(1, 1)] * 5)).all())
        self.assertEqual(throttler.counted(), {})

    def test_what_did_not_stay_is_not_counted(self):
        throttler = Throttler(Throttle(2))
        before = throttler.counted()
        self.assertEqual(throttler.admit(lines([(1, 1)] * 2)).tolist(), [True, True])
        throttler.recall(before)
        self.assertEqual(throttler.admit(lines([(1, 1)] * 3)).tolist(), [True, True, False])

    def test_what_it_remembers_is_bounded(self):
        throttler = Throttler(Throttle(1))
        throttler.admit(lines([(1, second) for second in range(1, 2000)]))
        self.assertLessEqual(len(throttler.counted()), RECENT_S + 1)
        self.patch(throttle, "MAX_COUNTED", 50)
        throttler.admit(lines([(1, 2000)]))
        self.assertLessEqual(len(throttler.counted()), 200)
        self.assertEqual(throttler.admit(lines([(1, 2000)])).tolist(), [False])
