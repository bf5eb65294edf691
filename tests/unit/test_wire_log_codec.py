"""Frames of the log services: messages and raw bytes in any pieces, and every way in which bytes can be wrong."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import LocalProtocolError, RemoteProtocolError
from avinet.model.logs import Drop, DropReason, LogClass, SegmentHead
from avinet.units import MIB
from avinet.wire import log_messages as m
from avinet.wire.log_codec import HEAD_BYTES, MAX_MESSAGE_BYTES, MAX_RAW_BYTES, LogDecoder, encode, raw_head
from avinet.wire.vocabulary import UnknownMessage

SPOOL = "0123456789abcdef0123456789abcdef"
NAME = f"{SPOOL}-0000000000000007"
HEAD = {
    "incarnation": SPOOL,
    "counter": 7,
    "service": "virtualservice-00000000-0000-4000-8000-000000000001",
    "log_class": "full",
    "first_us": 1,
    "last_us": 2,
    "records": 3,
    "raw_bytes": 400,
    "size": 50,
    "sha256": "ab" * 32,
}


def packed(**fields):
    body = msgspec.msgpack.encode(fields)
    return (len(body) + 1).to_bytes(4, "big") + b"\0" + body


def gathered(decoder, pieces):
    """What was fed in ``pieces``, adjacent raw bytes as one."""
    found = []
    for piece in pieces:
        for thing in decoder.feed(piece):
            if not isinstance(thing, memoryview):
                found.append(thing)
            elif found and isinstance(found[-1], bytes):
                found[-1] += bytes(thing)
            else:
                found.append(bytes(thing))
    return found


class Frames(SynchronousTestCase):
    def test_have_these_bytes(self):
        self.assertEqual(encode(m.Pause(pull=3)), bytes.fromhex("00000010 00 82a174a57061757365a470756c6c03"))
        self.assertEqual(raw_head(3) + b"abc", bytes.fromhex("00000004 01 616263"))

    def test_come_out_the_same_however_they_are_cut(self):
        begin = m.Begin(head=msgspec.convert(HEAD, SegmentHead), offset=5, pull=2)
        stream = encode(begin) + raw_head(3) + b"abc" + raw_head(2) + b"de" + encode(m.PullDone(pull=2))
        expected = [begin, b"abcde", m.PullDone(pull=2)]
        for size in range(1, len(stream) + 1):
            pieces = [stream[at : at + size] for at in range(0, len(stream), size)]
            self.assertEqual(gathered(LogDecoder(), pieces), expected, size)

    def test_that_are_not_whole_are_waited_for_at_every_byte(self):
        stream = encode(m.Ack(names=(NAME,)))
        for length in range(len(stream)):
            decoder = LogDecoder()
            self.assertEqual(gathered(decoder, [stream[:length]]), [])
            self.assertEqual(decoder.held_bytes, length)
            self.assertEqual(gathered(decoder, [stream[length:]]), [m.Ack(names=(NAME,))])

    def test_of_raw_bytes_are_handed_on_without_a_copy_and_nothing_is_held(self):
        data = bytearray(raw_head(MAX_RAW_BYTES) + b"x" * MAX_RAW_BYTES)
        decoder = LogDecoder()
        (view,) = decoder.feed(data)
        data[HEAD_BYTES] = ord("y")
        self.assertEqual(view[0], ord("y"))
        self.assertEqual((len(view), decoder.held_bytes), (MAX_RAW_BYTES, 0))

    def test_of_an_unknown_tag_are_told_and_the_next_is_read(self):
        stream = packed(t="later", more=[1, 2]) + encode(m.Pause(pull=1))
        self.assertEqual(gathered(LogDecoder(), [stream]), [UnknownMessage("later"), m.Pause(pull=1)])

    def test_with_unknown_fields_and_without_defaults_are_read(self):
        (begin,) = gathered(LogDecoder(), [packed(t="begin", head=HEAD | {"colour": "red"}, more=1)])
        self.assertEqual((begin.offset, begin.pull, begin.was, begin.head.name), (0, m.PUSHED, "", NAME))

    def test_of_a_version_that_knows_no_stores_are_as_they_were(self):
        older = [packed(t="log-welcome", batches=True), packed(t="batch", heads=[HEAD])]
        welcome, batch = gathered(LogDecoder(), older)
        self.assertEqual((welcome.store, batch.was), ("", ""))
        self.assertEqual(encode(welcome), older[0])
        self.assertEqual(encode(batch), older[1])

    def test_say_which_store_it_is_and_which_it_was(self):
        begin = m.Begin(head=msgspec.convert(HEAD, SegmentHead), was="?")
        self.assertEqual(encode(begin)[4:12], b"\0\x83\xa1t\xa5beg")
        self.assertTrue(encode(begin).endswith(bytes.fromhex("a3776173 a13f")))
        welcome = m.LogWelcome(store=SPOOL)
        self.assertEqual(
            encode(welcome),
            bytes.fromhex("00000038 00 82 a174 ab6c6f672d77656c636f6d65 a573746f7265 d920") + SPOOL.encode(),
        )
        again = gathered(LogDecoder(), [encode(begin), encode(m.Batch(heads=(begin.head,), was=SPOOL))])
        self.assertEqual([one.was for one in again], ["?", SPOOL])

    def test_that_are_wrong_end_it_for_good(self):
        bad = {
            "no body": "00000001 00",
            "no kind": "00000000 00",
            "empty raw": "00000001 01",
            "an unknown kind": "00000002 02 00",
            "a long message": f"{MAX_MESSAGE_BYTES + 1:08x} 00",
            "a long raw frame": f"{MAX_RAW_BYTES + 2:08x} 01",
            "four gigabytes": "ffffffff 01",
            "no MessagePack": "00000002 00 c1",
            "an array": "00000003 00 9101",
            "a number as its tag": packed(t=1).hex(),
        }
        fields = {
            "a name with dots": packed(t="log-ack", names=["../../etc/passwd"]),
            "a name with a newline": packed(t="log-ack", names=[NAME + "\n"]),
            "too many names": packed(t="log-ack", names=[NAME] * (m.MAX_NAMES + 1)),
            "too many drops": packed(t="dropped", incarnation=SPOOL, position=1, drops=[{}] * 501),
            "a pull of number 0": packed(t="cancel", pull=0),
            "a negative offset": packed(t="begin", head=HEAD, offset=-1),
            "an incarnation that is a path": packed(t="begin", head=HEAD | {"incarnation": "../" + "a" * 29}),
            "an incarnation and a newline": packed(t="begin", head=HEAD | {"incarnation": SPOOL + "\n"}),
            "a counter of 0": packed(t="begin", head=HEAD | {"counter": 0}),
            "a counter beyond its name": packed(t="begin", head=HEAD | {"counter": 10**16}),
            "a size of 0": packed(t="begin", head=HEAD | {"size": 0}),
            "an absurd size": packed(t="begin", head=HEAD | {"size": 64 * MIB + 1}),
            "no class": packed(t="begin", head=HEAD | {"log_class": "all"}),
            "no hash": packed(t="begin", head={k: v for k, v in HEAD.items() if k != "sha256"}),
            "a store that is a path": packed(t="log-welcome", store="../" + "a" * 29),
            "a store and a newline": packed(t="log-welcome", store=SPOOL + "\n"),
            "any store as one": packed(t="log-welcome", store="?"),
            "half a store": packed(t="begin", head=HEAD, was=SPOOL[:16]),
            "another thing's id": packed(t="begin", head=HEAD | {"service": "pool-" + "0" * 36}),
        }
        for what, data in (bad | {k: v.hex() for k, v in fields.items()}).items():
            decoder = LogDecoder()
            for stream in (bytes.fromhex(data), encode(m.Pause(pull=1))):
                try:
                    found = gathered(decoder, [stream])
                except RemoteProtocolError:
                    continue
                self.fail(f"{what}: {found}")
            self.assertEqual(decoder.held_bytes, 0)

    def test_that_no_peer_would_take_are_not_made(self):
        drop = Drop(reason=DropReason.TORN, log_class=LogClass.FULL, service="x" * 1000)
        with self.assertRaises(LocalProtocolError):
            encode(m.Dropped(incarnation=SPOOL, position=1, drops=(drop,) * 500))

    @settings(max_examples=200, deadline=None)
    @given(st.lists(st.binary(max_size=40), max_size=8))
    def test_made_of_anything_either_mean_something_or_are_refused(self, pieces):
        decoder = LogDecoder()
        try:
            gathered(decoder, pieces)
        except RemoteProtocolError:
            return
        self.assertLessEqual(decoder.held_bytes, sum(map(len, pieces)))
