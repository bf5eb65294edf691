"""``avinet events``: what happened, and what happens."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import ConnectionLostError, ControllerUnreachableError, NoAnswerError, RefusedError
from avinet.app.cli.output import json_of, moment, print_json, text_of
from avinet.errors import AvinetError

PAGE = 1_000
"""The most that one answer holds."""
FIRST_RETRY_S = 0.5
MAX_RETRY_S = 10.0
_LEVEL_COLOUR = {"warning": "yellow", "error": "red"}


@examples(
    "avinet events                    # the newest 100",
    "avinet events --since 4711       # all after that id",
    "avinet events --follow --json    # one JSON document a line, for ever",
)
@click.command(cls=Command)
@click.option("--follow", "-f", is_flag=True, help="Go on as they happen, also over a controller's restart.")
@click.option("--since", type=click.IntRange(min=0), help="Those after the event of this id.")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many; 100 unless --since is given.")
@place
def events(where: Place, follow: bool, since: int | None, limit: int | None) -> None:  # noqa: FBT001 - click's
    """Show events, oldest first."""
    client = where.client()
    if not follow:
        found, last_id = _list(client, since, limit)
        if where.json:
            print_json({"count": len(found), "results": found, "last_id": last_id})
            return
        for event in found:
            _show(event)
        if not found:
            click.echo(
                "There is no event." if since is None else f"There is no event after {since}.", err=True
            )
        return
    after = since
    if after is None:
        found, after = _list(client, None, limit or 10)
        for event in found:
            _tell(event, where)
    for event in followed(client, after, time.sleep):
        _tell(event, where)


def followed(
    client: Client, after: int | str | None, sleep: Callable[[float], None], path: str = "/api/events"
) -> Iterator[dict[str, Any]]:
    """Events (or what else ``path`` streams) after an id or from now on, for ever: a lost controller is asked again, from where it left off."""
    delay_s = FIRST_RETRY_S
    while True:
        try:
            for event in client.stream_events(after, path):
                after, delay_s = event["id"], FIRST_RETRY_S
                yield event
        except (ConnectionLostError, ControllerUnreachableError, NoAnswerError) as why:
            _wait_for(why, delay_s, sleep)
        except RefusedError as why:
            if why.status != 503:
                raise
            _wait_for(why, delay_s, sleep)
        delay_s = min(2 * delay_s, MAX_RETRY_S)


def _wait_for(why: AvinetError, delay_s: float, sleep: Callable[[float], None]) -> None:
    if delay_s == FIRST_RETRY_S:
        click.echo(f"avinet: {why} Trying again.", err=True)
    sleep(delay_s)


def _list(client: Client, since: int | None, limit: int | None) -> tuple[list[dict[str, Any]], int]:
    """Events, and the newest id there is."""
    if since is None:
        answer = client.get(path_to("events"), {"limit": min(limit or 100, PAGE)})
        return answer["results"], answer["last_id"]
    found: list[dict[str, Any]] = []
    after = since
    while limit is None or len(found) < limit:
        wanted = PAGE if limit is None else min(PAGE, limit - len(found))
        answer = client.get(path_to("events"), {"since": after, "limit": wanted})
        page = answer["results"]
        found += page
        if len(page) < wanted:
            return found, answer["last_id"]
        after = page[-1]["id"]
    return found, answer["last_id"]


def _tell(event: dict[str, Any], where: Place) -> None:
    if where.json:
        click.echo(json_of(event))
    else:
        _show(event)


def _show(event: dict[str, Any]) -> None:
    level = event["level"]
    shown = click.style(f"{level:<7}", fg=_LEVEL_COLOUR.get(level))
    click.echo(f"{event['id']:>6}  {moment(event['at'])}  {shown}  {event['code']}  {text_of(event['text'])}")
