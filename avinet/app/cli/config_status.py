"""``avinet config status``: what is in force where, and who lags."""

import click

from avinet.app.cli.client import path_to
from avinet.app.cli.config_changes import MAX_WAIT_S, in_force
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.output import milliseconds, moment, print_facts, print_json, print_table


@examples("avinet config status --wait 12 --timeout 30")
@click.command(cls=Command)
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
    answer = (
        client.get(path_to("config", "status")) if version is None else in_force(client, version, timeout)
    )
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
    if answer["stragglers"]:
        click.echo()
        print_table(
            ("straggler", "since", "sent again", "why"),
            (
                (row["name"], moment(row["since"]), row["resends"], row["why"] or row["stand"])
                for row in answer["stragglers"]
            ),
            empty="",
        )
    if not answer["versions"]:
        return
    click.echo()
    print_table(
        ("version", "committed", "acks", "p50", "p99", "last", "sent again", "refused", "missing"),
        (
            (
                row["version"],
                moment(row["committed_at"]),
                f"{row['acks']} of {row['concerned']}",
                *(_in_ms(row.get(name)) for name in ("p50_s", "p99_s", "last_s")),
                row["resends"],
                row["nacks"],
                row["missing"],
            )
            for row in answer["versions"]
        ),
        empty="",
    )


def _in_ms(seconds: float | None) -> str:
    return milliseconds(None if seconds is None else seconds * 1000)
