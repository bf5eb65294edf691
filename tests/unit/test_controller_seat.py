"""What only a leader does is done while it leads, and ended when it does not; a controller alone does it at once."""

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.fencing import NotLeaderError
from avinet.controller.leadership import Role
from avinet.controller.peers_memory import PeerHub
from avinet.controller.seat import HAND_OVER_S, Duty, OwnSeat, SharedSeat
from avinet.errors import AvinetError
from avinet.model.election import LEASE_S
from avinet.model.ids import ControllerName
from avinet.store.interface import Put, StoreUnavailableError
from avinet.store.memory import MemoryStore
from tests.unit.following_kit import NOW, Link


class Case(SynchronousTestCase):
    def setUp(self):
        self.done = []
        self.clock = Clock()
        self.clock.advance(NOW)
        self.memory = MemoryStore(self.clock)

    def duty(self, name, waits=None, fails=False):
        async def begin():
            self.done.append(f"begin {name}")
            if waits is not None:
                await waits
            if fails:
                raise StoreUnavailableError(where="test", detail="no")

        return Duty(name, begin, lambda: self.done.append(f"end {name}"))

    async def prepared(self, term):
        self.done.append(f"prepare {term}")

    def do(self, work):
        return self.successResultOf(Deferred.fromCoroutine(work))

    def turn(self, seconds=0.0, step=0.1):
        for _ in range(8 if not seconds else round(seconds / step)):
            self.clock.advance(step if seconds else 0)


class Behind:
    """Something that is still to be read."""

    def __init__(self):
        self.behind_s = 0.0
        self.read = Deferred()

    async def settled(self):
        await self.read


class Own(Case):
    def test_everything_is_done_when_it_is_given_and_nothing_is_watched(self):
        seat = OwnSeat(Link(self.memory), ControllerName("a"))
        self.do(seat.prepare(self.prepared))
        self.do(seat.duty(self.duty("x")))
        self.do(seat.duty(self.duty("y")))
        self.do(seat.sit())
        self.assertEqual(self.done, ["prepare 0", "begin x", "begin y"])
        self.assertEqual(seat.role, Role(leads=True, leader="a"))
        self.assertEqual((seat.stale_s, seat.store._watchers, self.clock.getDelayedCalls()), (0.0, [], []))
        self.do(seat.stop())
        self.assertEqual(self.done[3:], ["end y", "end x"])


