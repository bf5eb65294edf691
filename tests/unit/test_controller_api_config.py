"""The operator's routes for configuration, through the real Site."""

import json

from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_absent import absent_routes
from avinet.controller.api_config import QUICK_BYTES, ConfigApi
from avinet.model.config import KINDS
from avinet.model.documents import MAX_BYTES
from avinet.rest.openapi import Info, openapi
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from tests.unit.config_kit import World, pool, service
from tests.unit.rest_client import Connection, Known, request_bytes

YAML = """\
kind: Pool
name: web
servers:
  - {ip: 10.0.0.1, port: 8080}
health_monitor_refs: [System-HTTP]
---
kind: VirtualService
name: www
vip: [{ip_address: 192.0.2.1}]
services: [{port: 80}]
pool_ref: web
"""


class Api(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.world.start_sync()
        config = self.world.config
        self.threads = []

        def in_thread(function, *args):
            self.threads.append(function)
            return execute(function, *args)

        self.routes = ConfigApi(config, self.world.sync, self.world, in_thread).routes()
        router = Router((*self.routes, *absent_routes()), self.world.clock, Known("olga"))
        self.site = BoundedSite(router, self.world.clock)

    def begin(self, method, path, body=None, headers=None, content_type="application/json"):
        connection = Connection(self.site)
        connection.send(request_bytes(method, path, body, headers, content_type))
        return connection

    def call(self, *args, status=200, **kwargs):
        answer = self.begin(*args, **kwargs).answer()
        self.assertEqual(answer.status, status, answer.body)
        return answer.json if answer.body else None

    def apply(self, text, content_type="application/yaml", query="", status=200):
        body = text if isinstance(text, bytes) else text.encode()
        return self.call("POST", f"/api/config{query}", body, content_type=content_type, status=status)

    def problem(self, *args, status, **kwargs):
        answer = self.begin(*args, **kwargs).answer()
        self.assertEqual(answer.status, status, answer.body)
        self.assertEqual(answer.headers["content-type"], "application/problem+json")
        return answer.json


class HalfCharacters(Api):
    def test_what_has_one_in_it_is_answered_all_the_same(self):
        for body in (b'{"name":"\\ud800"}', b'{"name":"q","\\ud800":1}'):
            self.call("POST", "/api/pool", body, status=400)


class Lists(Api):
    def test_a_new_cluster_has_what_the_system_brings(self):
        self.assertEqual(self.call("GET", "/api/pool"), {"count": 0, "results": []})
        names = [row["name"] for row in self.call("GET", "/api/healthmonitor")["results"]]
        self.assertEqual(names, ["System-HTTP", "System-TCP"])
        self.assertEqual(self.call("GET", "/api/serviceenginegroup")["results"][0]["name"], "Default-Group")

    def test_a_list_can_be_narrowed_to_a_name_and_paged(self):
        self.world.apply(*(pool(f"p{n}") for n in range(5)))
        found = self.call("GET", "/api/pool?name=p3&include_name=true")
        self.assertEqual((found["count"], found["results"][0]["name"]), (1, "p3"))
        page = self.call("GET", "/api/pool?page=2&page_size=2")
        self.assertEqual((page["count"], [row["name"] for row in page["results"]]), (5, ["p2", "p3"]))
        self.assertEqual(page["next"], "/api/pool?page=3&page_size=2")
        last = self.call("GET", page["next"])
        self.assertEqual([row["name"] for row in last["results"]], ["p4"])
        self.assertNotIn("next", last)
        self.assertEqual(self.call("GET", "/api/pool?page=9")["results"], [])
        for query in ("page=0", "page_size=0", "page_size=1001", "page=x", "fields=nam", "surprise=1"):
            self.call("GET", f"/api/pool?{query}", status=400)

    def test_a_list_can_be_narrowed_by_fields(self):
        self.world.apply(pool("web"), pool("mail"), {**service("front"), "pool_ref": "web"})
        names = lambda query: [row["name"] for row in self.call("GET", f"/api/{query}")["results"]]
        self.assertEqual(names("pool?search=AI"), ["mail"])
        self.assertEqual(names("pool?search=(name,we)"), ["web"])
        uuid = self.call("GET", "/api/pool/web")["uuid"]
        for wanted in ("web", uuid, f"/api/pool/{uuid}", "/api/pool?name=web".replace("?", "%3F")):
            self.assertEqual(names(f"virtualservice?pool_ref={wanted}"), ["front"])
        self.assertEqual(names("virtualservice?pool_ref=mail"), [])
        self.assertEqual(names("virtualservice?enabled=false"), [])
        self.assertEqual(names("virtualservice?enabled=true&page_size=1"), ["front"])
        (row,) = self.call("GET", "/api/pool?name=web&fields=servers")["results"]
        self.assertEqual(set(row), {"uuid", "url", "name", "servers"})

    def test_the_next_page_is_of_the_same_list(self):
        self.world.apply(*(pool(f"p{n}") for n in range(4)), pool("q"))
        page = self.call("GET", "/api/pool?search=p&page_size=3")
        self.assertEqual(page["count"], 4)
        self.assertEqual([row["name"] for row in self.call("GET", page["next"])["results"]], ["p3"])

    def test_what_is_not_offered_says_what_is(self):
        self.world.apply(pool("web"))
        self.assertIn("PUT", self.call("PATCH", "/api/pool/web", {}, status=400)["detail"])

    def test_a_query_that_is_none_is_refused(self):
        self.problem("GET", "/api/pool?page=many", status=400)
        self.problem("GET", "/api/pool?colour=red", status=400)
        self.problem("GET", "/api/teapot", status=404)


class Objects(Api):
    def setUp(self):
        super().setUp()
        self.apply(YAML)

    def one(self, path="/api/pool/web"):
        return self.call("GET", path)

    def test_an_object_has_the_shape_of_the_avi_api(self):
        web = self.one()
        self.assertRegex(web["uuid"], r"^pool-[0-9a-f-]{36}$")
        self.assertEqual(web["url"], f"/api/pool/{web['uuid']}")
        self.assertRegex(web["_last_modified"], r"^\d{16}$")
        self.assertEqual(web["tenant_ref"], "/api/tenant/admin#admin")
        self.assertEqual(web["servers"][0]["ip"], {"addr": "10.0.0.1", "type": "V4"})
        monitor = self.one("/api/healthmonitor/System-HTTP")["uuid"]
        self.assertEqual(web["health_monitor_refs"], [f"/api/healthmonitor/{monitor}#System-HTTP"])
        www = self.one("/api/virtualservice/www")
        self.assertEqual(www["pool_ref"], f"/api/pool/{web['uuid']}#web")
        self.assertRegex(www["se_group_ref"], r"^/api/serviceenginegroup/.*#Default-Group$")

    def test_an_object_is_found_by_uuid_and_by_name(self):
        self.assertEqual(self.one(), self.one(f"/api/pool/{self.one()['uuid']}"))
        self.assertEqual(self.problem("GET", "/api/pool/none", status=404)["reason"], "object-not-found")
        self.problem("GET", f"/api/virtualservice/{self.one()['uuid']}", status=404)

    def test_every_kind_that_is_shown_can_be_sent_back_unchanged(self):
        for kind in KINDS:
            for row in self.call("GET", f"/api/{kind}")["results"]:
                version = self.world.config.current.version
                self.assertEqual(self.call("PUT", f"/api/{kind}/{row['uuid']}", row), row)
                self.assertEqual(self.world.config.current.version, version)

    def test_a_name_with_odd_characters_can_be_referred_to(self):
        self.call("POST", "/api/pool", pool("a b#c?d&\u00e9"), status=201)
        www = self.one("/api/virtualservice/www")
        made = self.call("PUT", "/api/virtualservice/www", {**www, "pool_ref": "a b#c?d&\u00e9"})
        self.assertEqual(self.call("PUT", "/api/virtualservice/www", made), made)

    def test_a_post_creates_once(self):
        made = self.call("POST", "/api/pool", {"name": "other"}, status=201)
        self.assertEqual(self.one("/api/pool/other"), made)
        again = self.problem("POST", "/api/pool", {"name": "other"}, status=409)
        self.assertEqual(again["reason"], "object-exists")
        answer = self.begin("GET", "/api/pool/other").answer()
        self.assertEqual(answer.headers["etag"], f'"{made["_last_modified"]}"')

    def test_a_post_in_the_wrong_place_is_refused(self):
        self.assertEqual(self.problem("POST", "/api/pool", service(), status=400)["where"], "kind")
        self.problem("POST", "/api/pool", {"kind": 1, "name": "x"}, status=400)

    def test_a_put_needs_to_say_what_it_is_based_on(self):
        web = self.one()
        body = {**web, "description": "new"}
        del body["_last_modified"]
        why = self.problem("PUT", "/api/pool/web", body, status=428)
        self.assertEqual(why["reason"], "version-required")

    def test_a_put_based_on_what_is_there_replaces(self):
        web = self.one()
        made = self.call("PUT", "/api/pool/web", {**web, "description": "new"})
        self.assertEqual(made["description"], "new")
        self.assertGreater(int(made["_last_modified"]), int(web["_last_modified"]))
        self.assertEqual(made["uuid"], web["uuid"])

    def test_a_put_based_on_something_older_is_stale(self):
        web = self.one()
        self.call("PUT", "/api/pool/web", {**web, "description": "mine"})
        why = self.problem("PUT", "/api/pool/web", {**web, "description": "yours"}, status=412)
        self.assertEqual(why["reason"], "stale")
        self.assertEqual(self.one()["description"], "mine")

    def test_if_match_does_for_last_modified_and_wins_over_it(self):
        web = self.one()
        body = {"name": "web", "description": "1"}
        match = {"If-Match": f'"{web["_last_modified"]}"'}
        self.call("PUT", "/api/pool/web", body, match)
        self.problem("PUT", "/api/pool/web", body, match, status=412)
        now = self.one()
        self.problem("PUT", "/api/pool/web", now, match, status=412)
        self.call("PUT", "/api/pool/web", {"name": "web"}, {"If-Match": f'W/"{now["_last_modified"]}"'})
        self.call("PUT", "/api/pool/web", {"name": "web", "description": "2"}, {"If-Match": "*"})

    def test_a_put_of_what_is_not_there_is_not_found(self):
        self.problem("PUT", "/api/pool/none", {"name": "none"}, {"If-Match": "*"}, status=404)

    def test_a_put_can_rename_and_references_follow(self):
        web = self.one()
        self.call("PUT", "/api/pool/web", {**web, "name": "new"})
        self.assertEqual(self.one("/api/virtualservice/www")["pool_ref"], f"/api/pool/{web['uuid']}#new")

    def test_an_object_in_use_is_not_deleted_and_who_uses_it_is_named(self):
        why = self.problem("DELETE", "/api/pool/web", status=409)
        self.assertEqual(why["reason"], "object-in-use")
        self.assertIn("virtualservice 'www' refers to it", why["detail"])
        self.call("DELETE", "/api/virtualservice/www")
        self.call("DELETE", "/api/pool/web")
        self.problem("DELETE", "/api/pool/web", status=404)

    def test_a_delete_can_name_its_version(self):
        self.problem("DELETE", "/api/virtualservice/www", headers={"If-Match": '"1"'}, status=412)
        now = self.one("/api/virtualservice/www")["_last_modified"]
        self.call("DELETE", "/api/virtualservice/www", headers={"If-Match": f'"{now}"'})

    def test_the_built_in_group_stays(self):
        self.call("DELETE", "/api/virtualservice/www")
        why = self.problem("DELETE", "/api/serviceenginegroup/Default-Group", status=400)
        self.assertIn("built in", why["detail"])

    def test_every_wrong_field_is_named_by_path(self):
        body = {
            "name": "bad",
            "servers": [{"ip": "10.0.0.300", "port": 0}, {"port": 80}],
            "health_monitor_refs": ["none"],
            "colour": "red",
        }
        why = self.problem("POST", "/api/pool", body, status=400)
        self.assertEqual(why["reason"], "invalid-config")
        self.assertEqual(
            {p["path"] for p in why["problems"]},
            {"servers[0].ip", "servers[0].port", "servers[1].ip", "health_monitor_refs[0]", "colour"},
        )
        for problem in why["problems"]:
            self.assertEqual(set(problem), {"document", "kind", "name", "path", "why"})
            self.assertEqual((problem["document"], problem["kind"], problem["name"]), (1, "pool", "bad"))

    def test_bodies_that_are_no_object_are_refused(self):
        for body in (b"", b"[]", b"1", b"{", b'{"name": "\xff"}', b"[" * 50_000):
            self.problem("POST", "/api/pool", body, status=400)
        self.problem("POST", "/api/pool", b"{}", content_type="text/html", status=415)
        self.problem("POST", "/api/pool", b" " * (1024 * 1024 + 1), status=413)

    def test_a_full_disk_is_507_and_changes_nothing(self):
        from twisted.internet.defer import fail

        from avinet.store.interface import StoreFullError

        self.world.store.transact = lambda *args: fail(StoreFullError(where="here", detail="full"))
        before = self.call("GET", "/api/pool")
        self.problem("POST", "/api/pool", {"name": "x"}, status=507)
        self.assertEqual(self.call("GET", "/api/pool"), before)


class Applying(Api):
    def test_yaml_of_many_documents_is_one_version(self):
        self.assertEqual(
            self.apply(YAML),
            {
                "version": 2,
                "created": ["pool/web", "virtualservice/www"],
                "updated": [],
                "deleted": [],
                "unchanged": [],
            },
        )
        again = self.apply(YAML.replace("8080", "8081"), "text/plain; charset=utf-8")
        self.assertEqual((again["version"], again["updated"]), (3, ["pool/web"]))
        self.assertEqual(again["unchanged"], ["virtualservice/www"])
        self.assertEqual(self.apply(YAML.replace("8080", "8081"))["version"], 3)

    def test_json_is_a_list_or_one_object(self):
        both = json.dumps([pool(), service()])
        self.assertEqual(len(self.apply(both, "application/json")["created"]), 2)
        self.assertEqual(self.apply(json.dumps(pool("b")), "application/json")["created"], ["pool/b"])
        self.assertEqual(self.apply(json.dumps(pool("c")), "application/yaml")["created"], ["pool/c"])

    def test_a_dry_run_tells_and_changes_nothing(self):
        told = self.apply(YAML, query="?dry_run=true")
        self.assertEqual((told["version"], len(told["created"])), (1, 2))
        self.assertEqual(self.call("GET", "/api/pool")["count"], 0)
        self.problem("POST", "/api/config?dry_run=maybe", b"", content_type="text/yaml", status=400)

    def test_a_dry_run_finds_what_is_wrong(self):
        why = self.apply(YAML.replace("pool_ref: web", "pool_ref: other"), query="?dry_run=true", status=400)
        self.assertEqual(why["problems"][0]["path"], "pool_ref")

    def test_one_wrong_document_keeps_all_from_being_applied(self):
        why = self.apply(YAML.replace("port: 80}", "port: 80000}"), status=400)
        self.assertEqual(
            [(p["document"], p["kind"], p["name"], p["path"]) for p in why["problems"]],
            [(2, "virtualservice", "www", "services[0].port")],
        )
        self.assertEqual(self.call("GET", "/api/pool")["count"], 0)

    def test_text_that_is_no_documents_is_refused_with_its_place(self):
        for text, said in (
            ("", "no document"),
            ("- a\n- b\n", "a list"),
            ("kind: [", "line 1, column 8"),
            ("a: 1\na: 2\n", "twice"),
            ("a: &x 1\nb: *x\n", "aliases"),
            (b"kind: \xff", "UTF-8"),
        ):
            self.assertIn(said, self.apply(text, status=400)["detail"])
        for text in ("", "[]", "[1]", "null", "{", "[" * 50_000):
            self.assertEqual(self.apply(text, "application/json", status=400)["reason"], "document")

    def test_text_is_read_in_a_thread(self):
        self.apply(YAML)
        self.assertEqual([function.__name__ for function in self.threads], ["documents_of", "advice_on"])

    def test_a_little_json_is_read_at_once(self):
        small, large = (json.dumps([pool("web", description="d" * size)]) for size in (10, QUICK_BYTES))
        self.apply(small, "application/json")
        self.assertEqual(self.threads, [])
        self.apply(large, "application/json", status=400)
        self.assertEqual(len(self.threads), 1)

    def test_a_pool_of_two_thousand_servers_is_taken(self):
        servers = [
            {"ip": f"10.1.{n // 250}.{n % 250}", "port": 80, "hostname": "h" * 40} for n in range(2000)
        ]
        self.call("POST", "/api/pool", {"name": "big", "servers": servers}, status=201)

    def test_what_is_too_large_or_of_another_type_is_refused(self):
        self.apply(b"#" * (MAX_BYTES + 1), status=413)
        self.apply(YAML, "application/xml", status=415)


class History(Api):
    """What was, what differs, and back."""

    def setUp(self):
        super().setUp()
        self.machine = self.world.engine("1")
        self.apply(YAML, query="?note=first")
        self.machine.apply_all()
        self.apply(YAML.replace("8080", "8081"))
        self.machine.apply_all()

    def test_versions_are_listed_newest_first_and_paged(self):
        page = self.call("GET", "/api/config/versions?limit=2")
        self.assertEqual((page["count"], page["oldest"]), (3, 1))
        self.assertEqual([row["version"] for row in page["results"]], [3, 2])
        self.assertEqual(page["results"][0]["updated"], ["pool/web"])
        first = page["results"][1]
        self.assertEqual((first["author"], first["note"], first["objects"]), ("olga", "first", 2))
        rest = self.call("GET", page["next"])
        self.assertEqual([row["version"] for row in rest["results"]], [1])
        self.assertIsNone(rest["next"])

    def test_a_version_tells_field_by_field_what_it_changed_or_the_whole(self):
        shown = self.call("GET", "/api/config/versions/3")
        (change,) = shown["changes"]
        self.assertEqual((change["name"], change["change"]), ("web", "updated"))
        self.assertEqual(change["fields"][0]["path"], "servers[10.0.0.1:8080]")
        whole = self.call("GET", "/api/config/versions/2?whole=true")["whole"]
        (web,) = [one for one in whole if one["name"] == "web"]
        self.assertEqual((web["kind"], web["servers"][0]["port"]), ("pool", 8080))
        for path, status in (("4", 404), ("0", 410), ("x", 400), ("9" * 19, 400), ("%C2%B2", 400)):
            self.problem("GET", f"/api/config/versions/{path}", status=status)

    def test_what_is_whole_can_be_applied_again(self):
        whole = self.call("GET", "/api/config/versions/2?whole=true")["whole"]
        self.assertEqual(self.apply(json.dumps(whole), "application/json")["updated"], ["pool/web"])
        self.assertEqual(self.call("GET", "/api/config/diff?before=2")["changes"], [])

    def test_versions_are_compared(self):
        found = self.call("GET", "/api/config/diff?before=1&after=2")
        self.assertEqual([one["name"] for one in found["changes"]], ["web", "www"])
        self.assertEqual((found["before"], found["after"]), (1, 2))
        back = self.call("GET", "/api/config/diff?before=3&after=1")["changes"]
        self.assertEqual({one["change"] for one in back}, {"deleted"})

    def test_documents_are_compared_with_what_is_in_force_and_engines_named(self):
        self.world.engine("2", group="other")
        text = YAML.replace("8080", "9090").encode()
        found = self.call("POST", "/api/config/diff", text, content_type="application/yaml")
        self.assertEqual([one["name"] for one in found["changes"]], ["web"])
        (engine,) = found["service_engines"]
        self.assertEqual((engine["name"], engine["set"], engine["removed"]), ("1", ["pool/web"], []))
        self.assertEqual(self.call("GET", "/api/config/versions")["count"], 3)
        dry = self.apply(text, query="?dry_run=true")
        self.assertEqual(dry["service_engines"], found["service_engines"])
        gone = self.apply(YAML.replace("pool_ref", "enabled: false\npool_ref"), query="?dry_run=true")
        self.assertIn("virtualservice/www", gone["service_engines"][0]["removed"])

    def test_back_to_a_version(self):
        path = "/api/config/versions/2/rollback"
        dry = self.call("POST", f"{path}?dry_run=true", b"{}")
        self.assertEqual((dry["version"], dry["updated"]), (3, ["pool/web"]))
        self.assertEqual(dry["service_engines"][0]["set"], ["pool/web"])
        done = self.call("POST", f"{path}?note=back", b"{}")
        self.assertEqual((done["version"], done["updated"]), (4, ["pool/web"]))
        self.machine.apply_all()
        self.assertEqual(self.call("GET", "/api/pool/web")["servers"][0]["port"], 8080)
        row = self.call("GET", "/api/config/versions?limit=1")["results"][0]
        self.assertEqual((row["rolled_back_to"], row["note"], row["author"]), (2, "back", "olga"))

    def test_two_operators(self):
        self.apply(YAML, query="?expect_version=2", status=412)
        pair = self.begin(
            "POST", "/api/config", YAML.encode(), {"If-Match": '"2"'}, "application/yaml"
        ).answer()
        self.assertEqual((pair.status, pair.json["now"]), (412, 3))
        self.assertIn("version 3 by olga (updated pool/web)", pair.json["detail"])
        self.assertEqual(self.apply(YAML, query="?expect_version=3")["version"], 4)
        self.problem("POST", "/api/config/versions/2/rollback?expect_version=3", b"{}", status=412)
        self.apply(YAML, query="?expect_version=-1", status=400)

    def test_a_note_is_kept_with_a_deletion_too(self):
        self.call("DELETE", "/api/virtualservice/www?note=unused")
        row = self.call("GET", "/api/config/versions?limit=1")["results"][0]
        self.assertEqual((row["deleted"], row["note"]), (["virtualservice/www"], "unused"))


class Status(Api):
    def setUp(self):
        super().setUp()
        self.apply(YAML)

    def status(self, query="", **more):
        return self.call("GET", f"/api/config/status{query}", **more)

    def test_without_engines_all_is_settled(self):
        now = self.status()
        self.assertEqual((now["version"], now["in_sync"], now["service_engines"]), (2, True, []))

    def test_each_engine_tells_where_it_stands(self):
        machine = self.world.engine("1")
        row = self.status()["service_engines"][0]
        self.assertEqual((row["name"], row["stand"]), ("1", "sending"))
        self.assertEqual(self.status()["stragglers"][0]["name"], "1")
        machine.apply()
        now = self.status()
        row = now["service_engines"][0]
        self.assertEqual(row["stand"], "in-sync")
        self.assertEqual((now["in_sync"], now["stragglers"]), (True, []))
        machine.leave()
        self.assertEqual(self.status()["service_engines"][0]["stand"], "away")

    def test_a_refusal_is_told_with_its_reason_and_next_try(self):
        machine = self.world.engine("1")
        machine.refuse(text="port 80 is taken")
        row = self.status()["service_engines"][0]
        self.assertEqual((row["stand"], row["why"]), ("waiting", "port 80 is taken"))

    def test_the_times_of_a_version_are_told(self):
        first, second = self.world.engine("1"), self.world.engine("2")
        for machine in (first, second):
            machine.apply()
        self.apply(YAML.replace("8080", "8081"))
        self.world.clock.advance(0.5)
        first.apply()
        newest = self.status()["versions"][0]
        self.assertEqual((newest["version"], newest["acks"], newest["missing"]), (3, 1, ["2"]))
        self.assertIsNone(newest["last_s"])
        self.world.clock.advance(1.5)
        second.apply()
        newest = self.status()["versions"][0]
        self.assertAlmostEqual(newest["p50_s"], 2.0, places=3)
        self.assertAlmostEqual(newest["last_s"], 2.0, places=3)
        self.assertEqual(newest["missing"], [])

    def test_a_wait_ends_when_the_last_engine_has_it(self):
        machines = [self.world.engine("1"), self.world.engine("2")]
        waiting = self.begin("GET", "/api/config/status?wait=2&timeout=30")
        self.assertEqual(waiting.transport.value(), b"")
        machines[0].apply()
        self.assertEqual(waiting.transport.value(), b"")
        machines[1].apply()
        answer = waiting.answer()
        self.assertEqual((answer.status, answer.json["in_sync"]), (200, True))

    def test_a_wait_for_what_is_there_answers_at_once(self):
        self.world.engine("1").apply()
        self.assertTrue(self.status("?wait=1&timeout=0")["in_sync"])

    def test_a_wait_that_is_too_long_names_the_stragglers(self):
        self.world.engine("1").apply()
        self.world.engine("slow")
        waiting = self.begin("GET", "/api/config/status?wait=2&timeout=5")
        self.world.clock.pump([1.0] * 6)
        answer = waiting.answer()
        self.assertEqual(answer.status, 504)
        self.assertEqual(answer.json["reason"], "not-in-sync")
        self.assertEqual(answer.json["waiting"], "slow (sending)")

    def test_a_wait_does_not_wait_for_engines_that_are_away(self):
        self.world.engine("1").leave()
        self.world.clock.advance(0.1)
        self.assertTrue(self.status("?wait=2")["in_sync"])

    def test_a_version_that_there_is_not_is_not_waited_for(self):
        answer = self.begin("GET", "/api/config/status?wait=99&timeout=2").answer()
        self.assertEqual((answer.status, answer.json["newest"]), (404, 2))
        self.status("?wait=x", status=400)

    def test_a_wait_ends_at_once_when_all_that_miss_it_have_refused_it(self):
        self.world.engine("1").apply()
        refusing = self.world.engine("2")
        waiting = self.begin("GET", "/api/config/status?wait=2&timeout=30")
        refusing.refuse(text="port 80 is taken")
        answer = waiting.answer()
        self.assertEqual((answer.status, answer.json["reason"]), (409, "refused"))
        self.assertEqual(answer.json["waiting"], "2 (port 80 is taken)")

    def test_a_caller_that_leaves_is_forgotten(self):
        self.world.engine("1")
        waiting = self.begin("GET", "/api/config/status?wait=2&timeout=30")
        waiting.lose()
        self.assertEqual(self.world.sync._waiters, [])


class Document(Api):
    def test_the_routes_describe_themselves(self):
        described = openapi(self.routes, Info(title="avinet", version="1"))
        for kind in KINDS:
            self.assertEqual(set(described["paths"][f"/api/{kind}/{{uuid}}"]), {"get", "put", "delete"})
        self.assertIn("post", described["paths"]["/api/config"])
