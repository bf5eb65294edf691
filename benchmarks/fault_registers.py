"""Registers in the store of one controller, read, written and swapped without pause; what came of each is a history.

A worker of ``benchmarks.faults``: it runs where the controller does, since etcd listens on 127.0.0.1 there.  A line
``{"case": name, "seconds": s}`` is answered by ``{"history": [...]}``, a row an operation: register, client, when it began and ended by the
machine's monotonic clock (null: nobody knows), kind, value, what was expected, whether that held.
"""

import random
import sys
import time
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.errors import AvinetError
from avinet.store.interface import Compare, Put, Store
from benchmarks.processes import say
from benchmarks.state_worker import Place, run_worker

REGISTERS = 2
CLIENTS = 2
PAUSE_S = 0.01
"""Between two operations of a client: a history of a minute has some thousands."""
AGAIN_S = 0.2
"""While the store does not answer."""

Row = tuple[str, str, float, float | None, str, str | None, str | None, bool]


@attrs.define(eq=False)
class Client:
    """One client's part of the history; a value is never written twice."""

    name: str
    store: Store
    reactor: Any
    case: str
    """Its registers are new ones: a history begins without values."""
    rows: list[Row] = attrs.field(factory=list)
    _number: int = attrs.field(default=0, init=False)

    async def run(self, until: float) -> None:
        """Until the clock says so."""
        while time.monotonic() < until:
            register = f"bench/register/{self.case}/{random.randrange(REGISTERS)}"
            known = await self._one(register)
            await deferLater(self.reactor, PAUSE_S if known else AGAIN_S)

    async def _one(self, register: str) -> bool:
        kind = random.choice(("read", "write", "swap"))
        before = None
        if kind == "swap":
            try:
                before = await self.store.get(register)
            except AvinetError:
                return False
        self._number += 1
        value = None if kind == "read" else f"{self.name}-{self._number}"
        expected = None if before is None else before.value.decode()
        began, ended, held = time.monotonic(), None, True
        try:
            if kind == "read":
                found = await self.store.get(register)
                value = None if found is None else found.value.decode()
            else:
                compares = [Compare(register, before.revision if before else 0)] if kind == "swap" else []
                outcome = await self.store.transact(compares, [Put(register, str(value).encode())])
                held = outcome.succeeded
            ended = time.monotonic()
        except AvinetError:
            pass
        self.rows.append((register, self.name, began, ended, kind, value, expected, held))
        return ended is not None


async def serve(reactor: Any, place: Place) -> None:
    """Until the input ends."""
    store = await place.open_store(reactor)
    say(ready=True)
    while line := await deferToThread(sys.stdin.buffer.readline):
        asked = msgspec.json.decode(line)
        until = time.monotonic() + float(asked["seconds"])
        names = [f"{place.state.name}-{number}" for number in range(CLIENTS)]
        clients = [Client(name, store, reactor, asked["case"]) for name in names]
        await gatherResults([Deferred.fromCoroutine(client.run(until)) for client in clients])
        say(history=[row for client in clients for row in client.rows])
    await store.close()


if __name__ == "__main__":
    run_worker(serve)
