"""Records and expressions by chance, a store in memory, and what the language means, told once more in Python."""

import datetime as dt
import ipaddress
import re

import duckdb
from hypothesis import strategies as st

from avinet.logs.query.answers import answer_of
from avinet.logs.query.duckdb import duckdb_sql
from avinet.logs.query.expressions import (
    All,
    Any,
    Between,
    Compare,
    Has,
    Not,
    OneOf,
    Op,
    Within,
    either,
    every,
)
from avinet.logs.query.fields import COLUMNS, FIELDS, Type, address_halves

NOW_US = 1_795_780_800_000_000
SQL_TYPES = {
    Type.TIME: "TIMESTAMP",
    Type.TEXT: "VARCHAR",
    Type.ADDRESS: "VARCHAR",
    Type.INTEGER: "INTEGER",
    Type.BYTES: "BIGINT",
    Type.MICROSECONDS: "BIGINT",
    Type.HALF: "UBIGINT",
}
NASTY = (
    "'; DROP TABLE records; --",
    '"',
    "\\",
    "%",
    "a\nb",
    "\x1b[31m",
    "\0",
    "é💩",
    "$p0",
    "?",
    "a,b",
    "(x",
    ")",
    "NULL",
)
TEXTS = st.sampled_from(("web", "web-2", "GET", "/api/v1", "/api/v1?a=b c", "x", "", *NASTY)) | st.text(
    st.characters(exclude_categories=["Cs"]), max_size=8
)
NUMBERS = st.sampled_from((0, 1, 200, 404, 499, 500, 503, 599)) | st.integers(0, 2**31 - 1)
TIMES_MS = st.sampled_from((0.0, 0.25, 1.5, 250.0)) | st.integers(0, 10**9).map(lambda us: us / 1_000)
BETWEEN_MS = TIMES_MS | st.floats(0.001, 1e6)
ADDRESSES = st.sampled_from(
    ("10.0.0.1", "10.1.2.3", "192.168.1.1", "2001:db8::1", "::1", "::")
) | st.ip_addresses().map(str)


def _network(address, bits):
    network = ipaddress.ip_network(
        (address, min(bits, ipaddress.ip_address(address).max_prefixlen)), strict=False
    )
    mapped = getattr(network.network_address, "ipv4_mapped", None)
    if mapped is not None and network.prefixlen >= 96:
        network = ipaddress.ip_network((mapped, network.prefixlen - 96))
    return str(network.network_address) if network.prefixlen == network.max_prefixlen else str(network)


NETWORKS = st.builds(_network, ADDRESSES, st.sampled_from((0, 1, 8, 12, 24, 32, 63, 64, 65, 96, 127, 128)))
REGEXES = st.sampled_from(
    ("^/api", "v[0-9]$", "(?i)WEB", "a|b", r"\.", "^$|x", "[^a]", '"', "'", "a b", "\\\\", "é")
)


def value_of(field):
    """Values of one column."""
    return {
        Type.TEXT: TEXTS,
        Type.ADDRESS: ADDRESSES,
        Type.INTEGER: NUMBERS,
        Type.BYTES: NUMBERS,
        Type.MILLISECONDS: TIMES_MS,
    }[field.type]


PLAIN = [f for f in FIELDS.values() if f.type is Type.TEXT and not f.choices]
NUMERIC = [f for f in FIELDS.values() if f.numeric]


def _leaves():
    text_ops = st.sampled_from((Op.EQUAL, Op.STARTS, Op.ENDS, Op.CONTAINS))
    text = st.builds(
        lambda field, op, value: Compare(field.name, op, value if op is Op.EQUAL else value or "x"),
        st.sampled_from(PLAIN),
        text_ops,
        TEXTS,
    )
    matches = st.builds(lambda f, v: Compare(f.name, Op.MATCHES, v), st.sampled_from(PLAIN), REGEXES)
    orders = st.sampled_from((Op.EQUAL, Op.LESS, Op.AT_MOST, Op.MORE, Op.AT_LEAST))
    numbers = st.sampled_from(NUMERIC).flatmap(
        lambda f: st.builds(Compare, st.just(f.name), orders, BETWEEN_MS if f.column else value_of(f))
    )
    listed = st.sampled_from(PLAIN + NUMERIC).flatmap(
        lambda f: st.builds(
            lambda values: OneOf(f.name, tuple(values)),
            st.lists(value_of(f), min_size=2, max_size=4, unique=True),
        )
    )
    classes = st.integers(1, 5).map(lambda n: Between("status", n * 100, n * 100 + 99))
    networks = st.lists(NETWORKS, min_size=1, max_size=3, unique=True).map(
        lambda n: Within("client", tuple(n))
    )
    has = st.sampled_from([*PLAIN, *NUMERIC]).map(lambda f: Has(f.name))
    choice = st.sampled_from(("significant", "full")).map(lambda v: Compare("class", Op.EQUAL, v))
    return text | matches | numbers | listed | classes | networks | has | choice


