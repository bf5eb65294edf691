"""Users, access tokens, logins and the audit log, through the real Site and the real guard."""

from urllib.parse import urlencode

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.access_tokens import Owner
from avinet.controller.api_audit import audit_routes
from avinet.controller.api_login import LoginApi
from avinet.controller.api_users import AccessTokenApi, UserApi
from avinet.controller.audit import Audit
from avinet.controller.events import WINDOW_S, Events, MemoryLog
from avinet.rest.access import Role
from avinet.rest.route import Response, Route
from avinet.rest.router import Router
from tests.unit.operators_kit import PASSWORD, Site, basic
from tests.unit.rest_client import Client, request_bytes

GOOD = "long enough 1"
FORM = "application/x-www-form-urlencoded"


class Case(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)
        self.audit = Audit(Events(MemoryLog(), self.site.clock, wall=self.site.clock.seconds))
        self.site.operators._audited = self.audit.ended

        async def write(request):
            return Response(body={"name": "a-pool", "secret": "s3cret"})

        routes = (
            *LoginApi(self.site.operators, self.site.sessions, "1.2", b"pem").routes(),
            *UserApi(self.site.users, self.site.tokens, self.site.operators).routes(),
            *AccessTokenApi(self.site.users, self.site.tokens).routes(),
            *audit_routes(self.audit, self.site.clock),
            Route(method="POST", path="/api/pool", handler=write, summary="", request=dict),
        )
        self.client = Client(Router(routes, self.site.clock, self.site.operators), self.site.clock)
        self.admin = {"Authorization": basic(f"admin:{PASSWORD}")}
        self.add("olga", Role.OPERATOR)
        self.add("rosa", Role.READ_ONLY)

    def add(self, name, role):
        self.site.done(self.site.users.create(name, role, f"{GOOD} {name[::-1]}"))

    def as_(self, name):
        return {"Authorization": basic(f"{name}:{GOOD} {name[::-1]}")}

    def ask(self, status, method, path, body=None, who=None, **kwargs):
        answer = self.client(method, path, body, self.admin if who is None else who, **kwargs)
        self.assertEqual(answer.status, status, answer.body)
        return answer.json if answer.body else None


class UserRoutes(Case):
    def test_an_admin_makes_changes_and_deletes_users(self):
        made = self.ask(201, "POST", "/api/user", {"name": "nina", "password": GOOD, "role": "operator"})
        self.assertEqual((made["role"], made["enabled"]), ("operator", True))
        self.assertNotIn("password", made)
        detail = self.ask(409, "POST", "/api/user", {"name": "nina", "password": GOOD})["detail"]
        for advice in ("avinet user role nina", "avinet user password nina"):
            self.assertIn(advice, detail)
        self.ask(400, "POST", "/api/user", {"name": "nora", "password": "short"})
        self.assertEqual(
            self.ask(200, "PUT", "/api/user/nina/role", {"role": "read-only"})["role"], "read-only"
        )
        self.assertFalse(self.ask(200, "POST", "/api/user/nina/disable")["enabled"])
        self.assertEqual(self.ask(200, "GET", "/api/user")["count"], 4)
        self.ask(204, "DELETE", "/api/user/nina")
        self.ask(404, "GET", "/api/user/nina")
        self.assertEqual(self.ask(409, "DELETE", "/api/user/admin")["reason"], "last-admin")

    def test_others_see_themselves_and_change_nobody(self):
        for name in ("olga", "rosa"):
            who = self.as_(name)
            self.assertEqual(self.ask(200, "GET", f"/api/user/{name}", who=who)["name"], name)
            for method, path, body in (
                ("GET", "/api/user", None),
                ("GET", "/api/user/admin", None),
                ("POST", "/api/user", {"name": "x", "password": GOOD}),
                ("PUT", f"/api/user/{name}/role", {"role": "admin"}),
                ("PUT", "/api/user/admin/password", {"password": GOOD}),
                ("DELETE", "/api/user/admin", None),
                ("GET", "/api/audit", None),
            ):
                self.assertEqual(self.ask(403, method, path, body, who)["needed"], "admin")

    def test_ones_own_password_needs_the_current_one(self):
        path, who = "/api/user/rosa/password", self.as_("rosa")
        self.assertEqual(self.ask(403, "PUT", path, {"password": GOOD}, who)["reason"], "current-password")
        self.ask(401, "PUT", path, {"password": GOOD, "current": "wrong"}, who)
        self.ask(200, "PUT", path, {"password": GOOD, "current": f"{GOOD} asor"}, who)
        self.ask(401, "GET", "/api/whoami", who=who)

    def test_the_role_that_writes_need(self):
        self.ask(200, "POST", "/api/pool", {}, self.as_("olga"))
        body = self.ask(403, "POST", "/api/pool", {}, self.as_("rosa"))
        self.assertEqual((body["reason"], body["needed"]), ("role-needed", "operator"))


