"""The main job's figures: enrolments and sessions a second, memory and idle traffic an SE, time to the last Ack.

    python -m benchmarks.main_job [--quick] [--json] [--profile FOLDER]

A real controller process with the settings of ``benchmarks.controller`` (defaults, but for one bound) and a
simulated fleet of ``benchmarks.fleet`` in this process, on loopback.  Both share the machine's cores: a rate is
what the two reach together, so the controller's own CPU time stands beside it.

Engines are spread over groups of 50 with one virtual service each, all on one pool: a change to the pool is a
change for every engine.
"""

import contextlib
import sys
import tempfile
import time
from collections.abc import Coroutine
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.trust.image import open_image
from avinet.units import KIB
from avinet.wire.registration import MetaInfo
from benchmarks import sshd
from benchmarks.carried import Carried
from benchmarks.controller import BenchController
from benchmarks.fleet import ABREAST, Fleet, SimulatedEngine, run
from benchmarks.harness import Figure, options, progress, show

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
COMMIT_TARGET_S = 1.0
"""Of 1,000 SEs in DESIGN 12; held here with 500."""


@attrs.frozen
class Plan:
    """How much of each."""

    engines: int
    some: int
    """The smaller fleet: for memory, and for changes of configuration."""
    idle_s: float
    changes: int
    logins: int


FULL = Plan(engines=2000, some=500, idle_s=60.0, changes=100, logins=500)
QUICK = Plan(engines=500, some=250, idle_s=30.0, changes=20, logins=200)


