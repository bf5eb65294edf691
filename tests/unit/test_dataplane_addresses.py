"""Addresses that an SE puts on its host for virtual services, and takes back exactly."""

import json
import tempfile
from pathlib import Path

import msgspec
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.fake import RecordingDataPlane
from avinet.dataplane.host_addresses import HostAddressError, HostAddresses, Ran
from avinet.dataplane.interface import RejectedError
from avinet.dataplane.with_addresses import MISSING, WithAddresses
from avinet.model.config import IpAddr, Vip
from avinet.model.projection import resource_of
from avinet.model.resources import Resource
from avinet.model.vip_interface import HostAddress, resource_of_group
from tests.unit.test_model_placement import group, service

A, B = HostAddress("eth0", "192.0.2.1"), HostAddress("eth0", "192.0.2.2")


class Host:
    """What ``ip`` does, as far as it is asked here."""

    def __init__(self):
        self.links = {"lo": {"127.0.0.1"}, "eth0": set()}
        self.allowed = True
        self.on_change = lambda: None

    def __call__(self, *arguments):
        match arguments:
            case ("-json", "address", "show"):
                shown = [
                    {"ifname": name, "addr_info": [{"local": one} for one in sorted(there)]}
                    for name, there in self.links.items()
                ]
                return Ran(0, json.dumps(shown), "")
            case ("-json", "link", "show"):
                return Ran(0, json.dumps([{"ifname": name} for name in self.links]), "")
            case ("address", verb, spec, "dev", name, *_):
                return self._change(verb, spec.partition("/")[0], name)
        raise AssertionError(arguments)

    def _change(self, verb, address, name):
        self.on_change()
        if not self.allowed:
            return Ran(2, "", "RTNETLINK answers: Operation not permitted")
        if name not in self.links:
            return Ran(1, "", f'Cannot find device "{name}"')
        there = self.links[name]
        if verb == "add":
            there.add(address)
        elif address in there:
            there.remove(address)
        else:
            return Ran(2, "", "RTNETLINK answers: Cannot assign requested address")
        return Ran(0, "", "")


class Case(SynchronousTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="avinet-")
        self.addCleanup(folder.cleanup)
        self.record = Path(folder.name) / "addresses.json"
        self.host = Host()
        self.announced = []
        self.addresses = self.make()

    def make(self, boot="b1"):
        return HostAddresses(self.record, self.host, self.announced.append, boot)


class OnTheHost(Case):
    def test_what_is_missing_is_added_and_announced(self):
        self.assertEqual(self.addresses.add([A, B]), [A, B])
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1", "192.0.2.2"})
        self.assertEqual(self.announced, [A, B])
        self.assertEqual(self.addresses.add([A]), [])

    def test_what_is_there_already_is_left_alone_for_ever(self):
        self.host.links["lo"].add("192.0.2.1")
        self.addresses.add([A, B])
        self.addresses.keep_only([])
        self.assertEqual(self.host.links, {"lo": {"127.0.0.1", "192.0.2.1"}, "eth0": set()})

    def test_ours_are_taken_back_after_a_restart_too(self):
        self.addresses.add([A, B])
        self.make().keep_only([B])
        self.assertEqual(self.host.links["eth0"], {"192.0.2.2"})

    def test_another_spelling_is_the_same_address(self):
        self.host.links["eth0"].add("2001:db8::1")
        self.assertEqual(self.addresses.missing([HostAddress("eth0", "2001:0db8:0:0::1")]), [])

    def test_they_are_written_down_before_they_are_added(self):
        seen = []
        self.host.on_change = lambda: seen.append(self.record.read_text())
        self.addresses.add([A])
        self.assertIn("192.0.2.1", seen[0])

    def test_after_a_reboot_nothing_is_ours(self):
        self.addresses.add([A])
        self.make(boot="b2").keep_only([])
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1"})

    def test_of_several_all_or_none_is_added(self):
        with self.assertRaises(HostAddressError) as caught:
            self.addresses.add([A, HostAddress("eth7", "192.0.2.7")])
        self.assertIn("no such interface; it has lo, eth0", str(caught.exception))
        self.assertEqual(self.host.links["eth0"], set())
        self.make().keep_only([])
        self.assertEqual(self.announced, [])

    def test_a_missing_privilege_is_said_with_what_to_do(self):
        self.host.allowed = False
        with self.assertRaises(HostAddressError) as caught:
            self.addresses.add([A])
        self.assertIn("CAP_NET_ADMIN", str(caught.exception))

    def test_what_cannot_be_taken_back_is_tried_again(self):
        self.addresses.add([A])
        self.host.allowed = False
        self.addresses.keep_only([])
        self.host.allowed = True
        self.make().keep_only([])
        self.assertEqual(self.host.links["eth0"], set())


