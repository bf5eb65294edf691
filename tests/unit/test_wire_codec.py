"""Frames: the bytes of each message, and every way in which bytes can be wrong."""

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import LocalProtocolError, RemoteProtocolError
from avinet.model.fence import Fence
from avinet.wire import messages as m
from avinet.wire.codec import (
    MAX_FRAME_BYTES,
    MAX_HELLO_BYTES,
    MAX_TAG_CHARS,
    FrameDecoder,
    UnknownMessage,
    encode,
)
from avinet.wire.versions import common_version

HELLO = m.Hello(se="se-1", boot="b", protocol=1, oldest_protocol=1, software="0.1", fence=Fence(1, 2, 3))

VECTORS = (
    (m.Ping(id=1, sent_at=0.5), "0000001d 83 a174 a470696e67 a26964 01 a773656e745f6174 cb3fe0000000000000"),
    (m.StatsRequest(id=7), "00000015 82 a174 ad73746174732d72657175657374 a26964 07"),
    (m.ConfigEnd(push=2), "00000014 82 a174 aa636f6e6669672d656e64 a470757368 02"),
    (
        m.ConfigPut(push=2, name="pool/p", body=b"\0\xff"),
        "00000029 84 a174 aa636f6e6669672d707574 a470757368 02 a46e616d65 a6706f6f6c2f70 a4626f6479 c40200ff",
    ),
    (m.Unsupported(tag_="new"), "00000017 82 a174 ab756e737570706f72746564 a3746167 a36e6577"),
    (
        m.Goodbye(reason="version", text="no", retry_after_s=60.0),
        "00000039 84 a174 a7676f6f64627965 a6726561736f6e a776657273696f6e a474657874 a26e6f ad72657472795f61667465725f73 cb404e000000000000",
    ),
)


def frame(body):
    return len(body).to_bytes(4, "big") + body


def packed(**fields):
    return frame(msgspec.msgpack.encode(fields))


def decode_all(data, **options):
    decoder = FrameDecoder(**options)
    decoder.feed(data)
    found = []
    while (message := decoder.next_message()) is not None:
        found.append(message)
    return found


BAD = {
    "an empty frame": "00000000",
    "a frame over the limit": "00100001",
    "a frame of four gigabytes": "ffffffff",
    "no MessagePack": "00000001 c1",
    "no map": "00000001 07",
    "a map without a tag": "00000001 80",
    "a tag that is a number": "00000004 81 a174 01",
    "a tag that is not UTF-8": "00000007 81 a174 a3 ffffff",
    "a map cut short": "00000003 82 a174",
    "a map that claims four billion entries": "00000005 df ffffffff",
    "a list that claims four billion entries": "00000022 83 a174 ad636f6e6669672d72656d6f7665 a470757368 01 a56e616d6573 dd ffffffff",
    "bytes after the map": "00000016 82 a174 ad73746174732d72657175657374 a26964 07 00",
    "a field of the wrong type": "00000016 82 a174 ad73746174732d72657175657374 a26964 a137",
    "a field left out": "00000011 81 a174 ad73746174732d72657175657374",
}


class TheBytes(SynchronousTestCase):
    def test_each_message_has_the_bytes_that_the_protocol_says(self):
        for message, vector in VECTORS:
            self.assertEqual(encode(message).hex(), bytes.fromhex(vector).hex())

    def test_the_bytes_mean_the_message(self):
        for message, vector in VECTORS:
            self.assertEqual(decode_all(bytes.fromhex(vector)), [message])

    def test_a_message_cut_at_any_byte_waits_for_the_rest(self):
        data = encode(HELLO)
        for cut in range(len(data)):
            decoder = FrameDecoder()
            decoder.feed(data[:cut])
            self.assertIsNone(decoder.next_message())
            decoder.feed(data[cut:])
            self.assertEqual(decoder.next_message(), HELLO)
            self.assertIsNone(decoder.next_message())
            self.assertEqual(decoder.buffered_bytes, 0)

    def test_messages_in_one_piece_come_one_by_one(self):
        self.assertEqual(
            decode_all(encode(HELLO) + encode(m.ConfigEnd(push=1))), [HELLO, m.ConfigEnd(push=1)]
        )

    def test_the_size_of_the_last_message_is_known(self):
        decoder = FrameDecoder()
        decoder.feed(encode(HELLO))
        decoder.next_message()
        self.assertEqual(decoder.last_frame_bytes, len(encode(HELLO)))

    @settings(max_examples=60, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.builds(
                    m.ConfigPut,
                    push=st.integers(0, 2**32),
                    name=st.text(),
                    body=st.binary(),
                    more=st.booleans(),
                ),
                st.builds(m.Ack, push=st.integers(0, 2**32), version=st.integers(0, 2**63), hash=st.text()),
                st.builds(
                    m.Notice,
                    code=st.text(),
                    level=st.text(),
                    text=st.text(),
                    facts=st.dictionaries(st.text(), st.integers(-(2**63), 2**63) | st.text() | st.none()),
                ),
                st.builds(
                    m.Report, services=st.lists(st.builds(m.ServiceStats, service=st.text())).map(tuple)
                ),
            ),
            max_size=5,
        ),
        st.integers(1, 50),
    )
    def test_any_messages_in_any_pieces_come_back(self, sent, size):
        data = b"".join(encode(message) for message in sent)
        decoder, got = FrameDecoder(), []
        for start in range(0, len(data), size):
            decoder.feed(data[start : start + size])
            while (message := decoder.next_message()) is not None:
                got.append(message)
        self.assertEqual(got, sent)