@attrs.define(eq=False)
class MainJob:
    """One run."""

    reactor: Any
    controller: BenchController
    plan: Plan
    arguments: Any
    fleet: Fleet = attrs.field(init=False)
    _servers: int = attrs.field(default=1, init=False)

    async def run(self) -> None:
        """Every figure."""
        logins = await self._sshd_logins()
        progress("starting the controller")
        await deferToThread(self.controller.start)
        progress("resident without a record: {kib:.0f} KiB", kib=self.controller.resident_kib())
        await self._set_up()
        await self._enrolments()
        await self._first_sessions()
        await self._sessions_and_memory(logins)
        await self._idle()
        await self._changes()
        await self._leave()

    def _show(
        self,
        figure: str,
        value: float,
        unit: str,
        target: tuple[str, float] | None = None,
        peer: float | None = None,
    ) -> None:
        """``target`` is ``<=`` or ``>=`` and the number."""
        met = target is None or (value <= target[1] if target[0] == "<=" else value >= target[1])
        said = None if target is None else f"{target[0]} {target[1]:g}"
        rounded = float(f"{value:.4g}")
        show(Figure(figure=figure, value=rounded, unit=unit, peer=peer, target=said, met=met), self.arguments)

    # Steps

    async def _set_up(self) -> None:
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

    def _change(self) -> str:
        """The pool alone."""
        return self._documents().split("---\n", 1)[0]

    async def _measured(self, what: str, work: Coroutine[Any, Any, None]) -> tuple[float, float]:
        """Seconds that ``work`` takes, and the controller's CPU seconds meanwhile."""
        begun, cpu = time.monotonic(), self.controller.cpu_s()
        await work
        took_s, cpu_s = time.monotonic() - begun, self.controller.cpu_s() - cpu
        progress(
            "{what}: {took:.1f} s, {cpu:.1f} s of the controller's CPU", what=what, took=took_s, cpu=cpu_s
        )
        return took_s, cpu_s

    async def _enrolments(self) -> None:
        count = self.plan.engines
        took_s, cpu_s = await self._measured(f"{count} enrolments", self.fleet.enrol(self.fleet.engines))
        abreast = f"{count} engines, {self.fleet.abreast} abreast"
        self._show(f"enrolments, TLS to stored ({abreast})", count / took_s, "a second")
        self._show("controller CPU an enrolment", cpu_s / count * 1000, "ms")

    async def _first_sessions(self) -> None:
        """Each engine's first session, which is noted in the store, and its first configuration."""

        async def work() -> None:
            await self.fleet.attach(self.fleet.engines)
            while not all(engine.version for engine in self.fleet.engines):
                await deferLater(self.reactor, POLL_S)
            await self._in_sync(len(self.fleet.engines))

        took_s, _ = await self._measured("first sessions and configurations", work())
        self._show(
            "first sessions, TCP to first configuration acknowledged", self.plan.engines / took_s, "a second"
        )

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

    async def _sessions_and_memory(self, sshd_logins: float | None) -> None:
        """The controller anew; then some engines, then all."""
        plan, engines = self.plan, self.fleet.engines
        await self.fleet.detach(engines)
        await deferToThread(self.controller.restart)
        memory = {0: await self._memory(0)}
        took_s = cpu_s = 0.0
        for first, last in ((0, plan.some), (plan.some, plan.engines)):

            async def work(few: list[SimulatedEngine], attached: int) -> None:
                await self.fleet.attach(few)
                await self._in_sync(attached)

            spent = await self._measured(f"sessions {first} to {last}", work(engines[first:last], last))
            took_s, cpu_s = took_s + spent[0], cpu_s + spent[1]
            memory[last] = await self._memory(last)
        waits = sorted(engine.attached_s for engine in engines)
        progress(
            "dial to Welcome: p50 {p50:.3f} s, p99 {p99:.3f} s", p50=_at(waits, 0.5), p99=_at(waits, 0.99)
        )
        rate, each = plan.engines / took_s, cpu_s / plan.engines
        what = (
            f"sessions after a restart, TCP to in sync ({plan.engines} engines, {self.fleet.abreast} abreast)"
        )
        self._show(what, rate, "a second", (">=", SESSIONS_TARGET), sshd_logins)
        self._show("controller CPU a session", each * 1000, "ms")
        for count, kib in memory.items():
            self._show(
                f"controller resident with {count} of {plan.engines} engines attached", kib / KIB, "MiB"
            )
        for low, high in ((0, plan.some), (plan.some, plan.engines), (0, plan.engines)):
            each_kib = (memory[high] - memory[low]) / (high - low)
            self._show(
                f"controller memory an attached engine ({low} to {high})",
                each_kib,
                "KiB",
                ("<=", MEMORY_TARGET_KIB),
            )

    async def _memory(self, attached: int) -> float:
        await deferLater(self.reactor, SETTLE_S)
        kib = self.controller.resident_kib()
        progress("resident with {count} attached: {kib:.0f} KiB", count=attached, kib=kib)
        return kib

    async def _idle(self) -> None:
        plan = self.plan
        before = self.fleet.carried()

        async def work() -> None:
            await deferLater(self.reactor, plan.idle_s)

        took_s, cpu_s = await self._measured("idle", work())
        carried: Carried = self.fleet.carried() - before
        if self.fleet.attached != plan.engines:
            raise RuntimeError("an engine was lost while idle")
        payload = carried.payload_bytes * 8 / took_s / plan.engines
        headers = carried.segments * HEADER_BYTES * 8 / took_s / plan.engines
        what = f"idle traffic an engine, both ways ({took_s:.0f} s, {plan.engines} engines)"
        self._show(f"{what}, on the sockets", payload, "bit/s", ("<=", IDLE_TARGET_BIT_S))
        total = payload + headers
        self._show(f"{what}, with TCP/IP headers", total, "bit/s", ("<=", IDLE_TARGET_BIT_S))
        self._show(f"controller CPU while {plan.engines} engines idle", cpu_s / took_s * 100, "% of a core")

    async def _changes(self) -> None:
        """Changes that every attached engine must acknowledge."""
        plan, some = self.plan, self.fleet.engines[: self.plan.some]
        await self.fleet.detach(self.fleet.engines[plan.some :])
        await deferLater(self.reactor, SETTLE_S)
        last_s: list[float] = []
        cpu = self.controller.cpu_s()
        for _ in range(plan.changes):
            version = await deferToThread(self.controller.apply, self._change())
            end = time.monotonic() + SYNC_LIMIT_S
            while any(engine.version < version for engine in some):
                if time.monotonic() > end:
                    raise RuntimeError(f"version {version} was not acknowledged by all")
                await deferLater(self.reactor, POLL_S)
            last_s.append(await self._last_ack(version, len(some)))
        cpu_s = (self.controller.cpu_s() - cpu) / plan.changes
        last_s.sort()
        what = f"config commit to last Ack ({plan.some} engines, {plan.changes} changes)"
        for name, q in (("p50", 0.5), ("p99", 0.99)):
            value = _at(last_s, q)
            self._show(f"{what}, {name}", value, "s", ("<=", COMMIT_TARGET_S))
        self._show("controller CPU a change for an engine", cpu_s / plan.some * 1000, "ms")

    async def _last_ack(self, version: int, count: int) -> float:
        """As the controller measured it."""
        while True:
            status = await deferToThread(self.controller.client.get, "/api/config/status")
            row = next(row for row in status["versions"] if row["version"] == version)
            if row["last_s"] is not None and row["acks"] >= count:
                return float(row["last_s"])
            await deferLater(self.reactor, POLL_S)

    async def _leave(self) -> None:
        await self.fleet.stop()
        await deferToThread(self.controller.stop)

    async def _sshd_logins(self) -> float | None:
        """A second, to the peer; None where it is not to be had."""
        if not sshd.available():
            progress("no sshd here, or not root: its logins are not measured (make test-deps)")
            return None
        progress("logging in to OpenSSH's sshd")
        folder = self.controller.folder / "sshd"
        rate = await sshd.logins_per_s(self.reactor, folder, self.plan.logins, ABREAST)
        self._show(f"logins to OpenSSH's sshd, by the same client ({ABREAST} abreast)", rate, "a second")
        return float(f"{rate:.4g}")


def _at(ordered: list[float], q: float) -> float:
    return ordered[min(len(ordered) - 1, int(q * len(ordered)))]


def main() -> int:
    """0 when every figure was measured, whether its target was met or not."""
    from twisted.internet import reactor

    parser = options("Enrolments, sessions, memory, idle traffic and configuration with a simulated fleet.")
    parser.add_argument("--profile", type=Path, help="a folder for the controller's cProfile statistics")
    parser.add_argument("--engines", type=int, help="the whole fleet, a multiple of 100")
    parser.add_argument("--changes", type=int, help="of the configuration")
    arguments = parser.parse_args()
    plan = QUICK if arguments.quick else FULL
    if arguments.engines:
        plan = attrs.evolve(plan, engines=arguments.engines, some=min(plan.some, arguments.engines // 2))
    if arguments.changes:
        plan = attrs.evolve(plan, changes=arguments.changes)
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="avinet-bench-")))
        controller = BenchController(folder, arguments.profile)
        stack.callback(controller.stop)
        return run(reactor, MainJob(reactor, controller, plan, arguments).run())


if __name__ == "__main__":
    sys.exit(main())
