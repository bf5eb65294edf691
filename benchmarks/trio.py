"""Three real controllers of one cluster for benchmarks and faults, each in a network namespace where that can be had."""

import contextlib
import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs

from avinet.app.cli.client import Client
from avinet.app.demo.joining import controller_command, join
from avinet.app.demo.namespaces import Namespaces, NoNamespacesError
from avinet.app.demo.plan import ControllerPlan, controller_plans
from avinet.app.demo.ports import DemoPorts, choose_ports
from avinet.errors import AvinetError
from avinet.trust.files import private_dir
from avinet.trust.node import ControllerPaths
from avinet.units import KIB
from benchmarks.controller import STRANGERS
from benchmarks.harness import progress
from benchmarks.processes import bound_to_us, cpu_s, end, until
from benchmarks.real_engine import image_in

SIZE = 3
BACKENDS = 2
"""Ports for whoever has traffic go through it."""
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
LOG_TAIL_CHARS = 1_500


@attrs.define(eq=False)
class Trio:
    """``folder`` holds all of it.  ``start`` first; ``controllers[0]`` is there first and has the root key.

    To whatever wants one controller (``benchmarks.config_fleets``) it is the leader.
    """

    folder: Path
    more_settings: str = ""
    """Of each controller."""
    namespaces: Namespaces | None = attrs.field(default=None, init=False)
    controllers: tuple[ControllerPlan, ...] = attrs.field(default=(), init=False)
    ports: DemoPorts = attrs.field(factory=lambda: choose_ports(BACKENDS, SIZE), init=False)
    _processes: dict[str, subprocess.Popen[bytes]] = attrs.field(factory=dict, init=False, repr=False)

    def start(self) -> None:
        """From nothing to three that see each other."""
        if self.controllers:
            return
        private_dir(self.folder)
        try:
            self.namespaces = Namespaces.make(SIZE)
        except NoNamespacesError as why:
            progress("{why} Their state engines are linked directly.", why=str(why))
        self.controllers = controller_plans(self.folder, self.ports, self.namespaces)
        for number, one in enumerate(self.controllers, 1):
            text = one.settings_text().replace(
                "[ssh]\n", f"[ssh]\nmax_unauthenticated_per_network = {STRANGERS}\n"
            )
            one.settings.write_text(text.split("[control]")[0] + self.more_settings)
            if number > 1:
                join(self.controllers[0], one)
            self.spawn(one)
            self.until_whole(self.controllers[:number])

    def spawn(self, one: ControllerPlan, **environment: str) -> None:
        """Start, and wait for nothing; with more in its environment."""
        with (self.folder / f"{one.name}.log").open("ab") as log:
            self._processes[one.name] = subprocess.Popen(
                bound_to_us(*controller_command(one)),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, **environment},
            )

    def until_whole(self, some: Sequence[ControllerPlan] = ()) -> None:
        """Wait until all of them are ready, see each other, and one leads."""
        wanted = {one.name for one in some or self.controllers}

        def whole() -> bool:
            for one in some or self.controllers:
                if self._processes[one.name].poll() is not None:
                    raise RuntimeError(f"{one.name} ended:\n{self._tail(one)}")
            for one in some or self.controllers:
                roles = self.roles(one)
                if not wanted <= roles.keys() or sorted(roles.values()).count("leader") != 1:
                    return False
                if "unreachable" in roles.values() or not self._ready(one):
                    return False
            return True

        until(whole, START_LIMIT_S, "all controllers ready and linked")

    def _ready(self, one: ControllerPlan) -> bool:
        with contextlib.suppress(AvinetError):
            return bool(self.client_of(one).get("/readyz").get("status") == "ok")
        return False

    def _tail(self, one: ControllerPlan) -> str:
        return (self.folder / f"{one.name}.log").read_text(errors="replace")[-LOG_TAIL_CHARS:]

    # Whom to ask

    def client_of(self, one: ControllerPlan) -> Client:
        """The operator API over its socket."""
        return Client.unix(ControllerPaths(one.state).api_socket)

    def roles(self, one: ControllerPlan) -> dict[str, str]:
        """Who is what, as one of them says; empty when it does not answer."""
        with contextlib.suppress(AvinetError):
            answer = self.client_of(one).get("/api/cluster")
            return {member["name"]: member["role"] for member in answer["members"]}
        return {}

    def alive(self) -> Iterator[ControllerPlan]:
        """Those whose process runs."""
        for one in self.controllers:
            process = self._processes.get(one.name)
            if process is not None and process.poll() is None:
                yield one

    def leader(self) -> ControllerPlan:
        """Who leads now, as those that are alive say."""
        for one in self.alive():
            roles = self.roles(one)
            for other in self.controllers:
                if roles.get(other.name) == "leader":
                    return other
        raise RuntimeError("nobody leads")

    def others(self, one: ControllerPlan) -> list[ControllerPlan]:
        """All but one, in random order."""
        return random.sample([each for each in self.controllers if each is not one], SIZE - 1)

    @property
    def client(self) -> Client:
        """The leader's."""
        return self.client_of(self.leader())

    def image(self) -> Path:
        """The SE image, as it was when it was asked for first."""
        return image_in(self.folder, self.client)

    def status(self) -> dict[str, Any]:
        """The leader's ``GET /api/status``."""
        answer: dict[str, Any] = self.client.get("/api/status")
        return answer

    # What is done to them

    def pid(self, one: ControllerPlan) -> int:
        """Of its process."""
        return self._processes[one.name].pid

    def kill(self, one: ControllerPlan) -> None:
        """SIGKILL; its children end with it."""
        process = self._processes[one.name]
        process.kill()
        process.wait()

    @contextlib.contextmanager
    def frozen(self, one: ControllerPlan) -> Iterator[None]:
        """SIGSTOP, and SIGCONT in the end."""
        os.kill(self.pid(one), signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.pid(one), signal.SIGCONT)

    def restart(self, one: ControllerPlan) -> float:
        """Stop it as a service manager would, and start it again; seconds that the stop took."""
        begun = time.monotonic()
        if not end(self._processes[one.name], STOP_LIMIT_S):
            raise RuntimeError(f"{one.name} did not stop:\n{self._tail(one)}")
        stopped_s = time.monotonic() - begun
        self.back(one)
        return stopped_s

    def back(self, one: ControllerPlan) -> float:
        """Start it again; seconds until all are linked."""
        begun = time.monotonic()
        self.spawn(one)
        self.until_whole()
        return time.monotonic() - begun

    def stop(self) -> None:
        """All of it."""
        for one in self.controllers:
            process = self._processes.get(one.name)
            if process is not None and not end(process, STOP_LIMIT_S):
                progress("{name} did not stop and was killed", name=one.name)
        if self.namespaces is not None:
            self.namespaces.remove()

    # What the kernel says

    def resident_kib(self, one: ControllerPlan) -> float:
        """Its resident memory, without its children's."""
        pages = int(Path(f"/proc/{self.pid(one)}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / KIB

    def cpu_s(self, one: ControllerPlan | None = None) -> float:
        """User and system time since it started; of all without one."""
        return sum(cpu_s(self.pid(each)) for each in ([one] if one else self.alive()))

    def sessions(self, one: ControllerPlan) -> int:
        """How many engines are attached to it; 0 while it does not answer."""
        with contextlib.suppress(AvinetError):
            lines = self.client_of(one).text("/metrics").splitlines()
            return int(float(next(line for line in lines if line.startswith("avinet_sessions ")).split()[1]))
        return 0

    def metrics(self) -> str:
        """The leader's ``GET /metrics``, as text."""
        return self.client.text("/metrics")
