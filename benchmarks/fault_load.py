"""What goes on while something is broken, and what must hold afterwards.

Configuration is written, machines enrol, service engines are attached to all controllers, one of them a real one with traffic
and request logs, and registers of the store are used in each controller's place.  In the end every acknowledged write is there,
in order and on every controller; every enrolment that was answered is there once; no engine obeyed an older order after a newer
one, and all are in sync; every request was answered, and its log is there once; and the registers' histories are linearizable.
"""

import contextlib
import itertools
import random
import time
from collections.abc import Iterator
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import LoopingCall, deferLater
from twisted.internet.threads import deferToThread

from avinet.app.cli.client import Client
from avinet.errors import AvinetError
from avinet.model.fence import Fence
from avinet.trust.image import open_image
from avinet.wire.registration import MetaInfo
from benchmarks.fault_traffic import Traffic
from benchmarks.fault_writes import Writer, Writers, out_of_order
from benchmarks.fleet import Fleet, SimulatedEngine
from benchmarks.linearizable import NEVER, Operation, check
from benchmarks.processes import Worker
from benchmarks.state_worker import Place
from benchmarks.trio import Trio

ENGINES = 10
ENROL_EACH_S = 1.0
MAX_ENROLMENTS = 2_000
REQUEST_LIMIT_S = 5.0
WORKER_GRACE_S = 30.0
SETTLE_LIMIT_S = 30.0
"""For all engines to be in sync once all is well again."""
AGE_SAID_S = 3.0
"""What a controller shows is no older, or it says how old it is."""
POLL_S = 0.1
PAGE = 1_000


