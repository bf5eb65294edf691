"""What workers share that run where a controller does, and use its etcd with its key and password."""

import argparse
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from avinet.controller.state_engine_files import USER, EngineFiles
from avinet.store.etcd import open_etcd_store
from avinet.store.etcd_http import EtcdAccess
from avinet.store.interface import Store
from benchmarks.processes import say


@attrs.frozen
class Place:
    """Whose state folder, and where its etcd listens on 127.0.0.1."""

    state: Path
    client_port: int

    @property
    def arguments(self) -> tuple[str, ...]:
        """For the worker's command line."""
        return ("--state", str(self.state), "--client-port", str(self.client_port))

    def open_store(self, reactor: Any) -> Deferred[Store]:
        """The store in it."""
        files = EngineFiles(self.state / "etcd")
        access = EtcdAccess(
            endpoints=(f"https://127.0.0.1:{self.client_port}",),
            ca_file=files.ca_pem,
            certificate_file=files.certificate,
            key_file=files.key_file,
            user=USER,
            password_file=files.password(USER),
        )
        return open_etcd_store(access, reactor)


def run_worker(serve: Callable[[Any, Place], Awaitable[None]]) -> None:
    """``serve`` until its input ends; what fails is said to whoever started it."""
    from twisted.internet import reactor

    loop: Any = reactor
    parser = argparse.ArgumentParser()
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--client-port", type=int, required=True)
    arguments = parser.parse_args()
    place = Place(arguments.state, arguments.client_port)

    async def work() -> None:
        await serve(loop, place)

    def begin() -> None:
        serving = Deferred.fromCoroutine(work())
        serving.addErrback(lambda failure: say(failed=failure.getErrorMessage()))
        serving.addBoth(lambda _: loop.stop())

    loop.callWhenRunning(begin)
    loop.run()
