"""A transaction on etcd is done once, whatever becomes of its requests and their answers."""

import random

from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.store import etcd_turns
from avinet.store.etcd import EtcdStore
from avinet.store.etcd_gateway import Gateway
from avinet.store.etcd_http import EtcdAccess
from avinet.store.etcd_turns import CLOSE_S, KEEP_ALIVE_S, TURNS
from avinet.store.interface import (
    Compare,
    Delete,
    LeaseEndedError,
    Put,
    StoreFullError,
    StoreUnavailableError,
)
from tests.unit.gateway_double import HttpDouble, TinyEtcd

NO_SPACE = (429, {"code": 8, "message": "etcdserver: mvcc: database space exceeded"})


def lost():
    return ConnectionLost("cut")


class Case(SynchronousTestCase):
    """A store on a tiny etcd; ``faults`` says what happens to the next requests, one letter each.

    ``.`` goes well, ``r`` is refused by nobody listening, ``b`` is lost before it is done, ``a`` after, ``s`` has no
    answer and is done when ``resume`` is called; ``f`` is done and said to be too much, ``F`` is too much.
    """

    def setUp(self):
        self.clock = Clock()
        self.etcd = TinyEtcd()
        self.http = HttpDouble(self.on_post)
        self.faults = ""
        self.stopped = []
        self.store = self.open(self.http)
        self.other = self.open(HttpDouble(self.serve))
        self.paths = []

    def open(self, http):
        urls = ("http://127.0.0.1:1", "http://127.0.0.1:2", "http://127.0.0.1:3")
        return EtcdStore(Gateway(EtcdAccess(urls), http, self.clock))

    def serve(self, exchange):
        status, answer = self.etcd.do(exchange.path, exchange.request)
        exchange.answer(status, **answer)

    def on_post(self, exchange):
        self.paths.append(exchange.path)
        fault, self.faults = self.faults[:1] or ".", self.faults[1:]
        if fault in "fF" and not any("request_put" in one for one in exchange.request.get("success", ())):
            fault = "."  # nothing else takes space by etcd's account
        if fault == ".":
            self.serve(exchange)
        elif fault == "r":
            exchange.fail()
        elif fault == "a":
            self.etcd.do(exchange.path, exchange.request)
            exchange.fail(lost())
        elif fault == "b":
            exchange.fail(lost())
        elif fault in "fF":
            if fault == "f":
                self.etcd.do(exchange.path, exchange.request)
            exchange.answer(NO_SPACE[0], **NO_SPACE[1])
        elif fault == "s":
            self.stopped.append(exchange)

    def resume(self):
        for exchange in self.stopped:
            self.etcd.do(exchange.path, exchange.request)
        self.stopped = []

    def over(self, deferred, limit_s=20):
        """Give it its time."""
        result = []
        deferred.addBoth(result.append)
        for _ in range(limit_s * 20):
            if result:
                break
            self.clock.advance(0.05)
        deferred.addBoth(lambda nothing: result[0])
        return deferred

    def do(self, *operations, compares=()):
        return self.successResultOf(self.over(self.store.transact(compares, operations)))

    def elsewhere(self, *operations):
        """What another controller does."""
        self.successResultOf(self.other.transact((), operations))

    def begin_session(self):
        self.do(Put("first", b""))
        self.paths.clear()

    def user_puts(self):
        return [
            (revision, key, value) for revision, key, value in self.etcd.puts if not key.startswith(b"\0")
        ]


