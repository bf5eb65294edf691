"""Who may start a connection, who is told to come back, and when."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.commands import CommandServer
from avinet.ssh.gate import Bucket, Gate, GateLimits, Ticket, TurnedAway, network_of
from avinet.ssh.pace import MAX_WAIT_S, Queue, Rate
from avinet.ssh.policy import CommandPolicy
from avinet.ssh.refusal import Refusal, busy_from, busy_text
from avinet.ssh.turnstile import Turnstile


class Networks(SynchronousTestCase):
    def test_what_one_stranger_can_be_assumed_to_hold(self):
        self.assertEqual(network_of("10.1.2.3"), "10.1.2.0/24")
        self.assertEqual(network_of("::ffff:10.1.2.3"), "10.1.2.0/24")
        self.assertEqual(network_of("2001:db8:1:2::9"), "2001:db8:1::/56")
        self.assertEqual(network_of("local"), "local")


class GateCase(SynchronousTestCase):
    def make(self, **limits):
        self.clock = Clock()
        self.gate = Gate(self.clock.seconds, GateLimits(**limits))

    def enters(self, address):
        return isinstance(self.gate.admit(address), Ticket)

    def log_in(self, address):
        self.gate.leave(self.gate.admit(address), authenticated=True)

    def fail_at(self, address):
        """One that starts a connection and leaves it; whether it could."""
        ticket = self.gate.admit(address)
        if isinstance(ticket, TurnedAway):
            return False
        self.gate.leave(ticket, authenticated=False)
        return True


class Crowds(GateCase):
    def test_a_network_with_ses_gets_more_room_and_strangers_elsewhere_do_not(self):
        self.make(total=10, per_network=1, per_known_network=5)
        ticket = self.gate.admit("10.0.0.1")
        self.assertEqual(self.gate.admit("10.0.0.2").why, "crowded")
        self.gate.leave(ticket, authenticated=True)
        self.assertEqual([self.enters("10.0.0.3") for _ in range(6)], [True] * 5 + [False])
        self.assertTrue(self.enters("10.0.1.1"))
        self.assertFalse(self.enters("10.0.1.2"))

    def test_strangers_in_many_networks_cannot_take_the_room_of_networks_with_ses(self):
        self.make(total=10, strangers_share=0.6, per_network=1, per_known_network=5)
        self.log_in("192.0.2.1")
        self.assertEqual([self.enters(f"10.0.{n}.1") for n in range(8)], [True] * 6 + [False] * 2)
        self.assertEqual([self.enters("192.0.2.2") for _ in range(5)], [True] * 4 + [False])

    def test_a_network_is_known_before_its_first_login_when_the_records_say_so(self):
        self.make(per_network=1)
        self.gate.know("10.0.0.1")
        self.assertTrue(all(self.enters("10.0.0.2") for _ in range(100)))


class Floods(GateCase):
    def test_one_network_gets_its_burst_and_then_its_pace(self):
        self.make(per_network_burst=5, per_network_per_s=2.0)
        self.assertEqual([self.fail_at("10.0.0.1") for _ in range(7)], [True] * 5 + [False] * 2)
        self.clock.advance(1.0)
        self.assertEqual([self.fail_at("10.0.0.2") for _ in range(3)], [True, True, False])
        self.assertEqual(self.gate.admit("10.0.0.1").why, "pace")

    def test_many_networks_share_the_pace_of_all_strangers(self):
        self.make(strangers_burst=10, strangers_per_s=5.0)
        self.assertEqual(sum(self.fail_at(f"10.0.{n}.1") for n in range(250)), 10)
        self.clock.advance(2.0)
        self.assertEqual(sum(self.fail_at(f"10.1.{n}.1") for n in range(250)), 10)

    def test_a_login_gives_its_tokens_back(self):
        self.make(per_network_burst=2, strangers_burst=2)
        for n in range(50):
            self.log_in(f"10.0.{n}.1")
        self.assertEqual([self.fail_at("172.16.0.1") for _ in range(3)], [True, True, False])

    def test_a_flood_of_strangers_does_not_keep_ses_out(self):
        self.make(strangers_burst=1)
        self.gate.know("10.0.0.1")
        for n in range(300):
            self.fail_at(f"172.16.{n % 256}.1")
        self.assertTrue(all(self.enters("10.0.0.1") for _ in range(500)))

    def test_a_failed_login_costs_a_stranger_more_and_a_fleet_nothing(self):
        self.make(per_network_burst=10, failure_cost=4.0)
        self.gate.know("192.0.2.1")
        for address in ("10.0.0.1", "192.0.2.1"):
            for _ in range(2):
                self.gate.failed(address)
        self.assertEqual([self.fail_at("10.0.0.1") for _ in range(3)], [True, True, False])
        self.assertTrue(all(self.fail_at("192.0.2.1") for _ in range(1000)))

    def test_what_is_kept_about_strangers_has_a_bound(self):
        self.make(strangers_burst=100_000, strangers_per_s=100_000.0)
        for n in range(20_000):
            self.fail_at(f"10.{n // 256}.{n % 256}.1")
        self.assertLessEqual(len(self.gate._buckets), 4096)
        self.assertEqual(self.gate._counts, {})

    def test_strangers_are_told_so_often_and_then_cut_without_a_word(self):
        self.make(per_network_burst=1, told_per_s=3.0)
        self.fail_at("10.0.0.1")
        waits = [self.gate.admit("10.0.0.1").wait_s for _ in range(5)]
        self.assertEqual([wait is None for wait in waits], [False] * 3 + [True] * 2)
        self.assertEqual(self.gate.turned_away, 5)


class Waits(GateCase):
    def test_each_who_is_turned_away_gets_the_place_behind_the_last_one(self):
        self.make(per_known_network=100, login_s=0.01)
        self.gate.know("10.0.0.1")
        for _ in range(100):
            self.gate.admit("10.0.0.1")
        waits = [self.gate.admit("10.0.0.1").wait_s for _ in range(3)]
        for wait, expected in zip(waits, (1.0, 1.01, 1.02), strict=True):
            self.assertAlmostEqual(wait, expected)

    def test_strangers_do_not_push_a_fleets_places_back(self):
        self.make(total=10, per_network=5, login_s=0.01)
        self.gate.know("10.0.0.1")
        for _ in range(10):
            self.gate.admit("10.0.0.1")
        for _ in range(100):
            self.gate.admit("172.16.0.1")
        self.assertAlmostEqual(self.gate.admit("10.0.0.1").wait_s, 0.1)

    def test_no_wait_is_longer_than_an_se_believes(self):
        self.make(total=1, per_known_network=1, login_s=1.0)
        self.gate.know("10.0.0.1")
        self.gate.admit("10.0.0.1")
        self.assertEqual(max(self.gate.admit("10.0.0.1").wait_s for _ in range(500)), MAX_WAIT_S)

    def test_places_that_nobody_claimed_are_forgotten_once_it_is_idle(self):
        self.make(per_known_network=1, login_s=0.02)
        self.gate.know("10.0.0.1")
        ticket = self.gate.admit("10.0.0.1")
        for _ in range(1000):
            self.gate.admit("10.0.0.1")
        self.gate.leave(ticket, authenticated=True)
        self.clock.advance(3.0)
        self.gate.admit("10.0.0.1")
        self.assertLess(self.gate.admit("10.0.0.1").wait_s, 0.2)


class Paces(SynchronousTestCase):
    def test_a_bucket_fills_with_time_and_goes_below_nothing_by_one_burst_at_most(self):
        bucket = Bucket(2.0, 4)
        bucket.take(0.0, 100.0)
        self.assertEqual(bucket.left(0.0), -4.0)
        self.assertEqual(bucket.left(1.0), -2.0)
        bucket.give_back(1.0)
        self.assertEqual(bucket.left(0.5), -1.0)
        self.assertEqual(bucket.left(100.0), 4.0)

    def test_the_rate_is_measured_only_while_others_wait(self):
        rate = Rate(0.0025)
        for n in range(100):
            rate.completed(n * 1.0, behind=False)
        self.assertEqual(rate.interval_s, 0.0025)
        for n in range(1000):
            rate.completed(200 + n * 0.005, behind=True)
        self.assertAlmostEqual(rate.interval_s, 0.005, places=4)

    def test_nonsense_does_not_move_it_far(self):
        rate = Rate(0.0025)
        for n in range(100):
            rate.completed(n * 10.0, behind=True)
        self.assertLessEqual(rate.interval_s, 0.02)

    def test_a_queue_that_nobody_waits_in_begins_now(self):
        queue = Queue()
        self.assertEqual(queue.wait_s(0.0, 0.5), 0.1)
        self.assertEqual([queue.wait_s(0.0, 0.5) for _ in range(2)], [0.5, 1.0])
        self.assertEqual(queue.wait_s(100.0, 0.5, before=4), 2.0)


class Words(SynchronousTestCase):
    def test_the_wish_of_a_busy_server_survives_and_nonsense_does_not(self):
        for wait in (7.0, 0.1, 12.5, 60.0):
            self.assertEqual(busy_from(busy_text(wait)).retry_after_s, wait)
        self.assertEqual(busy_from("too many connections; retry after 5 s").retry_after_s, 5.0)
        for text in (
            "",
            "retry after x s",
            "retry after -1 s",
            "retry after 99999999999 s",
            "retry after ² s",
            "retry after 1.5.5 s",
            "retry after 1e9 s",
        ):
            self.assertEqual(busy_from(text).retry_after_s, 1.0)


class Transport:
    def __init__(self):
        self.calls = []

    def pauseProducing(self):
        self.calls.append("pause")

    def resumeProducing(self):
        self.calls.append("resume")

    def abortConnection(self):
        self.calls.append("abort")


class Stranger:
    """Each message costs ``cost_s``."""

    def __init__(self, turns, name, cost_s=0.004):
        self.turns, self.name, self.cost_s = turns, name, cost_s
        self.transport, self.queued = Transport(), 0

    def take(self, data):
        self.turns.now += self.cost_s
        self.turns.done.append(self.name + data)
        if data == "!":
            raise ZeroDivisionError


class Turns(SynchronousTestCase):
    def setUp(self):
        self.clock, self.now, self.done = Clock(), 0.0, []
        self.turnstile = Turnstile(self.clock, lambda: self.now, turn_s=0.010)
        self.strangers = [Stranger(self, name) for name in "abcdefg"]

    def enter(self, data):
        for stranger in self.strangers:
            self.turnstile.enter(stranger, data)

    def step(self):
        """One turn: a real reactor gives the next one its other work first, a Clock does not."""
        [call] = self.clock.getDelayedCalls()
        turn = call.func
        call.cancel()
        turn()

    def test_what_exceeds_a_turn_waits_for_the_next_in_order(self):
        self.enter("1")
        self.assertEqual(self.done, ["a1", "b1", "c1"])
        self.assertEqual(self.strangers[3].transport.calls, ["pause"])
        self.assertTrue(self.turnstile.behind)
        self.step()
        self.assertEqual(self.done, ["a1", "b1", "c1", "d1", "e1", "f1"])
        self.assertEqual(self.strangers[3].transport.calls, ["pause", "resume"])
        self.step()
        self.assertEqual(self.done[6:], ["g1"])
        self.assertFalse(self.turnstile.behind)
        self.assertAlmostEqual(self.turnstile.spent_s, 7 * 0.004)

    def test_nobody_waits_when_there_is_time(self):
        for _ in range(5):
            self.turnstile.enter(self.strangers[0], "1")
            self.step()
        self.assertEqual((len(self.done), self.strangers[0].transport.calls), (5, []))

    def test_one_that_waits_keeps_its_order_and_goes_on_when_all_of_it_is_done(self):
        self.enter("1")
        last = self.strangers[-1]
        self.turnstile.enter(last, "2")
        self.assertEqual(last.queued, 2)
        for _ in range(2):
            self.step()
        self.assertEqual(self.done[-2:], ["g1", "g2"])
        self.assertEqual((last.queued, last.transport.calls), (0, ["pause", "pause", "resume"]))

    def test_a_defect_in_one_does_not_stop_the_others(self):
        self.strangers[0].cost_s = 1.0
        self.turnstile.enter(self.strangers[0], "1")
        for stranger in self.strangers[1:3]:
            self.turnstile.enter(stranger, "!")
        self.turnstile.enter(self.strangers[3], "1")
        self.step()
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 2)
        self.assertEqual(self.done[-1], "d1")
        self.assertIn("abort", self.strangers[1].transport.calls)


class CommandConnections(SynchronousTestCase):
    def test_each_controller_has_a_bound_of_its_own(self):
        server = CommandServer(
            Ed25519PrivateKey.generate(), list, Clock(), lambda use: None, CommandPolicy(connections=2)
        )
        links = [server.build("one") for _ in range(2)]
        self.assertIsInstance(server.build("one"), Refusal)
        self.assertNotIsInstance(server.build("two"), Refusal)
        server.left(links[0])
        server.left(links[0])
        self.assertNotIsInstance(server.build("one"), Refusal)
        self.assertIsInstance(server.build("one"), Refusal)
