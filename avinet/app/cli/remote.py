"""``avinet se exec`` and ``avinet se ssh``: run something on an SE through its reverse forward.

They work on the controller's machine, with its ``id_se`` and its ``known_hosts``, as
``ssh -i id_se -p 5097 aviseuser@127.1.x.y`` would.
"""

import io
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, cast

import attrs
import click
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from avinet.app.cli.client import path_to
from avinet.app.cli.context import Command, Place, PlainCommand, examples, place
from avinet.app.cli.errors import CUT, INTERRUPTED, NOT_REACHED, EndedError, FileError, UsageError
from avinet.app.cli.output import print_json
from avinet.errors import AvinetError, Kind, error
from avinet.model.config import CommandClass
from avinet.ssh.errors import CommandTimeoutError
from avinet.ssh.remote import ExitStatus, Streams, Target, interactive, run
from avinet.trust.node import ControllerPaths

Work = Callable[[Any], Deferred[ExitStatus]]


@error
class HostKeyUnknownError(AvinetError):
    """The host key of {loopback} is not in {known_hosts}: the engine has not enrolled, or its controller is another one."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    loopback: str
    known_hosts: Path


@error
class NotConnectedError(AvinetError):
    """Service engine {name} is {state}; commands reach it only while it is connected."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    name: str
    state: str


@error
class ClassRefusedError(AvinetError):
    """Service engine {name} does not take {needed}: its group {group} leaves it out of "commands"."""

    kind: ClassVar[Kind] = Kind.DENIED
    name: str
    group: str
    needed: str


def target_of(paths: ControllerPaths, loopback: str) -> Target:
    """How the SE behind ``loopback`` is reached, from the controller's ``known_hosts``."""
    try:
        lines = paths.known_hosts.read_text().splitlines()
    except FileNotFoundError:
        lines = []
    except OSError as why:
        raise FileError(what="read", path=str(paths.known_hosts), why=why.strerror or str(why)) from why
    for line in lines:
        name, _, key = line.partition(" ")
        address, _, port = name.removeprefix("[").partition("]:")
        if address == loopback and port.isdigit():
            return Target(address=loopback, port=int(port), id_se_path=paths.id_se, host_key_line=key.strip())
    raise HostKeyUnknownError(loopback=loopback, known_hosts=paths.known_hosts)


def reach(where: Place, engine: str, what: str, needed: CommandClass) -> Target:
    """How to reach ``engine`` for ``what``; its group must allow the class ``needed``."""
    paths = where.local_keys(what)
    client = where.client()
    row = client.get(path_to("serviceengine", engine))
    if row["state"] not in {"UP", "DISABLED"}:
        raise NotConnectedError(name=row["name"], state=row["state"])
    if needed not in client.get(path_to("serviceenginegroup", row["group"]))["commands"]:
        raise ClassRefusedError(name=row["name"], group=row["group"], needed=needed)
    return target_of(paths, row["loopback"])


@attrs.define
class _Outcome:
    result: Any = None


def in_reactor(work: Work) -> int:
    """Run ``work`` in a reactor of its own; its exit status."""
    from twisted.internet import reactor as installed  # here, since importing it installs it

    reactor: Any = installed
    outcome = _Outcome()

    def finished(result: Any) -> None:
        outcome.result = result
        reactor.stop()

    reactor.callWhenRunning(lambda: work(reactor).addBoth(finished))
    reactor.run()
    if isinstance(outcome.result, Failure):
        outcome.result.raiseException()
    return INTERRUPTED if outcome.result is None else cast("ExitStatus", outcome.result).status


def status_of(work: Work) -> int:
    """The remote command's own status.  What fails on our side of it ends with a status that few commands have."""
    try:
        return in_reactor(work)
    except CommandTimeoutError as why:
        raise EndedError(why, CUT) from why
    except AvinetError as why:
        raise EndedError(why, NOT_REACHED) from why


def line_of(command: tuple[str, ...]) -> str:
    """What the remote shell is given.  Everything after ENGINE comes as it is, a leading ``--`` too: it is ours."""
    words = command[1:] if command[0] == "--" else command
    if not words:
        raise UsageError(what="there is no command after --")
    return words[0] if len(words) == 1 else shlex.join(words)


def _streams() -> Streams:
    """This process's own, unbuffered in both directions."""
    return Streams(
        stdin=None if sys.stdin is None or sys.stdin.closed else sys.stdin.buffer,
        stdout=sys.stdout.buffer,
        stderr=sys.stderr.buffer,
    )


@examples(
    "avinet se exec se-1 uname -a",
    "avinet se exec se-1 -- 'ss -ltn | head'",
    "avinet se exec --timeout 60 se-1 cat < script.sh",
    "avinet se exec --json se-1 uptime",
)
@click.command("exec", cls=Command, context_settings={"allow_interspersed_args": False})
@click.option(
    "--timeout", type=click.FloatRange(min=0, min_open=True), help="Cut it after this many seconds."
)
@click.argument("engine")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@place
def execute(where: Place, engine: str, command: tuple[str, ...], timeout: float | None) -> int:
    """Run COMMAND on ENGINE by its shell.

    One argument is a shell's line; several are quoted so that they arrive as they are.

    The exit status is COMMAND's own; 124 when --timeout was over, 255 when the connection failed or ENGINE refused.
    Before there is a connection it is avinet's: 3 no such engine, 5 it is not connected.
    """
    target = reach(where, engine, "avinet se exec", CommandClass.EXEC)
    line = line_of(command)
    if where.json:
        return _captured(target, line, timeout)
    return status_of(lambda reactor: run(reactor, target, line, _streams(), timeout))


def _captured(target: Target, line: str, timeout: float | None) -> int:
    """Run ``line`` with no input; its whole output and status as JSON."""
    out, err = io.BytesIO(), io.BytesIO()
    status = status_of(lambda reactor: run(reactor, target, line, Streams(None, out, err), timeout))
    texts = {
        "stdout": out.getvalue().decode(errors="replace"),
        "stderr": err.getvalue().decode(errors="replace"),
    }
    print_json({"exit_status": status, **texts})
    return status


@examples("avinet se ssh se-1", "avinet se ssh se-1 top")
@click.command("ssh", cls=PlainCommand, context_settings={"allow_interspersed_args": False})
@click.argument("engine")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
@place
def ssh(where: Place, engine: str, command: tuple[str, ...]) -> int:
    """Open a terminal on ENGINE: a shell, or COMMAND.

    The exit status is its own; 255 when the connection failed.
    """
    if where.json:
        raise UsageError(what="avinet se ssh is a terminal and has no JSON; use avinet se exec --json")
    target = reach(where, engine, "avinet se ssh", CommandClass.INTERACTIVE)
    line = line_of(command) if command else None
    return status_of(lambda reactor: interactive(reactor, target, _streams(), line))
