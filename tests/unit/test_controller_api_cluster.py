"""The operator's routes about controllers, through the real Site."""

import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_cluster import ClusterApi, Sight, Standing
from avinet.controller.growth import NoGrowth
from avinet.controller.joining_api import JoiningApi
from avinet.controller.root_holder import LOOK_S, RootHolder
from avinet.rest.access import Role
from avinet.rest.route import Response
from avinet.rest.router import Router
from avinet.store.interface import Delete
from avinet.trust.bundle import Bundle
from avinet.trust.image import MANIFEST_TYPE, Manifest
from avinet.trust.joining import sign_manifest_wish
from avinet.trust.jose import verify_compact
from avinet.trust.membership import root_key_of
from tests.unit.cluster_kit import Newcomer, Site
from tests.unit.enrolment_kit import run
from tests.unit.rest_client import Client, Known, request_bytes
from tests.unit.signing_kit import OTHER_CLUSTER


class Case(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)
        self.handed = []
        self.api = self.api_of(self.site.holder, self.site.growth)
        self.client = self.client_of(Role.ADMIN)

    def api_of(self, holder, growth, hand_on=None):
        sight = Sight(lambda name: Standing("leader" if name == "c1" else "follower", "1.0"))
        return ClusterApi(
            holder, self.site.removal, self.site.tokens, growth, sight, self.site.events.emit, hand_on
        )

    def client_of(self, role):
        return Client(Router(self.api.routes(), self.site.clock, Known("olga", role)), self.site.clock)

    def ask(self, status, method, path, body=None):
        answer = self.client(method, path, body)
        self.assertEqual(answer.status, status, answer.body)
        return answer.json if answer.body else None


class Shows(Case):
    def test_who_there_are_and_who_has_the_root_key(self):
        self.site.join(Newcomer())
        shown = self.ask(200, "GET", "/api/cluster")
        self.assertEqual((shown["membership"], shown["root_holder"], shown["quorum"]), (2, "c1", True))
        rows = [(row["name"], row["role"], row["root_key"]) for row in shown["members"]]
        self.assertEqual(rows, [("c1", "leader", True), ("c2", "follower", False)])
        self.assertIn("2 controllers", shown["warnings"][0])

    def test_without_the_store_it_shows_what_is_known(self):
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        run(holder.name())
        self.patch(self.site.store, "get", lambda key: Deferred())
        self.api = self.api_of(holder, self.site.growth)
        connection = self.client_of(Role.READ_ONLY).connect()
        connection.send(request_bytes("GET", "/api/cluster"))
        self.site.clock.advance(LOOK_S)
        self.assertEqual(connection.answer().json["root_holder"], "c1")


class Bundles(Case):
    def test_one_is_what_a_newcomer_joins_with(self):
        bundle = msgspec.convert(self.ask(201, "POST", "/api/cluster/bundle", {}), Bundle)
        self.assertEqual(bundle.verified(), self.site.members.current)
        self.assertEqual(bundle.controllers, ("192.0.2.1:8443",))
        self.site.join(Newcomer(), bundle.token)
        self.assertIn("JOIN_BUNDLE_CREATED", self.site.events.codes())
        self.assertNotIn(bundle.token, repr(self.site.events.all))

    def test_it_names_the_root_holder_first_and_not_whom_it_replaces(self):
        self.site.join(Newcomer("a2"))
        self.site.join(Newcomer("c3", 3))
        bundle = self.ask(201, "POST", "/api/cluster/bundle", {"replaces": "c3"})
        self.assertEqual(bundle["controllers"], ["192.0.2.1:8443", "192.0.2.2:8443"])
        self.site.join(Newcomer("c3", 3), bundle["token"])

    def test_what_cannot_be_is_said_before_it_is_carried_anywhere(self):
        self.ask(404, "POST", "/api/cluster/bundle", {"replaces": "c9"})
        self.ask(409, "POST", "/api/cluster/bundle", {"replaces": "c1"})
        self.ask(400, "POST", "/api/cluster/bundle", {"replace": "c1"})
        run(self.site.store.transact([], [Delete("root-holder")]))
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        self.api = self.api_of(holder, self.site.growth)
        self.client = self.client_of(Role.ADMIN)
        self.assertEqual(self.ask(503, "POST", "/api/cluster/bundle", {})["reason"], "root-key-offline")
        self.api = self.api_of(self.site.holder, NoGrowth())
        self.client = self.client_of(Role.ADMIN)
        self.assertEqual(self.ask(409, "POST", "/api/cluster/bundle", {})["reason"], "state-engine-alone")

    def test_there_is_a_bound(self):
        for _ in range(100):
            self.ask(201, "POST", "/api/cluster/bundle", {})
        self.ask(429, "POST", "/api/cluster/bundle", {})
        self.site.clock.advance(2 * 86400)
        self.ask(201, "POST", "/api/cluster/bundle", {})

    def test_only_an_admin_makes_one_or_removes(self):
        self.client = self.client_of(Role.OPERATOR)
        self.ask(403, "POST", "/api/cluster/bundle", {})
        self.ask(403, "DELETE", "/api/cluster/controller/c2")
        self.ask(200, "GET", "/api/cluster")


