"""Request logs on a controller, put together: the ledger, the intake of what SEs send, pulls, and the store."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from avinet.app.settings import LogsSection
from avinet.app.steady import WallClock
from avinet.controller.log_intake import Emit, LogIntake, Threads
from avinet.controller.log_sets import STORE, CopySets, NoCopySets
from avinet.controller.log_store import Arrivals, LogStoreService, Reported
from avinet.controller.peers import Peers
from avinet.controller.pulls import Pulls
from avinet.logs.incoming import IncomingLogs, IntakeLimits
from avinet.logs.ledger import Ledger
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.store.embedded import EmbeddedLogStore
from avinet.logs.store.folders import Folders
from avinet.logs.store.interface import Keeping
from avinet.logs.store.surroundings import Surroundings
from avinet.logs.store.workers import worker_processes
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.ids import SeId
from avinet.ssh.scheduler import Priority
from avinet.ssh.services import ServiceTable
from avinet.store.threads import OwnThread
from avinet.trust.files import private_dir
from avinet.units import DAY_S, GIB, MIB
from avinet.wire.log_messages import BULK_SERVICE, LIVE_SERVICE

WRITERS = 2
"""One hashes while the other waits for the disk; more would wait for the same disk."""
SYNCERS = 8
"""Fsyncs side by side, which the file system makes one."""


@attrs.frozen
class LogSurroundings:
    """What the rest of a controller is to its logs: how events are told, what an SE is called in them, who else there is."""

    emit: Emit
    name_of: Callable[[SeId], str]
    peers: Peers


@attrs.frozen(eq=False)
class ControllerLogs:
    """All of it; ``open`` before SEs may come."""

    ledger: Ledger
    intake: LogIntake
    pulls: Pulls
    store: LogStoreService
    exports: Path
    """Where files for askers are written."""
    copies: CopySets = attrs.field(factory=NoCopySets)
    """What other controllers have copied here."""

    @classmethod
    async def open(
        cls,
        settings: LogsSection,
        folder: Path,
        reactor: Any,
        around: "LogSurroundings",
        stack: contextlib.AsyncExitStack,
    ) -> "ControllerLogs":
        """In ``folder``, which is made."""
        emit, name_of, peers = around.emit, around.name_of, around.peers
        commits = OwnThread(reactor, "log commits")

        def load() -> Ledger:
            private_dir(folder)
            return open_ledger(folder / "ledger.db")

        try:
            ledger = await commits.run(load)
        except BaseException:
            commits.stop()
            raise
        # Threads end before what they use.
        stack.callback(ledger.close)
        syncs = stack.enter_context(ThreadPoolExecutor(SYNCERS, "log syncs"))
        stack.callback(commits.stop)
        writes = OwnThread(reactor, "log writes", WRITERS)
        stack.callback(writes.stop)
        limits = IntakeLimits(
            per_se_bytes=int(settings.waiting_gib_per_se * GIB),
            total_bytes=int(settings.waiting_gib * GIB),
            free_bytes=int(settings.free_gib * GIB),
        )
        wall = WallClock(reactor).seconds
        intake = LogIntake(
            IncomingLogs(folder, ledger, syncs, limits),
            Threads(writes, commits),
            reactor,
            wall,
            emit,
            name_of,
        )
        pulls = Pulls(ledger, intake, reactor, wall)
        await pulls.start()
        threads = OwnThread(reactor, "log store")
        stack.callback(threads.stop)
        store = _store(settings, (folder, ledger), threads, reactor, Reported(emit, name_of))
        intake.add_listener(Arrivals(store))
        # What is in the store is known from here on: the intake takes nothing that is.
        await store.start()
        stack.push_async_callback(store.stop)
        await intake.start()
        stack.push_async_callback(intake.stop)
        peers.publish(STORE, ledger.store_id)
        return cls(ledger, intake, pulls, store, Folders(folder).exports)

    def offer(self, services: ServiceTable, settings: LogsSection) -> None:
        """To SEs, behind the secure channel."""
        services.register(LIVE_SERVICE, settings.live_port, self.intake.build_live, Priority.LIVE_LOGS)
        services.register(BULK_SERVICE, settings.bulk_port, self.intake.build_bulk, Priority.BULK)

    def record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        """Nothing more comes of an SE that is deleted."""
        if after.lifecycle is Lifecycle.DELETED:
            self.intake.forget(after.uuid)
            self.pulls.forget(after.uuid)


def _store(
    settings: LogsSection, kept: tuple[Path, Ledger], threads: OwnThread, reactor: Any, reported: Reported
) -> LogStoreService:
    folder, ledger = kept

    def in_thread(call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return threads.run(partial(call, *arguments))

    folders = Folders(folder)
    memory = (settings.ingest_memory_mib * MIB, settings.query_memory_mib * MIB)
    workers = worker_processes(folders, memory, reactor, reported.died)
    around = Surroundings(
        in_thread, WallClock(reactor).seconds, reported.name_of, reported.file_lost, reactor.seconds
    )
    store = EmbeddedLogStore(ledger, folders, around, workers)
    keeping = Keeping(int(settings.keep_days * DAY_S * 1e6), int(settings.keep_gib * GIB))
    return LogStoreService(store, ledger, keeping, reactor, in_thread, reported)
