"""Controllers join: what is refused and how it is said, the same request twice, and a crash at each step."""

import attrs
import msgspec
from twisted.internet.defer import Deferred
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.growth import NoGrowth, OutsideGrowth, StateEngineAloneError
from avinet.controller.join_tokens import (
    TTL_S,
    JoinTokenExpiredError,
    JoinTokenSpentError,
    JoinTokenUnknownError,
)
from avinet.controller.joining import (
    CLOCK_SKEW_S,
    REPLAY_S,
    NodeKeyForeignError,
    NotMemberError,
    ReplacedGoneError,
    RequestStaleError,
    StateKeyMissingError,
    TooManyJoinFailuresError,
    WrongClusterError,
)
from avinet.controller.newcomers import (
    KeyTakenError,
    NameTakenError,
    PlaceTakenError,
    PortTakenError,
    StatePortsMissingError,
    TooManyControllersError,
)
from avinet.controller.root_holder import RootElsewhereError, RootHolderLeavesError, RootNowhereError
from avinet.store.interface import Delete, StoreUnavailableError
from avinet.trust import ca
from avinet.trust.ca import bears_key, names_of, serial_of
from avinet.trust.joining import NodeSignerError, sign_claims
from avinet.trust.keys import generate
from avinet.trust.membership import verify_membership
from tests.unit.cluster_kit import Newcomer, Site
from tests.unit.enrolment_kit import run
from tests.unit.signing_kit import OTHER_CLUSTER, line


class Killed(BaseException):
    """The process ends here."""


class Case(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)

    def refused(self, error, ask, *args, **more):
        """``ask`` fails by ``error``, which is an event, too; what the caller reads."""
        before = len(self.site.events.all)
        number = self.site.members.current.number
        failure = self.assertRaises(error, ask, *args, **more)
        told = [event for event in self.site.events.all[before:] if event[0] == "CONTROLLER_REFUSED"]
        self.assertEqual([event[4]["reason"] for event in told], [failure.reason])
        self.assertIn(str(failure), told[0][3])
        self.assertEqual(self.site.members.current.number, number)
        self.assertNotIn("{", str(failure))
        return str(failure)


class Joins(Case):
    def test_a_machine_with_a_bundle_becomes_a_member_everywhere(self):
        new = Newcomer()
        answer = self.site.join(new)
        listed = verify_membership(answer.membership, self.site.identity.root.certificate)
        me = listed.by_name("c2")
        self.assertTrue(bears_key(me.node_certificate.encode(), new.node_key.public_key()))
        self.assertTrue(self.site.identity.root.issued(me.node_certificate.encode()))
        self.assertEqual(names_of(answer.api_certificate.encode()), {"c2.example"})
        self.assertEqual((me.id_controller, me.state_client_port), (new.lines[2], 2399))
        self.assertEqual(listed, self.site.on_disk())
        self.assertEqual(listed, self.site.in_store())
        self.assertEqual(self.site.heard, [(1, 2)])
        self.assertEqual(set(answer.state.members), {"c1", "c2"})
        self.assertIn("CONTROLLER_JOINED", self.site.events.codes())
        self.assertEqual(self.site.events.last("CLUSTER_SIZE")[4]["controllers"], 2)

    def test_three_are_a_good_number_and_eight_are_too_many(self):
        for number in range(2, 8):
            self.site.join(Newcomer(f"c{number}", number))
        warned = [e[4]["controllers"] for e in self.site.events.all if e[0] == "CLUSTER_SIZE"]
        self.assertEqual(warned, [2, 4, 5, 6, 7])
        self.refused(TooManyControllersError, self.site.join, Newcomer("c8", 8))

    def test_a_lost_answer_is_asked_for_again_with_the_same_bytes(self):
        new, token = Newcomer(), self.site.token()
        body = new.body(self.site, token)
        first = run(self.site.joining.judge(body, "10.0.0.2"))
        self.site.restart()
        self.site.clock.advance(2 * TTL_S)
        again = run(self.site.joining.judge(body, "10.0.0.2"))
        self.assertEqual((again.membership, again.state), (first.membership, first.state))
        self.assertEqual(self.site.members.current.number, 2)

    def test_a_clock_that_is_off_is_told_and_no_reason_to_refuse(self):
        self.site.join(Newcomer(), issued_at=int(self.site.clock.seconds() - CLOCK_SKEW_S - 5))
        self.assertEqual(self.site.events.last("CONTROLLER_CLOCK_SKEW")[4]["skew_s"], -305)

    def test_a_bundle_can_give_anothers_place_even_under_its_name(self):
        self.site.join(Newcomer())
        old = self.site.members.current.by_name("c2")
        new = Newcomer()
        answer = self.site.join(new, self.site.token(replaces="c2"))
        me = self.site.members.current.by_name("c2")
        self.assertTrue(bears_key(me.node_certificate.encode(), new.node_key.public_key()))
        serial = serial_of(old.node_certificate.encode())
        self.assertEqual(self.site.members.current.revoked_serials, (serial,))
        self.assertEqual(set(answer.state.members), {"c1", "c2"})
        self.refused(NodeKeyForeignError, self.site.tell, Newcomer())

    def test_under_another_name_the_replaced_one_is_gone(self):
        self.site.join(Newcomer())
        self.site.join(Newcomer("c3", 3), self.site.token(replaces="c2"))
        self.assertEqual(self.site.names(), ["c1", "c3"])
        self.assertEqual(self.site.growth.names, {"c1", "c3"})


