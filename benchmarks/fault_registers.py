"""Registers in the store of one controller, read, written and swapped without pause; what came of each is a history.

A worker of ``benchmarks.faults``: it runs where the controller does, since etcd listens on 127.0.0.1 there.  A line
``{"case": name, "seconds": s}`` is answered by ``{"history": [...]}``, a row an operation: register, client, when it began and ended by the
machine's monotonic clock (null: nobody knows), kind, value, what was expected, whether that held.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.controller.state_engine_files import USER, EngineFiles
from avinet.errors import AvinetError
from avinet.store.etcd import open_etcd_store
from avinet.store.etcd_http import EtcdAccess
from avinet.store.interface import Compare, Put, Store
from benchmarks.processes import say

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


async def serve(reactor: Any, arguments: argparse.Namespace) -> None:
    """Until the input ends."""
    files = EngineFiles(arguments.state / "etcd")
    access = EtcdAccess(
        endpoints=(f"https://127.0.0.1:{arguments.client_port}",),
        ca_file=files.ca_pem,
        certificate_file=files.certificate,
        key_file=files.key_file,
        user=USER,
        password_file=files.password(USER),
    )
    store = await open_etcd_store(access, reactor)
    say(ready=True)
    while line := await deferToThread(sys.stdin.buffer.readline):
        asked = msgspec.json.decode(line)
        until = time.monotonic() + float(asked["seconds"])
        names = [f"{arguments.state.name}-{number}" for number in range(CLIENTS)]
        clients = [Client(name, store, reactor, asked["case"]) for name in names]
        await gatherResults([Deferred.fromCoroutine(client.run(until)) for client in clients])
        say(history=[row for client in clients for row in client.rows])
    await store.close()


def main() -> None:
    """A worker."""
    from twisted.internet import reactor

    loop: Any = reactor
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--client-port", type=int, required=True)

    def begin() -> None:
        serving = Deferred.fromCoroutine(serve(loop, parser.parse_args()))
        serving.addErrback(lambda failure: say(failed=failure.getErrorMessage()))
        serving.addBoth(lambda _: loop.stop())

    loop.callWhenRunning(begin)
    loop.run()


if __name__ == "__main__":
    main()
