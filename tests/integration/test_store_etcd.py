"""The store on a real etcd keeps the contract."""

import time

import pytest_twisted
from twisted.internet import reactor
from twisted.internet.task import deferLater
from twisted.trial.unittest import SynchronousTestCase

from avinet.store.etcd import open_etcd_store
from tests.integration.etcd_kit import Cluster, needs_etcd
from tests.integration.processes import LIMIT_S
from tests.unit.store_contract import StoreContract

needs_etcd()


def pause(seconds):
    pytest_twisted.blockon(deferLater(reactor, seconds))


class EtcdContractTests(StoreContract, SynchronousTestCase):
    """The contract on one etcd that all these tests share."""

    ttl_s = 1.0
    """The least that this etcd grants."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster()

    @classmethod
    def tearDownClass(cls):
        cls.cluster.close()

    def make_store(self, clock, max_history=None):
        self.cluster.wipe()
        return self.successResultOf(open_etcd_store(self.cluster.access(), reactor))

    def successResultOf(self, deferred):
        return pytest_twisted.blockon(deferred)

    def failureResultOf(self, deferred, *kinds):
        deferred.addCallbacks(self.fail, lambda failure: [failure] if failure.check(*kinds) else failure)
        return pytest_twisted.blockon(deferred)[0]

    def told(self, watcher, seen):
        self.until(lambda: len(watcher.seen) >= len(seen))
        self.assertEqual(watcher.seen, seen)

    def until(self, condition):
        end = time.monotonic() + LIMIT_S
        while not condition() and time.monotonic() < end:
            pause(0.005)
        self.assertTrue(condition())

    def forget(self, revision):
        self.cluster.members[0].ask("kv/compaction", revision=revision)

    def lease(self):
        self.renewed = time.monotonic()
        return super().lease()

    def keep_alive(self, lease):
        self.renewed = time.monotonic()
        return super().keep_alive(lease)

    def wait(self, share):
        pause(share * self.ttl_s)

    def still_there(self, key):
        """If its time is not over, however late this test comes to ask."""
        found = self.get(key)
        self.assertTrue(found is not None or time.monotonic() - self.renewed > self.ttl_s)

    def gone(self, key):
        self.until(lambda: self.get(key) is None)
