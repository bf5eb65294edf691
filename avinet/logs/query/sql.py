"""A query as one SQL statement that no engine has seen yet: sqlglot's tree with our own nodes where engines differ.

Negations are pushed down to single comparisons, for there alone it is plain what is to become of what is not known: SQL has
three values, the language two.
"""

from collections.abc import Callable, Iterator

import attrs
from sqlglot import exp

from avinet.logs.query import nodes
from avinet.logs.query.expressions import (
    All,
    Any,
    Between,
    Compare,
    Expression,
    Has,
    Leaf,
    Not,
    OneOf,
    Op,
    Value,
    Within,
)
from avinet.logs.query.fields import FIELDS, Type
from avinet.logs.query.rendered import Column
from avinet.logs.query.shapes import (
    KEY,
    Aggregate,
    Count,
    Function,
    GroupBy,
    Histogram,
    Percentiles,
    Place,
    Query,
    Records,
    Stored,
    Top,
    Whole,
    quantile_name,
)

SOURCE = "records"
"""What the statement reads from: a table, a view, or a name that the store defines before it."""


@attrs.frozen
class Statement:
    """The tree, and what its rows hold."""

    tree: exp.Select
    columns: tuple[Column, ...]
    limit: int | None = None
    """Rows that are wanted; one more is asked for, to know whether there are more."""


def statement_of(query: Query, *, approximate: bool = False) -> Statement:
    """``query`` as a tree.  ``approximate``: quantiles and counts of different values in bounded memory."""
    match query.shape:
        case Count():
            found = Statement(exp.select(_count()), (Column(("count",)),))
        case Top(fields, limit):
            figures = (Aggregate(Function.COUNT),)
            found = _grouped(fields, figures, approximate=approximate)
            found = attrs.evolve(found, tree=found.tree.limit(nodes.Bound(this=limit)))
        case GroupBy(fields, aggregates, limit):
            found = _limited(_grouped(fields, aggregates, approximate=approximate), limit)
        case Percentiles(field, by, quantiles, interval_us, limit):
            found = _limited(_percentiles(field, by, quantiles, interval_us, approximate=approximate), limit)
        case Histogram(interval_us, by, limit):
            found = _limited(_over_time(interval_us, by, [(_count(), Column(("count",)))]), limit)
        case Records() as shape:
            found = _records(shape)
        case Whole():
            shown = [_named(name) for name in FIELDS]
            tree = exp.select(*shown).order_by(
                exp.Ordered(this=column("time"), desc=False, nulls_first=False)
            )
            found = Statement(tree, tuple(Column((name,)) for name in FIELDS))
        case Stored():
            found = Statement(exp.select(exp.Star()), ())
    where = [*_range(query), *([_condition(query.filter)] if query.filter is not None else [])]
    tree = found.tree.from_(exp.to_identifier(SOURCE, quoted=True))
    return attrs.evolve(found, tree=tree.where(*where) if where else tree)


def trial_of(query: Query) -> Statement:
    """Each comparison of the filter alone."""
    leaves = [exp.alias_(_condition(leaf), f"c{n}") for n, leaf in enumerate(_leaves(query.filter))]
    tree = exp.select(*leaves or [_count()]).from_(exp.to_identifier(SOURCE, quoted=True))
    return Statement(tree, ())


def _leaves(part: Expression | None) -> Iterator[Leaf]:
    match part:
        case None:
            return
        case Not(inner):
            yield from _leaves(inner)
        case All(parts) | Any(parts):
            for one in parts:
                yield from _leaves(one)
        case _:
            yield part


def column(name: str) -> exp.Column:
    """A column by name."""
    return exp.column(exp.to_identifier(name, quoted=True))


def _shown(name: str) -> exp.Expr:
    """A field as people see it."""
    field = FIELDS[name]
    return nodes.Milliseconds(this=column(field.column)) if field.column else column(name)


def _named(name: str) -> exp.Expr:
    return _as(_shown(name), name) if FIELDS[name].column else column(name)


def _bound(field: str, value: Value) -> nodes.Bound:
    """A value as the field's column has it."""
    if FIELDS[field].column and not isinstance(value, str):
        micros = round(value * 1_000, 3)
        return nodes.Bound(this=int(micros) if micros == int(micros) else micros)
    return nodes.Bound(this=value)


def _column_of(field: str) -> exp.Column:
    return column(FIELDS[field].column or field)


def _as(expression: exp.Expr, name: str) -> exp.Expr:
    return exp.alias_(expression, name, quoted=True)


def _count() -> exp.Expr:
    return _as(exp.Count(this=exp.Star()), "count")


