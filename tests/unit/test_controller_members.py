"""The membership list between the store, the local file and whoever lives by it; and how a controller leaves it."""

import attrs
import msgspec
from twisted.internet.defer import Deferred, fail
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.following import Following
from avinet.controller.removal import ControllerNotFoundError
from avinet.controller.root_holder import (
    ELECTION_S,
    MembershipBusyError,
    RootElsewhereError,
    RootHolderLeavesError,
)
from avinet.store.interface import CompactedError, Delete, Put, StoreUnavailableError
from avinet.trust.ca import RootKeyOfflineError, serial_of
from avinet.trust.files import DiskFullError
from avinet.trust.jose import BadDocumentError
from avinet.trust.membership import ControllerRemovedError, sign_membership
from avinet.trust.node import ControllerIdentity
from tests.unit.cluster_kit import FACTS, Newcomer, Site
from tests.unit.enrolment_kit import run
from tests.unit.signing_kit import root_in_memory


class Case(SynchronousTestCase):
    def setUp(self):
        self.site = Site(self)

    def agree(self):
        """Store, file and memory say the same."""
        self.assertEqual(self.site.members.current, self.site.on_disk())
        self.assertEqual(self.site.members.current, self.site.in_store())
        return self.site.members.current

    def put(self, document):
        run(self.site.store.transact([], [Put("membership", document.encode())]))

    def signed(self, number, **more):
        (me,) = self.site.members.current.controllers
        changed = msgspec.structs.replace(
            self.site.members.current, number=number, controllers=(msgspec.structs.replace(me, **more),)
        )
        return sign_membership(self.site.identity.root.key, changed)


class Starts(Case):
    def test_a_release_that_had_no_list_in_the_store_left_one_in_the_file(self):
        run(self.site.store.transact([], [Delete("membership")]))
        self.site.restart()
        self.assertEqual(self.agree().number, 1)

    def test_nothing_new_is_written_nowhere(self):
        before = run(self.site.store.get("membership")).revision
        writes = self.site.store.writes
        self.site.restart()
        self.assertEqual((self.agree().number, self.site.heard), (1, []))
        self.assertEqual(run(self.site.store.get("membership")).revision, before)
        self.assertEqual(self.site.store.writes, writes)

    def test_what_only_the_store_outlived_is_taken_up(self):
        self.put(self.signed(7))
        self.site.restart()
        self.assertEqual((self.agree().number, self.site.heard), (7, [(1, 7)]))

    def test_a_file_that_is_newer_goes_into_the_store(self):
        self.site.facts = attrs.evolve(FACTS, state_client_port=0, state_peer_port=0, ssh_port=2222)
        run(self.site.holder.tell(msgspec.structs.replace(self.site.identity.me, state_client_port=0)))
        made = ControllerIdentity.init(self.site.state, self.site.facts)
        self.assertEqual(made.membership.number, 3)
        self.site.restart()
        self.assertEqual(self.agree().number, 3)

    def test_two_of_one_number_are_both_passed_by_the_next(self):
        self.put(self.signed(1, ssh_port=2222))
        self.site.restart()
        self.assertEqual(self.agree().number, 2)
        self.assertEqual(self.site.members.current.by_name("c1"), self.site.identity.me)

    def test_a_changed_address_is_in_the_next_list_once_the_store_is_there(self):
        self.site.facts = attrs.evolve(FACTS, addresses=("192.0.2.9",))
        self.site.restart()
        self.assertEqual(self.agree().by_name("c1").addresses, ("192.0.2.9",))
        self.assertEqual(self.site.heard, [(1, 2)])

    def test_alone_without_its_root_key_it_says_so(self):
        self.site.identity.paths.root_key.unlink()
        self.site.restart()
        self.site.facts = attrs.evolve(FACTS, addresses=("192.0.2.9",))
        self.assertRaises(RootKeyOfflineError, self.site.restart)

    def test_a_list_that_another_root_signed_is_an_event_and_no_start(self):
        self.put(sign_membership(root_in_memory().key, self.site.members.current))
        self.assertRaises(BadDocumentError, self.site.restart)

    def test_the_store_names_who_has_the_root_key(self):
        self.assertEqual(run(self.site.holder.name()), "c1")
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        self.assertEqual(run(holder.name()), "c1")
        self.site.identity.paths.root_key.unlink()
        self.site.restart()
        self.assertIsNone(run(holder.name()))
        self.assertIsNone(run(self.site.holder.name()))
        self.assertEqual(members.current.number, 1)


