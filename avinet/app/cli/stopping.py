"""``avinet se stop``: end an SE's agent or its data plane on this machine."""

import os
import signal
import time
from pathlib import Path
from typing import ClassVar

import click

from avinet.app.cli.context import Command, Place, examples, place
from avinet.app.cli.errors import UsageError
from avinet.app.cli.output import print_json
from avinet.dataplane.envoy import service_of_data_plane, stop_data_plane
from avinet.dataplane.processes import ProcessId, identify, send_signal
from avinet.errors import AvinetError, Kind, error
from avinet.se.paths import SePaths, lock_state
from avinet.trust.locks import StateFolderBusyError, StateLock

DEFAULT_SE_STATE = Path("/var/lib/avinet/se")
"""Where the systemd unit keeps an SE's state."""
AGENT_STOP_TIMEOUT_S = 25.0
"""A role stops within 20 s (``avinet.app.role``)."""
POLL_S = 0.05


@error
class AgentStaysError(AvinetError):
    """The agent (process {pid}) of {state} did not end within {limit_s:.0f} s, or was started again; stop its supervisor first (systemctl stop avise)."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    pid: int
    state: Path
    limit_s: float


@error
class AgentRunsError(AvinetError):
    """The agent (process {pid}) of {state} runs and would start its data plane again. Stop both with --agent, or the agent by its supervisor (systemctl stop avise)."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    pid: int
    state: Path


@error
class EnvoySupervisedError(AvinetError):
    """Envoy (process {pid}) of {state} is a service of its own, whose manager would start it again. Stop it there: systemctl stop avinet-envoy."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    pid: int
    state: Path


@error
class NoSeStateError(AvinetError):
    """There is no service engine's state in {state}; name its folder with --state."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    state: Path


@examples(
    "avinet se stop --agent",
    "avinet se stop --agent --data-plane --state ./se-1",
)
@click.command(cls=Command)
@click.option("--data-plane", is_flag=True, help="End Envoy: traffic through this engine stops.")
@click.option("--agent", is_flag=True, help="End the agent: traffic goes on.")
@click.option(
    "--state",
    type=click.Path(file_okay=False, path_type=Path),
    default=DEFAULT_SE_STATE,
    show_default=True,
    help="The SE's state folder.",
)
@place
def stop(where: Place, data_plane: bool, agent: bool, state: Path) -> None:  # noqa: FBT001 - click passes by name
    """End a service engine's parts on this machine.

    An agent's end, wanted or not, leaves its data plane running; this is how to end that too. Where Envoy is
    a service of its own, its manager ends it: systemctl stop avinet-envoy.
    """
    if not (data_plane or agent):
        raise UsageError(what="say what to stop: --data-plane, --agent or both")
    if not state.is_dir():
        raise NoSeStateError(state=state)
    ended: dict[str, int | None] = {}
    supervised = service_of_data_plane(state / "data-plane") if data_plane else None
    if supervised is not None:
        raise EnvoySupervisedError(pid=supervised, state=state)
    running = agent_of(state)
    if agent:
        ended["agent"] = None if running is None else _end_agent(state, running)
    elif running is not None:
        raise AgentRunsError(pid=running.pid, state=state)
    if data_plane:
        lock = _locked(state)
        try:
            ended["data_plane"] = stop_data_plane(state / "data-plane")
        finally:
            lock.release()
    if where.json:
        print_json(ended)
        return
    for part, pid in ended.items():
        name = part.replace("_", " ").capitalize()
        click.echo(f"{name}: {'was not running' if pid is None else f'process {pid} was ended'}.")


def agent_of(state: Path) -> ProcessId | None:
    """The agent that works with ``state``: who is named in ``se.pid`` and holds the folder's lock."""
    try:
        lock = lock_state(SePaths(state))
    except StateFolderBusyError as busy:
        for text in (busy.pid, _read(state / "se.pid")):
            if text.isdigit() and (process := identify(int(text))) is not None:
                return process
        raise
    lock.release()
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _end_agent(state: Path, process: ProcessId) -> int:
    send_signal(process, signal.SIGTERM)
    deadline = time.monotonic() + AGENT_STOP_TIMEOUT_S
    while process.alive and time.monotonic() < deadline:
        time.sleep(POLL_S)
    if process.alive:
        raise AgentStaysError(pid=process.pid, state=state, limit_s=AGENT_STOP_TIMEOUT_S)
    return process.pid


def _locked(state: Path) -> StateLock:
    """Keep agents out while Envoy ends."""
    try:
        return lock_state(SePaths(state))
    except StateFolderBusyError as busy:
        pid = int(busy.pid) if busy.pid.isdigit() else os.getpid()
        raise AgentRunsError(pid=pid, state=state) from busy
