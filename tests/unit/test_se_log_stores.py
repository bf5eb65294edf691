"""An SE and several controllers: each segment is one's, whatever breaks, and nothing waits for who does not have it."""

import itertools

from avinet.logs import sending
from avinet.logs.reach import owner_of
from avinet.se.log_outgoing import LATER_S
from avinet.wire import log_messages as m
from tests.unit.log_lines import service
from tests.unit.log_stores import Stores
from tests.unit.test_logs_spool import FULL

MANY = range(1, 31)


def later(name, was):
    """What cannot be told yet."""
    if was:
        return m.Refuse(name=name, reason=m.RefuseReason.LATER, text="b is away")
    return m.Ack(names=(name,))


class Pushed(Stores):
    def test_each_service_has_one_controller(self):
        self.attach()
        self.made(*MANY)
        shares = {name: store.counters() for name, store in self.stores.items()}
        for number, counter in zip(MANY, range(1, 31), strict=True):
            self.assertIn(counter, shares[owner_of(service(number), ("a", "b", "c"))])
        self.assertEqual(sorted(itertools.chain(*shares.values())), list(range(1, 31)))
        self.assertEqual(self.left(), [])

    def test_of_one_controller_all_is_sent_at_once(self):
        self.made(*MANY)
        self.a.attach()
        self.assertEqual(self.a.counters(), list(range(1, 31)))

    def test_what_a_lost_one_may_have_waits_for_it_and_the_rest_goes_to_others(self):
        self.attach()
        self.a.silent()
        self.made(*MANY)
        begun = self.a.counters()
        self.assertTrue(begun)
        self.a.lose()
        self.assertEqual(self.left(), begun)
        self.made(*MANY)
        self.tick(600)
        self.assertEqual(self.left(), begun)
        self.a.answers = lambda name, was: m.Ack(names=(name,))
        self.a.attach()
        self.assertEqual(self.a.begun, [(counter, "") for counter in begun])
        self.assertEqual(self.left(), [])

    def test_through_a_kill_of_the_agent(self):
        self.attach()
        self.a.silent()
        self.made(*MANY)
        begun = self.a.counters()
        self.kill()
        self.attach(self.b, self.c)
        self.assertEqual(self.left(), begun)
        self.a.answers = lambda name, was: m.Ack(names=(name,))
        self.attach(self.a)
        self.assertEqual(self.a.counters(), begun)
        self.assertEqual(self.left(), [])

    def test_what_a_removed_one_may_have_goes_to_others_who_are_told_so(self):
        self.attach()
        self.a.silent()
        self.made(*MANY)
        begun = self.a.counters()
        for store in (self.b, self.c):
            store.counters()
        self.owners.list(["b", "c"])
        self.a.lose()
        moved = self.b.begun + self.c.begun
        self.assertEqual(sorted(moved), [(counter, self.a.store) for counter in begun])
        self.assertTrue(self.b.begun)
        self.assertTrue(self.c.begun)
        self.assertEqual(self.left(), [])

    def test_what_a_store_had_that_is_another_one_now_goes_anywhere(self):
        self.attach()
        self.a.silent()
        self.made(*MANY)
        begun, old = self.a.counters(), self.a.store
        self.a.lose()
        self.b.counters(), self.c.counters()
        self.a.store = "f" * 32
        self.a.attach()
        moved = self.b.begun + self.c.begun
        self.assertEqual(sorted(moved), [(counter, old) for counter in begun])
        self.assertEqual(self.a.begun, [], "it does not count yet")

    def test_one_that_holds_is_sent_nothing_and_its_share_goes_to_others_at_once(self):
        self.attach()
        self.a.hold()
        self.made(*MANY)
        self.assertEqual(self.a.counters(), [])
        self.assertEqual(self.left(), [])
        self.a.hold(held=False)
        self.made(*MANY)
        self.assertEqual(self.a.counters(), [])
        self.tick(6)
        self.made(*MANY)
        self.assertTrue(self.a.counters())

    def test_when_all_hold_all_wait(self):
        self.attach()
        for store in self.stores.values():
            store.hold()
        self.made(*MANY)
        self.tick(60)
        self.assertEqual(self.left(), list(range(1, 31)))
        self.b.hold(held=False)
        self.assertEqual(self.b.counters(), list(range(1, 31)))

    def test_what_was_made_ready_and_not_begun_goes_to_others_when_it_holds(self):
        self.a.attach()
        self.a.silent()
        self.patch(sending, "MAX_UNANSWERED", 100)
        self.made(*range(1, 61))
        self.made(*range(1, 41))
        begun = self.a.counters()
        self.assertEqual(len(begun), 60)
        self.b.attach()
        self.a.hold()
        self.assertEqual(self.left(), begun)
        self.assertEqual(self.b.counters(), list(range(61, 101)))

    def test_and_when_it_is_lost(self):
        self.b.batches = self.a.batches = False
        self.a.attach()
        self.a.silent()
        self.made(*range(1, 100))
        begun = self.a.counters()
        self.assertLess(len(begun), 99)
        self.b.attach()
        self.a.lose()
        self.assertEqual(self.left(), begun)

    def test_those_of_the_version_before_are_sent_it_where_there_are_no_others(self):
        self.a.store = self.b.store = ""
        self.attach(self.a, self.b)
        self.made(*MANY)
        self.assertEqual(len(self.a.counters() + self.b.counters()), 30)
        self.attach(self.c)
        self.made(*MANY)
        self.assertEqual(len(self.c.counters()), 30)
        self.c.silent()
        self.made(*MANY)
        begun = self.c.counters()
        self.c.lose()
        self.made(1)
        self.assertEqual(self.left(), begun)

    def test_what_cannot_be_told_yet_waits_and_holds_nobody_up(self):
        self.attach(self.a)
        self.a.silent()
        self.made(*MANY)
        self.owners.list(["b", "c"])
        self.a.lose()
        self.b.answers = later
        self.b.attach()
        self.assertEqual(self.left(), list(range(1, 31)))
        self.assertEqual({was for _, was in self.b.begun}, {self.a.store})
        self.b.begun.clear()
        self.made(*MANY)
        self.assertEqual(self.b.counters(), list(range(31, 61)))
        self.b.answers = lambda name, was: m.Ack(names=(name,))
        self.tick(LATER_S)
        self.assertEqual(self.b.counters(), list(range(1, 31)))
        self.assertEqual(self.left(), [])

    def test_what_a_controller_says_that_it_has_is_gone_with_whomever_it_is_pinned(self):
        self.attach(self.a)
        self.a.silent()
        self.made(1)
        self.a.lose()
        self.a.kept = tuple(head.name for head in self.heads())
        self.a.attach()
        self.assertEqual(self.left(), [])

    def test_pins_of_a_lost_index_are_not_guessed(self):
        self.attach(self.a)
        self.a.silent()
        self.made(1, 2)
        self.kill()
        self.spool.close()
        (self.folder / "spool.db").unlink()
        self.open()
        self.start()
        self.b.attach()
        self.assertEqual(self.b.begun, [(1, "?"), (2, "?")])