class WithADataPlane(Case):
    def setUp(self):
        super().setUp()
        self.inner = RecordingDataPlane()
        self.plane = WithAddresses(self.inner, self.addresses, execute)

    def state(self, *addresses, interface="eth0", **more):
        found = [resource_of_group(group(vip_interface=interface))]
        for number, address in enumerate(addresses):
            vip = (Vip(ip_address=IpAddr(addr=address)),)
            found.append(resource_of(msgspec.structs.replace(service(number, **more), vip=vip)))
        return {resource.name: resource for resource in found}

    def apply(self, state):
        return self.plane.apply(state)

    def in_force(self):
        return dict(self.successResultOf(self.plane.in_force()))

    def test_addresses_come_with_their_virtual_services_and_go_with_them(self):
        state = self.state("192.0.2.1", "192.0.2.2")
        self.successResultOf(self.apply(state))
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1", "192.0.2.2"})
        self.assertEqual(self.in_force(), {name: r.digest for name, r in state.items()})
        self.successResultOf(self.apply(self.state("192.0.2.2")))
        self.assertEqual(self.host.links["eth0"], {"192.0.2.2"})
        self.successResultOf(self.apply({}))
        self.assertEqual((self.host.links["eth0"], self.in_force()), (set(), {}))

    def test_the_data_plane_hears_nothing_of_interfaces(self):
        self.successResultOf(self.apply(self.state("192.0.2.1")))
        self.assertEqual([name.partition("/")[0] for name in self.inner.applied[-1]], ["virtualservice"])

    def test_addresses_are_there_before_the_listeners_and_gone_after_them(self):
        seen = []
        taken = self.inner.apply
        self.inner.apply = lambda state: (seen.append(set(self.host.links["eth0"])), taken(state))[1]
        self.successResultOf(self.apply(self.state("192.0.2.1")))
        self.successResultOf(self.apply({}))
        self.assertEqual(seen, [{"192.0.2.1"}, {"192.0.2.1"}])

    def test_another_interface_gets_them_before_the_old_one_loses_them(self):
        self.successResultOf(self.apply(self.state("192.0.2.1")))
        why = self.failureResultOf(self.apply(self.state("192.0.2.1", interface="eth7")), RejectedError).value
        self.assertIn("no such interface", why.detail)
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1"})
        self.host.links["eth1"] = set()
        self.successResultOf(self.apply(self.state("192.0.2.1", interface="eth1")))
        self.assertEqual((self.host.links["eth0"], self.host.links["eth1"]), (set(), {"192.0.2.1"}))

    def test_a_refusal_by_the_data_plane_leaves_the_host_as_it_was(self):
        self.successResultOf(self.apply(self.state("192.0.2.1")))
        self.inner.rejects = {"virtualservice/virtualservice-1": "no"}
        self.failureResultOf(self.apply(self.state("192.0.2.1", "192.0.2.2")), RejectedError)
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1"})

    def test_an_address_that_cannot_be_had_is_a_refusal_that_names_the_resource(self):
        self.host.allowed = False
        why = self.failureResultOf(self.apply(self.state("192.0.2.1")), RejectedError).value
        self.assertEqual(why.resource, "vipinterface/serviceenginegroup-Default-Group")
        self.assertIn("CAP_NET_ADMIN", why.detail)
        self.assertEqual(self.inner.applied, [])

    def test_an_address_that_somebody_took_away_is_seen(self):
        state = self.state("192.0.2.1")
        self.successResultOf(self.apply(state))
        self.host.links["eth0"].clear()
        self.assertEqual(self.in_force()["vipinterface/serviceenginegroup-Default-Group"], MISSING)
        self.successResultOf(self.apply(state))
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1"})

    def test_at_a_start_the_last_state_has_its_addresses_whatever_the_host_says_of_them(self):
        state = self.state("192.0.2.1")
        self.successResultOf(self.plane.start(state))
        self.assertEqual(self.host.links["eth0"], {"192.0.2.1"})
        self.host.links["eth0"].clear()
        self.host.allowed = False
        self.successResultOf(WithAddresses(self.inner, self.make(), execute).start(state))
        self.assertEqual(self.inner.calls.count("start"), 2)

    def test_a_disabled_virtual_service_needs_no_address(self):
        self.successResultOf(self.apply(self.state("192.0.2.1", enabled=False)))
        self.assertEqual(self.host.links["eth0"], set())

    def test_a_stop_takes_back_what_was_put_there(self):
        self.successResultOf(self.apply(self.state("192.0.2.1")))
        self.successResultOf(self.plane.stop())
        self.assertEqual(self.host.links["eth0"], set())

    def test_what_cannot_be_read_is_refused(self):
        bad = Resource("vipinterface/x", b"\xc1")
        why = self.failureResultOf(self.apply({bad.name: bad}), RejectedError).value
        self.assertEqual(why.resource, "vipinterface/x")
