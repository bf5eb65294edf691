"""The window of bulk on its way, on simulated links (``link_model``).  Times are simulated: nothing waits."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh.governor import (
    _DRAINED,
    CEILING_BYTES,
    CHAT_BYTES,
    FIRST_BYTES,
    FLOOR_BYTES,
    MARKS,
    PACKET_LEAST_BYTES,
    PACKET_MOST_BYTES,
    BulkGovernor,
)
from tests.unit.link_model import Flow, Link, jain, percentile

MBIT = 125_000
MIB = 1 << 20


def one(mbit, rtt_s, *, until, **flow):
    """One flow alone, and the queue it makes, sampled each millisecond."""
    link, only = Link(mbit * MBIT, rtt_s, buffer=max(MIB, mbit * MBIT // 30)), Flow("only", **flow)
    link.add(only)
    link.watch(0.001, until)
    link.run(until)
    return link, only


def shares(link, flows, since, until):
    """What each flow got in that time, in bytes."""
    link.run(since)
    before = [flow.delivered for flow in flows]
    link.run(until)
    return [flow.delivered - had for flow, had in zip(flows, before, strict=True)]


def used(link, since, until):
    """The share of the link that data took."""
    return sum(shares(link, link.flows, since, until)) / ((until - since) * link.rate)


class AloneOnALink(SynchronousTestCase):
    def check(self, mbit, rtt_ms, *, p50_ms, p99_ms, length=12):
        link = Link(mbit * MBIT, rtt_ms / 1000, buffer=max(MIB, mbit * MBIT // 30))
        link.add(Flow("only"))
        link.run(4)
        link.watch(0.001, 4 + length)
        self.assertGreaterEqual(used(link, 4, 4 + length), 0.9, (mbit, rtt_ms))
        self.assertLessEqual(percentile(link.samples, 0.5) * 1000, p50_ms, (mbit, rtt_ms))
        self.assertLessEqual(percentile(link.samples, 0.99) * 1000, p99_ms, (mbit, rtt_ms))

    def test_a_fast_link_is_used_and_its_queue_is_short(self):
        for rtt_ms in (1, 20, 70):
            self.check(1000, rtt_ms, p50_ms=20, p99_ms=36)
        # 25 MB are on the way, and a drain and its refill take 2 s of 12: 92 % over a minute.
        self.check(1000, 200, p50_ms=20, p99_ms=37, length=60)

    def test_a_middling_link_is_used_and_its_queue_is_short(self):
        for rtt_ms in (1, 20, 70, 200):
            self.check(100, rtt_ms, p50_ms=20, p99_ms=30)

    def test_on_a_slow_link_the_queue_is_the_target_and_a_few_packets_of_13_ms(self):
        for rtt_ms in (1, 20, 70, 200):
            self.check(10, rtt_ms, p50_ms=45, p99_ms=65)

    def test_a_heartbeat_under_a_pull_at_100_mbit_and_70_ms_is_back_in_105_ms(self):
        link, _ = one(100, 0.070, until=60)
        self.assertLessEqual(0.070 + percentile(link.samples, 0.99), 0.105)
        self.assertLessEqual(0.070 + max(link.samples), 0.135)
        self.assertGreaterEqual(link.delivered / (60 * link.rate), 0.95)

    def test_87_percent_are_used_from_the_20th_round_trip_on(self):
        # The first drain, which comes early, is among these 40 round trips.
        for mbit, rtt_s in ((10, 0.07), (100, 0.02), (100, 0.07), (1000, 0.02)):
            link = Link(mbit * MBIT, rtt_s, buffer=4 * MIB)
            link.add(Flow("only"))
            self.assertGreaterEqual(used(link, 20 * rtt_s, 60 * rtt_s), 0.87, (mbit, rtt_s))

    def test_the_slow_start_of_tcp_below_does_not_hold_it_down(self):
        link = Link(100 * MBIT, 0.07)
        link.add(Flow("only", tcp_first=14_600))
        self.assertGreaterEqual(used(link, 20 * 0.07, 10), 0.9)

    def test_figures_for_status_are_those_of_the_link(self):
        _, flow = one(100, 0.070, until=4)
        governor = flow.governor
        self.assertApproximates(governor.min_rtt_s, 0.070, 0.003)
        self.assertApproximates(governor.rate_bytes_s, 100 * MBIT, 10 * MBIT)
        self.assertGreater(governor.rtt_s, governor.min_rtt_s)
        self.assertLess(governor.rtt_s, 0.105)

    def test_a_packet_lasts_5_ms_at_most(self):
        for mbit, packet in ((10, PACKET_LEAST_BYTES), (100, 32_768), (1000, PACKET_MOST_BYTES)):
            self.assertEqual(one(mbit, 0.02, until=2)[1].governor.packet_bytes, packet)


class Loopback(SynchronousTestCase):
    """1.5 GB/s, 0.2 ms, and pongs that wait for busy loops."""

    def check(self, noise, *, reached_s, least):
        link, flow = Link(1.5e9, 0.0002, buffer=64 * MIB, noise=noise), Flow("only")
        link.add(flow)
        link.run(reached_s)
        grown = flow.governor.window
        self.assertGreaterEqual(used(link, reached_s, 1.2), least)
        self.assertGreaterEqual(max(grown, flow.governor.window), 12 * MIB)

    def test_a_quiet_one_is_filled_in_20_ms(self):
        self.check(None, reached_s=0.02, least=0.98)

    def test_pongs_that_are_late_by_up_to_8_ms_do_not_limit(self):
        self.check(lambda random: random.uniform(0, 0.008), reached_s=0.08, least=0.95)

    def test_pongs_that_are_late_by_3_ms_on_average_and_30_at_times_do_not_limit(self):
        self.check(lambda random: random.expovariate(1 / 0.003), reached_s=0.08, least=0.9)


class SeveralFlows(SynchronousTestCase):
    def fair(self, starts, *, mbit=100, rtt_s=0.07, since, until, least=0.9):
        link = Link(mbit * MBIT, rtt_s, buffer=4 * MIB)
        flows = [Flow(number, start=start) for number, start in enumerate(starts)]
        link.add(*flows)
        got = shares(link, flows, since, until)
        self.assertGreaterEqual(jain(got), least, got)
        self.assertGreaterEqual(sum(got) / ((until - since) * link.rate), 0.9)

    def test_a_second_flow_has_its_share_8_s_after_it_came(self):
        for mbit, rtt_s in ((100, 0.07), (100, 0.02), (100, 0.001), (1000, 0.02)):
            self.fair((0, 10), mbit=mbit, rtt_s=rtt_s, since=18, until=28)

    def test_four_flows_one_after_the_other_are_fair_10_s_after_the_last(self):
        self.fair((0, 5, 10, 15), since=25, until=40)

    def test_four_flows_at_once_are_fair_after_10_s(self):
        self.fair((0, 0, 0, 0), since=10, until=25)

    def test_who_is_left_takes_the_whole_link_within_3_s(self):
        link = Link(100 * MBIT, 0.07)
        link.add(Flow("stays"), Flow("leaves", stop=10))
        self.assertGreaterEqual(used(link, 13, 16), 0.9)


class Changes(SynchronousTestCase):
    def change(self, when=6, **what):
        link = Link(100 * MBIT, 0.07, buffer=4 * MIB)
        link.add(Flow("only"))
        link.change(when, **what)
        link.run(when)
        return link

    def test_half_the_capacity_is_a_short_queue_again_after_1_s(self):
        link = self.change(rate=50 * MBIT)
        link.watch(0.001, 12, since=7.5)
        self.assertGreaterEqual(used(link, 7.5, 12), 0.9)
        self.assertLessEqual(percentile(link.samples, 0.99), 0.035)

    def test_twice_the_capacity_is_used_after_1_s(self):
        link = self.change(rate=200 * MBIT)
        self.assertGreaterEqual(used(link, 7, 12), 0.9)

    def test_a_shorter_route_is_learnt_at_the_next_drain(self):
        link = self.change(rtt=0.03)
        link.watch(0.001, 18, since=11)
        self.assertGreaterEqual(used(link, 11, 18), 0.9)
        self.assertLessEqual(percentile(link.samples, 0.99), 0.035)

    def test_a_longer_route_costs_four_fifths_of_the_rate_until_the_old_minimum_is_forgotten(self):
        link = self.change(rtt=0.1)
        self.assertGreaterEqual(used(link, 8, 20), 0.14)
        self.assertGreaterEqual(used(link, 20, 26), 0.9)


class Bounds(SynchronousTestCase):
    def test_an_application_that_sends_little_does_not_inflate_the_window(self):
        _, flow = one(100, 0.07, until=10, demand=1_000_000)
        self.assertEqual(flow.governor.window, FIRST_BYTES)
        self.assertApproximates(flow.delivered, 10_000_000, 200_000)

    def test_a_peer_that_answers_no_ping_holds_one_window_and_a_bounded_count_of_marks(self):
        _, flow = one(1000, 0.07, until=10, answers=False)
        self.assertLessEqual(flow.most_in_flight, FIRST_BYTES)
        self.assertLessEqual(flow.pings, MARKS)

    def test_marks_are_bounded_whatever_the_sender_does(self):
        governor = BulkGovernor()
        for number in range(1000):
            governor.sent(1)
            if governor.mark_due(float(number)):
                governor.mark(float(number))
        self.assertFalse(governor.mark_due(2000.0, idle=True))
        for _ in range(MARKS):
            governor.acked(3000.0)
        self.assertRaises(RemoteProtocolError, governor.acked, 3000.0)
        self.assertTrue(governor.mark_due(3000.0))

    def test_a_pong_without_a_ping_is_the_peers_fault(self):
        governor = BulkGovernor()
        self.assertRaises(RemoteProtocolError, governor.acked, 1.0)
        governor.sent(10)
        governor.mark(1.0)
        governor.acked(1.1)
        self.assertRaises(RemoteProtocolError, governor.acked, 1.2)

    def test_the_window_stays_between_floor_and_ceiling(self):
        governor, now = BulkGovernor(), 0.0
        for rtt, bound in ((1e-4, CEILING_BYTES), (3.0, FLOOR_BYTES)):
            for _ in range(2000):
                while governor.room:
                    governor.sent(min(governor.room, governor.packet_bytes))
                governor.mark(now)
                now += rtt
                governor.acked(now)
                self.assertTrue(FLOOR_BYTES <= governor.window <= CEILING_BYTES)
                if governor.window == bound:
                    break
            self.assertEqual(governor.window, bound)


class Marks(SynchronousTestCase):
    def test_nothing_sent_needs_no_mark(self):
        self.assertFalse(BulkGovernor().mark_due(100.0, idle=True))

    def test_due_by_bytes_by_age_by_an_empty_room_and_before_idling(self):
        governor = BulkGovernor()
        governor.sent(1)
        governor.mark(1.0)
        governor.sent(1)
        self.assertFalse(governor.mark_due(1.001))
        self.assertTrue(governor.mark_due(1.006))
        governor.sent(CHAT_BYTES)
        self.assertFalse(governor.mark_due(1.001))
        self.assertTrue(governor.mark_due(1.001, idle=True))
        governor.sent(governor.packet_bytes)
        self.assertTrue(governor.mark_due(1.001))
        governor.mark(1.001)
        governor.sent(governor.room)
        self.assertEqual(governor.room, 0)
        self.assertTrue(governor.mark_due(1.001))

    def test_small_questions_get_none_each_and_are_acknowledged_with_the_next(self):
        governor = BulkGovernor()
        marks = 0
        for number in range(1000):
            now = 1.0 + number / 1000
            governor.sent(64)
            if governor.mark_due(now, idle=True):
                governor.mark(now)
                governor.acked(now + 0.0005)
                marks += 1
        self.assertLess(marks, 210)
        self.assertLess(governor.in_flight, CHAT_BYTES)
        self.assertEqual(governor.window, BulkGovernor().window)

    def test_the_last_of_a_drain_gets_one_however_small(self):
        governor = BulkGovernor()
        governor._drain_state = _DRAINED
        governor._marked_at = 1.0
        governor.sent(1)
        self.assertFalse(governor.mark_due(1.001))
        self.assertTrue(governor.mark_due(1.001, idle=True))

    def test_a_pong_acknowledges_everything_before_its_ping_and_no_more(self):
        governor = BulkGovernor()
        governor.sent(1000)
        governor.mark(1.0)
        governor.sent(50)
        self.assertEqual(governor.in_flight, 1050)
        governor.acked(1.1)
        self.assertEqual(governor.in_flight, 50)
        self.assertEqual(governor.room, governor.window - 50)

    def test_no_crumbs_of_room(self):
        governor = BulkGovernor()
        governor.sent(governor.window - 100)
        self.assertEqual(governor.room, 0)
