"""Listeners are told one after another, whatever becomes of the one before."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.listeners import Listeners


class ListenersTests(SynchronousTestCase):
    def setUp(self):
        self.heard = []
        self.listeners = Listeners("the weather")

    def test_each_is_told_in_the_order_in_which_they_came(self):
        for name in "ab":
            self.listeners.add(lambda what, name=name: self.heard.append((name, what)))
        self.listeners.tell(lambda listener: listener("rain"))
        self.assertEqual(self.heard, [("a", "rain"), ("b", "rain")])

    def test_one_that_fails_is_logged_and_costs_the_others_nothing(self):
        self.listeners.add(lambda what: 1 / 0)
        self.listeners.add(self.heard.append)
        self.listeners.tell(lambda listener: listener("rain"))
        self.assertEqual(self.heard, ["rain"])
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_one_that_comes_while_others_are_told_hears_the_next(self):
        self.listeners.add(lambda what: self.listeners.add(self.heard.append))
        self.listeners.tell(lambda listener: listener("rain"))
        self.assertEqual(self.heard, [])
        self.listeners.tell(lambda listener: listener("sun"))
        self.assertEqual(self.heard, ["sun"])
