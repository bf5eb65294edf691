"""``avinet config``: configuration documents in, objects out."""

import sys
from pathlib import Path
from typing import Any

import click
import yaml

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.errors import TIMEOUT, FileError, UsageError
from avinet.app.cli.output import milliseconds, print_facts, print_json, print_table, text_of
from avinet.model.config import KINDS
from avinet.model.documents import MAX_BYTES, parse_documents

YAML_TYPE = "application/yaml"
CHANGES = ("created", "updated", "deleted", "unchanged")
WAIT_STEP_S = 25.0
"""One question waits this long, below the 60 s that the API gives an answer; then it is asked again."""


@click.group(cls=Group)
def config() -> None:
    """Virtual services, pools, health monitors and groups."""


@examples(
    "avinet config apply web.yaml",
    "avinet config apply --dry-run web.yaml pools.yaml",
    "generate | avinet config apply --wait 30 -",
)
@config.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(dir_okay=False, allow_dash=True))
@click.option("--dry-run", is_flag=True, help="Check it and say what would change.")
@click.option(
    "--wait",
    type=click.FloatRange(min=0, min_open=True),
    help="Wait up to so many seconds until every engine has it.",
)
@place
def apply(where: Place, files: tuple[str, ...], dry_run: bool, wait: float | None) -> int:  # noqa: FBT001 - click's
    """Create or change what FILES (YAML or JSON documents, - for stdin) say: all of it or nothing."""
    text = "\n---\n".join(_read(name) for name in files)
    client = where.client()
    answer = client.post(
        path_to("config"),
        raw=text.encode(),
        content_type=YAML_TYPE,
        query={"dry_run": "true"} if dry_run else None,
    )
    if wait is not None and not dry_run:
        status = _wait(client, answer["version"], wait)
        answer = {**answer, "in_sync": bool(status.get("in_sync"))}
    if where.json:
        print_json(answer)
    else:
        _print_changes(answer, dry_run=dry_run)
    return TIMEOUT if answer.get("in_sync") is False else 0


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
    click.echo(f"{'Would be' if dry_run else 'Version'} {answer['version']}: {what}.")
    if "in_sync" in answer:
        click.echo(
            "Every service engine has it." if answer["in_sync"] else "Not every service engine has it yet."
        )


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
    """Show objects: all, those of KIND, or the one of KIND called NAME."""
    client = where.client()
    if kind is not None and name is not None:
        found = client.get(path_to(_kind(kind), name))
        if where.json:
            print_json(found)
        else:
            _print_yaml([{"kind": _kind(kind), **found}])
        return
    kinds = list(KINDS) if kind is None else [_kind(kind)]
    rows = [{"kind": each, **row} for each in kinds for row in client.get(path_to(each))["results"]]
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


@examples("avinet config delete virtualservice web")
@config.command()
@click.argument("kind")
@click.argument("name")
@place
def delete(where: Place, kind: str, name: str) -> None:
    """Delete the object of KIND called NAME (or of that UUID)."""
    where.client().delete(path_to(_kind(kind), name))
    if where.json:
        print_json({"deleted": [f"{_kind(kind)}/{name}"]})
    else:
        click.echo(f"{_kind(kind)} {name} was deleted.")


@examples("avinet config status --wait 12 --timeout 30")
@config.command()
@click.option(
    "--wait", "version", type=click.IntRange(min=1), help="Wait until every engine has this version."
)
@click.option("--timeout", type=click.FloatRange(min=0, min_open=True), default=30.0, show_default=True)
@place
def status(where: Place, version: int | None, timeout: float) -> int:
    """Which version is in force where, and who lags."""
    client = where.client()
    answer = client.get(path_to("config", "status")) if version is None else _wait(client, version, timeout)
    if where.json:
        print_json(answer)
    else:
        engines = answer.get("service_engines", answer.get("engines"))
        facts = {name: value for name, value in answer.items() if name not in {"service_engines", "engines"}}
        print_facts({name.replace("_", " "): value for name, value in facts.items()})
        if isinstance(engines, list) and engines:
            columns = [name for name in engines[0] if name != "hash"]
            click.echo()
            print_table(
                [name.replace("_", " ") for name in columns],
                ([_shown(name, row.get(name)) for name in columns] for row in engines),
                empty="",
            )
    return TIMEOUT if version is not None and not answer.get("in_sync") else 0


def _shown(name: str, value: Any) -> Any:
    return milliseconds(value) if name.endswith("_ms") else value


def _wait(client: Client, version: int, limit_s: float) -> dict[str, Any]:
    """The status once every engine has ``version``, or after ``limit_s``."""
    left = limit_s
    while True:
        step = min(left, WAIT_STEP_S)
        answer: dict[str, Any] = client.get(
            path_to("config", "status"), {"wait": version, "timeout": f"{step:g}"}
        )
        left -= step
        if answer.get("in_sync") or left <= 0:
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
