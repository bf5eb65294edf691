"""A controller and its simulated fleet, step by step; each step prints its figures.

A real controller process with the settings of ``benchmarks.controller`` (defaults, but for one bound) and a
simulated fleet of ``benchmarks.fleet`` in this process, on loopback.  Both share the machine's cores: a rate is
what the two reach together, so the controller's own CPU time stands beside it.

Engines are spread over groups of 50 with one virtual service each, all on one pool: a change to the pool is a
change for every engine.
"""

import argparse
import gc
import itertools
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.trust.files import private_dir
from avinet.trust.image import open_image
from avinet.units import KIB
from avinet.wire.registration import MetaInfo
from benchmarks import sshd
from benchmarks.carried import Carried
from benchmarks.controller import BenchController
from benchmarks.fleet import ABREAST, Fleet, SimulatedEngine
from benchmarks.harness import Target, at_least, at_most, progress, quantile, report, times_peer

GROUP_ENGINES = 50
"""A virtual service goes to 64 at most."""
SETTLE_S = 5.0
"""Before memory is read: placement, events and files follow a session by up to a second."""
SYNC_LIMIT_S = 60.0
POLL_S = 0.02
HEADER_BYTES = 52
"""IPv4, TCP and its timestamps, a segment."""
FIRST_SERVICE_PORT = 20_000

MEMORY_TARGET_KIB = 40.0
IDLE_TARGET_BIT_S = 500.0
SESSIONS_TARGET = 400.0
SESSIONS_TARGET_OF_PEER = 5.0
IDLE_CPU_TARGET = 20.0
IDLE_CPU_ENGINES = 8_000
"""What the target is for; with fewer it is that much less, and the figure says so."""


@attrs.frozen
class Plan:
    """How much of each."""

    fleets: tuple[int, ...]
    """Sizes, ascending, at which memory is read; the last is the whole fleet."""
    idle_s: float
    logins: int

    @property
    def engines(self) -> int:
        """All."""
        return self.fleets[-1]


