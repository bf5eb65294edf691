"""What must hold within a pool, and between it and its virtual services."""

from avinet.model.advice import advice
from avinet.model.plan import plan_change
from tests.unit.certificate_kit import certificate, key_and_certificate
from tests.unit.config_kit import NOW, pool, service
from tests.unit.test_model_intake import BEFORE, GROUP, MONITOR, WEB, Case, configuration

BY_HASH = {"lb_algorithm": "LB_ALGORITHM_CONSISTENT_HASH"}
BY_HEADER = {**BY_HASH, "lb_algorithm_hash": "LB_ALGORITHM_CONSISTENT_HASH_CUSTOM_HEADER"}
BY_URI = {**BY_HASH, "lb_algorithm_hash": "LB_ALGORITHM_CONSISTENT_HASH_URI"}
COOKIE = {"persistence": {"persistence_type": "PERSISTENCE_TYPE_HTTP_COOKIE"}}
TCP = "System-L4-Application"


class Pools(Case):
    def test_a_hash_by_header_names_a_header_and_nothing_else_does(self):
        field = "lb_algorithm_consistent_hash_hdr"
        self.read(pool("new", **BY_HEADER, **{field: "X-Account"}))
        for name in ("", ":path", "X Account", "x\r\ny", "\u00e9", "x" * 129):
            self.assertEqual(self.paths(pool("new", **BY_HEADER, **{field: name})), [field], ascii(name))
        for more in ({}, BY_HASH, BY_URI):
            self.assertEqual(self.paths(pool("new", **more, **{field: "X-Account"})), [field])

    def test_persistence_by_cookie_names_a_cookie_and_by_address_has_none(self):
        self.read(pool("new", persistence={"cookie_name": "server", "timeout_s": 60}))
        for name in ("a b", "a=b", "a;b", "\u00e9", "a\n"):
            self.assertEqual(
                self.paths(pool("new", persistence={"cookie_name": name})), ["persistence.cookie_name"]
            )
        address = {"persistence_type": "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS"}
        self.read(pool("new", persistence=address))
        self.assertEqual(
            self.paths(pool("new", persistence={**address, "cookie_name": "x", "timeout_s": 1})),
            ["persistence.cookie_name", "persistence.timeout_s"],
        )

    def fail(self, kind, **parts):
        return pool("new", fail_action={"type": f"FAIL_ACTION_{kind}", **parts})

    def test_a_fail_action_has_the_parts_of_its_type(self):
        for kind, parts, wrong in (
            ("CLOSE_CONN", {"body": "x"}, ["body"]),
            ("CLOSE_CONN", {"status_code": 500}, ["status_code"]),
            ("CLOSE_CONN", {"redirect_url": "https://x.example/"}, ["redirect_url"]),
            ("HTTP_REDIRECT", {"redirect_url": "https://x.example/", "body": "x"}, ["body"]),
            ("HTTP_REDIRECT", {"redirect_url": "https://x.example/", "status_code": 200}, ["status_code"]),
            ("HTTP_REDIRECT", {}, ["redirect_url"]),
            ("HTTP_LOCAL_RSP", {"redirect_url": "https://x.example/"}, ["redirect_url"]),
            ("HTTP_LOCAL_RSP", {"status_code": 204, "body": "x"}, ["body"]),
            ("HTTP_LOCAL_RSP", {"content_type": "text/plain\r\nX-Y: z"}, ["content_type"]),
            ("HTTP_LOCAL_RSP", {"body": "x" * 16385}, ["body"]),
            ("HTTP_LOCAL_RSP", {"status_code": 199}, ["status_code"]),
        ):
            wanted = [f"fail_action.{name}" for name in wrong]
            self.assertEqual(self.paths(self.fail(kind, **parts)), wanted, (kind, parts))
        self.read(
            self.fail(
                "HTTP_LOCAL_RSP", status_code=500, body="x" * 9000, content_type="text/html; charset=utf-8"
            )
        )

    def test_a_redirect_goes_to_a_whole_url_and_is_302_unless_it_says_otherwise(self):
        made = self.read(self.fail("HTTP_REDIRECT", redirect_url="https://x.example/a?b=c#d"))
        self.assertEqual(made.fail_action.status_code, 302)
        made = self.read(
            self.fail("HTTP_REDIRECT", redirect_url="http://[2001:db8::1]:8080/", status_code=307)
        )
        self.assertEqual(made.fail_action.status_code, 307)
        for url in (
            "/sorry",
            "x.example",
            "ftp://x.example/",
            "javascript:alert(1)",
            "https://",
            "https://x.example/\r\nSet-Cookie: a=b",
            "https://x.example/a b",
            "https://x.example:99999/",
            "https://[::1/",
            "https://\u00e9.example/",
            "//x.example/",
        ):
            found = self.paths(self.fail("HTTP_REDIRECT", redirect_url=url))
            self.assertEqual(found, ["fail_action.redirect_url"], ascii(url))

    def test_tls_to_servers_is_checked(self):
        tls = {"ssl_profile_ref": "System-Standard"}
        bundle = certificate() * 12
        self.read(pool("new", **tls, ca_certs=[bundle], server_name="db.example"))
        for more, wrong in (
            ({**tls, "ca_certs": ["x"]}, ["ca_certs[0]"]),
            ({**tls, "ca_certs": [certificate(), bundle[:-100]]}, ["ca_certs[1]"]),
            ({**tls, "ca_certs": certificate()}, ["ca_certs"]),
            ({**tls, "ca_certs": ["x" * 262145]}, ["ca_certs[0]"]),
            ({**tls, "server_name": "*.example"}, ["server_name"]),
            ({**tls, "server_name": "10.0.0.1"}, ["server_name"]),
            ({"ca_certs": [bundle], "server_name": "db.example"}, ["ca_certs", "server_name"]),
        ):
            self.assertEqual(self.paths(pool("new", **more)), wrong)

    def test_a_hosts_own_name_is_a_name(self):
        server = {"ip": "10.0.0.1", "port": 80, "hostname": "a b"}
        self.assertEqual(self.paths(pool("new", servers=[server])), ["servers[0].hostname"])


