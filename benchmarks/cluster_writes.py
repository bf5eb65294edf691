"""One process that writes configuration through a controller's socket, and keys into its etcd, one after the other.

A worker of ``benchmarks.cluster``: it runs where the controller does, since etcd listens on 127.0.0.1 there.  Each line
``{"count": n}`` is answered by ``{"writes": per second, "puts": per second}``.
"""

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThread

from avinet.app.cli.client import Client
from avinet.controller.state_engine_files import USER, EngineFiles
from avinet.store.etcd import open_etcd_store
from avinet.store.etcd_http import EtcdAccess
from avinet.store.interface import Put, Store
from avinet.trust.node import ControllerPaths
from benchmarks.processes import say

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


async def serve(reactor: Any, arguments: argparse.Namespace) -> None:
    """Until the input ends."""
    paths = ControllerPaths(arguments.state)
    files = EngineFiles(paths.state / "etcd")
    access = EtcdAccess(
        endpoints=(f"https://127.0.0.1:{arguments.client_port}",),
        ca_file=files.ca_pem,
        certificate_file=files.certificate,
        key_file=files.key_file,
        user=USER,
        password_file=files.password(USER),
    )
    writing = Writing(Client.unix(paths.api_socket), await open_etcd_store(access, reactor))
    say(ready=True)
    while line := await deferToThread(sys.stdin.buffer.readline):
        count = int(msgspec.json.decode(line)["count"])
        writes = await deferToThread(writing.configuration, count)
        say(writes=writes, puts=await writing.keys(count))
    await writing.store.close()


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