@attrs.define(eq=False)
class Load:
    """All of it, over all cases of a run."""

    reactor: Any
    trio: Trio
    writers: Writers = attrs.field(init=False)
    fleet: Fleet = attrs.field(init=False)
    traffic: Traffic = attrs.field(init=False)
    enrolled: list[str] = attrs.field(factory=list, init=False)
    """UUIDs that were answered."""
    obeyed: dict[int, list[Fence]] = attrs.field(factory=dict, init=False)
    """By engine: the fences of what it got in force."""
    _meta: MetaInfo = attrs.field(init=False)
    _enrolling: LoopingCall = attrs.field(init=False)
    _registers: list[Worker] = attrs.field(factory=list, init=False)

    async def set_up(self, stack: contextlib.ExitStack) -> None:
        """Engines attached to all three; the rest begins with each case."""
        self.writers = Writers(
            [
                Writer(one.name, attrs.evolve(self.trio.client_of(one), timeout_s=REQUEST_LIMIT_S))
                for one in self.trio.controllers
            ]
        )
        await deferToThread(self._configure)
        self.traffic = Traffic(self.trio)
        starting = deferToThread(self.traffic.start, stack)
        self.fleet = Fleet(self.reactor, open_image(self.trio.image()))
        for number, engine in enumerate(self.fleet.add(ENGINES, self._meta)):
            self._watch(number, engine)
        await self.fleet.enrol(self.fleet.engines)
        self.enrolled += [engine.enrolled.se for engine in self.fleet.engines if engine.enrolled is not None]
        await self.fleet.attach(self.fleet.engines)
        self._enrolling = LoopingCall(lambda: Deferred.fromCoroutine(self._enrol()))
        for one in self.trio.controllers:
            where = Place(one.state, one.ports.client).arguments
            worker = Worker("benchmarks.fault_registers", where, one.inside())
            self._registers.append(await deferToThread(stack.enter_context, worker))
        await starting

    def _configure(self) -> None:
        client = self.trio.client
        service = {"kind": "VirtualService", "name": "fault-service", "vip": [{"ip_address": "192.0.2.1"}],
                   "services": [{"port": 80}], "pool_ref": "fault-pool", "se_group_ref": "faults"}  # fmt: skip
        client.post("/api/config", [
            {"kind": "ServiceEngineGroup", "name": "faults", "max_scaleout_per_vs": ENGINES, "min_scaleout_per_vs": ENGINES},
            {"kind": "Pool", "name": "fault-pool", "servers": [{"ip": "10.0.0.1", "port": 80}]},
            service,
        ])  # fmt: skip
        self.trio.image()
        made = client.post("/api/setoken", {"group": "faults", "count": MAX_ENROLMENTS})
        self._meta = msgspec.convert(made["meta_info"], MetaInfo)

    def _watch(self, number: int, engine: SimulatedEngine) -> None:
        obeyed = self.obeyed[number] = []
        applier = engine.applier
        applier.settled = lambda state: obeyed.append(applier.fence)

    async def _enrol(self) -> None:
        """One machine more, wherever it asks; one that gets no answer does not ask again."""
        (engine,) = self.fleet.add(1, self._meta)
        self.fleet.engines.remove(engine)
        one = random.choice(self.trio.controllers)
        try:
            await engine.enrol(f"{one.address}:{one.ports.registration}")
        except Exception:  # noqa: BLE001 - whatever it is: it was not answered
            return
        if engine.enrolled is not None:
            self.enrolled.append(engine.enrolled.se)

    @contextlib.contextmanager
    def going_on(self, case: str, seconds: float) -> Iterator["Histories"]:
        """For a case that takes about so long."""
        histories = Histories(
            [
                deferToThread(worker.ask, seconds + WORKER_GRACE_S, case=case, seconds=seconds)
                for worker in self._registers
            ]
        )
        self.writers.start()
        self.traffic.begin()
        self._enrolling.start(ENROL_EACH_S).addErrback(lambda _: None)
        try:
            yield histories
        finally:
            self._enrolling.stop()

    async def change_for_all(self, turn: int) -> None:
        """One that concerns every engine, so that who is behind has something to catch up with."""
        pool = {"kind": "Pool", "name": "fault-pool", "servers": [{"ip": "10.0.0.1", "port": 1 + turn}]}
        await deferToThread(lambda: self.trio.client.post("/api/config", [pool]))

    # What must hold

    async def wrong(self, histories: "Histories") -> list[str]:
        """What does not, once all is well again."""
        await deferToThread(self.writers.stop)
        found = [*out_of_order(self.writers.acknowledged()), *self._disobedient(), *await self._not_settled()]
        for one in self.trio.controllers:
            found += await deferToThread(self._lost, self.trio.client_of(one), one.name)
        found += await deferToThread(self.traffic.wrong)
        return found + await histories.wrong()

    def _lost(self, client: Client, name: str) -> list[str]:
        """What one controller lacks, which may be as old as it says; once it has caught up, nothing."""
        late = time.monotonic() + SETTLE_LIMIT_S
        while True:
            as_of = time.monotonic() - float(client.get("/api/status")["lead"]["stale_s"])
            pools = set(_pools(client))
            lost = [written for written in self.writers.acknowledged() if written.name not in pools]
            if not lost or lost[0].ended < as_of - AGE_SAID_S or time.monotonic() > late:
                break
            time.sleep(POLL_S)
        engines = [row["uuid"] for row in client.get("/api/serviceengine")["results"]]
        missing = [se for se in self.enrolled if engines.count(se) != 1]
        return [
            *([f"{name} lacks {len(lost)} acknowledged writes, such as {lost[0]}"] if lost else []),
            *([f"{name} has {len(missing)} enrolments not once, such as {missing[0]}"] if missing else []),
        ]

    def _disobedient(self) -> Iterator[str]:
        for number, fences in self.obeyed.items():
            for before, after in itertools.pairwise(fences):
                if after < before:
                    yield f"engine {number} obeyed {after} after {before}"

    async def _not_settled(self) -> list[str]:
        end = time.monotonic() + SETTLE_LIMIT_S
        while time.monotonic() < end:
            with contextlib.suppress(AvinetError, RuntimeError):
                status = await deferToThread(self.trio.status)
                if status["service_engines"]["in_sync"] > ENGINES:
                    return []
            await deferLater(self.reactor, POLL_S)
        return [f"not all of {ENGINES + 1} engines are in sync after {SETTLE_LIMIT_S:g} s"]


@attrs.frozen(eq=False)
class Histories:
    """What the registers' users saw, once they are done."""

    asked: list[Deferred[dict[str, Any]]]

    async def wrong(self) -> list[str]:
        """What cannot be explained."""
        answers = await gatherResults(self.asked)
        operations = [_operation(row) for answer in answers for row in answer["history"]]
        verdicts = await deferToThread(check, operations)
        return [str(verdict) for verdict in verdicts if not verdict.linearizable]


def _pools(client: Client) -> Iterator[str]:
    for page in itertools.count(1):
        answer = client.get("/api/pool", {"page": page, "page_size": PAGE})
        yield from (row["name"] for row in answer["results"])
        if page * PAGE >= answer["count"]:
            return


def _operation(row: list[Any]) -> Operation:
    register, client, began, ended, kind, value, expected, held = row
    return Operation(
        register=register,
        client=client,
        began=began,
        ended=NEVER if ended is None else ended,
        reads=kind == "read",
        value=value,
        expected=expected,
        compares=kind == "swap",
        held=held,
    )
