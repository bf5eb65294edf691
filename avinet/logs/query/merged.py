"""One answer of several stores', each of which has some of the records and none has another's.

Counts, sums, extremes, histograms over time and records come out as one store with all of it would give them.  So do quantiles,
averages and how many different values there are while the values are few enough to be put together (``exact``).  Where they
are not, quantiles and averages are estimates, and say so: quantiles from a hundred of each store's (a rank is off by half a
percent at most), averages by the records of each; and how many different values there are cannot be told.
What one store alone has is its answer as it is: a virtual service's records are usually with one controller.

``question`` says what to ask each store for that, ``again`` what to ask for estimates, ``merged`` puts the answers together.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar, TypeVar

import attrs
import msgspec

from avinet.errors import AvinetError, Kind, error
from avinet.logs.query.answers import Answer
from avinet.logs.query.exact import OF_VALUES, Key, Values, groups_of
from avinet.logs.query.pages import Page, cursor_of
from avinet.logs.query.shapes import (
    KEY,
    MAX_ROWS,
    Aggregate,
    Count,
    Function,
    GroupBy,
    Histogram,
    Percentiles,
    Place,
    Query,
    Records,
    Shape,
    Top,
    quantile_name,
)
from avinet.logs.query.times import instant_us

Row = dict[str, Any]
Exact = Mapping[str, Values]
"""By field, the values of all stores together."""
NOTHING: Exact = {}
_S = TypeVar("_S")

TAIL = (0.991, 0.992, 0.993, 0.994, 0.995, 0.996, 0.997, 0.998, 0.999, 0.9995, 0.9999)
"""What operators ask for is mostly here, so it is closer."""
GRID = (*(step / 100 for step in range(101)), *TAIL)
COARSE = (*(step / 20 for step in range(21)), 0.98, 0.99, 0.995, 0.999, 0.9999)
"""Of each of many groups: 10,000 rows of a hundred numbers would be 10 MiB from each store."""


@error
class NotMergeableError(AvinetError):
    """How many different values of {field} there are cannot be told: several controllers have some of the records, and of too many values. Ask for one virtual service (vs=NAME), or for the values themselves (--top {field})."""

    kind: ClassVar[Kind] = Kind.INVALID
    field: str


def question(query: Query) -> Query:
    """What each store is asked first: all groups rather than the largest, which elsewhere may be others."""
    shape = query.shape
    if isinstance(shape, Top | GroupBy | Percentiles | Histogram):
        return msgspec.structs.replace(query, shape=msgspec.structs.replace(shape, limit=MAX_ROWS))
    if isinstance(shape, Records) and shape.after is not None:
        # Which of those that are alike were shown is not known of any one store.
        place, limit = shape.after, min(MAX_ROWS, shape.limit + shape.after.shown)
        place = msgspec.structs.replace(place, shown=0)
        return msgspec.structs.replace(query, shape=msgspec.structs.replace(shape, after=place, limit=limit))
    return query


def again(query: Query, answers: Sequence[Answer], exact: Exact = NOTHING) -> Query | None:
    """What to ask those that have something, where their first answers and ``exact`` do not suffice; None where they do.

    ``NotMergeableError`` for what cannot be put together at all.
    """
    shape = query.shape
    if sum(map(has_rows, answers)) < 2:
        return None
    if isinstance(shape, Percentiles) and shape.field not in exact:
        grid = COARSE if shape.by or shape.interval_us else GRID
        quantiles = tuple(sorted({*shape.quantiles, *grid}))
        finer: Shape = msgspec.structs.replace(shape, quantiles=quantiles, limit=MAX_ROWS)
        return msgspec.structs.replace(query, shape=finer)
    if isinstance(shape, GroupBy):
        for one in shape.aggregates:
            if one.function is Function.DISTINCT and one.field not in exact:
                raise NotMergeableError(field=one.field)
        if _estimated(shape, exact):
            finer = msgspec.structs.replace(shape, aggregates=_with_weights(shape), limit=MAX_ROWS)
            return msgspec.structs.replace(query, shape=finer)
    return None


def _estimated(shape: GroupBy, exact: Exact) -> bool:
    return any(one.function in _BY_WEIGHT and one.field not in exact for one in shape.aggregates)


def has_rows(answer: Answer) -> bool:
    """Whether a store had any record that was asked for."""
    if answer.results is None:
        return bool(answer.count)
    return any(row.get("count") != 0 for row in answer.results)


def merged(query: Query, answers: Sequence[Answer], exact: Exact = NOTHING) -> Answer:
    """The answer to ``query``; ``answers`` are to what ``question`` or ``again`` made of it, ``exact`` has fields' values."""
    missing = tuple(chain.from_iterable(answer.missing for answer in answers))
    whole = _MERGERS[type(query.shape)](query, answers, exact)
    return msgspec.structs.replace(whole, missing=missing)