class Follows(Case):
    def setUp(self):
        super().setUp()
        self.members, self.holder, self.path = self.site.other()
        self.heard = []
        self.members.listen(lambda before, after: self.heard.append(after.number))
        run(self.members.open(self.site.store))
        self.following = Following(self.site.store, self.site.clock)
        self.following.add(self.members)
        run(self.following.start())
        self.addCleanup(self.following.stop)
        self.site.clock.advance(0)

    def joins(self, *args):
        self.site.join(Newcomer(*args))
        self.site.clock.advance(0)

    def test_what_another_signs_comes_through_the_store_and_is_durable_before_it_is_told(self):
        self.members.listen(lambda before, after: self.assertIn(self.members.document, self.path.read_text()))
        self.joins()
        self.assertEqual((self.members.current, self.heard), (self.site.members.current, [2]))

    def test_a_watch_that_was_lost_is_begun_anew_and_nothing_is_missed(self):
        self.following._watch.cancel()
        self.following._lost(CompactedError(revision=1))
        self.joins()
        self.site.clock.advance(60)
        self.assertEqual(self.heard, [2])

    def test_what_no_root_signed_is_refused_and_told_and_the_next_one_is_taken(self):
        self.put("nonsense")
        self.site.clock.advance(0)
        self.assertEqual((self.heard, self.members.current.number), ([], 1))
        self.assertIn("MEMBERSHIP_REFUSED", self.site.events.codes())
        self.put(self.signed(2))
        self.site.clock.advance(0)
        self.assertEqual(self.heard, [2])

    def test_an_older_one_is_nothing_to_take(self):
        self.put(self.signed(5))
        self.put(self.signed(3))
        self.site.clock.advance(0)
        self.assertEqual((self.members.current.number, self.heard), (5, [5]))

    def test_a_full_disk_keeps_the_list_from_being_told_until_it_is_durable(self):
        real = self.site.writes

        def full(path, data):
            if path == self.path:
                raise DiskFullError(path=path)
            real(path, data)

        self.site.writes = full
        self.joins()
        self.assertEqual((self.heard, self.members.current.number), ([], 1))
        self.site.writes = real
        run(self.members.refresh())
        self.assertEqual(self.heard, [2])

    def test_a_listener_that_fails_keeps_nobody_from_hearing(self):
        told = []
        self.members.listen(lambda before, after: 1 / 0)
        self.members.listen(lambda before, after: told.append(after.number))
        self.joins()
        self.assertEqual(told, [2])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_the_removed_one_hears_it_and_its_next_start_ends_with_a_clear_word(self):
        self.joins()
        self.assertTrue(self.members.is_member)
        run(self.site.removal.remove("c2"))
        self.site.clock.advance(0)
        self.assertFalse(self.members.is_member)
        self.assertEqual(self.heard, [2, 3])
        self.site.identity.paths.membership.write_text(self.signed_without_me())
        failure = self.assertRaises(ControllerRemovedError, self.site.restart)
        self.assertIn("c1 was removed from the cluster by membership list 9", str(failure))

    def signed_without_me(self):
        gone = msgspec.structs.replace(self.site.members.current, number=9, controllers=())
        return sign_membership(self.site.identity.root.key, gone)


