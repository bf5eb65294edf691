"""How long a change takes to be in force on a simulated fleet: a real controller, real SSH, engines in this process."""

import argparse
import time
from typing import Any

import attrs
import msgspec
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.trust.image import open_image
from avinet.wire.registration import MetaInfo
from benchmarks.carried import Carried
from benchmarks.controller import BenchController
from benchmarks.fleet import Fleet
from benchmarks.harness import Target, at_most, progress, quantile, report

LIMIT_S = 120.0
POLL_S = 0.01
PAUSE_S = 0.2
"""Between changes: what the last one left to do is done, and its bytes are on the sockets."""
FIRST_PORT = 20_000
A_GROUP = 50
"""Engines of a group with one virtual service, which goes to 64 at most."""
PORTS_AN_ADDRESS = 1_000


@attrs.define(eq=False)
class Changing:
    """One fleet, and one pool that changes again and again."""

    reactor: Any
    controller: BenchController
    engines: int
    services: int
    """0: a virtual service for each ``A_GROUP`` engines, all on the pool that changes, so that each change is for every
    engine.  Else so many, each with a pool of its own, of which one changes."""
    changes: int
    fleet: Fleet = attrs.field(init=False)

    @property
    def everywhere(self) -> bool:
        """Whether a change is for every engine."""
        return not self.services

    async def set_up(self) -> None:
        """Controller, configuration, engines attached and in sync."""
        await deferToThread(self.controller.start)
        progress("{n} engines, {s} virtual services", n=self.engines, s=self.services or self._groups)
        for documents in self._documents():
            await deferToThread(self._apply, documents)
        path = self.controller.folder / "image.tar"
        await deferToThread(self._build_image, str(path))
        self.fleet = Fleet(self.reactor, open_image(path))
        for group in range(self._groups):
            token = await deferToThread(self._token, group)
            self.fleet.add(self.engines // self._groups, token)
        await self.fleet.enrol(self.fleet.engines)
        await self.fleet.attach(self.fleet.engines)
        await self._settle()

    @property
    def _groups(self) -> int:
        return self.engines // A_GROUP if self.everywhere else 1

    def _documents(self) -> list[list[dict[str, Any]]]:
        """In parts of what one apply takes (10,000)."""
        groups = [
            {"kind": "ServiceEngineGroup", "name": f"bench-{n}", "max_scaleout_per_vs": A_GROUP if self.everywhere else 4}
            for n in range(self._groups)
        ]  # fmt: skip
        if self.everywhere:
            services = [self._service(n, "pool-0", n) for n in range(self._groups)]
            return [[*groups, self._pool(0, 0), *services]]
        pools = [self._pool(n, 0) for n in range(self.services)]
        return [[*groups, *pools], [self._service(n, f"pool-{n}", 0) for n in range(self.services)]]

    def _pool(self, number: int, turn: int) -> dict[str, Any]:
        """Two servers, of which one changes."""
        servers = [{"ip": "10.0.0.1", "port": 80}, {"ip": "10.0.0.2", "port": 1 + turn}]
        return {"kind": "Pool", "name": f"pool-{number}", "servers": servers}

    def _service(self, number: int, pool: str, group: int) -> dict[str, Any]:
        return {
            "kind": "VirtualService",
            "name": f"service-{number}",
            "vip": [{"ip_address": f"192.0.2.{1 + number // PORTS_AN_ADDRESS}"}],
            "services": [{"port": FIRST_PORT + number % PORTS_AN_ADDRESS}],
            "pool_ref": pool,
            "se_group_ref": f"bench-{group}",
        }

    def _build_image(self, path: str) -> None:
        with open(path, "wb") as out:  # noqa: PTH123 - in a thread, by its name
            self.controller.client.download("/api/image", {}, out)

    def _token(self, group: int) -> MetaInfo:
        wish = {"group": f"bench-{group}", "count": self.engines // self._groups}
        made = self.controller.client.post("/api/setoken", wish)
        return msgspec.convert(made["meta_info"], MetaInfo)

    def _apply(self, documents: list[dict[str, Any]]) -> int:
        return int(self.controller.client.post("/api/config", documents)["version"])

    async def _settle(self) -> None:
        end = time.monotonic() + LIMIT_S
        while True:
            engines = (await deferToThread(self.controller.status))["service_engines"]
            if engines["up"] >= self.engines and engines["in_sync"] >= self.engines:
                return
            if time.monotonic() > end:
                raise RuntimeError(f"{self.engines} should be in sync: {engines}")
            await deferLater(self.reactor, 0.5)

    # Measuring

    async def measure(self, arguments: argparse.Namespace, p99_s: float, bytes_ratio: float | None) -> None:
        """Every figure of it."""
        rows: list[dict[str, Any]] = []
        carried, sent = Carried(), 0.0
        cpu = self.controller.cpu_s()
        for turn in range(1, self.changes + 1):
            before, pushed = self.fleet.carried(), await self._pushed()
            version = await deferToThread(self._apply, [self._pool(0, turn)])
            rows.append(await self._row(version))
            await deferLater(self.reactor, PAUSE_S)
            carried += self.fleet.carried() - before
            sent += await self._pushed() - pushed
        cpu_s = (self.controller.cpu_s() - cpu) / self.changes
        concerned = rows[-1]["acks"]
        where = f"{self.engines} simulated engines"
        if not self.everywhere:
            where = f"{self.services} virtual services over {where}, one pool changed on {concerned} of them"
        last = [float(row["last_s"]) for row in rows]
        what = f"commit to last Ack, {where} ({self.changes} changes)"
        report(arguments, f"{what}, p50", quantile(last, 0.5), "s")
        report(arguments, f"{what}, p99", quantile(last, 0.99), "s", at_most(p99_s))
        report(arguments, f"controller CPU a change, {where}", cpu_s * 1000, "ms")
        targets: tuple[Target, ...] = () if bytes_ratio is None else (at_most(bytes_ratio),)
        what = f"bytes to the engines on their sockets / bytes of the changed objects they need, {where}"
        report(arguments, what, carried.received_bytes / sent, "x", *targets)

    async def _row(self, version: int) -> dict[str, Any]:
        """Of one version, once all have it, as the controller measured it."""
        query = {"wait": version, "timeout": LIMIT_S}
        answer = await deferToThread(self.controller.client.get, "/api/config/status", query)
        row: dict[str, Any] = next(row for row in answer["versions"] if row["version"] == version)
        if row["last_s"] is None or row["acks"] < row["concerned"] or not row["acks"]:
            raise RuntimeError(f"not all have version {version}: {row}")
        if self.everywhere and row["acks"] != self.engines:
            raise RuntimeError(f"version {version} concerned {row['acks']} engines, not all {self.engines}")
        return row

    async def _pushed(self) -> float:
        """Bytes of the objects sent so far."""
        text: str = await deferToThread(self.controller.metrics)
        name = "avinet_config_pushed_bytes_total "
        return float(next(line for line in text.splitlines() if line.startswith(name)).split()[1])

    async def leave(self) -> None:
        """All of it."""
        await self.fleet.stop()
        await deferToThread(self.controller.stop)
