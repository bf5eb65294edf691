"""The demo's processes: controller, service engines and servers as children of this one, Envoys beside them.

Every child is started again when it dies (unless told otherwise), ends with this process however that ends, and
writes to a log of its own.  Envoys outlive their agents by design, so the end of a demo ends each by name.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.app.cli.client import Client
from avinet.app.demo.joining import TWISTD, JoinFailedError, controller_command, join
from avinet.app.demo.plan import BACKENDS, ControllerPlan, DemoPlan
from avinet.cloud.child import Child, Command, RotatingLog
from avinet.dataplane.envoy import stop_data_plane
from avinet.errors import AvinetError, Kind, error
from avinet.trust.files import private_dir, write_private
from avinet.trust.node import ControllerPaths
from avinet.wire.registration import MetaInfo

READY_TIMEOUT_S = 60.0
"""A controller starts in 2 s on an idle machine."""
IN_SYNC_TIMEOUT_S = 120.0
"""Enrolment, Envoy's start and the first health checks take 5 s on an idle machine."""
POLL_S = 0.1
MAX_DEATHS = 3
"""Children that die while the demo comes up; what fails so often will not mend itself."""
LOG_TAIL_CHARS = 1500


@error
class DemoFailedError(AvinetError):
    """The demo did not come up: {what}. Logs are in {folder}. {tail}"""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    what: str
    folder: Path
    tail: str


@attrs.define(eq=False)
class Stage:
    """Starts and stops all of a demo."""

    reactor: Any
    plan: DemoPlan
    restart: bool = True
    children: dict[str, Child] = attrs.field(factory=dict, init=False)
    died: list[str] = attrs.field(factory=list, init=False)
    """Who ended unasked, and how."""

    @property
    def client(self) -> Client:
        """The operator API over the socket of the first controller that runs."""
        for one in self.plan.controllers:
            child = self.children.get(one.name)
            if child is not None and child.pid is not None:
                return self.client_of(one)
        return self.client_of(self.plan.first)

    def client_of(self, one: ControllerPlan) -> Client:
        """The operator API over one controller's socket."""
        return Client.unix(ControllerPaths(one.state).api_socket)

    async def raise_all(self, say: Callable[[str], None]) -> None:
        """From nothing to a virtual service in force on every SE."""
        plan = self.plan
        private_dir(plan.folder)
        write_private(plan.settings(), plan.engine_settings().encode())
        for name, port in zip(BACKENDS, plan.ports.backends, strict=True):
            self._run(name, sys.executable, "-m", "avinet.app.demo.backend", name, str(port))
        for number, one in enumerate(plan.controllers, 1):
            say(f"starting {one.name}" if number == 1 else f"{one.name} joins")
            await self._start_controller(one, number)
        say("building the SE image")
        await deferToThread(self._build_image)
        for name in plan.engines:
            say(f"creating {name}")
            await deferToThread(self._create_engine, name)
            self._run_engine(name)
        say("applying the configuration")
        await deferToThread(self._apply)
        say("waiting until every SE has it in force")
        await self._until(self.in_sync, "the service engines", IN_SYNC_TIMEOUT_S)

    async def _start_controller(self, one: ControllerPlan, number: int) -> None:
        """The first makes the cluster; each other one joins it, and is awaited before the next."""
        write_private(one.settings, one.settings_text().encode())
        if number > 1:
            await deferToThread(self._join, one)
        self._run(one.name, *controller_command(one))
        await self._until(lambda: self._ready(one, number), one.name, READY_TIMEOUT_S)

    def _run_engine(self, name: str) -> None:
        plan = self.plan
        self._run(
            name,
            *TWISTD,
            "avise",
            *("--state", str(plan.engine_state(name)), "--config", str(plan.settings())),
            *("--image", str(plan.image), "--meta-info", str(plan.meta_info(name))),
        )

    def _run(self, name: str, *arguments: str) -> None:
        child = Child(
            name,
            Command(arguments, self.plan.folder, dict(os.environ)),
            RotatingLog(self.plan.folder / f"{name}.log"),
            self.reactor,
            self.reactor,
            on_exit=lambda how: self._ended(name, how),
            restart=self.restart,
        )
        self.children[name] = child
        child.start()

    def _ended(self, name: str, how: str) -> None:
        self.died.append(f"{name}: {how}")

    # Steps of raise_all; these block, and run in threads

    def _ready(self, one: ControllerPlan, number: int) -> bool:
        client = self.client_of(one)
        if client.get("/readyz").get("status") != "ok":
            return False
        if number == 1:
            return True
        status = client.get("/api/cluster")
        roles = [member["role"] for member in status["members"]]
        return bool(status["quorum"]) and len(roles) == number and "unreachable" not in roles

    def _join(self, one: ControllerPlan) -> None:
        try:
            join(self.plan.first, one)
        except JoinFailedError as why:
            raise self._failed(str(why).rstrip(".")) from why

    def _build_image(self) -> None:
        with open(self.plan.image, "wb", opener=lambda path, flags: os.open(path, flags, 0o600)) as out:
            self.client.download("/api/image", {}, out)

    def _create_engine(self, name: str) -> None:
        made = self.client.post("/api/serviceengine", {"name": name, "cloud": "manual"})
        meta = msgspec.convert(made["meta_info"], MetaInfo)
        write_private(self.plan.meta_info(name), msgspec.json.encode(meta))

    def _apply(self) -> None:
        self.client.post(
            "/api/config", raw=self.plan.configuration().encode(), content_type="application/yaml"
        )

    def engine_rows(self) -> list[dict[str, Any]]:
        """``se list``, in the demo's order."""
        rows = {row["name"]: row for row in self.client.get("/api/serviceengine")["results"]}
        return [rows[name] for name in self.plan.engines if name in rows]

    def in_sync(self) -> bool:
        """Whether every SE is UP with what it should have."""
        rows = self.engine_rows()
        return len(rows) == len(self.plan.engines) and all(
            row["state"] == "UP" and row["in_sync"] and row.get("version") for row in rows
        )

    # Waiting and ending

    async def _until(self, what: Callable[[], bool], who: str, limit_s: float) -> None:
        end = self.reactor.seconds() + limit_s
        while True:
            try:
                if await deferToThread(what):
                    return
            except AvinetError as why:
                last = str(why)
            else:
                last = "not yet"
            if len(self.died) >= (MAX_DEATHS if self.restart else 1):
                raise self._failed(self.died[-1])
            if self.reactor.seconds() > end:
                raise self._failed(f"{who} took over {limit_s:.0f} s ({last})")
            await deferLater(self.reactor, POLL_S)

    def _failed(self, what: str) -> DemoFailedError:
        return DemoFailedError(what=what, folder=self.plan.folder, tail=self._tail())

    def _tail(self) -> str:
        """The end of the log of whoever died last, or of the first controller."""
        name = self.died[-1].split(":")[0] if self.died else self.plan.first.name
        try:
            return f"\n--- {name}.log\n" + (self.plan.folder / f"{name}.log").read_text()[-LOG_TAIL_CHARS:]
        except OSError:
            return ""

    def stop_all(self) -> Deferred[None]:
        """Agents and their Envoys first, then the rest; fires when all are gone."""
        return Deferred.fromCoroutine(self._stop_all())

    async def _stop_all(self) -> None:
        engines = [self.children[name] for name in self.plan.engines if name in self.children]
        await gatherResults([child.stop() for child in engines])
        for name in self.plan.engines:
            await deferToThread(stop_data_plane, self.plan.engine_state(name) / "data-plane")
        await gatherResults([child.stop() for child in self.children.values()])
