"""``avinet se copy``: files to and from an SE, by the system's scp through the reverse forward."""

import collections
import shutil
import stat
import subprocess
from pathlib import Path
from typing import ClassVar

import attrs
import click

from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import FileError, UsageError
from avinet.app.cli.output import visible
from avinet.app.cli.remote import reach
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import CommandClass
from avinet.ssh.commands import USER
from avinet.ssh.remote import Target

MAX_SAID_LINES, MAX_LINE_CHARS = 20, 4096
"""Of scp's stderr, to tell what went wrong; a copy of many files may say something of each."""


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
    """Copy SOURCE to DESTINATION; one of them is ENGINE:PATH.

    PATH begins in the engine's folder for files, an absolute one too, and nothing outside is reached.

    The exit status is scp's own.
    """
    if where.json:
        raise UsageError(what="avinet se copy shows scp's progress and has no JSON")
    from_, to = _side(source), _side(destination)
    if bool(from_.engine) == bool(to.engine):
        raise UsageError(what="one of SOURCE and DESTINATION must be ENGINE:PATH, and only one")
    engine = from_.engine or to.engine
    if not from_.engine:
        _look_at(Path(source), recursive=recursive)
    scp = shutil.which("scp")
    if scp is None:
        raise ScpMissingError
    target = reach(where, engine, "avinet se copy", CommandClass.FILES)
    known_hosts = str(where.local_state("avinet se copy").known_hosts)
    named = [f"{USER}@{target.address}:{side.path}" if side.engine else side.path for side in (from_, to)]
    flags = ["-r"] if recursive else []
    status, said = _run([*scp_line(scp, target, known_hosts), *flags, "--", *named])
    if hint := hint_for(said, engine):
        click.echo(f"avinet: {hint}", err=True)
    return status


def _look_at(source: Path, *, recursive: bool) -> None:
    """What scp says less clearly of what is here, and only once there is a connection."""
    try:
        is_folder = stat.S_ISDIR(source.stat().st_mode)
    except OSError as why:
        raise FileError(what="read", path=str(source), why=why.strerror or str(why)) from why
    if is_folder and not recursive:
        raise UsageError(what=f"{source} is a folder: copy it with -r")


def _run(line: list[str]) -> tuple[int, str]:
    """scp's exit status, and the end of what it said on stderr, which is passed on as it comes."""
    said: collections.deque[str] = collections.deque(maxlen=MAX_SAID_LINES)
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, errors="replace") as scp:
        assert scp.stderr is not None  # noqa: S101 - it was asked for
        while one := scp.stderr.readline(MAX_LINE_CHARS):
            click.echo(visible(one), nl=False, err=True)
            said.append(one)
    return scp.returncode, "".join(said)


def hint_for(said: str, engine: str) -> str:
    """What a person who knows scp, but not where its paths lead here, should know about its words."""
    if "not a regular file" in said:
        return "a folder is copied with -r"
    if any("No such file" in line and " local " not in line for line in said.splitlines()):
        return (
            f"paths on {engine} begin in its folder for files, absolute ones too, and nothing outside is reached; "
            f"all that is there: avinet se copy -r {engine}: FOLDER; any other file: avinet se exec {engine} -- cat PATH"
        )
    return ""
