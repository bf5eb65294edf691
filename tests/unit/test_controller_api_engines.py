"""The operator's routes for service engines and tokens, through the real Site; machines beside their records."""

import tempfile
from pathlib import Path

import msgspec
from twisted.internet.defer import fail, succeed
from twisted.trial.unittest import SynchronousTestCase

from avinet.cloud.interface import CloudError
from avinet.controller.api_engines import EngineApi, EngineFacts
from avinet.controller.api_tokens import TokenApi
from avinet.controller.engine_commands import EngineCommands
from avinet.controller.machines import Machines
from avinet.controller.placement_view import EngineLoad, EngineService
from avinet.model.channel import IMPLICIT, ChannelStatus
from avinet.model.config import EnrolmentPolicy
from avinet.rest.router import Info, Router, openapi
from avinet.rest.site import BoundedSite
from avinet.wire.registration import MetaInfo
from tests.unit.enrolment_kit import CLUSTER, Site, run
from tests.unit.rest_client import Connection, Known, request_bytes


class FakeCloud:
    """Remembers; fails on demand."""

    name = "fake"

    def __init__(self):
        self.done = []
        self.broken = False
        self.here = None

    def has(self, record):
        return self.here is not None and record.name in self.here

    def _do(self, what, record, *more):
        self.done.append((what, record.name, *more))
        if self.broken:
            return fail(CloudError(cloud="fake", action=what, se=record.name, detail="told to"))
        return succeed(None)

    def create(self, record, image, meta):
        return self._do("create", record, meta)

    def resume(self, record):
        return self._do("resume", record)

    def delete(self, record):
        return self._do("delete", record)

    def connected(self, record):
        self.done.append(("connected", record.name))

    def stop(self):
        self.done.append(("stop",))
        return succeed(None)


CHANNEL = ChannelStatus(
    address="192.0.2.7",
    age_s=61.5,
    peer="SSH-2.0-avinet",
    kex="mlkem768x25519-sha256",
    host_key="ssh-ed25519",
    cipher_in="aes256-gcm@openssh.com",
    cipher_out="aes256-ctr",
    mac_in=IMPLICIT,
    mac_out="hmac-sha2-256-etm@openssh.com",
    strict=True,
    rekeys=2,
    channels=1,
    rtt_min_ms=None,
    rate_bytes_s=None,
    window_bytes=131072,
    held_bytes=0,
)


class Api(SynchronousTestCase):
    def setUp(self):
        self.site, self.cloud = Site(), FakeCloud()
        self.attached = set()
        self.serving = False
        self.wire()

    def meta(self, text):
        return MetaInfo(cluster=CLUSTER, controllers=("192.0.2.1:8443",), token=text)

    def wire(self):
        async def image():
            return Path(tempfile.gettempdir()) / "image.tar"

        self.machines = Machines(self.site.engines, {"fake": self.cloud}, image, self.meta)
        facts = EngineFacts(
            is_attached=lambda se: se in self.attached,
            in_sync=lambda se: se in self.attached,
            rtt_s=lambda se: 0.0123 if se in self.attached else None,
            version=lambda se: 7 if se in self.attached else None,
            software=lambda se: "0.1.0" if se in self.attached else "",
            channel=lambda se: CHANNEL if se in self.attached else None,
            load=lambda se: EngineLoad(2, 1, 1) if se in self.attached else EngineLoad(),
            stranded=lambda se: ("www",) if se in self.attached else (),
            services=lambda se: (EngineService(uuid="virtualservice-1", name="www", stage="held"),),
        )
        self.commands = EngineCommands(self.site.engines)
        engines = EngineApi(self.commands, self.machines, facts, self.site.groups.__contains__, self.remove)
        tokens = TokenApi(self.site.engines, self.site.events.emit, self.meta, self.site.groups.__contains__)
        router = Router((*engines.routes(), *tokens.routes()), self.site.clock, Known("local"))
        self.web = BoundedSite(router, self.site.clock)

    async def remove(self, se, *, now):
        if self.serving and not now:
            return await self.commands.leave(se)
        return await self.machines.delete(se)

    def ask(self, method, path, body=None):
        connection = Connection(self.web)
        connection.send(request_bytes(method, path, body))
        return connection.answer()

    def create(self, name="se-1", **more):
        return self.ask("POST", "/api/serviceengine", {"name": name, "group": "web", **more})

    def enrol(self, name="se-1"):
        token = self.create(name).json["meta_info"]["token"]
        return self.site.enrol(self.site.machine().request(token))


