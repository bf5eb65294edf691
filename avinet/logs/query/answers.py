"""Rows of an engine as what callers get: ``{"count": n}`` or ``{"results": [...]}``, and what is not in them.

Every row is an object with named columns.  Times are RFC 3339 with microseconds.  ``missing`` says which service engines
have records of the range that are not in the store yet: an answer that is not whole never looks as if it were.
"""

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from avinet.logs.query.pages import Page, cursor_of
from avinet.logs.query.rendered import Column, Rendered
from avinet.logs.query.shapes import KEY, Count, Place, Query, Records
from avinet.logs.query.times import show_instant


class Missing(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Records of the asked range that one service engine still has; without ``se``, that a controller has and that are not
    in the answer.
    """

    se: str
    se_uuid: str
    since: str = ""
    until: str = ""
    """RFC 3339; empty where it is not known."""
    segments: int = 0
    records: int = 0
    """Of any time: a spool tells its sums, and since when."""
    bytes: int = 0
    """Compressed."""
    raw_bytes: int = 0
    """As NDJSON, where that is what is known."""
    why: str = ""
    """``not pulled``, ``being pulled``, ``not connected``, ``has not said yet what it keeps``,
    ``waits to be stored``, or why another controller has not answered."""
    controller: str = ""
    """Where there are several: which one has not answered, or has records that are not stored yet."""


class Answer(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One answer."""

    count: int | None = None
    results: tuple[dict[str, Any], ...] | None = None
    next: str | None = None
    """The cursor of the next page, where there is one."""
    truncated: bool = False
    """Whether there were more rows than the limit."""
    approximate: bool = False
    """Whether quantiles and counts of different values are estimates: there was too much for exact ones."""
    missing: tuple[Missing, ...] = ()

    def document(self) -> dict[str, Any]:
        """As JSON has it: what was asked, and always ``missing``."""
        found: dict[str, Any] = {} if self.count is None else {"count": self.count}
        if self.results is not None:
            found["results"] = list(self.results)
        if self.next is not None:
            found["next"] = self.next
        for name in ("truncated", "approximate"):
            if getattr(self, name):
                found[name] = True
        return found | {"missing": [msgspec.to_builtins(one) for one in self.missing]}


def answer_of(
    query: Query,
    rendered: Rendered,
    rows: Sequence[Sequence[Any]],
    *,
    approximate: bool = False,
    missing: tuple[Missing, ...] = (),
) -> Answer:
    """The answer that ``rows`` are."""
    if isinstance(query.shape, Count):
        return Answer(count=int(rows[0][0]), missing=missing)
    more = rendered.limit is not None and len(rows) > rendered.limit
    kept = rows[: rendered.limit] if more else rows
    results = tuple(_object(rendered.columns, row) for row in kept)
    following = None
    if isinstance(query.shape, Records):
        following = _next(query, query.shape, rendered.columns, kept) if more else None
        more = False
    return Answer(results=results, next=following, truncated=more, approximate=approximate, missing=missing)


def _object(columns: Sequence[Column], row: Sequence[Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for one, value in zip(columns, row, strict=True):
        if one.listed:
            values = value if value is not None else [None] * len(one.names)
            found |= {name: _plain(part) for name, part in zip(one.names, values, strict=True)}
        else:
            found[one.names[0]] = show_instant(value) if one.time and value is not None else _plain(value)
    return found


def _plain(value: Any) -> Any:
    """JSON has no infinities."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _next(query: Query, shape: Records, columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> str:
    places = {one.names[0]: number for number, one in enumerate(columns)}

    def key_of(row: Sequence[Any]) -> tuple[int, tuple[str, ...]]:
        texts = ("" if row[places[name]] is None else str(row[places[name]]) for name in KEY)
        return row[places["time"]], tuple(texts)

    last = key_of(rows[-1])
    shown = 0
    for row in reversed(rows):
        if key_of(row) != last:
            break
        shown += 1
    before = shape.after
    if before is not None and (before.time_us, before.key) == last:
        shown += before.shown
    return cursor_of(Page(Place(*last, shown), shape.oldest_first, query.since_us, query.until_us))
