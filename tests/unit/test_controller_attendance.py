"""Which SEs are up as three controllers see them together."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.attendance import Attendance, AttendanceListener
from avinet.controller.peers import NoPeers
from avinet.controller.peers_memory import PeerHub
from avinet.model.ids import ControllerName, SeId

SE = SeId("se-1")
PATIENCE_S = 60.0


class Diary(AttendanceListener):
    def __init__(self):
        self.entries = []

    def up(self, se):
        self.entries.append("up")

    def down(self, se, why):
        self.entries.append("down")

    def partly(self, se, why, elsewhere):
        self.entries.append(("partly", *elsewhere))

    def whole(self, se):
        self.entries.append("whole")


class AttendanceTests(SynchronousTestCase):
    def setUp(self):
        self.clock, self.hub = Clock(), PeerHub("a", "b", "c")
        self.expected = []
        self.all = {name: self.make(self.hub.peers(name)) for name in "abc"}

    def make(self, peers):
        attendance = Attendance(peers, self.clock, PATIENCE_S, self.expected.extend)
        attendance.diary = Diary()
        attendance.listen(attendance.diary)
        attendance.start()
        return attendance

    def told(self, name="a"):
        entries, self.all[name].diary.entries = self.all[name].diary.entries, []
        return entries

    def test_an_se_is_up_with_the_first_controller_that_has_it_and_down_with_the_last_that_lost_it(self):
        self.all["b"].up(SE)
        self.assertEqual(self.told(), ["up"])
        self.all["a"].up(SE)
        self.all["b"].down(SE, "silent")
        self.assertEqual(self.told(), [])
        self.assertTrue(self.all["b"].is_up(SE))
        self.all["a"].down(SE, "silent")
        self.assertEqual(self.told(), ["down"])
        self.assertFalse(any(one.is_up(SE) for one in self.all.values()))

    def test_one_controller_that_misses_it_warns_and_says_when_it_is_well_again(self):
        for one in self.all.values():
            one.up(SE)
        self.told()
        self.all["a"].down(SE, "silent")
        self.assertEqual(self.told(), [("partly", "b", "c")])
        self.all["a"].down(SE, "still silent")
        self.assertEqual(self.told(), [])
        self.all["a"].up(SE)
        self.assertEqual(self.told(), ["whole"])

    def test_what_was_partly_missed_and_then_lost_is_down_and_missed_no_more(self):
        for one in self.all.values():
            one.up(SE)
        self.told()
        for name in "abc":
            self.all[name].down(SE, "silent")
        self.assertEqual(self.told(), [("partly", "b", "c"), "whole", "down"])

    def test_one_that_comes_to_another_first_is_waited_for_here(self):
        self.all["b"].up(SE)
        self.assertEqual(self.expected, [SE, SE])  # by a and by c
        self.all["a"].down(SE, "it has not come")
        self.assertEqual(self.told(), ["up", ("partly", "b")])

    def test_one_that_nobody_has_is_told_down_though_it_was_never_up(self):
        self.all["a"].down(SE, "it has not come back since the controller started")
        self.assertEqual(self.told(), ["down"])

    def test_the_loss_of_a_controller_is_no_loss_of_those_that_others_have(self):
        for one in self.all.values():
            one.up(SE)
        self.told()
        self.hub.cut("b")
        self.clock.advance(2 * PATIENCE_S)
        self.assertEqual(self.told(), [])

    def test_those_that_only_the_lost_one_had_get_their_time_to_come_to_another(self):
        self.all["b"].up(SE)
        self.told()
        self.hub.cut("b")
        self.clock.advance(PATIENCE_S - 1)
        self.assertTrue(self.all["a"].is_up(SE))
        self.all["c"].up(SE)
        self.clock.advance(2)
        self.assertEqual(self.told(), [])
        self.all["c"].down(SE, "silent")
        self.assertEqual(self.told(), ["down"])

    def test_those_that_come_to_none_are_down_once(self):
        self.all["b"].up(SE)
        self.told()
        self.hub.cut("b")
        self.clock.advance(PATIENCE_S)
        self.assertEqual(self.told(), ["down"])
        self.clock.advance(PATIENCE_S)
        self.assertEqual(self.told(), [])

    def test_a_controller_that_flaps_does_not_shorten_the_time(self):
        self.all["b"].up(SE)
        self.told()
        for _ in range(5):
            self.hub.cut("b")
            self.clock.advance(PATIENCE_S / 2)
            self.hub.heal("b")
            self.clock.advance(PATIENCE_S / 2)
        self.assertEqual(self.told(), [])
        self.assertTrue(self.all["a"].is_up(SE))

    def test_a_controller_that_is_cut_off_keeps_what_it_has_itself(self):
        self.all["a"].up(SE)
        self.hub.cut("a")
        self.clock.advance(2 * PATIENCE_S)
        self.assertTrue(self.all["a"].is_up(SE))
        self.assertFalse(self.all["b"].is_up(SE))

    def test_alone_it_says_what_its_sessions_say(self):
        self.all["a"] = self.make(NoPeers(ControllerName("a")))
        self.all["a"].up(SE)
        self.all["a"].down(SE, "silent")
        self.assertEqual(self.told(), ["up", "down"])

    def test_other_things_that_are_published_are_none_of_its_affair(self):
        self.hub.peers("b").publish("role", "leader")
        self.assertEqual(self.told(), [])

    def test_nothing_is_counted_after_the_stop(self):
        self.all["b"].up(SE)
        self.hub.cut("b")
        for one in self.all.values():
            one.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])
