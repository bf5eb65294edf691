"""Request logs on a controller, put together: the ledger, the intake of what SEs send, pulls, and the store."""

import contextlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from avinet.app.controller_copies import FOLDER as COPIES_FOLDER
from avinet.app.controller_copies import ControllerCopies, CopySurroundings, SetMaking
from avinet.app.settings import LogsSection
from avinet.app.steady import WallClock
from avinet.controller.log_copies import WithoutPeer
from avinet.controller.log_intake import Emit, LogIntake, Threads
from avinet.controller.log_sets import STORE, CopySets
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
from avinet.logs.store.workers import Workers, worker_processes
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
    copies: CopySets
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
        threads = Threads(writes, commits)

        def incoming(folder: Path, ledger: Ledger) -> IncomingLogs:
            return IncomingLogs(folder, ledger, syncs, limits)

        own_thread = OwnThread(reactor, "log store")
        stack.callback(own_thread.stop)
        making = _StoreMaking(settings, folder, own_thread, reactor, Reported(emit, name_of))
        copied = ControllerCopies.make(
            CopySurroundings(peers, reactor, emit, WithoutPeer(settings.without_peer)),
            SetMaking(folder, commits.run, incoming, making.set),
            ledger,
            threads,
            stack,
        )
        intake = LogIntake(incoming(folder, ledger), threads, reactor, wall, emit, name_of, copied.copies)
        pulls = Pulls(ledger, intake, reactor, wall)
        await pulls.start()
        store = making.own(ledger)
        intake.add_listener(Arrivals(store))
        # What is in the store is known from here on: the intake takes nothing that is.
        await store.start()
        stack.push_async_callback(store.stop)
        await intake.start()
        stack.push_async_callback(intake.stop)
        await copied.start(intake, stack)
        peers.publish(STORE, ledger.store_id)
        return cls(ledger, intake, pulls, store, Folders(folder).exports, copied.keeper)

    def offer(self, services: ServiceTable, settings: LogsSection) -> None:
        """To SEs, behind the secure channel."""
        services.register(LIVE_SERVICE, settings.live_port, self.intake.build_live, Priority.LIVE_LOGS)
        services.register(BULK_SERVICE, settings.bulk_port, self.intake.build_bulk, Priority.BULK)

    def record_changed(self, before: SeRecord | None, after: SeRecord) -> None:
        """Nothing more comes of an SE that is deleted."""
        if after.lifecycle is Lifecycle.DELETED:
            self.intake.forget(after.uuid)
            self.pulls.forget(after.uuid)


class _StoreMaking:
    """The stores of one controller: its own, and those that are copies, which share its workers."""

    def __init__(
        self, settings: LogsSection, folder: Path, thread: OwnThread, reactor: Any, reported: Reported
    ) -> None:
        self._folder, self._thread, self._reactor, self._reported = folder, thread, reactor, reported
        self._keeping = Keeping(int(settings.keep_days * DAY_S * 1e6), int(settings.keep_gib * GIB))
        memory = (settings.ingest_memory_mib * MIB, settings.query_memory_mib * MIB)
        self._workers = worker_processes(
            Folders(folder), memory, reactor, reported.died, (folder / COPIES_FOLDER,)
        )

    def own(self, ledger: Ledger) -> LogStoreService:
        """Starts and stops the workers."""
        return self._service(self._folder, ledger, self._workers, self._reported)

    def set(self, folder: Path, ledger: Ledger, reported: Reported) -> LogStoreService:
        """Of copies."""
        named = attrs.evolve(reported, name_of=self._reported.name_of)
        return self._service(folder, ledger, self._workers.lent, named)

    def _in_thread(self, call: Callable[..., Any], *arguments: Any) -> Deferred[Any]:
        return self._thread.run(partial(call, *arguments))

    def _service(self, folder: Path, ledger: Ledger, workers: Workers, reported: Reported) -> LogStoreService:
        around = Surroundings(
            self._in_thread,
            WallClock(self._reactor).seconds,
            reported.name_of,
            reported.file_lost,
            self._reactor.seconds,
        )
        store = EmbeddedLogStore(ledger, Folders(folder), around, workers)
        return LogStoreService(store, ledger, self._keeping, self._reactor, self._in_thread, reported)
