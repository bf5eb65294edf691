"""The figures of three controllers: how soon writes and service engines are served again, and what it all costs.

    python -m benchmarks.cluster [--quick] [--json] [--only PIECE ...]

``leader``: the leader killed under writes, with 500 simulated engines attached.  ``follower``: a follower killed under
requests of a client that retries once.  ``rolling``: each restarted in good order, one after the other, under such requests.  ``fleet``: 2,000 engines that come back to a controller that was killed, and the
memory that each takes.  ``writes``: one writer of configuration beside one of etcd's.
"""

import argparse
import contextlib
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.app.cli.client import Client
from avinet.app.demo.plan import ControllerPlan
from avinet.errors import AvinetError
from benchmarks.beside import Beside
from benchmarks.config_fleets import Changing
from benchmarks.fleet import Fleet, run
from benchmarks.harness import at_most, options, progress, quantile, report, times_peer
from benchmarks.processes import Worker, clean_up_on_sigterm
from benchmarks.state_worker import Place
from benchmarks.trio import Trio

WRITES_AGAIN_S = 3.0
IN_SYNC_S = 10.0
REATTACHED_S = 10.0
MEMORY_KIB = 40.0
ENGINES, QUICK_ENGINES = 500, 500
FLEET, QUICK_FLEET = 2_000, 1_000
ROUNDS, QUICK_ROUNDS = 10, 3
WRITES, QUICK_WRITES = 500, 200
REQUEST_LIMIT_S = 5.0
"""A client's own patience with one request."""
GIVE_UP_S = 60.0
CALM_S = 3.0
"""Between rounds."""
STREAM_S = 8.0
"""Of requests around a follower's end."""
SETTLE_S = 10.0
"""Before memory is looked at: what a storm of logins needed is given back."""
POLL_S = 0.02
WRITE_EACH = 5
"""One request in so many writes."""
CHUNKS = 5
"""Of writes, ours and etcd's in turn; the median counts."""
WORKER_LIMIT_S = 120.0
HEARTBEAT = "[control]\nheartbeat_interval_s = 2.0\n"
PIECES = ("leader", "follower", "rolling", "fleet", "writes")


