"""Service engines are told when a controller that they lost takes them again."""

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.attendance import Attendance
from avinet.controller.peers_memory import PeerHub
from avinet.controller.returns import RETURN_PER_S, Returns
from avinet.model.ids import ControllerName
from avinet.wire.messages import LIVE_AGAIN, MAX_SPREAD_S, Hello, LiveAgain


class Session:
    def __init__(self, se, capabilities=(LIVE_AGAIN,)):
        self.se = se
        self.hello = Hello(
            se=se, boot="b", protocol=1, oldest_protocol=1, software="x", capabilities=capabilities
        )
        self.sent = []

    def send(self, message):
        self.sent.append(message)


class Telling(SynchronousTestCase):
    def setUp(self):
        self.hub = PeerHub("a", "b", "c")
        self.sessions = {name: [] for name in "abc"}
        self.attendance, self.returns = {}, {}
        for name in "abc":
            self.make(name, self.hub.peers(name))

    def make(self, name, peers):
        self.attendance[name] = attendance = Attendance(peers, Clock(), 60.0, lambda engines: None)
        attendance.start()
        self.returns[name] = Returns(peers, lambda: self.sessions[name], attendance.elsewhere)
        self.returns[name].start()

    def here(self, name, session):
        self.sessions[name].append(session)
        self.attendance[name].up(session.se)
        return session

    def test_those_that_the_other_has_not_got_hear_of_it(self):
        missed, there = self.here("a", Session("se-1")), self.here("a", Session("se-2"))
        self.here("b", Session("se-2"))
        self.returns["b"].open()
        self.assertEqual(missed.sent, [LiveAgain(controller="b", spread_s=1 / RETURN_PER_S)])
        self.assertEqual(there.sent, [])

    def test_one_that_does_not_know_the_message_is_not_sent_it(self):
        old = self.here("a", Session("se-1", ()))
        self.returns["b"].open()
        self.assertEqual(old.sent, [])

    def test_a_fleet_is_spread_over_as_long_as_it_takes_and_no_longer_than_may_be_asked(self):
        some = [self.here("a", Session(f"se-{n}")) for n in range(800)]
        self.returns["b"].open()
        self.assertEqual({one.sent[0].spread_s for one in some}, {2.0})
        self.sessions["a"] *= 1000
        self.returns["c"].open()
        self.assertEqual(some[0].sent[-1], LiveAgain(controller=ControllerName("c"), spread_s=MAX_SPREAD_S))

    def test_a_controller_that_is_seen_again_is_told_of_again(self):
        missed = self.here("a", Session("se-1"))
        self.returns["b"].open()
        self.hub.cut("a", "b")
        self.hub.heal("a", "b")
        self.assertEqual([one.controller for one in missed.sent], ["b", "b"])