class Refusals(Case):
    def test_another_clusters_bundle(self):
        said = self.refused(WrongClusterError, self.site.join, Newcomer(), cluster=OTHER_CLUSTER)
        self.assertIn(OTHER_CLUSTER, said)

    def test_a_token_that_is_unknown_altered_or_a_service_engines(self):
        token = self.site.token()
        for odd in ("", "avt1.0", token[:-1], f"{token[:-1]}{'A' if token[-1] != 'A' else 'B'}"):
            self.refused(JoinTokenUnknownError, self.site.join, Newcomer(), odd)
        self.assertEqual(self.site.names(), ["c1"])

    def test_a_spent_one_with_another_key_and_a_late_one(self):
        token = self.site.token()
        self.site.join(Newcomer(), token)
        self.refused(JoinTokenSpentError, self.site.join, Newcomer("c3", 3), token)
        late = self.site.token()
        self.site.clock.advance(TTL_S + 1)
        said = self.refused(JoinTokenExpiredError, self.site.join, Newcomer("c3", 3), late)
        self.assertIn("avinet cluster bundle", said)

    def test_a_signature_by_another_key(self):
        new = Newcomer()
        body = sign_claims(new.claims(self.site, self.site.token()), generate())
        self.refused(NodeSignerError, lambda: run(self.site.joining.judge(body, "10.0.0.2")))

    def test_a_name_a_port_a_place_or_a_key_of_another(self):
        c1 = self.site.members.current.by_name("c1")
        for error, odd in (
            (NameTakenError, {"name": "c1"}),
            (PortTakenError, {"state_client_port": 2380}),
            (PortTakenError, {"state_peer_port": 2379}),
            (PortTakenError, {"state_peer_port": 2399}),
            (PlaceTakenError, {"addresses": ("192.0.2.1",)}),
            (PlaceTakenError, {"addresses": ("192.0.2.1",), "ssh_port": 2222}),
            (KeyTakenError, {"ssh_host_key": c1.ssh_host_key}),
            (KeyTakenError, {"id_se": c1.id_se}),
            (KeyTakenError, {"id_controller": c1.id_controller}),
            (StatePortsMissingError, {"state_client_port": 0}),
            (StateKeyMissingError, {"state_key": ""}),
        ):
            self.refused(error, self.site.join, Newcomer(), **odd)
        new = Newcomer()
        new.node_key = self.site.identity.node_key
        self.refused(KeyTakenError, self.site.join, new)
        self.site.join(Newcomer(), addresses=("192.0.2.1",), ssh_port=2222, registration_port=9443)

    def test_a_refused_bundle_is_not_spent(self):
        token = self.site.token()
        self.refused(NameTakenError, self.site.join, Newcomer(), token, name="c1")
        self.site.join(Newcomer(), token)

    def test_a_place_that_nobody_has_or_that_the_root_has(self):
        self.site.join(Newcomer())
        token = self.site.token(replaces="c2")
        run(self.site.removal.remove("c2"))
        self.refused(ReplacedGoneError, self.site.join, Newcomer("c3", 3), token)
        self.refused(RootHolderLeavesError, self.site.join, Newcomer("c3", 3), self.site.token("c1"))

    def test_a_state_engine_that_is_alone(self):
        self.site.joining.growth = NoGrowth()
        token = self.site.token()
        said = self.refused(StateEngineAloneError, self.site.join, Newcomer(), token)
        self.assertIn('engine = "etcd"', said)
        self.site.joining.growth = self.site.growth
        self.site.join(Newcomer(), token)

    def test_a_state_engine_that_others_run_asks_for_no_ports_and_no_key(self):
        self.site.joining.growth = OutsideGrowth()
        none = {"state_client_port": 0, "state_peer_port": 0, "state_key": ""}
        answer = self.site.join(Newcomer(), **none)
        self.assertEqual(answer.state.members, {})
        self.site.join(Newcomer("c3", 3), **none)
        self.assertEqual(self.site.names(), ["c1", "c2", "c3"])

    def test_what_is_not_its_doing_costs_the_caller_nothing(self):
        self.site.growth.down = True
        for _ in range(100):
            self.assertRaises(StoreUnavailableError, self.site.join, Newcomer())
        self.assertNotIn("CONTROLLER_REFUSED", self.site.events.codes())

    def test_a_source_that_fails_again_and_again_waits(self):
        for _ in range(60):
            self.assertRaises(JoinTokenUnknownError, self.site.join, Newcomer(), "x")
        failure = self.assertRaises(TooManyJoinFailuresError, self.site.join, Newcomer(), "x")
        self.site.clock.advance(failure.retry_after_s)
        self.site.join(Newcomer())

    def test_whoever_has_no_root_key_says_who_has_it(self):
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        self.site.joining.holder = holder
        failure = self.assertRaises(RootElsewhereError, self.site.join, Newcomer())
        self.assertEqual((failure.holder, failure.addresses), ("c1", "192.0.2.1"))
        self.site.joining.holder = self.site.holder
        self.site.join(Newcomer())
        self.site.joining.holder = holder
        run(members.refresh())
        run(self.site.store.transact([], [Delete("root-holder")]))
        self.assertRaises(RootNowhereError, self.site.join, Newcomer("c3", 3))


