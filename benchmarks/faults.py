"""Three controllers under faults: what is broken, for how long nothing could be written, and what did not hold afterwards.

    python -m benchmarks.faults [--quick] [--json] [--only CASE ...]

Each case breaks something under the load of ``benchmarks.fault_load``, mends it, waits until all is whole, and checks.  As root:
each controller has a network namespace, and partitions are nftables' in it.  Not here: request logs, which
``benchmarks.logs`` has killed under, and clocks, which are one for the whole machine.
"""

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.app.demo.plan import ControllerPlan
from avinet.errors import AvinetError
from benchmarks.fault_load import Load
from benchmarks.fleet import run
from benchmarks.harness import at_most, options, progress, report
from benchmarks.processes import clean_up_on_sigterm, until
from benchmarks.trio import Trio

BEFORE_S, AFTER_S = 2.0, 4.0
"""Of load around a fault."""
WHOLE_LIMIT_S = 60.0
HEARTBEAT = "[control]\nheartbeat_interval_s = 2.0\n"
NFT_LIMIT_S = 10.0
RULES = """table ip faults {
chain input {
type filter hook input priority 0
ip saddr { %s } drop
}
}"""
"""What comes from those addresses is dropped without a word."""


@attrs.frozen
class Lengths:
    """Seconds that faults last."""

    fault_s: float = 30.0
    flapping_s: float = 120.0
    flap_s: float = 5.0


FULL = Lengths()
QUICK = Lengths(fault_s=8.0, flapping_s=20.0, flap_s=2.5)


@attrs.define(eq=False)
class Faults:
    """One run."""

    arguments: argparse.Namespace
    trio: Trio
    reactor: Any
    lengths: Lengths
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
        with load.going_on(case, BEFORE_S + fault.lasts(self.lengths) + AFTER_S) as histories:
            await self._pause(BEFORE_S)
            await fault.happens(self)
            await self._pause(AFTER_S)
        await deferToThread(until, self._whole, WHOLE_LIMIT_S, f"all whole after {case}")
        await load.change_for_all(turn)
        gap = load.writer.longest_gap(begun, time.monotonic())
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

    async def _pause(self, seconds: float) -> None:
        await deferLater(self.reactor, seconds)

    async def leader(self) -> ControllerPlan:
        """Who leads now."""
        return await deferToThread(self.trio.leader)

    async def follower(self) -> ControllerPlan:
        """One that does not."""
        return self.trio.others(await self.leader())[0]

    # What breaks

    async def killed(self, one: ControllerPlan) -> None:
        """SIGKILL, its etcd with it; started again after a while."""
        await deferToThread(self.trio.kill, one)
        await self._pause(self.lengths.fault_s / 4)
        await deferToThread(self.trio.spawn, one)

    async def etcd_killed(self, one: ControllerPlan) -> None:
        """Its state engine alone."""
        os.kill(etcd_of(self.trio.pid(one)), signal.SIGKILL)
        await self._pause(self.lengths.fault_s / 4)

    async def frozen(self, one: ControllerPlan) -> None:
        """SIGSTOP of it and its etcd."""
        etcd = etcd_of(self.trio.pid(one))
        os.kill(etcd, signal.SIGSTOP)
        try:
            with self.trio.frozen(one):
                await self._pause(self.lengths.fault_s)
        finally:
            os.kill(etcd, signal.SIGCONT)

    async def paused(self, one: ControllerPlan) -> None:
        """SIGSTOP of it, while its etcd goes on."""
        with self.trio.frozen(one):
            await self._pause(self.lengths.fault_s)

    async def parted(self, *ways: tuple[ControllerPlan, ControllerPlan]) -> None:
        """Nothing of the first of each way reaches the second."""
        async with self._dropping(*ways):
            await self._pause(self.lengths.fault_s)

    async def isolated(self, one: ControllerPlan) -> None:
        """Nothing between it and the others."""
        await self.parted(*self._around(one))

    async def flapping(self, one: ControllerPlan) -> None:
        """Isolated and back, again and again."""
        end = time.monotonic() + self.lengths.flapping_s
        while time.monotonic() < end:
            async with self._dropping(*self._around(one)):
                await self._pause(self.lengths.flap_s)
            await self._pause(self.lengths.flap_s)

    def _around(self, one: ControllerPlan) -> list[tuple[ControllerPlan, ControllerPlan]]:
        others = self.trio.others(one)
        return [(one, other) for other in others] + [(other, one) for other in others]

    @contextlib.asynccontextmanager
    async def _dropping(self, *ways: tuple[ControllerPlan, ControllerPlan]) -> AsyncIterator[None]:
        at = {there.name: there for _, there in ways}
        for name, there in at.items():
            rules = RULES % ", ".join(source.address for source, one in ways if one.name == name)
            await deferToThread(nft, there, rules)
        try:
            yield
        finally:
            for there in at.values():
                await deferToThread(nft, there, "delete table ip faults")

    async def power_cut(self) -> None:
        """All at once, and all started again."""
        for one in self.trio.controllers:
            os.kill(self.trio.pid(one), signal.SIGKILL)
        for one in self.trio.controllers:
            await deferToThread(self.trio.kill, one)
        await self._pause(1.0)
        for one in self.trio.controllers:
            await deferToThread(self.trio.spawn, one)

    async def old_disk(self, one: ControllerPlan) -> None:
        """It comes back with the state of a while ago; then with what it really had."""
        trio, old, now = self.trio, one.folder / "old", one.folder / "now"
        await deferToThread(trio.kill, one)
        await deferToThread(shutil.copytree, one.state, old, symlinks=True, ignore=_sockets)
        await deferToThread(trio.spawn, one)
        await self._pause(self.lengths.fault_s / 2)
        await deferToThread(trio.kill, one)
        one.state.rename(now)
        old.rename(one.state)
        await deferToThread(trio.spawn, one)
        await self._pause(self.lengths.fault_s / 2)
        await deferToThread(trio.kill, one)
        await deferToThread(shutil.rmtree, one.state)
        now.rename(one.state)
        await deferToThread(trio.spawn, one)


