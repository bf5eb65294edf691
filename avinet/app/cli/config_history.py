"""``avinet config history``, ``show``, ``diff`` and ``rollback``: the versions that were, and back to one."""

from collections.abc import Mapping
from typing import Any

import click

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import path_to
from avinet.app.cli.config_changes import (
    YAML_TYPE,
    Query,
    conclude,
    files_option,
    print_engines,
    terms_options,
    text_of_files,
    wait_options,
)
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.output import moment, print_facts, print_json, print_table, text_of, yaml_of

VERSIONS = path_to("config", "versions")
MAX_LIMIT = 1_000
MAX_NAMES = 3
"""Objects named in a line of the history; ``show`` names all."""
VERSION = click.IntRange(min=1)


@examples("avinet config history", "avinet config history --limit 3 --json")
@click.command(cls=Command)
@click.option("--limit", type=click.IntRange(1, MAX_LIMIT), default=20, show_default=True, metavar="N")
@place
def history(where: Place, limit: int) -> None:
    """The versions there were, newest first: who made each, when, and what it changed."""
    answer = where.client().get(VERSIONS, {"limit": limit})
    if where.json:
        print_json(answer)
        return
    print_table(
        ("version", "at", "by", "changes", "note"),
        (
            (row["version"], moment(row["at"]), row["author"], _said(row), _note(row))
            for row in answer["results"]
        ),
        empty="No version is kept.",
    )
    if answer["count"] > len(answer["results"]):
        click.echo(f"{answer['count']} versions are kept, from {answer['oldest']} on.", err=True)


def _said(row: dict[str, Any]) -> str:
    said: list[str] = []
    left = row["objects"]
    for change in ("created", "updated", "deleted"):
        if names := row[change]:
            said.append(f"{change} {', '.join(names[:MAX_NAMES])}")
            left -= len(names[:MAX_NAMES])
    return "; ".join(said) + (f" and {left} more" if left > 0 else "")


def _note(row: dict[str, Any]) -> str:
    back = f"back to {row['rolled_back_to']}" if row["rolled_back_to"] else ""
    return ": ".join(part for part in (back, row["note"]) if part)


@examples("avinet config show 12", "avinet config show 12 --whole > as-of-12.yaml")
@click.command(cls=Command)
@click.argument("version", type=VERSION)
@click.option("--whole", is_flag=True, help="Every object as of it, as YAML, rather than what it changed.")
@place
def show(where: Place, version: int, whole: bool) -> None:  # noqa: FBT001 - click passes options by name
    """What VERSION changed, field by field."""
    query = {"whole": "true"} if whole else None
    answer = where.client().get(path_to("config", "versions", str(version)), query)
    if where.json:
        print_json(answer)
    elif whole:
        click.echo(yaml_of(answer["whole"], explicit_start=True), nl=False)
    else:
        facts = {"version": answer["version"], "at": moment(answer["at"]), "by": answer["author"]}
        if said := _note(answer):
            facts["note"] = said
        print_facts(facts)
        click.echo()
        _print_changes(answer["changes"])


@examples(
    "avinet config diff -f web.yaml    # what applying it would change, and on which engines",
    "avinet config diff 12             # from version 12 to what is in force",
    "avinet config diff 12 14",
)
@click.command(cls=Command)
@click.argument("before", type=VERSION, required=False)
@click.argument("after", type=VERSION, required=False)
@files_option(required=False)
@place
def diff(where: Place, before: int | None, after: int | None, files: tuple[str, ...]) -> None:
    """What differs, field by field: between versions BEFORE and AFTER, or between what is in force and FILES."""
    if bool(files) == (before is not None):
        raise UsageError(what="say what to compare: one or two versions, or -f FILE")
    client = where.client()
    if files:
        answer = client.post(path_to("config", "diff"), raw=text_of_files(files), content_type=YAML_TYPE)
    else:
        answer = client.get(path_to("config", "diff"), {"before": before, "after": after})
    if where.json:
        print_json(answer)
        return
    if not answer["changes"]:
        click.echo("Nothing differs.")
    _print_changes(answer["changes"])
    if answer["service_engines"]:
        click.echo()
        print_engines(answer["service_engines"])


def _print_changes(changes: list[dict[str, Any]]) -> None:
    for one in changes:
        click.echo(f"{one['change']} {one['kind']}/{text_of(one['name'])}")
        for field in one["fields"]:
            _print_field(field, came=one["change"] == "created")
        if left_out := one["fields_left_out"]:
            click.echo(f"  and {left_out} more fields")


def _print_field(field: dict[str, Any], *, came: bool) -> None:
    path, old, new = text_of(field["path"]), field["old"], field["new"]
    if not (_is_records(old) or _is_records(new)):
        click.echo(f"  {path}: {_value(new) if came else f'{_value(old)} -> {_value(new)}'}")
        return
    click.echo(f"  {path}:")
    for sign, value in (("-", old), ("+", new)):
        for item in value if isinstance(value, list) else () if value is None else (value,):
            click.echo(f"    {'' if came else f'{sign} '}{_record(item)}")


def _is_records(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(item, dict | list) for item in value)


def _record(value: Any) -> str:
    """``ip (addr 10.0.0.1, type V4), port 80``."""

    def within(part: Any) -> str:
        return f"({_record(part)})" if part and isinstance(part, dict | list) else _record(part)

    if value and isinstance(value, dict):
        return ", ".join(f"{text_of(name)} {within(part)}" for name, part in value.items())
    if value and isinstance(value, list):
        return ", ".join(within(part) for part in value)
    return _value(value)


def _value(value: Any) -> str:
    return "(none)" if value is None else '""' if value == "" else text_of(value)


@examples("avinet config rollback 12 --dry-run", "avinet config rollback 12 --wait --note 'web was slow'")
@click.command(cls=Command)
@click.argument("version", type=VERSION)
@yes_option
@terms_options
@wait_options
@place
def rollback(
    where: Place,
    version: int,
    yes: bool,  # noqa: FBT001 - click passes options by name
    terms: Query,
    wait: float | None,
) -> None:
    """Make a new version whose objects are those of VERSION.

    What was made since goes, what was changed or deleted comes back. With --dry-run it only says what that is.

    It asks first; where there is no terminal, one that deletes objects needs --yes.
    """
    dry_run = "dry_run" in terms
    client, path = where.client(), path_to("config", "versions", str(version), "rollback")
    if not (dry_run or yes):
        terms = _asked(version, client.post(path, query={**_expected(terms), "dry_run": "true"}), terms)
    answer = client.post(path, query=terms)
    conclude(where, client, answer, wait=wait, dry_run=dry_run)


def _asked(version: int, look: Mapping[str, Any], terms: Query) -> Query:
    """The terms to go on with once somebody has said yes to what a dry run found: it and nothing else is done."""
    # What carries traffic is named first.
    names = sorted(look["deleted"], key=lambda name: not name.startswith("virtualservice/"))
    gone = [text_of(name) for name in names]
    more = f" and {len(gone) - MAX_NAMES} more" if len(gone) > MAX_NAMES else ""
    deletes = f"deletes {', '.join(gone[:MAX_NAMES])}{more}" if gone else ""
    question = (
        f"Go back to version {version}? It {deletes or 'deletes nothing; what was changed since is undone'}."
    )
    refused = f"avinet config rollback {version}, which {deletes}," if gone else ""
    ask(question, yes=False, needs_yes=refused)
    return {**terms, "expect_version": terms.get("expect_version", look["version"])}


def _expected(terms: Query) -> Query:
    return {name: value for name, value in terms.items() if name == "expect_version"}
