"""A cluster of real processes for tests: one controller, agents with their Envoys, and servers, on loopback.

A ``Site`` lives in a folder of its own and ends everything it started in ``close``, whatever happened.  Children also
end with this process (``avinet.cloud.launch``).  All of it blocks: these tests watch processes from outside and need
no reactor.
"""

import contextlib
import http.client
import http.server
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import attrs
import msgspec

from avinet.app.cli.client import Client
from avinet.app.demo.plan import ControllerPlan, DemoPlan
from avinet.app.demo.ports import ControllerPorts, DemoPorts
from avinet.cloud.launch import PARENT_GONE
from avinet.dataplane.envoy import stop_data_plane
from avinet.errors import AvinetError
from avinet.trust.files import private_dir, write_private
from avinet.trust.node import ControllerPaths
from avinet.wire.registration import MetaInfo

LIMIT_S = 40.0
"""For whatever takes 2 s on an idle machine."""
POLL_S = 0.05
TWISTD = "import sys; from twisted.scripts.twistd import run; sys.argv[0] = 'twistd'; run()"
HEARTBEAT = "heartbeat_interval_s = 0.2\nheartbeat_misses = 5\n"
"""A dead peer is noticed after a second, which a busy machine's live peer does not miss."""

_taken = set()


def free_port():
    """One that no outgoing connection can have taken by chance: below the kernel's range for those (32768)."""
    while True:
        port = random.randint(20000, 32000)
        if port in _taken:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("0.0.0.0", port))
            except OSError:
                continue
        _taken.add(port)
        return port


def until(what, limit_s=LIMIT_S, why="it did not happen in time", poll_s=POLL_S):
    """Wait for a true answer, and give it; errors of avinet's client count as not yet."""
    end = time.monotonic() + limit_s
    why_not = None
    while time.monotonic() < end:
        try:
            last = what()
        except (AvinetError, OSError, http.client.HTTPException) as failure:
            last = None
            why_not = failure
        else:
            if last:
                return last
            why_not = last
        time.sleep(poll_s)
    raise AssertionError(f"{why() if callable(why) else why} (last: {why_not!r})")


