"""Three controllers under faults: what is broken, for how long nothing could be written, and what did not hold afterwards.

    python -m benchmarks.faults [--quick] [--json] [--only CASE ...]

Each case breaks something under the load of ``benchmarks.fault_load``, mends it, waits until all is whole, and checks.  As root:
each controller has a network namespace, and partitions are nftables' in it.  Clocks are those of the controllers' processes: a
machine has one, and etcd keeps it.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.threads import deferToThread

from avinet.app.demo.plan import ControllerPlan
from avinet.errors import AvinetError
from benchmarks.fault_kinds import FULL, QUICK, Breaks, Lengths
from benchmarks.fault_load import Load
from benchmarks.fleet import run
from benchmarks.harness import at_most, options, progress, report
from benchmarks.processes import clean_up_on_sigterm, until
from benchmarks.trio import Trio

BEFORE_S, AFTER_S = 2.0, 4.0
"""Of load around a fault."""
WHOLE_LIMIT_S = 60.0
RESTARTS_S = 20.0
"""Of some controllers within a case, about."""
SETTINGS = "[control]\nheartbeat_interval_s = 2.0\n[logs]\nfree_gib = 0.02\n"
"""A disk that is small enough to be filled would take no logs from the beginning."""


@attrs.define(eq=False)
class Faults:
    """One run."""

    arguments: argparse.Namespace
    trio: Trio
    reactor: Any
    breaks: Breaks
    load: Load = attrs.field(init=False)
    wrong: int = attrs.field(default=0, init=False)

    async def run(self, cases: list[str]) -> None:
        """One after the other, on one cluster."""
        await deferToThread(self.trio.start)
        if self.trio.namespaces is None:
            raise RuntimeError("faults need a network namespace for each controller: run as root")
        with contextlib.ExitStack() as stack:
            self.load = Load(self.reactor, self.trio)
            await self.load.set_up(stack)
            for turn, case in enumerate(cases):
                await self._case(turn, case, CASES[case])
            await self.load.fleet.stop()

    async def _case(self, turn: int, case: str, fault: "Fault") -> None:
        load = self.load
        progress("{case}", case=case)
        begun = time.monotonic()
        with load.going_on(
            f"{turn} {case}", BEFORE_S + fault.lasts(self.breaks.lengths) + AFTER_S
        ) as histories:
            await self.breaks.pause(BEFORE_S)
            await fault.happens(self.breaks)
            await self.breaks.pause(AFTER_S)
        await deferToThread(until, self._whole, WHOLE_LIMIT_S, f"all whole after {case}")
        await load.change_for_all(turn)
        gap = load.writers.longest_gap(begun, time.monotonic())
        found = await load.wrong(histories)
        for what in found:
            progress("{case}: {what}", case=case, what=what)
        self.wrong += len(found)
        report(self.arguments, f"{case}: longest time without an accepted write", gap, "s")
        report(self.arguments, f"{case}: what did not hold afterwards", len(found), "", at_most(0))

    def _whole(self) -> bool:
        for one in self.trio.controllers:
            roles = self.trio.roles(one)
            if sorted(roles.values()) != ["follower", "follower", "leader"]:
                return False
            try:
                if self.trio.client_of(one).get("/readyz").get("status") != "ok":
                    return False
            except AvinetError:
                return False
        return True


@attrs.frozen
class Fault:
    """What happens, and how long that takes."""

    happens: Callable[[Breaks], Awaitable[None]]
    lasts: Callable[[Lengths], float] = lambda lengths: lengths.fault_s


async def _one_way(breaks: Breaks) -> None:
    leader = await breaks.leader()
    await breaks.parted((leader, breaks.trio.others(leader)[0]))


async def _pair(breaks: Breaks) -> None:
    leader = await breaks.leader()
    other = breaks.trio.others(leader)[0]
    await breaks.parted((leader, other), (other, leader))


async def _followers(breaks: Breaks) -> None:
    one, other = breaks.trio.others(await breaks.leader())
    await breaks.parted((one, other), (other, one))


def _leaders(
    what: Callable[[Breaks, ControllerPlan], Awaitable[None]],
) -> Callable[[Breaks], Awaitable[None]]:
    async def happens(breaks: Breaks) -> None:
        await what(breaks, await breaks.leader())

    return happens


def _followers_own(
    what: Callable[[Breaks, ControllerPlan], Awaitable[None]],
) -> Callable[[Breaks], Awaitable[None]]:
    async def happens(breaks: Breaks) -> None:
        await what(breaks, await breaks.follower())

    return happens


async def _leaders_disk(breaks: Breaks) -> None:
    await breaks.disk_full(await breaks.leader(), leads=True)


def _with_restarts(lengths: Lengths) -> float:
    return lengths.fault_s + RESTARTS_S


CASES = {
    "leader killed": Fault(_leaders(Breaks.killed)),
    "follower killed": Fault(_followers_own(Breaks.killed)),
    "leader's etcd killed": Fault(_leaders(Breaks.etcd_killed)),
    "follower's etcd killed": Fault(_followers_own(Breaks.etcd_killed)),
    "leader frozen": Fault(_leaders(Breaks.frozen)),
    "follower frozen": Fault(_followers_own(Breaks.frozen)),
    "leader paused": Fault(_leaders(Breaks.paused)),
    "follower paused": Fault(_followers_own(Breaks.paused)),
    "leader's etcd frozen": Fault(_leaders(Breaks.etcd_frozen)),
    "follower's etcd frozen": Fault(_followers_own(Breaks.etcd_frozen)),
    "leader isolated": Fault(_leaders(Breaks.isolated)),
    "follower isolated": Fault(_followers_own(Breaks.isolated)),
    "leader and one parted": Fault(_pair),
    "followers parted": Fault(_followers),
    "one way lost": Fault(_one_way),
    "power cut": Fault(Breaks.power_cut),
    "leader's disk full": Fault(_leaders_disk, _with_restarts),
    "follower's disk full": Fault(_followers_own(Breaks.disk_full), _with_restarts),
    "clocks apart": Fault(Breaks.clocks_apart, _with_restarts),
    "old disk": Fault(_followers_own(Breaks.old_disk), _with_restarts),
    "flapping": Fault(_followers_own(Breaks.flapping), lambda lengths: lengths.flapping_s),
    "leader flapping": Fault(_leaders(Breaks.flapping), lambda lengths: lengths.flapping_s),
}
SHORT = ("leader killed", "leader paused", "leader isolated", "one way lost", "power cut")
"""What ``--quick`` has: one of each kind."""


def main() -> int:
    """0 when everything held."""
    from twisted.internet import reactor

    loop: Any = reactor
    arguments = options("What holds while controllers fail.", tuple(CASES)).parse_args()
    cases = list(arguments.only or (SHORT if arguments.quick else CASES))
    with tempfile.TemporaryDirectory(prefix="avb-") as folder:
        trio = Trio(Path(folder) / "t", SETTINGS)
        try:
            breaks = Breaks(trio, loop, QUICK if arguments.quick else FULL)
            faults = Faults(arguments, trio, loop, breaks)
            status = run(loop, faults.run(cases))
            return status or int(faults.wrong > 0)
        finally:
            trio.stop()


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main())
