"""How service engines leave: ``avinet se disable``, ``quarantine`` and ``delete``, and what they still serve meanwhile."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import click

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import RefusedError
from avinet.app.cli.output import print_json, print_table, text_of
from avinet.errors import AvinetError, Kind, error

BASE = "serviceengine"
POLL_S = 0.5
MAX_NAMED = 5
"""Virtual services in one sentence."""


@error
class StaysError(AvinetError):
    """Service engine {se} was enabled meanwhile, and stays."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    se: str


now_option = click.option(
    "--now", is_flag=True, help="At once, whether or not others have taken over what it serves."
)


def load_of(row: dict[str, Any]) -> str:
    """``12``, or ``0 (3 draining, 1 held)``."""
    leaving = [f"{row[stage]} {stage}" for stage in ("draining", "held") if row.get(stage)]
    return f"{row.get('services', 0)}" + (f" ({', '.join(leaving)})" if leaving else "")


def _busy_with(row: dict[str, Any]) -> int:
    return sum(int(row.get(part, 0)) for part in ("services", "draining", "held"))


def find(client: Client, engine: str) -> dict[str, Any]:
    """The row of one, by name or UUID."""
    row: dict[str, Any] = client.get(path_to(BASE, engine))
    return row


def run_command(
    where: Place,
    engine: str,
    verb: str,
    body: dict[str, Any],
    said: str | Callable[[dict[str, Any]], str] = "",
) -> None:
    """POST it; ``said`` is what else a person should know of ENGINE, or makes that of its row."""
    row = where.client().post(path_to(BASE, engine, verb), body)
    if where.json:
        print_json(row)
        return
    click.echo(f"Service engine {row['name']} is {row['state']}.")
    more = said if isinstance(said, str) else said(row)
    if more:
        click.echo(f"It {more}.")
    if stranded := row.get("stranded"):
        click.echo(
            f"warning: {_stranded(row, stranded, ended=verb == 'quarantine' or bool(body.get('now')))}",
            err=True,
        )


def _stranded(row: dict[str, Any], names: list[str], *, ended: bool) -> str:
    """What became of virtual services that no other can take over, and what would help."""
    shown = ", ".join(text_of(name) for name in names[:MAX_NAMED])
    if len(names) > MAX_NAMED:
        shown += f" and {len(names) - MAX_NAMED} more"
    name, group = row["name"], row["group"]
    if ended:
        return f"nobody serves {shown} now. Enable a service engine of group {group}, or give it another one."
    return (
        f"no other service engine can take over {shown}, so {name} goes on serving. Enable another one of group "
        f"{group}, or give it one more; or end that service: avinet se disable {name} --now"
    )


def print_services(services: list[dict[str, Any]]) -> None:
    """What one serves, and how far that is."""
    click.echo("\nvirtual services")
    print_table(
        ("name", "stage", "over in", "why"),
        ((one["name"], one["stage"], _seconds(one.get("over_in_s")), one.get("why")) for one in services),
        empty="",
    )


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:.0f} s"


@examples("avinet se disable se-1 --note 'new disks'", "avinet se disable se-1 --now")
@click.command(cls=Command)
@click.argument("engine")
@click.option("--note", default="", help="Why; shown beside its state.")
@now_option
@place
def disable(where: Place, engine: str, note: str, now: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Keep ENGINE connected, but give it no virtual service.

    What it has it serves until others do, and then for the drain time of its group.
    """

    def said(row: dict[str, Any]) -> str:
        moving = _busy_with(row) - len(row.get("stranded", ()))
        return "" if now or moving <= 0 else f"drains {_count(moving)}; see: avinet se show {row['name']}"

    run_command(where, engine, "disable", {"note": note} | ({"now": True} if now else {}), said)


@click.command(cls=Command)
@click.argument("engine")
@click.option("--note", default="", help="Why; shown beside its state.")
@yes_option
@place
def quarantine(where: Place, engine: str, note: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """Cut ENGINE off until it is enabled.

    Its virtual services move at once.  As far as it can be reached it is told to serve nothing before it is cut off.
    """
    ask(f"Cut {engine} off until it is enabled again?", yes=yes)
    run_command(where, engine, "quarantine", {"note": note})


@examples("avinet se delete se-1", "avinet se delete se-1 --yes --now --json    # in scripts")
@click.command(cls=Command)
@click.argument("engine")
@now_option
@yes_option
@place
def delete(where: Place, engine: str, now: bool, yes: bool) -> None:  # noqa: FBT001 - click passes options by name
    """Delete ENGINE for good, and its machine unless that was made by hand.

    First others take over what it serves; this waits for that, and may be interrupted: it is deleted all the same, unless
    it is enabled.  It asks on a terminal; elsewhere it needs --yes.
    """
    client = where.client()
    row = find(client, engine)
    ask(f"Delete {row['name']} ({row['state']}) for good?", yes=yes, needs_yes="avinet se delete")
    leaving = client.delete(path_to(BASE, row["uuid"]), {"now": "true"} if now else None)
    if leaving is not None:
        _watch(client, leaving, quiet=where.json)
    if where.json:
        print_json({"deleted": row["uuid"]})
    else:
        click.echo(f"Service engine {row['name']} was deleted.")


def _watch(client: Client, row: dict[str, Any], *, quiet: bool) -> None:
    """Until it is gone, saying each time that there is less to drain."""
    told = None
    while True:
        said = _said(row)
        if not quiet and said != told:
            click.echo(f"Service engine {row['name']} {said}.", err=True)
            told = said
        time.sleep(POLL_S)
        try:
            row = find(client, row["uuid"])
        except RefusedError as gone:
            if gone.status in {404, 410}:
                return
            raise
        if not row.get("leaving"):
            raise StaysError(se=row["name"])


def _said(row: dict[str, Any]) -> str:
    held = [one for one in row.get("virtual_services", ()) if one["stage"] == "held"]
    said = f"drains {_count(_busy_with(row))}"
    if not held:
        return said
    why = next((f": {one['why']}" for one in held if one.get("why")), "")
    return f"{said}; {_count(len(held))} not yet served elsewhere{why}"


def _count(services: int) -> str:
    return f"{services} virtual service{'s' * (services != 1)}"
