"""The log store's SQL for DuckDB: the only module of the language that knows it.

Measured with DuckDB 2.0.1, 3 million records in Parquet, one thread: values bound as parameters fold to constants before
the plan is made, so filters reach the Parquet reader and a regular expression is compiled once (as fast as literals).
``quantile_cont`` over lists is exact and takes half the time of ``approx_quantile``, but keeps 8 bytes a record.  The
``inet`` extension is not part of the package and would be downloaded, so networks are compared as integers.
"""

import ipaddress
from collections.abc import Callable
from typing import Any

from sqlglot import exp
from sqlglot.dialects.duckdb import DuckDB

from avinet.logs.query import nodes
from avinet.logs.query.engine import Bind, render, render_statement
from avinet.logs.query.fields import (
    CLIENT_HIGH,
    CLIENT_LOW,
    FIELDS,
    LOW_BITS,
    LOW_MASK,
    MAPPED,
    network_range,
)
from avinet.logs.query.rendered import Rendered
from avinet.logs.query.shapes import Query
from avinet.logs.query.sql import column, trial_of


def duckdb_sql(query: Query, *, approximate: bool = False) -> Rendered:
    """``query`` as a statement with ``$name`` parameters, over a table ``records`` that has the columns of ``COLUMNS``."""
    return render(query, DuckDbEngine(), approximate=approximate)


def duckdb_trial(query: Query) -> Rendered:
    """Every comparison of the query's filter as a column of its own, over the same table: none is left out for another's sake."""
    return render_statement(trial_of(query), DuckDbEngine())


class DuckDbEngine:
    """DuckDB's SQL."""

    dialect = DuckDB

    def placeholder(self, name: str, value: Any) -> exp.Expr:
        """``$p0``."""
        return exp.Placeholder(this=name)

    def replaced(self, node: exp.Expr, bind: Bind) -> exp.Expr:
        """As the protocol says."""
        return _REPLACED[type(node)](node, bind)


def _time_bucket(node: exp.Expr, bind: Bind) -> exp.Expr:
    micros = exp.func("epoch_us", node.this)
    rest = exp.Mod(this=micros.copy(), expression=bind(node.args["interval_us"]))
    return exp.Sub(this=micros, expression=exp.paren(rest))


def _quantiles(node: exp.Expr, bind: Bind) -> exp.Expr:
    wanted = bind(list(node.args["quantiles"]))
    if not node.args["approximate"]:
        return exp.func("quantile_cont", node.this, wanted)
    return exp.func("approx_quantile", node.this, exp.cast(wanted, "FLOAT[]", dialect=DuckDB))


def _distinct(node: exp.Expr, bind: Bind) -> exp.Expr:
    if node.args["approximate"]:
        return exp.func("approx_count_distinct", node.this)
    return exp.Count(this=exp.Distinct(expressions=[node.this]))


def _in_network(node: exp.Expr, bind: Bind) -> exp.Expr:
    """By the two halves of the address: one of them is fixed or does not matter, so each is a plain range.

    An IPv4 address counts as ``::ffff:a.b.c.d``, but is in no IPv6 network: ``::/0`` are those that are not IPv4.
    """
    network = ipaddress.ip_network(node.this)
    first, last = network_range(network)
    high, low = (column(field.name) for field in (CLIENT_HIGH, CLIENT_LOW))
    tests: list[exp.Expr]
    if first >> LOW_BITS == last >> LOW_BITS:
        tests = [
            exp.EQ(this=high, expression=bind(first >> LOW_BITS)),
            _between(low, first & LOW_MASK, last & LOW_MASK, bind),
        ]
    else:
        tests = [_between(high, first >> LOW_BITS, last >> LOW_BITS, bind)]
    if network.version == 6 and first <= MAPPED <= last:
        mapped = exp.and_(
            exp.EQ(this=high.copy(), expression=bind(0)),
            _between(low.copy(), MAPPED, MAPPED | 0xFFFFFFFF, bind),
        )
        tests.append(exp.not_(exp.paren(mapped)))
    return exp.paren(exp.and_(*tests))


def _fingerprint(node: exp.Expr, bind: Bind) -> exp.Expr:
    return exp.func("hash", *(column(field.column or field.name) for field in FIELDS.values()))


def _between(of: exp.Column, first: int, last: int, bind: Bind) -> exp.Expr:
    return exp.Between(this=of, low=bind(first), high=bind(last))


_REPLACED: dict[type[exp.Expr], Callable[[Any, Bind], exp.Expr]] = {
    nodes.Instant: lambda node, bind: exp.func("make_timestamp", bind(node.this)),
    nodes.Micros: lambda node, bind: exp.func("epoch_us", node.this),
    nodes.Milliseconds: lambda node, bind: exp.paren(
        exp.Div(this=node.this, expression=exp.Literal.number("1000.0"))
    ),
    nodes.TimeBucket: _time_bucket,
    nodes.Quantiles: _quantiles,
    nodes.Distinct: _distinct,
    nodes.Regex: lambda node, bind: exp.func("regexp_matches", node.this, node.expression),
    nodes.Contains: lambda node, bind: exp.func("contains", node.this, node.expression),
    nodes.InNetwork: _in_network,
    nodes.Fingerprint: _fingerprint,
}
