"""``avinet logs pull`` and its like: records fetched from the service engines, and how far that is."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import (
    FAILED,
    ConnectionLostError,
    ControllerUnreachableError,
    EndedError,
    NoAnswerError,
    UsageError,
)
from avinet.app.cli.output import instant, print_json, print_table, text_of
from avinet.errors import AvinetError, Kind, error
from avinet.units import show_bytes, show_duration

POLL_S = 0.5
LOST_S = 60.0
"""A controller that restarts is back within this, and goes on with its pulls."""
MAX_NAMED = 3
"""Service engines, on a line beside the bar."""
PLANS = "not said yet how much there is"
PLANNING_POLLS = 10
"""A service engine takes a moment to look; one that takes 5 s is worth a line."""
ENDED = frozenset({"done", "cancelled", "failed"})
PATH = ("logs", "pull")


@error
class PullEndedError(AvinetError):
    """Pull {id} ended as {state}: {why}. What came before that is in the store; ask again for the rest: avinet logs pull."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    id: str
    state: str
    why: str


@error
class PullTimeoutError(AvinetError):
    """Pull {id} was not done in {limit_s:g} s{waits}. It goes on; see: avinet logs pulls; end it: avinet logs cancel {id}"""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    id: str
    limit_s: float
    waits: str


@error
class WhichPullError(AvinetError):
    """Several controllers have a pull {pull}, or may have. Say which: {names}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    pull: str
    names: str


def name_of(row: Mapping[str, Any]) -> str:
    """``7``, or ``7@c1`` where there are several controllers."""
    return text_of(row.get("name") or row["id"])


@examples(
    "avinet logs pull --since 1h --wait",
    "avinet logs pull --since 1h --wait --timeout 600",
    "avinet logs pull --since 2026-11-27T10:00:00Z --until 2026-11-27T11:00:00Z --vs web",
    "avinet logs pull --since 1d --se se-1 --bytes 2GiB --rate 10MiB",
)
@click.command(cls=Command)
@click.option(
    "--since", required=True, metavar="TIME", help="Records from then on: 1h, 2d, or 2026-11-27T12:00:00Z."
)
@click.option("--until", metavar="TIME", help="And before then; now unless it is given.")
@click.option(
    "--vs", "services", multiple=True, metavar="NAME", help="Of this virtual service; may be repeated."
)
@click.option(
    "--se", "engines", multiple=True, metavar="NAME", help="From this service engine; may be repeated."
)
@click.option(
    "--bytes",
    "byte_limit",
    metavar="SIZE",
    help="At most so much from each service engine, compressed: 2GiB.",
)
@click.option(
    "--rate",
    metavar="SIZE",
    help="At most so much a second from all together, after a first 64 KiB each: 10MiB.",
)
@click.option("--wait", is_flag=True, help="Until all of it is in the store and can be asked about.")
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    metavar="SECONDS",
    help="With --wait: so long at most; the pull goes on. Without it, as long as a service engine is away.",
)
@place
def pull(
    where: Place,
    /,
    services: tuple[str, ...],
    engines: tuple[str, ...],
    *,
    wait: bool,
    timeout: float | None,
    **given: Any,
) -> None:
    """Fetch the full logs of service engines into this controller's store.

    It goes on by itself, also over restarts; Ctrl-C while waiting, or --timeout (exit status 7), leaves it running.
    """
    if timeout is not None and not wait:
        raise UsageError(what="--timeout goes with --wait")
    client = where.client()
    wish = {name: value for name, value in given.items() if value is not None}
    wish |= {"vs": list(services)} if services else {}
    wish |= {"se": list(engines)} if engines else {}
    made = client.post(path_to(*PATH), wish)
    if wait:
        made = _wait(where, client, made, timeout)
    if where.json:
        print_json(made)
    elif wait:
        limited = _limited(made)
        click.echo(f"Pull {name_of(made)} is done: {_summary(made)}{f'; {limited}' if limited else ''}.")
    else:
        click.echo(f"Pull {name_of(made)} has begun; see: avinet logs pulls")
    _tell_of_engines(made)


def _wait(where: Place, client: Client, made: dict[str, Any], limit_s: float | None) -> dict[str, Any]:
    end = None if limit_s is None else time.monotonic() + limit_s
    with _leaving(name_of(made)), _progress(where) as show:
        for state in _states(client, made, time.sleep):
            made = state
            show(made)
            ended = made["state"] in ENDED and made.get("stored", True)
            if limit_s is not None and end is not None and time.monotonic() >= end and not ended:
                waits = f"; it {_awaited(made)}" if _awaited(made) else ""
                raise PullTimeoutError(id=name_of(made), limit_s=limit_s, waits=waits)
    if made["state"] != "done":
        ended = PullEndedError(
            id=name_of(made), state=made["state"], why=text_of(made.get("why") or "not all came")
        )
        raise EndedError(ended, FAILED)
    return made


def _states(client: Client, made: dict[str, Any], sleep: Callable[[float], None]) -> Iterator[dict[str, Any]]:
    """The pull again and again until it has ended, and what came of it is in the store."""
    lost_s = 0.0
    while True:
        yield made
        if made["state"] in ENDED and made.get("stored", True):
            return
        sleep(POLL_S)
        try:
            made = client.get(path_to(*PATH, name_of(made)))
            lost_s = 0.0
        except (ConnectionLostError, ControllerUnreachableError, NoAnswerError):
            lost_s += POLL_S
            if lost_s >= LOST_S:
                raise


@contextmanager
def _leaving(name: Any) -> Iterator[None]:
    """Ctrl-C ends the waiting, and says that it ends nothing else."""
    try:
        yield
    except KeyboardInterrupt:
        click.echo(
            f"\navinet: pull {name} goes on; see: avinet logs pulls; end it: avinet logs cancel {name}",
            err=True,
        )
        raise


@contextmanager
def _progress(where: Place) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """A bar on a terminal's stderr; elsewhere a line when it begins to wait for other service engines."""
    console = Console(stderr=True)
    if where.json or not console.is_terminal:
        yield _Lines().show
        return
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.0f} %"), TextColumn("{task.fields[said]}"),
        console=console, transient=True,
    )  # fmt: skip
    with bar:
        task = bar.add_task("pull", total=None, said="")
        yield lambda state: bar.update(
            task,
            description=f"pull {name_of(state)} {state['state']}",
            total=state.get("bytes_total") or None,
            completed=state.get("bytes", 0),
            said=", ".join(filter(None, (_summary(state), _awaited(state)))),
        )


