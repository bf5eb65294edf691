"""Requests that clients had answered against the logs of them, while agents and the controller are killed outright.

A real controller and two real service engines, each with an Envoy and virtual services of its own.  A client asks for
one path after another, each path once.  Meanwhile operators ask for logs, and at random instants, or as one of its files
comes or goes, an agent or the controller gets SIGKILL; some again while it comes back.  Envoys are spared, as an agent's
death spares them: every request is answered.  In the end all logs are pulled and each path is looked for: once is right.
"""

import contextlib
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec

from benchmarks.bare_envoy import BareEnvoy, servers
from benchmarks.harness import progress
from benchmarks.log_requests import HOST, MAX_ROWS, Requests, answers, logged_service
from benchmarks.processes import until
from benchmarks.real_engine import QuickController, RealEngine

LONGEST_S = 3.0
"""From one kill to the next, at most; what was killed takes two or three to be back."""
MOMENT_SHARE = 0.7
"""Of kills that come as a file of the victim comes or goes: between one step with logs and the next."""
MOMENT_LIMIT_S = 4.0
"""Significant logs are taken each two seconds."""
AGAIN_SHARE = 0.3
"""Of kills that hit what is just coming back."""
SERVE_LIMIT_S = 60.0
BACK_LIMIT_S = 90.0
PULL_LIMIT_S = 300.0
ENGINES = ("a", "b")
"""Each in a group of its own, so that nothing moves when an agent is down."""


@attrs.frozen
class Tally:
    """What came of it."""

    answered: int
    unanswered: int
    """Requests without an answer: their logs may be there or not."""
    lost: int
    doubled: int
    strange: int
    """Logs of requests that nobody made."""


@attrs.define(eq=False)
class Kills:
    """``port`` and those after it are free."""

    controller: QuickController
    port: int
    draw: random.Random = attrs.field(factory=lambda: random.Random(5))
    servers: BareEnvoy = attrs.field(init=False)
    engines: tuple[RealEngine, ...] = attrs.field(init=False)
    client: Requests = attrs.field(init=False)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Started, and stopped whatever happens."""
        progress("starting a controller, two engines and servers")
        self.servers = servers(self.controller.folder, [self.port])
        self.engines = tuple(RealEngine(self.controller, name, name) for name in ENGINES)
        first = self.port + 2
        ports = tuple((first + 2 * n, first + 2 * n + 1) for n in range(len(ENGINES)))
        self.client = Requests("k", ports)
        try:
            self.controller.start()
            self.servers.start()
            for engine, (works, fails) in zip(self.engines, ports, strict=True):
                group = {"kind": "ServiceEngineGroup", "name": engine.group, "max_scaleout_per_vs": 1}
                self._apply(group)
                engine.start()
                self._apply(*logged_service(f"{engine.name}-works", engine.group, self.port, works))
                self._apply(*logged_service(f"{engine.name}-fails", engine.group, self.port + 1, fails))
            for port in (port for pair in ports for port in pair):
                until(partial(answers, port), SERVE_LIMIT_S, "the virtual service answers")
            yield
        finally:
            self.client.stop()
            for engine in self.engines:
                engine.stop()
            self.servers.stop()
            self.controller.stop()

    def _apply(self, *documents: dict[str, Any]) -> None:
        self.controller.client.post("/api/config", documents)

    def run(self, kills: int) -> Tally:
        """All of it."""
        self.client.start()
        for turn in range(kills):
            self.client.round = turn
            time.sleep(self.draw.uniform(0, LONGEST_S))
            if self.draw.random() < 0.5:
                self._ask_for_logs()
                time.sleep(self.draw.uniform(0, 0.5))
            self._kill(turn)
        self.client.stop()
        for engine in self.engines:
            until(engine.is_up, BACK_LIMIT_S, f"{engine.name} is back")
        return self._tally(kills)

    def _kill(self, turn: int) -> None:
        victims: tuple[RealEngine | QuickController, ...] = (*self.engines, self.controller)
        # Each in turn, so that a few kills hit all of them; the instant is what is random.
        victim = victims[turn % len(victims)]
        name = victim.name if isinstance(victim, RealEngine) else "the controller"
        progress("kill {turn}: {name}", turn=turn + 1, name=name)
        if self.draw.random() < MOMENT_SHARE:
            _await_change(victim.state)
        victim.kill()
        if self.draw.random() < AGAIN_SHARE:
            victim.spawn()
            time.sleep(self.draw.uniform(0, 2.0))
            victim.kill()
        victim.start()

    # What an operator does

    def _ask_for_logs(self) -> None:
        """Without waiting for them; it may fail while things are down."""
        self._cli("logs", "pull", "--since", "1h", check=False)

    def _cli(self, *arguments: str, check: bool = True) -> str:
        program = (sys.executable, "-c", "from avinet.app.cli.main import main; main()")
        command = (*program, "--state", os.fspath(self.controller.state), *arguments)
        done = subprocess.run(command, capture_output=True, text=True, timeout=PULL_LIMIT_S, check=False)
        if check and done.returncode:
            raise RuntimeError(f"avinet {' '.join(arguments)}: {done.stdout[-500:]}{done.stderr[-1500:]}")
        return done.stdout

    def _query(self, words: str, *shape: str) -> Any:
        return msgspec.json.decode(self._cli("logs", "query", words, *shape, "--json"))

    def _tally(self, kills: int) -> Tally:
        self._cli("logs", "pull", "--since", "1h", "--wait")
        lost: list[str] = []
        doubled = strange = found = 0
        for turn in range(kills):
            words = f"host={HOST} path~^/{self.client.name}/{turn}/ since 1h"
            rows = self._query(words, "--top", "path", "--limit", f"{MAX_ROWS}")["results"]
            logged = {row["path"]: row["count"] for row in rows}
            answered = self.client.answered.get(turn, set())
            lost += sorted(answered - logged.keys())
            doubled += sum(count - 1 for count in logged.values())
            strange += len(logged.keys() - answered - self.client.unanswered)
            found += sum(logged.values())
        total = self._query(f"host={HOST} since 1h", "--count")["count"]
        if lost:
            progress("lost: {some}", some=lost[:5])
        return Tally(
            answered=sum(map(len, self.client.answered.values())),
            unanswered=len(self.client.unanswered),
            lost=len(lost),
            doubled=doubled,
            strange=strange + abs(total - found),
        )


def _await_change(folder: Path) -> None:
    """Until a file comes or goes."""
    until = time.monotonic() + MOMENT_LIMIT_S
    before = after = _files(folder)
    while after == before and time.monotonic() < until:
        after = _files(folder)


def _files(folder: Path) -> set[str]:
    return {os.path.join(where, name) for where, _, names in os.walk(folder) for name in names}  # noqa: PTH118 - fast