def _sockets(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if name.endswith(".sock")]


def nft(one: ControllerPlan, rules: str) -> None:
    """Where a controller is."""
    command = one.inside("nft", rules)
    ran = subprocess.run(command, capture_output=True, text=True, timeout=NFT_LIMIT_S, check=False)
    if ran.returncode:
        raise RuntimeError(f"nft {rules}: {ran.stderr.strip()}")


def etcd_of(controller: int) -> int:
    """The pid of a controller's etcd."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            after_name = (entry / "stat").read_text().rpartition(")")[2].split()
            if int(after_name[1]) == controller and (entry / "comm").read_text().strip() == "etcd":
                return int(entry.name)
    raise RuntimeError(f"process {controller} has no etcd")


@attrs.frozen
class Fault:
    """What happens, and how long that takes."""

    happens: Callable[[Faults], Awaitable[None]]
    lasts: Callable[[Lengths], float] = lambda lengths: lengths.fault_s


async def _one_way(faults: Faults) -> None:
    leader = await faults.leader()
    await faults.parted((leader, faults.trio.others(leader)[0]))


async def _pair(faults: Faults) -> None:
    leader = await faults.leader()
    other = faults.trio.others(leader)[0]
    await faults.parted((leader, other), (other, leader))


async def _followers(faults: Faults) -> None:
    one, other = faults.trio.others(await faults.leader())
    await faults.parted((one, other), (other, one))


def _leaders(
    what: Callable[[Faults, ControllerPlan], Awaitable[None]],
) -> Callable[[Faults], Awaitable[None]]:
    async def happens(faults: Faults) -> None:
        await what(faults, await faults.leader())

    return happens


def _followers_own(
    what: Callable[[Faults, ControllerPlan], Awaitable[None]],
) -> Callable[[Faults], Awaitable[None]]:
    async def happens(faults: Faults) -> None:
        await what(faults, await faults.follower())

    return happens


CASES = {
    "leader killed": Fault(_leaders(Faults.killed)),
    "follower killed": Fault(_followers_own(Faults.killed)),
    "leader's etcd killed": Fault(_leaders(Faults.etcd_killed)),
    "follower's etcd killed": Fault(_followers_own(Faults.etcd_killed)),
    "leader frozen": Fault(_leaders(Faults.frozen)),
    "follower frozen": Fault(_followers_own(Faults.frozen)),
    "leader paused": Fault(_leaders(Faults.paused)),
    "leader isolated": Fault(_leaders(Faults.isolated)),
    "follower isolated": Fault(_followers_own(Faults.isolated)),
    "leader and one parted": Fault(_pair),
    "followers parted": Fault(_followers),
    "one way lost": Fault(_one_way),
    "power cut": Fault(Faults.power_cut),
    "old disk": Fault(_followers_own(Faults.old_disk)),
    "flapping": Fault(_followers_own(Faults.flapping), lambda lengths: lengths.flapping_s),
    "leader flapping": Fault(_leaders(Faults.flapping), lambda lengths: lengths.flapping_s),
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
        trio = Trio(Path(folder) / "t", HEARTBEAT)
        try:
            faults = Faults(arguments, trio, loop, QUICK if arguments.quick else FULL)
            status = run(loop, faults.run(cases))
            return status or int(faults.wrong > 0)
        finally:
            trio.stop()


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main())
