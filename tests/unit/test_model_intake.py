"""What an operator writes to what is stored, or every reason why not."""

import json

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.model.config import (
    DEFAULT_GROUP,
    KINDS,
    ApplicationProfile,
    HealthMonitor,
    HttpMonitor,
    IpAddr,
    IpAddrType,
    Pool,
    ServiceEngineGroup,
    SslProfile,
    VirtualService,
)
from avinet.model.configuration import Configuration, Stored
from avinet.model.ids import ConfigVersion, ObjectId
from avinet.model.intake import Enough, Reader
from avinet.model.plan import plan_change
from avinet.model.problems import MAX_PROBLEMS, InvalidConfigError
from tests.unit.config_kit import pool, service

GROUP = ServiceEngineGroup(uuid=ObjectId("serviceenginegroup-1"), name=DEFAULT_GROUP)
MONITOR = HealthMonitor(uuid=ObjectId("healthmonitor-1"), name="ping")
WEB = Pool(uuid=ObjectId("pool-1"), name="web")


def configuration(*things):
    return Configuration(ConfigVersion(1), {thing.uuid: Stored(thing, 1) for thing in things})


BEFORE = configuration(GROUP, MONITOR, WEB)


class Case(SynchronousTestCase):
    def read(self, document, before=BEFORE):
        return plan_change(before, [document]).puts[0]

    def problems(self, *documents, before=BEFORE, deletes=()):
        why = self.assertRaises(InvalidConfigError, plan_change, before, documents, deletes)
        self.assertIn("The configuration was not changed.", str(why))
        return [(p.path, p.why) for p in why.problems]

    def paths(self, *documents, **more):
        return [path for path, _ in self.problems(*documents, **more)]


