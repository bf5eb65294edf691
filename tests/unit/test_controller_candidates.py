"""Who can serve: what placement hears of records and connections, and what it is spared."""

import msgspec
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.candidates import Candidates
from avinet.model.engine import Lifecycle, SeRecord
from avinet.model.ids import SeId
from avinet.model.placement import DOWN_DELAY_S

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


class CandidatesTests(SynchronousTestCase):
    def setUp(self):
        self.clock = Clock()
        self.registry = Registry(SERVING)
        self.candidates = Candidates(self.registry, self.clock)
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

    def test_a_deleted_se_leaves_no_timer(self):
        self.candidates.down(SERVING.uuid, "silent")
        self.candidates.record_changed(SERVING, msgspec.structs.replace(SERVING, lifecycle=Lifecycle.DELETED))
        self.assertEqual(self.clock.getDelayedCalls(), [])
