"""Who is let in: by password, by session, by token; and how the rest are told apart from them, which is not at all."""

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.access_tokens import Owner
from avinet.controller.login_sessions import (
    IDLE_S,
    LIFE_S,
    MAX_OF_USER,
    MAX_SESSIONS,
    LoginSessions,
    SessionEndedError,
)
from avinet.controller.operators import (
    FAILURES_BURST,
    MAX_WAITING,
    REMEMBER_S,
    TOKEN_FAILURES_BURST,
    ForgeryError,
    LocalGuard,
    RequestLimits,
    TenantUnknownError,
    TooManyLoginsError,
)
from avinet.rest.access import Caller, Role
from avinet.rest.problem import UnauthenticatedError
from avinet.rest.rates import TooManyRequestsError
from tests.unit.operators_kit import ADMIN, PASSWORD, Site, basic

RIGHT = basic(f"admin:{PASSWORD}")


class Case(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)
        self.clock, self.thread = self.site.clock, self.site.thread

    def login(self, authorization, **kwargs):
        return self.site.call(authorization, **kwargs)

    def user_of(self, *args, **kwargs):
        return self.successResultOf(self.site.call(*args, **kwargs)).user

    def refused(self, authorization=None, kind=UnauthenticatedError, **kwargs):
        return self.failureResultOf(self.login(authorization, **kwargs), kind).value


