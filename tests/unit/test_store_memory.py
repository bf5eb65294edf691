"""The store in memory keeps the contract."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.store.memory import MemoryStore
from tests.unit.store_contract import StoreContract


class MemoryStoreTests(StoreContract, SynchronousTestCase):
    """The contract in memory."""

    def make_store(self, clock, max_history=10_000):
        return MemoryStore(clock, max_history=max_history)
