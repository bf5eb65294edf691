"""Copies of request logs on a controller, put together: those that it has made, and those that it keeps for others."""

import contextlib
import shutil
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
from twisted.internet.defer import Deferred
from twisted.logger import Logger

from avinet.controller.log_claims import Claims
from avinet.controller.log_copies import Copies, CopyThreads, WithoutPeer
from avinet.controller.log_copy_set import CopySet
from avinet.controller.log_intake import Emit, LogIntake, Threads
from avinet.controller.log_keeper import Keeper, SetFolders
from avinet.controller.log_store import LogStoreService, Reported
from avinet.controller.peers import PEER_COPIES, Peers
from avinet.logs.copies import CopiesElsewhere, CopiesHere
from avinet.logs.incoming import IncomingLogs
from avinet.logs.ledger import Ledger
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.store.folders import Folders
from avinet.model.ids import ControllerName
from avinet.store.threads import OwnThread
from avinet.trust.files import private_dir

FOLDER = "copies"
"""In the folder of logs: one folder for each store, which is its name."""

_log = Logger()


@attrs.frozen
class CopySurroundings:
    """Who else there is, how events are told, and what is done while nobody takes copies."""

    peers: Peers
    reactor: Any
    emit: Emit
    without_peer: WithoutPeer


@attrs.frozen(eq=False)
class SetMaking:
    """How sets are opened."""

    folder: Path
    """Of all logs."""
    in_thread: Callable[[Callable[[], Any]], Deferred[Any]]
    incoming: Callable[[Path, Ledger], IncomingLogs]
    service: Callable[[Path, Ledger, Reported], LogStoreService]

    async def make(self, store: str, controller: ControllerName | None) -> CopySet | None:
        """See ``avinet.controller.log_keeper.Make``."""
        folder = self.folder / FOLDER / store

        def opened() -> Ledger:
            private_dir(folder.parent)
            private_dir(folder)
            return open_ledger(folder / "ledger.db")

        ledger: Ledger = await self.in_thread(opened)
        stack = contextlib.AsyncExitStack()
        stack.callback(ledger.close)
        try:
            return await self._made(store, ledger, controller, stack)
        except BaseException:
            await stack.aclose()
            raise

    async def _made(
        self, store: str, ledger: Ledger, controller: ControllerName | None, stack: contextlib.AsyncExitStack
    ) -> CopySet | None:
        folder, rows = self.folder / FOLDER / store, CopiesHere(ledger)

        def begun() -> ControllerName | None:
            if controller is not None and rows.whose() is None:
                rows.be(controller)
            return rows.whose()

        whose: ControllerName | None = await self.in_thread(begun)
        if whose is None:
            await stack.aclose()
            return None
        service = self.service(folder, ledger, Reported(partial(_told, whose)))
        # What is in the store is known from here on.
        await service.start()
        stack.push_async_callback(service.stop)
        logs = self.incoming(folder, ledger)

        def swept() -> tuple[bool, Any]:
            logs.sweep(copied=True)
            return bool(rows.held()), rows.uncopied()

        holds, uncopied = await self.in_thread(swept)

        def close() -> Deferred[None]:
            return Deferred.fromCoroutine(stack.aclose())

        return CopySet(store, whose, Folders(folder), logs, service, close, uncopied, holds)

    def found(self) -> Sequence[str]:
        """The stores of which there are folders."""
        try:
            return sorted(path.name for path in (self.folder / FOLDER).iterdir() if path.is_dir())
        except FileNotFoundError:
            return ()

    def remove(self, store: str) -> None:
        """A folder and all in it."""
        shutil.rmtree(self.folder / FOLDER / store)


@attrs.frozen(eq=False)
class ControllerCopies:
    """All of it."""

    copies: Copies
    keeper: Keeper
    claims: Claims

    @classmethod
    def make(
        cls,
        around: CopySurroundings,
        making: SetMaking,
        own: Ledger,
        threads: Threads,
        stack: contextlib.AsyncExitStack,
    ) -> "ControllerCopies":
        """``own`` is this controller's ledger, whose thread is that of ``threads.commits``."""
        peers, reactor = around.peers, around.reactor
        reads, commits = OwnThread(reactor, "copy reads"), OwnThread(reactor, "copy commits")
        stack.callback(reads.stop)
        stack.callback(commits.stop)
        copies = Copies(
            peers,
            CopiesElsewhere(own),
            CopyThreads(reads.run, threads.commits.run),
            reactor,
            around.emit,
            around.without_peer,
        )
        made = attrs.evolve(making, in_thread=commits.run)
        keeper = Keeper(
            peers,
            Threads(threads.writes, commits),
            reactor,
            SetFolders(made.make, made.found, made.remove),
        )
        return cls(copies, keeper, Claims(keeper, peers, own, reactor, commits.run))

    async def start(self, intake: LogIntake, stack: contextlib.AsyncExitStack) -> None:
        """Keep, and have copied."""
        intake.elsewhere = self.claims.had
        self.copies.hold = lambda held: intake.hold("no other controller takes copies", held=held)
        await self.keeper.start()
        stack.push_async_callback(self.keeper.stop)
        self.claims.start()
        stack.callback(self.claims.stop)
        self.keeper.peers.offer(PEER_COPIES, self.keeper.build)
        self.copies.start()
        stack.callback(self.copies.stop)


def _told(whose: ControllerName, code: str, level: object, subject: str, text: str, **facts: object) -> None:
    """What goes wrong in a copy is no event: the controller whose logs these are has told it, or nobody asks."""
    _log.warn("in the copy of the logs of {whose}: {text}", whose=whose, text=text, code=code)
