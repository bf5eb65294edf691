"""What an operator hears of the other controllers."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.peer_events import GRACE_S, STOPPED_S, PeerEvents
from avinet.controller.peers_memory import PeerHub


class Told(SynchronousTestCase):
    def setUp(self):
        self.hub, self.clock, self.events = PeerHub("a", "b", "c"), Clock(), []
        self.reasons = []
        self.told = PeerEvents(self.hub.peers("a"), self.emit, self.clock)

    def emit(self, code, level, subject, text, **facts):
        self.events.append((code, subject))
        self.reasons.append(facts.get("reason"))

    def test_nothing_while_all_are_there(self):
        self.told.start()
        self.clock.advance(2 * GRACE_S)
        self.assertEqual(self.events, [])

    def test_who_is_lost_and_back(self):
        self.told.start()
        self.hub.cut("a", "b")
        self.assertEqual(self.events, [("CONTROLLER_LOST", "b")])
        self.hub.heal("a", "b")
        self.assertEqual(self.events[1:], [("CONTROLLER_BACK", "b")])

    def test_who_does_not_come_after_the_start(self):
        self.hub.cut("c")
        self.told.start()
        self.assertEqual(self.events, [])
        self.clock.advance(GRACE_S)
        self.assertEqual(self.events, [("CONTROLLER_LOST", "c")])
        self.hub.heal("c")
        self.assertEqual(self.events[-1], ("CONTROLLER_BACK", "c"))

    def test_flapping_by_the_minute(self):
        self.told.start()
        for _ in range(10):
            self.hub.cut("a", "b")
            self.hub.heal("a", "b")
        self.assertEqual(len(self.events), 20)
        self.assertEqual(self.reasons, [None] * 6 + ["flapping"] * 14)
        self.clock.advance(120)
        self.hub.cut("a", "b")
        self.assertIsNone(self.reasons[-1])

    def test_one_that_stops_in_good_order_is_not_lost(self):
        self.told.start()
        self.hub.stop("b")
        self.clock.advance(STOPPED_S - 1)
        self.hub.heal("b")
        self.clock.advance(2 * STOPPED_S)
        self.assertEqual(self.events, [("CONTROLLER_STOPPED", "b"), ("CONTROLLER_BACK", "b")])

    def test_one_that_stopped_and_stays_away_is_lost_in_the_end(self):
        self.told.start()
        self.hub.stop("b")
        self.clock.advance(1)
        self.hub.stop("c")
        self.clock.advance(STOPPED_S - 1)
        self.assertEqual(self.events[2:], [("CONTROLLER_LOST", "b")])
        self.clock.advance(1)
        self.assertEqual(self.events[3:], [("CONTROLLER_LOST", "c")])
        self.hub.heal("b")
        self.assertEqual(self.events[4:], [("CONTROLLER_BACK", "b")])
        self.clock.advance(2 * STOPPED_S)
        self.assertEqual(len(self.events), 5)

    def test_who_stops_hides_nobody_who_does_not_come(self):
        self.hub.cut("c")
        self.told.start()
        self.hub.stop("b")
        self.clock.advance(GRACE_S)
        self.assertEqual(self.events, [("CONTROLLER_STOPPED", "b"), ("CONTROLLER_LOST", "c")])

    def test_nobody_after_the_end(self):
        self.hub.cut("c")
        self.told.start()
        self.told.stop()
        self.assertEqual(self.clock.getDelayedCalls(), [])

    def test_what_is_refused(self):
        self.told.refused("b", "10.0.0.2", "direct-tcpip localhost:22")
        self.assertEqual(self.events, [("SSH_REQUEST_REFUSED", "b")])