class PasswordTests(Case):
    """One admin, many who would be."""

    def test_the_right_password_names_the_operator(self):
        who = self.successResultOf(self.login(RIGHT))
        self.assertEqual((who.user, who.role), ("admin", Role.ADMIN))

    def test_a_wrong_name_and_a_wrong_password_get_the_same_answer_after_the_same_work(self):
        answers = {
            str(self.refused(basic(text))) for text in (f"root:{PASSWORD}", "admin:wrong", "admin:", ":")
        }
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
            self.successResultOf(self.login(RIGHT))
        self.assertEqual(self.thread.calls, 1)
        self.clock.advance(REMEMBER_S + 1)
        self.successResultOf(self.login(RIGHT))
        self.assertEqual(self.thread.calls, 2)

    def test_a_clock_set_back_does_not_prolong_it(self):
        self.successResultOf(self.login(RIGHT))
        self.clock.rightNow -= 1000
        self.successResultOf(self.login(RIGHT))
        self.assertEqual(self.thread.calls, 2)

    def test_a_wrong_login_is_not_remembered(self):
        for _ in range(2):
            self.refused(basic("admin:wrong"))
        self.assertEqual(self.thread.calls, 2)

    def test_guessing_is_slowed_down_a_source_and_costs_no_work_then(self):
        for n in range(FAILURES_BURST):
            self.refused(basic(f"admin:{n}"))
        error = self.refused(RIGHT, TooManyLoginsError)
        self.assertGreater(error.retry_after_s, 0)
        self.assertEqual(self.thread.calls, FAILURES_BURST)
        self.successResultOf(self.login(RIGHT, peer="192.0.2.2"))
        self.clock.advance(error.retry_after_s)
        self.successResultOf(self.login(RIGHT))

    def test_a_remembered_login_passes_whatever_its_neighbours_do(self):
        self.successResultOf(self.login(RIGHT))
        for n in range(FAILURES_BURST):
            self.refused(basic(f"admin:{n}"))
        self.successResultOf(self.login(RIGHT))

    def hold(self):
        """A thread that is busy; returns what it was asked to do."""
        asked = []

        class Busy:
            def run(self, call):
                asked.append((Deferred(), call))
                return asked[-1][0]

        self.site.users.thread = Busy()
        return asked

    def test_few_may_wait_for_the_thread(self):
        asked = self.hold()
        waiting = [self.login(basic("admin:x"), peer=f"192.0.2.{n}") for n in range(MAX_WAITING)]
        self.refused(basic("admin:x"), TooManyLoginsError)
        asked[0][0].callback(True)
        self.assertEqual(self.successResultOf(waiting[0]).user, "admin")
        waiting.append(self.login(basic("admin:y")))
        self.assertEqual(len(asked), MAX_WAITING + 1)

    def test_callers_that_leave_free_no_place_and_still_pay(self):
        asked = self.hold()
        for _ in range(MAX_WAITING):
            leaving = self.login(basic("admin:x"))
            leaving.cancel()
            self.failureResultOf(leaving, CancelledError)
        self.refused(basic("admin:x"), TooManyLoginsError, peer="192.0.2.2")
        for work, _ in asked:
            work.callback(False)
        self.refused(basic("admin:x"), TooManyLoginsError)
        self.assertEqual(len(self.site.refusals), MAX_WAITING)

    def test_refusals_are_told_without_the_password(self):
        self.refused(basic("eve:guess"))
        self.assertEqual(self.site.refusals, [("192.0.2.1", "eve")])

    def test_no_secret_shows_in_a_repr(self):
        shown = repr(self.site.operators) + repr(self.site.users) + repr(self.site.users.all())
        shown += repr(Caller(peer="", headers={"authorization": RIGHT}))
        for secret in (ADMIN.hash, ADMIN.salt, RIGHT, "kkkk"):
            self.assertNotIn(secret, shown)

    def test_whoever_may_open_the_socket_is_the_local_admin(self):
        who = self.site.done(LocalGuard().authenticate(Caller(peer="")))
        self.assertEqual((who.user, who.role), ("local", Role.ADMIN))

    def test_a_user_who_is_disabled_gets_the_answer_of_one_who_is_not(self):
        self.site.done(self.site.users.create("olga", Role.OPERATOR, "long enough 1"))
        self.assertEqual(self.user_of(basic("olga:long enough 1")), "olga")
        self.site.done(self.site.users.set_disabled("olga", disabled=True))
        before = self.thread.calls
        answers = {str(self.refused(basic(t))) for t in ("olga:long enough 1", "nobody:long enough 1")}
        self.assertEqual((len(answers), self.thread.calls - before), (1, 2))

    def test_a_change_of_rights_is_felt_by_the_next_request(self):
        self.site.done(self.site.users.create("olga", Role.OPERATOR, "long enough 1"))
        self.user_of(basic("olga:long enough 1"))
        self.site.done(self.site.users.set_role("olga", Role.READ_ONLY))
        who = self.successResultOf(self.login(basic("olga:long enough 1")))
        self.assertEqual(who.role, Role.READ_ONLY)
        self.site.done(self.site.users.set_password("olga", "another one 2"))
        self.refused(basic("olga:long enough 1"))

    def test_a_password_that_is_changed_while_it_is_verified_does_not_count(self):
        asked = self.hold()
        login = self.login(RIGHT)
        changing = Deferred.fromCoroutine(self.site.users.set_password("admin", "another one 2"))
        asked[1][0].callback(("00", "00"))
        self.successResultOf(changing)
        asked[0][0].callback(True)
        self.failureResultOf(login, UnauthenticatedError)

    def test_a_caller_has_a_burst_and_then_a_rate(self):
        self.site = Site(self, limits=RequestLimits(burst=3, per_s=1.0))
        for _ in range(3):
            self.successResultOf(self.site.call(RIGHT))
        error = self.refused(RIGHT, TooManyRequestsError, peer="192.0.2.2")
        self.assertEqual((error.who, error.retry_after_s), ("admin", 1.0))
        self.site.clock.advance(1)
        self.successResultOf(self.site.call(RIGHT))

    def test_a_source_has_one_before_it_says_who_it_is(self):
        self.site = Site(self, limits=RequestLimits(burst=1, per_s=1.0))
        admit = self.site.operators.admit
        admit(Caller(peer="192.0.2.1"))
        admit(Caller(peer="192.0.2.1"))
        with self.assertRaises(TooManyRequestsError):
            admit(Caller(peer="192.0.2.1"))
        admit(Caller(peer="192.0.2.2"))

    def test_there_is_one_tenant(self):
        for name in ("x_avi_tenant", "x_avi_tenant_uuid"):
            self.assertEqual(self.user_of(RIGHT, **{name: "admin"}), "admin")
            self.assertIn("finance", str(self.refused(RIGHT, TenantUnknownError, **{name: "finance"})))


