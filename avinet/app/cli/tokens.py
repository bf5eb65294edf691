"""``avinet se token``: one-time tokens for machines made by hand."""

from pathlib import Path

import click

from avinet.app.cli.asking import ask, yes_option
from avinet.app.cli.client import path_to
from avinet.app.cli.context import Group, Place, examples, place
from avinet.app.cli.meta_info import keep_meta_info, meta_info_option, place_of, show_meta_info
from avinet.app.cli.output import moment, print_json, print_table

BASE = "setoken"


@click.group("token", cls=Group)
def tokens() -> None:
    """One-time tokens, with which machines made by hand enrol."""


@examples(
    "avinet se token create --group Default-Group --count 20 --out meta-info.json",
    "avinet se token create --se se-9      # a new one for an engine that has not enrolled yet",
)
@tokens.command()
@click.option("--group", help="The group that its machines join; Default-Group unless --se is given.")
@click.option("--count", type=click.IntRange(min=1), help="How many machines may use it; 1 unless given.")
@click.option("--se", "engine", help="For this engine, which exists and has not enrolled.")
@meta_info_option
@place
def create(where: Place, group: str | None, count: int | None, engine: str | None, out: Path | None) -> None:
    """Make a token and print what to run on the machine."""
    given = {"group": group, "count": count, "se": engine}
    wish = {name: value for name, value in given.items() if value is not None}
    with place_of(out) as file:
        made = where.client().post(path_to(BASE), wish)
        token, meta = made["token"], made["meta_info"]
        remedy = f"Withdraw it (avinet se token revoke {token['uuid']}) and make another."
        keep_meta_info(meta, file, done=f"Token {token['uuid']} was made", remedy=remedy)
    if where.json:
        print_json(made if out is None else {"token": token})
        return
    whom = f"service engine {engine}" if engine else f"{token['count']} of group {token['group']}"
    click.echo(f"Token {token['uuid']} for {whom}, until {moment(token['expires_at'])}.")
    show_meta_info(meta, out)


@tokens.command("list")
@place
def list_all(where: Place) -> None:
    """Every token and how often it was used; never its secret."""
    answer = where.client().get(path_to(BASE))
    if where.json:
        print_json(answer)
        return
    print_table(
        ("token", "state", "group", "used", "of", "for", "created", "expires"),
        (
            (
                row["uuid"],
                row["state"],
                row["group"],
                row["used"],
                row["count"],
                row.get("se") or "any machine",
                moment(row["created_at"]),
                moment(row["expires_at"]),
            )
            for row in answer["results"]
        ),
        empty="There is no token; make one: avinet se token create",
    )


@tokens.command()
@click.argument("token")
@yes_option
@place
def revoke(where: Place, token: str, yes: bool) -> None:  # noqa: FBT001 - click's
    """End TOKEN (its id, as the list shows it); what enrolled with it stays."""
    ask(f"Revoke token {token}? No machine can enrol with it any more.", yes=yes)
    where.client().delete(path_to(BASE, token))
    if where.json:
        print_json({"revoked": token})
    else:
        click.echo(f"Token {token} was revoked.")
