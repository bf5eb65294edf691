"""The built-in profiles, through the real Site."""

from avinet.controller.api_profiles import PROFILES, profile_routes
from avinet.controller.api_schemas import components
from avinet.model.config import ApplicationProfile, SslProfile
from avinet.rest.openapi import Info, openapi
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite

from .config_kit import pool, service
from .rest_client import Known
from .test_controller_api_config import Api


class Profiles(Api):
    def setUp(self):
        super().setUp()
        routes = (*self.routes, *profile_routes())
        self.site = BoundedSite(Router(routes, self.world.clock, Known("olga")), self.world.clock)

    def test_all_that_a_reference_may_name_is_listed(self):
        for kind, profile in (("applicationprofile", ApplicationProfile), ("sslprofile", SslProfile)):
            found = self.call("GET", f"/api/{kind}")
            self.assertEqual(found["count"], len(profile))
            self.assertEqual({row["name"] for row in found["results"]}, {one.value for one in profile})

    def test_the_document_says_of_which_kinds_a_reference_may_be_left_out(self):
        self.world.apply(pool(), service())
        found = self.call("GET", "/api/pool")["results"]
        self.assertEqual([row["ssl_profile_ref"] for row in found], [None])
        schemas = components()
        for name in ("Pool", "PoolInput"):
            allowed = schemas[name]["properties"]["ssl_profile_ref"]
            self.assertEqual(allowed, {"anyOf": [{"type": "string"}, {"type": "null"}]}, name)
        self.assertEqual(schemas["VirtualService"]["properties"]["ssl_profile_ref"], {"type": "string"})

    def test_what_an_object_refers_to_can_be_fetched(self):
        self.world.apply(pool(ssl_profile_ref="System-Modern"), service())
        (made,) = self.call("GET", "/api/virtualservice")["results"]
        (behind,) = self.call("GET", "/api/pool")["results"]
        for reference in (
            made["application_profile_ref"],
            made["ssl_profile_ref"],
            behind["ssl_profile_ref"],
        ):
            url, _, name = reference.partition("#")
            one = self.call("GET", url)
            self.assertEqual((one["url"], one["name"], one["uuid"]), (url, name, name))
            self.assertTrue(one["description"])

    def test_a_list_can_be_narrowed_and_paged_as_any_other(self):
        found = self.call("GET", "/api/sslprofile?name=System-Modern&include_name=true&fields=description")
        self.assertEqual(found["count"], 1)
        self.assertEqual(sorted(found["results"][0]), ["description", "name", "url", "uuid"])
        self.assertEqual(self.call("GET", "/api/sslprofile?search=standard")["count"], 1)
        self.assertEqual(self.call("GET", "/api/sslprofile?name=mine"), {"count": 0, "results": []})
        page = self.call("GET", "/api/applicationprofile?page_size=1")
        self.assertEqual((page["count"], page["results"][0]["name"]), (2, "System-HTTP"))
        self.assertEqual(self.call("GET", page["next"])["results"][0]["name"], "System-L4-Application")
        self.problem("GET", "/api/sslprofile?fields=ciphers", status=400)

    def test_they_are_not_made_changed_or_deleted(self):
        self.problem("GET", "/api/sslprofile/mine", status=404)
        self.problem("POST", "/api/sslprofile", b'{"name": "mine"}', status=405)
        for method in ("PUT", "DELETE"):
            self.problem(method, "/api/sslprofile/System-Modern", b"{}", status=405)

    def test_they_are_described(self):
        paths = openapi(profile_routes(), Info(title="t", version="1", description="d"))["paths"]
        self.assertEqual(set(paths), {f"/api/{kind}{end}" for kind in PROFILES for end in ("", "/{uuid}")})
