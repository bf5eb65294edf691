"""What operators see of a change on real service engines: agents and Envoys of their own, and real requests.

An engine's Envoy has one worker, as has the bare one beside it; both ask the same servers (a bare Envoy that answers
by itself).  Everything shares the machine, so what matters is what a change costs, and the ratio, not the rates.
"""

import argparse
import contextlib
import http.client
import itertools
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import attrs

from benchmarks.bare_envoy import BareEnvoy, listens, proxy, servers
from benchmarks.harness import at_most, progress, quantile, report, times_peer
from benchmarks.load import READ_BYTES, REQUEST
from benchmarks.processes import Worker, cpu_s, until
from benchmarks.real_engine import HEARTBEAT_S, MISSES, QuickController, RealEngine

MANY_S = 3.0
SMALL_S = 0.5
SMALL_CHANGES = 5
SHARE_OF_BARE = 0.95
FAILOVER_S = 1.0
KEEP, FRESH = 16, 4
"""Connections of the load: that stay, and that are new for each request."""
RATE_CONNECTIONS = 32
SERVE_LIMIT_S = 60.0
PROBE_S = 0.01
TIMEOUT_S = 2.0
GROUP = {
    "kind": "ServiceEngineGroup",
    "name": "Default-Group",
    "max_scaleout_per_vs": 1,
    "down_delay_s": 0,
    "drain_s": 0,
}


@attrs.frozen
class Plan:
    """How much of each."""

    services: int
    changes: int
    rounds: int
    round_s: float
    kills: int