class EngineRoutes(Api):
    def test_a_cloud_that_lacks_something_is_refused_before_there_is_a_record(self):
        async def lacking():
            raise CloudError(cloud="fake", action="create", se="any", detail="no Envoy")

        self.machines.ready = {"fake": lacking}
        self.assertEqual(503, self.create(cloud="fake").status)
        self.assertEqual(([], []), (list(self.site.engines.index.deleted()), list(self.site.engines.all())))
        self.machines.ready = {}
        self.assertEqual(201, self.create(cloud="fake").status)

    def test_one_made_by_hand_is_created_with_meta_info_that_enrols_a_machine(self):
        answer = self.create()
        self.assertEqual(201, answer.status)
        self.assertEqual(["192.0.2.1:8443"], answer.json["meta_info"]["controllers"])
        record = self.site.enrol(self.site.machine().request(answer.json["meta_info"]["token"]))
        self.assertEqual(answer.json["engine"]["uuid"], record.uuid)

    def test_the_token_is_shown_once(self):
        secret = self.create().json["meta_info"]["token"].rpartition(".")[2]
        for path in ("/api/serviceengine", "/api/serviceengine/se-1", "/api/setoken"):
            self.assertNotIn(secret.encode(), self.ask("GET", path).body)

    def test_a_list_has_count_and_results_with_state_and_sync(self):
        record = self.enrol()
        self.create("se-0")
        run(self.commands.connected(record.uuid))
        self.attached.add(record.uuid)
        answer = self.ask("GET", "/api/serviceengine").json
        self.assertEqual(2, answer["count"])
        self.assertEqual(["se-0", "se-1"], [row["name"] for row in answer["results"]])
        row = answer["results"][1]
        self.assertEqual(
            ("UP", True, 12.3, 7, "0.1.0", "web", record.loopback),
            tuple(row[k] for k in ("state", "in_sync", "rtt_ms", "version", "software", "group", "loopback")),
        )
        self.assertEqual(("CREATING", False), tuple(answer["results"][0][k] for k in ("state", "in_sync")))
        self.attached.clear()
        self.assertEqual("DOWN", self.ask("GET", "/api/serviceengine/se-1").json["state"])

    def test_one_that_is_attached_shows_what_its_secure_channel_settled(self):
        record = self.enrol()
        self.assertIsNone(self.ask("GET", "/api/serviceengine/se-1").json["secure_channel"])
        self.attached.add(record.uuid)
        shown = self.ask("GET", "/api/serviceengine/se-1").json["secure_channel"]
        self.assertEqual(msgspec.to_builtins(CHANNEL), shown)
        self.assertNotIn("secure_channel", self.ask("GET", "/api/serviceengine").json["results"][0])

    def test_what_it_serves_and_drains_is_counted_in_lists_and_named_for_one(self):
        record = self.enrol()
        self.attached.add(record.uuid)
        row = self.ask("GET", "/api/serviceengine").json["results"][0]
        self.assertEqual((2, 1, 1), (row["services"], row["draining"], row["held"]))
        disabled = self.ask("POST", f"/api/serviceengine/{row['uuid']}/disable", {}).json
        self.assertEqual((["www"], "DISABLED"), (disabled["stranded"], disabled["state"]))
        cut_off = self.ask("POST", f"/api/serviceengine/{row['uuid']}/quarantine", {}).json
        self.assertEqual((["www"], "QUARANTINED"), (cut_off["stranded"], cut_off["state"]))
        shown = self.ask("GET", "/api/serviceengine/se-1").json["virtual_services"]
        self.assertEqual([("www", "held")], [(one["name"], one["stage"]) for one in shown])

    def test_one_that_serves_is_deleted_after_it_has_drained_or_at_once(self):
        self.enrol()
        self.serving = True
        answer = self.ask("DELETE", "/api/serviceengine/se-1")
        self.assertEqual(
            (202, "DISABLED", True), (answer.status, answer.json["state"], answer.json["leaving"])
        )
        self.assertEqual(204, self.ask("DELETE", "/api/serviceengine/se-1?now=true").status)
        self.assertEqual(404, self.ask("GET", "/api/serviceengine/se-1").status)

    def test_deleted_ones_are_in_a_list_of_their_own(self):
        self.enrol()
        self.ask("DELETE", "/api/serviceengine/se-1")
        self.assertEqual(0, self.ask("GET", "/api/serviceengine").json["count"])
        [row] = self.ask("GET", "/api/serviceengine?state=DELETED").json["results"]
        self.assertEqual(("se-1", "DELETED", False), (row["name"], row["state"], row["leaving"]))

    def test_one_is_disabled_with_a_drain_or_without(self):
        record = self.enrol()
        for body, drains in (({"note": "disks"}, True), ({"now": True}, False)):
            self.assertEqual(200, self.ask("POST", "/api/serviceengine/se-1/disable", body).status)
            self.assertEqual(drains, self.site.engines.find(record.uuid).drains)
        self.ask("POST", "/api/serviceengine/se-1/enable", {})
        self.assertTrue(self.site.engines.find(record.uuid).drains)

    def test_the_description_of_the_api_has_the_secure_channel(self):
        table = EngineApi(self.commands, self.machines, EngineFacts(), bool, self.remove).routes()
        schemas = openapi(table, Info(title="t", version="1", description="d"))["components"]["schemas"]
        fields = schemas["ChannelStatus"]["properties"]
        self.assertEqual(list(fields), list(msgspec.to_builtins(CHANNEL)))

    def test_a_list_is_narrowed_and_paged(self):
        for number in range(5):
            self.create(f"se-{number}")
        for query, names in (
            ("name=se-3", ["se-3"]),
            ("group=other", []),
            ("state=CREATING&page=2&page_size=2", ["se-2", "se-3"]),
            ("page=0&page_size=-1", ["se-0"]),
        ):
            answer = self.ask("GET", f"/api/serviceengine?{query}").json
            self.assertEqual(names, [row["name"] for row in answer["results"]], query)
        self.assertEqual(400, self.ask("GET", "/api/serviceengine?colour=blue").status)

    def test_bad_input_is_refused_by_what_is_wrong(self):
        self.create()
        for body, status, word in (
            ({"name": "se-1", "group": "web"}, 409, b"se-1"),
            ({"name": "a b", "group": "web"}, 400, b"a b"),
            ({"name": "x", "group": "nope"}, 404, b"nope"),
            ({"name": "x", "group": "web", "cloud": "moon"}, 400, b"moon"),
            ({"name": "x", "group": "web", "colour": 1}, 400, b"colour"),
            ({"group": "web"}, 400, b"name"),
        ):
            answer = self.ask("POST", "/api/serviceengine", body)
            self.assertEqual(status, answer.status, body)
            self.assertIn(word, answer.body)
        self.assertEqual(1, self.ask("GET", "/api/serviceengine").json["count"])

    def test_an_engine_is_named_by_uuid_or_name_and_an_unknown_one_is_404(self):
        uuid = self.create().json["engine"]["uuid"]
        self.assertEqual("se-1", self.ask("GET", f"/api/serviceengine/{uuid}").json["name"])
        self.assertEqual(uuid, self.ask("GET", "/api/serviceengine/se-1").json["uuid"])
        for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/enable")):
            body = {} if method == "POST" else None
            self.assertEqual(404, self.ask(method, f"/api/serviceengine/none{path}", body).status)

    def test_a_waiting_engine_is_approved(self):
        self.site.set_group(enrolment_policy=EnrolmentPolicy.APPROVE)
        self.enrol()
        row = self.ask("GET", "/api/serviceengine/se-1").json
        self.assertEqual("PENDING", row["state"])
        wrong = self.ask("POST", "/api/serviceengine/se-1/approve", {"fingerprint": "SHA256:x"})
        self.assertEqual(409, wrong.status)
        right = self.ask("POST", "/api/serviceengine/se-1/approve", {"fingerprint": row["fingerprint"]})
        self.assertEqual("ENROLLED", right.json["state"])

    def test_the_other_commands_change_the_state(self):
        self.enrol()
        for verb, body, state in (
            ("disable", {"note": "x"}, "DISABLED"),
            ("enable", {}, "ENROLLED"),
            ("quarantine", {"note": "odd"}, "QUARANTINED"),
            ("enable", {}, "ENROLLED"),
            ("place", {}, "ENROLLED"),
        ):
            self.assertEqual(state, self.ask("POST", f"/api/serviceengine/se-1/{verb}", body).json["state"])

    def test_a_deleted_engine_is_gone_from_lists(self):
        record = self.enrol()
        self.assertEqual(204, self.ask("DELETE", "/api/serviceengine/se-1").status)
        self.assertEqual(0, self.ask("GET", "/api/serviceengine").json["count"])
        self.assertEqual(404, self.ask("DELETE", f"/api/serviceengine/{record.uuid}").status)


