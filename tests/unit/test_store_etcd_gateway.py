"""Which endpoint of etcd is asked, with which token, how long, and what its answers are taken for."""

import stat
from pathlib import Path

import msgspec
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectionLost
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.store.etcd_gateway import (
    LONGEST_PAUSE_S,
    LONGEST_PENALTY_S,
    MAX_ANSWER_BYTES,
    SHORTEST_PENALTY_S,
    AnswerTooLargeError,
    Endpoints,
    Gateway,
    RefusedError,
)
from avinet.store.etcd_http import EtcdAccess
from avinet.store.etcd_messages import RangeAnswer
from avinet.store.interface import StoreFullError, StoreLimitError, StoreUnavailableError
from tests.unit.gateway_double import HttpDouble

A, B, C = "https://10.0.0.1:2379", "https://10.0.0.2:2379", "https://10.0.0.3:2379"


class EndpointsTests(SynchronousTestCase):
    """The first that has not failed lately."""

    def setUp(self):
        self.clock = Clock()
        self.endpoints = Endpoints((A, B, C), self.clock)

    def test_the_first_is_asked_while_it_works(self):
        self.assertEqual([self.endpoints.choose() for _ in range(3)], [A, A, A])

    def test_one_that_failed_is_left_alone_for_a_while(self):
        self.endpoints.failed(A)
        self.assertEqual(self.endpoints.choose(), B)
        self.clock.advance(SHORTEST_PENALTY_S)
        self.assertEqual(self.endpoints.choose(), A)

    def test_one_request_tries_it_again_while_others_keep_away(self):
        self.endpoints.failed(A)
        self.clock.advance(SHORTEST_PENALTY_S)
        self.assertEqual([self.endpoints.choose() for _ in range(2)], [A, B])
        self.endpoints.worked(A)
        self.assertEqual([self.endpoints.choose() for _ in range(2)], [A, A])

    def test_who_fails_again_and_again_is_asked_more_and_more_seldom(self):
        for _ in range(10):
            self.endpoints.failed(A)
            self.clock.advance(SHORTEST_PENALTY_S)
        self.endpoints.failed(A)
        self.clock.advance(LONGEST_PENALTY_S - 0.1)
        self.assertEqual(self.endpoints.choose(), B)
        self.clock.advance(0.2)
        self.assertEqual(self.endpoints.choose(), A)

    def test_many_requests_that_fail_together_count_once(self):
        for _ in range(10):
            self.endpoints.failed(A)
        self.clock.advance(SHORTEST_PENALTY_S)
        self.assertEqual(self.endpoints.choose(), A)

    def test_a_clock_that_is_set_back_keeps_none_away(self):
        self.clock.advance(3600)
        self.endpoints.failed(A)
        self.clock.rightNow -= 3600
        self.assertEqual(self.endpoints.choose(), A)
        self.endpoints.failed(A)
        self.assertEqual(self.endpoints.choose(), B)

    def test_when_all_failed_the_one_whose_turn_is_next_is_asked(self):
        for url in (B, A, C):
            self.endpoints.failed(url)
            self.clock.advance(0.1)
        self.assertEqual(self.endpoints.choose(), B)