# The filter


def _range(query: Query) -> list[exp.Expr]:
    found: list[exp.Expr] = []
    if query.since_us is not None:
        found.append(exp.GTE(this=column("time"), expression=nodes.Instant(this=query.since_us)))
    if query.until_us is not None:
        found.append(exp.LT(this=column("time"), expression=nodes.Instant(this=query.until_us)))
    return found


def _condition(part: Expression, *, negated: bool = False) -> exp.Expr:
    match part:
        case Not(inner):
            return _condition(inner, negated=not negated)
        case All(parts) | Any(parts):
            found = [_condition(one, negated=negated) for one in parts]
            every = isinstance(part, All) is not negated
            return exp.paren(
                exp.and_(*found, copy=False) if every else exp.or_(*found, copy=False), copy=False
            )
        case _:
            return _leaf(part, negated=negated)


_COMPARED: dict[Op, Callable[..., exp.Expr]] = {
    Op.EQUAL: exp.EQ,
    Op.LESS: exp.LT,
    Op.AT_MOST: exp.LTE,
    Op.MORE: exp.GT,
    Op.AT_LEAST: exp.GTE,
    Op.MATCHES: nodes.Regex,
    Op.CONTAINS: nodes.Contains,
    Op.STARTS: exp.StartsWith,
    Op.ENDS: exp.EndsWith,
}


def _leaf(part: Leaf, *, negated: bool) -> exp.Expr:
    match part:
        case Has(field):
            unknown = exp.Is(this=_column_of(field), expression=exp.null())
            return unknown if negated else exp.not_(exp.paren(unknown))
        case Compare(field, Op.EQUAL, value) if negated:
            return exp.NullSafeNEQ(this=_column_of(field), expression=_bound(field, value))
        case Compare(field, op, value):
            test = _COMPARED[op](this=_column_of(field), expression=_bound(field, value))
        case OneOf(field, values):
            test = exp.In(this=_column_of(field), expressions=[_bound(field, value) for value in values])
        case Between(field, low, high):
            test = exp.Between(this=_column_of(field), low=nodes.Bound(this=low), high=nodes.Bound(this=high))
        case Within(_, networks):
            tests = [nodes.InNetwork(this=network) for network in networks]
            test = tests[0] if len(tests) == 1 else exp.or_(*tests, copy=False)
    return (
        exp.not_(exp.paren(exp.Is(this=exp.paren(test), expression=exp.true())))
        if negated
        else exp.paren(test)
    )


# The shapes


def _limited(found: Statement, limit: int) -> Statement:
    return attrs.evolve(found, tree=found.tree.limit(nodes.Bound(this=limit + 1)), limit=limit)


def _grouped(fields: tuple[str, ...], aggregates: tuple[Aggregate, ...], *, approximate: bool) -> Statement:
    figures = _figures(aggregates, approximate=approximate)
    keys = [_shown(name) for name in fields]
    first = exp.column(exp.to_identifier(_first_name(figures[0]), quoted=True))
    # A list of quantiles is ordered by its first, which is the one that was asked for first.
    tree = (
        exp.select(*keys, *(figure for figure, _ in figures))
        .group_by(*keys)
        .order_by(exp.Ordered(this=first, desc=True, nulls_first=False), *_ascending(keys))
    )
    return Statement(tree, (*(Column((name,)) for name in fields), *(shown for _, shown in figures)))


def _first_name(figure: tuple[exp.Expr, Column]) -> str:
    return figure[0].alias


def _ascending(keys: list[exp.Expr]) -> list[exp.Expr]:
    return [exp.Ordered(this=key, desc=False, nulls_first=False) for key in keys]


def _figures(aggregates: tuple[Aggregate, ...], *, approximate: bool) -> list[tuple[exp.Expr, Column]]:
    """Each with its column; quantiles of one field are one list, so that its values are kept once."""
    found: dict[tuple[Function, str], tuple[exp.Expr, Column]] = {}
    for one in aggregates:
        key = one.function, one.field
        if one.function is not Function.QUANTILE:
            found[key] = _as(_figure(one, approximate=approximate), one.name), Column((one.name,))
        elif key not in found:
            same = [other for other in aggregates if (other.function, other.field) == key]
            quantiles = tuple(other.quantile for other in same)
            found[key] = _quantiles(
                one.field, quantiles, tuple(other.name for other in same), approximate=approximate
            )
    return list(found.values())