class _Lines:
    """What is told where there is no bar."""

    def __init__(self) -> None:
        self._said = ""
        self._polls = 0
        """For which somebody plans."""

    def show(self, state: Mapping[str, Any]) -> None:
        awaited = _awaited(state)
        self._polls = self._polls + 1 if awaited.endswith(PLANS) else 0
        if 0 < self._polls < PLANNING_POLLS:
            return
        if awaited and awaited != self._said:
            click.echo(f"avinet: pull {name_of(state)} {awaited}", err=True)
        self._said = awaited


def _awaited(state: Mapping[str, Any]) -> str:
    """``waits for se-1, se-2, which are not connected``; empty where all that are to send can, or do."""
    parts = [one for one in state.get("service_engines", ()) if one["state"] not in ENDED]
    if state["state"] in ENDED:
        return ""
    if away := [one for one in parts if not one.get("connected", True)]:
        return f"waits for {_names(away)}, which {'is' if len(away) == 1 else 'are'} not connected"
    if plans := [one for one in parts if one["state"] == "planning"]:
        return f"waits for {_names(plans)}, which {'has' if len(plans) == 1 else 'have'} {PLANS}"
    return ""


def _names(engines: Sequence[Mapping[str, Any]]) -> str:
    names = [text_of(one["name"]) for one in engines]
    more = f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more


