"""What goes out next and what is taken, and whose turn it is: decisions without a clock or a socket."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.pull_turns import TURN_BYTES, Go, PullTurns, Wait
from avinet.logs.rate import RateLimit
from avinet.logs.reach import Sendable
from avinet.logs.sending import ALONE, MAX_PULLS, MAX_TRIES, MAX_UNANSWERED, PullWork, Sending
from avinet.model.logs import LogClass, SegmentHead, Selection
from avinet.units import KIB, MIB
from avinet.wire.log_messages import MAX_BATCH, MAX_BATCH_BYTES

HEAD = SegmentHead(
    incarnation="ab" * 16,
    counter=1,
    service="virtualservice-00000000-0000-4000-8000-000000000001",
    log_class=LogClass.FULL,
    first_us=1,
    last_us=2,
    records=1,
    raw_bytes=100,
    size=100,
    sha256="cd" * 32,
)


def found(first, last, **fields):
    return [Sendable(head, **fields) for head in heads(first, last)]


def heads(first, last):
    return [msgspec.structs.replace(HEAD, counter=counter) for counter in range(first, last + 1)]


def work(pull=1, **fields):
    return PullWork(pull, Selection(), planned=True, **fields)


class TheSender(SynchronousTestCase):
    def setUp(self):
        self.sending = Sending()

    def send(self):
        """The next segment, whole; its counter."""
        run = self.sending.begin()
        if run is None:
            return None
        self.assertTrue(self.sending.advanced(run.left))
        return run.heads[0].counter

    def test_sends_in_order_and_each_once(self):
        self.sending.add(found(1, 3))
        self.sending.add(found(2, 4))
        self.assertEqual([self.send() for _ in range(5)], [1, 2, 3, 4, None])
        self.assertEqual(self.sending.add(found(1, 4)), [])

    def test_what_was_begun_elsewhere_goes_with_what_was_begun_there_too(self):
        self.sending.welcomed({}, batches=True)
        self.sending.add([*found(1, 2), *found(3, 4, was="?"), *found(5, 5)])
        runs = self.sending.upcoming()
        self.assertEqual([(run.was, len(run.transfers)) for run in runs], [("", 2), ("?", 2), ("", 1)])

    def test_lets_go_of_what_is_another_ones_and_has_not_begun(self):
        one = work(byte_limit=500)
        self.sending.ask(one)
        self.sending.add(found(1, 5), one)
        self.sending.begin()
        self.sending.upcoming()
        gone = self.sending.withdraw(lambda transfer: transfer.head.counter in {1, 2, 4})
        self.assertEqual(gone, [heads(2, 2)[0].name, heads(4, 4)[0].name])
        self.assertEqual(one.taken_bytes, 300)
        self.sending.advanced(100)
        self.assertEqual([self.send() for _ in range(3)], [3, 5, None])
        self.assertEqual(self.sending.withdraw(lambda transfer: True), [])

    def test_tries_what_cannot_be_told_yet_however_often(self):
        one = work(byte_limit=100)
        self.sending.ask(one)
        for _ in range(3 * MAX_TRIES):
            one.start_over()
            self.assertEqual(len(self.sending.add(found(1, 1), one)), 1)
            self.assertEqual(self.send(), 1)
            self.assertIsNotNone(self.sending.refused(heads(1, 1)[0].name, counts=False))
        self.assertEqual(one.taken_bytes, 0)

    def test_has_so_many_without_an_answer_and_no_more(self):
        most = MAX_UNANSWERED // ALONE
        self.sending.add(found(1, most + 5))
        sent = [self.send() for _ in range(most + 5)]
        self.assertEqual(sent[most:], [None] * 5)
        self.sending.acknowledged([heads(1, 1)[0].name])
        self.assertEqual(self.send(), most + 1)

    def test_goes_on_where_the_controller_is(self):
        self.sending.welcomed({heads(1, 1)[0].name: 60, heads(2, 2)[0].name: 100})
        self.sending.add(found(1, 2))
        self.assertEqual(self.sending.begin().offset, 60)
        self.sending.advanced(40)
        self.assertEqual(self.sending.begin().offset, 0, "all of it is there, and was not acknowledged")

    def test_leaves_a_segment_that_is_acknowledged_before_its_end(self):
        self.sending.add(found(1, 2))
        transfer = self.sending.begin()
        self.sending.advanced(10)
        self.assertEqual(
            self.sending.acknowledged([transfer.heads[0].name, "other"]), [transfer.heads[0].name]
        )
        self.assertEqual(self.send(), 2)

    def test_puts_together_what_a_batch_may_hold(self):
        self.sending.welcomed({heads(3, 3)[0].name: 60}, batches=True)
        other = msgspec.structs.replace(HEAD, counter=7, incarnation="ef" * 16)
        self.sending.add([*found(1, 6), Sendable(other)])
        self.assertEqual(
            [[head.counter for head in run.heads] for run in self.sending.upcoming()],
            [[1, 2], [3], [4, 5, 6], [7]],
        )

    def test_puts_no_more_together_than_a_batch_may_hold(self):
        self.sending.welcomed({}, batches=True)
        large = MAX_BATCH_BYTES // 2
        self.sending.add([Sendable(msgspec.structs.replace(head, size=large)) for head in heads(1, 5)])
        self.assertEqual([len(run.heads) for run in self.sending.upcoming()], [2, 2, 1])
        self.sending = Sending()
        self.sending.welcomed({}, batches=True)
        self.sending.add(found(1, MAX_BATCH + 9))
        self.assertEqual([len(run.heads) for run in self.sending.upcoming()], [MAX_BATCH])

    def test_a_batch_that_is_left_in_its_middle_goes_on_there(self):
        one = work()
        self.sending.welcomed({}, batches=True)
        self.sending.ask(one)
        self.sending.add(found(1, 5), one)
        self.sending.begin()
        self.sending.advanced(230)
        self.sending.pause(1)
        self.assertTrue(self.sending.broken_off)
        self.sending.resume(1)
        self.sending.acknowledged(head.name for head in heads(1, 2))
        self.sending.add(found(3, 5), one)
        runs = [([head.counter for head in run.heads], run.offset) for run in self.sending.upcoming()]
        self.assertEqual(runs, [([3], 30), ([4, 5], 0)])
        self.sending.begin()
        self.assertFalse(self.sending.broken_off)

    def test_what_cannot_be_read_of_a_batch_is_left_out_and_the_rest_is_sent(self):
        self.sending.welcomed({}, batches=True)
        self.sending.add(found(1, 5))
        run = self.sending.begin()
        self.sending.advanced(130)
        self.assertEqual([gone.head.counter for gone in self.sending.gone(run)], [2])
        self.assertEqual([self.send(), self.send()], [3, None])
        self.assertEqual(self.sending.names(), {head.name for head in (*heads(1, 1), *heads(3, 5))})

    def test_sends_what_was_refused_again_and_then_lets_it_be(self):
        self.sending.add(found(1, 1))
        for attempt in range(1, MAX_TRIES + 1):
            self.assertEqual(self.send(), 1)
            refused = self.sending.refused(HEAD.name)
            self.assertEqual(self.sending.again(refused), attempt < MAX_TRIES)
        self.assertEqual(self.sending.add(found(1, 1)), [])
        self.assertEqual(self.sending.refused("unheard-of"), None)

    def test_a_paused_pull_goes_on_from_its_beginning_but_for_what_was_sent(self):
        one = work()
        self.sending.ask(one)
        self.sending.add(found(1, 3), one)
        self.assertEqual((one.after, one.taken_bytes), (3, 300))
        self.send()
        transfer = self.sending.begin()
        self.sending.advanced(30)
        self.sending.pause(1)
        self.assertEqual((self.sending.begin(), self.sending.active()), (None, None))
        self.assertEqual((one.after, one.taken_bytes), (0, 100))
        self.sending.resume(1)
        self.assertIs(self.sending.active(), one)
        self.sending.add(found(1, 3), one)
        self.assertEqual(one.taken_bytes, 300)
        begun = self.sending.begin()
        self.assertEqual((begun.heads, begun.offset), (transfer.heads, 30))

    def test_pulls_follow_one_another_and_a_paused_one_lets_others_by(self):
        one, two = work(1), work(2)
        self.sending.ask(one)
        self.sending.ask(two)
        self.assertIs(self.sending.active(), one)
        one.exhausted = True
        self.assertIs(self.sending.active(), two)
        one.exhausted = False
        self.sending.pause(1)
        self.assertIs(self.sending.active(), two)

    def test_is_done_with_a_pull_when_all_is_answered(self):
        one = work()
        self.sending.ask(one)
        self.assertTrue(self.sending.all_answered(1))
        self.sending.add(found(1, 1), one)
        self.assertFalse(self.sending.all_answered(1))
        self.send()
        self.assertFalse(self.sending.all_answered(1))
        self.sending.acknowledged([HEAD.name])
        self.assertTrue(self.sending.all_answered(1))

    def test_begins_nothing_beyond_a_byte_limit(self):
        one = work(byte_limit=250)
        self.sending.ask(one)
        self.assertEqual(len(self.sending.add(found(1, 5), one)), 2)
        self.assertTrue(one.limited and one.exhausted)

    def test_takes_so_many_pulls(self):
        self.assertTrue(all(self.sending.ask(work(number)) for number in range(1, MAX_PULLS + 1)))
        self.assertFalse(self.sending.ask(work(MAX_PULLS + 1)))
        self.assertTrue(self.sending.ask(work(1)))

    @settings(max_examples=300, deadline=None)
    @given(st.lists(st.tuples(st.sampled_from("apsgrfxwc"), st.integers(1, 6)), max_size=60), st.booleans())
    def test_never_loses_or_doubles_a_segment_whatever_happens(self, facts, batches):
        sending, one = Sending(), work()
        sending.welcomed({}, batches=batches)
        sending.ask(one)
        kept = set()
        for fact, number in facts:
            (head,) = heads(number, number)
            if fact == "a":
                sending.add(found(1, number), one)
            elif fact == "p":
                sending.pause(1)
            elif fact == "s":
                sending.resume(1)
            elif fact == "g" and sending.begin() is not None:
                sending.advanced(min(10 * number, sending.current.left))
            elif fact == "r":
                refused = sending.refused(head.name)
                if refused is not None:
                    sending.again(refused)
            elif fact == "f" and sending.current is not None:
                sending.advanced(sending.current.left)
            elif fact == "x":
                kept.update(sending.acknowledged([head.name]))
            elif fact == "w" and sending.current is not None:
                sending.gone(sending.current)
            elif fact == "c" and len(runs := sending.upcoming()) > 1:
                sending.shorten(runs[-1], number)
            sending.upcoming()
            listed = [name for run in sending._ahead for name in run.names]
            listed += [waiting.name for waiting in sending._queue]
            self.assertEqual(len(listed), len(set(listed)))
            self.assertFalse(set(listed) & sending._unanswered.keys())
            self.assertEqual(sending._count, sum(one.counts for one in sending._unanswered.values()))
            self.assertTrue(all(run.transfers and run.left > 0 for run in sending._ahead))
            self.assertLessEqual(one.taken_bytes, 100 * len(sending.names() | kept) + 100 * len(facts))


class TheRate(SynchronousTestCase):
    def test_is_kept_over_time_and_allows_a_burst(self):
        rate = RateLimit(MIB)
        sent, now = 0, 100.0
        while now < 110.0:
            size = rate.allows(now, 256 * KIB)
            rate.took(size)
            sent += size
            now += 0.003 if size else rate.wait_s()
        self.assertTrue(9.9 < sent / MIB < 10.3, sent)

    def test_of_nothing_is_no_limit_and_a_new_one_counts_at_once(self):
        rate = RateLimit()
        self.assertEqual(rate.allows(1.0, 10**9), 10**9)
        rate.change(1000 * KIB)
        self.assertEqual(rate.allows(1.0, 10**9), 100 * KIB)

    def test_waits_no_longer_than_it_must(self):
        rate = RateLimit(1)
        rate.took(rate.allows(0.0, 10**9))
        self.assertEqual(rate.allows(1000.0, 10**9), 1000)


class Turns(SynchronousTestCase):
    def test_are_given_to_some_at_once_in_the_order_in_which_they_came(self):
        turns = PullTurns(at_once=2)
        self.assertEqual(turns.want(("a", 1)), [Go(("a", 1))])
        self.assertEqual(turns.want(("b", 1)), [Go(("b", 1))])
        self.assertEqual(turns.want(("c", 1)) + turns.want(("d", 1)), [])
        self.assertEqual(turns.leave(("a", 1)), [Go(("c", 1))])
        self.assertEqual(turns.leave(("d", 1)), [])
        self.assertEqual(turns.leave(("b", 1)), [])

    def test_end_after_so_many_bytes_when_others_wait(self):
        turns = PullTurns(at_once=1)
        turns.want(("a", 1))
        self.assertEqual(turns.took(("a", 1), TURN_BYTES), [])
        turns.want(("b", 1))
        self.assertEqual(turns.took(("a", 1), 1), [Wait(("a", 1)), Go(("b", 1))])
        self.assertEqual(turns.took(("a", 1), TURN_BYTES), [])
        self.assertEqual(turns.took(("b", 1), TURN_BYTES), [Wait(("b", 1)), Go(("a", 1))])

    def test_of_one_engine_are_one_after_another(self):
        turns = PullTurns(at_once=8)
        turns.want(("a", 1))
        self.assertEqual(turns.want(("a", 2)), [])
        self.assertEqual(turns.want(("b", 2)), [Go(("b", 2))])
        self.assertEqual(turns.took(("b", 2), TURN_BYTES), [])
        self.assertEqual(turns.leave(("a", 1)), [Go(("a", 2))])
        self.assertTrue(turns.sends(("a", 2)) and not turns.sends(("a", 1)))