class Removes(Case):
    def test_one_is_gone_and_another_of_that_name_was_never_there(self):
        self.site.join(Newcomer())
        answer = self.ask(200, "DELETE", "/api/cluster/controller/c2")
        self.assertEqual(answer, {"name": "c2", "membership": 3, "warnings": []})
        self.ask(404, "DELETE", "/api/cluster/controller/c2")
        self.ask(409, "DELETE", "/api/cluster/controller/c1")

    def test_another_controller_hands_it_on_to_the_root_holder_or_names_it(self):
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))

        async def hand_on(name, request):
            self.handed.append((name, request.path))
            return Response(body={"handed": True})

        for hand, status in ((None, 503), (hand_on, 200)):
            self.api = self.api_of(holder, self.site.growth, hand)
            self.client = self.client_of(Role.ADMIN)
            self.ask(status, "DELETE", "/api/cluster/controller/c2")
            self.ask(status, "POST", "/api/cluster/bundle", {})
        paths = ["/api/cluster/controller/c2", "/api/cluster/bundle"]
        self.assertEqual(self.handed, [("c1", path) for path in paths])


class OnPort8443(Case):
    def setUp(self):
        super().setUp()
        api = JoiningApi(self.site.joining, self.site.signing)
        self.client = Client(Router(api.routes(), self.site.clock), self.site.clock)

    def post(self, body, content_type="application/jose+json"):
        return self.client("POST", "/v1/controllers", body, content_type=content_type)

    def test_a_newcomer_joins_and_is_told_in_words_what_is_wrong(self):
        token = self.site.token()
        answer = self.post(Newcomer().body(self.site, token))
        self.assertEqual((answer.status, answer.json["name"]), (200, "c2"))
        refused = self.post(Newcomer("c3", 3).body(self.site, token))
        self.assertEqual((refused.status, refused.json["reason"]), (409, "join-token-spent"))
        self.assertIn("avinet cluster bundle", refused.json["detail"])

    def test_what_is_no_request_is_said_to_be_none(self):
        for body in (b"", b"{}", b"\xff", b"[" * 10_000):
            self.assertEqual(self.post(body).status, 400, body[:10])
        self.assertEqual(self.post(b"{}", "application/json").status, 415)
        self.assertEqual(self.post(b"x" * 70_000).status, 413)

    def test_who_has_no_root_key_is_no_judge(self):
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        self.site.joining.holder = RootHolder(members, holder.root, self.site.clock)
        answer = self.post(Newcomer().body(self.site, self.site.token()))
        self.assertEqual((answer.status, answer.json["holder"]), (503, "c1"))

    def manifest(self, **more):
        now = self.site.clock.seconds()
        values = {
            "image": "i",
            "cluster": self.site.cluster,
            "software": "1",
            "created_at": now,
            "expires_at": now + 60,
            "members": (),
        }
        return msgspec.json.encode(Manifest(**values | more))

    def sign(self, body):
        return self.client("POST", "/v1/manifests", body, content_type="application/jose+json")

    def test_the_root_signs_what_a_member_builds_and_for_nobody_else(self):
        new = Newcomer()
        wish = sign_manifest_wish(self.manifest(), new.node_key)
        self.assertEqual((self.sign(wish).status, self.sign(wish).json["reason"]), (403, "node-signer"))
        self.site.join(new)
        answer = self.sign(wish)
        self.assertEqual(answer.status, 200, answer.body)
        root = root_key_of(self.site.identity.root.certificate)
        signed = verify_compact(answer.body.decode(), root, MANIFEST_TYPE)
        self.assertEqual(signed, self.manifest())
        run(self.site.removal.remove("c2"))
        self.assertEqual(self.sign(wish).status, 403)

    def test_the_root_signs_no_manifest_that_cannot_be(self):
        key = self.site.identity.node_key
        for wish in (
            self.manifest(cluster=OTHER_CLUSTER),
            self.manifest(expires_at=1e12),
            b"{}",
            b"\xff",
        ):
            self.assertIn(self.sign(sign_manifest_wish(wish, key)).status, {400, 403})
        other = Newcomer().body(self.site, self.site.token())
        self.assertEqual(self.sign(other).status, 400)
        self.assertEqual(self.post(sign_manifest_wish(self.manifest(), key)).status, 400)

    def test_it_hands_on_to_who_has_it(self):
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        self.site.joining.holder = holder

        async def hand_on(name, request):
            self.handed.append((name, request.body))
            return Response(body={"handed": True})

        api = JoiningApi(self.site.joining, self.site.signing, hand_on)
        self.client = Client(Router(api.routes(), self.site.clock), self.site.clock)
        body = Newcomer().body(self.site, self.site.token())
        self.assertEqual(self.post(body).json, {"handed": True})
        self.assertEqual(self.handed, [("c1", body)])