# Counts


def _count(query: Query, answers: Sequence[Answer], exact: Exact) -> Answer:
    return Answer(count=sum(answer.count or 0 for answer in answers))


# Groups

_BY_WEIGHT = frozenset({Function.QUANTILE, Function.AVERAGE})


def _with_weights(shape: GroupBy) -> tuple[Aggregate, ...]:
    """Of each field with quantiles a grid of them; and how many records a group has."""
    wanted = [one for one in shape.aggregates if one.function is not Function.QUANTILE]
    fields = dict.fromkeys(one.field for one in shape.aggregates if one.function is Function.QUANTILE)
    for field in fields:
        asked = {one.quantile for one in shape.aggregates if one.field == field}
        wanted += [Aggregate(Function.QUANTILE, field, share) for share in sorted({*asked, *COARSE})]
    return tuple(dict.fromkeys((Aggregate(Function.COUNT), *wanted)))


def _group_by(query: Query, answers: Sequence[Answer], exact: Exact) -> Answer:
    shape = _shape(query, GroupBy)
    alone = [answer for answer in answers if has_rows(answer)]
    if len(alone) < 2:
        return _cut(_rows(alone), shape.limit, answers)
    rows = [
        {**dict(zip(shape.fields, key, strict=True)), **_figures(shape.aggregates, key, parts, exact)}
        for key, parts in _grouped(_rows(answers), shape.fields)
    ]
    first = shape.aggregates[0].name
    rows.sort(key=lambda row: (_descending(row[first]), *_ascending(row, shape.fields)))
    return _cut(rows, shape.limit, answers, approximate=_estimated(shape, exact))


def _figures(aggregates: Sequence[Aggregate], key: Key, parts: Sequence[Row], exact: Exact) -> Row:
    return {
        one.name: _exact_figure(one, key, exact[one.field])
        if one.function in OF_VALUES and one.field in exact
        else _figure(one, parts)
        for one in aggregates
    }


def _exact_figure(one: Aggregate, key: Key, values: Values) -> Any:
    match one.function:
        case Function.QUANTILE:
            return values.quantile(key, one.quantile)
        case Function.AVERAGE:
            return values.average(key)
        case _:
            return values.different(key)


def _figure(one: Aggregate, parts: Sequence[Row]) -> Any:
    if one.function is Function.QUANTILE:
        return _quantile(one.quantile, [(part["count"], _grid_of(part, one.field)) for part in parts])
    values = [part[one.name] for part in parts if part[one.name] is not None]
    if not values:
        return None
    match one.function:
        case Function.LEAST:
            return min(values)
        case Function.MOST:
            return max(values)
        case Function.AVERAGE:
            weights = [part["count"] for part in parts if part[one.name] is not None]
            return sum(value * weight for value, weight in zip(values, weights, strict=True)) / sum(weights)
        case _:
            return sum(values)


def _top(query: Query, answers: Sequence[Answer], exact: Exact) -> Answer:
    shape = _shape(query, Top)
    rows = _counted(_rows(answers), shape.fields)
    rows.sort(key=lambda row: (-row["count"], *_ascending(row, shape.fields)))
    # As of one store: that there are more values than were asked for is no news.
    short = any(len(answer.results or ()) >= MAX_ROWS for answer in answers)
    return Answer(results=tuple(rows[: shape.limit]), approximate=short and len(answers) > 1)


def _histogram(query: Query, answers: Sequence[Answer], exact: Exact) -> Answer:
    shape = _shape(query, Histogram)
    fields = ("time", *shape.by)
    rows = _counted(_rows(answers), fields)
    rows.sort(key=lambda row: _ascending(row, fields))
    return _cut(rows, shape.limit, answers)


def _counted(rows: Iterable[Row], fields: Sequence[str]) -> list[Row]:
    return [
        {**dict(zip(fields, key, strict=True)), "count": sum(part["count"] for part in parts)}
        for key, parts in _grouped(rows, fields)
    ]


def _percentiles(query: Query, answers: Sequence[Answer], exact: Exact) -> Answer:
    shape = _shape(query, Percentiles)
    fields, values = groups_of(shape), exact.get(shape.field)
    alone = [answer for answer in answers if has_rows(answer)]
    if len(alone) < 2:
        # All of them say how many, also where that is none.
        return _cut(_rows(alone or answers[:1]), shape.limit, answers)
    rows = []
    for key, parts in _grouped(_rows(answers), fields):
        row = {**dict(zip(fields, key, strict=True)), "count": sum(part["count"] for part in parts)}
        grids = [] if values is not None else [(part["count"], _grid_of(part)) for part in parts]
        rows.append(
            row
            | {
                quantile_name(one): _quantile(one, grids) if values is None else values.quantile(key, one)
                for one in shape.quantiles
            }
        )
    if shape.interval_us:
        rows.sort(key=lambda row: _ascending(row, fields))
    else:
        rows.sort(key=lambda row: (-row["count"], *_ascending(row, fields)))
    return _cut(rows, shape.limit, answers, approximate=values is None)


