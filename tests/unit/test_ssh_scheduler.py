"""Which channel sends next: strict classes, fair shares, a floor."""

from collections import Counter

import attrs
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.scheduler import FLOOR_SHARE, Priority, Scheduler


@attrs.define(eq=False)
class Channel:
    """A sender with packets of one size, always ready."""

    priority: Priority
    size: int = 1000
    name: str = ""


def serve(scheduler, packets, *, governed=True):
    """Who sent how many bytes."""
    bytes_of = Counter()
    for _ in range(packets):
        sender = scheduler.next(governed=governed)
        if sender is None:
            break
        bytes_of[sender] += sender.size
        scheduler.sent(sender, sender.size)
    return bytes_of


def ready(*senders):
    scheduler = Scheduler()
    for sender in senders:
        scheduler.ready(sender)
    return scheduler


class Classes(SynchronousTestCase):
    def test_nobody_is_next_when_nobody_is_ready(self):
        self.assertIsNone(Scheduler().next(governed=True))
        self.assertIsNone(Scheduler().next(governed=False))

    def test_the_most_urgent_goes_first_whatever_the_order_of_arrival(self):
        channels = [Channel(priority) for priority in Priority]
        scheduler = ready(*reversed(channels))
        order = []
        while len(scheduler):
            sender = scheduler.next(governed=True)
            order.append(sender)
            scheduler.withdraw(sender)
        self.assertEqual(order, channels)

    def test_control_is_never_held_back_by_a_floor(self):
        control, bulk = Channel(Priority.CONTROL), Channel(Priority.BULK)
        self.assertEqual(set(serve(ready(bulk, control), 1000)), {control})

    def test_without_room_only_control_sends(self):
        control = Channel(Priority.CONTROL)
        others = [Channel(priority) for priority in Priority if priority is not Priority.CONTROL]
        scheduler = ready(*others)
        self.assertIsNone(scheduler.next(governed=False))
        scheduler.ready(control)
        self.assertIs(scheduler.next(governed=False), control)

    def test_asking_changes_nothing(self):
        scheduler = ready(*(Channel(Priority.BULK) for _ in range(3)))
        self.assertEqual(len({scheduler.next(governed=True) for _ in range(10)}), 1)


class Shares(SynchronousTestCase):
    def test_small_and_large_packets_get_the_same_bytes(self):
        channels = [Channel(Priority.BULK, size) for size in (100, 32_768, 262_144, 5000)]
        got = serve(ready(*channels), 60_000)
        least, most = min(got[c] for c in channels), max(got[c] for c in channels)
        self.assertLess(most - least, 2 * 262_144)
        self.assertGreater(least, 1 << 20)

    def test_one_that_is_ready_for_a_packet_at_a_time_gains_nothing(self):
        steady, flapping = Channel(Priority.BULK, 32_768), Channel(Priority.BULK, 32_768)
        scheduler, got = ready(steady, flapping), Counter()
        for _ in range(1000):
            sender = scheduler.next(governed=True)
            got[sender] += sender.size
            scheduler.sent(sender, sender.size)
            if sender is flapping:
                scheduler.withdraw(flapping)
                scheduler.ready(flapping)
        self.assertLessEqual(abs(got[steady] - got[flapping]), 2 * 32_768)

    def test_each_lower_class_gets_its_floor_under_a_saturating_one(self):
        config, commands, logs, bulk = (
            Channel(priority, size)
            for priority, size in (
                (Priority.CONFIG, 10_000),
                (Priority.COMMANDS, 300),
                (Priority.LIVE_LOGS, 4000),
                (Priority.BULK, 262_144),
            )
        )
        got = serve(ready(config, commands, logs, bulk), 50_000)
        for channel in (commands, logs, bulk):
            share = got[channel] / got[config]
            self.assertGreater(share, 0.95 / FLOOR_SHARE)
            self.assertLess(share, 1.35 / FLOOR_SHARE)

    def test_a_class_that_was_served_alone_owes_nothing_later(self):
        config, bulk = Channel(Priority.CONFIG), Channel(Priority.BULK)
        scheduler = ready(bulk)
        serve(scheduler, 10_000)
        scheduler.ready(config)
        self.assertGreater(serve(scheduler, 64)[bulk], 0)

    def test_a_class_that_became_empty_keeps_nothing_it_earned(self):
        config, bulk = Channel(Priority.CONFIG, 100_000), Channel(Priority.BULK)
        scheduler = ready(config, bulk)
        scheduler.sent(config, 100_000)
        scheduler.withdraw(bulk)
        scheduler.ready(bulk)
        self.assertIs(scheduler.next(governed=True), config)


