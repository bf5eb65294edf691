"""``avinet logs tail`` and ``avinet logs export``: records as they come, and records to a file."""

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import click

from avinet.app.cli.client import path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.events import followed
from avinet.app.cli.logs_answers import missing_line, record_line
from avinet.app.cli.out_file import OutFile
from avinet.app.cli.output import json_of, print_json, text_of
from avinet.units import show_bytes

FORMATS = {".ndjson": "ndjson", ".json": "ndjson", ".jsonl": "ndjson", ".csv": "csv", ".parquet": "parquet"}


@examples(
    "avinet logs tail                        # errors and what was slow, as they happen",
    "avinet logs tail 'vs=web status=5xx'",
    "avinet logs tail --json | jq .path",
)
@click.command(cls=Command)
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option("--full", is_flag=True, help="Those of the full logs, too, as they are pulled.")
@place
def tail(where: Place, words: tuple[str, ...], full: bool) -> None:  # noqa: FBT001 - click's
    """Follow significant records as they come in at any controller, seconds after they happened: errors, what was slow or cut.

    Without end, also over a controller's restart.
    """
    client = where.client()
    path = f"{path_to('logs', 'tail')}?{urlencode({'q': ' '.join(words), 'full': str(full).lower()})}"
    for record in followed(client, None, time.sleep, path):
        if record.keys() == {"id", "controller", "why"}:
            _tell_who_is_missing(record)
        elif where.json:
            click.echo(json_of(record))
        else:
            click.echo(record_line(record))


def _tell_who_is_missing(one: Mapping[str, Any]) -> None:
    name, why = text_of(one["controller"]), one["why"]
    said = (
        f"What controller {name} receives is not in it now: {text_of(why)}"
        if why
        else f"What controller {name} receives is in it again."
    )
    click.echo(f"avinet: {said}", err=True)


@examples(
    "avinet logs export errors.csv 'status>=500 since 1d'",
    "avinet logs export all.parquet 'since 1h'",
    "avinet logs export - 'vs=web since 10m' | jq .path",
)
@click.command(cls=Command)
@click.argument("file")
@click.argument("words", nargs=-1, metavar="[FILTER]...")
@click.option(
    "--format",
    "kind",
    type=click.Choice(["ndjson", "csv", "parquet"]),
    help="By the file's name unless it is given.",
)
@place
def export(where: Place, file: str, words: tuple[str, ...], kind: str | None) -> None:
    """Write the records of all controllers that FILTER leaves to FILE (- for standard output), oldest first, every field."""
    found = kind or ("ndjson" if file == "-" else FORMATS.get(Path(file).suffix.lower(), ""))
    if not found:
        raise UsageError(
            what=f"what {file} is to hold is not known by its name; say --format ndjson, csv or parquet"
        )
    client = where.client()
    asked = {"q": " ".join(words), "format": found}
    path = path_to("logs", "export")
    if file == "-":
        _tell_missing(client.fetch(path, asked, sys.stdout.buffer))
        return
    with OutFile.beside(Path(file)) as out:
        headers = client.fetch(path, asked, out.file)
        size = out.keep()
    records = int(headers.get("x-avinet-records", "0"))
    if where.json:
        told = {"missing": _missing(headers), "missing_what": _which(headers)}
        print_json({"file": file, "format": found, "records": records, "bytes": size, **told})
    else:
        click.echo(f"{records} records are in {file} ({show_bytes(size)}).")
        _tell_missing(headers)


def _missing(headers: Mapping[str, str]) -> int:
    text = headers.get("x-avinet-missing", "0")
    return int(text) if text.isdecimal() else 0


def _which(headers: Mapping[str, str]) -> list[dict[str, Any]]:
    """Those of the missing that the answer names."""
    try:
        named = json.loads(headers.get("x-avinet-missing-what", "[]"))
    except ValueError:
        return []
    return named if isinstance(named, list) else []


def _tell_missing(headers: Mapping[str, str]) -> None:
    """On stderr, so that a pipe has the records alone."""
    count, named = _missing(headers), _which(headers)
    if not count:
        return
    click.echo("Not in it:", err=True)
    for one in named:
        click.echo(f"  {missing_line(one)}", err=True)
    if count > len(named):
        click.echo(f"  {count - len(named)} more. To see what: avinet logs query FILTER --count", err=True)
