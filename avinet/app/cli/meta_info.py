"""What an operator is told, once, about a token: the meta-info, where it goes, and what to run on the machine."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from avinet.trust.files import write_private

Command = Callable[..., Any]


def meta_info_option(command: Command) -> Command:
    """``--out FILE``."""
    return click.option(
        "--out",
        type=click.Path(dir_okay=False),
        help="Write the meta-info (with the token) to this file, 0600, instead of showing it.",
    )(command)


def show_meta_info(meta: dict[str, Any], out: str | None, *, quiet: bool) -> None:
    """Hand over ``meta``: to a file, or on stdout with the steps that follow on stderr.  ``quiet`` for JSON."""
    text = json.dumps(meta, indent=2) + "\n"
    if out is not None:
        write_private(Path(out), text.encode())
    if quiet:
        return
    if out is None:
        sys.stdout.flush()
        click.echo("Its meta-info, with the token that is shown only now:\n")
        click.echo(text)
    else:
        click.echo(f"Its meta-info, with the token, is in {out}.")
    click.echo(STEPS.format(meta=out or "meta-info.json"))


STEPS = """\
To make a machine (Debian 12 or the like, Python 3.11 or later) a service engine:

  1. Here, once for many machines:
       avinet image build --out avinet-se.tar
  2. Copy avinet-se.tar and {meta} to the machine; both hold secrets, so keep them 0600.
  3. There, as root:
       tar -xOf avinet-se.tar install.sh | sh -s -- avinet-se.tar {meta}
     which installs avinet, puts the two files in /var/lib/avinet/boot, and starts avise.service.
     Or, without systemd, where avinet is installed already:
       twistd -n avise --image avinet-se.tar --meta-info {meta} --state DIR
  4. Here: avinet se list

The token counts from now and ends by itself; an unused one is withdrawn by: avinet se token revoke"""