class Membership(SynchronousTestCase):
    def test_ready_twice_is_ready_once(self):
        one, two = Channel(Priority.BULK), Channel(Priority.BULK)
        scheduler = ready(one, one, two, one)
        self.assertEqual(len(scheduler), 2)
        scheduler.withdraw(one)
        self.assertEqual(set(serve(scheduler, 100)), {two})

    def test_withdrawing_is_idempotent_and_the_unknown_may_be_withdrawn(self):
        one = Channel(Priority.BULK)
        scheduler = ready(one)
        for _ in range(3):
            scheduler.withdraw(one)
        scheduler.withdraw(Channel(Priority.CONFIG))
        self.assertIsNone(scheduler.next(governed=True))

    def test_the_ring_goes_on_when_the_one_whose_turn_it_is_withdraws(self):
        for gone in range(3):
            channels = [Channel(Priority.BULK, 32_768, name) for name in "abc"]
            scheduler = ready(*channels)
            serve(scheduler, 1)
            left = channels.pop(gone)
            scheduler.withdraw(left)
            self.assertEqual(set(serve(scheduler, 4)), set(channels))

    def test_a_packet_of_one_that_has_withdrawn_is_counted_for_its_class(self):
        commands, bulk = Channel(Priority.COMMANDS), Channel(Priority.BULK)
        scheduler = ready(commands, bulk)
        scheduler.withdraw(commands)
        scheduler.sent(commands, 1000)
        scheduler.ready(commands)
        self.assertIs(scheduler.next(governed=True), bulk)

    def test_a_new_priority_counts_when_it_is_ready_anew(self):
        one, two = Channel(Priority.BULK), Channel(Priority.COMMANDS)
        scheduler = ready(one, two)
        one.priority = Priority.CONFIG
        self.assertIs(scheduler.next(governed=True), two)
        scheduler.withdraw(one)
        scheduler.ready(one)
        self.assertIs(scheduler.next(governed=True), one)


SIZES = (1, 500, 32_768, 262_144)
CHANNELS = 8
STEPS = st.lists(st.tuples(st.sampled_from("rwns"), st.integers(0, CHANNELS - 1)), max_size=200)


class Properties(SynchronousTestCase):
    @settings(max_examples=60, deadline=None)
    @given(st.lists(st.sampled_from(Priority), min_size=CHANNELS, max_size=CHANNELS), STEPS)
    def test_only_the_ready_are_named_and_none_of_them_starves(self, priorities, steps):
        channels = [
            Channel(priority, SIZES[number % len(SIZES)]) for number, priority in enumerate(priorities)
        ]
        scheduler, model = Scheduler(), set()
        for what, number in steps:
            channel = channels[number]
            if what == "r":
                scheduler.ready(channel)
                model.add(channel)
            elif what == "w":
                scheduler.withdraw(channel)
                model.discard(channel)
            else:
                governed = what == "n"
                sender = scheduler.next(governed=governed)
                control = {c for c in model if c.priority is Priority.CONTROL}
                self.assertEqual(sender is None, not (model if governed else control))
                if sender is not None:
                    self.assertIn(sender, control or model)
                    scheduler.sent(sender, sender.size)
        for channel in [c for c in model if c.priority is Priority.CONTROL]:
            scheduler.withdraw(channel)
            model.discard(channel)
        # In these many bytes each of a class's senders has had a turn, even at the floor and after the worst debt.
        waiting, budget = set(model), 64 * FLOOR_SHARE * max(SIZES) * CHANNELS
        while waiting and budget > 0:
            sender = scheduler.next(governed=True)
            self.assertIn(sender, model)
            waiting.discard(sender)
            scheduler.sent(sender, max(SIZES))
            budget -= max(SIZES)
        self.assertEqual(waiting, set())
