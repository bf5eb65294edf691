"""Real service engines for benchmarks: ``twistd -n avise`` with an Envoy of its own, each in a folder, on loopback."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Protocol

import attrs
import msgspec

from avinet.app.cli.client import Client
from avinet.dataplane.envoy import stop_data_plane
from avinet.errors import AvinetError
from avinet.trust.files import private_dir, write_private
from avinet.wire.registration import MetaInfo
from benchmarks.controller import TWISTD, BenchController
from benchmarks.processes import bound_to_us, end, until

UP_LIMIT_S = 60.0
SETTINGS = "[uplink]\nbackoff_base_s = 0.2\nbackoff_cap_s = 1.0\n[data_plane]\nconcurrency = 1\n"
"""One worker, as the bare Envoy has; all else are defaults."""
HEARTBEAT_S, MISSES = 0.2, 5
LISTEN = "0A"
"""Of /proc/net/tcp (TCP_LISTEN, linux/tcp_states.h)."""


class Home(Protocol):
    """What an engine wants of whoever has the controllers."""

    @property
    def folder(self) -> Path:
        """Where its own is made."""

    @property
    def client(self) -> Client:
        """The operator API."""

    def image(self) -> Path:
        """The SE image's file."""


class QuickController(BenchController):
    """One that notices a dead engine after a second."""

    def settings(self) -> str:
        """With a heartbeat of its own."""
        beat = f"[control]\nheartbeat_interval_s = {HEARTBEAT_S}\nheartbeat_misses = {MISSES}\n"
        return super().settings() + beat

    def image(self) -> Path:
        """Built once."""
        return image_in(self.folder, self.client)

    def wait(self, version: int, limit_s: float = 60.0) -> dict[str, Any]:
        """Until it is in force; how long it took, as the controller has it."""
        query = {"wait": version, "timeout": limit_s}
        answer = self.client.get("/api/config/status", query, timeout_s=limit_s + 5)
        return next(row for row in answer["versions"] if row["version"] == version)


def image_in(folder: Path, client: Client) -> Path:
    """Downloaded once."""
    path = folder / "image.tar"
    if not path.exists():
        with path.open("wb") as out:
            client.download("/api/image", {}, out)
        path.chmod(0o600)
    return path


@attrs.define(eq=False)
class RealEngine:
    """One, by name."""

    controller: Home
    name: str
    group: str = "Default-Group"
    _process: subprocess.Popen[bytes] | None = attrs.field(default=None, init=False)

    @property
    def folder(self) -> Path:
        """Its own; short, for Envoy's sockets."""
        return self.controller.folder / self.name

    def start(self) -> None:
        """Enrol the first time; returns when the controller says that it is UP."""
        if self._process is None:
            self.spawn()
        until(self.is_up, UP_LIMIT_S, f"{self.name} is UP")

    def spawn(self) -> None:
        """Start the agent, and wait for nothing."""
        private_dir(self.folder)
        settings = self.folder / "se.toml"
        settings.write_text(SETTINGS)
        first = ()
        if not (self.folder / "meta.json").exists():
            wish = {"name": self.name, "cloud": "manual", "group": self.group}
            made = self.controller.client.post("/api/serviceengine", wish)
            meta = msgspec.json.encode(msgspec.convert(made["meta_info"], MetaInfo))
            write_private(self.folder / "meta.json", meta)
            first = (
                *("--image", os.fspath(self.controller.image())),
                *("--meta-info", os.fspath(self.folder / "meta.json")),
            )
        command = (
            *bound_to_us(sys.executable, "-c", TWISTD, "--nodaemon", "avise"),
            *("--state", os.fspath(self.state), "--config", os.fspath(settings), *first),
        )
        with (self.folder / "agent.log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        """SIGKILL for the agent; its Envoy goes on."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    @property
    def state(self) -> Path:
        """Its state folder."""
        return self.folder / "se"

    def is_up(self) -> bool:
        """UP and in sync, as the controller says; an error when the agent has ended."""
        if self._process is None or self._process.poll() is not None:
            log = (self.folder / "agent.log").read_text(errors="replace")[-2000:]
            raise RuntimeError(f"{self.name} ended:\n{log}")
        try:
            row = self.controller.client.get(f"/api/serviceengine/{self.name}")
        except AvinetError:
            return False
        return bool(row["state"] == "UP" and row["in_sync"])

    def serves(self, port: int) -> bool:
        """Whether its Envoy listens on this port, by what the kernel says."""
        lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        inodes = {
            f"socket:[{fields[9]}]"
            for fields in lines
            if fields[3] == LISTEN and int(fields[1].rpartition(":")[2], 16) == port
        }
        return any(_open_files(pid) & inodes for pid in self.envoys())

    def envoys(self) -> list[int]:
        """Processes that have its folder in their command line and are not its agent."""
        found: list[int] = []
        for entry in Path("/proc").iterdir():
            if not entry.name.isdigit():
                continue
            try:
                command = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            words = command.split(b"\0")
            if words[0].endswith(b"envoy") and os.fspath(self.folder).encode() in command:
                found.append(int(entry.name))
        return found

    def vanish(self) -> float:
        """As if the machine were gone: SIGKILL for the agent and its Envoy; when."""
        pids = self.envoys()
        if self._process is None or not pids:
            raise RuntimeError(f"{self.name} has no Envoy to kill")
        at = time.time()
        for pid in (self._process.pid, *pids):
            os.kill(pid, signal.SIGKILL)
        self.kill()
        return at

    def stop(self) -> None:
        """Agent and data plane."""
        if self._process is not None:
            end(self._process)
            self._process = None
        if self.state.exists():
            stop_data_plane(self.state / "data-plane")


def _open_files(pid: int) -> set[str]:
    found: set[str] = set()
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.add(os.fspath(entry.readlink()))
    return found
