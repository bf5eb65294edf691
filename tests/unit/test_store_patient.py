"""A controller that starts reads until it is answered; one that follows the store is told what fails."""

from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.store.interface import Put, StoreUnavailableError
from avinet.store.memory import MemoryStore
from avinet.store.patient import LONGEST_PAUSE_S, PAUSE_S, PatientStore
from tests.unit.following_kit import Link


class Patient(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.link = Link(MemoryStore(self.clock))
        self.waits = []
        self.store = PatientStore(self.link, self.clock, self.waits.append)
        self.successResultOf(self.store.transact((), [Put("a", b"1")]))

    def test_a_read_waits_for_the_store_and_says_why(self):
        self.link.cut = True
        one, all_of_it = self.store.get("a"), self.store.list("")
        for _ in range(6):
            self.clock.advance(LONGEST_PAUSE_S)
        self.assertNoResult(one)
        self.assertGreater(len(self.waits), 6)
        self.assertIn("it is cut off", self.waits[0])
        self.link.cut = False
        self.clock.advance(LONGEST_PAUSE_S)
        self.assertEqual(self.successResultOf(one).value, b"1")
        self.assertEqual([entry.key for entry in self.successResultOf(all_of_it).entries], ["a"])

    def test_what_is_given_up_asks_no_more(self):
        self.link.cut = True
        one = self.store.get("a")
        one.cancel()
        self.failureResultOf(one, CancelledError)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_write_is_told_at_once(self):
        self.link.cut = True
        self.failureResultOf(self.store.transact((), [Put("a", b"2")]), StoreUnavailableError)

    def test_who_follows_is_told_at_once(self):
        self.store.watch("", 0, lambda changes: None, lambda why: None)
        self.link.cut = True
        self.failureResultOf(self.store.get("a"), StoreUnavailableError)

    def test_a_read_that_waits_when_it_follows_is_told(self):
        self.link.cut = True
        one = self.store.get("a")
        self.store.watch("", 0, lambda changes: None, lambda why: None)
        self.clock.advance(PAUSE_S)
        self.failureResultOf(one, StoreUnavailableError)