class Tells(Case):
    def setUp(self):
        super().setUp()
        self.new = Newcomer()
        self.site.join(self.new)

    def test_what_has_changed_is_in_the_next_list(self):
        before = self.site.members.current.by_name("c2")
        other = line()
        self.site.tell(self.new, addresses=("c2.example",), ssh_port=2222, id_se=other)
        after = self.site.members.current.by_name("c2")
        self.assertEqual((after.addresses, after.ssh_port, after.id_se), (("c2.example",), 2222, other))
        self.assertEqual(after.node_certificate, before.node_certificate)
        self.assertEqual(self.site.members.current.revoked_serials, ())

    def test_nothing_new_makes_no_new_list(self):
        answer = self.site.tell(self.new)
        self.assertEqual(self.site.members.current.number, 2)
        self.assertIsNone(answer.state)
        self.assertTrue(answer.api_certificate)

    def test_a_certificate_that_nears_its_end_is_issued_anew_and_the_old_one_revoked(self):
        before = self.site.members.current.by_name("c2")
        self.patch(ca, "NODE_DAYS", 10_000)
        self.site.clock.advance(330 * 86400)
        self.site.tell(self.new)
        after = self.site.members.current.by_name("c2")
        self.assertNotEqual(after.node_certificate, before.node_certificate)
        serial = serial_of(before.node_certificate.encode())
        self.assertEqual(self.site.members.current.revoked_serials, (serial,))

    def test_who_is_no_member_or_has_another_key_is_refused(self):
        self.refused(NotMemberError, self.site.tell, Newcomer("c9", 9))
        self.refused(NodeKeyForeignError, self.site.tell, Newcomer())
        run(self.site.removal.remove("c2"))
        self.refused(NotMemberError, self.site.tell, self.new)

    def test_a_port_of_another_is_refused_to_a_member_too(self):
        self.refused(PortTakenError, self.site.tell, self.new, state_client_port=2379)

    def test_a_request_from_the_past_or_once_more_is_refused(self):
        body = self.new.body(self.site, ssh_port=2222)
        run(self.site.joining.judge(body, "10.0.0.2"))
        self.refused(RequestStaleError, lambda: run(self.site.joining.judge(body, "10.0.0.2")))
        old = self.new.body(self.site)
        self.site.clock.advance(REPLAY_S + 1)
        self.refused(RequestStaleError, lambda: run(self.site.joining.judge(old, "10.0.0.2")))
        self.site.clock.advance(2 * REPLAY_S)
        self.site.tell(self.new)
        self.assertEqual(len(self.site.joining._nonces), 1)


