"""``avinet audit``: who changed what."""

import time
from typing import Any

import click

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.events import followed
from avinet.app.cli.output import json_of, moment, print_json, text_of

PAGE = 1_000
"""The most that one answer holds."""


@examples(
    "avinet audit                     # the newest 100",
    "avinet audit --user olga",
    "avinet audit --since 4711        # all after the entry of that id",
    "avinet audit --follow --json     # one JSON document a line, for ever",
)
@click.command(cls=Command)
@click.option("--follow", "-f", is_flag=True, help="Go on as it happens, also over a controller's restart.")
@click.option("--since", type=click.IntRange(min=0), help="Those after the entry of this id.")
@click.option("--user", help="Those of this user.")
@click.option(
    "--limit", type=click.IntRange(1, PAGE), default=100, show_default=True, help="Without --since."
)
@place
def audit(where: Place, follow: bool, since: int | None, user: str | None, limit: int) -> None:  # noqa: FBT001
    """Show every write that was asked for and what came of it, oldest first."""
    client = where.client()
    found, last_id = _all(client, since, user, limit)
    if not follow:
        if where.json:
            print_json({"count": len(found), "results": found, "last_id": last_id})
            return
        for entry in found:
            _show(entry)
        if not found:
            of = "" if user is None else f" of user {user}"
            click.echo(f"There is no entry{of}" + ("." if since is None else f" after {since}."), err=True)
        return
    for entry in found:
        _tell(entry, where)
    for entry in followed(client, last_id, time.sleep, path_to("audit")):
        if user in {None, entry["user"]}:
            _tell(entry, where)


def _all(client: Client, since: int | None, user: str | None, limit: int) -> tuple[list[dict[str, Any]], int]:
    """Entries, and the id up to which was looked."""
    query = {"since": since, "user": user, "limit": limit if since is None else PAGE}
    answer = client.get(path_to("audit"), query)
    found: list[dict[str, Any]] = answer["results"]
    while since is not None and answer["last_id"] > since:
        since = answer["last_id"]
        answer = client.get(path_to("audit"), {**query, "since": since})
        found += answer["results"]
    return found, answer["last_id"]


def _tell(entry: dict[str, Any], where: Place) -> None:
    if where.json:
        click.echo(json_of(entry))
    else:
        _show(entry)


def _show(entry: dict[str, Any]) -> None:
    who = entry["user"] or "somebody"
    if entry["token"]:
        who += f" (token {entry['token']})"
    outcome = entry["outcome"] + (f": {entry['reason']}" if entry["reason"] else "")
    times = f" ({entry['count']} times)" if entry["count"] > 1 else ""
    colour = "yellow" if entry["reason"] else None
    what = f"{entry['method']} {entry['path']}" + (f" [{entry['object']}]" if entry["object"] else "")
    click.echo(
        f"{entry['id']:>6}  {moment(entry['at'])}  {text_of(who)}  {entry['source'] or 'here'}  "
        f"{text_of(what)}  {click.style(text_of(outcome), fg=colour)}{times}"
    )
