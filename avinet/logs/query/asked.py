"""A question in words, as command lines and URLs have it, as a ``Query``."""

from typing import Annotated

import msgspec

from avinet.logs.query.errors import InvalidShapeError
from avinet.logs.query.pages import MAX_CURSOR_CHARS, page_of
from avinet.logs.query.parser import parse
from avinet.logs.query.scanner import MAX_QUERY_CHARS
from avinet.logs.query.shapes import (
    DEFAULT_PAGE,
    DEFAULT_QUANTILES,
    DEFAULT_ROWS,
    DEFAULT_TOP,
    MAX_PAGE,
    MAX_ROWS,
    Aggregate,
    Count,
    Function,
    GroupBy,
    Histogram,
    Percentiles,
    Query,
    Records,
    Shape,
    Top,
    aggregates_of,
    fields_of,
    interval_of,
    limit_of,
    numeric_field,
    quantiles_of,
)

Filter = Annotated[str, msgspec.Meta(max_length=MAX_QUERY_CHARS)]
MAX_URL_FILTER_CHARS = 1_000
"""In a URL a character takes up to 12 bytes, and a request's first line has 16 KiB; longer ones go in a body."""
UrlFilter = Annotated[str, msgspec.Meta(max_length=MAX_URL_FILTER_CHARS)]
Words = Annotated[str, msgspec.Meta(max_length=1_000)]
SHAPES = ("count", "top", "group_by", "percentiles", "histogram")


class Question(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is asked of the records that ``q`` leaves; one of ``count`` (the default), ``top``, ``group_by``, ``percentiles``, ``histogram``."""

    q: Filter = ""
    """``status>=500 path~^/api since 1h``."""
    count: bool = False
    top: Words = ""
    """Fields, with commas: the most frequent values of them."""
    group_by: Words = ""
    """Fields, with commas."""
    figures: Words = ""
    """With ``group_by``: ``count,sum(bytes_out),p99(duration_ms)``."""
    percentiles: Words = ""
    """A field; with ``histogram`` over time."""
    quantiles: Words = ""
    """With ``percentiles``: ``50,99,99.9``."""
    histogram: Words = ""
    """A length of time such as ``1m``."""
    by: Words = ""
    """With ``percentiles`` or ``histogram``: for each value of these fields."""
    limit: int | None = None


class Wanted(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records themselves: a page of those that ``q`` leaves."""

    q: Filter = ""
    limit: int | None = None
    cursor: Annotated[str, msgspec.Meta(max_length=MAX_CURSOR_CHARS)] = ""
    """``next`` of the page before."""
    oldest_first: bool = False


class UrlQuestion(Question, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question in a URL."""

    q: UrlFilter = ""


class UrlWanted(Wanted, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Records asked for in a URL."""

    q: UrlFilter = ""


def query_of(question: Question, now_us: int) -> Query:
    """The query; raises ``InvalidLogQueryError`` and ``InvalidShapeError``."""
    asked = parse(question.q, now_us)
    shape = _shape(question)
    return Query(filter=asked.filter, since_us=asked.since_us, until_us=asked.until_us, shape=shape)


def _shape(question: Question) -> Shape:
    given = [name for name in SHAPES if getattr(question, name)]
    over_time = given == ["percentiles", "histogram"]
    if len(given) > 1 and not over_time:
        raise InvalidShapeError(where=given[1], what=f"it does not go with {given[0]}; ask for one of them")
    kind = given[0] if given else "count"
    _only_with(question, "figures", kind == "group_by", "group_by")
    _only_with(question, "quantiles", kind == "percentiles", "percentiles")
    _only_with(question, "by", kind in {"percentiles", "histogram"}, "percentiles or histogram")
    _only_with(question, "limit", kind != "count", "top, group_by, percentiles or histogram")
    by = fields_of(question.by, "by") if question.by else ()
    match kind:
        case "top":
            limit = limit_of(question.limit, DEFAULT_TOP, MAX_ROWS)
            return Top(fields_of(question.top, "top"), limit)
        case "group_by":
            figures = (
                aggregates_of(question.figures, "figures")
                if question.figures
                else (Aggregate(Function.COUNT),)
            )
            limit = limit_of(question.limit, DEFAULT_ROWS, MAX_ROWS)
            return GroupBy(fields_of(question.group_by, "group_by"), figures, limit)
        case "percentiles":
            return Percentiles(
                numeric_field(question.percentiles, "percentiles"),
                by,
                quantiles_of(question.quantiles, "quantiles") if question.quantiles else DEFAULT_QUANTILES,
                interval_of(question.histogram, "histogram") if over_time else 0,
                limit_of(question.limit, MAX_ROWS, MAX_ROWS),
            )
        case "histogram":
            limit = limit_of(question.limit, MAX_ROWS, MAX_ROWS)
            return Histogram(interval_of(question.histogram, "histogram"), by, limit)
        case _:
            return Count()


def _only_with(question: Question, name: str, fits: bool, what: str) -> None:  # noqa: FBT001 - one place, one meaning
    if getattr(question, name) not in {"", None} and not fits:
        raise InvalidShapeError(where=name, what=f"it goes with {what}")


def records_of(wanted: Wanted, now_us: int) -> Query:
    """A page of records; ``cursor`` brings the range of time and the order of the first page."""
    asked = parse(wanted.q, now_us)
    limit = limit_of(wanted.limit, DEFAULT_PAGE, MAX_PAGE)
    if not wanted.cursor:
        shape = Records(limit, None, wanted.oldest_first)
        return Query(filter=asked.filter, since_us=asked.since_us, until_us=asked.until_us, shape=shape)
    page = page_of(wanted.cursor)
    shape = Records(limit, page.place, page.oldest_first)
    return Query(filter=asked.filter, since_us=page.since_us, until_us=page.until_us, shape=shape)