def _figure(one: Aggregate, *, approximate: bool) -> exp.Expr:
    of = _shown(one.field) if one.field else exp.Star()
    match one.function:
        case Function.SUM:
            return exp.Sum(this=of)
        case Function.AVERAGE:
            return exp.Avg(this=of)
        case Function.LEAST:
            return exp.Min(this=of)
        case Function.MOST:
            return exp.Max(this=of)
        case Function.DISTINCT:
            return nodes.Distinct(this=of, approximate=approximate)
        case _:
            return exp.Count(this=exp.Star())


def _quantiles(
    field: str, quantiles: tuple[float, ...], names: tuple[str, ...], *, approximate: bool
) -> tuple[exp.Expr, Column]:
    made = nodes.Quantiles(this=_shown(field), quantiles=quantiles, approximate=approximate)
    return _as(made, f"quantiles_{field}"), Column(names, listed=True)


def _percentiles(
    field: str, by: tuple[str, ...], quantiles: tuple[float, ...], interval_us: int, *, approximate: bool
) -> Statement:
    names = tuple(quantile_name(quantile) for quantile in quantiles)
    figures = [(_count(), Column(("count",))), _quantiles(field, quantiles, names, approximate=approximate)]
    if interval_us:
        return _over_time(interval_us, by, figures)
    keys = [_shown(name) for name in by]
    tree = exp.select(*keys, *(figure for figure, _ in figures))
    if keys:
        count = exp.column(exp.to_identifier("count", quoted=True))
        tree = tree.group_by(*keys).order_by(
            exp.Ordered(this=count, desc=True, nulls_first=False), *_ascending(keys)
        )
    return Statement(tree, (*(Column((name,)) for name in by), *(shown for _, shown in figures)))


def _over_time(interval_us: int, by: tuple[str, ...], figures: list[tuple[exp.Expr, Column]]) -> Statement:
    bucket = _as(nodes.TimeBucket(this=column("time"), interval_us=interval_us), "bucket")
    keys: list[exp.Expr] = [
        exp.column(exp.to_identifier("bucket", quoted=True)),
        *(_shown(name) for name in by),
    ]
    tree = (
        exp.select(bucket, *keys[1:], *(figure for figure, _ in figures))
        .group_by(*keys)
        .order_by(*_ascending(keys))
    )
    shown = (Column(("time",), time=True), *(Column((name,)) for name in by), *(one for _, one in figures))
    return Statement(tree, shown)


def _records(shape: Records) -> Statement:
    names = tuple(FIELDS)
    shown = [
        _as(nodes.Micros(this=column(name)), "micros") if FIELDS[name].type is Type.TIME else _named(name)
        for name in names
    ]
    # An engine leaves open what comes first of what is equal, and decides anew for each page: records that differ in no
    # key have to have an order, too.  Ordering by all of their fields reads as much and took up to twice as long.
    order = (column("time"), *_keys(), nodes.Fingerprint())
    tree = exp.select(*shown).order_by(
        *(exp.Ordered(this=key, desc=not shape.oldest_first, nulls_first=False) for key in order)
    )
    if shape.after is not None:
        tree = tree.where(_after(shape.after, oldest_first=shape.oldest_first)).offset(
            nodes.Bound(this=shape.after.shown)
        )
    elif shape.skip:
        tree = tree.offset(nodes.Bound(this=shape.skip))
    columns = tuple(Column((name,), time=FIELDS[name].type is Type.TIME) for name in names)
    return _limited(Statement(tree, columns), shape.limit)


def _keys() -> list[exp.Expr]:
    """As text, and never null, so that all of them have one order."""
    return [
        exp.Coalesce(
            this=exp.Cast(this=column(name), to=exp.DataType.build("text")),
            expressions=[exp.Literal.string("")],
        )
        for name in KEY
    ]


def _after(place: Place, *, oldest_first: bool) -> exp.Expr:
    """What comes at ``place`` or after; how many of those with its own key were shown is left to the offset."""
    beyond = exp.GT if oldest_first else exp.LT
    found: exp.Expr = exp.true()  # the place itself
    for key, value in reversed(list(zip(_keys(), place.key, strict=True))):
        further = beyond(this=key.copy(), expression=nodes.Bound(this=value))
        same = exp.EQ(this=key, expression=nodes.Bound(this=value))
        found = exp.paren(exp.or_(further, exp.and_(same, found)))
    at = nodes.Instant(this=place.time_us)
    # The first is implied by the second, and is what whole files and row groups are left out by.
    within = (exp.GTE if oldest_first else exp.LTE)(this=column("time"), expression=at)
    further = beyond(this=column("time"), expression=at.copy())
    return exp.and_(within, exp.paren(exp.or_(further, found)))
