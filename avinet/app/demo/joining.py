"""How one of a demo's controllers becomes a member: as an operator does it, a bundle carried from one machine to another."""

import subprocess
import sys
from typing import ClassVar

from avinet.app.demo.plan import ControllerPlan
from avinet.errors import AvinetError, Kind, error

JOIN_TIMEOUT_S = 60.0
"""The state engine takes a new member in 3 s after the last one."""
AVINET = (sys.executable, "-c", "from avinet.app.cli.main import main; main()")
TWISTD = (
    sys.executable,
    "-c",
    "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()",
    "--nodaemon",
)


@error
class JoinFailedError(AvinetError):
    """{name} has not joined: {why}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    name: str
    why: str


def controller_command(one: ControllerPlan) -> tuple[str, ...]:
    """What runs a controller where it belongs."""
    where = ("--state", str(one.state), "--config", str(one.settings))
    return one.inside(*TWISTD, "avicontroller", *where)


def join(first: ControllerPlan, one: ControllerPlan) -> None:
    """Let ``one`` join the cluster of ``first``; blocks."""
    bundle = str(one.bundle)
    try:
        _run(one, (*AVINET, "--state", str(first.state), "cluster", "bundle", "--out", bundle))
        there = ("--state", str(one.state), "cluster", "join", bundle, "--config", str(one.settings))
        _run(one, one.inside(*AVINET, *there))
    finally:
        one.bundle.unlink(missing_ok=True)


def _run(one: ControllerPlan, command: tuple[str, ...]) -> None:
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=JOIN_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as why:
        raise JoinFailedError(name=one.name, why=f"it took over {JOIN_TIMEOUT_S:.0f} s") from why
    if ran.returncode:
        raise JoinFailedError(name=one.name, why=ran.stderr.strip())
