"""What the commands print: tables for people, plain aligned columns when piped, JSON for programs."""

import datetime as dt
import json
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import click
import yaml
from rich.console import Console
from rich.table import Table
from rich.text import Text

_GAP = "  "
MAX_PADDED = 200
"""Characters that a column is wide at most: one client with a path of 60 KB would make each row of an answer as long."""
_GOOD = frozenset({"UP", "active", "ok", "yes"})
_BAD = frozenset({"DOWN", "QUARANTINED", "DELETED", "revoked", "error", "failed", "no"})
_WAITING = frozenset({"PENDING", "CREATING", "ENROLLED", "DISABLED", "expired", "spent", "warning"})


def print_json(value: Any) -> None:
    """One JSON document, the same on a terminal and in a pipe."""
    click.echo(json_of(value, indent=2))


def json_of(value: Any, indent: int | None = None) -> str:
    """JSON in which everything can be read, and nothing of what others wrote is a command to a terminal."""
    text = json.dumps(value, indent=indent, ensure_ascii=False, default=str)
    if _is_visible(text):
        return text
    return "".join(
        letter if letter == "\n" or letter.isprintable() else json.dumps(letter)[1:-1] for letter in text
    )


def visible(text: str) -> str:
    """Lines of others' making, without what a terminal would do rather than show."""
    if _is_visible(text):
        return text
    return "".join(letter if letter in "\n\t" or letter.isprintable() else "\ufffd" for letter in text)


def _is_visible(text: str) -> bool:
    return text.replace("\n", "").isprintable()


class _Dumper(yaml.SafeDumper):
    """Texts of several lines, such as certificates, as they are."""


def _represented(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _represented)


def yaml_of(rows: Sequence[Mapping[str, Any]], *, explicit_start: bool) -> str:
    """Documents as ``avinet config apply`` takes them."""
    text = ""
    for as_it_is in (
        True,
        False,
    ):  # YAML takes for printable what turns the direction of writing, and the like
        text = yaml.dump_all(
            rows, Dumper=_Dumper, sort_keys=False, allow_unicode=as_it_is, explicit_start=explicit_start
        )
        if _is_visible(text):
            break
    return text


def print_table(columns: Sequence[str], rows: Iterable[Sequence[Any]], *, empty: str) -> None:
    """``rows`` under ``columns``; ``empty`` is said, on stderr, when there are none."""
    cells = [[text_of(value) for value in row] for row in rows]
    if not cells:
        click.echo(empty, err=True)
        return
    if sys.stdout.isatty():
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.upper(), overflow="fold")
        for row in cells:
            table.add_row(*(Text(cell, style=_style_of(cell)) for cell in row))
        Console().print(table)
        return
    lines = [[column.upper() for column in columns], *cells]
    widths = [min(max(len(line[index]) for line in lines), MAX_PADDED) for index in range(len(columns))]
    for line in lines:
        click.echo(_GAP.join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def print_facts(facts: Mapping[str, Any]) -> None:
    """One thing: a line a fact."""
    width = max((len(name) for name in facts), default=0)
    for name, value in facts.items():
        shown = text_of(value)
        styled = click.style(shown, fg=_colour_of(shown)) if _colour_of(shown) else shown
        click.echo(f"{name.ljust(width)}{_GAP}{styled}")


def text_of(value: Any) -> str:
    """A value as a person reads it, on one line and without control characters of others' making."""
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:g}" if value < 1e6 else f"{value:.0f}"
    if isinstance(value, list | tuple):
        return ", ".join(text_of(item) for item in value) or "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {text_of(item)}" for name, item in value.items()) or "-"
    return visible(str(value)).replace("\n", "\ufffd").replace("\t", "\ufffd")


def moment(at: float | None) -> str:
    """UNIX seconds as local time."""
    return "-" if at is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at))


def instant(text: str | None) -> str:
    """RFC 3339 as local time, as all tables have it; what is no time, as it is."""
    try:
        return moment(dt.datetime.fromisoformat(text).timestamp()) if text else "-"
    except (ValueError, OverflowError):
        return text_of(text)


def milliseconds(value: float | None) -> str:
    """``1.24 ms``."""
    return "-" if value is None else f"{value:.2f} ms"


def _colour_of(cell: str) -> str | None:
    for words, colour in ((_GOOD, "green"), (_BAD, "red"), (_WAITING, "yellow")):
        if cell in words:
            return colour
    return None


def _style_of(cell: str) -> str:
    return _colour_of(cell) or ""
