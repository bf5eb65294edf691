"""Where virtual services are, as operators read it."""

import attrs
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_placement import PlacementApi, PlacementQuery
from avinet.controller.placement_view import PlacementView
from tests.unit.config_kit import World, pool, run, service
from tests.unit.test_controller_sync_moves import DRAIN_S, GROUP


class Request:
    def __init__(self, **query):
        self.query = PlacementQuery(**query)


class Views(SynchronousTestCase):
    def setUp(self):
        self.world = World()
        self.world.start_sync()
        self.addCleanup(self.world.sync.stop)
        self.machines = {name: self.world.engine(name) for name in "12"}
        self.world.apply(GROUP, pool(), service())
        for machine in self.machines.values():
            machine.apply_all()
        self.view = PlacementView(self.world.config, self.world, self.world.sync, self.world.clock)
        self.old = next(m for m in self.machines.values() if m.state)
        self.new = next(m for m in self.machines.values() if not m.state)

    def set(self, machine, **values):
        self.world.engines[:] = [
            attrs.evolve(e, **values) if e.se == machine.se else e for e in self.world.engines
        ]
        self.world.sync.engines_changed()
        self.world.clock.advance(1)

    def stages(self):
        return {on.uuid: on.stage for on in self.view.service("www").engines}

    def test_a_move_is_seen_in_each_of_its_stages(self):
        self.assertEqual(self.stages(), {self.old.se: "serving"})
        self.set(self.old, usable=False)
        self.assertEqual(self.stages(), {self.new.se: "pending", self.old.se: "held"})
        self.assertEqual(self.view.load(self.old.se), (0, 0, 1))
        self.new.refuse("rejected", "the port is taken")
        [on] = [on for on in self.view.service("www").engines if on.uuid == self.new.se]
        self.assertEqual((on.stage, on.why), ("refused", "the port is taken"))
        self.world.clock.advance(2)
        self.new.apply()
        self.assertEqual(self.stages(), {self.new.se: "serving", self.old.se: "draining"})
        [on] = [on for on in self.view.service("www").engines if on.uuid == self.old.se]
        self.assertEqual(on.over_in_s, DRAIN_S)
        self.assertEqual((self.view.load(self.old.se), self.view.empty(self.old.se)), ((0, 1, 0), False))
        self.assertEqual(self.view.service("www").serving, 2)
        self.world.clock.advance(DRAIN_S)
        self.old.apply()
        self.assertEqual(self.stages(), {self.new.se: "serving"})
        self.assertTrue(self.view.empty(self.old.se))

    def test_one_that_left_is_away(self):
        self.old.leave()
        self.assertEqual(self.stages(), {self.old.se: "away"})
        self.assertEqual(self.view.service("www").serving, 0)
        self.assertTrue(self.view.empty(self.old.se))

    def test_what_no_other_can_take_over_is_named(self):
        self.assertEqual(self.view.stranded_without(self.old.se), ())
        self.set(self.new, usable=False)
        self.assertEqual(self.view.stranded_without(self.old.se), ("www",))
        self.assertEqual(self.view.stranded_without(self.new.se), ())

    def test_an_engine_names_what_it_serves(self):
        [one] = self.view.services_of(self.old.se)
        self.assertEqual((one.name, one.stage), ("www", "serving"))

    def test_what_is_short_says_why(self):
        self.world.apply({**GROUP, "min_scaleout_per_vs": 3, "max_scaleout_per_vs": 3})
        row = self.view.service("www")
        self.assertEqual((row.short, row.wanted, row.least), (True, 2, 3))
        self.assertIn("2 service engines that can serve", row.why)

    def test_a_list_is_narrowed_and_paged(self):
        self.world.apply(service("off", 81, enabled=False), service("zzz", 82))
        api = PlacementApi(self.view)

        def names(**query):
            body = run(api.list(Request(**query))).body
            return body.count, [one.name for one in body.results]

        self.assertEqual(names(), (3, ["off", "www", "zzz"]))
        self.assertEqual(names(page=2, page_size=2), (3, ["zzz"]))
        self.assertEqual(names(name="www"), (1, ["www"]))
        self.assertEqual(names(group="other"), (0, []))
        self.assertEqual(names(short=True), (0, []))
        self.assertEqual(self.view.service("off").why, "it is disabled")
