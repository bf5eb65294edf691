"""The figures of configuration and data plane: how soon a change is in force, and what requests notice of it.

    python -m benchmarks.config [--quick] [--json] [--only PIECE ...]

``fleet``: one change for 1,000 simulated engines.  ``services``: one pool of 5,000 virtual services over 100 engines.
``many``: 500 virtual services at once on a real engine.  ``load``: changes while requests go through.  ``rate``: beside
a bare Envoy.  ``failover``: a real engine killed.
"""

import argparse
import contextlib
import random
import socket
import sys
import tempfile
from pathlib import Path
from typing import Any

import attrs

from avinet.dataplane.envoy_binary import EnvoyMissingError, EnvoyUnusableError, find_envoy
from benchmarks.config_engines import Engines, Plan
from benchmarks.config_fleets import Changing
from benchmarks.controller import BenchController
from benchmarks.fleet import run
from benchmarks.harness import options, progress
from benchmarks.real_engine import QuickController

FLEET_P99_S = 1.0
SERVICES_P99_S = 0.3
SERVICES_BYTES = 2.0
PORTS = 700
PORTS_AMONG = (10_000, 19_800)
"""Below the kernel's range for outgoing connections, and what tests and demos take."""
REAL = ("many", "load", "rate", "failover")

FULL = Plan(services=500, changes=100, rounds=9, round_s=5.0, kills=10)
QUICK = Plan(services=500, changes=100, rounds=5, round_s=2.0, kills=3)
FLEET_CHANGES, QUICK_FLEET_CHANGES = 100, 25


@attrs.frozen
class Fleets:
    """The sizes of what is simulated."""

    arguments: argparse.Namespace
    folder: Path
    changes: int

    async def run(self, reactor: Any, pieces: set[str]) -> None:
        """One after the other, each with a controller of its own."""
        for piece, engines, services, p99_s, ratio in (
            ("fleet", 1_000, 0, FLEET_P99_S, None),
            ("services", 100, 5_000, SERVICES_P99_S, SERVICES_BYTES),
        ):
            if piece not in pieces:
                continue
            controller = BenchController(self.folder / piece)
            try:
                changing = Changing(reactor, controller, engines, services, self.changes)
                await changing.set_up()
                await changing.measure(self.arguments, p99_s, ratio)
                await changing.leave()
            finally:
                controller.stop()


def engines(arguments: argparse.Namespace, folder: Path, pieces: list[str]) -> None:
    """What needs real ones."""
    if not pieces:
        return
    try:
        find_envoy()
    except (EnvoyMissingError, EnvoyUnusableError) as why:
        progress("without real engines: {why}", why=str(why))
        return
    plan = QUICK if arguments.quick else FULL
    found = Engines(QuickController(folder / "r"), arguments, plan, free_block())
    with found.running():
        found.run(pieces)


def free_block() -> int:
    """The first of ``PORTS`` free ports in a row."""
    for first in random.sample(range(*PORTS_AMONG, PORTS), k=(PORTS_AMONG[1] - PORTS_AMONG[0]) // PORTS):
        if all(map(is_free, range(first, first + PORTS))):
            return first
    raise RuntimeError(f"there are no {PORTS} free ports in a row")


def is_free(port: int) -> bool:
    """On loopback."""
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def main() -> int:
    """0 when every figure was measured, whether its target was met or not."""
    from twisted.internet import reactor

    loop: Any = reactor
    pieces = ("fleet", "services", *REAL)
    arguments = options("How soon a change is in force, and what requests notice.", pieces).parse_args()
    wanted = set(arguments.only or pieces)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avb-")))
        engines(arguments, folder, [piece for piece in REAL if piece in wanted])
        if wanted & {"fleet", "services"}:
            changes = QUICK_FLEET_CHANGES if arguments.quick else FLEET_CHANGES
            return run(loop, Fleets(arguments, folder, changes).run(loop, wanted))
    return 0


if __name__ == "__main__":
    sys.exit(main())