@attrs.define(eq=False)
class FleetRun:
    """One controller, one fleet."""

    reactor: Any
    controller: BenchController
    plan: Plan
    arguments: argparse.Namespace
    fleet: Fleet = attrs.field(init=False)
    _servers: int = attrs.field(default=1, init=False)

    async def set_up(self) -> None:
        """A controller with its configuration, an image of it, and engines with their tokens."""
        progress("starting the controller")
        await deferToThread(self.controller.start)
        progress("resident without a record: {kib:.0f} KiB", kib=self.controller.resident_kib())
        await deferToThread(self.controller.apply, self._documents())
        path = self.controller.folder / "image.tar"
        await deferToThread(self._build_image, path)
        self.fleet = Fleet(self.reactor, open_image(path))
        for group in range(self._groups):
            token = await deferToThread(self._token, group)
            self.fleet.add(GROUP_ENGINES, token)

    def _build_image(self, path: Path) -> None:
        with path.open("wb") as out:
            self.controller.client.download("/api/image", {}, out)

    def _token(self, group: int) -> MetaInfo:
        wish = {"group": f"bench-{group}", "count": GROUP_ENGINES}
        made = self.controller.client.post("/api/setoken", wish)
        return msgspec.convert(made["meta_info"], MetaInfo)

    @property
    def _groups(self) -> int:
        return self.plan.engines // GROUP_ENGINES

    def _documents(self) -> str:
        """All groups and their virtual services; the pool has another server each time."""
        self._servers += 1
        port = FIRST_SERVICE_PORT + self._servers
        parts = [
            f"kind: Pool\nname: bench\nservers: [{{ip: 127.0.0.1, port: 9}}, {{ip: 127.0.0.1, port: {port}}}]\n"
        ]
        for group in range(self._groups):
            parts.append(
                f"kind: ServiceEngineGroup\nname: bench-{group}\nmin_scaleout_per_vs: 1\n"
                f"max_scaleout_per_vs: {GROUP_ENGINES}\n"
            )
            parts.append(
                f"kind: VirtualService\nname: bench-{group}\nvip: [{{ip_address: 127.0.0.1}}]\n"
                f"services: [{{port: {FIRST_SERVICE_PORT + group}}}]\npool_ref: bench\nse_group_ref: bench-{group}\n"
            )
        return "---\n".join(parts)

    def change(self) -> str:
        """A change for every engine: of the pool alone."""
        return self._documents().split("---\n", 1)[0]

    async def measured(self, what: str, work: Coroutine[Any, Any, None]) -> tuple[float, float]:
        """Seconds that ``work`` takes, and the controller's CPU seconds meanwhile."""
        begun, cpu = time.monotonic(), self.controller.cpu_s()
        await work
        took_s, cpu_s = time.monotonic() - begun, self.controller.cpu_s() - cpu
        progress(
            "{what}: {took:.1f} s, {cpu:.1f} s of the controller's CPU", what=what, took=took_s, cpu=cpu_s
        )
        return took_s, cpu_s

    async def enrolments(self) -> tuple[float, float]:
        """Enrol all; how many a second, and the seconds of the controller's CPU for each."""
        count = self.plan.engines
        took_s, cpu_s = await self.measured(f"{count} enrolments", self.fleet.enrol(self.fleet.engines))
        return count / took_s, cpu_s / count

    async def first_sessions(self) -> float:
        """Each engine's first session, which is noted in the store, and its first configuration; how many a second."""

        async def work() -> None:
            await self.fleet.attach(self.fleet.engines)
            while not all(engine.version for engine in self.fleet.engines):
                await deferLater(self.reactor, POLL_S)
            await self._in_sync(len(self.fleet.engines))

        took_s, _ = await self.measured("first sessions and configurations", work())
        return self.plan.engines / took_s

    async def _in_sync(self, count: int) -> None:
        """Until the controller itself says that so many are up and have what they should."""
        end = time.monotonic() + SYNC_LIMIT_S
        while True:
            engines = (await deferToThread(self.controller.status))["service_engines"]
            if engines["up"] >= count and engines["in_sync"] >= count:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{count} should be up and in sync: {engines}")
            await deferLater(self.reactor, POLL_S)

    async def sshd_logins(self) -> float | None:
        """A second, to the peer, by the same client; None where it is not to be had."""
        if not sshd.available():
            return None
        progress("logging in to OpenSSH's sshd")
        folder = self.controller.folder / "sshd"
        private_dir(self.controller.folder)
        return await sshd.logins_per_s(self.reactor, folder, self.plan.logins, ABREAST)

    async def sessions_and_memory(self, sshd_logins: float | None) -> None:
        """The controller anew; then the fleet in its steps."""
        plan, engines = self.plan, self.fleet.engines
        await self.fleet.detach(engines)
        await deferToThread(self.controller.restart)
        # What the engines are made of stays: collections would only walk over it, at this process's expense.
        gc.collect()
        gc.freeze()
        memory = {0: await self._memory(0)}
        took_s = cpu_s = 0.0
        for first, last in itertools.pairwise((0, *plan.fleets)):

            async def work(few: list[SimulatedEngine], attached: int) -> None:
                await self.fleet.attach(few)
                await self._in_sync(attached)

            spent = await self.measured(f"sessions {first} to {last}", work(engines[first:last], last))
            took_s, cpu_s = took_s + spent[0], cpu_s + spent[1]
            memory[last] = await self._memory(last)
        waits = [engine.attached_s for engine in engines]
        progress(
            "dial to Welcome: p50 {p50:.3f} s, p99 {p99:.3f} s",
            p50=quantile(waits, 0.5), p99=quantile(waits, 0.99),
        )  # fmt: skip
        targets = (at_least(SESSIONS_TARGET), times_peer(SESSIONS_TARGET_OF_PEER))
        what = (
            f"sessions after a restart, TCP to in sync ({plan.engines} engines, {self.fleet.abreast} abreast)"
        )
        self.report(what, plan.engines / took_s, "a second", *targets, peer=sshd_logins)
        self.report("controller CPU a session", cpu_s / plan.engines * 1000, "ms")
        self._report_memory(memory)

    def _report_memory(self, resident_kib: dict[int, float]) -> None:
        for count, kib in resident_kib.items():
            what = f"controller resident with {count} of {self.plan.engines} engines attached"
            self.report(what, kib / KIB, "MiB")
        for low, high in itertools.combinations(sorted(resident_kib), 2):
            each_kib = (resident_kib[high] - resident_kib[low]) / (high - low)
            what = f"controller memory an attached engine ({low} to {high})"
            self.report(what, each_kib, "KiB", at_most(MEMORY_TARGET_KIB))

    async def _memory(self, attached: int) -> float:
        await deferLater(self.reactor, SETTLE_S)
        kib = self.controller.resident_kib()
        progress("resident with {count} attached: {kib:.0f} KiB", count=attached, kib=kib)
        return kib

    async def idle(self) -> None:
        """Traffic and CPU time while nothing happens."""
        plan = self.plan
        before = self.fleet.carried()

        async def work() -> None:
            await deferLater(self.reactor, plan.idle_s)

        took_s, cpu_s = await self.measured("idle", work())
        carried: Carried = self.fleet.carried() - before
        if self.fleet.attached != plan.engines:
            raise RuntimeError("an engine was lost while idle")
        payload = carried.payload_bytes * 8 / took_s / plan.engines
        headers = carried.segments * HEADER_BYTES * 8 / took_s / plan.engines
        what = f"idle traffic an engine, both ways ({took_s:.0f} s, {plan.engines} engines)"
        self.report(f"{what}, on the sockets", payload, "bit/s", at_most(IDLE_TARGET_BIT_S))
        self.report(f"{what}, with TCP/IP headers", payload + headers, "bit/s", at_most(IDLE_TARGET_BIT_S))
        target = IDLE_CPU_TARGET * plan.engines / IDLE_CPU_ENGINES
        scaled = "" if plan.engines == IDLE_CPU_ENGINES else (
            f" (target in proportion: {IDLE_CPU_TARGET:g} % at {IDLE_CPU_ENGINES})"
        )  # fmt: skip
        what = f"controller CPU while {plan.engines} engines idle{scaled}"
        self.report(what, cpu_s / took_s * 100, "% of a core", at_most(target))

    async def leave(self) -> None:
        """All of it."""
        await self.fleet.stop()
        await deferToThread(self.controller.stop)

    def report(
        self, figure: str, value: float, unit: str, *targets: Target, peer: float | None = None
    ) -> None:
        """One line."""
        report(self.arguments, figure, value, unit, *targets, peer=peer)
