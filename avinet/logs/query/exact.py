"""Quantiles, averages and how many different values there are, of several stores' records: exact, from how often each value is.

Values with their counts can be put together, quantiles cannot.  Each store is asked for the values of a field in each group, up
to a bound; where one has more, the estimates of ``merged`` are made.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import msgspec

from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Function, GroupBy, Histogram, Percentiles, Query, Shape, Top

MAX_VALUES = 20_000
"""Of one store, over all groups: 1 MiB, and 20 ms to put together."""
OF_VALUES = frozenset({Function.QUANTILE, Function.AVERAGE, Function.DISTINCT})

Key = tuple[Any, ...]


def value_queries(query: Query) -> dict[str, Query]:
    """By field, what to ask each store that has something; nothing where no figure of ``query`` needs it."""
    shape = query.shape
    asked: dict[str, Shape] = {}
    if isinstance(shape, Percentiles):
        fields = _with(shape.by, shape.field)
        asked[shape.field] = (
            Histogram(shape.interval_us, fields, MAX_VALUES) if shape.interval_us else Top(fields, MAX_VALUES)
        )
    elif isinstance(shape, GroupBy):
        for one in shape.aggregates:
            if one.function in OF_VALUES:
                asked[one.field] = Top(_with(shape.fields, one.field), MAX_VALUES)
    return {field: msgspec.structs.replace(query, shape=made) for field, made in asked.items()}


def groups_of(shape: Percentiles | GroupBy) -> tuple[str, ...]:
    """The names of the values that tell groups apart."""
    if isinstance(shape, GroupBy):
        return shape.fields
    return (*(("time",) if shape.interval_us else ()), *shape.by)


def values_of(query: Query, field: str, answers: Sequence[Answer]) -> "Values | None":
    """The answers to what ``value_queries`` has for ``field``, put together; None where there are too many values."""
    if any(len(answer.results or ()) >= MAX_VALUES for answer in answers):
        return None
    if not isinstance(query.shape, Percentiles | GroupBy):
        raise TypeError(f"a {type(query.shape).__name__} needs no values")
    groups = groups_of(query.shape)
    found: dict[Key, Counter[Any]] = {}
    for answer in answers:
        for row in answer.results or ():
            found.setdefault(tuple(row[name] for name in groups), Counter())[row[field]] += row["count"]
    return Values(found)


@attrs.frozen
class Values:
    """How often each value of a field is, in each group; None is what is not known."""

    by_group: Mapping[Key, Mapping[Any, int]]

    def count(self, group: Key) -> int:
        """Records."""
        return sum(self._of(group).values())

    def quantile(self, group: Key, share: float) -> float | None:
        """Between two values in a straight line, as the stores have it (``quantile_cont``)."""
        known = sorted((value, count) for value, count in self._of(group).items() if value is not None)
        total = sum(count for _, count in known)
        if not total:
            return None
        rank = share * (total - 1)
        low, high = _at(known, math.floor(rank)), _at(known, math.ceil(rank))
        return float(low + (high - low) * (rank - math.floor(rank)))

    def average(self, group: Key) -> float | None:
        """Of what is known."""
        known = [(value, count) for value, count in self._of(group).items() if value is not None]
        total = sum(count for _, count in known)
        return math.fsum(value * count for value, count in known) / total if total else None

    def different(self, group: Key) -> int:
        """Values that are known."""
        return sum(value is not None for value in self._of(group))

    def _of(self, group: Key) -> Mapping[Any, int]:
        return self.by_group.get(group, {})


def _at(known: Sequence[tuple[Any, int]], place: int) -> Any:
    """The value at that place, counted from 0, of all in their order."""
    for value, count in known:
        place -= count
        if place < 0:
            return value
    return known[-1][0]


def _with(fields: tuple[str, ...], field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*fields, field)))
