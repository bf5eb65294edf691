"""Among whom virtual services are shared out, as controllers come, hold, flap and go."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.reach import LogStore, owner_of
from avinet.se.log_owners import SETTLE_S, LogOwners
from tests.unit.log_lines import service

SERVICES = [service(number) for number in range(600)]


class TheOwner(SynchronousTestCase):
    def shares(self, *names):
        found = {name: set() for name in names}
        for one in SERVICES:
            found[owner_of(one, names)].add(one)
        return found

    def test_is_one_of_those_that_there_are_and_all_have_about_as_many(self):
        for share in self.shares("a", "b", "c").values():
            self.assertGreater(len(share), 150)
        self.assertEqual(len(self.shares("a")["a"]), 600)

    def test_stays_when_another_one_goes_or_comes(self):
        three, two = self.shares("a", "b", "c"), self.shares("c", "a")
        self.assertTrue(three["a"] <= two["a"])
        self.assertTrue(three["c"] <= two["c"])

    def test_is_the_same_on_every_service_engine_and_in_every_version(self):
        names = ("one", "two", "three")
        self.assertEqual([owner_of(service(n), names) for n in range(6)], EXPECTED)


EXPECTED = ["one", "two", "three", "two", "one", "one"]
"""As `b2sum -l 64` says; a change of it moves everything on an upgrade."""


class TheOwners(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.owners = LogOwners(self.clock)
        self.changes = []
        self.owners.watch(self, lambda: self.changes.append(self.now()))

    def now(self):
        return self.owners.reach(LogStore("a", "1" * 32), shared=True).owners

    def test_the_first_counts_at_once_and_those_that_come_later_after_a_while(self):
        self.owners.ready("channel to a", "a")
        self.owners.ready("channel to b", "b")
        self.assertEqual(self.now(), ("a",))
        self.clock.advance(SETTLE_S - 0.1)
        self.owners.ready("channel to c", "c")
        self.assertEqual(self.now(), ("a",))
        self.clock.advance(0.1)
        self.assertEqual(self.now(), ("a", "b"))
        self.clock.advance(SETTLE_S)
        self.assertEqual(self.changes, [("a",), ("a", "b"), ("a", "b", "c")])

    def test_one_that_goes_or_holds_does_not_count_from_then_on(self):
        for name in "ab":
            self.owners.ready(name, name)
        self.clock.advance(SETTLE_S)
        self.owners.gone("a")
        self.owners.gone("a")
        self.assertEqual(self.now(), ("b",))

    def test_one_that_flaps_moves_nothing(self):
        self.owners.ready("a", "a")
        for number in range(10):
            self.owners.ready(number, "b")
            self.clock.advance(SETTLE_S - 1)
            self.owners.gone(number)
        self.clock.advance(SETTLE_S)
        self.assertEqual(self.changes, [("a",)])
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_a_newer_channel_to_the_same_one_changes_nothing(self):
        self.owners.ready("first", "a")
        self.owners.ready("second", "a")
        self.owners.gone("first")
        self.assertEqual(self.changes, [("a",)])
        self.owners.gone("second")
        self.assertEqual(self.now(), ())

    def test_when_the_last_one_goes_those_that_are_there_count_at_once(self):
        self.owners.ready("a", "a")
        self.owners.ready("b", "b")
        self.owners.ready("c", "c")
        self.owners.gone("a")
        self.assertEqual(self.now(), ("b", "c"))
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_lists_and_stores_are_told_where_they_are_others(self):
        self.owners.list(["a", "b"])
        self.owners.list(["b", "a"])
        self.owners.welcomed(LogStore("b", "2" * 32))
        self.owners.welcomed(LogStore("b", "2" * 32))
        self.assertEqual(len(self.changes), 2)
        reach = self.owners.reach(LogStore("a", "1" * 32), shared=False)
        self.assertEqual(reach.listed, {"a", "b"})
        self.assertEqual((reach.said, reach.owners), ({"b": "2" * 32}, None))
        self.owners.welcomed(LogStore("b", "3" * 32))
        self.assertEqual(reach.said, {"b": "2" * 32}, "what a thread has does not change")

    def test_that_are_stopped_leave_no_timer(self):
        self.owners.ready("a", "a")
        self.owners.ready("b", "b")
        self.owners.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