class TurnsTests(Case):
    """One fault at a time."""

    def test_a_transaction_is_one_request(self):
        self.begin_session()
        self.assertTrue(self.do(Put("a", b"1"), compares=[Compare("a", 0)]).succeeded)
        self.assertEqual(self.paths, ["kv/txn"])

    def test_one_that_was_done_without_an_answer_is_not_done_again(self):
        self.begin_session()
        self.faults = "a"
        outcome = self.do(Put("a", b"1"), compares=[Compare("a", 0)])
        self.assertTrue(outcome.succeeded)
        self.assertEqual(self.user_puts()[1:], [(outcome.revision, b"a", b"1")])

    def test_one_that_was_lost_is_done_by_the_next_attempt(self):
        self.begin_session()
        self.faults = "br"
        outcome = self.do(Put("a", b"1"))
        self.assertEqual(self.user_puts()[1:], [(outcome.revision, b"a", b"1")])

    def test_a_copy_that_a_stopped_endpoint_still_has_does_nothing(self):
        self.begin_session()
        self.faults = "s"
        self.do(Put("a", b"1"))
        self.do(Put("a", b"2"))
        self.resume()
        self.assertEqual([value for _, _, value in self.user_puts()], [b"", b"1", b"2"])

    def test_a_compare_that_failed_after_a_lost_attempt_has_failed_for_ever(self):
        self.begin_session()
        first = self.do(Put("a", b"1"))
        self.faults = "s"
        outcome = self.do(Put("b", b"1"), compares=[Compare("a", 0)])
        self.assertFalse(outcome.succeeded)
        self.elsewhere(Delete("a"))
        self.resume()
        self.assertIsNone(self.successResultOf(self.store.get("b")))
        self.assertEqual(outcome.revision, first.revision)

    def test_deleting_nothing_after_a_lost_attempt_deletes_nothing_later(self):
        self.begin_session()
        self.faults = "s"
        self.do(Delete("a"))
        self.elsewhere(Put("a", b"1"))
        self.resume()
        self.assertIsNotNone(self.successResultOf(self.store.get("a")))

    def test_one_that_had_no_answer_in_time_is_never_done_after_a_later_one(self):
        self.begin_session()
        self.faults = "s" * 20
        for doing in [self.store.transact([], [Put("a", b"1")]) for _ in range(3)]:
            self.failureResultOf(self.over(doing), StoreUnavailableError)
        self.assertLessEqual(self.clock.seconds(), 5.1)
        self.faults = ""
        self.do(Put("a", b"2"))
        self.resume()
        self.assertEqual(self.successResultOf(self.store.get("a")).value, b"2")

    def test_a_settling_that_was_lost_itself_is_understood(self):
        self.begin_session()
        self.faults = "s" * 10
        self.failureResultOf(self.over(self.store.transact([], [Put("a", b"1")])), StoreUnavailableError)
        self.faults = "a"
        outcome = self.do(Put("a", b"2"))
        self.assertEqual(self.user_puts()[1:], [(outcome.revision, b"a", b"2")])
        self.assertNotIn("lease/grant", self.paths)

    def test_deletions_alone_cost_a_revision_only_when_they_delete(self):
        self.begin_session()
        before = self.do(Put("a", b"")).revision
        self.assertEqual(self.do(Delete("b")).revision, before)
        self.assertEqual(self.do(Delete("b"), Delete("a")).revision, before + 1)
        self.assertEqual(self.do(compares=[Compare("a", 0)]).revision, before + 1)

    def test_as_many_as_there_are_turns_are_under_way_and_the_others_wait(self):
        self.begin_session()
        self.faults = "s" * TURNS
        running = [self.store.transact([], [Put(f"k{n}", b"")]) for n in range(TURNS + 5)]
        self.assertEqual(len(self.stopped), TURNS)
        for one in running:
            self.successResultOf(self.over(one))

    def test_too_many_that_wait_are_told_to_come_later(self):
        self.patch(etcd_turns, "MAX_WAITING", 2000)  # more than Python nests calls
        self.begin_session()
        self.faults = "s" * (10 * TURNS)
        running = [self.store.transact([], [Put("a", b"")]) for _ in range(TURNS + 2000)]
        self.failureResultOf(self.store.transact([], [Put("a", b"")]), StoreUnavailableError)
        self.clock.pump([1.0] * 20)
        for one in running:
            one.addErrback(lambda failure: failure.trap(StoreUnavailableError))
            self.successResultOf(one)

    def test_bytes_that_wait_are_limited_too(self):
        self.patch(etcd_turns, "MAX_WAITING_BYTES", 64 * 1024)
        self.begin_session()
        self.faults = "s" * (10 * TURNS)
        value = bytes(1023)
        running = [self.store.transact([], [Put("a", value)]) for _ in range(TURNS + 64)]
        self.failureResultOf(self.store.transact([], [Put("a", value)]), StoreUnavailableError)
        for one in running:
            one.addErrback(lambda failure: failure.trap(StoreUnavailableError))
        self.clock.pump([1.0] * 20)

    def test_a_long_queue_is_no_failure_while_etcd_answers(self):
        self.begin_session()
        self.http.on_post = lambda exchange: self.clock.callLater(1, self.serve, exchange)
        running = [self.store.transact([], [Put("a", b"")]) for _ in range(10 * TURNS)]
        self.clock.pump([0.25] * 45)
        for one in running:
            self.successResultOf(one)

    def test_when_etcd_stops_answering_those_who_waited_are_told_in_time(self):
        self.begin_session()
        self.http.on_post = lambda exchange: self.clock.callLater(1, self.serve, exchange)
        running = [self.store.transact([], [Put("a", b"")]) for _ in range(10 * TURNS)]
        self.clock.pump([0.25] * 13)
        self.http.on_post = lambda exchange: None
        self.clock.pump([0.25] * 24)
        outcomes = [one.addErrback(lambda failure: failure.trap(StoreUnavailableError)) for one in running]
        answered = [self.successResultOf(one) for one in outcomes]
        self.assertGreaterEqual(answered.count(StoreUnavailableError), 5 * TURNS)

    def test_everyone_who_waits_is_told_in_time_that_nothing_answers(self):
        self.faults = "s" * 1000
        running = [self.store.transact([], [Put("a", b"")]) for _ in range(100)]
        self.clock.pump([0.25] * 21)
        for one in running:
            self.failureResultOf(one, StoreUnavailableError)

    def test_a_lease_that_has_ended_is_named(self):
        self.begin_session()
        self.etcd.leases |= {7}
        failure = self.failureResultOf(
            self.over(self.store.transact([], [Put("a", b"", 7), Put("b", b"", 8)])), LeaseEndedError
        )
        self.assertEqual(failure.value.lease, 8)

    def test_a_session_that_ended_is_begun_anew(self):
        self.begin_session()
        (session,) = self.etcd.leases
        self.etcd.end_lease(session)
        self.assertTrue(self.do(Put("a", b"1")).succeeded)
        self.assertEqual(len(self.user_puts()), 2)

    def test_a_session_that_ended_while_an_answer_was_lost_leaves_it_open(self):
        self.begin_session()
        (session,) = self.etcd.leases
        self.etcd.end_lease(session)
        self.faults = "b"
        self.failureResultOf(self.over(self.store.transact([], [Put("a", b"1")])), StoreUnavailableError)
        self.assertTrue(self.do(Put("a", b"2")).succeeded)

    def test_the_session_is_kept_alive_and_ended_by_closing(self):
        self.begin_session()
        self.clock.advance(KEEP_ALIVE_S)
        self.clock.advance(KEEP_ALIVE_S)
        self.assertEqual(self.paths, ["lease/keepalive"] * 2)
        self.successResultOf(self.store.close())
        self.assertEqual((self.etcd.leases, self.clock.getDelayedCalls()), (set(), []))

    def test_closing_without_an_answer_is_soon_over(self):
        self.begin_session()
        self.faults = "s" * 10
        closing = self.store.close()
        self.clock.advance(CLOSE_S)
        self.successResultOf(closing)
        self.assertTrue(self.http.closed)

    def test_closing_waits_for_what_is_under_way(self):
        self.begin_session()
        self.faults = "s"
        writing = self.store.transact([], [Put("a", b"")])
        closing = self.store.close()
        self.assertNoResult(closing)
        self.successResultOf(self.over(writing))
        self.successResultOf(self.over(closing))

    def test_a_full_etcd_is_said_and_nothing_is_in_doubt(self):
        self.begin_session()
        self.faults = "F"
        revision = self.etcd.revision
        self.failureResultOf(self.store.transact([], [Put("a", b"")]), StoreFullError)
        self.assertEqual((self.etcd.revision, self.paths), (revision, ["kv/txn", "kv/range"]))
        self.assertTrue(self.do(Put("a", b"")).succeeded)

    def test_the_transaction_that_makes_etcd_full_was_done(self):
        self.begin_session()
        self.faults = "f"
        outcome = self.do(Put("a", b""))
        self.assertEqual((outcome.succeeded, outcome.revision), (True, self.etcd.revision))
        self.assertTrue(self.do(Put("a", b""), compares=[Compare("a", outcome.revision)]).succeeded)

    def test_a_session_without_a_lease_serves_a_full_etcd(self):
        self.etcd.keys.clear()

        def on_post(exchange):
            if exchange.path == "lease/grant":
                exchange.answer(NO_SPACE[0], **NO_SPACE[1])
            else:
                self.on_post(exchange)

        self.http.on_post = on_post
        self.assertTrue(self.do(Delete("a")).succeeded)


