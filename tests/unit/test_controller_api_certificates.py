"""Certificates by the API: facts are shown and keys are not, and what was got can be put back."""

import json

from tests.unit.certificate_kit import certificate, key, key_and_certificate, key_pem
from tests.unit.config_kit import pool, service
from tests.unit.test_controller_api_config import Api

PATH = "/api/sslkeyandcertificate"


class Certificates(Api):
    def change(self, *documents):
        return self.apply(json.dumps(documents), "application/json")

    def setUp(self):
        super().setUp()
        self.secret = key_pem(key()).splitlines()[1]
        self.made = self.call("POST", PATH, key_and_certificate(), status=201)

    def put(self, **fields):
        return self.call("PUT", f"{PATH}/tls", {**self.call("GET", f"{PATH}/tls"), **fields})

    def test_the_key_is_in_no_answer(self):
        # Not in any diff or page of the history either: the apply and the versions are asked for below.
        renewed = [key_and_certificate(pem=certificate(days=(-1, 300)), private=key())]
        answers = [
            self.made,
            self.call("GET", f"{PATH}/tls"),
            self.call("GET", PATH),
            self.apply(json.dumps(renewed), "application/json", query="?dry_run=true"),
            self.call("POST", "/api/config/diff", renewed),
            self.call("GET", "/api/config/versions/2"),
            self.call("GET", "/api/config/versions/2?whole=true"),
        ]
        for answer in answers:
            self.assertNotIn(self.secret, json.dumps(answer))
            self.assertNotIn("PRIVATE", json.dumps(answer))
        self.assertNotIn(self.secret, repr(self.world.config.current.objects))

    def test_what_a_certificate_says_is_shown(self):
        facts = self.call("GET", f"{PATH}/tls")["certificate"]
        self.assertEqual(
            (facts["subject"], facts["issuer"], facts["names"]),
            ("CN=www.example", "CN=www.example", ["www.example"]),
        )
        self.assertEqual((facts["days_left"], facts["key_type"]), (90, "EC-secp256r1"))
        self.assertEqual((facts["not_before"][:10], facts["not_after"][:10]), ("2027-01-14", "2027-04-15"))
        self.assertRegex(facts["fingerprint"], "^([0-9A-F]{2}:){31}[0-9A-F]{2}$")

    def test_what_was_got_can_be_put_back_and_keeps_its_key(self):
        stored = self.world.config.find("sslkeyandcertificate", "tls").thing
        self.put(description="new")
        now = self.world.config.find("sslkeyandcertificate", "tls").thing
        self.assertEqual((now.key, now.description), (stored.key, "new"))

    def test_another_certificate_needs_its_key(self):
        other = certificate(private=key(1))
        body = {**self.call("GET", f"{PATH}/tls"), "certificate": other}
        why = self.problem("PUT", f"{PATH}/tls", body, status=400)
        self.assertEqual([one["path"] for one in why["problems"]], ["key"])
        self.put(certificate=other, key=key_pem(key(1)))

    def test_a_warning_is_in_the_answer_to_the_change_alone(self):
        old = self.put(certificate=certificate(days=(-9, -1)))
        (warning,) = old["warnings"]
        self.assertEqual(
            (warning["kind"], warning["name"], warning["path"]),
            ("sslkeyandcertificate", "tls", "certificate.certificate"),
        )
        self.assertIn("it expired on", warning["why"])
        self.assertNotIn("warnings", self.call("GET", f"{PATH}/tls"))
        applied = self.change(pool(), service(ssl_key_and_certificate_refs=["tls"]))
        self.assertEqual(
            [one["path"] for one in applied["warnings"]],
            ["ssl_key_and_certificate_refs", "ssl_key_and_certificate_refs[0]"],
        )
        self.call("PUT", f"{PATH}/tls", {**old, "description": "sent back with its warnings"})

    def test_one_in_use_is_not_deleted_and_its_users_are_named(self):
        ports = [{"port": 443, "enable_ssl": True}]
        self.change(pool(), service(services=ports, ssl_key_and_certificate_refs=["tls"]))
        why = self.problem("DELETE", f"{PATH}/tls", status=409)
        self.assertIn("virtualservice 'www' refers to it (ssl_key_and_certificate_refs[0])", why["detail"])

    def test_every_reference_is_shown_as_one_and_can_be_sent_back(self):
        self.change(
            pool(),
            pool("api", ssl_profile_ref="System-Modern", ssl_key_and_certificate_ref="tls"),
            service(
                services=[{"port": 443, "enable_ssl": True}],
                ssl_key_and_certificate_refs=["tls"],
                routes=[{"path": "/api", "pool_ref": "api"}],
            ),
        )
        shown = self.call("GET", "/api/virtualservice/www")
        self.assertRegex(shown["routes"][0]["pool_ref"], "^/api/pool/pool-.*#api$")
        self.assertRegex(shown["ssl_key_and_certificate_refs"][0], "^/api/sslkeyandcertificate/.*#tls$")
        self.assertEqual(shown["application_profile_ref"], "/api/applicationprofile/System-HTTP#System-HTTP")
        of_pool = self.call("GET", "/api/pool/api")
        self.assertEqual(of_pool["ssl_profile_ref"], "/api/sslprofile/System-Modern#System-Modern")
        again = self.change({"kind": "Pool", **of_pool}, {"kind": "VirtualService", **shown})
        self.assertEqual(again["unchanged"], ["pool/api", "virtualservice/www"])

    def test_a_key_twice_in_a_body_is_refused(self):
        why = self.problem("POST", "/api/pool", b'{"name": "a", "name": "b"}', status=400)
        self.assertIn("the key 'name' is there twice", why["detail"])
