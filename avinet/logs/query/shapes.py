"""What is asked of the records that a filter leaves: how many, which are most, figures by group or over time, or themselves.

A ``Query`` is whole and checked: names are names of fields, counts are within bounds.  It goes through msgpack as it is,
to the worker that has the store.
"""

import enum

import msgspec

from avinet.logs.query.errors import InvalidShapeError
from avinet.logs.query.expressions import Expression
from avinet.logs.query.fields import BY_WORD, FIELDS, Type, nearest_field
from avinet.logs.query.times import SECOND_US, UNITS_US, show_span, span_us

MAX_GROUPS_BY = 5
"""Fields to group by: what a table on a screen holds."""
MAX_AGGREGATES = 10
MAX_QUANTILES = 10
MAX_ROWS = 10_000
"""Of one answer: 2 MiB of JSON at most of usual records."""
DEFAULT_ROWS = 1_000
DEFAULT_TOP = 10
DEFAULT_PAGE = 100
MAX_PAGE = 1_000
"""Records of one page."""
DEFAULT_QUANTILES = (0.5, 0.9, 0.95, 0.99)
MIN_INTERVAL_US = SECOND_US
MAX_INTERVAL_US = 400 * UNITS_US["d"]


class Function(enum.StrEnum):
    """What is made of the records of a group."""

    COUNT = "count"
    SUM = "sum"
    AVERAGE = "avg"
    LEAST = "min"
    MOST = "max"
    DISTINCT = "distinct"
    QUANTILE = "p"


class Aggregate(msgspec.Struct, frozen=True):
    """A function of a field; ``count`` of none."""

    function: Function
    field: str = ""
    quantile: float = 0.0

    @property
    def name(self) -> str:
        """Its key in answers: ``count``, ``sum_bytes_out``, ``p99_duration_ms``."""
        if self.function is Function.COUNT:
            return "count"
        word = quantile_name(self.quantile) if self.function is Function.QUANTILE else self.function.value
        return f"{word}_{self.field}"


class Count(msgspec.Struct, frozen=True, tag="count"):
    """How many."""


class Top(msgspec.Struct, frozen=True, tag="top"):
    """The values, or sets of values, that are most frequent."""

    fields: tuple[str, ...]
    limit: int = DEFAULT_TOP


class GroupBy(msgspec.Struct, frozen=True, tag="group-by"):
    """Figures of each set of values of ``fields``, the largest first figure first."""

    fields: tuple[str, ...]
    aggregates: tuple[Aggregate, ...] = (Aggregate(Function.COUNT),)
    limit: int = DEFAULT_ROWS


class Percentiles(msgspec.Struct, frozen=True, tag="percentiles"):
    """Quantiles of a field, in all or by other fields, at once or over time (``interval_us`` is not 0)."""

    field: str
    by: tuple[str, ...] = ()
    quantiles: tuple[float, ...] = DEFAULT_QUANTILES
    interval_us: int = 0
    limit: int = MAX_ROWS


class Histogram(msgspec.Struct, frozen=True, tag="histogram"):
    """How many in each interval of time, counted from the epoch; in all or by fields."""

    interval_us: int
    by: tuple[str, ...] = ()
    limit: int = MAX_ROWS


KEY = ("se_uuid", "vs_uuid", "request_id", "client", "client_port")
"""What orders records of the same microsecond."""


class Place(msgspec.Struct, frozen=True):
    """Where a page of records ended: its last record's ``KEY``, and how many with the very same key were shown."""

    time_us: int
    key: tuple[str, ...]
    shown: int


class Records(msgspec.Struct, frozen=True, tag="records"):
    """The records themselves, a page after ``after``; newest first unless ``oldest_first``.

    Without ``after``, ``skip`` leaves out as many: of files that do not change.
    """

    limit: int = DEFAULT_PAGE
    after: Place | None = None
    oldest_first: bool = False
    skip: int = 0


class Whole(msgspec.Struct, frozen=True, tag="whole"):
    """All records and every field, oldest first: for a file."""


class Stored(msgspec.Struct, frozen=True, tag="stored"):
    """All records as the store has them, in no order: for another store to read."""


Shape = Count | Top | GroupBy | Percentiles | Histogram | Records | Whole | Stored


class Query(msgspec.Struct, frozen=True, kw_only=True):
    """A question to the store: of the records in a range of time that pass ``filter``, the ``shape``."""

    filter: Expression | None = None
    since_us: int | None = None
    until_us: int | None = None
    shape: Shape = Count()