class TokenRoutes(Api):
    def test_a_group_token_enrols_as_many_as_it_says(self):
        answer = self.ask("POST", "/api/setoken", {"group": "web", "count": 2})
        self.assertEqual(201, answer.status)
        self.site.enrol(self.site.machine().request(answer.json["meta_info"]["token"]))
        rows = self.ask("GET", "/api/setoken").json["results"]
        self.assertEqual([(2, 1, "active")], [(row["count"], row["used"], row["state"]) for row in rows])

    def test_a_new_token_for_one_engine_replaces_its_old_one(self):
        self.create()
        answer = self.ask("POST", "/api/setoken", {"se": "se-1"})
        record = self.site.enrol(self.site.machine().request(answer.json["meta_info"]["token"]))
        self.assertEqual("se-1", record.name)
        states = sorted(row["state"] for row in self.ask("GET", "/api/setoken").json["results"])
        self.assertEqual(["revoked", "spent"], states)
        self.assertEqual(409, self.ask("POST", "/api/setoken", {"se": "se-1"}).status)

    def test_bad_wishes_are_refused(self):
        for body, status in (
            ({"group": "nope"}, 404),
            ({"group": "web", "count": 0}, 400),
            ({"se": "none"}, 404),
            ({"se": "x", "count": 2}, 400),
            ({"group": "web", "count": "many"}, 400),
        ):
            self.assertEqual(status, self.ask("POST", "/api/setoken", body).status, body)

    def test_a_revoked_token_says_so(self):
        uuid = self.ask("POST", "/api/setoken", {"group": "web"}).json["token"]["uuid"]
        self.assertEqual(204, self.ask("DELETE", f"/api/setoken/{uuid}").status)
        self.assertEqual("revoked", self.ask("GET", "/api/setoken").json["results"][0]["state"])
        self.assertEqual(404, self.ask("DELETE", "/api/setoken/none").status)


