"""The secure channel's figures, each beside its peer in the same run.

    python -m benchmarks.channel [--quick] [--json] [--only PIECE]

- ``file``: a file on the SE to a file on the controller, beside OpenSSH and AsyncSSH (``benchmarks.files``);
- ``forward``: streams through an unmodified ssh's ``-R``, beside sshd (``benchmarks.forward``);
- ``wan``: the file at 70 ms, beside OpenSSH through the same relay (``benchmarks.link``);
- ``latency``: a heartbeat beside a pull on a thin link, beside OpenSSH (``benchmarks.latency``);
- ``sessions``: re-attachment, memory, CPU and traffic of idle SEs, with a simulated fleet (``benchmarks.sessions``).
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

from avinet.units import MIB
from benchmarks import files, forward, latency
from benchmarks.controller import BenchController
from benchmarks.fleet import run
from benchmarks.harness import at_least, at_most, options, report, times_peer
from benchmarks.sessions import FleetRun, Plan

FILE_TARGETS = (("openssh", "OpenSSH", 2.0), ("asyncssh", "AsyncSSH", 5.0))
FORWARD_TARGET = 1.0
WAN_RTT_MS = 70.0
WAN_TARGET = 5.0
SHARE_TARGET = 90.0


@attrs.frozen
class Extent:
    """How much of each."""

    file_bytes: int
    rounds: int
    loads: tuple[forward.Load, ...]
    load_rounds: int
    streams_s: float
    wan_bytes: int
    wan_rounds: int
    pull_s: float
    plan: Plan


QUICK = Extent(
    file_bytes=1024 * MIB, rounds=3, loads=forward.QUICK_LOADS, load_rounds=2, streams_s=1.5, wan_bytes=256 * MIB,
    wan_rounds=2, pull_s=20.0, plan=Plan(fleets=(2000,), idle_s=20.0, logins=200),
)  # fmt: skip
FULL = Extent(
    file_bytes=1024 * MIB, rounds=7, loads=forward.LOADS, load_rounds=5, streams_s=5.0, wan_bytes=1024 * MIB,
    wan_rounds=3, pull_s=60.0, plan=Plan(fleets=(2000, 8000), idle_s=120.0, logins=500),
)  # fmt: skip


def file(extent: Extent, arguments: argparse.Namespace) -> None:
    """Throughput on loopback."""
    with files.folder_for(extent.file_bytes) as folder:
        rates = files.compare(files.Files(folder, extent.file_bytes), extent.rounds, asyncssh=True)
    size = f"{extent.file_bytes // MIB} MiB, best of {extent.rounds}"
    for party, name, times in FILE_TARGETS:
        what = f"file on the SE to file on the controller ({size}), beside {name}"
        report(arguments, what, rates["avinet"], "MiB/s", times_peer(times), peer=rates.get(party))


def forwards(extent: Extent, arguments: argparse.Namespace) -> None:
    """Throughput of reverse forwards."""
    with files.folder_for(MIB) as folder:
        best = forward.compare(files.Files(folder, MIB), extent.loads, extent.load_rounds, extent.streams_s)
    for load, rates in best.items():
        what = f"through an OpenSSH client's -R, {load} (best of {extent.load_rounds}), beside sshd"
        peer = rates.get("openssh")
        report(arguments, what, rates["avinet"], "MiB/s", times_peer(FORWARD_TARGET), peer=peer)


def wan(extent: Extent, arguments: argparse.Namespace) -> None:
    """Throughput at a distance."""
    with files.folder_for(extent.wan_bytes) as folder:
        rates = files.compare(files.Files(folder, extent.wan_bytes), extent.wan_rounds, rtt_ms=WAN_RTT_MS)
    size = f"{extent.wan_bytes // MIB} MiB, best of {extent.wan_rounds}"
    what = f"file at {WAN_RTT_MS:g} ms RTT ({size}), beside OpenSSH"
    report(arguments, what, rates["avinet"], "MiB/s", times_peer(WAN_TARGET), peer=rates.get("openssh"))


def thin(extent: Extent, arguments: argparse.Namespace) -> None:
    """Latency under load."""
    with files.folder_for(MIB) as folder:
        given = files.Files(folder, MIB)
        ours, theirs = latency.avinet(given, extent.pull_s), latency.openssh(given, extent.pull_s)
    link = f"{latency.MBIT:g} Mbit/s, {latency.RTT_MS:g} ms, {latency.BUFFER_MB:g} MiB of buffer"
    during = f"during a pull of {extent.pull_s:g} s on {link}, beside OpenSSH's echo and bulk"
    report(
        arguments, f"heartbeat RTT p99 {during}", ours.p99_ms, "ms", at_most(latency.TARGET_MS),
        peer=None if theirs is None else theirs.p99_ms,
    )  # fmt: skip
    report(
        arguments, f"share of the link that the pull gets {during}", ours.share, "%", at_least(SHARE_TARGET),
        peer=None if theirs is None else theirs.share,
    )  # fmt: skip


def sessions(extent: Extent, arguments: argparse.Namespace) -> int:
    """What a fleet costs a controller."""
    from twisted.internet import reactor

    loop: Any = reactor
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avinet-bench-")))
        controller = BenchController(folder)
        stack.callback(controller.stop)
        fleet_run = FleetRun(loop, controller, extent.plan, arguments)

        async def work() -> None:
            logins = await fleet_run.sshd_logins()
            await fleet_run.set_up()
            await fleet_run.enrolments()
            await fleet_run.first_sessions()
            await fleet_run.sessions_and_memory(logins)
            await fleet_run.idle()
            await fleet_run.leave()

        return run(loop, work())


PIECES: dict[str, Callable[[Extent, argparse.Namespace], None]] = {
    "file": file,
    "forward": forwards,
    "wan": wan,
    "latency": thin,
}
SESSIONS = "sessions"
"""Last, since a reactor runs once."""


def main() -> int:
    """0 when every figure was measured, whether its target was met or not."""
    parser = options("The secure channel beside OpenSSH and AsyncSSH.", (*PIECES, SESSIONS))
    arguments = parser.parse_args()
    chosen = set(arguments.only or (*PIECES, SESSIONS))
    extent = QUICK if arguments.quick else FULL
    for name, piece in PIECES.items():
        if name in chosen:
            piece(extent, arguments)
    return sessions(extent, arguments) if SESSIONS in chosen else 0


if __name__ == "__main__":
    sys.exit(main())
