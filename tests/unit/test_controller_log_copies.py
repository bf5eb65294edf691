"""Nothing is acknowledged to a service engine before a peer has it, and each segment counts once, whatever goes away when."""

from avinet.controller.log_copies import WithoutPeer
from avinet.controller.log_copy_link import SILENCE_S
from avinet.controller.log_keeper import LOOK_S
from tests.unit.log_copy_kit import SPOOL, Cluster


class Copied(Cluster):
    def test_a_segment_is_acknowledged_once_the_next_peer_has_it_and_counts_there_soon_after(self):
        self.a.send(1)
        self.assertEqual(self.b.kept(self.a.store, "held"), [1])
        self.assertEqual((self.a.acked(), self.a.has), ([1], [1]))
        self.settle()
        self.assertEqual((self.b.kept(self.a.store, "held"), self.b.kept(self.a.store)), ([], [1]))
        self.assertEqual((self.c.kept(self.a.store), self.b.set_of(self.a).service.arrivals), ([], 1))
        self.assertFalse(self.a.rows.owed("b"))
        self.assertEqual(self.b.peers.said("b")["log-copies"][self.a.store], "a")
        self.assertEqual(self.a.rows.keepers(), {"": 0, "b": 1})

    def test_batches_and_large_segments_are_copied_as_they_are(self):
        self.a.send_batch(1, 2, 3)
        self.a.send(4, size=600_000)
        self.assertEqual(self.a.acked(), [1, 2, 3, 4])
        self.settle()
        self.assertEqual(self.b.kept(self.a.store), [1, 2, 3, 4])
        copied = [name for name in self.files(self.b) if "received" in name]
        self.assertEqual(copied, [f"copies/{self.a.store}/{name}" for name in self.files(self.a)])
        for name in self.files(self.a):
            one = (self.a.folder / name).read_bytes()
            self.assertEqual((self.b.copies_folder / self.a.store / name).read_bytes(), one)

    def test_each_has_its_keeper(self):
        for number, member in enumerate(self.members.values(), 1):
            member.send(number)
            self.assertEqual(member.acked(), [number])
        self.settle()
        self.assertEqual(self.b.kept(self.a.store), [1])
        self.assertEqual(self.c.kept(self.b.store), [2])
        self.assertEqual(self.a.kept(self.c.store), [3])

    def test_what_the_spool_let_go_of_is_forgotten_by_keepers_too_but_not_what_they_have_not_heard_of(self):
        self.a.send(1, 2)
        self.a.intake.spool(self.a.channel.link, self.a.intake.spools["se-9"], SPOOL, 2_000)
        self.assertEqual(self.b.kept(self.a.store, "held"), [1, 2])
        self.settle()
        with self.b.set_of(self.a).logs.ledger.reading() as connection:
            below = [row[0] for row in connection.execute("SELECT known_below FROM spool")]
        self.assertEqual(below, [1])


class AKeeperGoes(Cluster):
    def test_before_it_has_answered_the_next_one_is_asked_and_the_first_drops_what_it_held_when_it_is_back(
        self,
    ):
        self.b.steps.then(1, lambda: self.hub.cut("a", "b"), "after")  # it is written: hold is the next step
        self.b.steps.then(2, lambda: None)
        self.a.send(1)
        self.assertEqual(self.a.acked(), [1])
        self.settle()
        self.assertEqual(self.kept_of(self.a.store), [1])
        self.assertEqual(self.c.kept(self.a.store), [1])
        self.hub.heal("a", "b")
        self.settle()
        self.assertEqual((self.b.kept(self.a.store), self.b.kept(self.a.store, "held")), ([], []))
        self.a.send(2)
        self.settle()
        self.assertEqual((self.b.kept(self.a.store), self.c.kept(self.a.store)), ([2], [1]))

    def test_that_is_silent_is_left_after_a_while(self):
        self.b.steps.then(1, lambda: setattr(self.b.steps, "dead", True))
        self.a.send(1)
        self.assertEqual(self.a.acked(), [])
        self.settle(int(SILENCE_S) + 4)
        self.assertEqual(self.a.acked(), [1])
        self.assertEqual(self.c.kept(self.a.store), [1])

    def test_that_has_no_room_is_left_at_once(self):
        self.b.set_of(self.a).logs.limits = type(self.b.set_of(self.a).logs.limits)(1, 1, 0)
        self.a.send(1)
        self.assertEqual(self.a.acked(), [1])
        self.settle()
        self.assertEqual((self.b.kept(self.a.store), self.c.kept(self.a.store)), ([], [1]))

    def test_for_good_its_copies_count_as_none(self):
        self.a.send(1, 2)
        self.settle()
        self.kill("b")
        del self.hub._peers["b"]
        self.settle(4)
        self.assertEqual(self.a.rows.keepers(), {"": 2})
        self.assertEqual(self.c.keeper.uncopied(self.a.store).records, 2)

    def test_and_comes_with_nothing_its_copies_count_as_none(self):
        self.a.send(1)
        self.settle()
        self.kill("b")
        (self.folder / "b").rename(self.folder / "old")
        self.restart("b")
        self.assertEqual(self.a.rows.uncopied().records, 1)
        self.assertEqual(self.b.keeper.uncopied(self.a.store).records, 1)


