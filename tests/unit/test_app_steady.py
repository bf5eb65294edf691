"""A role's timers count time that nobody can set."""

from twisted.internet.epollreactor import EPollReactor
from twisted.internet.interfaces import IReactorTime
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase
from zope.interface.verify import verifyObject

from avinet.app.steady import WallClock, keep_steady

YEAR_S = 365 * 86400.0


class Steady(SynchronousTestCase):
    def setUp(self):
        self.wall, self.elapsed, self.fired = 1000 * YEAR_S, 5.0, []
        self.reactor = EPollReactor()
        self.addCleanup(self.reactor._poller.close)
        self.addCleanup(self.reactor._uninstallHandler)
        keep_steady(self.reactor, wall=lambda: self.wall, elapsed=lambda: self.elapsed)

    def test_it_goes_on_from_the_wall_clock(self):
        self.assertEqual(self.reactor.seconds(), self.wall)

    def test_a_timer_fires_in_time_though_the_clock_is_set_back(self):
        self.reactor.callLater(10, self.fired.append, "timer")
        self.wall -= YEAR_S
        self.elapsed += 10
        self.reactor.runUntilCurrent()
        self.assertEqual(self.fired, ["timer"])

    def test_a_timer_fires_no_sooner_though_the_clock_is_set_forward(self):
        self.reactor.callLater(10, self.fired.append, "timer")
        self.wall += YEAR_S
        self.elapsed += 9
        self.reactor.runUntilCurrent()
        self.assertEqual(self.fired, [])
        self.assertAlmostEqual(self.reactor.timeout(), 1.0)

    def test_what_is_stamped_follows_the_wall_clock_and_calls_later_by_the_other(self):
        timers = Clock()
        stamps = WallClock(timers, lambda: self.wall)
        verifyObject(IReactorTime, stamps)
        stamps.callLater(10, self.fired.append, "timer")
        self.wall -= YEAR_S
        timers.advance(10)
        self.assertEqual((self.fired, stamps.seconds()), (["timer"], self.wall))
        self.assertEqual(stamps.getDelayedCalls(), [])