class MachinesBesideRecords(Api):
    def test_a_driver_makes_the_machine_and_the_operator_sees_no_token(self):
        answer = self.create(cloud="fake")
        self.assertNotIn("meta_info", {k for k, v in answer.json.items() if v is not None})
        what, name, meta = self.cloud.done[0]
        self.assertEqual(("create", "se-1"), (what, name))
        record = self.site.enrol(self.site.machine().request(meta.token))
        self.assertEqual("se-1", record.name)

    def test_when_the_driver_fails_the_record_goes_again(self):
        self.cloud.broken = True
        self.assertEqual(503, self.create(cloud="fake").status)
        self.assertEqual((), self.site.engines.all())

    def test_a_crash_between_record_and_machine_is_finished_at_the_next_start(self):
        run(self.site.engines.create("se-1", "web", "fake"))
        self.site.restart()
        self.wire()
        run(self.machines.lead())
        self.assertEqual("create", self.cloud.done[0][0])
        self.assertEqual(
            "se-1", self.site.enrol(self.site.machine().request(self.cloud.done[0][2].token)).name
        )

    def test_a_crash_between_deletion_and_machine_is_finished_at_the_next_start(self):
        made, _ = run(self.site.engines.create("se-1", "web", "fake"))
        run(self.site.engines.delete(made.uuid))
        self.site.restart()
        self.wire()
        run(self.machines.lead())
        self.assertEqual([("delete", "se-1")], self.cloud.done)

    def test_an_enrolled_engine_is_resumed_and_one_failure_stops_no_other(self):
        for name in ("se-1", "se-2"):
            self.create(name, cloud="fake")
            self.site.enrol(self.site.machine().request(self.cloud.done[-1][2].token))
        self.cloud.done.clear()
        self.cloud.broken = True
        run(self.machines.start())
        self.assertEqual([("resume", "se-1"), ("resume", "se-2")], sorted(self.cloud.done))
        self.assertEqual(2, self.site.events.codes().count("SE_RESUME_FAILED"))
        run(self.machines.stop())
        self.assertEqual(("stop",), self.cloud.done[-1])

    def test_in_a_cluster_each_controller_runs_and_takes_away_the_machines_on_its_own_host(self):
        for name in ("here", "elsewhere"):
            self.create(name, cloud="fake")
            self.site.enrol(self.site.machine().request(self.cloud.done[-1][2].token))
        self.cloud.done.clear()
        self.cloud.here = {"here"}
        self.machines.alone, self.machines.leads = False, lambda: False
        run(self.machines.start())
        for record in self.site.engines.all():
            run(self.site.engines.delete(record.uuid))
        self.assertEqual([("resume", "here"), ("delete", "here")], self.cloud.done)

    def test_a_first_connection_lets_the_driver_destroy_the_means(self):
        self.create(cloud="fake")
        record = self.site.enrol(self.site.machine().request(self.cloud.done[-1][2].token))
        run(self.commands.connected(record.uuid))
        run(self.commands.disable(record.uuid))
        self.assertEqual(1, self.cloud.done.count(("connected", "se-1")))

    def test_deleting_takes_the_machine_away_after_the_record(self):
        self.create(cloud="fake")
        self.assertEqual(204, self.ask("DELETE", "/api/serviceengine/se-1").status)
        self.assertEqual(("delete", "se-1"), self.cloud.done[-1])
