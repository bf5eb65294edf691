"""Who can serve: what placement hears of records and connections, and what it is spared."""

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.candidates import Candidates
from avinet.model.config import DOWN_DELAY_S
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.holddown import SETTLE_S
from avinet.model.ids import SeId

SERVING = SeRecord(
    uuid=SeId("se-1"),
    name="one",
    group="g",
    loopback="127.1.0.1",
    created_at=0.0,
    lifecycle=Lifecycle.ENROLLED,
    connected_once=True,
)


class Registry:
    def __init__(self, *records):
        self.records = list(records)

    def all(self):
        return tuple(self.records)

    def find(self, se):
        return next((record for record in self.records if record.uuid == se), None)


class CandidatesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.registry = Registry(SERVING)
        self.delay_s = DOWN_DELAY_S
        self.candidates = Candidates(self.registry, self.clock, lambda group: self.delay_s)
        self.heard = []
        self.candidates.changed = lambda: self.heard.append(1)

    def changes(self, before, after):
        self.heard.clear()
        self.candidates.record_changed(before, after)
        return len(self.heard)

    def usable(self):
        return [engine.usable for engine in self.candidates]

    def test_what_changes_who_can_serve_is_told(self):
        for field, value in (
            ("lifecycle", Lifecycle.DISABLED),
            ("lifecycle", Lifecycle.DELETED),
            ("placeable", False),
            ("connected_once", False),
            ("group", "other"),
        ):
            after = msgspec.structs.replace(SERVING, **{field: value})
            self.registry.records = [after]
            self.assertEqual(self.changes(SERVING, after), 1, field)
            if value is not Lifecycle.DELETED:
                self.assertEqual(self.changes(after, SERVING), 1, field)

    def test_one_that_is_up_for_the_first_time_can_serve_before_that_is_stored(self):
        self.registry.records = [msgspec.structs.replace(SERVING, connected_once=False)]
        self.assertEqual(self.usable(), [False])
        self.candidates.up(SERVING.uuid)
        self.assertEqual(self.usable(), [True])
        self.candidates.down(SERVING.uuid, "gone")
        self.assertEqual(self.usable(), [False])

    def test_what_is_nothing_to_placement_is_not_told(self):
        self.assertEqual(self.changes(SERVING, msgspec.structs.replace(SERVING, note="x")), 0)
        fresh = msgspec.structs.replace(SERVING, connected_once=False)
        self.assertEqual(self.changes(None, fresh), 0)
        self.assertEqual(self.changes(None, SERVING), 1)

    def test_an_se_keeps_serving_for_the_delay_after_it_went_down(self):
        self.candidates.down(SERVING.uuid, "silent")
        self.clock.advance(DOWN_DELAY_S - 1)
        self.assertEqual((self.usable(), self.heard), ([True], []))
        self.clock.advance(1)
        self.assertEqual((self.usable(), self.heard), ([False], [1]))
        self.candidates.up(SERVING.uuid)
        self.assertEqual((self.usable(), self.heard), ([True], [1, 1]))

    def test_a_group_that_waits_for_nobody_gives_up_at_once(self):
        self.delay_s = 0.0
        self.candidates.down(SERVING.uuid, "silent")
        self.assertEqual((self.usable(), self.heard), ([False], [1]))

    def test_another_delay_holds_for_one_that_is_down_already(self):
        self.candidates.down(SERVING.uuid, "silent")
        self.clock.advance(10)
        self.delay_s = 100.0
        self.candidates.groups_changed()
        self.clock.advance(80)
        self.assertEqual(self.usable(), [True])
        self.delay_s = 60.0
        self.candidates.groups_changed()
        self.assertEqual((self.usable(), self.heard), ([False], [1]))

    def settling(self):
        return [engine.settling for engine in self.candidates]

    def fail(self):
        self.candidates.down(SERVING.uuid, "silent")
        self.clock.advance(DOWN_DELAY_S)
        self.candidates.up(SERVING.uuid)
        self.heard.clear()

    def test_one_that_its_services_were_moved_from_settles_first(self):
        self.fail()
        self.assertEqual(self.settling(), [True])
        self.clock.advance(SETTLE_S)
        self.assertEqual((self.settling(), self.heard), ([False], [1]))

    def test_each_further_failure_takes_it_longer(self):
        for wait in (SETTLE_S, 2 * SETTLE_S, 4 * SETTLE_S):
            self.fail()
            self.clock.advance(wait - 0.1)
            self.assertEqual(self.settling(), [True])
            self.clock.advance(0.2)
            self.assertEqual(self.settling(), [False])

    def test_one_that_goes_before_it_has_settled_is_given_up_at_once(self):
        self.fail()
        self.candidates.down(SERVING.uuid, "silent")
        self.assertEqual((self.usable(), self.heard), ([False], [1]))
        self.candidates.up(SERVING.uuid)
        self.clock.advance(2 * SETTLE_S - 0.1)
        self.assertEqual(self.settling(), [True])

    def test_one_that_is_back_within_the_delay_never_left(self):
        self.candidates.down(SERVING.uuid, "silent")
        self.clock.advance(DOWN_DELAY_S - 1)
        self.candidates.up(SERVING.uuid)
        self.assertEqual(self.settling(), [False])
        self.clock.advance(DOWN_DELAY_S)
        self.assertEqual(self.usable(), [True])

    def test_an_operator_that_enables_it_again_forgives(self):
        self.fail()
        disabled = msgspec.structs.replace(SERVING, lifecycle=Lifecycle.DISABLED)
        self.candidates.record_changed(SERVING, disabled)
        self.candidates.record_changed(disabled, SERVING)
        self.assertEqual(self.settling(), [False])

    def test_one_that_is_disabled_may_drain_unless_it_is_told_not_to(self):
        for lifecycle, drains, may in (
            (Lifecycle.DISABLED, True, True),
            (Lifecycle.DISABLED, False, False),
            (Lifecycle.QUARANTINED, True, False),
        ):
            self.registry.records = [msgspec.structs.replace(SERVING, lifecycle=lifecycle, drains=drains)]
            [engine] = self.candidates
            self.assertEqual((engine.usable, engine.drains), (False, may))

    def test_a_deleted_se_leaves_no_timer(self):
        self.candidates.down(SERVING.uuid, "silent")
        self.candidates.record_changed(SERVING, msgspec.structs.replace(SERVING, lifecycle=Lifecycle.DELETED))
        self.assertEqual(self.clock.getDelayedCalls(), [])
