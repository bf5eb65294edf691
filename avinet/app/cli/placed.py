"""``avinet vs list`` and ``avinet vs show``: where virtual services are placed, wanted and actual, and what is short."""

from typing import Any

import click

from avinet.app.cli.client import path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.output import print_facts, print_json, print_table

BASE = "placement"
SHOWN = 3
"""Names of service engines in one row of a list."""


@examples("avinet vs list", "avinet vs list --short    # only those that lack service engines")
@click.command("list", cls=Command)
@click.option("--name", help="Only the one of this name.")
@click.option("--group", help="Only those of this service engine group.")
@click.option("--short", is_flag=True, help="Only those on fewer service engines than their group's minimum.")
@place
def placed_list(where: Place, name: str | None, group: str | None, short: bool) -> None:  # noqa: FBT001 - click's
    """Every virtual service, and where it is placed."""
    query = {"name": name, "group": group, "short": "true" if short else None}
    answer = where.client().get(path_to(BASE), query)
    if where.json:
        print_json(answer)
        return
    print_table(
        ("name", "group", "engines", "serving", "where", "short"),
        (
            (
                row["name"],
                row["group"],
                f"{row['wanted']} of {row['least']} to {row['most']}",
                row["serving"],
                _where(row["engines"]),
                row["why"],
            )
            for row in answer["results"]
        ),
        empty="No virtual service matches." if any(query.values()) else "There is no virtual service yet.",
    )
    more = answer["count"] - len(answer["results"])
    if more > 0:
        click.echo(f"... and {more} more; narrow the list.", err=True)


def _where(engines: list[dict[str, Any]]) -> str:
    names = [
        one["name"] if one["stage"] == "serving" else f"{one['name']} ({one['stage']})" for one in engines
    ]
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


@examples("avinet vs show web")
@click.command("show", cls=Command)
@click.argument("service")
@place
def placed_show(where: Place, service: str) -> None:
    """Where SERVICE (a name or a UUID) is placed, how far that is, and what is short."""
    row = where.client().get(path_to(BASE, service))
    if where.json:
        print_json(row)
        return
    print_facts(
        {
            "name": row["name"],
            "uuid": row["uuid"],
            "enabled": row["enabled"],
            "group": row["group"],
            "engines": f"{row['wanted']}, of {row['least']} to {row['most']}",
            "serving": row["serving"],
            "short": row["why"] if row["short"] else None,
        }
    )
    if row["engines"]:
        click.echo()
    print_table(
        ("service engine", "stage", "over in", "why", "uuid"),
        (
            (
                one["name"],
                one["stage"],
                None if one.get("over_in_s") is None else f"{one['over_in_s']:.0f} s",
                one.get("why"),
                one["uuid"],
            )
            for one in row["engines"]
        ),
        empty=f"It is nowhere: {row['why'] or 'nothing is placed yet'}.",
    )
