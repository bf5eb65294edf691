"""What the commands that change the configuration share: their options, files read, changes told, engines waited for."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Place
from avinet.app.cli.errors import FileError, RefusedError, UsageError
from avinet.app.cli.output import print_json, text_of
from avinet.errors import Kind
from avinet.model.documents import MAX_BYTES, parse_documents

YAML_TYPE = "application/yaml"
CHANGES = ("created", "updated", "deleted", "unchanged")
MAX_WAIT_S = 300.0
"""The most that the API waits for."""
ANSWER_MARGIN_S = 15.0
"""The controller's own word on who is late comes before we give up on the controller."""
MAX_SHOWN = 10
"""Objects named in the line of one engine."""

Query = Mapping[str, Any]
Command = Callable[..., Any]


def files_option(*, required: bool) -> Callable[[Command], Command]:
    """``-f FILE``, as often as there are files."""
    return click.option(
        "-f",
        "--file",
        "files",
        multiple=True,
        required=required,
        type=click.Path(dir_okay=False, allow_dash=True),
        help="YAML or JSON documents; - for standard input. Can be given several times.",
    )


def note_option(command: Command) -> Command:
    """``--note TEXT``."""
    return click.option("--note", metavar="TEXT", help="Said about the version, and kept with it.")(command)


def terms_options(command: Command) -> Command:
    """``--dry-run``, ``--note`` and ``--expect-version`` as one query called ``terms``."""

    def collected(**options: Any) -> Any:
        dry_run, note = options.pop("dry_run"), options.pop("note")
        expected = options.pop("expect_version")
        terms = {"dry_run": "true" if dry_run else None, "note": note, "expect_version": expected}
        chosen = {name: value for name, value in terms.items() if value is not None}
        return command(terms=chosen, **options)

    for option in (
        click.option("--dry-run", is_flag=True, help="Check it and say what would change, on which engines."),
        click.option("--note", metavar="TEXT", help="Said about the version, and kept with it."),
        click.option(
            "--expect-version",
            type=click.IntRange(min=0),
            metavar="N",
            help="Only if version N is in force; else say who changed what since.",
        ),
    ):
        collected = option(collected)
    return _named_as(command, collected)


def wait_options(command: Command) -> Command:
    """``--wait`` and ``--timeout`` as one number of seconds called ``wait``; None for not waiting."""

    def collected(**options: Any) -> Any:
        waits, timeout = options.pop("waits"), options.pop("timeout")
        return command(wait=timeout if waits else None, **options)

    for option in (
        click.option(
            "--timeout",
            type=click.FloatRange(0, MAX_WAIT_S, min_open=True),
            default=60.0,
            show_default=True,
            help="With --wait: how many seconds at most.",
        ),
        click.option(
            "--wait", "waits", is_flag=True, help="Return once every attached engine has it in force."
        ),
    ):
        collected = option(collected)
    return _named_as(command, collected)


def _named_as(command: Command, wrapped: Command) -> Command:
    """``wrapped`` with the name and help of ``command``, and with the options of both."""
    options = [*getattr(wrapped, "__click_params__", ()), *getattr(command, "__click_params__", ())]
    wrapped.__name__, wrapped.__doc__ = command.__name__, command.__doc__
    wrapped.__click_params__ = options  # type: ignore[attr-defined] # click's own place for them
    return wrapped


def text_of_files(files: tuple[str, ...]) -> bytes:
    """All of them as one text, once each reads as documents: errors then name the file and the line."""
    return "\n---\n".join(_read(name) for name in files).encode()


def _read(name: str) -> str:
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


def conclude(
    where: Place, client: Client, answer: dict[str, Any], *, wait: float | None, dry_run: bool = False
) -> None:
    """Wait where that is wanted, tell what changed, and only then fail for those that do not have it."""
    late: RefusedError | None = None
    if wait is not None and not dry_run:
        try:
            status = in_force(client, answer["version"], wait)
            answer["in_sync"] = True
            answer["left"] = [
                name
                for row in status["versions"]
                if row["version"] == answer["version"]
                for name in row["left"]
            ]
        except RefusedError as why:
            if why.said_reason not in {"not-in-sync", "refused"} and why.answered_kind is not Kind.TIMEOUT:
                raise
            answer["in_sync"], late = False, why
    if where.json:
        print_json(answer)
    else:
        _print_changes(answer, dry_run=dry_run)
    if late is not None:
        raise late


def in_force(client: Client, version: int, limit_s: float) -> dict[str, Any]:
    """The status once every engine has ``version``; ``RefusedError`` of kind TIMEOUT after ``limit_s``."""
    answer: dict[str, Any] = client.get(
        path_to("config", "status"),
        {"wait": version, "timeout": f"{limit_s:g}"},
        timeout_s=limit_s + ANSWER_MARGIN_S,
    )
    return answer


def _print_changes(answer: dict[str, Any], *, dry_run: bool) -> None:
    counts = [f"{len(answer.get(change, ()))} {change}" for change in CHANGES if answer.get(change)]
    for change in CHANGES[:-1]:
        for name in answer.get(change, ()):
            click.echo(f"{change}  {text_of(name)}")
    for one in answer.get("warnings", ()):
        place = f"{one['kind']} {one['name']}: {one['path']}"
        click.echo(f"warning: {text_of(place)}: {text_of(one['why'])}", err=True)
    what = ", ".join(counts) or "no object changes"
    if dry_run:
        print_engines(answer.get("service_engines", ()))
        click.echo(f"Dry run: {what}. Nothing was changed.")
        return
    click.echo(f"Version {answer['version']}: {what}.")
    if answer.get("in_sync"):
        click.echo("Every service engine that is connected has it.")
    for name in answer.get("left", ()):
        click.echo(f"{text_of(name)} went away without it; it gets it when it comes back.")


def print_engines(engines: Any) -> None:
    """What each engine would be sent."""
    for one in engines:
        said = [f"{word} {_some(one[word])}" for word in ("set", "removed") if one.get(word)]
        click.echo(f"engine {text_of(one['name'])}: {'; '.join(said)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MAX_SHOWN} more" if len(names) > MAX_SHOWN else ""
    return ", ".join(text_of(name) for name in names[:MAX_SHOWN]) + more