@attrs.define(eq=False)
class Cluster:
    """One run."""

    arguments: argparse.Namespace
    trio: Trio
    reactor: Any

    async def run(self, pieces: set[str]) -> None:
        """What was asked for."""
        await deferToThread(self.trio.start)
        if "writes" in pieces:
            await deferToThread(self._writes)
        if "follower" in pieces:
            await deferToThread(self._follower)
        if "rolling" in pieces:
            await deferToThread(self._rolling)
        # Before the fleet, whose engines stay in the groups when they are gone.
        if "leader" in pieces:
            await self._leader(QUICK_ENGINES if self.quick else ENGINES)
        if "fleet" in pieces:
            await self._fleet(QUICK_FLEET if self.quick else FLEET)

    @property
    def quick(self) -> bool:
        """The short form."""
        return bool(self.arguments.quick)

    async def _attached(self, engines: int) -> Fleet:
        """So many, on all three and in sync."""
        changing = Changing(self.reactor, self.trio, engines, 0, 0)
        await changing.set_up()
        for one in self.trio.controllers:
            await self._sessions(one, engines)
        return changing.fleet

    async def _sessions(self, one: ControllerPlan, count: int) -> float:
        """Seconds until so many engines are attached to one controller."""
        begun = time.monotonic()
        while await deferToThread(self.trio.sessions, one) < count:
            if time.monotonic() - begun > GIVE_UP_S:
                raise RuntimeError(f"{one.name} has not got {count} engines within {GIVE_UP_S:g} s")
            await deferLater(self.reactor, POLL_S)
        return time.monotonic() - begun

    # The leader

    async def _leader(self, engines: int) -> None:
        fleet = await self._attached(engines)
        rounds = QUICK_ROUNDS if self.quick else ROUNDS
        again, in_sync = [], []
        for turn in range(1, rounds + 1):
            accepted_s, in_sync_s = await self._without_leader(fleet, turn)
            progress(
                "leader killed: a write after {a:.2f} s, all in sync after {b:.2f} s",
                a=accepted_s,
                b=in_sync_s,
            )
            again.append(accepted_s)
            in_sync.append(in_sync_s)
        await fleet.stop()
        where = f"{rounds} kills, {engines} simulated engines, the slowest"
        report(
            self.arguments,
            f"leader killed to a write accepted, {where}",
            max(again),
            "s",
            at_most(WRITES_AGAIN_S),
        )
        report(
            self.arguments,
            f"leader killed to all engines in sync, {where}",
            max(in_sync),
            "s",
            at_most(IN_SYNC_S),
        )
        report(self.arguments, "the same two, median of the first", quantile(again, 0.5), "s")

    async def _without_leader(self, fleet: Fleet, turn: int) -> tuple[float, float]:
        """Seconds from a leader's end to a write that concerns every engine, and to all of them having it."""
        trio = self.trio
        leader = await deferToThread(trio.leader)
        asked = trio.others(leader)[0]
        killed = time.monotonic()
        await deferToThread(trio.kill, leader)
        version = await deferToThread(self._until_written, asked, turn)
        accepted_s = time.monotonic() - killed
        while not all(engine.version >= version for engine in fleet.engines):
            if time.monotonic() - killed > GIVE_UP_S:
                raise RuntimeError(f"not all engines have version {version} within {GIVE_UP_S:g} s")
            await deferLater(self.reactor, POLL_S)
        in_sync_s = time.monotonic() - killed
        await deferToThread(trio.back, leader)
        await self._sessions(leader, len(fleet.engines))
        await deferLater(self.reactor, CALM_S)
        return accepted_s, in_sync_s

    def _until_written(self, one: ControllerPlan, turn: int) -> int:
        begun = time.monotonic()
        while time.monotonic() - begun < GIVE_UP_S:
            with contextlib.suppress(AvinetError):
                pool = {"kind": "Pool", "name": "pool-0", "servers": [{"ip": "10.0.0.1", "port": turn}]}
                return int(self._patient(one).post("/api/config", [pool])["version"])
            time.sleep(POLL_S)
        raise RuntimeError(f"no write was accepted within {GIVE_UP_S:g} s")

    def _patient(self, one: ControllerPlan) -> Client:
        """A client that waits no longer than an operator would."""
        return attrs.evolve(self.trio.client_of(one), timeout_s=REQUEST_LIMIT_S)

    # A follower

    def _follower(self) -> None:
        """Requests to all three in turn, each tried once more elsewhere, while a follower is killed and comes back."""
        trio = self.trio
        victim = trio.others(trio.leader())[0]
        stream = Requests([self._patient(one) for one in trio.controllers])
        stream.start()
        time.sleep(STREAM_S / 4)
        trio.kill(victim)
        time.sleep(STREAM_S / 2)
        trio.back(victim)
        time.sleep(STREAM_S / 4)
        stream.stop()
        if not stream.retried:
            raise RuntimeError("no request met the follower's end")
        for why in stream.why[:3]:
            progress("failed twice: {why}", why=why)
        what = f"requests that failed of {stream.done} while a follower was killed, {stream.retried} tried again elsewhere"
        report(self.arguments, what, stream.failed, "", at_most(0))

    # All, one after the other

    def _rolling(self) -> None:
        """The same requests while each is stopped in good order and started again, the leader last but for chance."""
        trio = self.trio
        stream = Requests([self._patient(one) for one in trio.controllers], write_each=2)
        stream.start()
        for one in trio.controllers:
            stopped_s = trio.restart(one)
            progress("{name} stopped in {s:.2f} s, and is back", name=one.name, s=stopped_s)
            time.sleep(CALM_S)
        stream.stop()
        for why in (*stream.why_first[:6], *stream.why[:3]):
            progress("failed: {why}", why=why)
        what = (
            f"requests that failed of {stream.done} while three controllers were restarted one after the other, "
            f"{stream.retried} tried again elsewhere"
        )
        report(self.arguments, what, stream.failed, "", at_most(0))
        report(
            self.arguments,
            "the longest time between two writes meanwhile",
            stream.longest_gap_s,
            "s",
            at_most(WRITES_AGAIN_S),
        )

    # A fleet

    async def _fleet(self, engines: int) -> None:
        trio = self.trio
        before = [trio.resident_kib(one) for one in trio.controllers]
        fleet = await self._attached(engines)
        await deferLater(self.reactor, SETTLE_S)
        each = [
            (trio.resident_kib(one) - was) / engines
            for one, was in zip(trio.controllers, before, strict=True)
        ]
        report(
            self.arguments, f"memory of a controller an engine, {engines} on all three, the most", max(each), "KiB", at_most(MEMORY_KIB)
        )  # fmt: skip
        victim = trio.others(await deferToThread(trio.leader))[0]
        await deferToThread(trio.kill, victim)
        await deferLater(self.reactor, CALM_S)
        alone = sum(not engine.attached for engine in fleet.engines)
        started = time.monotonic()
        await deferToThread(trio.spawn, victim)
        await self._sessions(victim, engines)
        back_s = time.monotonic() - started
        what = f"engines without any controller after one of three was killed, of {engines}"
        report(self.arguments, what, alone, "", at_most(0))
        what = f"{engines} engines attached again to a controller that was killed, from its process's start"
        report(self.arguments, what, back_s, "s", at_most(REATTACHED_S))
        await fleet.stop()
        await deferToThread(trio.until_whole)

    # Writes

    def _writes(self) -> None:
        """Configuration written on the leader's machine, and etcd's keys from the same process."""
        trio = self.trio
        leader = trio.leader()
        arguments = Place(leader.state, leader.ports.client).arguments
        count = QUICK_WRITES if self.quick else WRITES
        with Worker("benchmarks.cluster_writes", arguments, leader.inside()) as writer:
            rows = [writer.ask(WORKER_LIMIT_S, count=count // CHUNKS) for _ in range(CHUNKS)]
        ours, theirs = (quantile([row[name] for row in rows], 0.5) for name in ("writes", "puts"))
        what = f"configuration writes a second, one writer ({count}), beside etcd puts one after the other"
        report(self.arguments, what, ours, "/s", times_peer(0.5), peer=theirs)


@attrs.define(eq=False)
class Requests(Beside):
    """A client's: one after another, to each controller in turn; what fails is tried once more at the next."""

    clients: list[Client]
    write_each: int = WRITE_EACH
    longest_gap_s: float = attrs.field(default=0.0, init=False)
    """Between two writes that were accepted."""
    why_first: list[str] = attrs.field(factory=list, init=False)
    _wrote_at: float = attrs.field(default=0.0, init=False)
    done: int = attrs.field(default=0, init=False)
    retried: int = attrs.field(default=0, init=False)
    failed: int = attrs.field(default=0, init=False)
    why: list[str] = attrs.field(factory=list, init=False)

    def _run(self) -> None:
        while not self._over.is_set():
            self.done += 1
            first = self.done % len(self.clients)
            try:
                self._ask(self.clients[first])
            except AvinetError as why:
                self.retried += 1
                self.why_first.append(str(why))
                try:
                    self._ask(self.clients[(first + 1) % len(self.clients)])
                except AvinetError as why:
                    self.failed += 1
                    self.why.append(str(why))

    def _ask(self, client: Client) -> None:
        if self.done % self.write_each:
            client.get("/api/pool")
        else:
            pool = {
                "kind": "Pool",
                "name": "asked",
                "servers": [{"ip": "10.0.0.9", "port": 1 + self.done % 60_000}],
            }
            client.post("/api/config", [pool])
            now = time.monotonic()
            if self._wrote_at:
                self.longest_gap_s = max(self.longest_gap_s, now - self._wrote_at)
            self._wrote_at = now


def main() -> int:
    """0 when every figure was measured, whether its target was met or not."""
    from twisted.internet import reactor

    loop: Any = reactor
    arguments = options("How three controllers serve while one is lost.", PIECES).parse_args()
    with tempfile.TemporaryDirectory(prefix="avb-") as folder:
        trio = Trio(Path(folder) / "t", HEARTBEAT)
        try:
            return run(loop, Cluster(arguments, trio, loop).run(set(arguments.only or PIECES)))
        finally:
            trio.stop()


if __name__ == "__main__":
    clean_up_on_sigterm()
    sys.exit(main())
