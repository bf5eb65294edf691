"""Answers of the log store as people read them: tables, bars over time, records a line each, and what is not here yet."""

import datetime as dt
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import click

from avinet.app.cli.output import instant, moment, print_facts, print_table, text_of
from avinet.app.cli.sparkline import bar, sparkline
from avinet.logs.query.fields import BY_WORD, FIELDS, Type
from avinet.logs.query.times import SECOND_US, span_us
from avinet.units import show_bytes

BAR_WIDTH = 40
MAX_FILLED = 2_000
"""Intervals that are shown, those without a record included: more is for programs."""
NEVER_TIME = "-"


def print_page(answer: Mapping[str, Any]) -> None:
    """Records, one a line, and how to go on."""
    rows = answer["results"]
    if not rows:
        click.echo("No record is like that.", err=True)
    for row in rows:
        click.echo(record_line(row))
    if "next" in answer:
        click.echo(f"There are more: --cursor {answer['next']}", err=True)


def record_line(row: Mapping[str, Any]) -> str:
    """One record on one line; nothing in it moves a cursor or changes a colour."""
    status = row.get("status")
    shown = click.style(f"{text_of(status):>3}", fg=_status_colour(status))
    duration = row.get("duration_ms")
    took = "-" if duration is None else f"{duration:.4g} ms"
    why = [text_of(row[name]) for name in ("flags", "reason") if row.get(name) not in {None, "", "-"}]
    told = (
        f"  [{' '.join(why)}]"
        if why and (status is None or status >= 500 or row.get("flags") not in {None, "-"})
        else ""
    )
    request = f"{text_of(row.get('method'))} {text_of(row.get('host'))}{text_of(row.get('path'))}"
    return (
        f"{text_of(row.get('time'))}  {shown}  {took:>9}  {text_of(row.get('vs'))}  {text_of(row.get('se'))}  "
        f"{text_of(row.get('client'))} > {text_of(row.get('server'))}  {request}{told}"
    )


def _status_colour(status: Any) -> str | None:
    if not isinstance(status, int):
        return "yellow"
    return "red" if status >= 500 else "yellow" if status >= 400 else None


def print_rows(answer: Mapping[str, Any], interval: str | None, field: str = "") -> None:
    """Rows with names: as bars over time, where there is time in them.  ``field`` is what percentiles are of."""
    rows = answer["results"]
    if not rows:
        click.echo("No record is like that.", err=True)
        return
    if interval and set(rows[0]) == {"time", "count"}:
        _print_histogram(_filled(rows, interval))
    elif interval and not _dimensions(rows[0]) - {"time"}:
        _print_over_time(rows, interval, field)
    else:
        names = tuple(rows[0])
        print_table(names, ([_cell(name, row[name], field) for name in names] for row in rows), empty="")
    if answer.get("truncated"):
        click.echo(f"There are more than these {len(rows)} rows: ask for less, or raise --limit.", err=True)
    if answer.get("approximate"):
        click.echo("There is too much for exact percentiles: these are estimates.", err=True)


def _dimensions(row: Mapping[str, Any]) -> set[str]:
    return {name for name in row if name in FIELDS}


def _cell(name: str, value: Any, field: str = "") -> Any:
    if name == "time":
        return instant(value)
    if field and value is not None and name.startswith("p") and name[1:2].isdigit():
        kind = BY_WORD[field.strip().lower()].type if field.strip().lower() in BY_WORD else None
        if kind is Type.MILLISECONDS:
            return f"{value:.6g} ms"
        if kind is Type.BYTES:
            return show_bytes(round(value))
    if isinstance(value, float):
        return f"{value:.6g}"
    if name.startswith("sum_bytes") and isinstance(value, int):
        return show_bytes(value)
    return value


def _filled(rows: Sequence[Mapping[str, Any]], interval: str) -> list[tuple[str, int]]:
    """(time, count) of every interval from the first to the last, those without a record too."""
    step = span_us(interval) or SECOND_US
    counts = {_seconds(row["time"]): row["count"] for row in rows}
    first, last = min(counts), max(counts)
    whole = round((last - first) / (step / SECOND_US)) + 1
    if whole > MAX_FILLED:
        return [(instant(row["time"]), row["count"]) for row in rows]
    times = [first + number * step / SECOND_US for number in range(whole)]
    return [(moment(at), counts.get(at, 0)) for at in times]


def _seconds(text: str) -> float:
    return dt.datetime.fromisoformat(text).timestamp()


def _print_histogram(counts: Sequence[tuple[str, int]]) -> None:
    most = max(count for _, count in counts)
    width = len(str(most))
    for at, count in counts:
        click.echo(f"{at}  {count:>{width}}  {bar(count, most, BAR_WIDTH)}".rstrip())
    click.echo(f"{sum(count for _, count in counts)} in all, at most {most} in an interval", err=True)


def _print_over_time(rows: Sequence[Mapping[str, Any]], interval: str, field: str) -> None:
    """A line a figure, above the table."""
    names = [name for name in rows[0] if name != "time"]
    print_facts(
        {name: f"{sparkline([row[name] for row in rows])}  {_span_of(rows, name, field)}" for name in names}
    )
    click.echo(f"\nfrom {instant(rows[0]['time'])}, a bar is {interval}; the newest last\n")
    print_table(
        ("time", *names),
        ((instant(row["time"]), *(_cell(name, row[name], field) for name in names)) for row in rows),
        empty="",
    )


def _span_of(rows: Sequence[Mapping[str, Any]], name: str, field: str) -> str:
    known = [row[name] for row in rows if row[name] is not None]
    return f"at most {_cell(name, max(known), field)}" if known else "not known"


def print_missing(answer: Mapping[str, Any]) -> None:
    """What the answer does not have in it, and how to get it; on stderr, so that a pipe has the answer alone."""
    missing = answer.get("missing") or ()
    if not missing:
        return
    click.echo("Not in this answer yet:", err=True)
    for one in missing:
        click.echo(f"  {missing_line(one)}", err=True)
    pullable = [one for one in missing if one.get("why") == "not pulled"]
    if pullable:
        since = min((one["since"] for one in pullable if one.get("since")), default="1h")
        engines = " ".join(f"--se {shlex.quote(text_of(one['se']))}" for one in pullable[:5])
        which = engines if len(pullable) <= 5 else ""
        click.echo(f"  To fetch it: avinet logs pull --since {since} {which}".rstrip() + " --wait", err=True)


def missing_line(one: Mapping[str, Any]) -> str:
    """``se-1: 12 records, 2.0 KiB from then (not pulled)``."""
    amount = []
    if one.get("records"):
        amount.append(f"{one['records']} records")
    if one.get("bytes"):
        amount.append(show_bytes(one["bytes"]))
    what = ", ".join(amount)
    what += f" from {instant(one['since'])}" if one.get("since") else ""
    what += f" to {instant(one['until'])}" if one.get("until") else ""
    if one.get("raw_bytes"):
        # Of its own time nothing is known but that it is the newest.
        what += f"{', and ' if amount else ''}{show_bytes(one['raw_bytes'])} of NDJSON"
    where = one.get("se") or one.get("controller") or "here"
    if not amount and not one.get("raw_bytes"):
        return f"{text_of(where)}: {text_of(one.get('why'))}"
    return f"{text_of(where)}: {what} ({text_of(one.get('why'))})"