class Crashes(SynchronousTestCase):
    """Whatever is cut, the same bytes go on, and end in one truth."""

    def goes_on(self, site, body, new):
        site.store.heal()
        site.growth.down = False
        site.restart()
        answer = run(site.joining.judge(body, "10.0.0.2"))
        self.assertEqual(site.names(), ["c1", new.name])
        self.assertEqual(site.members.current, site.on_disk())
        self.assertEqual(site.members.current, site.in_store())
        self.assertEqual(set(answer.state.members), {"c1", new.name})
        self.assertEqual(site.growth.names, {"c1", new.name})

    def test_a_store_that_fails_at_each_call_before_or_after_it_did_its_work(self):
        for replaces in ("", "c2"):
            for committed in (False, True):
                done, call = False, 0
                while not done:
                    site = Site(self)
                    if replaces:
                        site.join(Newcomer())
                    new = Newcomer("c3", 3)
                    body = new.body(site, site.token(replaces))
                    site.store.fail_call(call, committed=committed)
                    calls = site.store.calls
                    judged = Deferred.fromCoroutine(site.joining.judge(body, "10.0.0.2"))
                    judged.addErrback(lambda f: f.trap(StoreUnavailableError))
                    site.clock.advance(1)
                    self.successResultOf(judged)
                    done = site.store.calls - calls <= call
                    with self.subTest(call=call, committed=committed, replaces=replaces):
                        self.goes_on(site, body, new)
                    call += 1
                self.assertGreater(call, 3)

    def test_a_kill_before_and_after_the_local_copy(self):
        for after in (False, True):
            site, new = Site(self), Newcomer()
            body = new.body(site, site.token())
            write = site.writes

            def die(path, data, write=write, after=after):
                if after:
                    write(path, data)
                raise Killed

            site.writes = die
            with self.assertRaises(Killed):
                run(site.joining.judge(body, "10.0.0.2"))
            self.assertEqual(site.heard, [])
            site.writes = write
            self.goes_on(site, body, new)

    def test_a_state_engine_that_does_not_answer_after_the_list_was_signed(self):
        site, new = Site(self), Newcomer()
        body = new.body(site, site.token())
        admit = site.growth.admit

        async def down(member, key):
            raise StoreUnavailableError(where="the state engine", detail="no quorum")

        site.growth.admit = down
        self.assertRaises(StoreUnavailableError, lambda: run(site.joining.judge(body, "10.0.0.2")))
        site.growth.admit = admit
        self.goes_on(site, body, new)


class Races(Case):
    def test_two_that_sign_at_once_never_sign_one_number_twice(self):
        members = self.site.members_of("c1", self.site.identity, self.site.state.parent / "other.jws")
        other = attrs.evolve(self.site.holder, members=members)
        run(members.open(self.site.store))
        self.site.join(Newcomer())
        me = msgspec.structs.replace(members.current.by_name("c1"), ssh_port=2222)
        run(other.tell(me))
        self.assertEqual(members.current.number, 3)
        self.assertEqual([c.name for c in members.current.controllers], ["c1", "c2"])

    def test_a_token_is_spent_once_by_whoever_comes_first(self):
        token = self.site.token()
        issue = ca.RootCa.issue_node
        first, second = Newcomer(), Newcomer("c3", 3)

        def late(root, *args):
            patcher.restore()
            self.site.joining._turn.release()  # as if another holder had it
            self.site.join(second, token)
            run(self.site.joining._turn.acquire())
            return issue(root, *args)

        patcher = self.patch(ca.RootCa, "issue_node", late)
        self.assertRaises(JoinTokenSpentError, self.site.join, first, token)
        self.assertEqual(self.site.names(), ["c1", "c3"])
