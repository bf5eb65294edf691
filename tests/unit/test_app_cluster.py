"""A controller's own part of its cluster, put together."""

import contextlib

import attrs
import msgspec
from twisted.internet.defer import execute
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cluster import Cluster
from avinet.controller import members as members_module
from avinet.controller.growth import NoGrowth
from avinet.store.interface import Put
from avinet.store.memory import MemoryStore
from avinet.trust.ca import RootKeyOfflineError
from avinet.trust.membership import ControllerRemovedError, sign_membership
from avinet.trust.node import ControllerIdentity
from tests.unit.cluster_kit import FACTS, Site
from tests.unit.enrolment_kit import Events, run


class Opening(SynchronousTestCase):
    def setUp(self):
        self.patch(members_module.LocalCopy, "write", lambda copy, document: execute(len, document))
        self.site = Site(self)
        self.identity, self.clock = self.site.identity, self.site.clock
        self.removed, self.events = [], Events()
        self.store = MemoryStore(self.clock)

    def cluster(self, **facts):
        changed = attrs.evolve(FACTS, **facts)
        self.identity = ControllerIdentity.init(self.site.state, changed, sign=False)
        return Cluster(self.identity, changed, self.clock, self.events.emit, self.removed.append)

    def without_me(self):
        gone = msgspec.structs.replace(self.identity.membership, number=9, controllers=())
        return sign_membership(self.identity.root.key, gone)

    def test_the_store_has_the_list_and_who_can_sign_the_next(self):
        cluster = self.cluster()
        run(cluster.open(self.store, NoGrowth()))
        self.assertEqual(run(self.store.get("membership")).value.decode(), cluster.members.document)
        self.assertEqual(run(self.store.get("root-holder")).value, b"c1")
        self.assertEqual(self.removed, [])

    def test_what_settings_say_now_is_in_the_list_before_anything_listens(self):
        cluster = self.cluster(ssh_port=2222)
        self.assertEqual(cluster.members.current.by_name("c1").ssh_port, 22)
        run(cluster.open(self.store, NoGrowth()))
        self.assertEqual(cluster.members.current.by_name("c1").ssh_port, 2222)

    def test_without_the_root_key_a_changed_address_is_no_start_and_the_same_one_is(self):
        self.identity.paths.root_key.unlink()
        run(self.cluster().open(self.store, NoGrowth()))
        failure = self.assertRaises(
            RootKeyOfflineError, lambda: run(self.cluster(ssh_port=2222).open(self.store, NoGrowth()))
        )
        self.assertIn("Bring it back", str(failure))

    def test_one_that_the_store_says_is_removed_ends_and_says_so(self):
        run(self.store.transact([], [Put("membership", self.without_me().encode())]))
        failure = self.assertRaises(
            ControllerRemovedError, lambda: run(self.cluster().open(self.store, NoGrowth()))
        )
        self.assertEqual((failure.name, failure.number), ("c1", 9))
        self.assertEqual([type(why) for why in self.removed], [ControllerRemovedError])

    def test_one_that_hears_it_later_ends_too(self):
        cluster = self.cluster()
        run(cluster.open(self.store, NoGrowth()))
        run(cluster.members.take(self.without_me()))
        self.assertIn("removed from the cluster by membership list 9", str(self.removed[0]))

    def test_alone_it_asks_nobody_for_lists_and_leaves_nothing_behind(self):
        async def use():
            async with contextlib.AsyncExitStack() as stack:
                self.cluster().watch(stack)

        before = self.clock.getDelayedCalls()
        run(use())
        self.assertEqual(self.clock.getDelayedCalls(), before)