class Named(http.server.BaseHTTPRequestHandler):
    """Answers with the server's name."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        body = f"hello from {self.server.name}\n".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


class Backend:
    """A small server in a thread."""

    def __init__(self, name, port):
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Named)
        self.server.daemon_threads = True
        self.server.name = name
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Process:
    """One child; its output goes to a file that ``log`` reads."""

    def __init__(self, name, folder, arguments, environment=None):
        self.name = name
        self.path = folder / f"{name}.log"
        launcher = (sys.executable, "-m", "avinet.cloud.launch", str(os.getpid()))
        with self.path.open("ab") as out:
            self._begin = out.tell()
            self.popen = subprocess.Popen(
                (*launcher, *arguments),
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(environment or {})},
            )

    @property
    def pid(self):
        return self.popen.pid

    @property
    def log(self):
        return self.path.read_text(errors="replace")

    def said(self, word):
        """Whether this process did, and not one before it of the same name."""
        return word in self.path.read_bytes()[self._begin :].decode(errors="replace")

    @property
    def running(self):
        return self.popen.poll() is None

    def signal(self, number):
        if self.running:
            self.popen.send_signal(number)

    def wait(self, limit_s=LIMIT_S):
        """Its exit status."""
        try:
            status = self.popen.wait(limit_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end:\n{self.log[-3000:]}") from None
        assert status != PARENT_GONE
        return status

    def kill(self):
        """As a power cut would."""
        self.signal(signal.SIGKILL)
        self.popen.wait()

    def stop(self):
        """As a service manager would; its exit status, that of SIGTERM itself when it stopped in good order."""
        self.signal(signal.SIGTERM)
        return self.wait()

    def until_logged(self, *words, limit_s=LIMIT_S):
        def said():
            log = self.log
            return all(word in log for word in words)

        until(said, limit_s, lambda: f"{self.name} never said {words}:\n{self.log[-3000:]}")


class Site:
    """One controller and what belongs to it."""

    def __init__(self, folder, control=HEARTBEAT, name="c1"):
        self.folder = Path(folder)
        self.name = name
        private_dir(self.folder)
        own = ControllerPorts(*(free_port() for _ in range(6)))
        ports = DemoPorts((own,), free_port(), (free_port(), free_port()))
        self.ports = SimpleNamespace(**attrs.asdict(own), service=ports.service, backends=ports.backends)
        self.plan = DemoPlan(self.folder, (ControllerPlan(name, self.folder, own),), ports, ())
        self.control = control
        self.control_port = free_port()
        self.state = self.plan.first.state
        self.paths = ControllerPaths(self.state)
        self.client = Client.unix(self.paths.api_socket)
        self.processes = []
        self.backends = []
        self.engine_states = []
        self.controller = None
        self.write_settings()

    # The controller

    def write_settings(self, control=None):
        text = self.plan.first.settings_text().split("[control]")[0]
        text += f"[control]\nport = {self.control_port}\nreport_interval_s = 2.0\n{control or self.control}"
        write_private(self.plan.settings("controller"), text.encode())
        return self.plan.settings("controller")

    def write_se_settings(self, name="se", uplink="backoff_base_s = 0.2\nbackoff_cap_s = 1.0\n", more=""):
        text = f"[uplink]\n{uplink}\n[data_plane]\nconcurrency = 1\ndrain_s = 1\n{more}"
        write_private(self.plan.settings(name), text.encode())
        return self.plan.settings(name)

    def run_controller(self, environment=None, state=None, config=None, name=None):
        arguments = (
            *("--state", str(state or self.state)),
            *("--config", str(config or self.plan.settings("controller"))),
        )
        return self._run(name or self.name, "avicontroller", arguments, environment)

    def start(self, environment=None):
        """A controller that is ready."""
        self.controller = self.run_controller(environment)
        self.until_ready()
        return self

    def until_ready(self):
        def ready():
            assert self.controller.running, self.controller.log[-3000:]
            return self.client.get("/readyz", timeout_s=5)["status"] == "ok"

        until(ready, why=lambda: f"the controller is not ready:\n{self.controller.log[-3000:]}")

    # Service engines

    def image(self, name="image", **wish):
        """The path of a built image; built once a name."""
        path = self.folder / f"{name}.tar"
        if not path.exists():
            with open(path, "wb", opener=lambda p, flags: os.open(p, flags, 0o600)) as out:
                self.client.download("/api/image", wish, out)
        return path

    def create(self, name, **wish):
        """A record with its meta-info's path."""
        made = self.client.post("/api/serviceengine", {"name": name, "cloud": "manual", **wish})
        return self.write_meta(name, made["meta_info"])

    def write_meta(self, name, meta):
        path = self.plan.meta_info(name)
        write_private(path, msgspec.json.encode(msgspec.convert(meta, MetaInfo)))
        return path

    def token(self, **wish):
        """(meta-info, token's row) of a new token."""
        made = self.client.post("/api/setoken", wish)
        return made["meta_info"], made["token"]

    def engine_state(self, name):
        state = self.plan.engine_state(name)
        if state not in self.engine_states:
            self.engine_states.append(state)
        return state

    def run_engine(self, name, *, image=None, meta=None, state=None, config=None, environment=None):
        """An agent; with neither image nor meta-info, one that must have enrolled."""
        state = state or self.engine_state(name)
        if state not in self.engine_states:
            self.engine_states.append(state)
        config = config or self.plan.settings("se")
        if not config.exists():
            self.write_se_settings()
        arguments = ["--state", str(state), "--config", str(config)]
        if image is not None:
            arguments += ["--image", str(image)]
        if meta is not None:
            arguments += ["--meta-info", str(meta)]
        return self._run(name, "avise", arguments, environment)

    def add_engine(self, name, *, wait=True, **wish):
        """Create and start one; UP and in sync when this returns."""
        agent = self.run_engine(name, image=self.image(), meta=self.create(name, **wish))
        if wait:
            self.until_up(name, agent)
        return agent

    def row(self, name):
        return self.client.get(f"/api/serviceengine/{name}", timeout_s=5)

    def rows(self):
        return self.client.get("/api/serviceengine")["results"]

    def until_state(self, name, state, limit_s=LIMIT_S):
        return until(lambda: (r := self.row(name))["state"] == state and r, limit_s, f"{name} is not {state}")

    def until_up(self, name, agent=None, limit_s=LIMIT_S, version=None):
        """Its row, once it is UP with the configuration of now (or ``version``, or later) in force."""

        def up():
            if agent is not None:
                assert agent.running, agent.log[-3000:]
                if not agent.said("attached to"):
                    return None  # the controller may not have noticed yet that the one before is gone
            row = self.row(name)
            good = row["state"] == "UP" and row["in_sync"] and (row["version"] or 0) >= (version or 0)
            return row if good else None

        def tail():
            return f"{name} is not up and in sync: {self.row(name)}\n{agent.log[-3000:] if agent else ''}"

        return until(up, limit_s, tail)

    def stop_engine(self, name):
        """Its agent by the operator's own command, and its data plane."""
        return self.cli("se", "stop", "--agent", "--data-plane", "--state", str(self.engine_state(name)))

    # Configuration, traffic, events

    def serve(self):
        """The demo's configuration with its two servers; the answer to the apply."""
        if not self.backends:
            for number, port in enumerate(self.ports.backends, 1):
                self.backends.append(Backend(f"backend-{number}", port))
        return self.apply(self.plan.configuration().replace("send_interval: 2", "send_interval: 1"))

    def apply(self, text):
        return self.client.post("/api/config", raw=text.encode(), content_type="application/yaml")

    @property
    def version(self):
        return self.client.get("/api/config/status", timeout_s=5)["version"]

    def get(self, port=None):
        """One request through the virtual service."""
        connection = http.client.HTTPConnection("127.0.0.1", port or self.ports.service, timeout=5)
        try:
            connection.request("GET", "/")
            return connection.getresponse().read().decode().strip()
        finally:
            connection.close()

    def until_served(self, limit_s=LIMIT_S):
        until(lambda: self.get().startswith("hello from"), limit_s, "the virtual service does not answer")

    def events(self, code=None):
        found = self.client.get("/api/events", {"limit": 1000})["results"]
        return [e for e in found if code in {None, e["code"]}]

    def until_event(self, code, *words, limit_s=10.0):
        """The newest event of this code whose whole text has every word."""

        def seen():
            found = [e for e in self.events(code) if all(word in json.dumps(e) for word in words)]
            return found and found[-1]

        return until(seen, limit_s, lambda: f"no {code} with {words} in {self.events()}")

    def cli(self, *arguments, environment=None, **options):
        """The ``avinet`` program."""
        return subprocess.run(
            (sys.executable, "-c", "from avinet.app.cli.main import main; main()", *arguments),
            env={**os.environ, "AVINET_STATE": str(self.state), **(environment or {})},
            capture_output=True,
            text=options.pop("text", True),
            timeout=60,
            check=False,
            **options,
        )

    # The end

    def _run(self, name, role, arguments, environment=None):
        command = (sys.executable, "-c", TWISTD, "--nodaemon", role, *arguments)
        process = Process(name, self.folder, command, environment)
        self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            process.signal(signal.SIGCONT)
            process.signal(signal.SIGKILL)
        for process in self.processes:
            process.popen.wait()
        for state in self.engine_states:
            with contextlib.suppress(AvinetError, OSError):
                stop_data_plane(state / "data-plane")
        for backend in self.backends:
            backend.close()