class TheOwnerGoes(Cluster):
    def test_what_was_acknowledged_counts_with_its_keeper_though_that_had_not_heard_of_it(self):
        self.a.send(1)
        self.assertEqual(self.a.acked(), [1])
        store = self.a.store
        self.kill("a")
        self.assertEqual(self.b.kept(store, "held"), [1])
        self.settle(5)
        self.assertEqual((self.b.kept(store), self.c.kept(store, "placed")), ([1], [1]))

    def test_it_stays_held_while_a_member_cannot_be_asked(self):
        self.a.send(1)
        store = self.a.store
        self.kill("a")
        self.kill("c")
        self.settle(5)
        self.assertEqual(self.b.kept(store, "held"), [1])
        self.restart("c")
        self.settle(5)
        self.assertEqual(self.b.kept(store), [1])

    def test_nothing_is_settled_while_another_sees_it(self):
        self.a.send(1)
        self.hub.cut("a", "b")
        self.settle(8)
        self.assertEqual(self.b.kept(self.a.store, "held"), [1])

    def test_and_comes_back_with_the_segment_copied_again_it_counts_once(self):
        # It died before it noted that the keeper had it; the keeper says that it counts, and may not be there then.
        self.a.ledger.receive = lambda arrivals: self.kill("a")
        self.a.send(1)
        store = self.b.keeper.sets and next(
            s for s, one in self.b.keeper.sets.items() if one.controller == "a"
        )
        self.settle(5)
        self.assertEqual(self.b.kept(store), [1])
        # However long it was away: who yielded the copy has nothing else of that store.
        self.settle(int(2 * LOOK_S))
        self.hub.cut("b")
        self.restart("a", heal=False)
        self.hub.heal("a", "c")
        self.settle()
        self.a.send(1)
        self.assertEqual(self.a.acked(), [1])
        self.settle()
        self.assertEqual((self.a.has, self.c.kept(store), self.b.kept(store)), ([1], [], [1]))


class Alone(Cluster):
    def test_nothing_is_acknowledged_and_engines_are_told_until_there_is_a_peer(self):
        self.a.se()
        self.hub.cut("a")
        self.settle(8)
        self.a.send(1)
        self.settle()
        self.assertEqual((self.a.acked(), self.a.channel.held, self.a.events), ([], True, ["LOGS_HELD"]))
        self.hub.heal("a", "b", "c")
        self.settle()
        self.assertEqual((self.a.acked(), self.a.channel.held), ([1], False))
        self.assertEqual(self.a.events, ["LOGS_HELD", "LOGS_COPIED_AGAIN"])


class AloneAndSingle(Cluster):
    without_peer = WithoutPeer.SINGLE

    def test_it_is_acknowledged_and_counts_as_copied_nowhere_which_its_keeper_hears(self):
        self.hub.cut("a")
        self.a.send(1)
        self.assertEqual(self.a.acked(), [])
        self.settle(8)
        self.assertEqual((self.a.acked(), self.a.events), ([1], ["LOGS_NOT_COPIED"]))
        self.a.send(2)
        self.assertEqual((self.a.acked(), self.a.channel.held), ([1, 2], False))
        self.hub.heal("a", "b", "c")
        self.settle()
        self.assertEqual(self.b.keeper.uncopied(self.a.store).records, 2)
        self.assertEqual(self.b.keeper.uncopied(self.a.store).newest_us, 2)
        self.a.send(3)
        self.settle()
        self.assertEqual((self.b.kept(self.a.store), self.a.rows.uncopied().records), ([3], 2))