class Shorthand(Case):
    def address(self, given):
        return self.read(pool(servers=[{"ip": given, "port": 80}])).servers[0].ip

    def test_a_bare_address_stands_for_address_and_type(self):
        for text, kind in (
            ("10.0.0.1", IpAddrType.V4),
            ("2001:db8::1", IpAddrType.V6),
            ("web.example", IpAddrType.DNS),
            ("localhost", IpAddrType.DNS),
        ):
            whole = IpAddr(addr=text, type=kind)
            self.assertEqual(self.address(text), whole)
            self.assertEqual(self.address({"addr": text}), whole)
            self.assertEqual(self.address({"addr": text, "type": kind.value}), whole)

    def test_what_is_neither_address_nor_name_is_refused(self):
        for text in (
            "",
            "10.0.0.256",
            "10.0.0",
            "1.2.3.4.5",
            "a b",
            "-x.example",
            "x..y",
            "http://x",
            "10.0.0.1/8",
            "a" * 300,
            "fe80::1%eth0",
            "\u00e9.example",
        ):
            self.assertEqual(self.paths(pool(servers=[{"ip": text, "port": 80}])), ["servers[0].ip"], text)

    def test_what_is_the_address_of_none_or_of_many_is_refused(self):
        for text in ("::ffff:10.0.0.1", "::FFFF:a00:1", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1"):
            self.assertEqual(self.paths(pool(servers=[{"ip": text, "port": 80}])), ["servers[0].ip"], text)
            self.assertEqual(self.paths(service(address=text)), ["vip[0].ip_address"], text)
        for text in ("0.0.0.0", "::", "0:0::"):
            self.assertEqual(self.paths(pool(servers=[{"ip": text, "port": 80}])), ["servers[0].ip"], text)
            self.read(service(address=text))

    def test_an_address_of_another_type_than_it_says_is_refused(self):
        for value in (
            {"addr": "10.0.0.1", "type": "V6"},
            {"addr": "::1", "type": "V4"},
            {"addr": "x.example", "type": "V4"},
            {"addr": "10.0.0.1", "type": []},
        ):
            self.assertEqual(self.paths(pool(servers=[{"ip": value, "port": 80}])), ["servers[0].ip.addr"])
        odd = {"addr": "10.0.0.1", "type": "V4", "mask": 8}
        self.assertEqual(self.paths(pool(servers=[{"ip": odd, "port": 80}])), ["servers[0].ip.mask"])
        self.assertEqual(self.paths(pool(servers=[{"ip": {"addr": 1}, "port": 80}])), ["servers[0].ip.addr"])
        self.assertEqual(self.paths(pool(servers=[{"ip": {}, "port": 80}])), ["servers[0].ip.addr"])

    def test_a_reference_is_a_name_a_uuid_or_a_url(self):
        for text in (
            "web",
            "pool-1",
            "/api/pool/pool-1",
            "/api/pool/pool-1#web",
            "https://controller.example/api/pool/pool-1#web",
            "/api/pool?name=web",
            "/api/pool/?name=web",
            "https://[2001:db8::1]/api/pool?name=web",
        ):
            self.assertEqual(self.read(service(pool_ref=text)).pool_ref, "pool-1", text)

    def test_a_reference_may_be_to_a_document_beside_it_in_any_order(self):
        plan = plan_change(BEFORE, [service(pool_ref="new"), pool("new")])
        by_kind = {type(thing): thing for thing in plan.puts}
        self.assertEqual(by_kind[VirtualService].pool_ref, by_kind[Pool].uuid)

    def test_a_reference_to_nothing_or_another_kind_is_refused(self):
        for value in (
            "none",
            "ping",
            "healthmonitor-1",
            "",
            "/api/pool?name=",
            "/api/healthmonitor/healthmonitor-1",
            1,
            None,
            [],
            {},
            True,
            "https://[::1/api/pool/x",
        ):
            self.assertEqual(self.paths(service(pool_ref=value)), ["pool_ref"], value)

    def test_a_virtual_service_is_of_the_default_group_unless_it_says_so(self):
        self.assertEqual(self.read(service()).se_group_ref, GROUP.uuid)
        other = ServiceEngineGroup(uuid=ObjectId("serviceenginegroup-2"), name="other")
        before = configuration(GROUP, WEB, other)
        self.assertEqual(self.read(service(se_group_ref="other"), before).se_group_ref, other.uuid)

    def test_an_empty_http_monitor_has_the_defaults(self):
        made = self.read({"kind": "HealthMonitor", "name": "m", "http_monitor": {}})
        self.assertEqual(made.http_monitor, HttpMonitor())
        for kind in ("HEALTH_MONITOR_HTTP", "HEALTH_MONITOR_HTTPS"):
            made = self.read({"kind": "healthmonitor", "name": "m", "type": kind, "http_monitor": None})
            self.assertEqual(made.http_monitor, HttpMonitor())
        for kind in ("HEALTH_MONITOR_TCP", "HEALTH_MONITOR_TLS"):
            self.assertIsNone(self.read({"kind": "healthmonitor", "name": "m", "type": kind}).http_monitor)

    def test_names_of_a_closed_set_are_taken_as_references_are(self):
        for text in (
            "System-L4-Application",
            "/api/applicationprofile?name=System-L4-Application",
            "/api/applicationprofile/System-L4-Application#System-L4-Application",
            "https://controller.example/api/applicationprofile/?name=System-L4-Application",
        ):
            made = self.read(service(application_profile_ref=text))
            self.assertEqual(made.application_profile_ref, ApplicationProfile.TCP, text)
        made = self.read(pool("new", ssl_profile_ref="/api/sslprofile?name=System-Modern"))
        self.assertEqual(made.ssl_profile_ref, SslProfile.MODERN)
        self.assertIsNone(self.read(pool("new", ssl_profile_ref=None)).ssl_profile_ref)
        for value in ("System-None", "/api/sslprofile?name=x", 1, []):
            ((path, why),) = self.problems(pool("new", ssl_profile_ref=value))
            self.assertEqual(path, "ssl_profile_ref")
            self.assertIn("System-Standard, System-Modern", why)

    def test_what_the_api_adds_is_ignored(self):
        odd = {"url": 1, "_last_modified": [], "tenant_ref": {}}
        self.assertEqual(self.read(pool("new", **odd)).name, "new")


class Refusals(Case):
    def test_every_wrong_field_of_every_document_is_named_at_once(self):
        bad_pool = pool(
            "a", servers=[{"ip": "10.0.0.1", "port": 0}, {"port": "80", "ip": 1, "extra": 1}], colour=1
        )
        bad_service = service(port=70000, pool_ref="none")
        self.assertEqual(
            set(self.paths(bad_pool, bad_service)),
            {
                "servers[0].port",
                "servers[1].port",
                "servers[1].ip",
                "servers[1].extra",
                "colour",
                "services[0].port",
                "pool_ref",
            },
        )

    def test_values_of_another_type_are_refused(self):
        for field, value in (
            ("servers", {}),
            ("servers", None),
            ("servers", "10.0.0.1"),
            ("description", 1),
            ("description", None),
            ("default_server_port", "80"),
            ("default_server_port", 80.5),
            ("default_server_port", True),
            ("default_server_port", 0),
            ("default_server_port", 65536),
            ("default_server_port", -(16**5000)),
            ("connect_timeout_s", 0),
            ("connect_timeout_s", float("nan")),
            ("connect_timeout_s", float("inf")),
            ("connect_timeout_s", 10**400),
            ("lb_algorithm", "RANDOM"),
            ("lb_algorithm", []),
            ("lb_algorithm", None),
            ("health_monitor_refs", "ping"),
            ("description", "x" * 1025),
            ("description", "\ud800"),
            ("description", b"x"),
        ):
            self.assertEqual(
                self.paths(pool(**{field: value})),
                [field],
                (field, str(value)[:20] if not isinstance(value, int) else "int"),
            )

    def test_a_whole_number_does_for_a_fraction(self):
        self.assertEqual(self.read(pool(connect_timeout_s=3)).connect_timeout_s, 3.0)

    def test_kind_and_name_are_needed(self):
        for document, path in (
            ({}, "kind"),
            ({"kind": None}, "kind"),
            ({"kind": []}, "kind"),
            ({"kind": "Teapot", "name": "x"}, "kind"),
            ({"kind": "Pool"}, "name"),
            ({"kind": "Pool", "name": ""}, "name"),
            ({"kind": "Pool", "name": 1}, "name"),
            ({"kind": "Pool", "name": None}, "name"),
        ):
            self.assertEqual(self.paths(document), [path])

    def test_names_that_break_paths_or_screens_are_refused(self):
        for name in ("a/b", "a\nb", "\x1b[2J", "x" * 129, "\x7f", "\ud800"):
            self.assertEqual(self.paths(pool(name)), ["name"], ascii(name))

    def test_errors_have_nothing_in_them_that_a_screen_would_do(self):
        hostile = "\x1b[2J\u202e"
        wrong = [
            pool(hostile),
            {"kind": hostile, "name": hostile},
            pool("a", **{hostile: 1}),
            pool("b", servers=[{hostile: 1}]),
        ]
        why = self.assertRaises(InvalidConfigError, plan_change, BEFORE, wrong)
        self.assertTrue(str(why).replace("\n", "").isprintable(), ascii(str(why)))

    def test_names_that_look_like_others_are_refused(self):
        for name in (
            "web ",
            " web",
            "we\u200bb",
            "\u202ebew",
            "web\u00a0",
            "\x9b2J",
            "cafe\u0301",
            "\ufeffweb",
        ):
            self.assertEqual(self.paths(pool(name)), ["name"], ascii(name))
        for name in ("caf\u00e9", "\u0432\u0435\u0431", "\u8d1f\u8f7d", "web 2", "web.2-a_b:c"):
            self.assertEqual(self.read(pool(name)).name, name)

    def test_the_number_of_problems_told_is_bounded(self):
        many = [pool(f"p{n}", colour=n) for n in range(MAX_PROBLEMS * 3)]
        self.assertEqual(len(self.problems(*many)), MAX_PROBLEMS)

    def test_no_more_is_looked_for_than_is_told(self):
        for document in (
            service(ssl_key_and_certificate_refs=["none"] * 10_000),
            pool(**{f"field{n}": n for n in range(10_000)}),
            pool(servers=[{"ip": n} for n in range(10_000)]),
        ):
            asked = []
            reader = Reader(lambda kind, name: asked.append(name))  # noqa: B023 - called within the turn
            kind = KINDS[document["kind"].lower()]
            self.assertRaises(Enough, reader.read, kind, ObjectId("x"), document)
            self.assertEqual(len(reader.problems), MAX_PROBLEMS)
            self.assertLessEqual(len(asked), MAX_PROBLEMS)
            self.assertEqual(len(self.problems(document)), MAX_PROBLEMS)

    def test_a_problem_reads_as_document_field_and_reason(self):
        why = self.assertRaises(InvalidConfigError, plan_change, BEFORE, [service(port=0)])
        self.assertIn(
            "\n  virtualservice www: services[0].port: it must be a whole number from 1 to 65535, not 0",
            str(why),
        )

    @settings(max_examples=200, deadline=None)
    @given(
        st.lists(
            st.dictionaries(
                st.sampled_from(
                    [
                        "kind",
                        "name",
                        "uuid",
                        "servers",
                        "vip",
                        "services",
                        "pool_ref",
                        "se_group_ref",
                        "type",
                        "http_monitor",
                        "health_monitor_refs",
                        "enrolment_networks",
                        "allowed_networks",
                        "description",
                        "routes",
                        "application_profile_ref",
                        "ssl_profile_ref",
                        "ssl_key_and_certificate_refs",
                        "http_to_https",
                        "fail_action",
                        "persistence",
                        "ca_certs",
                        "server_name",
                        "lb_algorithm_consistent_hash_hdr",
                        "certificate",
                        "key",
                        "min_scaleout_per_vs",
                        "enrolment_policy",
                        "send_interval",
                        "enabled",
                        "monitor_port",
                    ]
                ),
                st.recursive(
                    st.none()
                    | st.booleans()
                    | st.integers()
                    | st.floats()
                    | st.text()
                    | st.sampled_from(["Pool", "VirtualService", "web", "pool-1", "10.0.0.1", "image"]),
                    lambda s: (
                        st.lists(s, max_size=3)
                        | st.dictionaries(
                            st.sampled_from(
                                [
                                    "ip",
                                    "port",
                                    "addr",
                                    "type",
                                    "ip_address",
                                    "http_request",
                                    "path",
                                    "path_match",
                                    "hosts",
                                ]
                            )
                            | st.text(max_size=3),
                            s,
                            max_size=4,
                        )
                    ),
                    max_leaves=10,
                ),
            ),
            max_size=3,
        ),
        st.sampled_from([*(kind.__name__ for kind in KINDS.values()), None]),
    )
    def test_no_value_makes_it_fail_otherwise(self, values, kind):
        if kind:
            values = [{"name": f"n{n}", **value, "kind": kind} for n, value in enumerate(values)]
        try:
            plan = plan_change(BEFORE, values)
        except AvinetError as why:
            json.dumps(str(why)).encode()
            return
        for thing in plan.puts:
            msgspec.msgpack.encode(thing)


class Together(Case):
    def test_the_same_name_twice_is_refused(self):
        why = self.problems(pool("a"), pool("a"))
        self.assertEqual(why, [("name", "document 1 has this name already")])
        self.assertEqual(len(plan_change(BEFORE, [pool("ping"), service("ping", pool_ref="web")]).puts), 2)

    def test_two_documents_for_one_object_are_refused(self):
        self.assertEqual(self.paths(pool("new", uuid="pool-1"), pool("web")), ["name"])
        self.assertEqual(self.paths(pool("web"), pool("new", uuid="pool-1")), ["uuid"])

    def test_a_uuid_that_is_not_there_or_of_another_kind_is_refused(self):
        for uuid in ("pool-2", "healthmonitor-1", "web", "", 1, []):
            self.assertEqual(self.paths(pool("new", uuid=uuid)), ["uuid"], uuid)

    def test_a_uuid_renames(self):
        plan = plan_change(BEFORE, [pool("new", uuid="pool-1")])
        self.assertEqual(
            (plan.puts[0].uuid, plan.puts[0].name, plan.updated), ("pool-1", "new", ("pool/new",))
        )

    def test_the_uuid_of_another_is_no_name(self):
        self.assertEqual(self.paths(pool("pool-1")), ["name"])

    def test_a_name_that_another_has_cannot_be_taken(self):
        other = Pool(uuid=ObjectId("pool-2"), name="other")
        self.assertEqual(
            self.paths(pool("other", uuid="pool-1"), before=configuration(GROUP, WEB, other)), ["name"]
        )

    def test_what_is_the_same_is_unchanged(self):
        plan = plan_change(BEFORE, [{"kind": "Pool", "name": "web"}, pool("b")])
        self.assertEqual((plan.unchanged, plan.created), (("pool/web",), ("pool/b",)))
        self.assertTrue(plan_change(BEFORE, [{"kind": "Pool", "name": "web"}]).empty)