# Records


def _records(query: Query, answers: Sequence[Answer], exact: Exact) -> Answer:
    shape = _shape(query, Records)
    rows = _rows(answers)
    rows.sort(key=_place, reverse=not shape.oldest_first)
    before = shape.after
    if before is not None:
        alike = sum(1 for row in rows if _of(_place(row)) == (before.time_us, before.key))
        rows = rows[min(alike, before.shown) :]
    kept = rows[: shape.limit]
    more = len(rows) > len(kept) or any(answer.next is not None for answer in answers)
    if not (more and kept):
        return Answer(results=tuple(kept))
    last = _place(kept[-1])
    shown = sum(1 for row in kept if _place(row) == last)
    if before is not None and (before.time_us, before.key) == _of(last):
        shown += before.shown
    page = Page(Place(*_of(last), shown), shape.oldest_first, query.since_us, query.until_us)
    return Answer(results=tuple(kept), next=cursor_of(page))


def _of(place: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
    return instant_us(place[0], 0) or 0, place[1:]


def _place(row: Row) -> tuple[str, ...]:
    """Times of one length, as text, order as they passed."""
    return (row["time"], *("" if row[name] is None else str(row[name]) for name in KEY))


_MERGERS: Mapping[type, Callable[[Query, Sequence[Answer], Exact], Answer]] = {
    Count: _count,
    Top: _top,
    GroupBy: _group_by,
    Histogram: _histogram,
    Percentiles: _percentiles,
    Records: _records,
}


# Rows


def _shape(query: Query, kind: type[_S]) -> _S:
    if not isinstance(query.shape, kind):
        raise TypeError(f"{type(query.shape).__name__} is not put together as a {kind.__name__}")
    return query.shape


def _rows(answers: Iterable[Answer]) -> list[Row]:
    return [row for answer in answers for row in answer.results or ()]


def _grouped(rows: Iterable[Row], fields: Sequence[str]) -> Iterable[tuple[tuple[Any, ...], list[Row]]]:
    found: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        found[tuple(row[field] for field in fields)].append(row)
    return found.items()


def _cut(rows: Sequence[Row], limit: int, answers: Sequence[Answer], *, approximate: bool = False) -> Answer:
    return Answer(
        results=tuple(rows[:limit]),
        truncated=len(rows) > limit or any(answer.truncated for answer in answers),
        approximate=approximate or any(answer.approximate for answer in answers),
    )


def _ascending(row: Row, fields: Sequence[str]) -> tuple[tuple[bool, Any], ...]:
    """What is not known comes last, as in a store."""
    return tuple((row[field] is None, 0 if row[field] is None else row[field]) for field in fields)


def _descending(value: Any) -> tuple[bool, Any]:
    return (value is None, 0 if value is None else -value)


# Quantiles


@attrs.frozen
class _Grid:
    """Values at shares, rising: a store's distribution, with straight lines between."""

    shares: tuple[float, ...]
    values: tuple[float, ...]

    def share_of(self, value: float) -> float:
        """How many of the values, as a share, are at most ``value``."""
        if value < self.values[0]:
            return 0.0
        if value >= self.values[-1]:
            return 1.0
        above = next(place for place, at in enumerate(self.values) if at > value)
        low, high = self.values[above - 1], self.values[above]
        part = (value - low) / (high - low)
        return self.shares[above - 1] + part * (self.shares[above] - self.shares[above - 1])


def _grid_of(part: Row, field: str = "") -> _Grid | None:
    suffix = f"_{field}" if field else ""
    found = []
    for share in sorted({*GRID, *COARSE}):
        value = part.get(quantile_name(share) + suffix)
        if value is not None:
            found.append((share, float(value)))
    return _Grid(*zip(*found, strict=True)) if found else None


def _quantile(share: float, grids: Sequence[tuple[int, _Grid | None]]) -> float | None:
    """The value at which ``share`` of all records are, by halving; each store counts by its records."""
    known = [(count, grid) for count, grid in grids if grid is not None and count]
    total = sum(count for count, _ in known)
    if not total:
        return None
    low = min(grid.values[0] for _, grid in known)
    high = max(grid.values[-1] for _, grid in known)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if sum(count * grid.share_of(middle) for count, grid in known) / total < share:
            low = middle
        else:
            high = middle
    return high


_HALVINGS = 40
"""A range of 10^12 down to one."""
