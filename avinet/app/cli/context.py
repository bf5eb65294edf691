"""What every command has: where the controller is, whether JSON is wanted, and how its errors end the process.

``--json`` is an option of every group and command, so it may stand anywhere on the line.  With it an error is a document,
too, on stderr: ``{"error": {"reason": ..., "detail": ..., facts}}``.
"""

import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import attrs
import click

from avinet.app.cli.client import Client
from avinet.app.cli.errors import (
    FAILED,
    INTERRUPTED,
    EndedError,
    NotHereError,
    ReaderGoneError,
    RefusedError,
    UsageError,
    exit_status,
    facts_of,
)
from avinet.app.cli.output import json_of, visible
from avinet.app.cli.pin import read_login
from avinet.errors import AvinetError
from avinet.trust.files import read_private
from avinet.trust.node import ControllerPaths

DEFAULT_STATE = Path("/var/lib/avinet/controller")
"""Where the systemd unit keeps a controller's state."""
MAX_SHOWN_PROBLEMS = 20
MAX_SENTENCE_CHARS = 300


@attrs.define
class Place:
    """Which controller the command is about: ``--state``'s, unless ``--api`` or a login names another machine's."""

    state: Path = DEFAULT_STATE
    api: str | None = None
    ca: Path | None = None
    user: str | None = None
    password_file: Path | None = None
    json: bool = False
    state_given: bool = True
    """Whether ``--state`` or AVINET_STATE said so; the login counts only where neither they nor ``--api`` did."""

    def client(self) -> Client:
        """The API, by UNIX socket or TLS, or by what ``avinet login`` kept."""
        if self.api is None and not self.state_given and (login := read_login()) is not None:
            return Client.pinned(login)
        if self.api is None:
            return Client.unix(ControllerPaths(self.state).api_socket)
        password = None
        if self.password_file is not None:
            password = read_private(self.password_file).decode("utf-8", "replace").strip()
        elif self.user is not None:
            password = os.environ.get("AVINET_PASSWORD")
            if password is None:
                raise UsageError(what="--user needs --password-file FILE (or AVINET_PASSWORD)")
        return Client.tls(self.api, self.ca, self.user, password)

    def local_state(self, what: str) -> ControllerPaths:
        """The controller's own files, which ``what`` needs."""
        if self.api is not None:
            raise UsageError(what=f"{what} works on the controller's machine: use --state, not --api")
        self.state_given = True  # a login may be for another controller than the one whose files these are
        return ControllerPaths(self.state)

    def local_keys(self, what: str) -> ControllerPaths:
        """``local_state`` for what is no use on another machine, logged in or not: ``NotHereError``."""
        given = self.state_given
        paths = self.local_state(what)
        if any(map(_may_exist, (paths.cluster, paths.api_socket))):
            return paths
        login = None if given else read_login()
        advice = "Say where it is with --state DIR (AVINET_STATE)."
        if login is not None:
            advice = (
                f"You are logged in to {login.url}; run it on that machine, with --state DIR (AVINET_STATE)."
            )
        raise NotHereError(what=what, state=self.state, advice=advice)


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # not ours to look at; who opens it is told why


place = click.make_pass_decorator(Place, ensure=True)


def _json_option() -> click.Option:
    def chosen(context: click.Context, option: click.Parameter, value: bool) -> None:  # noqa: FBT001 - click's
        if value:
            context.ensure_object(Place).json = True

    return click.Option(
        ["--json"], is_flag=True, expose_value=False, callback=chosen, help="Answer in JSON, for programs."
    )


class PlainCommand(click.Command):
    """A command whose answer is no document, such as a terminal."""

    def get_short_help_str(self, limit: int = 45) -> str:
        """Its whole first sentence: a list of commands wraps rather than cuts it."""
        return super().get_short_help_str(limit=MAX_SENTENCE_CHARS)


