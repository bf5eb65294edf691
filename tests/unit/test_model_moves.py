"""Planned moves: whoever takes over serves before whoever had it lets go, in whatever order things happen."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from twisted.trial.unittest import SynchronousTestCase

from avinet.model.config import DEFAULT_GROUP, WhenShort
from avinet.model.ids import ObjectId, SeId
from avinet.model.moves import UNSURE_S, Moves
from avinet.model.placement import Engine, place
from tests.unit.test_model_placement import configuration, group, service

V = ObjectId("virtualservice-1")
A, B, C = (SeId(f"se-{name}") for name in "abc")
DRAIN_S = 30.0


def engine(se, usable=True, drains=True, in_group=DEFAULT_GROUP):
    return Engine(se, in_group, usable, drains=drains)


class Case(SynchronousTestCase):
    """``target`` says where the one virtual service goes; ``take`` has an SE acknowledge what it is to have."""

    def setUp(self):
        self.moves = Moves()
        self.now = 0.0
        self.things = (group(drain_s=DRAIN_S), service(1))
        self.engines = {se: engine(se) for se in (A, B, C)}
        self.where = ()

    def target(self, *where, **engines):
        self.where = where
        self.engines.update({SeId(f"se-{name}"): value for name, value in engines.items()})
        placement = {se: frozenset({V} if se in where else ()) for se in self.engines}
        self.moves.retarget(configuration(*self.things), placement, self.engines.values(), self.now)

    def come(self, *ses):
        for se in ses:
            self.moves.attached(se, frozenset(), self.now)

    def take(self, *ses):
        for se in ses:
            self.moves.said(se, self.moves.serving(se), self.now)

    def wait(self, seconds):
        self.now += seconds
        return self.moves.tick(self.now)

    @property
    def serving(self):
        return "".join(sorted(se[3:] for se in self.engines if V in self.moves.serving(se)))

    def start(self):
        """A serves; B takes over."""
        self.target(A)
        self.come(A, B, C)
        self.take(A, B, C)
        self.target(B)


class Orders(Case):
    def test_the_old_one_serves_until_the_new_one_does_and_then_drains(self):
        self.start()
        self.assertEqual(self.serving, "ab")
        self.assertEqual(self.wait(10 * DRAIN_S), set())
        self.take(B)
        self.assertEqual(self.wait(DRAIN_S - 1), set())
        self.assertEqual(self.serving, "ab")
        self.assertEqual((self.wait(1), self.serving), ({A}, "b"))

    def test_when_each_drain_is_over_is_known(self):
        self.start()
        self.assertEqual((self.moves.due, self.moves.drains_of(A)), (None, {V: None}))
        self.take(B)
        self.assertEqual((self.moves.due, self.moves.drains_of(A)), (DRAIN_S, {V: DRAIN_S}))
        self.wait(DRAIN_S)
        self.assertEqual((self.moves.due, self.moves.drains_of(A)), (None, {}))

    def test_the_new_one_dies_before_it_took_over(self):
        self.start()
        self.moves.detached(B, self.now)
        self.wait(1000)
        self.assertEqual(self.serving, "ab")
        self.target(C, b=engine(B, usable=False))
        self.take(C)
        self.wait(DRAIN_S)
        # B never had it.
        self.assertEqual(self.serving, "c")

    def test_the_new_one_dies_while_the_old_one_drains(self):
        self.start()
        self.take(B)
        self.wait(DRAIN_S - 1)
        self.moves.detached(B, self.now)
        self.assertEqual(self.wait(1000), set())
        self.moves.attached(B, frozenset({V}), self.now)
        self.assertEqual(self.wait(DRAIN_S - 1), set())
        self.assertEqual(self.wait(1), {A})

    def test_the_new_one_comes_back_without_it(self):
        self.start()
        self.take(B)
        self.moves.detached(B, self.now)
        self.moves.attached(B, frozenset(), self.now)
        self.assertEqual(self.wait(1000), set())
        self.take(B)
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_the_old_one_dies_and_comes_back(self):
        self.start()
        self.moves.detached(A, self.now)
        self.take(B)
        # What it serves headless is not taken from it behind its back; the drain begins when it is back.
        self.assertEqual(self.wait(1000), set())
        self.moves.attached(A, frozenset({V}), self.now)
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_a_third_takes_over_in_between(self):
        self.start()
        self.take(B)
        self.wait(DRAIN_S / 2)
        self.target(C)
        self.assertEqual(self.serving, "abc")
        self.assertEqual(self.wait(1000), set())
        self.take(C)
        self.assertEqual(self.wait(DRAIN_S), {A, B})
        self.assertEqual(self.serving, "c")

    def test_it_goes_back_to_where_it_was(self):
        self.start()
        self.take(B)
        self.target(A)
        self.assertEqual(self.serving, "ab")
        self.assertEqual(self.wait(DRAIN_S), {B})
        self.assertEqual(self.serving, "a")

    def test_the_virtual_service_is_deleted_or_disabled_in_between(self):
        for things in (self.things[:1], (self.things[0], service(1, enabled=False))):
            self.setUp()
            self.start()
            self.things = things
            self.target()
            self.assertEqual(self.serving, "")

    def test_no_drain_time_still_waits_for_the_new_one(self):
        self.things = (group(drain_s=0.0), service(1))
        self.start()
        self.assertEqual(self.wait(100), set())
        self.take(B)
        self.assertEqual(self.wait(0), {A})

    def test_of_several_new_ones_those_that_are_here_must_have_it(self):
        self.start()
        self.moves.detached(C, self.now)
        self.target(B, C)
        self.assertEqual(self.wait(100), set())
        self.take(B)
        self.wait(1)
        self.moves.attached(C, frozenset(), self.now)
        self.assertEqual(self.wait(100), set())
        self.take(C)
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_what_an_se_never_had_is_no_drain(self):
        self.target(A)
        self.come(A, B)
        self.target(B)
        self.assertEqual(self.serving, "b")

    def test_an_se_that_is_deleted_is_forgotten(self):
        self.start()
        self.engines.pop(A)
        self.target(B)
        self.assertEqual((self.serving, self.moves.drains_of(A)), ("b", {}))
        self.assertEqual(self.wait(1000), set())


class SentAway(Case):
    def setUp(self):
        super().setUp()
        self.target(A)
        self.come(A, B)
        self.take(A, B)

    def test_one_that_is_disabled_drains(self):
        self.target(B, a=engine(A, usable=False))
        self.assertEqual(self.serving, "ab")
        self.take(B)
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_one_that_must_not_serve_loses_all_at_once(self):
        self.target(B, a=engine(A, usable=False, drains=False))
        self.assertEqual(self.serving, "b")

    def test_one_that_drains_can_be_told_to_stop(self):
        self.target(B, a=engine(A, usable=False))
        self.target(B, a=engine(A, usable=False, drains=False))
        self.assertEqual((self.serving, self.moves.due), ("b", None))

    def test_the_last_one_is_held_as_long_as_there_is_no_other(self):
        self.target(a=engine(A, usable=False), b=engine(B, usable=False))
        self.assertEqual(self.wait(10_000), set())
        self.assertTrue(self.moves.lacks_successor(V))
        self.target(C)
        self.come(C)
        self.assertFalse(self.moves.lacks_successor(V))
        self.take(C)
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_one_that_is_enabled_again_stops_draining(self):
        self.target(B, a=engine(A, usable=False))
        self.take(B)
        self.target(A, a=engine(A))
        self.assertEqual(self.wait(DRAIN_S), {B})
        self.assertEqual(self.serving, "a")

    def test_where_limits_took_the_place_nobody_is_waited_for(self):
        self.target()
        self.assertEqual(self.serving, "a")
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_another_group_without_engines_is_waited_for(self):
        other = group("other", drain_s=DRAIN_S)
        self.things = (self.things[0], other, service(1, "other"))
        self.target()
        self.assertEqual(self.wait(1000), set())
        self.target(C, c=engine(C, in_group="other"))
        self.come(C)
        self.take(C)
        self.assertEqual(self.wait(DRAIN_S), {A})


class AfterARestart(Case):
    """A new machine, which knows what SEs say and nothing else."""

    def test_one_that_drained_drains_anew(self):
        self.target(B, a=engine(A, usable=False))
        self.moves.attached(A, None, self.now)
        self.come(B)
        self.moves.adopt(A, [V], self.now)
        self.assertEqual(self.serving, "ab")
        self.take(B)
        self.take(A)
        self.assertEqual(self.wait(DRAIN_S), {A})

    def test_one_whose_state_is_unknown_waits_for_those_who_are_behind(self):
        self.target(B)
        self.moves.attached(A, None, self.now)
        self.come(B)
        self.assertTrue(self.moves.holds_back(A, self.now))
        self.assertFalse(self.moves.holds_back(B, self.now))
        self.take(B)
        self.assertFalse(self.moves.holds_back(A, self.now))

    def test_it_waits_for_a_bounded_time(self):
        self.target(B)
        self.moves.attached(A, None, self.now)
        self.come(B)
        self.assertFalse(self.moves.holds_back(A, self.now + UNSURE_S))

    def test_a_fleet_of_unknown_states_waits_for_nobody(self):
        self.target(A, B)
        self.moves.attached(A, None, self.now)
        self.moves.attached(B, None, self.now)
        self.assertFalse(self.moves.holds_back(A, self.now))


class Walk(RuleBasedStateMachine):
    """Whatever happens, no SE that is here loses what it serves unless another one here serves it, or it must."""

    ses = st.integers(0, 3)
    services = 4

    @initialize()
    def begin(self):
        self.moves, self.now = Moves(), 0.0
        self.usable, self.drains = [True] * 4, [True] * 4
        self.here, self.force = [True] * 4, [frozenset() for _ in range(4)]
        self.enabled = [True] * self.services
        self.wanted = [frozenset() for _ in range(4)]
        self.place()
        for n in range(4):
            self.moves.attached(SeId(f"se-{n}"), frozenset(), self.now)

    def place(self):
        engines = [
            Engine(SeId(f"se-{n}"), DEFAULT_GROUP, self.usable[n], drains=self.drains[n]) for n in range(4)
        ]
        things = (service(n, enabled=self.enabled[n]) for n in range(self.services))
        made = configuration(group(most=1, drain_s=5.0, when_short=WhenShort.OVERLOAD), *things)
        self.moves.retarget(made, place(made, engines), engines, self.now)

    @rule(n=ses, usable=st.booleans(), drains=st.booleans())
    def decide(self, n, usable, drains):
        self.usable[n], self.drains[n] = usable, drains or usable
        self.place()

    @rule(n=st.integers(0, 3))
    def enable_or_disable(self, n):
        self.enabled[n] = not self.enabled[n]
        self.place()

    @rule(n=ses)
    def come_or_go(self, n):
        self.here[n] = not self.here[n]
        if self.here[n]:
            self.moves.attached(SeId(f"se-{n}"), self.force[n], self.now)
        else:
            self.moves.detached(SeId(f"se-{n}"), self.now)

    @rule(n=ses)
    def acknowledge(self, n):
        if self.here[n]:
            self.force[n] = self.moves.serving(SeId(f"se-{n}"))
            self.moves.said(SeId(f"se-{n}"), self.force[n], self.now)

    @rule(seconds=st.sampled_from([0.0, 1.0, 5.0, 60.0]))
    def wait(self, seconds):
        self.now += seconds
        self.moves.tick(self.now)

    @invariant()
    def nobody_loses_what_nobody_else_serves(self):
        if not hasattr(self, "moves"):
            return
        for n in range(4):
            wants = self.moves.serving(SeId(f"se-{n}"))
            lost = self.wanted[n] - wants
            self.wanted[n] = wants
            for uuid in lost & self.force[n]:
                if not self.here[n] or not self.enabled[int(uuid.rpartition("-")[2])]:
                    continue
                if not self.usable[n] and not self.drains[n]:
                    continue
                others = [m for m in range(4) if m != n and self.here[m] and uuid in self.force[m]]
                assert others, (n, uuid)

    @invariant()
    def whoever_must_not_serve_is_to_have_nothing(self):
        if hasattr(self, "moves"):
            for n in range(4):
                if not self.usable[n] and not self.drains[n]:
                    assert not self.moves.serving(SeId(f"se-{n}"))


class Walks(SynchronousTestCase):
    def test_in_whatever_order_things_happen(self):
        test = Walk.TestCase("runTest")
        test.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
        test.runTest()
