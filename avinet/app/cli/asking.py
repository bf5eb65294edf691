"""Asking before something cannot be had back: on a terminal only, and never decided by how the answer is printed."""

import sys
from collections.abc import Callable
from typing import Any

import click

from avinet.app.cli.errors import UsageError

Command = Callable[..., Any]


def yes_option(command: Command) -> Command:
    """``--yes``."""
    return click.option("--yes", is_flag=True, help="Do not ask.")(command)


def at_terminal() -> bool:
    """Whether somebody is there to ask: both what is typed and what is asked go by a terminal."""
    return all(stream is not None and stream.isatty() for stream in (sys.stdin, sys.stderr))


def ask(question: str, *, yes: bool, needs_yes: str = "") -> None:
    """Go on when ``yes`` or when somebody says so; ``click.Abort`` when not.

    With nobody to ask, what ``needs_yes`` names is refused; without it, the command goes on.
    """
    if yes:
        return
    if at_terminal():
        click.confirm(question, abort=True, err=True)
    elif needs_yes:
        raise UsageError(
            what=f"{needs_yes} needs --yes where nobody can be asked (no terminal); nothing was changed"
        )
