"""A member that means no good, on the ways of copies: what it can say of its own store, and must not of another's."""

from twisted.internet.defer import Deferred

from avinet.controller.log_claims import HAD_AT_ONCE, MAX_ASKED, Claims
from avinet.controller.log_copy_link import MAX_HELD, CopyLink
from avinet.controller.log_keeper import MAX_CLAIMED, MAX_OF_ONE
from avinet.controller.log_keeper_link import MAX_CALLS
from avinet.logs import copies
from avinet.wire import copy_messages as m
from tests.unit.log_copy_kit import SE, SPOOL, Cluster
from tests.unit.test_controller_log_keeper import STORE, Wire

ALL = ((SE, SPOOL, 1, 2**53),)


class Hostile(Cluster):
    """``c`` is; ``b`` keeps copies of ``a``."""

    def says(self, *things, to=None):
        wire = Wire((to or self.b).keeper.build("c"))
        wire.say(*things)
        return wire

    def asks(self, question, *, of=None):
        (answer,) = self.says(question, to=of).heard()
        return answer


class OfStores(Hostile):
    def test_another_controllers_store_is_refused_and_its_channel_goes_on(self):
        self.a.send(1)
        wire = self.says(m.CopyHello(store=self.a.store), m.Confirm(number=1, drop=ALL))
        self.assertIsInstance(wire.heard()[0], m.NoRoom)
        self.assertEqual(self.a.acked(), [1])
        self.settle()
        self.a.send(2)
        self.assertEqual(self.a.acked(), [1, 2])
        self.settle()
        self.assertEqual(self.b.kept(self.a.store), [1, 2])

    def test_also_once_that_one_is_gone(self):
        self.a.send(1)
        self.settle()
        store = self.a.store
        self.kill("a")
        wire = self.says(m.CopyHello(store=store))
        self.assertIsInstance(wire.heard()[0], m.NoRoom)
        self.assertEqual(self.b.keeper.ids()[store], "a")
        self.restart("a")
        self.a.send(2)
        self.assertEqual(self.a.acked(), [1, 2])

    def test_the_keepers_own_is_refused(self):
        wire = self.says(m.CopyHello(store=self.b.store))
        self.assertIsInstance(wire.heard()[0], m.NoRoom)

    def test_what_it_claims_of_an_unknown_store_is_no_proof_whose_it_is(self):
        claim = m.CopyClaim(store=STORE, controller="c", names=((SE, SPOOL, 5, 6),))
        self.assertEqual(self.asks(claim), m.CopyClaimed())
        self.assertEqual(self.b.keeper.ids()[STORE], "c")
        wire = Wire(self.b.keeper.build("a"))
        wire.say(m.CopyHello(store=STORE))
        self.assertIsInstance(wire.heard()[0], m.CopyWelcome)
        self.assertEqual(self.b.keeper.ids()[STORE], "a")

    def test_it_leaves_places_for_the_others(self):
        for number in range(MAX_OF_ONE + 1):
            self.says(m.CopyHello(store=f"{number:032x}"))
        for number in range(MAX_CLAIMED + 1):
            for controller in ("a", "nobody"):
                self.asks(m.CopyClaim(store=f"{number:031x}e", controller=controller, names=()))
        self.assertEqual(list(self.b.keeper.ids().values()).count("c"), MAX_OF_ONE)
        self.assertEqual(list(self.b.keeper.ids().values()).count("nobody"), 0)
        self.a.send(1)
        self.assertEqual(self.a.acked(), [1])
        self.settle()
        self.assertEqual(self.b.kept(self.a.store), [1])


class OfMuch(Hostile):
    def test_claims_and_questions_about_more_segments_than_there_can_be_are_refused(self):
        for names in (ALL, ((SE, SPOOL, 1, MAX_ASKED + 1),)):
            self.assertTrue(self.asks(m.CopyClaim(store=STORE, controller="a", names=names)).refused)
            self.assertTrue(self.asks(m.CopyQuestion(store="?", names=names)).refused)

    def test_a_set_notes_so_much_of_what_others_have_at_most(self):
        self.patch(copies, "MAX_YIELDED", 100)
        claims = [
            m.CopyClaim(store=STORE, controller="a", names=((SE, SPOOL, first, first + 59),))
            for first in (1, 61)
        ]
        self.assertEqual([bool(self.asks(claim).refused) for claim in claims], [False, True])
        self.assertEqual(len(self.b.kept(STORE, "placed")), 60)

    def test_who_asks_for_one_transaction_after_another_waits(self):
        wire = self.says(m.CopyHello(store=STORE))
        waiting = []
        self.b.steps.run = lambda call: waiting.append(Deferred()) or waiting[-1]
        for number in range(MAX_CALLS):
            self.assertFalse(wire.paused)
            one = m.Forget(se=SE, incarnation=SPOOL, below=number)
            wire.say((one, m.Confirm(number=number), m.NotCopied(records=1, newest_us=1))[number % 3])
        self.assertTrue(wire.paused)
        waiting[0].callback(None)
        self.assertFalse(wire.paused)

    def test_a_keeper_that_names_without_end_what_it_holds_is_cut(self):
        link = CopyLink("c", self.a.store, self.a.copies, self.a.clock, self.a.steps.run)
        wire = Wire(link)
        names = tuple((SE, SPOOL, 2 * number + 1, 2 * number + 1) for number in range(m.MAX_RUNS))
        wire.say(m.CopyWelcome(), *[m.Holding(names=names, more=True)] * (MAX_HELD // m.MAX_RUNS))
        self.assertFalse(wire.aborted)
        wire.say(m.Holding(names=names, more=True))
        self.assertTrue(wire.aborted)

    def test_service_engines_have_few_questions_asked_at_once(self):
        real, waiting = Claims._ask, []

        async def ask(claims, name, question):
            waiting.append(Deferred())
            await waiting[-1]
            return await real(claims, name, question)

        self.patch(Claims, "_ask", ask)
        self.a.send(*range(1, 50), was=STORE)
        self.assertEqual(len(waiting), HAD_AT_ONCE)
        while left := [one for one in waiting if not one.called]:
            left[0].callback(None)
        self.assertEqual((self.a.acked(), len(waiting)), (list(range(1, 50)), 2 * 49))