class Command(PlainCommand):
    """A command with ``--json``, whose help keeps its examples as they are written."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_json_option())


class Group(click.Group):
    """A group of such commands."""

    command_class = Command

    def __init__(self, *args: Any, later: Mapping[str, str] = {}, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(_json_option())
        self.later = later
        """Commands by name, each as ``module:attribute``: loaded when they are asked for, so that one does not wait for what
        another needs.  Twisted with SSH takes as long as all the rest.
        """

    def list_commands(self, context: click.Context) -> list[str]:
        """Click's."""
        return sorted({*self.commands, *self.later})

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """Click's."""
        if name in self.later and name not in self.commands:
            module, _, attribute = self.later[name].partition(":")
            self.add_command(getattr(import_module(module), attribute), name)
        return super().get_command(context, name)

    def get_short_help_str(self, limit: int = 45) -> str:
        """As a command's."""
        return super().get_short_help_str(limit=MAX_SENTENCE_CHARS)


class Root(Group):
    """The program: whatever goes wrong below it is one or two lines on stderr and an exit status."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run a command line and exit; click's own signature."""
        if not kwargs.get("standalone_mode", True):
            return super().main(*args, **kwargs)
        kwargs["standalone_mode"] = False
        _open_standard_streams()
        where = kwargs.setdefault("obj", Place())
        words = list(args[0] if args else kwargs.get("args") or sys.argv[1:])
        try:
            status = super().main(*args, **kwargs)
            sys.stdout.flush()
        except click.ClickException as failure:
            _end_usage(failure, in_json=where.json or "--json" in words)
        except (click.Abort, KeyboardInterrupt):
            _end(where, ["interrupted"], INTERRUPTED, "interrupted")
        except (EndedError, AvinetError) as failure:
            _fail(where, failure)
        except (BrokenPipeError, ReaderGoneError):
            # Whoever read our output has gone, as in `... | head`; nothing more may be written, not even at exit.
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            sys.exit(FAILED)
        except OSError as failure:
            line = f"{failure.strerror or failure}: {failure.filename or 'no file'}"
            _end(where, [line], FAILED, "os-error")
        except Exception as failure:
            if os.environ.get("AVINET_DEBUG"):
                raise
            hint = "This is a defect of avinet; AVINET_DEBUG=1 shows where."
            _end(where, [f"{type(failure).__name__}: {failure}", hint], FAILED, "defect")
        else:
            sys.exit(status if isinstance(status, int) else 0)


def _open_standard_streams() -> None:
    """Python has None for a stream that was closed (``>&-``), and whatever is opened next would get its number."""
    for number, name in ((1, "stdout"), (2, "stderr")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_WRONLY)
            os.dup2(descriptor, number)
            setattr(sys, name, os.fdopen(number, "w"))


def lines_of(failure: AvinetError) -> list[str]:
    """What a person reads about ``failure``."""
    lines = [line.strip() for line in str(failure).splitlines()] or [failure.reason]
    if isinstance(failure, RefusedError) and failure.reason == "unauthenticated":
        lines.append(
            "Log in: avinet login URL; or use --user and --password-file (a file that holds the password)."
        )
    return lines[: MAX_SHOWN_PROBLEMS + 1]


def _end_usage(failure: click.ClickException, *, in_json: bool) -> NoReturn:
    if in_json:
        _end_in_json({"reason": "usage", "detail": failure.format_message()}, failure.exit_code)
    failure.show()
    sys.exit(failure.exit_code)


def _fail(where: Place, ended: EndedError | AvinetError) -> NoReturn:
    if isinstance(ended, EndedError):
        failure, status = ended.failure, ended.status
    else:
        failure, status = ended, exit_status(ended)
    if where.json:
        _end_in_json(facts_of(failure), status)
    _end(where, lines_of(failure), status, failure.reason)


def _end(where: Place, lines: list[str], status: int, reason: str) -> NoReturn:
    if where.json:
        _end_in_json({"reason": reason, "detail": " ".join(lines)}, status)
    for number, line in enumerate(lines):
        click.echo(visible(f"avinet: {line}" if number == 0 else f"  {line}"), err=True)
    sys.exit(status)


def _end_in_json(facts: dict[str, Any], status: int) -> NoReturn:
    click.echo(json_of({"error": facts}, indent=2), err=True)
    sys.exit(status)


def examples(*lines: str) -> Callable[[Any], Any]:
    """Add examples to a command's help, each on a line of its own."""

    def add(command: click.Command) -> click.Command:
        command.epilog = "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
        return command

    return add
