"""A fleet that comes back at once: the real gate and the real back-off, around a model of the one reactor thread.

The thread completes a login each ``COST_S``, in the order of arrival; a connection takes ``TRIP_S`` more, as round
trips.  Everything else is what runs: who is let in, what the others are told, and when they dial again.
"""

import heapq
import itertools
import random
import unittest

from avinet.ssh.backoff import Backoff
from avinet.ssh.gate import Gate, Ticket

COST_S = 1 / 400
TRIP_S = 0.05


class Storm:
    """Time goes from event to event."""

    def __init__(self, cost_s=COST_S, seed=1):
        self.now = 0.0
        self.cost_s = cost_s
        self.gate = Gate(lambda: self.now)
        self.random = random.Random(seed).random
        self.events = []
        self.order = itertools.count()
        self.free_at = 0.0
        self.queued = 0
        self.attached = []
        self.waits = []
        self.refusals = {}

    def at(self, when, what, *args):
        heapq.heappush(self.events, (when, next(self.order), what, args))

    def run(self, until=300.0):
        while self.events and self.events[0][0] <= until:
            self.now, _, what, args = heapq.heappop(self.events)
            what(*args)

    def engine(self, name, address, first_dial):
        self.refusals[name] = 0
        self.at(first_dial, self.dial, name, address, Backoff(self.random))

    def dial(self, name, address, backoff):
        answer = self.gate.admit(address)
        if isinstance(answer, Ticket):
            self.work(lambda: self.log_in(name, answer))
            return
        self.refusals[name] += 1
        # In the text of the refusal, to a tenth; cut without a word, it is a failure like any other.
        wait_s = backoff.next_wait_s(None if answer.wait_s is None else round(answer.wait_s, 1))
        self.waits.append(wait_s)
        self.at(self.now + wait_s, self.dial, name, address, backoff)

    def work(self, done):
        self.queued += 1
        self.free_at = max(self.free_at, self.now + TRIP_S) + self.cost_s
        self.at(self.free_at, self.worked, done)

    def worked(self, done):
        self.queued -= 1
        done()

    def log_in(self, name, ticket):
        self.gate.leave(ticket, authenticated=True, behind=self.queued > 8)
        self.attached.append((self.now, name))

    def flood(self, number, period_s):
        """A stranger who starts a key exchange and leaves, from one of 300 networks."""
        answer = self.gate.admit(f"203.{number % 300 // 256}.{number % 256}.9")
        if isinstance(answer, Ticket):
            self.work(lambda: self.gate.leave(answer, authenticated=False))
        self.at(self.now + period_s, self.flood, number + 1, period_s)

    @property
    def last(self):
        return self.attached[-1][0]


class Reconnect(unittest.TestCase):
    def test_a_fleet_of_8000_is_back_about_as_fast_as_its_controller_can_log_it_in(self):
        storm = Storm()
        for n in range(8000):
            address = f"10.{n % 20}.1.1"
            storm.gate.know(address)
            storm.engine(n, address, storm.random())
        storm.run()
        self.assertEqual(len(storm.attached), 8000)
        self.assertLess(storm.last, 1.1 * 8000 * COST_S)
        self.assertLessEqual(max(storm.refusals.values()), 3)
        self.assertLess(sum(storm.refusals.values()), 1.5 * 8000)

    def test_a_slower_machine_hands_out_longer_waits(self):
        storm = Storm(cost_s=1 / 150)
        for n in range(4000):
            address = f"10.{n % 20}.1.1"
            storm.gate.know(address)
            storm.engine(n, address, storm.random())
        storm.run()
        self.assertAlmostEqual(storm.gate.rate.interval_s, 1 / 150, delta=0.0005)
        self.assertLess(storm.last, 1.1 * 4000 / 150)
        self.assertLess(sum(storm.refusals.values()), 2 * 4000)

    def test_2000_behind_one_address_come_back_beside_a_flood_of_strangers(self):
        storm = Storm()
        storm.gate.know("10.1.2.3")
        for n in range(2000):
            storm.engine(n, "10.1.2.3", storm.random())
        storm.flood(0, 0.001)
        storm.run(until=30.0)
        self.assertEqual(len(storm.attached), 2000)
        # The strangers' pace and burst, worked off beside them, and a tenth.
        strangers = 256 + 100 * storm.last
        self.assertLess(storm.last, 1.1 * (2000 + strangers) * COST_S)
        self.assertLessEqual(max(storm.refusals.values()), 4)

    def test_nobody_waits_while_the_controller_has_nothing_to_do(self):
        storm = Storm()
        for n in range(1000):
            storm.engine(n, f"10.{n % 7}.2.3", n * 0.01)
        storm.run()
        self.assertEqual((len(storm.attached), storm.waits), (1000, []))

    def test_a_network_that_nobody_knows_yet_is_let_in_by_its_own_logins(self):
        storm = Storm()
        for n in range(500):
            storm.engine(n, "10.1.2.3", storm.random())
        storm.run()
        self.assertEqual(len(storm.attached), 500)
        self.assertLess(storm.last, 4.0)
