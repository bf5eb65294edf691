"""``avinet config``: configuration documents in, objects out."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import yaml

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.errors import FileError, RefusedError, UsageError
from avinet.app.cli.output import milliseconds, moment, print_facts, print_json, print_table, text_of
from avinet.errors import Kind
from avinet.model.config import KINDS
from avinet.model.documents import MAX_BYTES, parse_documents

YAML_TYPE = "application/yaml"
CHANGES = ("created", "updated", "deleted", "unchanged")
STATUS = path_to("config", "status")
MAX_WAIT_S = 300.0
"""The most that the API waits for."""
ANSWER_MARGIN_S = 15.0
"""The controller's own word on who is late comes before we give up on the controller."""
PAGE = 1_000
"""The most objects in one answer."""


@click.group(cls=Group)
def config() -> None:
    """Virtual services, pools, health monitors and groups."""


@examples(
    "avinet config apply -f web.yaml",
    "avinet config apply --dry-run -f web.yaml -f pools.yaml",
    "generate | avinet config apply --wait --timeout 30 -f -",
)
@config.command()
@click.option(
    "-f",
    "--file",
    "files",
    multiple=True,
    required=True,
    type=click.Path(dir_okay=False, allow_dash=True),
    help="YAML or JSON documents; - for standard input. Can be given several times.",
)
@click.option("--dry-run", is_flag=True, help="Check it and say what would change.")
@click.option("--wait", "waits", is_flag=True, help="Return once every attached engine has it in force.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, MAX_WAIT_S, min_open=True),
    default=60.0,
    show_default=True,
    help="With --wait: how many seconds at most.",
)
@place
def apply(where: Place, files: tuple[str, ...], dry_run: bool, waits: bool, timeout: float) -> None:  # noqa: FBT001 - click's
    """Create or change what the documents in FILES say: all of it or nothing."""
    wait = timeout if waits else None
    text = "\n---\n".join(_read(name) for name in files)
    client = where.client()
    answer = client.post(
        path_to("config"),
        raw=text.encode(),
        content_type=YAML_TYPE,
        query={"dry_run": "true"} if dry_run else None,
    )
    late: RefusedError | None = None
    if wait is not None and not dry_run:
        try:
            answer["in_sync"] = _in_force(client, answer["version"], wait)["in_sync"]
        except RefusedError as why:
            if why.answered_kind is not Kind.TIMEOUT:
                raise
            answer["in_sync"], late = False, why
    if where.json:
        print_json(answer)
    else:
        _print_changes(answer, dry_run=dry_run)
    if late is not None:
        raise late


def _read(name: str) -> str:
    """A file's text, once it reads as documents: errors then name the file and the line."""
    shown = "stdin" if name == "-" else name
    try:
        data = sys.stdin.buffer.read(MAX_BYTES + 1) if name == "-" else _head(Path(name))
    except OSError as why:
        raise FileError(what="read", path=shown, why=why.strerror or str(why)) from why
    try:
        text = data.decode()
    except UnicodeDecodeError as why:
        raise UsageError(what=f"{shown} is not UTF-8 text (byte {why.start})") from why
    parse_documents(text, shown)
    return text


def _head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(MAX_BYTES + 1)


def _print_changes(answer: dict[str, Any], *, dry_run: bool) -> None:
    counts = [f"{len(answer.get(change, ()))} {change}" for change in CHANGES if answer.get(change)]
    for change in CHANGES[:-1]:
        for name in answer.get(change, ()):
            click.echo(f"{change}  {text_of(name)}")
    what = ", ".join(counts) or "nothing to do"
    if dry_run:
        click.echo(f"Dry run: {what}. Nothing was changed.")
        return
    click.echo(f"Version {answer['version']}: {what}.")
    if answer.get("in_sync"):
        click.echo("Every service engine has it.")


@examples(
    "avinet config get                       # every object, as YAML that `config apply` takes",
    "avinet config get pool",
    "avinet config get virtualservice web > web.yaml",
)
@config.command()
@click.argument("kind", required=False)
@click.argument("name", required=False)
@click.option("--yaml", "as_yaml", is_flag=True, help="Whole objects rather than a table.")
@place
def get(where: Place, kind: str | None, name: str | None, as_yaml: bool) -> None:  # noqa: FBT001 - click's
    """Show objects: all, those of KIND, or the one of KIND called NAME.

    KIND is virtualservice, pool, healthmonitor, sslkeyandcertificate or serviceenginegroup.
    """
    client = where.client()
    if kind is not None and name is not None:
        found = client.get(path_to(_kind(kind), name))
        if where.json:
            print_json(found)
        else:
            _print_yaml([{"kind": _kind(kind), **found}])
        return
    kinds = list(KINDS) if kind is None else [_kind(kind)]
    rows = [{"kind": each, **row} for each in kinds for row in all_of(client, each)]
    if where.json:
        print_json({"count": len(rows), "results": rows})
    elif kind is None or as_yaml:
        _print_yaml(rows)
    else:
        print_table(
            ("name", "what", "uuid"),
            ((row["name"], _summary(row), row["uuid"]) for row in rows),
            empty=f"There is no {kinds[0]}.",
        )


