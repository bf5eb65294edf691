"""What breaks in a fault, for how long, and how it is mended: processes, the network, disks, clocks."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.app.demo.plan import ControllerPlan
from benchmarks.fault_disks import SmallDisk, copy
from benchmarks.trio import Trio

NFT_LIMIT_S = 10.0
FILL_EACH_S = 0.5
START_S = 8.0
"""Until a process that is started does something, on a machine that is busy."""
CLOCK_S = 600
"""Ahead of the machine's, and behind it."""
COMPILE_LIMIT_S = 30.0
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


@attrs.frozen(eq=False)
class Breaks:
    """Each method breaks something, and has mended it when it is done."""

    trio: Trio
    reactor: Any
    lengths: Lengths

    async def pause(self, seconds: float) -> None:
        """While the load goes on."""
        await deferLater(self.reactor, seconds)

    async def leader(self) -> ControllerPlan:
        """Who leads now."""
        return await deferToThread(self.trio.leader)

    async def follower(self) -> ControllerPlan:
        """One that does not."""
        return self.trio.others(await self.leader())[0]

    async def killed(self, one: ControllerPlan) -> None:
        """SIGKILL, its etcd with it; started again after a while."""
        await deferToThread(self.trio.kill, one)
        await self.pause(self.lengths.fault_s / 4)
        await deferToThread(self.trio.spawn, one)

    async def etcd_killed(self, one: ControllerPlan) -> None:
        """Its state engine alone."""
        os.kill(etcd_of(self.trio.pid(one)), signal.SIGKILL)
        await self.pause(self.lengths.fault_s / 4)

    async def etcd_frozen(self, one: ControllerPlan) -> None:
        """SIGSTOP of its state engine, while it goes on."""
        with self._etcd_frozen(one):
            await self.pause(self.lengths.fault_s)

    @contextlib.contextmanager
    def _etcd_frozen(self, one: ControllerPlan) -> Iterator[None]:
        etcd = etcd_of(self.trio.pid(one))
        os.kill(etcd, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(etcd, signal.SIGCONT)

    async def frozen(self, one: ControllerPlan) -> None:
        """SIGSTOP of it and its etcd."""
        with self._etcd_frozen(one), self.trio.frozen(one):
            await self.pause(self.lengths.fault_s)

    async def paused(self, one: ControllerPlan) -> None:
        """SIGSTOP of it, while its etcd goes on."""
        with self.trio.frozen(one):
            await self.pause(self.lengths.fault_s)

    async def parted(self, *ways: tuple[ControllerPlan, ControllerPlan]) -> None:
        """Nothing of the first of each way reaches the second."""
        async with self._dropping(*ways):
            await self.pause(self.lengths.fault_s)

    async def isolated(self, one: ControllerPlan) -> None:
        """Nothing between it and the others."""
        await self.parted(*self._around(one))

    async def flapping(self, one: ControllerPlan) -> None:
        """Isolated and back, again and again."""
        end = time.monotonic() + self.lengths.flapping_s
        while time.monotonic() < end:
            async with self._dropping(*self._around(one)):
                await self.pause(self.lengths.flap_s)
            await self.pause(self.lengths.flap_s)

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
        await self.pause(1.0)
        for one in self.trio.controllers:
            await deferToThread(self.trio.spawn, one)

    async def old_disk(self, one: ControllerPlan) -> None:
        """It comes back with the state of a while ago; then with what it really had."""
        trio, old, now = self.trio, one.folder / "old", one.folder / "now"
        await deferToThread(trio.kill, one)
        await deferToThread(copy, one.state, old)
        await deferToThread(trio.back, one)
        await self.pause(self.lengths.fault_s / 2)
        await deferToThread(trio.kill, one)
        one.state.rename(now)
        old.rename(one.state)
        await deferToThread(trio.spawn, one)
        await self.pause(START_S + self.lengths.fault_s / 2)
        await deferToThread(trio.kill, one)
        await deferToThread(shutil.rmtree, one.state)
        now.rename(one.state)
        await deferToThread(trio.spawn, one)

    async def disk_full(self, one: ControllerPlan, *, leads: bool = False) -> None:
        """Not a byte fits on its disk for a while; it goes on by itself when there is room again."""
        disk = SmallDisk(one.state)
        await deferToThread(self.trio.kill, one)
        with contextlib.ExitStack() as stack:
            await deferToThread(stack.enter_context, disk.mounted())
            try:
                await deferToThread(self.trio.back, one)
                while leads and (leader := await self.leader()) is not one:
                    await deferToThread(self.trio.restart, leader)
                end = time.monotonic() + self.lengths.fault_s
                while time.monotonic() < end:
                    await deferToThread(disk.fill)
                    await self.pause(FILL_EACH_S)
                disk.free()
                await deferToThread(self.trio.until_whole)
            finally:
                await deferToThread(self.trio.kill, one)
                await deferToThread(stack.close)
        await deferToThread(self.trio.spawn, one)

    async def clocks_apart(self) -> None:
        """One is ahead, one behind; then who leads is killed, so that the lead goes from clock to clock."""
        ahead = await self.leader()
        behind = await self.follower()
        folder = self.trio.folder
        clocks = {ahead.name: clock(folder, CLOCK_S), behind.name: clock(folder, -CLOCK_S)}
        for one in (ahead, behind):
            await self._again(one, clocks[one.name])
        await self.pause(self.lengths.fault_s)
        leader = await self.leader()
        await self._again(leader, clocks.get(leader.name, {}))
        for one in (ahead, behind):
            await self._again(one, {})

    async def _again(self, one: ControllerPlan, environment: dict[str, str]) -> None:
        await deferToThread(self.trio.kill, one)
        await deferToThread(self.trio.spawn, one, **environment)
        await deferToThread(self.trio.until_whole)


def clock(folder: Path, ahead_s: int) -> dict[str, str]:
    """An environment whose processes have another time of day; programs in Go, such as etcd, keep the machine's."""
    library = folder / "clock.so"
    if not library.exists():
        source = Path(__file__).with_name("fault_clock.c")
        command = ("cc", "-shared", "-fPIC", "-O2", "-o", os.fspath(library), os.fspath(source))
        ran = subprocess.run(command, capture_output=True, text=True, timeout=COMPILE_LIMIT_S, check=False)
        if ran.returncode:
            raise RuntimeError(f"the clock of the faults does not compile: {ran.stderr.strip()}")
    return {"LD_PRELOAD": os.fspath(library), "AVINET_CLOCK_S": str(ahead_s)}


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
