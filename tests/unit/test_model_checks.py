"""What must hold within an object and among all of them."""

from avinet.model.config import (
    CertificateText,
    Pool,
    Route,
    ServiceEngineGroup,
    SSLKeyAndCertificate,
    VirtualService,
)
from avinet.model.ids import ObjectId
from avinet.model.plan import plan_change
from tests.unit.config_kit import pool, service
from tests.unit.test_model_intake import BEFORE, GROUP, MONITOR, WEB, Case, configuration


def monitor(**more):
    return {"kind": "HealthMonitor", "name": "m", **more}


def group(**more):
    return {"kind": "ServiceEngineGroup", "name": "g", **more}


class Objects(Case):
    def test_a_virtual_service_needs_addresses_and_ports_each_once(self):
        self.assertEqual(self.paths(service(vip=[])), ["vip"])
        self.assertEqual(self.paths(service(services=[])), ["services"])
        self.assertEqual(self.paths(service(services=[{"port": 80}, {"port": 80}])), ["services[1]"])
        twice = [{"ip_address": "192.0.2.1"}, {"ip_address": "192.0.2.1"}]
        self.assertEqual(self.paths(service(vip=twice)), ["vip[1]"])
        self.assertEqual(self.paths(service(services=[{"port": n} for n in range(1, 66)])), ["services"])

    def test_a_virtual_service_answers_on_addresses_not_names(self):
        self.assertEqual(self.paths(service(address="www.example")), ["vip[0].ip_address"])

    def test_a_server_is_in_a_pool_once(self):
        twice = [{"ip": "10.0.0.1", "port": 80}, {"ip": "10.0.0.1", "port": 80}]
        self.assertEqual(self.paths(pool(servers=twice)), ["servers[1]"])
        self.assertEqual(
            len(self.read(pool(servers=[*twice[:1], {"ip": "10.0.0.1", "port": 81}])).servers), 2
        )
        spelled = [{"ip": "2001:db8::1", "port": 80}, {"ip": "2001:DB8:0::1", "port": 80}]
        self.assertEqual(self.paths(pool(servers=spelled)), ["servers[1]"])

    def test_a_monitor_is_referred_to_once(self):
        self.assertEqual(self.paths(pool(health_monitor_refs=["ping", "ping"])), ["health_monitor_refs[1]"])

    def test_a_pool_has_a_bounded_number_of_servers(self):
        many = [{"ip": f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", "port": 80} for n in range(2001)]
        self.assertEqual(self.paths(pool(servers=many)), ["servers"])

    def test_checks_must_not_overlap(self):
        self.assertEqual(self.paths(monitor(send_interval=2, receive_timeout=3)), ["receive_timeout"])
        self.read(monitor(send_interval=3, receive_timeout=3))
        self.assertEqual(self.paths(monitor(send_interval=60, receive_timeout=21)), ["receive_timeout"])
        self.read(monitor(send_interval=60, receive_timeout=20))

    def test_an_http_monitor_asks_with_a_method_and_a_path(self):
        path = "http_monitor.http_request"
        for text in (
            "",
            "GET",
            "GET health",
            "POST / HTTP/1.1",
            "GET / HTTP/2",
            "GET /a b",
            "GET /\r\nX: y",
            "GET /\u00e9",
        ):
            self.assertEqual(self.paths(monitor(http_monitor={"http_request": text})), [path], ascii(text))
        for text in ("GET /", "HEAD /health?x=1 HTTP/1.0", "OPTIONS /a HTTP/1.1"):
            self.read(monitor(http_monitor={"http_request": text}))

    def test_an_http_monitor_takes_codes_and_classes(self):
        path = "http_monitor.http_response_code"
        for codes, at in (
            ([], path),
            (["HTTP_6XX"], f"{path}[0]"),
            (["200", "99"], f"{path}[1]"),
            (["2xx"], f"{path}[0]"),
            (["600"], f"{path}[0]"),
        ):
            self.assertEqual(self.paths(monitor(http_monitor={"http_response_code": codes})), [at])
        self.read(monitor(http_monitor={"http_response_code": ["HTTP_1XX", "204", "599"]}))

    def test_a_tcp_monitor_has_no_request(self):
        self.assertEqual(self.paths(monitor(type="HEALTH_MONITOR_TCP", http_monitor={})), ["http_monitor"])

    def test_a_group_has_a_sensible_size_and_networks(self):
        self.assertEqual(
            self.paths(group(min_scaleout_per_vs=3, max_scaleout_per_vs=2)), ["min_scaleout_per_vs"]
        )
        for network in ("", "10.0.0.1/8", "10.0.0.0/33", "x", "fe80::%a", "10.0.0.0/8,::/0", '10.0.0.0/8"'):
            for field in ("allowed_networks", "enrolment_networks"):
                self.assertEqual(
                    self.paths(group(**{field: ["10.0.0.0/8", network]})), [f"{field}[1]"], network
                )
        self.read(group(allowed_networks=["10.0.0.0/8", "2001:db8::/32", "192.0.2.1"]))

    def test_an_interface_must_have_a_name_that_linux_takes(self):
        for name in ("eth0:1", "a/b", "..", "-x", "sixteen-letters-", "a b"):
            self.assertEqual(self.paths(group(vip_interface=name)), ["vip_interface"], name)
        self.read(group(vip_interface="br-lan.100"))

    def test_enrolment_by_image_alone_needs_networks_and_a_count(self):
        self.assertEqual(
            self.paths(group(enrolment_policy="image")), ["enrolment_networks", "enrolment_count"]
        )
        self.read(group(enrolment_policy="image", enrolment_networks=["10.0.0.0/8"], enrolment_count=3))


class Addresses(Case):
    def test_one_address_and_port_twice_is_refused_naming_the_other(self):
        why = self.problems(service("one"), service("two"))
        self.assertEqual(
            why, [("services[0].port", "192.0.2.1 port 80 belongs to virtual service 'one' already")]
        )

    def test_the_changed_one_is_blamed_whatever_the_names(self):
        there = plan_change(BEFORE, [service("m")]).puts[0]
        before = configuration(GROUP, WEB, there)
        for name in ("a", "z"):
            ((path, text),) = self.problems(service(name), before=before)
            self.assertEqual(path, "services[0].port")
            self.assertIn("'m'", text)

    def test_another_spelling_is_the_same_address(self):
        self.assertEqual(
            len(self.problems(service("a", address="2001:db8::1"), service("b", address="2001:DB8:0:0::1"))),
            1,
        )

    def test_what_is_added_to_an_interface_can_be_there(self):
        mine = {"se_group_ref": "g"}
        for address in ("127.0.0.9", "0.0.0.0", "::"):
            found = self.paths(group(vip_interface="eth0"), service(address=address, **mine))
            self.assertEqual(found, ["vip[0].ip_address"], address)
            plan = plan_change(BEFORE, [group(), service(address=address, **mine)])
            before = configuration(GROUP, MONITOR, WEB, *plan.puts)
            self.assertEqual(
                self.paths(group(vip_interface="eth0"), before=before), ["vip_interface"], address
            )
        plan_change(BEFORE, [group(vip_interface="eth0"), service(**mine)])
        # These every host has: nothing is added.
        for address in ("127.0.0.1", "::1"):
            plan_change(BEFORE, [group(vip_interface="eth0"), service(address=address, **mine)])

    def test_another_port_another_address_or_a_disabled_one_is_fine(self):
        plan_change(
            BEFORE,
            [service("a"), service("b", 81), service("c", address="192.0.2.2"), service("d", enabled=False)],
        )

    def test_enabling_the_second_is_refused(self):
        things = plan_change(BEFORE, [service("a"), service("d", enabled=False)]).puts
        before = configuration(GROUP, WEB, *things)
        self.assertEqual(self.paths(service("d"), before=before), ["services[0].port"])

    def test_two_may_swap_their_ports_in_one_change(self):
        things = plan_change(BEFORE, [service("a", 80), service("b", 81)]).puts
        before = configuration(GROUP, WEB, *things)
        self.assertEqual(len(plan_change(before, [service("a", 81), service("b", 80)]).updated), 2)
        self.assertEqual(self.paths(service("a", 81), before=before), ["services[0].port"])


class Deletes(Case):
    def test_what_is_referred_to_stays_and_who_refers_is_named(self):
        made = plan_change(BEFORE, [service(), pool("other", health_monitor_refs=["ping"])]).puts
        before = configuration(GROUP, MONITOR, WEB, *made)
        ((_, why),) = self.problems(before=before, deletes=[WEB.uuid])
        self.assertIn("virtualservice 'www' refers to it (pool_ref)", why)
        ((_, why),) = self.problems(before=before, deletes=[MONITOR.uuid])
        self.assertIn("pool 'other' refers to it (health_monitor_refs[0])", why)

    def test_routes_and_certificates_are_uses_too(self):
        certificate = SSLKeyAndCertificate(
            uuid=ObjectId("sslkeyandcertificate-1"),
            name="tls",
            certificate=CertificateText(certificate="c"),
            key="k",
        )
        routes = (Route(path="/a", pool_ref=WEB.uuid), Route(path="/b", pool_ref=ObjectId("pool-2")))
        www = VirtualService(
            uuid=ObjectId("virtualservice-1"),
            name="www",
            vip=(),
            services=(),
            pool_ref=WEB.uuid,
            routes=routes,
            ssl_key_and_certificate_refs=(certificate.uuid,),
            se_group_ref=GROUP.uuid,
        )
        api = Pool(uuid=ObjectId("pool-2"), name="api", ssl_key_and_certificate_ref=certificate.uuid)
        before = configuration(GROUP, WEB, api, www, certificate)
        why = "it cannot be deleted: virtualservice 'www' refers to it"
        told = [text for _, text in self.problems(before=before, deletes=[api.uuid, certificate.uuid])]
        # The pool goes too, so it is no user of the certificate.
        self.assertEqual(told, [f"{why} (routes[1].pool_ref)", f"{why} (ssl_key_and_certificate_refs[0])"])

    def test_both_can_go_together(self):
        made = plan_change(BEFORE, [service()]).puts[0]
        plan = plan_change(configuration(GROUP, WEB, made), [], [WEB.uuid, made.uuid])
        self.assertEqual(set(plan.deleted), {"pool/web", "virtualservice/www"})

    def test_a_deleted_pool_cannot_be_referred_to_in_the_same_change(self):
        self.assertEqual(len(self.problems(service(), deletes=[WEB.uuid])), 1)

    def test_the_default_group_stays(self):
        other = ServiceEngineGroup(uuid=ObjectId("serviceenginegroup-2"), name="other")
        ((_, why),) = self.problems(before=configuration(GROUP, other), deletes=[GROUP.uuid])
        self.assertIn("built in", why)
        plan_change(configuration(GROUP, other), [], [other.uuid])

    def test_the_default_group_keeps_its_name(self):
        renamed = {"kind": "ServiceEngineGroup", "name": "mine", "uuid": GROUP.uuid}
        self.assertEqual(self.paths(renamed), ["name"])