class TolerantOfNewerPeers(SynchronousTestCase):
    def test_unknown_fields_are_skipped(self):
        self.assertEqual(
            decode_all(packed(t="stats-request", id=7, colour={"a": [1]})), [m.StatsRequest(id=7)]
        )

    def test_an_unknown_message_is_named_and_the_next_one_is_read(self):
        data = packed(t="telepathy", id=1) + encode(m.ConfigEnd(push=1))
        self.assertEqual(decode_all(data), [UnknownMessage("telepathy"), m.ConfigEnd(push=1)])

    def test_a_tag_too_long_or_unprintable_to_send_back_is_an_error(self):
        for tag in ("", "x" * (MAX_TAG_CHARS + 1), "a\nb"):
            self.assertRaises(RemoteProtocolError, decode_all, packed(t=tag))


class WrongBytes(SynchronousTestCase):
    def test_each_kind_is_a_protocol_error(self):
        for name, data in BAD.items():
            with self.assertRaises(RemoteProtocolError, msg=name):
                decode_all(bytes.fromhex(data))

    def test_deep_nesting_is_a_protocol_error(self):
        deep = msgspec.msgpack.encode({"t": "notice", "code": "", "level": "", "text": "", "facts": 1})[:-1]
        for body in (b"\x81\xa1a" + b"\x91" * 100_000, deep + b"\x81\xa1a" + b"\x91" * 100_000 + b"\x01"):
            self.assertRaises(RemoteProtocolError, decode_all, frame(body))

    def test_a_length_over_the_limit_is_refused_before_its_bytes_come(self):
        decoder = FrameDecoder(max_frame_bytes=MAX_HELLO_BYTES)
        decoder.feed((MAX_HELLO_BYTES + 1).to_bytes(4, "big"))
        self.assertRaises(RemoteProtocolError, decoder.next_message)

    def test_after_an_error_nothing_is_kept_and_the_error_stays(self):
        decoder = FrameDecoder()
        decoder.feed(b"\0\0\0\0" + encode(HELLO))
        self.assertRaises(RemoteProtocolError, decoder.next_message)
        decoder.feed(encode(HELLO))
        self.assertRaises(RemoteProtocolError, decoder.next_message)
        self.assertEqual(decoder.buffered_bytes, 0)

    def test_the_error_does_not_quote_a_body(self):
        with self.assertRaises(RemoteProtocolError) as caught:
            decode_all(packed(t="config-put", push="SECRET", name="n", body=b"SECRET"))
        self.assertNotIn("SECRET", str(caught.exception))

    @settings(max_examples=200, deadline=None)
    @given(st.binary(min_size=1, max_size=200))
    def test_no_bytes_raise_anything_else(self, body):
        try:
            decode_all(frame(body))
        except RemoteProtocolError:
            return

    @settings(max_examples=200, deadline=None)
    @given(st.integers(4, len(encode(HELLO)) - 1), st.integers(0, 255))
    def test_no_altered_message_raises_anything_else(self, place, value):
        data = bytearray(encode(HELLO))
        data[place] = value
        try:
            decode_all(bytes(data))
        except RemoteProtocolError:
            return


class TooMuchOfOurs(SynchronousTestCase):
    def test_a_message_over_the_limit_is_our_error(self):
        encode(m.ConfigPut(push=1, name="n", body=bytes(MAX_FRAME_BYTES - 100)))
        self.assertRaises(
            LocalProtocolError, encode, m.ConfigPut(push=1, name="n", body=bytes(MAX_FRAME_BYTES))
        )


class Versions(SynchronousTestCase):
    def test_the_highest_that_both_speak_is_spoken(self):
        for newest, oldest, expected in (
            (3, 2, 3),
            (4, 3, 3),
            (2, 1, 2),
            (1, 1, None),
            (5, 4, None),
            (4, 4, None),
        ):
            self.assertEqual(common_version(newest, oldest, ours=3, our_oldest=2), expected)
