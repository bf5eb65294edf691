"""Buckets of latency: every time has one, and percentiles are as near as they are said to be."""

import random

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.latency import BUCKETS, add, bounds_of, bucket_of, flat, from_flat, of_bins, percentile


class Buckets(SynchronousTestCase):
    def test_every_time_lies_within_the_bounds_of_its_bucket(self):
        draw = random.Random(1)
        for _ in range(20_000):
            time = 10 ** draw.uniform(-2, 6.8)
            lower, upper = bounds_of(bucket_of(time))
            self.assertTrue(lower * (1 - 1e-9) <= time < upper * (1 + 1e-9), time)

    def test_what_cannot_be_a_time_has_a_bucket_all_the_same(self):
        for odd, bucket in ((0.0, 0), (-1.0, 0), (float("nan"), 0), (1e300, BUCKETS - 1)):
            self.assertEqual(bucket_of(odd), bucket)

    def test_percentiles_are_within_nine_percent_also_of_histograms_added_up(self):
        draw = random.Random(2)
        parts = [[draw.lognormvariate(3, 1.5) + 1 for _ in range(n)] for n in (700, 1, 2_000)]
        whole = {}
        for part in parts:
            counts = {}
            for time in part:
                add(counts, {bucket_of(time): 1})
            add(whole, counts)
        times = sorted(time for part in parts for time in part)
        for share in (0.01, 0.5, 0.9, 0.99, 1.0):
            exact = times[max(0, int(share * len(times)) - 1)]
            self.assertLess(abs(percentile(whole, share) - exact) / exact, 0.095, share)

    def test_nothing_has_no_percentile(self):
        self.assertIsNone(percentile({}, 0.5))

    def test_bins_of_a_data_plane_go_where_their_middle_is(self):
        self.assertEqual(
            of_bins(((0.0, 0.1, 2), (1.0, 0.1, 3), (100.0, 10.0, 4), (7.0, 0.1, 0))), {0: 2, 1: 3, 54: 4}
        )
        lower, upper = bounds_of(54)
        self.assertTrue(lower <= 105.0 < upper)

    def test_it_travels_in_order_and_comes_back(self):
        histogram = {54: 4, 0: 2}
        self.assertEqual(flat(histogram), (0, 2, 54, 4))
        self.assertEqual(from_flat((0, 2, 54, 4, 9)), histogram)
