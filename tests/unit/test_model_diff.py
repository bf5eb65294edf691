"""What differs between two configurations, as an operator reads it."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.configuration import SYSTEM_DOCUMENTS
from avinet.model import diff as module
from avinet.model.config import CertificateText, SSLKeyAndCertificate
from avinet.model.configuration import Configuration, Stored
from avinet.model.diff import diff
from avinet.model.ids import ConfigVersion, ObjectId
from avinet.model.plan import plan_change
from tests.unit.config_kit import pool, service


def after(before, *documents, deletes=()):
    plan = plan_change(before, documents, deletes)
    puts = [Stored(thing, 1) for thing in plan.puts]
    return before.with_changes(ConfigVersion(before.version + 1), puts, plan.deletes)


class Between(SynchronousTestCase):
    def setUp(self):
        self.base = after(Configuration(), *SYSTEM_DOCUMENTS)
        self.one = after(self.base, pool("web", 8080, 8081), pool("other"), service())

    def fields(self, new):
        (change,) = diff(self.one, new)
        return {field.path: (field.old, field.new) for field in change.fields}

    def test_the_same_differs_in_nothing(self):
        self.assertEqual(diff(self.one, after(self.one, pool("web", 8080, 8081))), ())

    def test_a_field_is_told_by_its_path_with_what_it_was(self):
        changed = pool("web", 8080, 8081, connect_timeout_s=2, outlier_detection={})
        self.one = after(self.one, pool("web", 8080, 8081, outlier_detection={"interval_s": 5}))
        self.assertEqual(
            self.fields(after(self.one, changed)),
            {"connect_timeout_s": (5.0, 2.0), "outlier_detection.interval_s": (5.0, 10.0)},
        )

    def test_items_are_told_by_their_own_names_and_not_by_where_they_moved(self):
        servers = [{"ip": "10.0.0.9", "port": 1}, {"ip": "10.0.0.1", "port": 8081, "ratio": 3}]
        found = self.fields(after(self.one, {"kind": "Pool", "name": "web", "servers": servers}))
        self.assertEqual(found["servers[10.0.0.1:8081].ratio"], (1, 3))
        self.assertEqual(found["servers[10.0.0.1:8080]"][1], None)
        self.assertEqual(
            (found["servers[10.0.0.9:1]"][0], found["servers[10.0.0.9:1]"][1]["port"]), (None, 1)
        )
        self.assertEqual(len(found), 3)

    def test_another_order_is_told_as_one(self):
        self.assertEqual(
            self.fields(after(self.one, pool("web", 8081, 8080))),
            {
                "servers (order)": (
                    ["10.0.0.1:8080", "10.0.0.1:8081"],
                    ["10.0.0.1:8081", "10.0.0.1:8080"],
                )
            },
        )

    def test_references_are_told_by_name(self):
        self.assertEqual(
            self.fields(after(self.one, service(pool_ref="other"))), {"pool_ref": ("web", "other")}
        )

    def test_what_is_new_has_the_fields_that_are_not_at_their_defaults(self):
        (change,) = diff(self.one, after(self.one, pool("new", retries=0)))
        self.assertEqual((change.change, change.name), ("created", "new"))
        self.assertEqual({field.path for field in change.fields}, {"name", "servers", "retries"})

    def test_what_goes_is_named(self):
        uuid = self.one.find("virtualservice", "www").thing.uuid
        (change,) = diff(self.one, after(self.one, deletes=[uuid]))
        self.assertEqual((change.change, change.kind, change.fields), ("deleted", "virtualservice", ()))

    def test_a_private_key_is_never_shown_only_that_it_changed(self):
        def certificate(key, text):
            thing = SSLKeyAndCertificate(
                uuid=ObjectId("sslkeyandcertificate-1"),
                name="c",
                key=key,
                certificate=CertificateText(certificate=text),
            )
            return self.one.with_changes(self.one.version, [Stored(thing, 1)], [])

        first, second = certificate("KEY-ONE", "a" * 2000), certificate("KEY-TWO", "b" * 2000)
        for old, new, shown in (
            (self.one, first, (None, "(secret)")),
            (first, second, ("(secret)", "(secret, changed)")),
        ):
            (change,) = diff(old, new)
            found = {field.path: (field.old, field.new) for field in change.fields}
            self.assertEqual(found["key"], shown)
            self.assertNotIn("KEY", repr(change))
        self.assertRegex(found["certificate.certificate"][1], r"^\(2000 characters, SHA-256 [0-9a-f]{16}\)$")

    def test_of_too_many_fields_every_object_is_still_named(self):
        self.patch(module, "MAX_FIELDS", 4)
        changes = diff(self.one, after(self.one, pool("a"), pool("b"), pool("c")))
        self.assertEqual([change.name for change in changes], ["a", "b", "c"])
        self.assertEqual(sum(len(change.fields) for change in changes), 4)
        self.assertEqual(sum(change.fields_left_out for change in changes), 2)
