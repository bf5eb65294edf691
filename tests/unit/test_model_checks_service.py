"""What must hold within a virtual service: TLS, TCP, routes."""

from avinet.model.advice import advice
from avinet.model.plan import plan_change
from avinet.model.regexes import MAX_SIZE, check_regex
from tests.unit.certificate_kit import certificate, key, key_and_certificate, rsa_key
from tests.unit.config_kit import NOW, pool, service
from tests.unit.test_model_intake import BEFORE, GROUP, MONITOR, WEB, Case, configuration

TLS = plan_change(BEFORE, [key_and_certificate()]).puts[0]
SECURED = configuration(GROUP, MONITOR, WEB, TLS)
REFS = {"ssl_key_and_certificate_refs": ["tls"]}
PORTS = [{"port": 80}, {"port": 443, "enable_ssl": True}]
TCP = {"application_profile_ref": "System-L4-Application"}


class Secured(Case):
    def wrong(self, **more):
        return self.paths(service(**more), before=SECURED)

    def test_tls_needs_a_certificate(self):
        self.assertEqual(self.wrong(services=PORTS), ["ssl_key_and_certificate_refs"])
        self.read(service(services=PORTS, **REFS), SECURED)
        self.read(service(services=PORTS[1:], **REFS, **TCP), SECURED)

    def test_a_redirect_needs_a_port_with_tls(self):
        self.assertEqual(self.wrong(http_to_https=True, **REFS), ["http_to_https"])
        self.read(service(services=PORTS, http_to_https=True, **REFS), SECURED)

    def test_a_certificate_is_there_once_and_exists(self):
        twice = {"ssl_key_and_certificate_refs": ["tls", TLS.uuid]}
        self.assertEqual(self.wrong(services=PORTS, **twice), ["ssl_key_and_certificate_refs[1]"])
        none = {"ssl_key_and_certificate_refs": ["tls", "none"]}
        self.assertEqual(self.wrong(services=PORTS, **none), ["ssl_key_and_certificate_refs[1]"])

    def test_what_is_significant_is_named_once_and_within_bounds(self):
        for policy, path in (
            ({"significant_client_errors": [404, 403, 404]}, "significant_client_errors[2]"),
            ({"significant_client_errors": [500]}, "significant_client_errors[0]"),
            ({"slow_ms": -1}, "slow_ms"),
            ({"full_client_logs": {"enabled": "yes"}}, "full_client_logs.enabled"),
            ({"full_client_logs": {"throttle": 2_000_000}}, "full_client_logs.throttle"),
        ):
            self.assertEqual(self.wrong(analytics_policy=policy), [f"analytics_policy.{path}"])
        self.read(service(analytics_policy={"slow_ms": 0, "significant_client_errors": [404]}), SECURED)

    def test_tcp_has_nothing_of_http(self):
        routes = [{"path": "/a", "pool_ref": "web"}]
        self.assertEqual(
            self.wrong(services=PORTS, routes=routes, http_to_https=True, **REFS, **TCP),
            ["routes", "http_to_https"],
        )

    def test_all_wrong_fields_are_told_at_once(self):
        found = self.wrong(
            services=PORTS,
            http_to_https=True,
            ssl_profile_ref="old",
            routes=[
                {"path": 1},
                {"path": "/a", "pool_ref": "none", "hosts": "x"},
                {"path": "/(?=a)", "path_match": "REGEX_MATCH", "pool_ref": "none", "hosts": ["a:80"]},
            ],
            colour="red",
        )
        self.assertEqual(
            set(found),
            {
                "ssl_profile_ref",
                "routes[0].path",
                "routes[0].pool_ref",
                "routes[1].pool_ref",
                "routes[1].hosts",
                # And what these fields mean, though others could not be read.
                "routes[2].path",
                "routes[2].pool_ref",
                "routes[2].hosts[0]",
                "ssl_key_and_certificate_refs",
                "colour",
            },
        )


