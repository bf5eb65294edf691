"""Logins of operators."""

import base64

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.operators import (
    FAILURES_BURST,
    MAX_WAITING,
    REMEMBER_S,
    Operators,
    TooManyLoginsError,
    local_operator,
)
from avinet.rest.problem import UnauthenticatedError
from avinet.rest.route import Caller
from avinet.store.threads import InPlace
from avinet.trust.node import Admin, password_hash

SALT = b"s" * 16
ADMIN = Admin(
    user="admin", salt=SALT.hex(), hash=password_hash("right:é", SALT, n=16).hex(), n=16
)  # n=16: a test is not a benchmark


def basic(text):
    return "Basic " + base64.b64encode(text.encode()).decode()


class Counting(InPlace):
    def __init__(self):
        self.calls = 0

    def run(self, call):
        self.calls += 1
        return super().run(call)


class OperatorsTests(SynchronousTestCase):
    """One admin, many who would be."""

    def setUp(self):
        self.clock = Clock()
        self.clock.advance(1e9)
        self.thread = Counting()
        self.refusals = []
        self.operators = self.make(self.thread)

    def make(self, thread):
        return Operators(ADMIN, self.clock, thread, b"k" * 32, lambda *told: self.refusals.append(told))

    def login(self, authorization, peer="192.0.2.1"):
        caller = Caller(peer=peer, authorization=authorization)
        return Deferred.fromCoroutine(self.operators.authenticate(caller))

    def refused(self, authorization, kind=UnauthenticatedError, **kwargs):
        return self.failureResultOf(self.login(authorization, **kwargs), kind).value

    def test_the_right_password_names_the_operator(self):
        self.assertEqual(self.successResultOf(self.login(basic("admin:right:é"))), "admin")

    def test_a_wrong_name_and_a_wrong_password_get_the_same_answer_after_the_same_work(self):
        answers = {str(self.refused(basic(text))) for text in ("root:right:é", "admin:wrong", "admin:", ":")}
        self.assertEqual(len(answers), 1)
        self.assertEqual(self.thread.calls, 4)

    def test_what_is_not_basic_is_refused_without_work(self):
        for text in (
            None,
            "",
            "Bearer x",
            "Basic",
            "Basic !!!",
            "Basic " + "é",
            basic("admin"),
            "Basic //79",
        ):
            self.refused(text)
        self.refused(basic("admin:" + "a" * 2000))
        self.assertEqual(self.thread.calls, 0)

    def test_a_right_login_is_remembered_for_a_while(self):
        for _ in range(3):
            self.successResultOf(self.login(basic("admin:right:é")))
        self.assertEqual(self.thread.calls, 1)
        self.clock.advance(REMEMBER_S + 1)
        self.successResultOf(self.login(basic("admin:right:é")))
        self.assertEqual(self.thread.calls, 2)

    def test_a_clock_set_back_does_not_prolong_it(self):
        self.successResultOf(self.login(basic("admin:right:é")))
        self.clock.rightNow -= 1000
        self.successResultOf(self.login(basic("admin:right:é")))
        self.assertEqual(self.thread.calls, 2)

    def test_a_wrong_login_is_not_remembered(self):
        for _ in range(2):
            self.refused(basic("admin:wrong"))
        self.assertEqual(self.thread.calls, 2)

    def test_guessing_is_slowed_down_a_source_and_costs_no_work_then(self):
        for n in range(FAILURES_BURST):
            self.refused(basic(f"admin:{n}"))
        error = self.refused(basic("admin:right:é"), TooManyLoginsError)
        self.assertGreater(error.retry_after_s, 0)
        self.assertEqual(self.thread.calls, FAILURES_BURST)
        self.successResultOf(self.login(basic("admin:right:é"), peer="192.0.2.2"))
        self.clock.advance(error.retry_after_s)
        self.successResultOf(self.login(basic("admin:right:é")))

    def test_a_remembered_login_passes_whatever_its_neighbours_do(self):
        self.successResultOf(self.login(basic("admin:right:é")))
        for n in range(FAILURES_BURST):
            self.refused(basic(f"admin:{n}"))
        self.successResultOf(self.login(basic("admin:right:é")))

    def hold(self):
        """A thread that is busy; returns what it was asked to do."""
        asked = []

        class Busy:
            def run(self, call):
                asked.append(Deferred())
                return asked[-1]

        self.operators = self.make(Busy())
        return asked

    def test_few_may_wait_for_the_thread(self):
        asked = self.hold()
        waiting = [self.login(basic("admin:x"), peer=f"192.0.2.{n}") for n in range(MAX_WAITING)]
        self.refused(basic("admin:x"), TooManyLoginsError)
        asked[0].callback(True)
        self.assertEqual(self.successResultOf(waiting[0]), "admin")
        waiting.append(self.login(basic("admin:y")))
        self.assertEqual(len(asked), MAX_WAITING + 1)

    def test_callers_that_leave_free_no_place_and_still_pay(self):
        asked = self.hold()
        for _ in range(MAX_WAITING):
            leaving = self.login(basic("admin:x"))
            leaving.cancel()
            self.failureResultOf(leaving, CancelledError)
        self.refused(basic("admin:x"), TooManyLoginsError, peer="192.0.2.2")
        for work in asked:
            work.callback(False)
        self.refused(basic("admin:x"), TooManyLoginsError)
        self.assertEqual(len(self.refusals), MAX_WAITING)

    def test_refusals_are_told_without_the_password(self):
        self.refused(basic("eve:guess"))
        self.assertEqual(self.refusals, [("192.0.2.1", "eve")])

    def test_no_secret_shows_in_a_repr(self):
        shown = repr(self.operators) + repr(Caller(peer="", authorization=basic("admin:right:é")))
        for secret in (ADMIN.hash, ADMIN.salt, basic("admin:right:é"), "kkkk"):
            self.assertNotIn(secret, shown)

    def test_whoever_may_open_the_socket_is_the_local_operator(self):
        caller = Caller(peer="", authorization=None)
        self.assertEqual(self.successResultOf(Deferred.fromCoroutine(local_operator(caller))), "local")
