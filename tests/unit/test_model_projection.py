"""What an SE is sent: its virtual services and all that they refer to, nothing else."""

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.model import projection
from avinet.model.config import (
    CertificateText,
    HealthMonitor,
    Pool,
    Route,
    SSLKeyAndCertificate,
    VirtualService,
)
from avinet.model.configuration import Stored
from avinet.model.ids import ObjectId
from avinet.model.projection import Projector, resource_of
from avinet.model.resources import EMPTY_STATE_HASH, delta_between, hashes_of, state_hash
from tests.unit.test_model_placement import configuration, group, service

MONITOR = HealthMonitor(uuid=ObjectId("healthmonitor-1"), name="ping")
WATCHED = Pool(uuid=ObjectId("pool-1"), name="web", health_monitor_refs=(MONITOR.uuid,))
FOUND = {"virtualservice/virtualservice-1", "pool/pool-1", "healthmonitor/healthmonitor-1"}
THINGS = configuration(group(), MONITOR, service(1), service(2), Pool(uuid=ObjectId("pool-9"), name="unused"))


def watched():
    return THINGS.with_changes(THINGS.version, [Stored(WATCHED, 1)], [])


class Projection(SynchronousTestCase):
    def test_a_virtual_service_brings_its_pool_and_the_pools_monitors(self):
        found = Projector(watched()).resources_for([ObjectId("virtualservice-1")])
        self.assertEqual(
            set(found), {"virtualservice/virtualservice-1", "pool/pool-1", "healthmonitor/healthmonitor-1"}
        )
        for name, resource in found.items():
            self.assertEqual(resource.name, name)

    def test_pools_of_routes_and_the_certificates_of_both_come_along(self):
        def certificate(name):
            return SSLKeyAndCertificate(
                uuid=ObjectId(f"sslkeyandcertificate-{name}"),
                name=name,
                certificate=CertificateText(certificate="c"),
                key="k",
            )

        routed = Pool(
            uuid=ObjectId("pool-2"),
            name="api",
            health_monitor_refs=(MONITOR.uuid,),
            ssl_key_and_certificate_ref=ObjectId("sslkeyandcertificate-client"),
        )
        whole = msgspec.structs.replace(
            service(1),
            routes=(Route(path="/api", pool_ref=routed.uuid),),
            ssl_key_and_certificate_refs=(ObjectId("sslkeyandcertificate-server"),),
        )
        names = ("client", "server", "foreign")
        things = configuration(group(), MONITOR, routed, whole, *map(certificate, names))
        self.assertEqual(
            set(Projector(things).resources_for([whole.uuid])),
            {
                "virtualservice/virtualservice-1",
                "pool/pool-1",
                "pool/pool-2",
                "healthmonitor/healthmonitor-1",
                "sslkeyandcertificate/sslkeyandcertificate-client",
                "sslkeyandcertificate/sslkeyandcertificate-server",
            },
        )

    def test_what_a_group_says_of_addresses_and_logs_comes_along_where_it_is_not_as_usual(self):
        for more, kinds in (
            ({}, set()),
            ({"log_disksz": 500}, {"loglimits"}),
            ({"vip_interface": "eth0", "full_log_throttle": 5}, {"loglimits", "vipinterface"}),
        ):
            things = configuration(msgspec.structs.replace(group(), **more), service(1), WATCHED, MONITOR)
            found = Projector(things).resources_for([ObjectId("virtualservice-1")])
            self.assertEqual(set(found) - FOUND, {f"{kind}/{group().uuid}" for kind in kinds})

    def test_what_is_shared_is_there_once(self):
        both = [ObjectId("virtualservice-1"), ObjectId("virtualservice-2")]
        self.assertEqual(len(Projector(THINGS).resources_for(both)), 3)

    def test_nothing_placed_is_the_empty_state(self):
        found = Projector(THINGS).resources_for([])
        self.assertEqual(state_hash(hashes_of(found.values())), EMPTY_STATE_HASH)

    def test_a_body_is_the_stored_object(self):
        found = Projector(watched()).resources_for([ObjectId("virtualservice-1")])
        decoded = msgspec.msgpack.decode(found["pool/pool-1"].body, type=Pool)
        self.assertEqual(decoded, WATCHED)
        decoded = msgspec.msgpack.decode(found["virtualservice/virtualservice-1"].body, type=VirtualService)
        self.assertEqual(decoded, service(1))

    def test_each_object_is_encoded_once_however_many_have_it(self):
        made = []
        self.patch(projection, "resource_of", lambda thing: made.append(thing.uuid) or resource_of(thing))
        projector = Projector(watched())
        for _ in range(3):
            projector.resources_for([ObjectId("virtualservice-1"), ObjectId("virtualservice-2")])
        self.assertEqual(sorted(made), sorted(set(made)))

    def test_the_same_object_has_the_same_hash_at_every_controller(self):
        first, second = (Projector(watched()).resources_for([ObjectId("virtualservice-1")]) for _ in range(2))
        self.assertEqual(hashes_of(first.values()), hashes_of(second.values()))


class States(SynchronousTestCase):
    def test_a_delta_leads_from_one_state_to_the_other(self):
        want = Projector(watched()).resources_for([ObjectId("virtualservice-1")])
        have = hashes_of(Projector(THINGS).resources_for([ObjectId("virtualservice-2")]).values())
        delta = delta_between(have, want)
        self.assertEqual(delta.remove, ("virtualservice/virtualservice-2",))
        after = {name: digest for name, digest in have.items() if name not in delta.remove}
        after.update(hashes_of(delta.put))
        self.assertEqual(state_hash(after), state_hash(hashes_of(want.values())))
        self.assertTrue(delta_between(after, want).empty)

    def test_the_hash_does_not_depend_on_the_order_and_does_on_each_name_and_body(self):
        self.assertEqual(state_hash({"a": "1", "b": "2"}), state_hash({"b": "2", "a": "1"}))
        states = [{}, {"a": "1"}, {"b": "1"}, {"a": "2"}, {"a": "1", "b": "1"}, {"a": "b"}, {"ab": ""}]
        self.assertEqual(len({state_hash(state) for state in states}), len(states))

    def test_a_body_is_not_in_the_repr(self):
        self.assertNotIn("ping", repr(resource_of(MONITOR)))