class OneInTheList(Cluster):
    names = ("a",)

    def test_nothing_is_copied_nor_noted_and_what_was_there_is_uncopied_once_there_are_others(self):
        self.a.send(1, 2)
        self.assertEqual((self.a.acked(), self.a.rows.keepers()), ([1, 2], {}))
        self.settle(10)
        self.assertEqual(self.a.events, [])
        other = self.restart("b")
        self.assertEqual(other.keeper.uncopied(self.a.store).records, 2)
        self.a.send(3)
        self.settle()
        self.assertEqual((self.a.acked(), other.kept(self.a.store)), ([1, 2, 3], [3]))


class Elsewhere(Cluster):
    """A segment that was begun with a controller that is no more."""

    def setUp(self):
        super().setUp()
        self.a.send(1)
        self.a.send_batch(2, 3)
        self.settle()
        self.store = self.a.store
        self.kill("a")
        del self.hub._peers["a"]
        self.settle(4)

    def test_it_is_acknowledged_and_not_taken_where_a_copy_has_it(self):
        self.c.send(1, was=self.store)
        self.assertEqual((self.c.acked(), self.c.has), ([1], []))
        self.b.send_batch(2, 3, was="?")
        self.assertEqual((self.b.acked(), self.b.has), ([2, 3], []))
        self.assertEqual(self.files(self.c), [])

    def test_it_is_taken_where_nobody_has_it(self):
        self.c.send(4, was=self.store)
        self.assertEqual((self.c.acked(), self.c.has), ([4], [4]))

    def test_of_a_batch_of_both_the_others_come_again(self):
        self.c.send_batch(3, 4, was=self.store)
        self.assertEqual((self.c.acked(), self.c.channel.refused), ([3], [(4, "later")]))
        self.c.send(4, was=self.store)
        self.assertEqual(self.c.acked(), [3, 4])

    def test_it_comes_again_later_while_a_member_cannot_be_asked(self):
        self.kill("b")
        self.c.send(4, was=self.store)
        self.c.clock.advance(30)
        self.c.acked()
        self.assertEqual(self.c.channel.refused, [(4, "later")])


class AtEveryStep(Cluster):
    """An SE sends to one controller, pinned; one thing happens at one of the steps of one of the controllers' threads."""

    def run_with(self, arrange):
        """What an SE has been told, and where each segment counts, of the owner's store and of the copies of it."""
        store = self.a.store
        arrange()
        told = set()
        self.send(told, 1, batch=(2, 3))
        self.settle(4)
        for name in self.members:
            self.hub.heal(name, *self.members)
        self.settle(3)
        for name in self.names:
            if name not in self.members:
                self.restart(name)
        # What has no answer is sent again, to the same store.
        self.send(told, *sorted({1, 2, 3, 4} - told))
        self.settle(3)
        told.update(self.a.acked())
        self.assertEqual((sorted(told), self.a.has), ([1, 2, 3, 4], [1, 2, 3, 4]))
        self.assertEqual(self.a.store, store)
        self.assertEqual((self.kept_of(store), self.held_of(store)), ([1, 2, 3, 4], []))
        self.kill("a")
        self.settle(5)
        self.assertEqual(self.kept_of(store), [1, 2, 3, 4])

    def send(self, told, *counters, batch=()):
        if "a" not in self.members:
            return
        self.a.send(*counters)
        if batch and "a" in self.members:
            self.a.send_batch(*batch)
        if "a" in self.members:
            told.update(self.a.acked())

    def held_of(self, store):
        return [counter for member in self.members.values() for counter in member.kept(store, "held")]

    def steps_of(self, name):
        """How many steps a run has that nothing happens to."""
        before = self.members[name].steps.count
        self.send(set(), 1, batch=(2, 3))
        self.settle(4)
        steps = self.members[name].steps.count - before
        self.doCleanups()
        return steps

    def each(self, name, happens, times=("before",)):
        for step in range(self.steps_of(name)):
            for when in times:
                self.setUp()
                with self.subTest(step=step, when=when):
                    self.run_with(lambda: self.members[name].steps.then(step, happens, when))  # noqa: B023 - run at once
                self.doCleanups()

    def test_the_owner_dies(self):
        self.each("a", lambda: self.kill("a"), ("before", "after"))

    def test_the_keeper_dies(self):
        self.each("b", lambda: self.kill("b"), ("before", "after"))

    def test_the_link_breaks_at_the_owner(self):
        self.each("a", lambda: self.hub.cut("a", "b"))

    def test_the_link_breaks_at_the_keeper(self):
        self.each("b", lambda: self.hub.cut("a", "b"))

    def test_the_owner_is_cut_off(self):
        self.each("a", lambda: self.hub.cut("a"))