class SessionTests(Case):
    """Cookies, and who must not be able to make use of them."""

    def setUp(self):
        super().setUp()
        self.new = self.site.sessions.start("admin")
        self.cookie = f"csrftoken=x; sessionid={self.new.secret}; avi-sessionid={self.new.secret}"
        self.csrf = self.new.session.csrf

    def test_a_cookie_reads_and_writes_only_with_its_token(self):
        self.assertEqual(self.user_of(cookie=self.cookie), "admin")
        for wrong in ({}, {"x_csrftoken": "x"}, {"x_csrftoken": "é"}, {"x_csrftoken": self.csrf[:-1]}):
            self.refused(kind=ForgeryError, method="POST", cookie=self.cookie, **wrong)
        self.assertEqual(self.user_of(method="POST", cookie=self.cookie, x_csrftoken=self.csrf), "admin")

    def test_another_sites_page_is_refused_though_it_had_the_token(self):
        write = {"method": "PUT", "cookie": self.cookie, "x_csrftoken": self.csrf, "host": "ctl:8444"}
        for name in ("referer", "origin"):
            for other in (
                "https://evil/",
                "https://ctl:9/",
                "https://ctl:8444@evil/",
                "null",
                "https://[",
                "",
            ):
                self.refused(kind=ForgeryError, **write, **{name: other})
            self.assertEqual(self.user_of(**write, **{name: "https://ctl:8444"}), "admin")
        self.assertEqual(self.user_of(**{**write, "host": "ctl", "referer": "https://ctl:443/x"}), "admin")

    def test_a_password_that_a_browser_repeats_for_another_page_is_refused_too(self):
        for said in (
            {"origin": "https://evil"},
            {"sec_fetch_site": "cross-site"},
            {"sec_fetch_site": "same-site"},
        ):
            self.refused(RIGHT, ForgeryError, method="POST", host="ctl", **said)
            self.assertEqual(self.user_of(RIGHT, host="ctl", **said), "admin")
        same = {"origin": "https://ctl", "sec_fetch_site": "same-origin"}
        self.assertEqual(self.user_of(RIGHT, method="POST", host="ctl", **same), "admin")

    def test_what_is_no_session_is_told_to_log_in_again(self):
        for secret in ("", "x", self.new.secret[:-1], "é"):
            self.refused(kind=SessionEndedError, cookie=f"sessionid={secret}")
        self.refused(cookie="sessionid")
        self.refused(cookie="a=1; " * 2000)

    def test_other_applications_of_the_host_have_cookies_too(self):
        self.assertEqual(self.user_of(cookie=f'a="é, {{}}"; b; {self.cookie}'), "admin")

    def test_a_session_ends_when_idle_and_in_the_end(self):
        self.clock.advance(IDLE_S - 1)
        self.assertEqual(self.user_of(cookie=self.cookie), "admin")
        self.clock.advance(IDLE_S)
        self.refused(kind=SessionEndedError, cookie=self.cookie)
        new, start = self.site.sessions.start("admin"), self.clock.seconds()
        while self.clock.seconds() - start < LIFE_S - IDLE_S:
            self.clock.advance(IDLE_S - 1)
            self.user_of(cookie=f"sessionid={new.secret}")
        self.clock.advance(IDLE_S - 1)
        self.refused(kind=SessionEndedError, cookie=f"sessionid={new.secret}")

    def test_a_logout_and_a_change_of_rights_end_it(self):
        other = self.site.sessions.start("admin")
        self.site.sessions.end(self.new.session.id)
        self.refused(kind=SessionEndedError, cookie=self.cookie)
        self.assertEqual(self.user_of(cookie=f"sessionid={other.secret}"), "admin")
        self.site.done(self.site.users.set_password("admin", "another one 2"))
        self.refused(kind=SessionEndedError, cookie=f"sessionid={other.secret}")

    def test_sessions_are_bounded_a_user_and_in_all(self):
        sessions = LoginSessions(Clock())
        made = [sessions.start("anna") for _ in range(MAX_OF_USER + 1)]
        sessions.find(made[1].secret)
        self.assertEqual(len(sessions), MAX_OF_USER)
        with self.assertRaises(SessionEndedError):
            sessions.find(made[0].secret)
        for n in range(MAX_SESSIONS):
            sessions.start(f"user-{n}")
        self.assertEqual(len(sessions), MAX_SESSIONS)

    def test_no_secret_shows_in_a_repr(self):
        shown = repr(self.new) + repr(self.site.sessions)
        self.assertNotIn(self.new.secret, shown)
        self.assertNotIn(self.csrf, shown)


