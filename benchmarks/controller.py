"""A real controller for benchmarks: ``twistd -n avicontroller`` with a state folder and ports of its own, on loopback.

Blocking: called in threads, or where nothing else runs.  The process ends with this one, however this one ends.
CPU time and memory are what the kernel says of it in /proc.
"""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import attrs

from avinet.app.cli.client import Client
from avinet.app.cli.errors import ControllerUnreachableError, RefusedError
from avinet.app.demo.ports import ControllerPorts, choose_ports
from avinet.trust.files import private_dir
from avinet.trust.node import ControllerPaths
from avinet.units import KIB
from benchmarks.harness import progress
from benchmarks.processes import bound_to_us, cpu_s, end

START_LIMIT_S = 60.0
STOP_LIMIT_S = 30.0
POLL_S = 0.05
LOG_TAIL_CHARS = 2000
STRANGERS = 1024
"""A simulated fleet is one network and dials like many: per-network bound of the SSH port raised to its total.
The bound for a network from which SEs have logged in (512) is no setting, so who dials has to stay under it."""

TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"


@attrs.define(eq=False)
class BenchController:
    """``folder`` holds state, settings and log; ``profiles``, if given, gets one file of cProfile's a start."""

    folder: Path
    profiles: Path | None = None
    ports: ControllerPorts = attrs.field(factory=lambda: choose_ports(0).controllers[0], init=False)
    starts: int = attrs.field(default=0, init=False)
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "controller"

    @property
    def client(self) -> Client:
        """The operator API over its socket."""
        return Client.unix(ControllerPaths(self.state).api_socket)

    @property
    def pid(self) -> int:
        """Of the process that runs."""
        if self._process is None:
            raise AssertionError("not started")
        return self._process.pid

    def settings(self) -> str:
        """TOML: defaults, but for addresses, ports and the bound named above."""
        ports = self.ports
        return f"""\
[controller]
name = "bench"
addresses = ["127.0.0.1"]
[ssh]
bind = "127.0.0.1"
port = {ports.ssh}
reverse_port = {ports.reverse}
max_unauthenticated_per_network = {STRANGERS}
[registration]
bind = "127.0.0.1"
port = {ports.registration}
[api]
bind = "127.0.0.1"
port = {ports.api}
"""

    def start(self) -> None:
        """Start, and wait until it is ready."""
        if self._process is None:
            self.spawn()
        self._until_ready()

    def spawn(self) -> None:
        """Start, and wait for nothing."""
        private_dir(self.folder)
        settings = self.folder / "controller.toml"
        settings.write_text(self.settings())
        self.starts += 1
        profile: tuple[str, ...] = ()
        if self.profiles is not None:
            out = self.profiles / f"controller-{self.starts}.pstats"
            profile = ("--profile", os.fspath(out), "--profiler", "cprofile", "--savestats")
        command = (
            *bound_to_us(sys.executable, "-c", TWISTD, "--nodaemon", *profile),
            *("avicontroller", "--state", os.fspath(self.state), "--config", os.fspath(settings)),
        )
        with (self.folder / "controller.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def _until_ready(self) -> None:
        end = time.monotonic() + START_LIMIT_S
        while time.monotonic() < end:
            if self._process is None or self._process.poll() is not None:
                break
            try:
                if self.client.get("/readyz").get("status") == "ok":
                    return
            except (ControllerUnreachableError, RefusedError):
                pass
            time.sleep(POLL_S)
        log = (self.folder / "controller.log").read_text(errors="replace")[-LOG_TAIL_CHARS:]
        raise RuntimeError(f"the controller did not start:\n{log}")

    def stop(self) -> None:
        """SIGTERM; SIGKILL when that is not enough."""
        process, self._process = self._process, None
        if process is not None and not end(process, STOP_LIMIT_S):
            progress("the controller did not stop in {limit} s and was killed", limit=STOP_LIMIT_S)

    def restart(self) -> None:
        """As after a crash, but in good order."""
        self.stop()
        self.start()

    # What the kernel says

    def cpu_s(self) -> float:
        """User and system time since it started."""
        return cpu_s(self.pid)

    def resident_kib(self) -> float:
        """Its resident memory."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / KIB

    # What it says

    def status(self) -> dict[str, Any]:
        """``GET /api/status``."""
        answer: dict[str, Any] = self.client.get("/api/status")
        return answer

    def metrics(self) -> str:
        """``GET /metrics``, as text."""
        return self.client.text("/metrics")

    def apply(self, yaml: str) -> int:
        """Apply documents; the version that came of it."""
        answer = self.client.post("/api/config", raw=yaml.encode(), content_type="application/yaml")
        return int(answer["version"])
