"""The messages of ``peer-copies`` as bytes, and what is none."""

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.log_spans import names_in, pages, spans
from avinet.errors import RemoteProtocolError
from avinet.logs.runs import Names
from avinet.wire import copy_messages as m
from avinet.wire.raw_frames import raw_head
from avinet.wire.vocabulary import UnknownMessage
from tests.unit.log_copy_kit import SE, SPOOL, head_of

ROW = (SE, SPOOL, 1, 3)


def packed(**fields):
    body = b"\0" + msgspec.msgpack.encode(fields)
    return len(body).to_bytes(4, "big") + body


class Messages(SynchronousTestCase):
    def test_are_these_bytes(self):
        for message, expected in (
            (m.CopyWelcome(new=True), "00000016 00 82 a174 ac636f70792d77656c636f6d65 a36e6577 c3"),
            (m.GoOn(part=7), "00000010 00 82 a174 a5676f2d6f6e a470617274 07"),
            (m.Held(parts=(1, 300)), "00000014 00 82 a174 a468656c64 a57061727473 92 01 cd012c"),
            (m.Settled(number=9), "00000014 00 82 a174 a7736574746c6564 a66e756d626572 09"),
        ):
            with self.subTest(message=message):
                self.assertEqual(m.encode(message), bytes.fromhex(expected))
                self.assertEqual(list(m.copy_decoder().feed(m.encode(message))), [message])

    def test_come_in_pieces_of_any_size_with_raw_bytes_between_them(self):
        said = [
            m.CopyHello(store="ab" * 16),
            m.Copy(part=1, se=SE, heads=(head_of(1), head_of(2))),
            m.Confirm(number=1, names=(ROW,), drop=((SE, SPOOL, 9, 9),)),
            m.CopyClaimed(not_=(ROW,)),
            m.CopyAnswer(refused="why"),
        ]
        data = m.encode(said[0]) + raw_head(3) + b"abc" + b"".join(map(m.encode, said[1:]))
        for size in (1, 7, len(data)):
            decoder, heard, raw = m.copy_decoder(), [], b""
            for at in range(0, len(data), size):
                for thing in decoder.feed(data[at : at + size]):
                    if isinstance(thing, memoryview):
                        raw += thing
                    else:
                        heard.append(thing)
            self.assertEqual((heard, raw), (said, b"abc"))

    def test_that_are_not_known_are_told_and_those_that_cannot_be_meant_end_it(self):
        self.assertEqual(
            list(m.copy_decoder().feed(packed(t="new-thing", a=1))), [UnknownMessage("new-thing")]
        )
        many = [ROW] * (m.MAX_RUNS + 1)
        for what, data in {
            "a store that is a path": packed(t="copy-hello", store="../" + "a" * 29),
            "a store with a newline": packed(t="copy-hello", store="ab" * 16 + "\n"),
            "an engine that is a path": packed(
                t="copy", part=1, se="../se", heads=[msgspec.to_builtins(head_of(1))]
            ),
            "a part of nothing": packed(t="copy", part=1, se=SE, heads=[]),
            "another incarnation": packed(t="confirm", number=1, names=[(SE, "x" * 32, 1, 1)]),
            "too many runs": packed(t="confirm", number=1, names=many),
            "no counter": packed(t="confirm", number=1, names=[(SE, SPOOL, 0, 1)]),
            "another kind": b"\0\0\0\2\2x",
            "too much": (512 * 1024).to_bytes(4, "big") + b"\0",
        }.items():
            with self.subTest(what=what):
                decoder = m.copy_decoder()
                with self.assertRaises(RemoteProtocolError):
                    list(decoder.feed(data))


class Spans(SynchronousTestCase):
    def test_are_names_and_back_some_at_a_time(self):
        names = Names.of((SE, SPOOL, counter) for counter in (1, 2, 3, 7, 9, 10))
        self.assertEqual(spans(names), ((SE, SPOOL, 1, 3), (SE, SPOOL, 7, 7), (SE, SPOOL, 9, 10)))
        self.assertEqual(names_in(spans(names)), names)
        self.assertEqual([one.count for one in pages(names, 2)], [4, 2])
        self.assertEqual([one.count for one in pages(Names())], [0])
        self.assertFalse(names_in([(SE, SPOOL, 5, 4)]))
