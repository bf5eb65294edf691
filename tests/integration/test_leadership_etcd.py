"""Three controllers' records on one real etcd: who leads writes, the others know, and a deposed one changes nothing."""

import contextlib
import tempfile
import time
from pathlib import Path

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from avinet.app.records import Records
from avinet.app.settings import ControllerSettings
from avinet.controller.fencing import NotLeaderError
from avinet.controller.peers_memory import PeerHub
from avinet.controller.seat import SharedSeat
from avinet.model import election
from avinet.store.etcd import open_etcd_store
from avinet.trust.node import ControllerPaths
from tests.integration.etcd_kit import Cluster, needs_etcd
from tests.integration.processes import LIMIT_S
from tests.unit.config_kit import pool

needs_etcd()


class Controller:
    """The part of one that has to do with the store."""

    @classmethod
    async def start(cls, name, cluster, hub, folder):
        self = cls()
        self.name = name
        self.raw = await open_etcd_store(cluster.access(), reactor)
        self.seat = SharedSeat(self.raw, hub.peers(name), reactor)
        self.events = []
        self.records = await Records.load(
            self.seat.store,
            ControllerSettings(),
            ControllerPaths(folder / name),
            lambda code, *told, **facts: self.events.append(code),
            reactor,
        )
        await self.records.follow(self.seat)
        await self.seat.sit()
        return self

    async def stop(self):
        with contextlib.suppress(Exception):
            await self.seat.stop()
        self.records.stop()
        await self.raw.close()

    @property
    def leads(self):
        return self.seat.role.leads

    async def apply(self, *documents):
        return await self.records.config.apply(documents, "tester")

    def knows(self):
        config, index = self.records.config, self.records.engines.index
        return config.current.version, config.current.objects, dict(index._held), index._by_name


async def until(condition):
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        await deferLater(reactor, 0.005)


async def world(cluster, folder, hub):
    return [await Controller.start(name, cluster, hub, folder) for name in hub.members]


@pytest_twisted.ensureDeferred
async def test_a_deposed_leader_changes_nothing_and_another_writes_within_seconds(monkeypatch):
    monkeypatch.setattr(election, "GRACE_S", 0.0)  # a leader in office for long
    hub = PeerHub("a", "b", "c")
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        cluster = Cluster()
        stack.callback(cluster.close)
        controllers = await world(cluster, folder, hub)
        try:
            await until(lambda: any(one.leads for one in controllers))
            (old,) = [one for one in controllers if one.leads]
            await old.apply(pool())
            record, _ = await old.records.engines.create("web-1", "Default-Group")
            await until(lambda: all(one.knows() == old.knows() for one in controllers))

            # It hears nothing any more, of its watch and of the others; both others know that it is lost.
            old.seat.following._watch.cancel()
            hub.cut(old.name)
            others = [one for one in controllers if one is not old]
            await until(lambda: any(one.leads for one in others))
            (new,) = [one for one in others if one.leads]
            await new.apply(pool("web", 81))
            assert old.leads  # as far as it knows
            refused = await Deferred.fromCoroutine(old.apply(pool("late"))).addErrback(
                lambda failure: failure.value
            )
            assert isinstance(refused, NotLeaderError)
            assert not old.leads
            assert new.records.config.fence > old.records.config.fence
            renamed = await Deferred.fromCoroutine(old.records.engines.delete(record.uuid)).addErrback(
                lambda failure: failure.value
            )
            assert isinstance(renamed, NotLeaderError)

            fresh = await open_etcd_store(cluster.access(), reactor)
            loaded = await Records.load(
                fresh,
                ControllerSettings(),
                ControllerPaths(folder / "d"),
                lambda *told, **facts: None,
                reactor,
            )
            assert loaded.config.current.version == 3
            await until(lambda: all(one.records.config.current.version == 3 for one in others))
            assert all(one.records.config.current == loaded.config.current for one in others)
            await fresh.close()
        finally:
            for one in controllers:
                await one.stop()