class AnyFaultTests(Case):
    """Faults by chance, and copies that are done at any time."""

    def test_each_is_done_once_where_it_said_so_and_never_where_it_said_not(self):
        for seed in range(120):
            with self.subTest(seed=seed):
                self.setUp()
                self.play(random.Random(seed))

    def play(self, chance):
        outcomes = {}
        running = []
        for number in range(12):
            self.faults = "".join(chance.choice("....rabsfF") for _ in range(40))
            key = chance.choice("ab")
            compares = [Compare(key, chance.randint(0, self.etcd.revision))] if chance.random() < 0.3 else []
            operation = Delete(key) if chance.random() < 0.2 else Put(key, b"%d" % number)
            doing = self.store.transact(compares, [operation, Put(f"n{number}", b"")])
            doing.addBoth(lambda result, number=number: outcomes.__setitem__(number, result))
            running.append(doing)
            if chance.random() < 0.7:
                self.over(doing)
            if chance.random() < 0.3:
                self.resume()
        for doing in running:
            self.over(doing)
        self.faults = ""
        self.do(Put("last", b""))
        before = list(self.etcd.puts)
        self.resume()
        self.assertEqual(before, self.etcd.puts)  # nothing is done after a later one
        for number, result in outcomes.items():
            done = [revision for revision, key, _ in self.etcd.puts if key == b"n%d" % number]
            if hasattr(result, "trap"):
                why = result.trap(StoreUnavailableError, StoreFullError)
                self.assertLessEqual(len(done), 1 if why is StoreUnavailableError else 0)
            else:
                self.assertEqual(done, [result.revision] if result.succeeded else [])