class Routes(Case):
    def wrong(self, *routes):
        return self.paths(service(routes=[{"pool_ref": "web", **route} for route in routes]))

    def test_a_path_is_a_path(self):
        for path in ("", "a", "/a b", "/a?b", "/a#b", "/\u00e9", "/a\r\n", "http://x/"):
            self.assertEqual(self.wrong({"path": path}), ["routes[0].path"], ascii(path))
        for path in ("/", "/a/", "/a%20b", "/~x;y=1,2'()*!$&+:@"):
            self.read(service(routes=[{"path": path, "pool_ref": "web"}]))

    def test_a_host_is_a_name_an_address_or_a_name_with_a_star(self):
        good = ["a.example", "*.b.example", "10.0.0.1", "[2001:db8::1]", "localhost", "A_b.example"]
        self.read(service(routes=[{"hosts": good, "pool_ref": "web"}]))
        for host in (
            "",
            "*",
            "*.",
            "a.*",
            "*a.example",
            "a.example:80",
            "2001:db8::1",
            "http://a",
            "a b",
            "10.0.0",
        ):
            self.assertEqual(self.wrong({"hosts": ["a.example", host]}), ["routes[0].hosts[1]"], host)
        self.assertEqual(self.wrong({"hosts": ["a.example", "A.example"]}), ["routes[0].hosts[1]"])

    def test_a_route_behind_its_like_is_refused(self):
        same = {"path": "/a", "hosts": ["a.example"]}
        for first, second in (
            (same, same),
            ({"path": "/a"}, same),
            ({"path": "/a", "hosts": ["*.example"]}, same),
            ({"path": "/a", "hosts": ["A.example", "b.example"]}, same),
        ):
            self.assertEqual(self.wrong({"path": "/z"}, first, second), ["routes[2]"])
        for first, second in (
            (same, {"path": "/a"}),
            (same, {**same, "hosts": ["b.example"]}),
            (same, {**same, "path_match": "EQUALS"}),
            ({"path": "/a", "hosts": ["*.a.example"]}, same),
        ):
            routes = [{"pool_ref": "web", **route} for route in (first, second)]
            self.read(service(routes=routes))

    def test_routes_are_bounded(self):
        self.assertEqual(self.wrong(*({"path": f"/{n}"} for n in range(251))), ["routes"])
        self.assertEqual(self.wrong({"hosts": [f"h{n}.example" for n in range(101)]}), ["routes[0].hosts"])

    def test_an_expression_that_the_data_plane_would_refuse_is_refused_with_its_place(self):
        for text, said in (
            (r"/(?=x)", "at character 2: RE2 has no look-around"),
            (r"/(?<!x)y", "at character 2"),
            (r"/(a)\1", "back-references"),
            (r"/a**", "at character 4"),
            ("*a", "at character 1: there is nothing to repeat"),
            ("{2}a", "at character 1: there is nothing to repeat"),
            ("a|{2,}", "at character 3: there is nothing to repeat"),
            (r"/(a", "not closed"),
            (r"/a)", "at character 3"),
            (r"/[a", "the class is not closed"),
            (r"/[z-a]", "a range goes"),
            (r"/\Z", r"the escape \Z"),
            (r"/a{1001}", "up to 1000"),
            (r"/a{3,2}", "the larger number last"),
            (r"/((a{40}){40})", "up to 1000"),
            (r"/.{1,200}", f"takes {MAX_SIZE}"),
            ("/" + "(" * 60 + ")" * 60, "deeper"),
        ):
            ((path, why),) = self.problems(
                service(routes=[{"path": text, "path_match": "REGEX_MATCH", "pool_ref": "web"}])
            )
            self.assertEqual(path, "routes[0].path")
            self.assertIn(said, why)

    def test_expressions_that_people_use_are_taken(self):
        for text in (
            r"/api/v[0-9]+/.*",
            r"/(users|groups)/\d{1,10}(/.*)?",
            r"(?i)/.*\.(?:png|jpe?g|gif)",
            r"/[[:alpha:]_-]+/[^/]*",
            r"/(?P<name>\w+)\x2f\Q.*\E",
            r"/a{2}?b{,3}c{",
            r"^/[]a]/\p{Greek}$",
        ):
            self.assertEqual(check_regex(text), "", text)


class Said(Case):
    def said(self, *documents):
        things = plan_change(SECURED, documents).puts
        found = advice(configuration(GROUP, MONITOR, WEB, TLS, *things), [things[-1].uuid], NOW)
        return [one.path for one in found]

    def test_what_has_no_effect_is_said(self):
        self.assertEqual(self.said(service(**REFS)), ["ssl_key_and_certificate_refs"])
        self.assertEqual(self.said(service(services=PORTS, **REFS)), [])
        self.assertEqual(
            self.said(service(services=PORTS[1:], http_to_https=True, **REFS)), ["http_to_https"]
        )

    def test_a_route_that_another_takes_all_of_is_said(self):
        routes = [
            {"path": "/a", "pool_ref": "web"},
            {"path": "/ab", "pool_ref": "web"},
            {"path": "/a/b", "hosts": ["x.example"], "pool_ref": "web"},
            {"path": "/a", "path_match": "EQUALS", "pool_ref": "web"},
            {"path": "/a.*", "path_match": "REGEX_MATCH", "pool_ref": "web"},
        ]
        self.assertEqual(self.said(service(routes=routes)), ["routes[2]", "routes[3]"])
        routes = [
            {"path": "/", "pool_ref": "web"},
            {"path": "/.*", "path_match": "REGEX_MATCH", "pool_ref": "web"},
        ]
        self.assertEqual(self.said(service(routes=routes)), ["routes[1]"])

    def test_certificates_of_the_same_names_are_said_unless_their_keys_are_of_two_kinds(self):
        both = {"ssl_key_and_certificate_refs": ["tls", "two"]}
        again = key_and_certificate("two", certificate("www.example", private=key(1)), key(1))
        self.assertEqual(
            self.said(again, service(services=PORTS, **both)), ["ssl_key_and_certificate_refs[1]"]
        )
        private = rsa_key(2048)
        other = key_and_certificate("two", certificate(private=private), private)
        self.assertEqual(self.said(other, service(services=PORTS, **both)), [])
        more = key_and_certificate("two", certificate(names=["www.example", "b.example"]))
        self.assertEqual(self.said(more, service(services=PORTS, **both)), [])

    def test_a_virtual_service_with_an_expired_certificate_is_said(self):
        old = key_and_certificate("old", certificate("old.example", days=(-9, -1)))
        both = {"ssl_key_and_certificate_refs": ["tls", "old"]}
        self.assertEqual(self.said(old, service(services=PORTS, **both)), ["ssl_key_and_certificate_refs[1]"])

    def test_what_is_said_is_bounded(self):
        many = [pool(f"p{n}", ssl_profile_ref="System-Modern") for n in range(60)]
        things = plan_change(BEFORE, many).puts
        found = advice(configuration(*things), [thing.uuid for thing in things], NOW)
        self.assertEqual(len(found), 50)
