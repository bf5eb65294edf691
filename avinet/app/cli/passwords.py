"""Asking for passwords: at a terminal twice, from a pipe one line, from a 0600 file; never as an argument."""

import sys
from pathlib import Path
from typing import Any

import click

from avinet.app.cli.asking import at_terminal
from avinet.app.cli.errors import UsageError
from avinet.trust.files import read_private

MAX_LINE_CHARS = 4_096


def password_option(command: Any) -> Any:
    """``--new-password-file``; ``-`` is stdin."""
    return click.option(
        "--new-password-file",
        "file",
        type=click.Path(dir_okay=False, allow_dash=True, path_type=Path),
        help="A 0600 file with the password, or - for a line of stdin; asked for without it.",
    )(command)


def new_password(file: Path | None, whose: str) -> str:
    """The new password of ``whose``."""
    if file is not None and str(file) != "-":
        return read_private(file).decode("utf-8", "replace").rstrip("\r\n")
    if file is None and at_terminal():
        asked: str = click.prompt(
            f"New password of {whose}", hide_input=True, confirmation_prompt="Once more", err=True
        )
        return asked
    return line_of_stdin("--new-password-file FILE, or a password on stdin")


def password_of(user: str) -> str:
    """A password that exists: asked for at a terminal, else a line of stdin."""
    if at_terminal():
        asked: str = click.prompt(f"Password of {user}", hide_input=True, err=True)
        return asked
    return line_of_stdin("a password on stdin, where there is no terminal")


def line_of_stdin(needed: str) -> str:
    """One line, without its end."""
    line = "" if sys.stdin is None or sys.stdin.closed else sys.stdin.readline(MAX_LINE_CHARS)
    password = line.rstrip("\r\n")
    if not password:
        raise UsageError(what=f"this needs {needed}")
    return password
