"""What is published arrives whole or not at all, and nobody can publish more than the bounds."""

from msgspec import msgpack
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.peer_state import Heard, Published
from avinet.controller.peers import MAX_KEYS, MAX_VALUE_BYTES
from avinet.errors import RemoteProtocolError
from avinet.wire.peer_messages import PEER, STATE_FRAME_BYTES, PeerState


class Case(SynchronousTestCase):
    def setUp(self):
        self.mine, self.theirs = Published(), Heard()

    def pass_on(self, frames):
        changes = None
        for frame in frames:
            self.assertIsNone(changes)
            self.assertLess(len(PEER.encode(frame)), STATE_FRAME_BYTES + 1000)
            changes = self.theirs.take(PEER.vocabulary.decode(PEER.encode(frame)[4:]))
        return changes


class Series(Case):
    def test_of_nothing_is_one_frame(self):
        self.assertEqual(len(list(self.mine.whole())), 1)
        self.assertEqual(self.pass_on(self.mine.whole()), {})

    def test_of_much_are_frames_of_bounded_size(self):
        for number in range(5000):
            self.mine.put(f"se/{number}", {"since": number, "text": "x" * 50})
        self.assertGreater(len(list(self.mine.whole())), 5)
        self.assertEqual(self.pass_on(self.mine.whole()), self.mine.values)
        self.assertEqual(self.theirs.values, self.mine.values)

    def test_of_changes_say_only_those(self):
        self.mine.put("a", 1)
        self.mine.put("b", 2)
        self.pass_on(self.mine.whole())
        self.mine.put("a", None)
        self.mine.put("c", [3])
        self.assertEqual(self.pass_on(self.mine.changed(("a", "c"))), {"a": None, "c": [3]})
        self.assertEqual(self.theirs.values, {"b": 2, "c": [3]})

    def test_tell_the_difference_after_another_connection(self):
        for key in "abc":
            self.mine.put(key, key)
        self.pass_on(self.mine.whole())
        self.mine.put("a", None)
        self.mine.put("b", "new")
        self.theirs.reconnected()
        self.assertEqual(self.pass_on(self.mine.whole()), {"a": None, "b": "new"})

    def test_take_effect_with_their_last_frame(self):
        self.theirs.take(PeerState(whole=True, more=True, put={"a": msgpack.encode(1)}))
        self.assertEqual(self.theirs.values, {})
        self.theirs.take(PeerState(whole=True, put={"b": msgpack.encode(2)}))
        self.assertEqual(self.theirs.values, {"a": 1, "b": 2})

    def test_that_change_nothing_are_no_changes(self):
        self.assertTrue(self.mine.put("a", 1))
        self.assertFalse(self.mine.put("a", 1))
        self.assertFalse(self.mine.put("b", None))

    def test_are_as_of_when_each_frame_is_made(self):
        self.mine.put("a", 1)
        frames = self.mine.whole()
        self.mine.put("a", 2)
        self.assertEqual(self.pass_on(frames), {"a": 2})


class Bounds(Case):
    def refused(self, *frames):
        with self.assertRaises(RemoteProtocolError):
            for frame in frames:
                self.theirs.take(frame)

    def test_are_kept_by_oneself(self):
        for number in range(MAX_KEYS):
            self.mine.put(str(number), 1)
        self.mine.put("0", 2)
        with self.assertRaises(ValueError):
            self.mine.put("one more", 1)

    def test_hold_for_keys(self):
        many = {str(n): b"\x01" for n in range(MAX_KEYS)}
        self.theirs.take(PeerState(whole=True, put=many))
        self.refused(PeerState(put={"one more": b"\x01"}))

    def test_hold_for_a_series_that_never_ends(self):
        frames = (
            PeerState(whole=True, more=True, put={f"{n}/{m}": b"\x01" for m in range(1000)})
            for n in range(100)
        )
        self.refused(*frames)
        self.assertEqual(self.theirs.values, {})

    def test_hold_for_bytes(self):
        value = msgpack.encode("x" * (MAX_VALUE_BYTES - 10))
        frames = [
            PeerState(whole=True, more=True, put={f"{n}/{m}": value for m in range(60)}) for n in range(250)
        ]
        self.refused(*frames)

    def test_hold_for_one_value(self):
        self.refused(PeerState(whole=True, put={"a": bytes(MAX_VALUE_BYTES + 1)}))

    def test_leave_no_room_for_what_is_no_value(self):
        for value in (b"", b"\xc1", b"\x01\x01", b"\xd9\xff"):
            self.theirs = Heard()
            self.refused(PeerState(whole=True, put={"a": value}))

    def test_ask_for_everything_first_and_once(self):
        self.refused(PeerState())
        self.theirs = Heard()
        self.refused(PeerState(whole=True), PeerState(whole=True))
        self.theirs = Heard()
        self.refused(PeerState(whole=True, more=True), PeerState())