class GatewayTests(SynchronousTestCase):
    """One operation, several attempts."""

    def setUp(self):
        self.clock = Clock()
        self.http = HttpDouble()
        self.gateway = self.make()

    def make(self, urls=(A, B, C), **options):
        return Gateway(EtcdAccess(urls, **options), self.http, self.clock)

    def ask(self, gateway=None, **options):
        return Deferred.fromCoroutine(
            (gateway or self.gateway).ask("kv/range", {"key": b"a"}, RangeAnswer, **options)
        )

    def reply(self, asking):
        return self.successResultOf(asking)

    def test_an_answer_is_taken_and_known_not_to_follow_a_lost_one(self):
        asking = self.ask()
        self.assertEqual((self.http.only.url, self.http.only.path), (A, "kv/range"))
        self.assertEqual(self.http.only.request, {"key": "YQ=="})
        self.http.only.answer(header={"revision": "9007199254740993"}, unknown={"x": 1})
        reply = self.reply(asking)
        self.assertEqual((reply.answer.header.revision, reply.lost), (9007199254740993, False))

    def test_where_nobody_listens_nothing_was_lost(self):
        asking = self.ask()
        self.http.only.fail()
        self.assertEqual(self.http.only.url, B)
        self.http.only.answer()
        self.assertFalse(self.reply(asking).lost)

    def test_a_connection_that_breaks_may_have_lost_an_answer(self):
        asking = self.ask()
        self.http.only.fail(ConnectionLost())
        self.http.only.answer()
        self.assertTrue(self.reply(asking).lost)

    def test_an_endpoint_that_does_not_answer_is_given_up_and_the_next_asked(self):
        asking = self.ask()
        first = self.http.only
        self.clock.advance(self.gateway.attempt_s)
        self.assertTrue(first.cancelled)
        self.assertEqual(self.http.only.url, B)
        self.http.only.answer()
        self.assertTrue(self.reply(asking).lost)
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_the_only_endpoint_is_asked_again_in_time_too(self):
        asking = self.ask(self.make([A]), deadline=5.0)
        for _ in range(2):
            first = self.http.only
            self.clock.advance(self.gateway.attempt_s)
            self.assertTrue(first.cancelled)
            self.clock.advance(LONGEST_PAUSE_S)
        self.http.only.answer()
        self.assertTrue(self.reply(asking).lost)

    def test_who_gives_up_is_not_asked_for_again(self):
        asking = self.ask()
        first = self.http.only
        first.on_cancel = ConnectionLost()  # HTTP has words of its own for that
        asking.cancel()
        self.failureResultOf(asking, CancelledError)
        self.assertTrue(first.cancelled)
        self.assertEqual((self.http.waiting, self.clock.getDelayedCalls()), ([], []))

    def test_when_none_answers_it_is_said_in_time(self):
        asking = self.ask()
        for _ in range(49):
            self.clock.advance(0.1)
            self.assertNoResult(asking)
        self.clock.advance(0.2)
        why = str(self.failureResultOf(asking, StoreUnavailableError).value)
        self.assertIn("no answer", why)
        self.assertIn("may have no quorum", why)
        self.assertEqual((self.http.waiting, self.clock.getDelayedCalls()), ([], []))

    def test_when_all_refuse_connections_they_are_asked_again_with_pauses(self):
        asking = self.ask()
        self.http.on_post = lambda exchange: exchange.fail()
        self.http.only.fail()
        for _ in range(51):
            self.clock.advance(0.1)
        self.failureResultOf(asking, StoreUnavailableError)
        self.assertLess(len(self.http.exchanges), 50)

    def test_garbage_is_no_answer(self):
        for status, garbage in (
            (200, b""),
            (200, b"<html>"),
            (200, b"\xff\xfe"),
            (200, b'{"header": 1}'),
            (200, b'{"kvs": [{"key": "%%%"}]}'),
            (200, b'{"header": {"revision": "x"}}'),
            (200, b"[" * 100_000),
            (200, b'{"unknown": ' + b"[" * 100_000),
            (404, b"Not Found"),
            (302, b""),
            (500, b'{"code": "x"}'),
        ):
            with self.subTest(garbage=garbage[:20]):
                self.setUp()
                asking = self.ask()
                exchange = self.http.only
                exchange.say(garbage)
                exchange.done.callback(status)
                self.assertEqual(self.http.only.url, B)
                self.http.only.answer()
                self.reply(asking)

    def test_an_answer_without_end_is_cut(self):
        asking = self.ask()
        endless = self.http.only
        while endless.open:
            endless.say(bytes(1024 * 1024))
        self.http.only.answer()
        self.reply(asking)

    def test_who_can_ask_for_less_is_told_of_an_answer_too_large(self):
        asking = self.ask(adapts=True)
        for _ in range(MAX_ANSWER_BYTES // 2**20 + 1):
            self.http.only.say(bytes(1024 * 1024)) if self.http.waiting else None
        self.failureResultOf(asking, AnswerTooLargeError)

    def test_what_etcd_says_for_now_is_asked_again(self):
        for code in (1, 2, 4, 8, 10, 13, 14):
            with self.subTest(code=code):
                self.setUp()
                asking = self.ask()
                self.http.only.refuse(code, "etcdserver: no leader")
                self.http.only.answer()
                self.assertTrue(self.reply(asking).lost)

    def test_a_member_that_still_learns_has_done_nothing_and_others_are_asked(self):
        asking = self.ask()
        self.http.only.refuse(9, "etcdserver: rpc not supported for learner")
        self.assertEqual(self.http.only.url, B)
        self.http.only.answer()
        self.assertFalse(self.reply(asking).lost)

    def test_what_etcd_says_for_good_is_told(self):
        for code, message, kind in (
            (5, "etcdserver: requested lease not found", StoreUnavailableError),
            (11, "etcdserver: mvcc: required revision has been compacted", StoreUnavailableError),
            (3, "etcdserver: duplicate key given in txn request", StoreUnavailableError),
            (8, "etcdserver: mvcc: database space exceeded", StoreFullError),
            (3, "etcdserver: request is too large", StoreLimitError),
            (7, "etcdserver: permission denied", StoreUnavailableError),
        ):
            with self.subTest(message=message):
                self.setUp()
                asking = self.ask()
                self.http.only.refuse(code, message)
                refused = self.failureResultOf(asking, RefusedError).value
                self.assertEqual((refused.code, type(refused.told())), (code, kind))
                self.assertEqual(self.http.waiting, [])

    def test_a_refusal_says_whether_an_attempt_before_it_was_lost(self):
        for lost in (False, True):
            asking = self.ask()
            if lost:
                self.http.only.fail(ConnectionLost())
            self.http.only.refuse(5, "not found")
            self.assertEqual(self.failureResultOf(asking, RefusedError).value.lost, lost)

    def test_without_an_endpoint_nothing_is_asked(self):
        with self.assertRaises(StoreUnavailableError):
            self.make(())


class TokenTests(SynchronousTestCase):
    """Who asks is proved by a token, which is asked for with the password."""

    def setUp(self):
        self.clock = Clock()
        self.http = HttpDouble()
        self.file = Path(self.mktemp())
        self.file.write_text("open sesame\n")
        self.file.chmod(stat.S_IRUSR)
        access = EtcdAccess((A, B), user="avinet", password_file=self.file)
        self.gateway = Gateway(access, self.http, self.clock)

    def ask(self):
        return Deferred.fromCoroutine(self.gateway.ask("kv/range", {"key": b"a"}, RangeAnswer))

    def log_in(self, token="t1"):
        exchange = self.http.only
        self.assertEqual((exchange.path, exchange.token), ("auth/authenticate", ""))
        self.assertEqual(exchange.request, {"name": "avinet", "password": "open sesame"})
        exchange.answer(token=token)

    def test_the_first_request_asks_for_one_and_the_next_has_it(self):
        asking = self.ask()
        self.log_in()
        self.assertEqual(self.http.only.token, "t1")
        self.http.only.answer()
        self.successResultOf(asking)
        self.ask()
        self.assertEqual(self.http.only.token, "t1")

    def test_many_at_once_ask_once(self):
        asking = [self.ask() for _ in range(3)]
        self.log_in()
        for exchange in self.http.waiting:
            exchange.answer()
        for one in asking:
            self.successResultOf(one)
        self.assertEqual([e.path for e in self.http.exchanges].count("auth/authenticate"), 1)

    def test_one_that_is_over_is_renewed_and_nothing_was_lost(self):
        for code, message in (
            (16, "etcdserver: invalid auth token"),
            (3, "etcdserver: revision of auth store is old"),
        ):
            self.setUp()
            asking = self.ask()
            self.log_in()
            self.http.only.refuse(code, message)
            self.clock.advance(0.1)
            self.log_in("t2")
            self.assertEqual((self.http.only.token, self.http.only.url), ("t2", A))
            self.http.only.answer()
            self.assertFalse(self.successResultOf(asking).lost)

    def test_a_wrong_password_is_said_at_once_and_not_shown(self):
        asking = self.ask()
        self.http.only.refuse(3, "etcdserver: authentication failed, invalid user ID or password")
        why = str(self.failureResultOf(asking, StoreUnavailableError).value)
        self.assertIn("user avinet", why)
        self.assertNotIn("sesame", why)

    def test_a_password_that_cannot_be_read_is_said(self):
        self.file.unlink()
        self.assertIn("password file", str(self.failureResultOf(self.ask(), StoreUnavailableError).value))

    def test_an_etcd_without_passwords_is_asked_without_until_it_has_them(self):
        asking = self.ask()
        self.http.only.refuse(9, "etcdserver: authentication is not enabled")
        self.assertEqual((self.http.only.path, self.http.only.token), ("kv/range", ""))
        self.http.only.refuse(7, "etcdserver: permission denied")
        self.clock.advance(0.1)
        self.log_in()
        self.http.only.answer()
        self.successResultOf(asking)

    def test_an_endpoint_that_stops_while_it_is_asked_for_one_is_left(self):
        asking = self.ask()
        self.clock.advance(self.gateway.attempt_s)
        self.assertEqual(self.http.only.url, B)
        self.log_in()
        self.http.only.answer()
        self.assertTrue(self.successResultOf(asking).answer is not None)

    def test_a_garbled_token_is_no_answer(self):
        asking = self.ask()
        self.http.only.say(msgspec.json.encode({"token": 5}))
        self.http.only.done.callback(200)
        self.log_in()
        self.http.only.answer()
        self.successResultOf(asking)