class TokenRoutes(Case):
    def bearer(self, text):
        return {"Authorization": f"Bearer {text}"}

    def make(self, who=None, **wish):
        return self.ask(201, "POST", "/api/accesstoken", {"name": "backup", **wish}, who)

    def test_a_token_is_told_once_and_works_until_it_is_revoked(self):
        made = self.make(role="read-only")
        who = self.bearer(made["secret"])
        said = self.ask(200, "GET", "/api/whoami", who=who)
        self.assertEqual(said, {"user": "admin", "role": "read-only", "token": "backup"})
        self.ask(403, "POST", "/api/pool", {}, who)
        (row,) = self.ask(200, "GET", "/api/accesstoken")["results"]
        self.assertTrue(made["secret"].startswith(row["prefix"]))
        self.assertEqual((row["state"], row["used_at"]), ("active", self.site.clock.seconds()))
        self.ask(204, "DELETE", "/api/accesstoken/backup")
        self.ask(401, "GET", "/api/whoami", who=who)

    def test_each_has_tokens_of_its_own_and_an_admin_everybodys(self):
        made = self.make(self.as_("olga"))
        self.assertEqual(made["token"]["role"], "operator")
        self.assertEqual(self.ask(200, "GET", "/api/accesstoken", who=self.as_("rosa"))["count"], 0)
        self.ask(404, "DELETE", f"/api/accesstoken/{made['token']['uuid']}", who=self.as_("rosa"))
        self.ask(403, "POST", "/api/accesstoken", {"name": "x", "role": "admin"}, self.as_("olga"))
        self.ask(403, "POST", "/api/accesstoken", {"name": "x", "user": "admin"}, self.as_("olga"))
        self.ask(409, "POST", "/api/accesstoken", {"name": "backup"}, self.as_("olga"))
        self.assertEqual(self.make(user="rosa")["token"]["role"], "read-only")
        self.ask(204, "DELETE", f"/api/accesstoken/{made['token']['uuid']}")

    def test_what_a_lesser_token_may_not_is_advised_by_the_role_of_its_user(self):
        local = Owner(user="local", uid="")
        lesser = self.site.done(self.site.tokens.create(local, "ci", Role.READ_ONLY, 600.0)).text
        olgas = self.make(self.as_("olga"), role="read-only")["secret"]
        for user, text in (("local", lesser), ("olga", olgas)):
            body = self.ask(403, "POST", "/api/pool", {}, self.bearer(text))
            self.assertEqual(
                (body["reason"], body["needed"], body["user"]), ("role-needed", "operator", user)
            )
            self.assertNotIn("avinet user role", body["detail"])
            self.assertIn("--role operator", body["detail"])
        body = self.ask(403, "GET", "/api/audit", {}, self.bearer(olgas))
        self.assertIn("avinet user role olga admin", body["detail"])  # no token of hers would do
        more = {"name": "more", "role": "operator"}
        body = self.ask(403, "POST", "/api/accesstoken", more, self.bearer(olgas))
        self.assertNotIn("avinet user role", body["detail"])

    def test_a_token_makes_none_that_may_more_or_lives_longer(self):
        who = self.bearer(self.make(role="operator", life_s=600)["secret"])
        body = self.ask(403, "POST", "/api/accesstoken", {"name": "longer", "life_s": 601}, who)
        self.assertEqual(body["reason"], "token-outlives")
        self.ask(403, "POST", "/api/accesstoken", {"name": "more", "role": "admin"}, who)
        other = self.ask(201, "POST", "/api/accesstoken", {"name": "other"}, who)["token"]
        self.assertEqual((other["role"], other["expires_at"] - other["created_at"]), ("operator", 600))

    def test_a_users_tokens_go_with_it(self):
        who = self.bearer(self.make(self.as_("olga"))["secret"])
        self.ask(204, "DELETE", "/api/user/olga")
        self.ask(401, "GET", "/api/whoami", who=who)
        self.assertEqual(self.ask(200, "GET", "/api/accesstoken")["count"], 0)


