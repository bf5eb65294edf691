"""``avinet login``, ``avinet logout`` and ``avinet completion``."""

import contextlib
import os
import platform
import secrets
from typing import Any

import click
from click.shell_completion import get_completion_class

from avinet.app.cli.asking import at_terminal
from avinet.app.cli.client import Client, path_to
from avinet.app.cli.context import Command, Place, PlainCommand, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.output import moment, print_json
from avinet.app.cli.passwords import password_of
from avinet.app.cli.pin import (
    FINGERPRINT_ADVICE,
    FingerprintError,
    Pinned,
    Root,
    login_path,
    read_login,
    same_fingerprint,
    write_login,
)
from avinet.app.cli.users import TOKEN, seconds_of
from avinet.errors import AvinetError
from avinet.trust.files import read_private

PROGRAM = "avinet"
COMPLETE_VARIABLE = "_AVINET_COMPLETE"


@examples(
    "avinet login https://ctl.example",
    "avinet login https://ctl.example --fingerprint AB:CD:... < password",
)
@click.command(cls=Command)
@click.argument("url")
@click.option(
    "--fingerprint",
    metavar="SHA256",
    help="The root certificate's, as avinet init shows it; compared instead of asked about.",
)
@click.option("--user", default=None, help="Who logs in; asked for without it (admin where nobody can be).")
@click.option("--expires", default="7d", show_default=True, help="How long the login lasts: 12h, 7d.")
@place
def login(where: Place, url: str, fingerprint: str | None, user: str | None, expires: str) -> None:
    """Log in to the controller at URL: later commands need neither --api nor --ca nor a password.

    Its root certificate is shown to be compared with what avinet init showed, and pinned: no other is believed from
    then on. What is kept is an access token, never the password.
    """
    life_s = seconds_of(expires)
    root = _compared(url, fingerprint)
    name = user or where.user or _asked_user()
    client = Client.tls(url, user=name, password=_password(where, name), root=root.pem)
    made = client.post(path_to(TOKEN), {"name": _token_name(), "life_s": life_s})
    row = made["token"]
    path = write_login(
        Pinned(
            url=url,
            root=root.pem,
            fingerprint=root.fingerprint,
            user=row["user"],
            token=made["secret"],
            token_id=row["uuid"],
            expires_at=row["expires_at"],
        )
    )
    if where.json:
        print_json(
            {
                "url": url,
                "user": row["user"],
                "role": row["role"],
                "file": str(path),
                "root": root.fingerprint,
            }
        )
        return
    until = moment(row["expires_at"])
    click.echo(f"Logged in to {url} as {row['user']} ({row['role']}) until {until}.")


def _compared(url: str, wanted: str | None) -> Root:
    """The root certificate at ``url``, once somebody has said that it is the right one."""
    root = Root.of(Client.root_of(url), url)
    if wanted is not None:
        if not same_fingerprint(wanted, root.fingerprint):
            raise FingerprintError(place=url, found=root.fingerprint, wanted=wanted)
        return root
    if not at_terminal():
        raise UsageError(
            what="without a terminal to ask at, say which root is right with --fingerprint SHA256. "
            + FINGERPRINT_ADVICE.removesuffix(".")
        )
    click.echo(
        f"The root certificate at {url} has the SHA-256 fingerprint\n\n  {root.fingerprint}\n", err=True
    )
    click.echo(FINGERPRINT_ADVICE, err=True)
    click.confirm("Is it the same there?", abort=True, err=True)
    return root


def _asked_user() -> str:
    if not at_terminal():
        return "admin"
    name: str = click.prompt("User", default="admin", err=True)
    return name


def _password(where: Place, user: str) -> str:
    if where.password_file is not None:
        return read_private(where.password_file).decode("utf-8", "replace").rstrip("\r\n")
    given = os.environ.get("AVINET_PASSWORD")
    return password_of(user) if given is None else given


def _token_name() -> str:
    """By which the token is known in ``avinet access-token list``: this machine's name."""
    host = "".join(
        letter for letter in platform.node() if letter.isascii() and (letter.isalnum() or letter in ".-")
    )
    return f"login-{host[:40]}-{secrets.token_hex(3)}"


@click.command(cls=Command)
@place
def logout(where: Place) -> None:
    """Forget the login, and end its access token."""
    found = read_login()
    if found is None:
        raise UsageError(what="nobody has logged in here; see: avinet login --help")
    ended, why_not = True, ""
    try:
        Client.pinned(found).delete(path_to(TOKEN, found.token_id))
    except AvinetError as why:
        ended, why_not = False, str(why)
    with contextlib.suppress(FileNotFoundError):
        login_path().unlink()
    if where.json:
        print_json({"url": found.url, "token": found.token_id, "token_ended": ended})
        return
    click.echo(f"Logged out of {found.url}.")
    if not ended:
        click.echo(f"Its access token {found.token_id} could not be ended: {why_not}", err=True)


@examples(
    'eval "$(avinet completion bash)"      # in ~/.bashrc',
    "avinet completion fish > ~/.config/fish/completions/avinet.fish",
)
@click.command(cls=PlainCommand)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what SHELL needs to complete avinet's commands and options."""
    made: Any = get_completion_class(shell)
    root: Any = context.find_root().command
    # Not .source() of bash's class: it runs bash to look at its version, and fails where there is none.
    complete = made(root, {}, PROGRAM, COMPLETE_VARIABLE)
    click.echo(complete.source_template % complete.source_vars())