def quantile_name(quantile: float) -> str:
    """``0.999`` as ``p99_9``."""
    return "p" + f"{quantile * 100:.6f}".rstrip("0").rstrip(".").replace(".", "_")


# From words, as they come on command lines and in URLs


def fields_of(text: str, where: str) -> tuple[str, ...]:
    """``vs,status`` as names of fields."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    names = tuple(dict.fromkeys(_field(word, where) for word in words))
    if not 1 <= len(names) <= MAX_GROUPS_BY:
        raise InvalidShapeError(
            where=where, what=f"it takes 1 to {MAX_GROUPS_BY} fields, with commas between"
        )
    return names


def _field(word: str, where: str, *, numeric: bool = False) -> str:
    found = BY_WORD.get(word.lower())
    if found is None:
        near = nearest_field(word)
        hint = f" Did you mean {near}?" if near else ""
        raise InvalidShapeError(
            where=where, what=f"there is no field {word[:60]!r}.{hint} The fields are {', '.join(FIELDS)}"
        )
    if numeric and not found.numeric:
        numbers = ", ".join(field.name for field in FIELDS.values() if field.numeric)
        raise InvalidShapeError(where=where, what=f"{found.name} is no number; numbers are {numbers}")
    if found.type is Type.TIME:
        raise InvalidShapeError(
            where=where, what="for what happens over time, ask by an interval (histogram)"
        )
    return found.name


def numeric_field(word: str, where: str) -> str:
    """A field that has quantiles."""
    return _field(word.strip(), where, numeric=True)


def interval_of(text: str, where: str) -> int:
    """``1m`` in microseconds."""
    found = span_us(text.strip())
    if found is None or not MIN_INTERVAL_US <= found <= MAX_INTERVAL_US or found % SECOND_US:
        most = show_span(MAX_INTERVAL_US)
        raise InvalidShapeError(where=where, what=f"it is a length of time such as 10s, 1m, 1h, up to {most}")
    return found


def quantiles_of(text: str, where: str) -> tuple[float, ...]:
    """``50,99,99.9`` (or ``p50,p99``) as quantiles."""
    found = tuple(dict.fromkeys(_quantile(word, where) for word in text.split(",") if word.strip()))
    if not 1 <= len(found) <= MAX_QUANTILES:
        raise InvalidShapeError(
            where=where, what=f"it takes 1 to {MAX_QUANTILES} percentiles, such as 50,99,99.9"
        )
    return found


def _quantile(word: str, where: str) -> float:
    text = word.strip().lower().removeprefix("p").replace("_", ".")
    try:
        percent = float(text) if len(text) <= 8 else -1.0
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise InvalidShapeError(
            where=where, what=f"{word.strip()[:20]!r} is no percentile; 0 to 100, such as 99.9"
        )
    return round(percent / 100, 8)


def aggregates_of(text: str, where: str) -> tuple[Aggregate, ...]:
    """``count,sum(bytes_out),p99(duration_ms),distinct(client)``."""
    found = tuple(dict.fromkeys(_aggregate(word.strip(), where) for word in text.split(",") if word.strip()))
    if not 1 <= len(found) <= MAX_AGGREGATES:
        raise InvalidShapeError(where=where, what=f"it takes 1 to {MAX_AGGREGATES} figures")
    return found


def _aggregate(text: str, where: str) -> Aggregate:
    name, bracket, rest = text.partition("(")
    name = name.strip().lower()
    if name == "count" and rest.strip() in {"", ")", "*)"}:
        return Aggregate(Function.COUNT)
    field = rest.removesuffix(")").strip()
    if not bracket or not rest.endswith(")"):
        raise InvalidShapeError(
            where=where,
            what=f"{text[:60]!r} is none of count, sum(FIELD), avg(FIELD), min(FIELD), max(FIELD), distinct(FIELD), p99(FIELD)",
        )
    if name == "distinct":
        return Aggregate(Function.DISTINCT, _field(field, where))
    if name in {"sum", "avg", "min", "max"}:
        return Aggregate(Function(name), numeric_field(field, where))
    if name.startswith("p"):
        return Aggregate(Function.QUANTILE, numeric_field(field, where), _quantile(name, where))
    raise InvalidShapeError(where=where, what=f"there is no function {name[:20]!r}")


def limit_of(limit: int | None, default: int, most: int, where: str = "limit") -> int:
    """A number of rows within bounds."""
    found = default if limit is None else limit
    if not 1 <= found <= most:
        raise InvalidShapeError(where=where, what=f"it is {found}; 1 to {most} can be had")
    return found