class LoginRoutes(Case):
    def login(self, status=200, headers=None, **form):
        connection = self.client.connect()
        given = {"username": "olga", "password": f"{GOOD} aglo", **form}
        connection.send(
            request_bytes("POST", "/login", urlencode(given).encode(), headers, content_type=FORM)
        )
        raw = connection.transport.value().decode()
        answer = connection.answer()
        self.assertEqual(answer.status, status, answer.body)
        cookies = [line[12:] for line in raw.split("\r\n") if line.startswith("Set-Cookie: ")]
        return answer.json, cookies

    def test_a_login_sets_two_cookies_that_no_script_of_others_gets(self):
        body, cookies = self.login()
        self.assertEqual((body["user"]["role"], body["session_cookie_name"]), ("operator", "sessionid"))
        self.assertEqual(body["version"]["Version"], "1.2")
        for cookie in cookies:
            self.assertIn("; Secure; SameSite=Strict", cookie)
        session, csrf = sorted(cookies, reverse=True)
        self.assertTrue(session.startswith("sessionid=") and "; HttpOnly" in session)
        self.assertTrue(csrf.startswith("csrftoken=") and "HttpOnly" not in csrf)

    def test_a_session_writes_with_its_token_and_ends_at_the_logout(self):
        _, cookies = self.login()
        jar = "; ".join(cookie.split(";")[0] for cookie in cookies)
        csrf = next(c for c in cookies if c.startswith("csrftoken=")).split(";")[0].partition("=")[2]
        self.assertEqual(self.ask(403, "POST", "/api/pool", {}, {"Cookie": jar})["reason"], "forgery")
        who = {"Cookie": jar, "X-CSRFToken": csrf}
        self.ask(200, "POST", "/api/pool", {}, who)
        self.ask(200, "POST", "/logout", who=who)
        self.assertEqual(self.ask(401, "GET", "/api/whoami", who=who)["reason"], "session-ended")

    def test_a_wrong_login_and_one_from_anothers_page_are_refused(self):
        self.assertEqual(self.login(401, password="wrong")[1], [])
        self.assertEqual(self.login(403, headers={"Origin": "https://evil"})[1], [])
        for body in (b"", b"username=olga", b"\xff", b"username=%ff&password=x", b"a=1&" * 100):
            answer = self.client("POST", "/login", body, content_type=FORM)
            self.assertEqual(answer.status, 400, answer.body)
        for body in ([], "x", {"username": 1, "password": "x"}, {"username": "olga", "password": ""}):
            self.assertEqual(self.client("POST", "/login", body).status, 400)

    def test_what_a_client_may_know_before_it_logs_in_is_no_version(self):
        data = self.ask(200, "GET", "/api/initial-data", who={})
        self.assertEqual((data["session_cookie_name"], data["version"]["Version"]), ("sessionid", ""))


class AuditTests(Case):
    def entries(self, query=""):
        return self.ask(200, "GET", f"/api/audit{query}")["results"]

    def test_writes_are_told_with_who_what_and_how_they_ended_and_no_body(self):
        answer = self.client("POST", "/api/pool", {"password": "s3cret"}, self.as_("olga"))
        self.client("POST", "/api/pool?password=s3cret", {}, self.as_("olga"))
        self.client("GET", "/api/whoami", None, self.as_("olga"))
        done, refused = self.entries("?user=olga")
        self.assertEqual(
            (done["role"], done["source"], done["method"], done["path"], done["object"], done["outcome"]),
            ("operator", "192.0.2.7", "POST", "/api/pool", "a-pool", "done"),
        )
        self.assertEqual(done["request_id"], answer.headers["x-request-id"])
        self.assertEqual((refused["outcome"], refused["reason"]), ("refused", "invalid-query"))
        self.assertNotIn("s3cret", repr(self.entries()))

    def test_a_token_and_a_login_are_named(self):
        text = self.ask(201, "POST", "/api/accesstoken", {"name": "backup"})["secret"]
        self.client("POST", "/api/pool", {}, {"Authorization": f"Bearer {text}"})
        self.client("POST", "/login", {"username": "rosa", "password": f"{GOOD} asor"})
        found = [(e["user"], e["token"], e["path"]) for e in self.entries()]
        self.assertEqual(found[-2:], [("admin", "backup", "/api/pool"), ("rosa", "", "/login")])

    def test_what_strangers_try_is_a_line_and_a_count(self):
        for n in range(5):
            self.client("POST", "/api/pool", {}, {"Authorization": f"Bearer {n}"})
        self.assertEqual([e["count"] for e in self.entries()], [1])
        self.site.clock.advance(WINDOW_S)
        first, rest = self.entries()
        self.assertEqual((first["user"], first["reason"], rest["count"]), ("", "unauthenticated", 4))

    def test_a_read_is_told_only_when_a_role_was_missing(self):
        self.client("GET", "/api/user", None, self.as_("rosa"))
        self.client("GET", "/api/whoami", None, self.as_("rosa"))
        self.client("GET", "/api/whoami")
        self.assertEqual([(e["user"], e["reason"]) for e in self.entries()], [("rosa", "role-needed")])

    def test_pages_go_on_where_the_last_ended(self):
        for _ in range(5):
            self.client("POST", "/api/pool", {}, self.as_("olga"))
            self.client("POST", "/api/pool", {}, self.admin)
        self.assertEqual(len(self.entries("?limit=3")), 3)
        first = self.ask(200, "GET", "/api/audit?since=0&limit=3&user=olga")
        rest = self.ask(200, "GET", f"/api/audit?since={first['last_id']}&user=olga")
        ids = [e["id"] for e in first["results"] + rest["results"]]
        self.assertEqual(ids, [1, 3, 5, 7, 9])
        self.assertEqual([e["id"] for e in self.entries("?limit=2&user=olga")], [7, 9])