class AccessTokenTests(Case):
    """Bearer tokens."""

    def make(self, role=Role.ADMIN, user="admin", life_s=3600.0):
        record = self.site.users.get(user)
        owner = Owner(user=user, uid=record.uid)
        return self.site.done(self.site.tokens.create(owner, f"t{len(self.site.tokens.all())}", role, life_s))

    def test_a_token_lets_in_as_its_user_with_the_lesser_role(self):
        self.site.done(self.site.users.create("olga", Role.OPERATOR, "long enough 1"))
        for token, role in ((Role.ADMIN, Role.OPERATOR), (Role.READ_ONLY, Role.READ_ONLY)):
            new = self.make(token, "olga")
            who = self.successResultOf(self.login(f"Bearer {new.text}"))
            self.assertEqual((who.user, who.role, who.token), ("olga", role, new.record.name))
        self.site.done(self.site.users.set_role("olga", Role.READ_ONLY))
        self.assertEqual(self.successResultOf(self.login(f"bearer {new.text}")).role, Role.READ_ONLY)

    def test_a_token_ends_by_time_by_revocation_and_with_its_user(self):
        self.site.done(self.site.users.create("olga", Role.OPERATOR, "long enough 1"))
        short, revoked, orphan = self.make(life_s=60.0), self.make(), self.make(user="olga")
        self.site.done(self.site.tokens.revoke(revoked.record))
        self.refused(f"Bearer {revoked.text}")
        self.site.done(self.site.users.set_disabled("olga", disabled=True))
        self.refused(f"Bearer {orphan.text}")
        self.site.done(self.site.users.set_disabled("olga", disabled=False))
        self.assertEqual(self.user_of(f"Bearer {orphan.text}"), "olga")
        self.site.done(self.site.users.delete("olga"))
        self.site.done(self.site.users.create("olga", Role.ADMIN, "long enough 1"))
        self.refused(f"Bearer {orphan.text}")  # another olga
        self.assertEqual(self.user_of(f"Bearer {short.text}"), "admin")
        self.clock.advance(60)
        self.refused(f"Bearer {short.text}")

    def test_what_is_no_token_is_refused(self):
        new = self.make()
        mark, ident, secret = new.text.split(".")
        for text in (
            "",
            "x",
            new.text[:-1],
            f"{mark}.{ident}.{'A' * 43}",
            f"{mark}.{'0' * 16}.{secret}",
            "é",
        ):
            self.refused(f"Bearer {text}")

    def test_guessing_tokens_has_a_budget_of_its_own_that_a_good_one_does_not_need(self):
        new = self.make()
        for _ in range(TOKEN_FAILURES_BURST):
            self.refused("Bearer x")
        self.refused("Bearer x", TooManyLoginsError)
        self.assertEqual(self.user_of(f"Bearer {new.text}"), "admin")
        self.assertEqual(self.user_of(RIGHT), "admin")

    def test_the_store_has_no_secret_and_survives_a_restart(self):
        new = self.make()
        (entry,) = self.successResultOf(self.site.store.list("accesstoken/")).entries
        self.assertNotIn(new.text.split(".")[2].encode(), entry.value)
        self.assertNotIn(new.text.split(".")[2], repr(new))
        again = type(self.site.tokens)(self.site.store, self.clock)
        self.site.done(again.load())
        self.assertEqual(again.verified(new.text).id, new.record.id)

    def test_its_last_use_is_noted_but_not_written_each_time(self):
        new = self.make()
        revisions = set()
        for _ in range(3):
            self.clock.advance(10)
            self.user_of(f"Bearer {new.text}")
            revisions.add(self.successResultOf(self.site.store.get(f"accesstoken/{new.record.id}")).revision)
        self.assertEqual(len(revisions), 1)
        self.assertEqual(self.site.tokens.all()[0].used_at, self.clock.seconds())
