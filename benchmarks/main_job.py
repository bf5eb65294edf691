"""The main job's figures: enrolments and sessions a second, memory and idle traffic an SE, time to the last Ack.

    python -m benchmarks.main_job [--quick] [--json] [--profile FOLDER]

A real controller and a simulated fleet, as ``benchmarks.sessions`` has them.
"""

import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from benchmarks.controller import BenchController
from benchmarks.fleet import ABREAST, run
from benchmarks.harness import at_most, options, quantile
from benchmarks.sessions import POLL_S, SETTLE_S, SYNC_LIMIT_S, FleetRun, Plan

COMMIT_TARGET_S = 1.0
"""Of 1,000 SEs in DESIGN 12; held here with 500."""

FULL = Plan(fleets=(500, 2000), idle_s=60.0, logins=500)
QUICK = Plan(fleets=(250, 500), idle_s=30.0, logins=200)
CHANGES, QUICK_CHANGES = 100, 20


@attrs.define(eq=False)
class MainJob:
    """One run."""

    fleet_run: FleetRun
    changes: int

    async def run(self) -> None:
        """Every figure."""
        fleet_run = self.fleet_run
        logins = await fleet_run.sshd_logins()
        if logins is not None:
            what = f"logins to OpenSSH's sshd, by the same client ({ABREAST} abreast)"
            fleet_run.report(what, logins, "a second")
        await fleet_run.set_up()
        rate, cpu_s = await fleet_run.enrolments()
        abreast = f"{fleet_run.plan.engines} engines, {fleet_run.fleet.abreast} abreast"
        fleet_run.report(f"enrolments, TLS to stored ({abreast})", rate, "a second")
        fleet_run.report("controller CPU an enrolment", cpu_s * 1000, "ms")
        rate = await fleet_run.first_sessions()
        fleet_run.report("first sessions, TCP to first configuration acknowledged", rate, "a second")
        await fleet_run.sessions_and_memory(logins)
        await fleet_run.idle()
        await self._changes()
        await fleet_run.leave()

    async def _changes(self) -> None:
        """Changes that every attached engine must acknowledge."""
        fleet_run, fleet, controller = self.fleet_run, self.fleet_run.fleet, self.fleet_run.controller
        few = fleet_run.plan.fleets[0]
        some = fleet.engines[:few]
        await fleet.detach(fleet.engines[few:])
        await deferLater(fleet_run.reactor, SETTLE_S)
        last_s: list[float] = []
        cpu = controller.cpu_s()
        for _ in range(self.changes):
            version = await deferToThread(controller.apply, fleet_run.change())
            end = time.monotonic() + SYNC_LIMIT_S
            while any(engine.version < version for engine in some):
                if time.monotonic() > end:
                    raise RuntimeError(f"version {version} was not acknowledged by all")
                await deferLater(fleet_run.reactor, POLL_S)
            last_s.append(await self._last_ack(version, len(some)))
        cpu_s = (controller.cpu_s() - cpu) / self.changes
        what = f"config commit to last Ack ({few} engines, {self.changes} changes)"
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            fleet_run.report(f"{what}, {name}", quantile(last_s, share), "s", at_most(COMMIT_TARGET_S))
        fleet_run.report("controller CPU a change for an engine", cpu_s / few * 1000, "ms")

    async def _last_ack(self, version: int, count: int) -> float:
        """As the controller measured it."""
        while True:
            status = await deferToThread(self.fleet_run.controller.client.get, "/api/config/status")
            row = next(row for row in status["versions"] if row["version"] == version)
            if row["last_s"] is not None and row["acks"] >= count:
                return float(row["last_s"])
            await deferLater(self.fleet_run.reactor, POLL_S)


def main() -> int:
    """0 when every figure was measured, whether its target was met or not."""
    from twisted.internet import reactor

    loop: Any = reactor
    parser = options("Enrolments, sessions, memory, idle traffic and configuration with a simulated fleet.")
    parser.add_argument("--profile", type=Path, help="a folder for the controller's cProfile statistics")
    parser.add_argument("--engines", type=int, help="the whole fleet, a multiple of 100")
    parser.add_argument("--changes", type=int, help="of the configuration")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if arguments.engines:
        few = min(plan.fleets[0], arguments.engines // 2)
        plan = attrs.evolve(plan, fleets=(few, arguments.engines))
    changes = arguments.changes or (QUICK_CHANGES if arguments.quick else CHANGES)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avinet-bench-")))
        controller = BenchController(folder, arguments.profile)
        stack.callback(controller.stop)
        fleet_run = FleetRun(loop, controller, plan, arguments)
        return run(loop, MainJob(fleet_run, changes).run())


if __name__ == "__main__":
    sys.exit(main())
