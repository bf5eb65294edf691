"""``avinet config``: configuration documents in, objects out."""

import enum
from collections.abc import Iterator
from typing import Any

import click

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import Client, path_to
from avinet.app.cli.config_changes import (
    YAML_TYPE,
    Query,
    conclude,
    files_option,
    note_option,
    terms_options,
    text_of_files,
    wait_options,
)
from avinet.app.cli.config_history import diff, history, rollback, show
from avinet.app.cli.config_status import status
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.output import print_json, print_table, yaml_of
from avinet.model.config import KINDS, ApplicationProfile, SslProfile

BUILT_IN: dict[str, type[enum.StrEnum]] = {"sslprofile": SslProfile, "applicationprofile": ApplicationProfile}
"""What the Avi API has objects for, and we have names."""
PAGE = 1_000
"""The most objects in one answer."""


@click.group(cls=Group)
def config() -> None:
    """Virtual services, pools, health monitors and groups."""


@examples(
    "avinet config apply -f web.yaml",
    "avinet config apply --dry-run -f web.yaml -f pools.yaml",
    "avinet config apply --wait --note 'two more servers, CHG-1234' -f web.yaml",
    "generate | avinet config apply --wait --timeout 30 -f -",
)
@config.command()
@files_option(required=True)
@terms_options
@wait_options
@place
def apply(where: Place, files: tuple[str, ...], terms: Query, wait: float | None) -> None:
    """Create or change what the documents in FILES say: all of it or nothing."""
    client = where.client()
    answer = client.post(path_to("config"), raw=text_of_files(files), content_type=YAML_TYPE, query=terms)
    conclude(where, client, answer, wait=wait, dry_run="dry_run" in terms)


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


@examples("avinet config accept-restored --wait")
@config.command("accept-restored")
@yes_option
@wait_options
@place
def accept_restored(where: Place, yes: bool, wait: float | None) -> None:  # noqa: FBT001 - click's
    """After a restore: send the restored configuration to engines that have a newer one, too."""
    client = where.client()
    keep = client.get(path_to("status"))["service_engines"]["restored_behind"]
    ask(
        f"{keep} service engines have a newer configuration than the restored one. Replace it?",
        yes=yes,
        needs_yes=f"avinet config accept-restored, which replaces what {keep} service engines have,"
        if keep
        else "",
    )
    conclude(where, client, client.post(path_to("config", "accept-restored"), {}), wait=wait)


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
@note_option
@wait_options
@place
def delete(  # noqa: PLR0913, PLR0917 - one parameter an option
    where: Place,
    kind: str,
    name: str,
    yes: bool,  # noqa: FBT001 - click passes options by name
    note: str | None,
    wait: float | None,
) -> None:
    """Delete the object of KIND called NAME (or of that UUID).

    KIND is virtualservice, pool, healthmonitor, sslkeyandcertificate or serviceenginegroup.

    A virtual service carries traffic: before one is deleted it asks, or needs --yes where there is no terminal.
    """
    kind = _kind(kind)
    if kind == "virtualservice":
        question = f"Delete virtual service {name}? Its traffic stops."
        ask(question, yes=yes, needs_yes="avinet config delete virtualservice")
    client = where.client()
    answer = client.delete(path_to(kind, name), {"note": note})
    conclude(where, client, answer, wait=wait)


def _kind(word: str) -> str:
    kind = word.lower().replace("-", "").replace("_", "")
    if kind in BUILT_IN:
        names = ", ".join(BUILT_IN[kind])
        raise UsageError(
            what=f"{kind} is built in, and no object: {names}; what each means is in docs/configuration.md"
        )
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
    click.echo(yaml_of(rows, explicit_start=len(rows) > 1), nl=False)


for _command in (diff, history, rollback, show, status):
    config.add_command(_command)
