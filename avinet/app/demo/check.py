"""``avinet demo --check``: the running demo looked at from outside, one line a fact."""

import http.client
import os
import secrets
import shutil
import signal
import socket
import ssl
import subprocess
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import attrs

from avinet.app.cli.errors import RefusedError
from avinet.app.demo.stage import Stage
from avinet.errors import AvinetError
from avinet.model.ids import controller_dns_name
from avinet.trust.node import ControllerPaths, read_cluster

REQUESTS = 60
BACK_WITHIN_S = 60.0
"""For a killed agent to be up and in sync again, its supervisor's back-off of 2 s included."""
SSH_TIMEOUT_S = 20
PULLED_WITHIN_S = 30.0
"""A few thousand records; the first answer of a query starts its worker."""
WRONG = b"kind: VirtualService\nname: wrong\npool_ref: no-such-pool\nservices: [{port: 99999}]\n"


@attrs.define
class Check:
    """Blocking; runs in a thread.  ``say`` gets a line a fact, ``failed`` counts those that do not hold."""

    stage: Stage
    say: Callable[[str], None]
    failed: int = attrs.field(default=0, init=False)

    def run(self) -> bool:
        """Whether everything holds."""
        for fact in (
            self._traffic,
            self._certificate,
            self._commands,
            self._refusal,
            self._agent_killed,
            self._traffic,
            self._logs,
        ):
            try:
                fact()
            except (AvinetError, OSError, http.client.HTTPException, subprocess.SubprocessError) as why:
                self._note(f"{fact.__name__.strip('_')}: {type(why).__name__}: {why}", holds=False)
        return not self.failed

    def _note(self, what: str, *, holds: bool) -> None:
        self.failed += not holds
        self.say(f"{'ok   ' if holds else 'FAIL '} {what}")

    def _answers(self, count: int, path: str = "/") -> list[str]:
        where = urlsplit(self.stage.plan.url)
        answers: list[str] = []
        for _ in range(count):
            connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=5)
            try:
                connection.request("GET", path)
                response = connection.getresponse()
                body = response.read().decode("utf-8", "replace").strip()
                answers.append(body if response.status == 200 else f"status {response.status}")
            except OSError as why:
                answers.append(f"failed: {why}")
            finally:
                connection.close()
        return answers

    def _traffic(self) -> None:
        answers = self._answers(REQUESTS)
        servers = {a for a in answers if a.startswith("hello from")}
        good = sum(a in servers for a in answers)
        what = (
            f"{good} of {REQUESTS} requests through {self.stage.plan.url} answered, by {len(servers)} servers"
        )
        self._note(what, holds=good == REQUESTS and len(servers) == len(self.stage.plan.ports.backends))

    def _certificate(self) -> None:
        plan = self.stage.plan
        paths = ControllerPaths(plan.first.state)
        name = controller_dns_name(read_cluster(plan.first.state)[0])
        context = ssl.create_default_context(cafile=os.fspath(paths.root_pem))
        with (
            socket.create_connection((plan.first.address, plan.first.ports.registration), 5) as plain,
            context.wrap_socket(plain, server_hostname=name) as tls,
        ):
            version = tls.version()
        what = f"the registration port chains to the root CA, bears {name}, speaks {version}"
        self._note(what, holds=version == "TLSv1.3")

    def _commands(self) -> None:
        plan, ssh = self.stage.plan, shutil.which("ssh")
        if ssh is None:
            self._note("OpenSSH is not installed: commands on SEs were not tried with it", holds=True)
            return
        paths = ControllerPaths(plan.first.state)
        for row in self.stage.engine_rows():
            options = ("-F", "none", "-o", "BatchMode=yes", "-o", "IdentitiesOnly=yes")
            known = ("-o", "StrictHostKeyChecking=yes", "-o", f"UserKnownHostsFile={paths.known_hosts}")
            where = (
                "-i",
                os.fspath(paths.id_se),
                "-p",
                str(plan.first.ports.reverse),
                f"aviseuser@{row['loopback']}",
            )
            command = plan.first.inside(ssh, *options, *known, *where, "echo hello; exit 7")
            ran = subprocess.run(command, capture_output=True, text=True, timeout=SSH_TIMEOUT_S, check=False)
            what = f"ssh runs a command on {row['name']} at {row['loopback']} and gets its exit status"
            holds = ran.returncode == 7 and ran.stdout.strip() == "hello"
            self._note(what + ("" if holds else f": {ran.returncode} {ran.stderr.strip()}"), holds=holds)

    def _refusal(self) -> None:
        try:
            self.stage.client.post("/api/config", raw=WRONG, content_type="application/yaml")
        except RefusedError as why:
            self._note("a wrong configuration is refused by path", holds="services[0].port" in str(why))
        else:
            self._note("a wrong configuration was taken", holds=False)

    def _agent_killed(self) -> None:
        """Traffic goes on while an agent is dead, and the next one is back in sync."""
        name = self.stage.plan.engines[0]
        pid = self.stage.children[name].pid
        if pid is None or not self.stage.restart:
            return
        os.kill(pid, signal.SIGKILL)
        answers = self._answers(REQUESTS)
        good = sum(a.startswith("hello from") for a in answers)
        self._note(
            f"{good} of {REQUESTS} requests answered while {name}'s agent is dead", holds=good == REQUESTS
        )
        start = time.monotonic()
        while time.monotonic() - start < BACK_WITHIN_S:
            if self.stage.children[name].pid not in {None, pid} and self.stage.in_sync():
                took_s = time.monotonic() - start
                self._note(f"{name}'s agent is back and in sync {took_s:.1f} s later", holds=True)
                return
            time.sleep(0.2)
        self._note(f"{name}'s agent is not back in sync after {BACK_WITHIN_S:.0f} s", holds=False)

    def _logs(self) -> None:
        """Every request that was answered is in the logs once, when they are asked for."""
        path = f"/logged-{secrets.token_hex(4)}"
        answered = sum(not answer.startswith("failed") for answer in self._answers(REQUESTS, path))
        client = self.stage.client
        pull = client.post("/api/logs/pull", {"since": "5m"})
        start = time.monotonic()
        while not (pull["state"] in {"done", "failed"} and pull["stored"]):
            if time.monotonic() - start > PULLED_WITHIN_S:
                break
            time.sleep(0.2)
            pull = client.get(f"/api/logs/pull/{pull['id']}")
        found = client.get("/api/logs/query", {"count": "true", "q": f"path={path} since 5m"})["count"]
        what = f"{found} of {answered} requests are in the logs, pulled in {time.monotonic() - start:.1f} s"
        self._note(what, holds=found == answered)
