"""How long requests took, as counts in fixed buckets: a histogram that can be added up over service engines and time.

Percentiles cannot be averaged, counts can be added.  The buckets are the same everywhere: bucket 0 is below 1 ms, then
eight to each doubling, the last one takes all that is longer (over two hours).  A bucket is 9 % wide, so a percentile
taken from it is within 9 % of what was put in; a data plane that measures in bins of its own (Envoy's are 10 % wide)
adds half a bin: within 15 % in all, and mostly much less.
"""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

PER_DOUBLING = 8
BUCKETS = 186
"""1 ms x 2^(184/8) is 2 h 20 min: longer than any request, and TCP connections that last longer are just "long"."""

Histogram = Mapping[int, int]
"""Bucket to count; buckets without any are left out."""


def bucket_of(milliseconds: float) -> int:
    """The bucket that a time falls into."""
    if not milliseconds >= 1.0:
        return 0
    # The smallest part of a bucket more: 2.0 ms is the beginning of its bucket, whatever the logarithm rounds to.
    return min(BUCKETS - 1, 1 + int(math.log2(milliseconds) * PER_DOUBLING + 1e-9))


def bounds_of(bucket: int) -> tuple[float, float]:
    """From and below, in milliseconds."""
    if bucket <= 0:
        return 0.0, 1.0
    return 2.0 ** ((bucket - 1) / PER_DOUBLING), 2.0 ** (bucket / PER_DOUBLING)


def percentile(histogram: Histogram, part: float) -> float | None:
    """Milliseconds that ``part`` (0 to 1) of all took at most; None when there are none."""
    wanted = part * sum(histogram.values())
    passed = 0
    for bucket, count in sorted(histogram.items()):
        if count and passed + count >= wanted:
            lower, upper = bounds_of(bucket)
            return lower + (upper - lower) * (wanted - passed) / count
        passed += count
    return None


def of_bins(bins: Iterable[tuple[float, float, int]]) -> dict[int, int]:
    """From a data plane's bins of (lower bound, width, count) in ms; each goes where its middle is."""
    found: dict[int, int] = {}
    for lower, width, count in bins:
        if count:
            bucket = bucket_of(lower + width / 2)
            found[bucket] = found.get(bucket, 0) + count
    return found


def flat(histogram: Histogram) -> tuple[int, ...]:
    """``bucket, count, bucket, count ...`` in the order of buckets: how it travels and is kept."""
    return tuple(itertools.chain.from_iterable(sorted(histogram.items())))


def from_flat(pairs: Sequence[int]) -> dict[int, int]:
    """What ``flat`` made; an odd number at the end is left out."""
    return dict(zip(pairs[::2], pairs[1::2], strict=False))


def add(into: dict[int, int], more: Histogram) -> None:
    """Add ``more`` to ``into``."""
    for bucket, count in more.items():
        into[bucket] = into.get(bucket, 0) + count
