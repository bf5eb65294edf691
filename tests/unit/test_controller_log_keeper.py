"""A keeper whose peer is broken or means no good, and copy sets from their first day to their last."""

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from avinet.controller.log_keeper import LOOK_S, MAX_SETS
from avinet.controller.log_keeper_link import HELLO_TIMEOUT_S, MAX_BEGUN
from avinet.wire import copy_messages as m
from avinet.wire.raw_frames import raw_head
from tests.unit.log_copy_kit import SE, SPOOL, Cluster, counters, data_of, head_of

STORE = "5" * 32


class Wire(StringTransport):
    """What a peer sees of its channel."""

    def __init__(self, link):
        super().__init__()
        self.link, self.aborted, self.paused = link, False, False
        self.decoder = m.copy_decoder()
        link.makeConnection(self)

    def abortConnection(self):
        self.aborted = True
        self.end(ConnectionLost())

    def end(self, why=None):
        link, self.link = self.link, None
        if link is not None:
            link.connectionLost(Failure(why or ConnectionDone()))

    def pauseProducing(self):
        self.paused = True

    def resumeProducing(self):
        self.paused = False

    def say(self, *things):
        for thing in things:
            if self.link is not None:
                data = raw_head(len(thing)) + thing if isinstance(thing, bytes) else m.encode(thing)
                self.link.dataReceived(data)

    def heard(self):
        data, _ = self.value(), self.clear()
        return list(self.decoder.feed(data))


class Kept(Cluster):
    names = ("a", "b")

    def greeted(self, store=STORE):
        wire = Wire(self.b.keeper.build("a"))
        wire.say(m.CopyHello(store=store))
        self.welcome = wire.heard()
        return wire

    def copy(self, part, *numbers):
        return m.Copy(part=part, se=SE, heads=tuple(map(head_of, numbers)))

    def test_parts_come_between_each_other_and_each_has_its_answer(self):
        wire = self.greeted()
        self.assertEqual(self.welcome, [m.CopyWelcome(new=True), m.Holding()])
        both = data_of(1) + data_of(2)
        wire.say(self.copy(1, 1, 2), both[:1500], self.copy(2, 3), data_of(3), m.GoOn(part=1), both[1500:])
        self.assertEqual(wire.heard(), [m.Held(parts=(2,)), m.Held(parts=(1,))])
        self.assertEqual(self.b.kept(STORE, "held"), [1, 2, 3])
        wire.say(m.Confirm(number=5, names=((SE, SPOOL, 1, 2),), drop=((SE, SPOOL, 3, 9),)))
        self.assertEqual(wire.heard(), [m.Settled(number=5)])
        self.assertEqual((self.b.kept(STORE), self.b.kept(STORE, "held")), ([1, 2], []))
        self.assertEqual(len(self.files(self.b)), 1)
        self.assertEqual(self.b.set_of(STORE).service.arrivals, 1)

    def test_what_it_holds_it_names_on_the_next_channel_after_the_older_one_has_ended(self):
        older = self.greeted()
        older.say(self.copy(1, 1), data_of(1), self.copy(2, 2), data_of(2)[:10])
        self.greeted()
        self.assertTrue(older.aborted)
        self.assertEqual(self.welcome, [m.CopyWelcome(), m.Holding(names=((SE, SPOOL, 1, 1),))])
        self.assertEqual(len(self.files(self.b)), 1)

    def test_what_is_here_already_is_held_at_once_and_its_bytes_are_skipped(self):
        wire = self.greeted()
        wire.say(self.copy(1, 1), data_of(1))
        wire.heard()
        wire.say(self.copy(2, 1), data_of(1)[:100])
        self.assertEqual(wire.heard(), [m.Held(parts=(2,))])
        wire.say(data_of(1)[100:], self.copy(3, 2), data_of(2))
        self.assertEqual(wire.heard(), [m.Held(parts=(3,))])

    def test_what_is_not_what_its_head_says_is_not_held(self):
        wire = self.greeted()
        wire.say(self.copy(1, 1), data_of(2), self.copy(2, 2, 3), data_of(2) + data_of(4))
        self.assertEqual([(type(one), one.part) for one in wire.heard()], [(m.NotHeld, 1), (m.NotHeld, 2)])
        self.assertEqual((self.b.kept(STORE, "held"), self.files(self.b)), ([], []))

    def test_what_breaks_the_protocol_is_cut_and_leaves_nothing(self):
        hello, copy = m.CopyHello(store=STORE), self.copy(1, 1)
        twice = m.Copy(part=1, se=SE, heads=(head_of(1), head_of(1)))
        for what, things in {
            "bytes at first": (b"abc",),
            "a part at first": (copy,),
            "a second hello": (hello, hello),
            "bytes of no part": (hello, b"abc"),
            "more bytes than there should be": (hello, copy, data_of(1) + b"x"),
            "a part twice": (hello, copy, copy),
            "a segment twice in a part": (hello, twice),
            "what a keeper says": (hello, m.Held(parts=(1,))),
            "a part that never began": (hello, m.GoOn(part=9)),
            "too many parts": (hello, *(self.copy(number, number) for number in range(1, MAX_BEGUN + 2))),
        }.items():
            with self.subTest(what=what):
                wire = Wire(self.b.keeper.build("a"))
                wire.say(*things)
                self.assertTrue(wire.aborted)
                self.assertEqual((self.b.kept(STORE, "held"), self.files(self.b)), ([], []))

    def test_who_says_nothing_is_cut_and_what_is_unknown_is_answered(self):
        wire = Wire(self.b.keeper.build("a"))
        self.b.clock.advance(HELLO_TIMEOUT_S)
        self.assertTrue(wire.aborted)
        wire = self.greeted()
        wire.link.view_received(memoryview(b"\0\0\0\7\0\x81\xa1t\xa2xy"))
        self.assertEqual(wire.heard(), [m.CopyUnsupported(tag_="xy")])

    def test_there_are_so_many_sets_at_most(self):
        for number in range(MAX_SETS - 1):
            self.greeted(f"{number:032x}")
        self.greeted()
        self.assertEqual([type(one) for one in self.welcome], [m.NoRoom])

    def test_nobody_has_a_copy_of_the_keepers_own_store_here(self):
        self.greeted(self.b.store)
        self.assertEqual([type(one) for one in self.welcome], [m.NoRoom])
        self.assertNotIn(self.b.store, self.b.keeper.sets)

    def test_one_of_which_nothing_is_left_goes_once_nobody_has_the_store(self):
        self.a.send(1)
        self.settle()
        store, set_ = self.a.store, self.b.set_of(self.a)
        self.kill("a")
        self.settle(int(LOOK_S) + 1)
        self.assertEqual(self.b.kept(store), [1])
        with set_.logs.ledger.writing() as connection:
            connection.execute("UPDATE segment SET state = 'stored'")
        self.settle(int(LOOK_S) + 1)
        self.assertIsNone(self.b.keeper.sets.get(store))
        self.assertFalse((self.b.copies_folder / store).exists())
        self.assertNotIn("log-copies", self.b.peers.said("b"))

    def test_one_is_opened_again_at_the_start(self):
        self.a.send(1)
        self.settle()
        store = self.a.store
        self.kill("a")
        self.kill("b")
        b = self.restart("b")
        self.assertEqual((b.kept(store), b.keeper.ids()), ([1], {store: "a"}))
        self.assertEqual(counters(b.set_of(store).logs.ledger, "held"), [])
