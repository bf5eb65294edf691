"""Copies of request logs over real links between controllers: as they are, small ones before large ones, in bounded memory."""

import contextlib
import hashlib
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import succeed

from avinet.controller.log_copies import Copies, CopyThreads
from avinet.controller.log_copy_set import CopySet
from avinet.controller.log_intake import Threads
from avinet.controller.log_keeper import Keeper, SetFolders
from avinet.controller.log_sets import STORE
from avinet.controller.log_settling import Settling
from avinet.controller.peers import PEER_COPIES
from avinet.logs.copies import CopiesElsewhere, CopiesHere
from avinet.logs.entries import Segment
from avinet.logs.incoming import IncomingLogs, IntakeLimits
from avinet.logs.incoming_pack import Start
from avinet.logs.ledger_damage import open_ledger
from avinet.logs.store.folders import Folders
from avinet.store.threads import OwnThread
from avinet.units import MIB
from tests.integration.test_peer_links import pair
from tests.integration.test_ssh_openssh import until
from tests.unit.log_copy_kit import SE, Service, data_of, head_of

LARGE = 4 * MIB
LIMITS = IntakeLimits(free_bytes=0)


class Side:
    """One controller's logs, and what it keeps of the other's."""

    def __init__(self, node, folder, stack):
        self.links, self.folder = node.peers.links, folder
        folder.mkdir()
        self.syncs = stack.enter_context(ThreadPoolExecutor(4))
        reads, writes, commits, kept = (OwnThread(reactor, "test") for _ in range(4))
        self.ledger = open_ledger(folder / "ledger.db")
        stack.callback(self.ledger.close)
        for thread in (reads, writes, commits, kept):
            stack.callback(thread.stop)
        self.rows, self.in_thread = CopiesElsewhere(self.ledger), commits.run
        self.copies = Copies(
            self.links, self.rows, CopyThreads(reads.run, commits.run), reactor, lambda *_, **__: None
        )
        self.logs = IncomingLogs(folder, self.ledger, self.syncs, LIMITS)
        self.settling = Settling(self.logs, commits.run, reactor, self.failed, self.copies)
        folders = SetFolders(self.make, tuple, shutil.rmtree)
        self.keeper = Keeper(self.links, Threads(writes, kept), reactor, folders)
        stack.push_async_callback(self.keeper.stop)

    async def start(self, stack):
        await self.keeper.start()
        self.links.offer(PEER_COPIES, self.keeper.build)
        self.links.publish(STORE, self.ledger.store_id)
        self.copies.start()
        stack.callback(self.copies.stop)

    async def make(self, store, controller):
        folder = self.folder / "copies" / store
        folder.mkdir(parents=True)
        ledger = open_ledger(folder / "ledger.db")
        CopiesHere(ledger).be(controller)
        logs = IncomingLogs(folder, ledger, self.syncs, LIMITS)

        def close():
            ledger.close()
            return succeed(None)

        return CopySet(store, controller, Folders(folder), logs, Service(), close)

    def failed(self, failure):
        raise AssertionError(failure.getErrorMessage())

    def keep(self, counters, size, pull):
        """What has come whole of a service engine."""
        heads = tuple(head_of(counter, size) for counter in counters)
        one = len(heads) == 1
        part = self.logs.part(Segment(SE, heads[0]), 0) if one else self.logs.pack(SE, Start(heads, ""))
        part.open()
        for counter in counters:
            data = memoryview(data_of(counter, size))
            while data:
                data = data[part.append(data) :]
        if not one:
            part.finish()
        return self.settling.keep(part, pull)


def digests(folder):
    return {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (folder / "received").rglob("*.*")
    }


@pytest_twisted.ensureDeferred
async def test_parts_are_copied_as_they_are_and_what_was_pushed_goes_first(tmp_path: Path):
    async with pair() as nodes, contextlib.AsyncExitStack() as stack:
        a, b = (
            Side(node, tmp_path / name, stack) for node, name in zip(nodes, ("a-logs", "b-logs"), strict=True)
        )
        for side in (a, b):
            await side.start(stack)
        done = []
        whole = [
            a.keep((first, first + 1), LARGE, "7").addCallback(lambda _, first=first: done.append(first))
            for first in range(1, 13, 2)
        ]
        await whole[0]
        whole.append(a.keep((100,), 1_000, "").addCallback(lambda _: done.append(100)))
        for one in whole:
            await one
        assert done.index(100) < len(done) - 1, done
        await until(lambda: not a.rows.owed("b"))
        copies = b.keeper.sets[a.ledger.store_id]
        assert digests(copies.folders.base) == digests(a.folder)
        assert len(digests(a.folder)) == 7
        with copies.logs.ledger.reading() as connection:
            assert connection.execute("SELECT count(*) FROM segment").fetchone() == (13,)
