"""Three etcds, of which some are killed, stopped or full: what was acknowledged is there, once, and was told once."""

import contextlib
import signal
import uuid

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, gatherResults
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThread

from avinet.store.etcd import open_etcd_store
from avinet.store.interface import Compare, Put, StoreUnavailableError
from tests.integration.etcd_kit import Cluster, needs_etcd
from tests.integration.processes import LIMIT_S

needs_etcd()

WRITERS = 8


@pytest.fixture(scope="module")
def cluster():
    made = Cluster(3)
    yield made
    made.close()


async def until(condition):
    for _ in range(int(LIMIT_S / 0.02)):
        if condition():
            return
        await deferLater(reactor, 0.02)
    raise AssertionError("it did not happen in time")


class Load:
    """Writers that raise one counter by compare and append keys, and a watch; all on one store."""

    def __init__(self, store):
        self.store = store
        self.stopping = False
        self.done = {}
        self.unknown = set()
        self.seen = []
        self.lost = []

    async def begin(self):
        start = await self.store.transact([], [Put("counter", b"0")])
        self.store.watch("", start.revision, self.seen.extend, self.lost.append)
        self.running = gatherResults([Deferred.fromCoroutine(self.write()) for _ in range(WRITERS)])

    async def write(self):
        while not self.stopping:
            key = f"append/{uuid.uuid4()}"
            try:
                counter = await self.store.get("counter")
                more = Put("counter", b"%d" % (int(counter.value) + 1))
                compare = Compare("counter", counter.revision)
                outcome = await self.store.transact([compare], [more, Put(key, b"")])
                if not outcome.succeeded:
                    outcome = await self.store.transact([], [Put(key, b"alone")])
                self.done[key] = outcome.revision
            except StoreUnavailableError:
                self.unknown.add(key)
                await deferLater(reactor, 0.02)

    async def written(self, count):
        """So many more were acknowledged."""
        wanted = len(self.done) + count
        await until(lambda: len(self.done) >= wanted)

    async def check(self):
        """Nothing lost, nothing doubled, in the store and in the watch."""
        self.stopping = True
        await self.running
        found = {entry.key: entry for entry in (await self.store.list("append/")).entries}
        assert set(self.done) - set(found) == set()
        assert set(found) - set(self.done) <= self.unknown
        for key, entry in found.items():
            assert entry.revision == entry.created_revision == self.done.get(key, entry.revision)
        counted = sum(entry.value != b"alone" for entry in found.values())
        assert int((await self.store.get("counter")).value) == counted
        await until(lambda: len(self.seen) >= len(found) + counted)
        assert self.lost == []
        told = [change.key for change in self.seen if change.key != "counter"]
        assert len(told) == len(set(told))
        assert set(told) == set(found)
        assert [change.revision for change in self.seen] == sorted(change.revision for change in self.seen)


@contextlib.asynccontextmanager
async def loaded(cluster, first):
    """A load on a store whose own endpoint is that member."""
    await deferToThread(cluster.wipe)
    store = await open_etcd_store(cluster.access(first=cluster.members.index(first)), reactor)
    load = Load(store)
    await load.begin()
    try:
        yield load
    finally:
        load.stopping = True
        await store.close()


@pytest_twisted.ensureDeferred
async def test_a_leader_that_is_killed_loses_and_doubles_nothing(cluster):
    leader = await deferToThread(cluster.leader)
    async with loaded(cluster, leader) as load:
        await load.written(50)
        leader.kill()
        await load.written(50)
        leader.start()
        await load.written(50)
        await load.check()


@pytest_twisted.ensureDeferred
async def test_a_leader_that_is_stopped_does_not_do_it_again_when_it_goes_on(cluster):
    leader = await deferToThread(cluster.leader)
    async with loaded(cluster, leader) as load:
        await load.written(50)
        leader.send(signal.SIGSTOP)
        try:
            await load.written(50)
        finally:
            leader.send(signal.SIGCONT)
        await load.written(50)
        await load.check()


@pytest_twisted.ensureDeferred
async def test_without_a_quorum_it_says_so_and_with_one_it_goes_on(cluster):
    _own, *others = cluster.members
    store = await open_etcd_store(cluster.access(timeout_s=1.0), reactor)
    await store.transact([], [Put("a", b"1")])
    for member in others:
        member.send(signal.SIGSTOP)
    try:
        for asking in (
            store.transact([], [Put("a", b"2")]),
            store.get("a"),
            store.list("a"),
            store.grant_lease(9),
        ):
            with pytest.raises(StoreUnavailableError):
                await asking
    finally:
        for member in others:
            member.send(signal.SIGCONT)
    seen = []
    store.watch("a", (await again(store.get, "a")).revision, seen.extend, seen.append)
    outcome = await again(store.transact, [], [Put("a", b"3")])
    await until(lambda: seen and seen[-1].revision == outcome.revision)
    # What had no answer was done before, or never is.
    assert [change.entry.value for change in seen] in ([b"3"], [b"2", b"3"])
    assert (await store.get("a")).revision == outcome.revision
    await store.close()


async def again(call, *arguments):
    for _ in range(int(LIMIT_S)):
        try:
            return await call(*arguments)
        except StoreUnavailableError:
            pass
    raise AssertionError("it never went on")