def negated(part):
    """As the parser makes it: no negation of a negation."""
    return part.part if isinstance(part, Not) else Not(part)


EXPRESSIONS = st.recursive(
    _leaves(),
    lambda inner: (
        inner.map(negated)
        | st.lists(inner, min_size=2, max_size=3).map(every)
        | st.lists(inner, min_size=2, max_size=3).map(either)
    ),
    max_leaves=8,
)


def holds(part, record):
    """Whether ``record`` is like ``part``: the meaning of the language, apart from any engine."""
    match part:
        case Not(inner):
            return not holds(inner, record)
        case All(parts):
            return all(holds(one, record) for one in parts)
        case Any(parts):
            return any(holds(one, record) for one in parts)
        case _:
            value = record[part.field]
            return value is not None and _leaf(part, value)


def _leaf(part, value):
    match part:
        case Has():
            return True
        case OneOf(_, values):
            return value in values
        case Between(_, low, high):
            return low <= value <= high
        case Within(_, networks):
            address = ipaddress.ip_address(value)
            address = getattr(address, "ipv4_mapped", None) or address
            return any(address in ipaddress.ip_network(one) for one in networks)
    wanted = part.value
    if isinstance(wanted, float):  # as the store has them: whole microseconds
        value, wanted = round(value * 1_000), round(wanted * 1_000, 3)
    return {
        Op.EQUAL: lambda: value == wanted,
        Op.LESS: lambda: value < wanted,
        Op.AT_MOST: lambda: value <= wanted,
        Op.MORE: lambda: value > wanted,
        Op.AT_LEAST: lambda: value >= wanted,
        Op.MATCHES: lambda: re.search(wanted.replace("$", r"\Z"), value) is not None,
        Op.STARTS: lambda: value.startswith(wanted),
        Op.ENDS: lambda: value.endswith(wanted),
        Op.CONTAINS: lambda: wanted in value,
    }[part.op]()


@st.composite
def records(draw):
    """One record; most fields are as often unknown as not."""
    found = {}
    for field in FIELDS.values():
        if field.type is Type.TIME:
            found[field.name] = NOW_US - draw(st.integers(0, 20)) * 500_000
        elif field.choices:
            found[field.name] = draw(st.sampled_from(field.choices))
        elif field.name in {"vs_uuid", "se_uuid"}:
            found[field.name] = draw(st.sampled_from(("one", "two")))
        else:
            found[field.name] = draw(st.none() | value_of(field))
    return found


class MemoryStore:
    """A table in DuckDB's memory."""

    def __init__(self):
        self.connection = duckdb.connect(config={"threads": 1})
        columns = ", ".join(f'"{f.name}" {SQL_TYPES[f.type]}' for f in COLUMNS.values())
        self.connection.execute(f"CREATE TABLE records ({columns})")

    def fill(self, rows):
        """Nothing but ``rows``."""
        self.connection.execute("DELETE FROM records")
        values = []
        for row in rows:
            high, low = address_halves(row["client"] or "") or (None, None)
            whole = row | {"client_high": high, "client_low": low}
            for field in FIELDS.values():
                if field.column:
                    whole[field.column] = None if row[field.name] is None else round(row[field.name] * 1_000)
            at = dt.datetime(1970, 1, 1) + dt.timedelta(microseconds=row["time"])  # noqa: DTZ001 - as DuckDB has it
            values.extend(at if name == "time" else whole[name] for name in COLUMNS)
        if values:
            marks = f"({', '.join('?' * len(COLUMNS))})"
            self.connection.execute(f"INSERT INTO records VALUES {', '.join([marks] * len(rows))}", values)

    def ask(self, query, approximate=False):
        """The answer to ``query``."""
        rendered = duckdb_sql(query, approximate=approximate)
        rows = self.connection.execute(rendered.sql, rendered.parameters).fetchall()
        return answer_of(query, rendered, rows, approximate=approximate)
