"""Every SE to the configuration it should have: by delta or snapshot, measured, and no traffic without need."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller import push_frames, sync
from avinet.controller.progress import PUSH_TIMEOUT_S
from avinet.controller.versions import KEEP
from avinet.model.ids import ConfigVersion, SeId
from avinet.model.placement import Engine
from avinet.model.resources import EMPTY_STATE_HASH
from avinet.wire.messages import LOG_LIMITS, InForce
from tests.unit.config_kit import World, pool, run, service


class Case(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.world.start_sync()
        self.sync = self.world.sync
        self.addCleanup(self.sync.stop)

    def events(self, code):
        return [event for event in self.world.events if event[0] == code]

    def serving(self, name="1"):
        """An SE that serves www."""
        machine = self.world.engine(name)
        self.world.apply(pool(), service())
        machine.apply()
        return machine


class Pushing(Case):
    def test_a_new_se_gets_what_is_placed_on_it(self):
        self.world.apply(pool(health_monitor_refs=["System-TCP"]), service(), pool("unused"))
        machine = self.world.engine()
        self.assertEqual(len(machine.pushes), 1)
        machine.apply()
        self.assertEqual(
            sorted(name.split("/")[0] for name in machine.state), ["healthmonitor", "pool", "virtualservice"]
        )
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_a_fleet_is_sent_to_in_slices_of_the_reactors_time(self):
        self.world.apply(pool(), service())
        machines = [self.world.engine(str(n)) for n in range(1, 5)]
        for machine in machines:
            machine.apply()
        clock, advance, sent = self.world.clock, self.sync._queue.send, []

        def slow(se):
            sent.append(se)
            clock.rightNow += 0.006
            advance(se)

        self.sync._queue.send = slow
        self.world.apply(pool("web", 8081))
        self.assertEqual(len(sent), 2)
        self.assertFalse(self.sync.settled())
        clock.advance(0)
        self.assertEqual(sorted(sent), sorted(machine.se for machine in machines))
        for machine in machines:
            machine.apply()
        self.assertTrue(self.sync.settled())

    def test_nothing_is_sent_after_a_stop_in_the_middle_of_a_fleet(self):
        self.world.apply(pool(), service())
        for n in range(1, 5):
            self.world.engine(str(n)).apply()
        clock, sent = self.world.clock, []
        self.sync._queue.send = lambda se: (
            sent.append(se),
            setattr(clock, "rightNow", clock.rightNow + 0.02),
        )
        self.world.apply(pool("web", 8081))
        self.sync.stop()
        clock.advance(1)
        self.assertEqual(len(sent), 1)

    def test_a_change_goes_out_as_a_delta_of_what_changed(self):
        machine = self.serving()
        before = machine.hash
        self.world.apply(pool("web", 8081))
        push = machine.pushes[-1]
        self.assertEqual(push.start.base, before)
        self.assertEqual([put.name.split("/")[0] for put in push.puts], ["pool"])
        self.assertEqual((push.start.puts, push.start.removes), (1, 0))
        self.assertEqual(push.start.size, sum(len(put.body) for put in push.puts))
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_what_is_deleted_is_removed(self):
        machine = self.serving()
        run(self.world.config.delete("virtualservice", "www", "tester"))
        self.assertEqual(len(machine.pushes[-1].removes), 2)
        machine.apply()
        self.assertEqual(machine.hash, EMPTY_STATE_HASH)

    def test_a_version_that_does_not_touch_an_se_is_in_sync_without_traffic(self):
        machine = self.serving()
        self.world.apply(pool("unused"), {"kind": "HealthMonitor", "name": "m"})
        self.assertEqual(len(machine.pushes), 1 if machine.pushes[0].start.puts else 2)
        self.assertTrue(self.sync.in_sync(machine.se))
        self.assertTrue(self.sync.settled())

    def test_an_se_that_has_just_come_is_not_in_sync_before_it_is_placed(self):
        machine = self.serving()
        machine.leave()
        again = self.world.attach("1", machine.state)
        self.sync.attached(again)
        self.assertFalse(self.sync.in_sync(again.se))
        self.world.clock.advance(1)
        self.assertTrue(self.sync.in_sync(again.se))

    def test_an_se_that_comes_back_with_what_it_should_have_is_sent_nothing(self):
        machine = self.serving()
        machine.leave()
        again = self.world.attach("1", machine.state)
        self.assertEqual((again.pushes, self.sync.in_sync(again.se)), ([], True))

    def test_an_se_of_an_older_version_is_in_sync_without_what_it_does_not_know(self):
        limits = {"kind": "ServiceEngineGroup", "name": "Default-Group", "log_disksz": 500}
        new, older = self.serving("1"), self.world.engine("2", capabilities=())
        self.world.apply(limits)
        for machine in (new, older):
            machine.apply_all()
        self.assertEqual(
            [[n for n in m.state if "loglimits" in n] != [] for m in (new, older)], [True, False]
        )
        self.assertEqual([self.sync.in_sync(machine.se) for machine in (new, older)], [True, True])
        self.world.apply(pool("web", 8081))
        self.assertEqual(len(older.pushes[-1].puts), 1)
        older.apply_all()
        delta = self.sync.preview(self.world.config.current)
        self.assertEqual(delta, {})

    def test_what_an_se_knows_is_what_it_said_last(self):
        limits = {"kind": "ServiceEngineGroup", "name": "Default-Group", "log_disksz": 500}
        machine = self.serving()
        self.world.apply(limits)
        machine.apply_all()
        whole = dict(machine.state)
        for capabilities, kinds in (((), 2), ((LOG_LIMITS,), 3)):
            machine.leave()
            machine = self.world.attach("1", machine.state, capabilities)
            machine.apply_all()
            self.assertEqual(len({name.partition("/")[0] for name in machine.state}), kinds)
            self.assertTrue(self.sync.in_sync(machine.se))
        self.assertEqual(machine.state, whole)

    def test_an_older_se_that_comes_back_to_a_new_controller_keeps_serving(self):
        limits = {"kind": "ServiceEngineGroup", "name": "Default-Group", "log_disksz": 500}
        self.world.apply(pool(), service(), limits)
        machine = self.world.engine("1", capabilities=())
        machine.apply_all()
        machine.leave()
        self.sync.stop()
        self.world.start_sync()
        self.addCleanup(self.world.sync.stop)
        again = self.world.attach("1", machine.state, ())
        self.assertEqual((again.pushes, self.world.sync.in_sync(again.se)), ([], True))

    def test_an_se_that_comes_back_behind_gets_a_delta_where_its_state_is_known(self):
        machine = self.serving()
        machine.leave()
        self.world.apply(pool("web", 8081))
        again = self.world.attach("1", machine.state)
        self.assertEqual(again.pushes[-1].start.base, machine.hash)
        again.apply()

    def test_an_se_with_a_state_nobody_knows_gets_a_snapshot(self):
        self.serving().leave()
        again = self.world.attach("1", {"pool/foreign": b"x"})
        self.assertIsNone(again.pushes[-1].start.base)
        again.apply()
        self.assertTrue(self.sync.in_sync(again.se))

    def test_changes_while_a_push_is_under_way_go_out_as_one_delta_after_it(self):
        machine = self.serving()
        count = len(machine.pushes)
        for port in range(8081, 8091):
            self.world.apply(pool("web", port))
        self.assertEqual(len(machine.pushes), count + 1)
        under_way = machine.pushes[-1].start.hash
        machine.apply()
        self.assertEqual(len(machine.pushes), count + 2)
        self.assertEqual(machine.pushes[-1].start.base, under_way)
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_five_hundred_objects_arrive_as_one_push(self):
        machine = self.world.engine()
        documents = [d for n in range(250) for d in (pool(f"p{n}"), service(f"v{n}", 1 + n, f"p{n}"))]
        self.world.apply(*documents)
        self.assertEqual((len(machine.pushes), len(machine.pushes[0].puts)), (1, 500))
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_a_large_body_is_split_over_frames(self):
        self.patch(push_frames, "FRAME_BYTES", 64)
        machine = self.serving()
        puts = [put for push in machine.pushes for put in push.puts]
        self.assertTrue(any(put.more for put in puts))
        self.assertLessEqual(max(len(put.body) for put in puts), 64)

    def test_every_push_bears_the_fence_of_its_version(self):
        machine = self.serving()
        self.world.apply(pool("web", 8081))
        self.assertEqual(machine.pushes[-1].start.fence, self.world.config.fence)
        self.assertEqual(machine.pushes[-1].start.fence.version, 3)

    def test_an_se_given_up_while_away_does_not_lose_its_services_when_it_comes_back(self):
        machine = self.serving()
        machine.leave()
        self.world.engines[:] = [Engine(machine.se, "Default-Group", usable=False)]
        self.sync.engines_changed()
        self.world.clock.advance(1)
        self.world.engines[:] = [Engine(machine.se, "Default-Group", usable=True)]
        again = self.world.attach("1", machine.state)
        self.assertEqual(again.pushes, [])
        self.assertTrue(self.sync.in_sync(again.se))


class Refusing(Case):
    def test_a_refusal_is_an_event_and_is_tried_again(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        machine.refuse(text="port 80 is taken")
        ((_, subject, text, facts),) = self.events("CONFIG_NACKED")
        self.assertEqual((subject, facts["reason"]), (machine.se, "rejected"))
        self.assertIn("port 80 is taken", text)
        self.assertEqual(self.sync.behind(), [machine.se])
        count = len(machine.pushes)
        self.world.clock.pump([0.5] * 4)
        self.assertEqual(len(machine.pushes), count + 1)
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_the_next_version_is_sent_at_once_after_a_refusal(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        machine.refuse()
        count = len(machine.pushes)
        self.world.apply(service(port=81))
        self.assertEqual(len(machine.pushes), count + 1)

    def test_a_push_that_is_never_answered_cuts_the_session(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        self.world.clock.pump([1.0] * int(PUSH_TIMEOUT_S + 2))
        self.assertIn("unanswered", machine.aborted)

    def test_a_data_plane_that_lost_its_state_is_sent_it_again(self):
        machine = self.serving()
        machine.state = {}
        machine.report(EMPTY_STATE_HASH)
        self.assertFalse(self.sync.in_sync(machine.se))
        self.world.clock.pump([1.0] * 3)
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_what_an_old_session_says_is_not_heard(self):
        machine = self.serving()
        again = self.world.attach("1", machine.state)
        machine.report(EMPTY_STATE_HASH)
        machine.leave()
        self.assertTrue(self.sync.in_sync(again.se))


class Placing(Case):
    def test_an_se_that_goes_away_for_good_hands_over(self):
        self.world.apply(
            {"kind": "ServiceEngineGroup", "name": "Default-Group", "max_scaleout_per_vs": 1},
            pool(),
            service(),
        )
        machines = {m.se: m for m in (self.world.engine("1"), self.world.engine("2"))}
        for machine in machines.values():
            machine.apply_all()
        (holder,) = [m for m in machines.values() if m.state]
        (spare,) = [m for m in machines.values() if not m.state]
        holder.leave()
        self.world.engines[:] = [Engine(e.se, e.group, usable=e.se != holder.se) for e in self.world.engines]
        self.sync.engines_changed()
        self.world.clock.advance(0.1)
        spare.apply_all()
        self.assertEqual(len(spare.state), 2)

    def test_a_crowd_of_changes_is_one_computation(self):
        placed = []
        place = sync.place
        self.sync._states.place = lambda *args: placed.append(1) or place(*args)
        for n in range(50):
            self.world.engines.append(Engine(SeId(f"se-{n}"), "Default-Group", usable=True))
            self.sync.engines_changed()
        self.world.clock.advance(0.1)
        self.assertEqual(len(placed), 1)

    def test_an_arrival_that_changes_no_placement_costs_no_computation(self):
        machine = self.serving()
        machine.leave()
        placed = []
        place = sync.place
        self.sync._states.place = lambda *args: placed.append(1) or place(*args)
        again = self.world.attach("1", machine.state)
        self.assertTrue(self.sync.in_sync(again.se))
        behind = self.world.attach("1", {})
        behind.apply()
        self.assertTrue(self.sync.in_sync(behind.se))
        self.assertEqual(placed, [])

    def test_after_a_long_computation_the_next_one_waits_ten_times_as_long(self):
        placed = []
        place = sync.place
        clock = self.world.clock

        def slowly(*args):
            placed.append(clock.seconds())
            clock.rightNow += 0.02
            return place(*args)

        self.sync._states.place = slowly
        waits = []
        for n in range(2):
            asked = clock.seconds()
            self.world.engines.append(Engine(SeId(f"se-{n}"), "Default-Group", usable=True))
            self.sync.engines_changed()
            clock.pump([0.01] * 40)
            waits.append(round(placed[-1] - asked, 2))
        self.assertEqual(waits, [0.05, 0.2])

    def test_only_engines_that_a_change_touches_are_looked_at_again(self):
        machines = [self.world.engine(str(n)) for n in range(6)]
        self.world.apply(pool(), service())
        for machine in machines:
            machine.apply_all()
        advanced = []
        queue = self.sync._queue
        advance = queue.send
        queue.send = lambda se: advanced.append(se) or advance(se)
        self.world.engines.append(Engine(SeId("se-more"), "Other-Group", usable=True))
        self.sync.engines_changed()
        self.world.clock.advance(0.1)
        self.assertEqual(advanced, ["se-more"])

    def test_settled_is_known_also_when_one_straggler_follows_another(self):
        machines = [self.world.engine(str(n)) for n in range(3)]
        self.world.apply(pool(), service())
        for machine in machines:
            self.assertFalse(self.sync.settled())
            machine.apply_all()
        self.assertTrue(self.sync.settled())
        self.world.apply(pool("web", 8081))
        self.assertFalse(self.sync.settled())

    def test_too_few_engines_are_an_event_told_once(self):
        self.world.apply(pool(), service())
        self.world.apply(pool("web", 81))
        self.assertEqual(len(self.events("VS_SHORT_OF_ENGINES")), 1)
        self.world.engine()
        self.world.engines.clear()
        self.sync.engines_changed()
        self.world.clock.advance(0.1)
        self.assertEqual(len(self.events("VS_SHORT_OF_ENGINES")), 2)

    def test_a_deleted_se_is_forgotten_once_its_session_ended(self):
        machine = self.serving()
        self.world.engines.clear()
        machine.leave()
        self.sync.engines_changed()
        self.world.clock.advance(0.1)
        self.assertIsNone(self.sync.progress(machine.se))


class Measuring(Case):
    def test_the_time_from_commit_to_the_last_ack_is_kept_and_stragglers_are_named(self):
        machines = [self.world.engine(str(n)) for n in range(4)]
        self.world.apply(pool(), service())
        for machine in machines[:3]:
            self.world.clock.advance(0.1)
            machine.apply()
        newest = self.sync.times.all()[0]
        self.assertEqual((newest.version, newest.missing, newest.last_s), (2, {machines[3].se}, None))
        self.assertEqual(self.sync.behind(), [machines[3].se])
        self.world.clock.advance(0.7)
        machines[3].apply()
        self.assertEqual(newest.missing, set())
        for q, expected in ((0.0, 0.1), (0.5, 0.3), (0.99, 1.0)):
            self.assertAlmostEqual(newest.quantile(q), expected, places=5)
        self.assertAlmostEqual(newest.last_s, 1.0, places=5)

    def test_an_ack_counts_for_the_version_it_is_of_and_not_for_those_it_overtook(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        self.world.apply(pool("web", 81))
        machine.apply()
        self.assertEqual([one.missing for one in self.sync.times.all()[:2]], [{machine.se}] * 2)
        machine.apply()
        self.assertEqual([len(one.acks_s) for one in self.sync.times.all()[:2]], [1, 0])
        self.assertEqual([one.missing for one in self.sync.times.all()[:2]], [set()] * 2)

    def test_a_version_that_was_refused_and_then_withdrawn_has_no_acks(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        machine.apply()
        self.world.apply(pool("web", 81))
        machine.refuse()
        self.world.clock.advance(60)
        self.world.apply(pool())
        self.assertEqual([len(one.acks_s) for one in self.sync.times.all()[:3]], [0, 0, 1])
        self.assertTrue(self.sync.settled())

    def test_an_se_that_comes_long_after_a_commit_says_nothing_about_it(self):
        self.world.apply(pool(), service())
        self.world.clock.advance(1000)
        self.world.engine().apply()
        self.assertEqual(self.sync.times.all()[0].acks_s, [])

    def test_an_se_that_leaves_is_waited_for_by_nobody(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        machine.leave()
        self.assertEqual(self.sync.times.all()[0].missing, set())
        self.assertEqual(self.sync.behind(), [])

    def test_only_so_many_versions_are_kept(self):
        for n in range(KEEP + 20):
            self.world.apply(pool("web", 1 + n))
        self.assertEqual(len(self.sync.times.all()), KEEP)
        self.assertEqual(self.sync.times.newest, KEEP + 21)

    def test_those_who_wait_hear_of_the_next_change(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        heard = []
        self.sync.changed().addCallback(heard.append)
        machine.apply()
        self.assertEqual(heard, [None])
        self.assertTrue(self.sync.settled())

    def test_whoever_stops_waiting_is_forgotten(self):
        waiting = self.sync.changed()
        waiting.addErrback(lambda _: None)
        waiting.cancel()
        self.assertEqual(self.sync._waiters, [])

    def test_after_stopping_nothing_is_left_on_the_clock(self):
        self.serving()
        self.sync.engines_changed()
        self.sync.stop()
        self.assertEqual(self.world.clock.getDelayedCalls(), [])


class Straggling(Case):
    """Told after a while, with what holds it up, and told when it is over."""

    def codes(self):
        return [
            event[0] for event in self.world.events if event[0] in {"CONFIG_STRAGGLER", "CONFIG_CAUGHT_UP"}
        ]

    def test_one_that_does_not_answer_is_an_event_until_it_does(self):
        machine = self.serving()
        self.world.apply(pool("web", 81))
        since = self.world.clock.seconds()
        self.world.clock.pump([1] * 29)
        self.assertEqual((self.codes(), self.sync.stragglers.since(machine.se)), ([], since))
        self.world.clock.pump([1] * 3)
        (told,) = self.events("CONFIG_STRAGGLER")
        self.assertIn("it has not answered", told[2])
        self.assertEqual(told[3]["since"], since)
        machine.apply()
        self.assertEqual(self.codes(), ["CONFIG_STRAGGLER", "CONFIG_CAUGHT_UP"])
        self.assertEqual(self.events("CONFIG_CAUGHT_UP")[0][3]["lasted_s"], 32.0)
        self.assertIsNone(self.sync.stragglers.since(machine.se))
        self.world.clock.pump([1] * 60)
        self.assertEqual(len(self.codes()), 2)

    def test_one_that_refuses_is_told_with_its_reason_and_counted_sends(self):
        machine = self.serving()
        self.world.apply(pool("web", 81))
        for _ in range(6):
            machine.refuse(text="port 80 is taken by nginx")
            self.world.clock.pump([1] * 40)
        self.assertIn("port 80 is taken by nginx", self.events("CONFIG_STRAGGLER")[0][2])
        self.assertEqual(len(self.events("CONFIG_STRAGGLER")), 1)
        self.assertEqual(self.sync.progress(machine.se).resends, len(machine.pushes) - 2)
        newest = self.sync.times.all()[0]
        self.assertEqual((newest.resends, newest.nacks), (len(machine.pushes) - 2, 6))
        self.assertEqual(self.sync.pushed.resends, newest.resends)
        self.assertEqual((self.sync.pushed.pushes, self.sync.pushed.acks), (len(machine.pushes), 1))

    def test_one_that_leaves_and_comes_back_in_sync_is_told_to_have_caught_up(self):
        machine = self.serving()
        self.world.apply(pool("web", 81))
        self.world.clock.pump([1] * 32)
        machine.leave()
        self.world.clock.pump([1] * 100)
        self.assertEqual(self.codes(), ["CONFIG_STRAGGLER"])
        self.world.attach("1", machine.state).apply()
        self.assertEqual(self.codes(), ["CONFIG_STRAGGLER", "CONFIG_CAUGHT_UP"])

    def test_one_that_leaves_is_counted_with_the_version_it_left_without(self):
        machine = self.serving()
        self.world.apply(pool("web", 81))
        machine.leave()
        newest = self.sync.times.all()[0]
        self.assertEqual((newest.concerned, newest.missing, newest.left), (1, set(), {machine.se}))

    def test_a_version_does_not_wait_for_one_that_refused_what_came_before_and_is_not_touched(self):
        """The group of the one has nothing of what is changed for the other."""
        other = {"kind": "ServiceEngineGroup", "name": "other"}
        mine = self.serving()
        theirs = self.world.engine("2", group="other")
        self.world.apply(other, pool("b"), service("b", port=81, pool_ref="b", se_group_ref="other"))
        theirs.apply_all()
        self.world.apply(pool("b", 1))
        theirs.refuse()
        self.assertEqual(self.sync.waits(4), theirs.se)
        self.world.apply(pool("web", 82))
        self.assertEqual(self.sync.waits_for(5), [mine.se])
        mine.apply()
        self.assertIsNone(self.sync.waits(5))
        self.assertEqual(self.sync.waits_for(4), [theirs.se])
        self.assertFalse(self.sync.settled())


class Proportion(Case):
    """A version costs what it touches."""

    def setUp(self):
        super().setUp()
        self.world.apply(*(pool(f"p{n}") for n in range(6)))
        self.world.apply(*(service(f"v{n}", 80 + n, f"p{n}") for n in range(6)))
        self.machines = [self.world.engine(str(n)) for n in range(8)]
        for machine in self.machines:
            machine.apply_all()

    def test_a_pool_changes_only_the_states_that_have_it_and_nothing_is_placed(self):
        states, placed = self.sync._states, []
        place, states.place = states.place, lambda *args: placed.append(1) or place(*args)
        before = {m.se: states.of(m.se) for m in self.machines}
        self.world.apply(pool("p3", 9090))
        uuid = self.world.config.find("pool", "p3").thing.uuid
        touched = [m for m in self.machines if f"pool/{uuid}" in m.state]
        self.assertTrue(0 < len(touched) < len(self.machines))
        for machine in self.machines:
            kept = states.of(machine.se).resources is before[machine.se].resources
            self.assertEqual(kept, machine not in touched)
            self.assertEqual(states.of(machine.se).version, 4)
            machine.apply_all()
        self.assertEqual(placed, [])
        self.assertTrue(self.sync.settled())

    def test_what_a_chain_of_small_changes_leads_to_is_what_a_start_makes(self):
        changes = [
            [pool("p1", 1)],
            [{"kind": "HealthMonitor", "name": "m", "type": "HEALTH_MONITOR_TCP"}],
            [pool("p1", 1, health_monitor_refs=["m"])],
            [{"kind": "HealthMonitor", "name": "m", "type": "HEALTH_MONITOR_TCP", "send_interval": 20}],
            [service("v2", 99, "p1")],
            [service("v3", 83, "p3", enabled=False)],
            [service("new", 100, "p5"), pool("p5", 5)],
            [{"kind": "ServiceEngineGroup", "name": "Default-Group", "max_scaleout_per_vs": 2}],
            [pool("unused")],
            [{"kind": "ServiceEngineGroup", "name": "Default-Group", "vip_interface": "eth0"}],
            [{"kind": "ServiceEngineGroup", "name": "Default-Group", "vip_interface": "eth1"}],
            [{"kind": "ServiceEngineGroup", "name": "Default-Group", "log_disksz": 500}],
            [{"kind": "ServiceEngineGroup", "name": "Default-Group"}],
        ]
        for documents in changes:
            self.world.apply(*documents)
            for machine in self.machines:
                machine.apply_all()
            # A smaller group makes drains.
            self.world.clock.advance(60)
            for machine in self.machines:
                machine.apply_all()
            fresh = sync.WantedStates(self.world.config.current, sync.place)
            fresh.engines_are(tuple(self.world.engines), 0.0)
            for machine in self.machines:
                self.assertEqual(machine.hash, fresh.of(machine.se).hash, documents)
        run(self.world.config.delete("virtualservice", "new", "tester"))
        for machine in self.machines:
            machine.apply_all()
        self.assertTrue(self.sync.settled())


class Leading(Case):
    def test_who_does_not_lead_sends_nothing_and_when_it_does_it_sends_what_is_missing(self):
        self.sync.rest()
        self.world.apply(pool(), service())
        machine = self.world.engine()
        self.world.clock.advance(120)
        self.assertEqual((machine.pushes, machine.aborted, self.world.events), ([], None, []))
        self.sync.lead()
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_what_is_under_way_when_another_begins_to_lead_is_not_waited_for(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        self.sync.rest()
        self.world.clock.advance(120)
        self.assertIsNone(machine.aborted)
        self.sync.lead()
        self.assertEqual(len(machine.pushes), 2)
        machine.apply()
        self.assertTrue(self.sync.in_sync(machine.se))

    def test_what_another_got_in_force_is_known_and_what_it_did_not_is_sent_at_once_by_who_leads_next(self):
        machine = self.world.engine()
        self.world.apply(pool(), service())
        machine.apply()
        self.sync.rest()
        self.world.apply(pool("web", 81))
        wanted = self.sync.wanted(machine.se).hash
        for state, in_sync in ((wanted, True), ("another", False)):
            self.sync.received(machine, InForce(version=ConfigVersion(1), hash=state))
            self.assertIs(self.sync.in_sync(machine.se), in_sync)
        pushed = len(machine.pushes)
        self.sync.lead()
        self.assertEqual(len(machine.pushes), pushed + 1)

    def test_orders_bear_the_term_of_who_leads_also_before_it_has_committed_anything(self):
        self.sync.rest()
        self.world.apply(pool(), service())
        machine = self.world.engine()
        self.world.config.stored.term = 3
        self.sync.lead()
        self.assertEqual(machine.pushes[-1].start.fence.term, 3)
        self.assertEqual(self.world.config.stored.head.term, 0)
        self.world.apply(pool("web", 81))
        self.assertEqual(self.world.config.stored.head.term, 3)
        self.world.restart()
        self.assertEqual(self.world.config.fence.term, 3)