class Pulled(Stores):
    def setUp(self):
        super().setUp()
        self.attach()

    def test_a_pull_ends_without_what_another_one_may_have_and_says_so(self):
        self.made(1, 2, 3, log_class=FULL)
        self.a.silent()
        self.a.pull(services=(service(2),))
        self.b.pull()
        for _ in range(12):
            self.tick(1)
        planned, done = self.b.said
        self.assertEqual((planned.segments, planned.records, planned.elsewhere), (2, 2, {"a": 1}))
        self.assertEqual(done.elsewhere, {"a": 1})
        self.assertEqual(self.b.counters(), [1, 3])
        self.assertEqual(self.left(FULL), [2])
        self.assertEqual(self.spool.totals().full.segments, 1)

    def test_a_pull_of_one_goes_on_where_it_was(self):
        self.made(1, 2, 3, log_class=FULL)
        self.a.silent()
        self.a.pull()
        self.a.lose()
        self.assertEqual(self.b.pull()[-1], m.PullDone(pull=1, elsewhere={"a": 3}))
        self.a.answers = lambda name, was: m.Ack(names=(name,))
        self.a.counters()
        self.a.attach()
        self.assertEqual(self.a.counters(), [])
        self.assertEqual(self.a.pull()[-1], m.PullDone(pull=1))
        self.assertEqual(self.a.counters(), [1, 2, 3])

    def test_a_pull_waits_for_what_cannot_be_told_yet(self):
        self.made(1, 2, 3, log_class=FULL)
        self.a.silent()
        self.a.pull(services=(service(2),))
        self.owners.list(["b", "c"])
        self.a.lose()
        self.b.answers = later
        (planned,) = self.b.pull()
        self.assertEqual((planned.segments, planned.elsewhere), (3, {}))
        for _ in range(5):
            self.tick(1)
        self.assertEqual(sorted(self.b.counters()), [1, 2, 3])
        self.assertEqual(self.left(FULL), [2])
        self.b.answers = lambda name, was: m.Ack(names=(name,))
        for _ in range(40):
            self.tick(1)
        self.assertEqual(self.b.begun, [(2, self.a.store)])
        self.assertEqual(self.b.said[-1], m.PullDone(pull=1))

    def test_significant_ones_that_others_are_sent_are_waited_for_as_ever(self):
        self.b.silent()
        self.made(*MANY)
        with_b = self.b.counters()
        (planned,) = self.a.pull()
        self.assertEqual((planned.segments, planned.elsewhere), (0, {"b": len(with_b)}))
        waiting, self.b.waiting = self.b.waiting, []
        for end, name in waiting:
            end.say(m.Ack(names=(name,)))
        self.tick(2)
        self.assertEqual(self.a.said[-1], m.PullDone(pull=1))

    def test_of_one_that_does_not_answer_a_pull_waits_for_nothing_long(self):
        self.b.silent()
        self.made(*MANY)
        with_b = self.b.counters()
        self.a.pull()
        for _ in range(12):
            self.tick(1)
        self.assertEqual(self.a.said[-1], m.PullDone(pull=1, elsewhere={"b": len(with_b)}))

    def test_a_paused_pull_leaves_what_it_has_not_begun_to_others(self):
        self.a.batches = False
        self.a.lose()
        self.a.attach()
        self.made(*range(1, 100), log_class=FULL)
        self.a.silent()
        self.a.pull()
        begun = self.a.counters()
        self.assertLess(len(begun), 99)
        self.a.ends["bulk"].say(m.Pause(pull=1))
        self.pump()
        self.b.pull()
        self.assertEqual(self.left(FULL), begun)
