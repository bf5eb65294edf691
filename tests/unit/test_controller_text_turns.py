"""Texts of operators have turns, so that reading them takes a bounded part of the controller."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.text_turns import AUTHOR_BYTES, LARGE_BYTES, TextsUnderWayError, TextTurns


class Turns(SynchronousTestCase):
    def setUp(self):
        self.threads = []
        self.turns = TextTurns(self.in_thread)

    def in_thread(self, function, *args):
        """A thread that ends when a test says so, and cannot be told to stop."""
        ended = Deferred()
        self.threads.append(ended)
        return ended.addCallback(lambda _: function(*args))

    def begin(self, author="olga", size=LARGE_BYTES + 1, read=lambda: "read"):
        async def go():
            async with self.turns.of(author, size) as in_thread:
                return await in_thread(read)

        return Deferred.fromCoroutine(go())

    def end(self, number):
        self.threads[number].callback(None)

    def test_large_ones_wait_for_one_another_and_small_ones_for_nobody(self):
        first, second, small = self.begin(), self.begin("igor"), self.begin(size=100)
        self.assertEqual(len(self.threads), 2)
        self.end(1)
        self.assertEqual(self.successResultOf(small), "read")
        self.end(0)
        self.assertEqual(self.successResultOf(first), "read")
        self.end(2)
        self.assertEqual(self.successResultOf(second), "read")

    def test_who_leaves_has_his_turn_until_the_thread_is_done(self):
        first, second = self.begin(), self.begin()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.assertEqual(len(self.threads), 1)
        self.end(0)
        self.assertEqual(len(self.threads), 2)
        self.end(1)
        self.assertEqual(self.successResultOf(second), "read")

    def test_who_leaves_while_he_waits_has_no_turn(self):
        first, second, third = self.begin(), self.begin(), self.begin()
        second.cancel()
        self.failureResultOf(second, CancelledError)
        self.end(0)
        self.successResultOf(first)
        self.end(1)
        self.successResultOf(third)
        self.assertEqual(len(self.threads), 2)

    def test_an_author_has_a_bound_that_is_his_own(self):
        first = self.begin(size=AUTHOR_BYTES)
        self.failureResultOf(self.begin(size=1), TextsUnderWayError)
        small = self.begin("igor", size=1)
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.failureResultOf(self.begin(size=1), TextsUnderWayError)
        self.end(0)
        self.end(1)
        self.successResultOf(small)
        self.begin(size=AUTHOR_BYTES)
        self.end(2)

    def test_what_fails_ends_its_turn(self):
        first, second = self.begin(read=lambda: 1 // 0), self.begin(size=AUTHOR_BYTES - LARGE_BYTES - 1)
        self.end(0)
        self.failureResultOf(first, ZeroDivisionError)
        self.end(1)
        self.assertEqual(self.successResultOf(second), "read")
