"""``avinet se copy``: files to and from an SE, by the system's scp through the reverse forward."""

import shutil
import subprocess
from typing import ClassVar

import attrs
import click

from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.remote import reach
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import CommandClass
from avinet.ssh.commands import USER
from avinet.ssh.remote import Target


@error
class ScpMissingError(AvinetError):
    """This machine has no scp. Install openssh-client (9.0 or later)."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@attrs.frozen
class _Side:
    engine: str
    """Empty for this machine."""
    path: str


def _side(text: str) -> _Side:
    """``ENGINE:PATH``; a slash before the colon makes it a path of this machine, as scp has it."""
    engine, colon, path = text.partition(":")
    if not colon or "/" in engine or not engine:
        return _Side("", text)
    return _Side(engine, path)


def scp_line(scp: str, target: Target, known_hosts: str) -> list[str]:
    """scp and its options, before what is to be copied."""
    options = (
        "BatchMode=yes", "IdentitiesOnly=yes", "IdentityAgent=none", "StrictHostKeyChecking=yes",
        f"UserKnownHostsFile={known_hosts}", "GlobalKnownHostsFile=/dev/null",
    )  # fmt: skip
    line = [scp, "-F", "none", "-i", str(target.id_se_path), "-P", str(target.port)]
    for option in options:
        line += ["-o", option]
    return line


@examples(
    "avinet se copy support.sh se-1:",
    "avinet se copy se-1:trace.pcap .",
    "avinet se copy -r se-1:bundle ./bundle",
)
@click.command("copy", cls=Command)
@click.option("-r", "--recursive", is_flag=True, help="Folders with all that is in them.")
@click.argument("source")
@click.argument("destination")
@place
def copy(where: Place, source: str, destination: str, recursive: bool) -> int:  # noqa: FBT001 - click's
    """Copy SOURCE to DESTINATION; one of them is ENGINE:PATH, within the engine's folder for files.

    The exit status is scp's own.
    """
    if where.json:
        raise UsageError(what="avinet se copy shows scp's progress and has no JSON")
    sides = (_side(source), _side(destination))
    engines = [side.engine for side in sides if side.engine]
    if len(engines) != 1:
        raise UsageError(what="one of SOURCE and DESTINATION must be ENGINE:PATH, and only one")
    scp = shutil.which("scp")
    if scp is None:
        raise ScpMissingError
    target = reach(where, engines[0], "avinet se copy", CommandClass.FILES)
    known_hosts = str(where.local_state("avinet se copy").known_hosts)
    named = [f"{USER}@{target.address}:{side.path}" if side.engine else side.path for side in sides]
    flags = ["-r"] if recursive else []
    return subprocess.run([*scp_line(scp, target, known_hosts), *flags, "--", *named], check=False).returncode