def _limited(state: Mapping[str, Any]) -> str:
    """What is not brought, though the pull is done: what ``--bytes`` left out, and what only others are sent."""
    parts = state.get("service_engines", ())
    said = ["the rest is over its --bytes"] if any(one.get("limited") for one in parts) else []
    elsewhere: dict[str, int] = {}
    for one in parts:
        for name, records in one.get("elsewhere", {}).items() if one["state"] in ENDED else ():
            elsewhere[name] = elsewhere.get(name, 0) + records
    said += [f"{records} records go to {text_of(name)} alone" for name, records in sorted(elsewhere.items())]
    return "; ".join(said)


def _summary(state: Mapping[str, Any]) -> str:
    """``1.2 GiB of 3.4 GiB, 12 records, 45.6 MiB/s, 10s left``."""
    whole = state.get("bytes_total")
    said = [show_bytes(state.get("bytes", 0)) + (f" of {show_bytes(whole)}" if whole else "")]
    said.append(f"{state.get('records', 0)} records")
    if state["state"] in ENDED:
        return ", ".join(said)
    if state.get("rate_bytes_per_s"):
        said.append(f"{show_bytes(int(state['rate_bytes_per_s']))}/s")
    if state.get("left_s") is not None:
        said.append(f"{show_duration(state['left_s']) or '0s'} left")
    return ", ".join(said)


def _tell_of_engines(made: Mapping[str, Any]) -> None:
    """Those that could not be asked, so that nobody takes the rest for all."""
    for one in made.get("service_engines", ()):
        if one.get("why"):
            click.echo(f"  {text_of(one['name'])}: {text_of(one['state'])}: {text_of(one['why'])}", err=True)


@click.command(cls=Command)
@place
def pulls(where: Place) -> None:
    """Every pull of every controller, the newest first, with how far it is.

    Where there are several controllers a pull is called by its number and its controller: 7@c1.
    """
    answer = where.client().get(path_to(*PATH))
    if where.json:
        print_json(answer)
        return
    print_table(
        ("pull", "state", "from", "to", "services", "engines", "progress", "by", "why"),
        (
            (
                name_of(row),
                row["state"],
                instant(row.get("since")),
                instant(row.get("until")),
                row.get("vs") or "all",
                [one["name"] for one in row.get("service_engines", ())],
                _summary(row),
                row.get("by"),
                row.get("why") or _awaited(row) or _limited(row),
            )
            for row in answer["results"]
        ),
        empty="There is none; see: avinet logs pull --help",
    )
    for one in answer.get("missing", ()):
        click.echo(
            f"Not in this list: those of {text_of(one['controller'])}. {text_of(one['why'])}", err=True
        )


def _changing(name: str, done: str, what: str) -> click.Command:
    @click.command(name, cls=Command, help=what)
    @click.argument("pull_id", metavar="PULL")
    @place
    def change(where: Place, pull_id: str) -> None:
        client = where.client()
        answer = client.post(path_to(*PATH, _meant(client, pull_id), name))
        if where.json:
            print_json(answer)
        else:
            click.echo(f"Pull {name_of(answer)} {done}.")

    return change


def _meant(client: Client, text: str) -> str:
    """The name of the pull that a person means; a bare number must be one controller's alone."""
    if not text.isdecimal():
        return text
    answer = client.get(path_to(*PATH))
    rows = [row for row in answer["results"] if str(row["id"]) == text]
    silent = [f"{text}@{text_of(one['controller'])}" for one in answer.get("missing", ())]
    if rows and len(rows) + len(silent) > 1:
        raise WhichPullError(pull=text, names=" or ".join(sorted([*map(name_of, rows), *silent])))
    return name_of(rows[0]) if rows else text


pause = _changing("pause", "is paused", "Stop a pull for now; nothing of it is lost.")
resume = _changing("resume", "goes on", "Let a paused pull go on.")
cancel = _changing(
    "cancel", "is cancelled; what came already stays", "End a pull. What came already stays in the store."
)
