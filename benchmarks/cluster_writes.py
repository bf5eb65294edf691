"""One process that writes configuration through a controller's socket, and keys into its etcd, one after the other.

A worker of ``benchmarks.cluster``: it runs where the controller does, since etcd listens on 127.0.0.1 there.  Each line
``{"count": n}`` is answered by ``{"writes": per second, "puts": per second}``.
"""

import sys
import time
from typing import Any

import attrs
import msgspec
from twisted.internet.threads import deferToThread

from avinet.app.cli.client import Client
from avinet.store.interface import Put, Store
from avinet.trust.node import ControllerPaths
from benchmarks.processes import say
from benchmarks.state_worker import Place, run_worker

VALUE_BYTES = 512
"""As large as a pool with two servers."""


@attrs.define(eq=False)
class Writing:
    """Both."""

    client: Client
    store: Store
    _number: int = attrs.field(default=0, init=False)

    def configuration(self, count: int) -> float:
        """So many versions; per second.  Blocks."""
        begun = time.monotonic()
        for _ in range(count):
            self._number += 1
            servers = [{"ip": "10.0.0.1", "port": 80}, {"ip": "10.0.0.2", "port": 1 + self._number % 60_000}]
            self.client.post("/api/config", [{"kind": "Pool", "name": "bench-writes", "servers": servers}])
        return count / (time.monotonic() - begun)

    async def keys(self, count: int) -> float:
        """So many puts; per second."""
        value = bytes(VALUE_BYTES)
        begun = time.monotonic()
        for number in range(count):
            await self.store.transact([], [Put("bench/writes", value[1:] + bytes([number % 256]))])
        return count / (time.monotonic() - begun)


async def serve(reactor: Any, place: Place) -> None:
    """Until the input ends."""
    writing = Writing(Client.unix(ControllerPaths(place.state).api_socket), await place.open_store(reactor))
    say(ready=True)
    while line := await deferToThread(sys.stdin.buffer.readline):
        count = int(msgspec.json.decode(line)["count"])
        writes = await deferToThread(writing.configuration, count)
        say(writes=writes, puts=await writing.keys(count))
    await writing.store.close()


if __name__ == "__main__":
    run_worker(serve)