def all_of(client: Client, kind: str) -> Iterator[dict[str, Any]]:
    """Every object of a kind, page by page."""
    page, told = 1, 0
    while True:
        answer = client.get(path_to(kind), {"page": page, "page_size": PAGE})
        yield from answer["results"]
        told += len(answer["results"])
        if not answer["results"] or told >= answer["count"]:
            return
        page += 1


@examples("avinet config delete pool old", "avinet config delete virtualservice web --yes    # in scripts")
@config.command()
@click.argument("kind")
@click.argument("name")
@yes_option
@place
def delete(where: Place, kind: str, name: str, yes: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Delete the object of KIND called NAME (or of that UUID).

    KIND is virtualservice, pool, healthmonitor, sslkeyandcertificate or serviceenginegroup.

    A virtual service carries traffic: before one is deleted it asks, or needs --yes where there is no terminal.
    """
    kind = _kind(kind)
    if kind == "virtualservice":
        question = f"Delete virtual service {name}? Its traffic stops."
        ask(question, yes=yes, needs_yes="avinet config delete virtualservice")
    where.client().delete(path_to(kind, name))
    if where.json:
        print_json({"deleted": [f"{kind}/{name}"]})
    else:
        click.echo(f"{kind} {name} was deleted.")


@examples("avinet config status --wait 12 --timeout 30")
@config.command()
@click.option(
    "--wait", "version", type=click.IntRange(min=1), help="Wait until every engine has this version."
)
@click.option(
    "--timeout", type=click.FloatRange(0, MAX_WAIT_S, min_open=True), default=30.0, show_default=True
)
@place
def status(where: Place, version: int | None, timeout: float) -> None:
    """Which version is in force where, and who lags."""
    client = where.client()
    answer = client.get(STATUS) if version is None else _in_force(client, version, timeout)
    if where.json:
        print_json(answer)
        return
    print_facts({"version": answer["version"], "in sync": answer["in_sync"]})
    click.echo()
    print_table(
        ("engine", "stand", "why", "uuid"),
        ((row["name"], row["stand"], row.get("why"), row["uuid"]) for row in answer["service_engines"]),
        empty="There is no service engine yet; make one: avinet se create",
    )
    if not answer["versions"]:
        return
    click.echo()
    print_table(
        ("version", "committed", "acks", "p50", "p99", "last", "missing"),
        (
            (
                row["version"],
                moment(row["committed_at"]),
                row["acks"],
                *(_in_ms(row.get(name)) for name in ("p50_s", "p99_s", "last_s")),
                row["missing"],
            )
            for row in answer["versions"]
        ),
        empty="",
    )


def _in_ms(seconds: float | None) -> str:
    return milliseconds(None if seconds is None else seconds * 1000)


def _in_force(client: Client, version: int, limit_s: float) -> dict[str, Any]:
    """The status once every engine has ``version``; ``RefusedError`` of kind TIMEOUT after ``limit_s``."""
    answer: dict[str, Any] = client.get(
        STATUS, {"wait": version, "timeout": f"{limit_s:g}"}, timeout_s=limit_s + ANSWER_MARGIN_S
    )
    return answer


def _kind(word: str) -> str:
    kind = word.lower().replace("-", "").replace("_", "")
    if kind not in KINDS:
        raise UsageError(what=f"{word!r} is no kind of object; the kinds are {', '.join(KINDS)}")
    return kind


def _summary(row: dict[str, Any]) -> str:
    if row["kind"] == "virtualservice":
        addresses = [vip["ip_address"]["addr"] for vip in row.get("vip", ())]
        ports = [str(service["port"]) for service in row.get("services", ())]
        disabled = "" if row.get("enabled", True) else " (disabled)"
        return f"{', '.join(addresses)} port {', '.join(ports)}{disabled}"
    if row["kind"] == "pool":
        return f"{len(row.get('servers', ()))} servers"
    if row["kind"] == "healthmonitor":
        return str(row.get("type", "")).removeprefix("HEALTH_MONITOR_")
    return str(row.get("description", ""))


def _print_yaml(rows: list[dict[str, Any]]) -> None:
    click.echo(
        yaml.safe_dump_all(rows, sort_keys=False, allow_unicode=True, explicit_start=len(rows) > 1), nl=False
    )