class InUse(Case):
    """A pool and its virtual service are changed apart."""

    def test_a_tcp_virtual_service_refuses_a_pool_that_needs_http(self):
        for more, field in (
            (COOKIE, "persistence.persistence_type"),
            (BY_URI, "lb_algorithm_hash"),
            ({"fail_action": {"type": "FAIL_ACTION_HTTP_LOCAL_RSP"}}, "fail_action.type"),
        ):
            documents = (pool("new", **more), service(pool_ref="new", application_profile_ref=TCP))
            ((path, why),) = self.problems(*documents)
            self.assertEqual(path, "pool_ref")
            self.assertIn(f"pool 'new' does not suit TCP: {field}", why)
            plan_change(BEFORE, [documents[0], service(pool_ref="new")])

    def test_a_pool_that_a_tcp_virtual_service_uses_cannot_begin_to_need_http(self):
        there = plan_change(BEFORE, [service(application_profile_ref=TCP)]).puts[0]
        before = configuration(GROUP, MONITOR, WEB, there)
        ((path, why),) = self.problems(pool("web", **COOKIE), before=before)
        self.assertEqual(path, "persistence.persistence_type")
        self.assertIn("virtual service 'www' uses this pool", why)
        self.assertIn("PERSISTENCE_TYPE_CLIENT_IP_ADDRESS", why)
        plan_change(
            before, [pool("web", persistence={"persistence_type": "PERSISTENCE_TYPE_CLIENT_IP_ADDRESS"})]
        )

    def test_what_was_unsuited_before_does_not_stop_other_changes(self):
        things = plan_change(
            BEFORE, [pool("cookies", **COOKIE), service(pool_ref="cookies"), pool("other")]
        ).puts
        import msgspec

        odd = msgspec.structs.replace(things[1], application_profile_ref="System-L4-Application")
        plan_change(configuration(GROUP, things[0], odd, things[2]), [pool("other", 1, 2)])

    def test_monitors_of_one_pool_ask_one_port(self):
        monitors = [
            {"kind": "healthmonitor", "name": name, "type": "HEALTH_MONITOR_TCP", **more}
            for name, more in (("own", {}), ("same", {"monitor_port": 80}), ("other", {"monitor_port": 81}))
        ]
        one = [{"ip": "10.0.0.1", "port": 80}]
        fits = pool("new", servers=one, health_monitor_refs=["own", "same"])
        clashes = pool("new", servers=one, health_monitor_refs=["same", "other"])
        ((path, why),) = self.problems(*monitors, clashes)
        self.assertEqual(path, "health_monitor_refs")
        self.assertIn("(80, 81)", why)
        before = configuration(GROUP, MONITOR, WEB, *plan_change(BEFORE, [*monitors, fits]).puts)
        ((path, why),) = self.problems({**monitors[1], "monitor_port": 82}, before=before)
        self.assertEqual(path, "monitor_port")
        self.assertIn("pool 'new'", why)


class Said(Case):
    def said(self, *documents):
        things = plan_change(BEFORE, documents).puts
        found = advice(configuration(GROUP, MONITOR, WEB, *things), [things[-1].uuid], NOW)
        return [one.path for one in found]

    def test_servers_that_are_not_verified_are_said(self):
        tls = {"ssl_profile_ref": "System-Standard"}
        named = [{"ip": "10.0.0.1", "port": 443, "hostname": "a.example"}, {"ip": "b.example", "port": 443}]
        self.assertEqual(self.said(pool("new", **tls)), ["ca_certs"])
        self.assertEqual(self.said(pool("new", **tls, ca_certs=[certificate()])), ["server_name"])
        verified = pool("new", **tls, ca_certs=[certificate()], servers=named)
        self.assertEqual(self.said(verified), [])
        self.assertEqual(self.said(pool("new")), [])

    def test_an_expired_ca_is_said(self):
        old = certificate(days=(-9, -1))
        tls = {"ssl_profile_ref": "System-Standard", "server_name": "x.example"}
        self.assertEqual(self.said(pool("new", **tls, ca_certs=[certificate() + old])), ["ca_certs[0]"])

    def test_a_client_certificate_is_a_reference(self):
        made = plan_change(
            BEFORE,
            [
                key_and_certificate(),
                pool("new", ssl_profile_ref="System-Modern", ssl_key_and_certificate_ref="tls"),
            ],
        ).puts
        self.assertEqual(made[1].ssl_key_and_certificate_ref, made[0].uuid)