@attrs.define(eq=False)
class Engines:
    """A controller, an engine or two, and servers.  ``port`` and those after it are free for services."""

    controller: QuickController
    arguments: argparse.Namespace
    plan: Plan
    port: int
    servers: BareEnvoy = attrs.field(init=False)
    first: RealEngine = attrs.field(init=False)
    _turn: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Started, and stopped whatever happens."""
        progress("starting a controller, an engine and servers")
        self.controller.start()
        folder = self.controller.folder
        self.servers = servers(folder, [self._server(n) for n in (0, 1)])
        self.first = RealEngine(self.controller, "a")
        try:
            self.servers.start()
            self._apply(GROUP)
            self.first.start()
            yield
        finally:
            self.first.stop()
            self.servers.stop()
            self.controller.stop()

    # Documents

    def _server(self, number: int) -> int:
        return self.port + number

    def _pool(self, name: str, servers: Sequence[int] = (0,)) -> dict[str, Any]:
        found = [{"ip": "127.0.0.1", "port": self._server(n)} for n in servers]
        return {"kind": "Pool", "name": name, "servers": found}

    def _service(self, name: str, port: int, **more: Any) -> dict[str, Any]:
        return {
            "kind": "VirtualService",
            "name": name,
            "vip": [{"ip_address": "127.0.0.1"}],
            "services": [{"port": port}],
            "pool_ref": name,
            **more,
        }

    def _apply(self, *documents: dict[str, Any]) -> int:
        return int(self.controller.client.post("/api/config", documents)["version"])

    @contextmanager
    def _for_a_while(self) -> Iterator[None]:
        """What is applied within is rolled back after it."""
        before = self.controller.status()["config_version"]
        yield
        version = self.controller.client.post(f"/api/config/versions/{before}/rollback")["version"]
        self.controller.wait(version)

    # Figures

    def run(self, pieces: Iterable[str]) -> None:
        """Those asked for."""
        steps = {"many": self.many, "load": self.under_load, "rate": self.rate, "failover": self.failover}
        for piece in pieces:
            with self._for_a_while():
                steps[piece]()

    def many(self) -> None:
        """Apply to serving, of many virtual services at once on one engine."""
        count = self.plan.services
        first = self.port + 100
        names = [f"many-{n}" for n in range(count)]
        documents = [self._pool(name) for name in names]
        documents += [self._service(name, first + n) for n, name in enumerate(names)]
        progress("{count} virtual services at once", count=count)
        begun = time.monotonic()
        version = self._apply(*documents)
        taken_s = time.monotonic() - begun
        waiting = list(range(first, first + count))
        until(lambda: listens(waiting[-1]), SERVE_LIMIT_S, "the last of them listens")
        while waiting:
            waiting = silent(waiting)
            if time.monotonic() - begun > SERVE_LIMIT_S:
                raise RuntimeError(f"{len(waiting)} virtual services do not answer")
        took_s = time.monotonic() - begun
        row = self.controller.wait(version)
        what = f"{count} virtual services on one real engine"
        report(self.arguments, f"{what}: apply to each having answered", took_s, "s", at_most(MANY_S))
        report(self.arguments, f"{what}: apply to its answer (controller)", taken_s, "s")
        report(self.arguments, f"{what}: commit to Ack", row["last_s"], "s")
        self._small_changes(what, names, first)

    def _small_changes(self, what: str, names: Sequence[str], first: int) -> None:
        """Of one among many: a pool that gets another server, and a virtual service that gets a route."""
        pools: list[float] = []
        services: list[float] = []
        for turn, name in enumerate(names[:SMALL_CHANGES]):
            pools.append(self._ack_s(self._pool(name, (0, 1))))
            changed = self._service(name, first + turn, routes=[{"path": "/elsewhere", "pool_ref": name}])
            services.append(self._ack_s(changed))
        text = f"{what}: commit to Ack of a change of one {{}}, p50 of {SMALL_CHANGES}"
        report(self.arguments, text.format("pool"), quantile(pools, 0.5), "s", at_most(SMALL_S))
        report(self.arguments, text.format("virtual service"), quantile(services, 0.5), "s")

    def _ack_s(self, *documents: dict[str, Any]) -> float:
        row = self.controller.wait(self._apply(*documents))
        if row["last_s"] is None:
            raise RuntimeError(f"version {row['version']} has no Ack: the engine was found down meanwhile")
        return float(row["last_s"])

    def under_load(self) -> None:
        """Requests that fail or are cut while the configuration changes."""
        port = self.port + 10
        self.controller.wait(self._apply(self._pool("load"), self._service("load", port)))
        until(lambda: _answers(port), SERVE_LIMIT_S, "the virtual service answers")
        progress("{n} changes under load", n=self.plan.changes)
        with Worker("benchmarks.load") as load:
            load.ask(5, do="start", port=port, keep=KEEP, fresh=FRESH)
            for turn in range(self.plan.changes):
                self.controller.wait(self._apply(*self._change(turn, port)))
            came = load.ask(30, do="stop")
        if came["examples"]:
            progress("lost: {examples}", examples=came["examples"])
        what = f"during {self.plan.changes} changes of pool and virtual service under load"
        detail = f"{came['answered']} requests, {came['connections']} connections"
        lost = came["lost"] + came["cut"] + came["left"]
        report(self.arguments, f"failed or cut requests {what} ({detail})", lost, "requests", at_most(0))
        report(self.arguments, f"requests {what}", came["rate"], "a second")

    def _change(self, turn: int, port: int) -> tuple[dict[str, Any], ...]:
        """One server more, one less, another route, none: clusters and the listener in turn."""
        both = self._pool("load", (0, 1))
        route = {"path": f"/nothing-{turn}", "pool_ref": "load"}
        return (
            (both,),
            (self._pool("load"),),
            (self._service("load", port, routes=[route]),),
            (self._service("load", port), both),
        )[turn % 4]

    def rate(self) -> None:
        """Requests a second through the engine and through a bare Envoy, in turns."""
        ours, theirs = self.port + 20, self.port + 21
        bare = proxy(self.controller.folder, theirs, self._server(0))
        self.controller.wait(self._apply(self._pool("rate"), self._service("rate", ours)))
        until(lambda: _answers(ours), SERVE_LIMIT_S, "the virtual service answers")
        rates: dict[int, list[float]] = {ours: [], theirs: []}
        cpu: dict[int, list[float]] = {ours: [], theirs: []}
        bare.start()
        try:
            progress("{n} rounds each of {s} s", n=self.plan.rounds, s=self.plan.round_s)
            pids = {ours: self.first.envoys()[0], theirs: bare.pid}
            for _, port in itertools.product(range(self.plan.rounds), (ours, theirs)):
                before = cpu_s(pids[port])
                came = self._round(port)
                rates[port].append(came["rate"])
                cpu[port].append((cpu_s(pids[port]) - before) / came["answered"] * 1e6)
                bare.forget_requests()
        finally:
            bare.stop()
        what = f"requests a second through the engine, {RATE_CONNECTIONS} connections"
        report(
            self.arguments,
            f"{what}, beside a bare Envoy that logs them (best of {self.plan.rounds})",
            max(rates[ours]),
            "a second",
            times_peer(SHARE_OF_BARE),
            peer=max(rates[theirs]),
        )
        what = "CPU of Envoy a request, beside a bare one's"
        report(self.arguments, what, min(cpu[ours]), "us", peer=min(cpu[theirs]))

    def _round(self, port: int) -> dict[str, Any]:
        with Worker("benchmarks.load") as load:
            load.ask(5, do="start", port=port, keep=RATE_CONNECTIONS, fresh=0)
            time.sleep(self.plan.round_s)
            came = load.ask(30, do="stop")
        if came["lost"] or came["cut"]:
            raise RuntimeError(f"requests failed: {came['examples']}")
        return came

    def failover(self) -> None:
        """An engine's machine gone: from the moment that it is noticed to an answer from another engine."""
        port = self.port + 30
        second = RealEngine(self.controller, "b")
        took: list[float] = []
        whole: list[float] = []
        try:
            second.start()
            self.controller.wait(self._apply(self._pool("spare"), self._service("spare", port)))
            for turn in range(self.plan.kills):
                progress("engine killed, {n} of {all}", n=turn + 1, all=self.plan.kills)
                until(lambda: _answers(port), SERVE_LIMIT_S, "the virtual service answers")
                # Whichever: one that came back waits the longer for its services the more often it failed.
                until(
                    lambda: self.first.serves(port) != second.serves(port), SERVE_LIMIT_S, "one has it alone"
                )
                holder = self.first if self.first.serves(port) else second
                gone_at = holder.vanish()
                answered_at = _until_answer(port)
                down_at = self._down_at(holder.name, gone_at)
                took.append(answered_at - down_at)
                whole.append(answered_at - gone_at)
                holder.start()
        finally:
            second.stop()
        beat = f"heartbeats of {HEARTBEAT_S:g} s, {MISSES} misses, no delay of the group"
        what = f"engine killed (-9, with its Envoy): noticed to an answer from another ({beat})"
        report(self.arguments, f"{what}, worst of {len(took)}", max(took), "s", at_most(FAILOVER_S))
        report(self.arguments, "the same from the kill on, p50", quantile(whole, 0.5), "s")

    def _down_at(self, name: str, since: float) -> float:
        """When the controller found it down."""
        found: list[float] = []

        def told() -> bool:
            events = self.controller.client.get("/api/events", {"limit": 1000})["results"]
            down = (event for event in events if event["code"] == "SE_DOWN" and event["at"] >= since)
            found.extend(event["at"] for event in down if event["facts"]["name"] == name)
            return bool(found)

        until(told, SERVE_LIMIT_S, "SE_DOWN is told")
        return found[0]


def _answers(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def silent(ports: Sequence[int]) -> list[int]:
    """Those that do not answer 200; all are asked before any answer is read, so that asking takes 0.1 s for 500."""
    asked: dict[int, socket.socket] = {}
    answered: set[int] = set()
    try:
        for port in ports:
            with contextlib.suppress(OSError):
                asked[port] = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
                asked[port].sendall(REQUEST)
        for port, sock in asked.items():
            with contextlib.suppress(OSError):
                if sock.recv(READ_BYTES).startswith(b"HTTP/1.1 200 "):
                    answered.add(port)
    finally:
        for sock in asked.values():
            sock.close()
    return [port for port in ports if port not in answered]


def _until_answer(port: int) -> float:
    end = time.monotonic() + SERVE_LIMIT_S
    while not _answers(port):
        if time.monotonic() > end:
            raise RuntimeError("no other engine answers")
        time.sleep(PROBE_S)
    return time.time()
