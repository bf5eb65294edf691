"""Events about what is short: once, and once when it is over."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.shortage import MAX_TOLD, Shortage
from avinet.model.events import Level
from avinet.model.placement import Overload, Short


class Shortages(SynchronousTestCase):
    def setUp(self):
        self.events = []
        self.shortage = Shortage(
            lambda code, level, subject, text, **facts: self.events.append((code, level, subject, text))
        )

    def update(self, *short, overloads=(), gone=()):
        self.events.clear()
        self.shortage.update(short, overloads, lambda uuid: "" if uuid in gone else uuid.upper())
        return [(code, subject) for code, _, subject, _ in self.events]

    def test_it_is_told_once_each_time_it_is_worse_and_when_it_is_over(self):
        self.assertEqual(self.update(Short("a", 1, 2, "why")), [("VS_SHORT_OF_ENGINES", "A")])
        self.assertEqual(self.events[0][1], Level.WARNING)
        self.assertIn("why", self.events[0][3])
        self.assertEqual(self.update(Short("a", 1, 2, "another why")), [])
        self.assertEqual(self.update(Short("a", 0, 2, "why")), [("VS_SHORT_OF_ENGINES", "A")])
        self.assertEqual(self.events[0][1], Level.ERROR)
        self.assertEqual(self.update(), [("VS_ENGINES_SUFFICIENT", "A")])
        self.assertEqual(self.update(), [])

    def test_one_that_is_gone_is_not_well_again(self):
        self.update(Short("a", 0, 1, "why"))
        self.assertEqual(self.update(gone={"a"}), [])

    def test_thousands_make_a_few_events_and_a_count(self):
        found = self.update(*(Short(f"s{n}", 0, 1, "why") for n in range(MAX_TOLD + 7)))
        self.assertEqual(len(found), MAX_TOLD + 1)
        self.assertIn("7 more", self.events[-1][3])

    def test_an_overloaded_group_is_told_once_and_when_it_is_over(self):
        over = Overload("g", 2, 11, 10)
        self.assertEqual(self.update(overloads=[over]), [("GROUP_OVERLOADED", "g")])
        self.assertEqual(self.update(overloads=[Overload("g", 3, 12, 10)]), [])
        self.assertEqual(self.update(), [("GROUP_LOAD_NORMAL", "g")])
