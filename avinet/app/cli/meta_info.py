"""What an operator is told, once, about a token: the meta-info, where it goes, and what to run on the machine."""

import contextlib
import json
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from avinet.app.cli.out_file import OutFile
from avinet.errors import AvinetError, error

Command = Callable[..., Any]


@error
class MetaInfoLostError(AvinetError):
    """{done}, but its meta-info could not be written to {path}: {why}. The token is lost. {remedy}"""

    done: str
    path: Path
    why: str
    remedy: str


def meta_info_option(command: Command) -> Command:
    """``--out FILE``."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write the meta-info (with the token) to this file, 0600, instead of showing it.",
    )(command)


def place_of(out: Path | None) -> contextlib.AbstractContextManager[OutFile | None]:
    """Where the meta-info will go; entered before the API is asked, so that a wrong FILE changes nothing."""
    return contextlib.nullcontext() if out is None else OutFile.beside(out)


def keep_meta_info(meta: dict[str, Any], out: OutFile | None, *, done: str, remedy: str) -> None:
    """Write it, if it goes to a file; a failure says what was ``done`` by then, and the ``remedy``."""
    if out is None:
        return
    try:
        out.file.write(text_of(meta).encode())
        out.keep()
    except OSError as why:
        raise MetaInfoLostError(
            done=done, path=out.path, why=why.strerror or str(why), remedy=remedy
        ) from why


def text_of(meta: dict[str, Any]) -> str:
    """As it stands in the file."""
    return json.dumps(meta, indent=2) + "\n"


def show_meta_info(meta: dict[str, Any], out: Path | None) -> None:
    """Tell a person where ``meta`` is, or what it is, and the steps that follow."""
    if out is None:
        sys.stdout.flush()
        click.echo(
            "Its meta-info, with the token that is shown only now; keep it as meta-info.json (or use --out):\n"
        )
        click.echo(text_of(meta))
    else:
        click.echo(f"Its meta-info, with the token, is in {out}.")
    here = Path("meta-info.json") if out is None else out
    click.echo(STEPS.format(here=shlex.quote(str(here)), there=shlex.quote(here.name), token=id_of(meta)))


def id_of(meta: dict[str, Any]) -> str:
    """The token's id, as lists show it: the middle of ``avt1.<id>.<secret>``."""
    return str(meta["token"]).split(".")[1]


STEPS = """\
To make a machine (Debian 12 or the like, Python 3.11 or later) a service engine:

  1. Here, once for many machines:
       avinet image build --out avinet-se.tar
  2. Copy avinet-se.tar and {here} to the machine; both hold secrets, so keep them 0600.
  3. There, as root, where the two files are:
       tar -xOf avinet-se.tar install.sh | sh -s -- avinet-se.tar {there}
     which installs avinet, puts the two files in /var/lib/avinet/boot, and starts avise.service.
     Or, without systemd, as any user:
       mkdir -p ~/avinet-se/boot && tar -xf avinet-se.tar -C ~/avinet-se/boot
       python3 -m venv ~/avinet-se/venv
       ~/avinet-se/venv/bin/pip install -r ~/avinet-se/boot/requirements.txt ~/avinet-se/boot/avinet-*.whl
       ~/avinet-se/venv/bin/twistd -n avise --image avinet-se.tar --meta-info {there} --state ~/avinet-se/state
  4. Here: avinet se list

The token counts from now and ends by itself; an unused one is withdrawn by: avinet se token revoke {token}"""