class Shared(Case):
    def setUp(self):
        super().setUp()
        self.hub = PeerHub("a", "b", "c")
        self.link = Link(self.memory)
        self.seat = SharedSeat(self.link, self.hub.peers("a"), self.clock)
        self.do(self.seat.prepare(self.prepared))
        self.waiting = Deferred()
        for duty in (self.duty("x"), self.duty("broken", fails=True), self.duty("y", self.waiting)):
            self.do(self.seat.duty(duty))
        self.assertEqual(self.done, [])

    def sit(self, seat=None):
        sitting = Deferred.fromCoroutine((seat or self.seat).sit())
        self.turn()
        self.successResultOf(sitting)

    def test_it_is_not_ready_before_it_has_read_what_it_was_told_of(self):
        behind = Behind()
        self.seat.wait_for(behind)
        sitting = Deferred.fromCoroutine(self.seat.sit())
        self.turn()
        self.assertNoResult(sitting)
        behind.read.callback(None)
        self.successResultOf(sitting)

    def test_nobody_has_caught_up_before_all_is_read_and_what_is_known_is_as_old_as_that(self):
        self.sit()
        behind = Behind()
        self.seat.wait_for(behind)
        behind.behind_s = 7.5
        self.assertEqual(self.seat.stale_s, 7.5)
        waiting = Deferred.fromCoroutine(self.seat.caught_up(self.seat.revision))
        self.assertNoResult(waiting)
        behind.read.callback(None)
        self.successResultOf(waiting)

    def test_they_wait_until_it_leads_and_one_that_fails_stops_no_other(self):
        self.sit()
        self.waiting.callback(None)
        self.assertEqual(self.done, ["prepare 1", "begin x", "begin broken", "begin y"])

    def test_they_end_when_another_leads_also_those_that_have_not_begun_whole(self):
        self.sit()
        self.done.clear()
        other = SharedSeat(Link(self.memory), self.hub.peers("b"), self.clock)
        self.sit(other)
        self.turn(6)
        self.hub.cut("a")
        self.turn()
        self.assertEqual(self.done, ["end y", "end broken", "end x"])
        self.assertFalse(self.seat.role.leads)
        self.assertEqual(self.seat.role.leader, "b")
        self.do(other.stop())

    def test_they_begin_anew_in_the_next_term(self):
        self.sit()
        self.link.cut = True
        self.link.lose_watch()
        self.turn(LEASE_S + 1)
        self.assertEqual(self.done[-3:], ["end y", "end broken", "end x"])
        self.link.cut = False
        self.turn(8)
        self.assertEqual(self.done[7:9], ["prepare 2", "begin x"])

    def test_it_writes_while_it_leads_and_says_so_otherwise(self):
        refused = self.failureResultOf(self.seat.store.transact([], [Put("k", b"")]), AvinetError)
        self.assertIsInstance(refused.value, NotLeaderError)
        self.sit()
        done = self.seat.store.transact([], [Put("k", b"")])
        self.turn()
        self.assertTrue(self.successResultOf(done).followed)

    def test_a_silent_store_is_said_once_and_when_it_is_back(self):
        said = []
        self.seat.following.listen(said.append)
        self.sit()
        self.turn(5)
        self.assertEqual(said, [])
        self.link.cut = True
        self.link.hold()
        self.turn(10)
        self.assertEqual(said, [False])
        self.assertGreater(self.seat.stale_s, 9)
        self.assertIn("has not answered", self.seat.role.why)
        self.link.cut = False
        self.link.let_go()
        self.turn(2)
        self.assertEqual(said, [False, True])

    def test_a_controller_that_was_paused_does_not_take_the_store_for_silent(self):
        said = []
        self.seat.following.listen(said.append)
        self.sit()
        self.clock.advance(60)
        self.turn(1)
        self.assertEqual(said, [])

    def test_whoever_sits_is_ready_once_somebody_leads_and_does_not_wait_for_ever(self):
        waits = Deferred()

        async def prepare(term):
            await waits

        self.do(self.seat.prepare(prepare))
        sitting = Deferred.fromCoroutine(self.seat.sit())
        self.turn(LEASE_S)
        self.assertNoResult(sitting)
        self.turn(2)
        self.successResultOf(sitting)
        waits.callback(None)
        self.turn()
        self.assertTrue(self.seat.role.leads)

    def test_who_led_when_the_store_was_heard_last_is_not_said_to_lead_when_it_is_silent(self):
        other = SharedSeat(Link(self.memory), self.hub.peers("b"), self.clock)
        self.sit(other)
        self.sit()
        self.assertEqual(self.seat.role.leader, "b")
        self.link.cut = True
        self.turn(6)
        self.assertEqual((self.seat.role.leader, self.seat.role.leads), (None, False))
        self.link.cut = False
        self.turn(2)
        self.assertEqual(self.seat.role.leader, "b")
        self.do(other.stop())

    def test_whoever_led_leaves_once_another_leads_and_still_knows_whom_to_ask(self):
        other = SharedSeat(Link(self.memory), self.hub.peers("b"), self.clock)
        waits = Deferred()

        async def prepare(term):
            await waits

        self.sit()
        self.do(other.prepare(prepare))
        sitting = Deferred.fromCoroutine(other.sit())
        self.turn()
        self.successResultOf(sitting)
        self.done.clear()
        leaving = Deferred.fromCoroutine(self.seat.hand_over())
        self.assertEqual(self.done, ["end y", "end broken", "end x"])
        self.turn()
        waits.callback(None)
        self.turn(1)
        self.successResultOf(leaving)
        self.assertEqual((self.seat.role.leader, self.seat.role.leads), ("b", False))
        self.assertTrue(other.role.leads)
        self.do(other.stop())

    def test_where_nobody_takes_the_lead_it_is_not_waited_for_long(self):
        self.sit()
        leaving = Deferred.fromCoroutine(self.seat.hand_over())
        self.turn(HAND_OVER_S - 0.5)
        self.assertNoResult(leaving)
        self.turn(1)
        self.successResultOf(leaving)

    def test_who_follows_leaves_at_once(self):
        other = SharedSeat(Link(self.memory), self.hub.peers("b"), self.clock)
        self.sit(other)
        self.sit()
        self.do(self.seat.hand_over())
        self.assertEqual(self.seat.role.leader, "b")
        self.do(other.stop())

    def tearDown(self):
        self.do(self.seat.stop())
        self.memory.close()
        self.assertEqual(self.clock.getDelayedCalls(), [])