class Leaves(Case):
    def setUp(self):
        super().setUp()
        self.site.join(Newcomer())
        self.site.join(Newcomer("c3", 3))

    def remove(self, name):
        return run(self.site.removal.remove(name))

    def test_whoever_leaves_is_revoked_and_out_of_the_state_engine(self):
        serial = serial_of(self.site.members.current.by_name("c2").node_certificate.encode())
        removed = self.remove("c2")
        self.assertEqual((removed.name, removed.membership), ("c2", 4))
        self.assertIn("2 controllers", removed.warnings[0])
        self.assertEqual(self.agree().revoked_serials, (serial,))
        self.assertEqual(self.site.growth.names, {"c1", "c3"})
        self.assertEqual(self.site.heard[-1], (3, 4))
        self.assertIn("CONTROLLER_REMOVED", self.site.events.codes())

    def test_the_last_but_one_leaves_a_cluster_of_a_good_size(self):
        self.remove("c2")
        self.assertEqual(self.remove("c3").warnings, ())

    def test_nobody_of_that_name_and_the_root_itself(self):
        self.assertRaises(ControllerNotFoundError, self.remove, "c9")
        self.assertRaises(RootHolderLeavesError, self.remove, "c1")
        self.assertEqual(self.site.members.current.number, 3)

    def test_another_than_the_root_holder_says_who_that_is(self):
        members, holder, _ = self.site.other()
        run(members.open(self.site.store))
        removal = attrs.evolve(self.site.removal, holder=holder)
        failure = self.assertRaises(RootElsewhereError, lambda: run(removal.remove("c2")))
        self.assertEqual(failure.holder, "c1")

    def test_it_is_out_of_the_state_engine_before_it_can_hear_of_it(self):
        self.site.members.listen(lambda before, after: self.assertNotIn("c2", self.site.growth.names))
        self.remove("c2")
        self.assertEqual(self.site.heard[-1], (3, 4))

    def test_a_state_engine_that_does_not_answer_leaves_everything_as_it_was(self):
        self.site.growth.down = True
        self.assertRaises(StoreUnavailableError, self.remove, "c2")
        self.assertEqual((self.agree().number, self.site.growth.names), (3, {"c1", "c2", "c3"}))
        self.site.growth.down = False
        self.remove("c2")
        self.assertRaises(ControllerNotFoundError, self.remove, "c2")

    def test_a_store_that_fails_at_each_call_leaves_nothing_half_done(self):
        for committed in (False, True):
            for call in range(3):
                site = Site(self)
                site.join(Newcomer())
                site.store.fail_call(call, committed=committed)
                done = Deferred.fromCoroutine(site.removal.remove("c2")).addErrback(lambda f: f.value)
                site.clock.advance(1)
                site.store.heal()
                if isinstance(self.successResultOf(done), StoreUnavailableError):
                    run(site.removal.remove("c2"))
                with self.subTest(call=call, committed=committed):
                    self.assertEqual((site.names(), site.growth.names), (["c1"], {"c1"}))
                    self.assertEqual(site.on_disk(), site.in_store())

    def test_a_state_engine_that_elects_a_leader_meanwhile_is_waited_for_and_not_for_ever(self):
        for down_s, expected in ((5, ["c1", "c3"]), (2 * ELECTION_S, ["c1", "c2", "c3"])):
            site = Site(self)
            site.join(Newcomer())
            site.join(Newcomer("c3", 3))
            dismiss, real = site.growth.dismiss, site.store.transact

            async def then_elect(name, site=site, dismiss=dismiss):
                await dismiss(name)
                down = StoreUnavailableError(where="etcd", detail="no leader")
                site.store.transact = lambda *args: fail(down)

            site.growth.dismiss = then_elect
            done = Deferred.fromCoroutine(site.removal.remove("c2")).addErrback(lambda f: f.value)
            site.clock.pump([1.0] * int(down_s))
            site.store.transact = real
            site.clock.advance(1)
            self.successResultOf(done)
            self.assertEqual((site.names(), site.growth.names), (expected, {"c1", "c3"}))

    def test_a_list_that_never_stays_is_given_up(self):
        async def never(*args):
            return False

        self.patch(type(self.site.members), "publish", never)
        self.assertRaises(MembershipBusyError, self.remove, "c2")
