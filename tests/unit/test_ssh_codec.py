"""The packet codec: streams cut anywhere, packets changed anywhere, sizes at every boundary, memory that goes again."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.ciphers import MacError, Plain
from avinet.ssh.codec import DATA_HEAD_BYTES, PacketReader, PacketWriter, Padding
from tests.unit.test_ssh_ciphers import PAIRS, make

ALL = (None, *PAIRS)
"""And without keys."""


def ends(pair, limit=profile.MAX_PACKET_BYTES, sequence=0):
    """A writer and the reader of what it makes."""
    writer, reader = PacketWriter(), PacketReader()
    reader.limit = limit
    for end in (writer, reader):
        if pair is not None:
            end.switch(make(*pair), restart=False)
        end.sequence = sequence
    return writer, reader


def sealed(writer, *payloads):
    return b"".join(b"".join(writer.seal(payload)) for payload in payloads)


def taken(reader, data):
    """Every payload in ``data``."""
    reader.feed(data)
    payloads = []
    while (payload := reader.next()) is not None:
        payloads.append(bytes(payload))
    return payloads


class Streams(SynchronousTestCase):
    PAYLOADS = (b"\x02", b"\x5e" + bytes(range(50)), b"\x02" * 17, b"\x5e" + bytes(5000), b"\x01a")

    def test_every_cut_of_a_stream_into_two_reads_gives_the_same(self):
        payloads = self.PAYLOADS[:3]
        for pair in ALL:
            stream = sealed(ends(pair)[0], *payloads)
            for at in range(len(stream) + 1):
                reader = ends(pair)[1]
                got = taken(reader, stream[:at]) + taken(reader, stream[at:])
                self.assertEqual(got, list(payloads), (pair, at))

    def test_byte_by_byte_a_packet_comes_with_its_last_byte_and_not_before(self):
        for pair in ALL:
            writer, reader = ends(pair)
            for payload in self.PAYLOADS[:3]:
                stream = sealed(writer, payload)
                for at in range(len(stream) - 1):
                    self.assertEqual(taken(reader, stream[at : at + 1]), [], (pair, at))
                self.assertEqual(taken(reader, stream[-1:]), [payload])
                self.assertEqual(taken(reader, b""), [])

    def test_three_reads_of_any_size_with_large_packets_between_small_ones(self):
        for pair in ALL:
            stream = sealed(ends(pair)[0], *self.PAYLOADS)
            for first in range(0, len(stream), 61):
                for second in (1, 3, 4, 5, 20, 4097):
                    reader = ends(pair)[1]
                    got = taken(reader, stream[:first]) + taken(reader, stream[first : first + second])
                    got += taken(reader, stream[first + second :])
                    self.assertEqual(got, list(self.PAYLOADS), (pair, first, second))

    @settings(max_examples=60, deadline=None)
    @given(
        st.sampled_from(ALL),
        st.lists(st.binary(min_size=1, max_size=80), max_size=12),
        st.lists(st.integers(1, 100)),
    )
    def test_any_payloads_in_any_pieces_round_trip(self, pair, payloads, cuts):
        writer, reader = ends(pair)
        stream, got = sealed(writer, *payloads), []
        for cut in cuts:
            got += taken(reader, stream[:cut])
            stream = stream[cut:]
        self.assertEqual(got + taken(reader, stream), payloads)
        self.assertEqual((reader.sequence, reader.packets), (writer.sequence, writer.packets))

    def test_sizes_around_every_boundary_round_trip(self):
        edges = (1, 4096, 32 * 1024, profile.MAX_OWN_DATA_PACKET)
        for pair in ALL:
            writer, reader = ends(pair)
            for edge in edges:
                for size in range(max(edge - 40, 1), edge + 24, 1 if edge <= 4096 else 13):
                    payload = b"\x5e" + size.to_bytes(4, "big") * (size // 4) + b"z" * (size % 4)
                    stream = sealed(writer, payload)
                    half = len(stream) // 2
                    got = taken(reader, stream) if size % 2 else None
                    if got is None:
                        got = taken(reader, stream[:half]) + taken(reader, stream[half:])
                    self.assertEqual(got, [payload])

    def test_data_put_into_a_blank_is_as_any_other(self):
        head = b"\x5e" + bytes(DATA_HEAD_BYTES - 1)
        for pair in ALL:
            writer, reader = ends(pair)
            for size in (1, 2, 31, 4000, 4096, 4097, profile.MAX_OWN_DATA_PACKET):
                room = writer.blank(size + 3)
                self.assertEqual(len(room), size + 3)
                data = bytes(i % 251 for i in range(size))
                room[:size] = data
                pieces = writer.seal_blank(head, size)
                self.assertEqual(
                    taken(reader, b"".join(pieces) + sealed(writer, b"\x02")), [head + data, b"\x02"]
                )

    def test_the_padding_is_within_the_rules_and_not_always_the_same(self):
        for pair in ALL:
            sealer = make(*pair) if pair else Plain()
            seen = set()
            for size in range(1, 70):
                writer = PacketWriter()
                clear = []

                class Spy:
                    block, plain_head = sealer.block, sealer.plain_head

                    def seal(self, sequence, plain):
                        clear.append(bytes(plain))  # noqa: B023 - used within the turn
                        return (b"",)

                writer.switch(Spy(), restart=False)
                writer.seal(bytes(size))
                length, padding = struct.unpack(">LB", clear[0][:5])
                self.assertEqual(length + 4, len(clear[0]))
                self.assertEqual((length + sealer.plain_head) % sealer.block, 0)
                self.assertTrue(4 <= padding < 4 + sealer.block)
                self.assertEqual(length, 1 + size + padding)
                seen.add(clear[0][-4:])
            self.assertGreater(len(seen), 60)


class Changes(SynchronousTestCase):
    def test_a_bit_flipped_at_any_byte_is_an_error_or_silence_and_never_a_payload(self):
        for pair in PAIRS:
            stream = sealed(ends(pair)[0], b"\x5e" + bytes(range(40)))
            for at in range(len(stream)):
                for bit in range(8):
                    bad = bytearray(stream)
                    bad[at] ^= 1 << bit
                    _, reader = ends(pair)
                    try:
                        got = taken(reader, bytes(bad))
                    except (MacError, RemoteProtocolError):
                        continue
                    self.assertEqual(got, [], (pair, at))
                    self.assertLess(at, 4, "only a longer length may leave it waiting")
                    # Whatever comes then, the tag is wrong, or the length refused.
                    self.assertRaises(
                        (MacError, RemoteProtocolError), taken, reader, bytes(profile.MAX_PACKET_BYTES + 99)
                    )

    def test_a_bit_flipped_in_a_large_packet_is_found_wherever_it_is_cut(self):
        for pair in PAIRS:
            stream = bytearray(sealed(ends(pair)[0], b"\x5e" + bytes(10_000)))
            stream[-20] ^= 4
            for cut in (0, 3, 4, 5000, len(stream) - 1):
                _, reader = ends(pair)
                self.assertEqual(taken(reader, bytes(stream[:cut])), [])
                self.assertRaises(MacError, taken, reader, bytes(stream[cut:]))

    def test_no_packet_may_be_left_out_doubled_or_moved(self):
        for pair in PAIRS:
            writer, _ = ends(pair)
            one, two, three = (sealed(writer, bytes((n,)) * 9) for n in (1, 2, 3))
            for order in (two, one + three, one + one, one + two + one, two + one):
                _, reader = ends(pair)
                # Under ChaCha20 the length is nonsense too; either refusal will do, or it waits for ever.
                try:
                    got = taken(reader, order + bytes(profile.MAX_PACKET_BYTES + 99))
                except (MacError, RemoteProtocolError):
                    continue
                self.fail(f"{pair} gave {got}")


class Refusals(SynchronousTestCase):
    def packet(self, pair, length, padding, sequence=0):
        """A packet as a peer with the keys may make it, whatever its length says."""
        clear = length.to_bytes(4, "big") + bytes((padding,)) + bytes(max(length - 1, 0))
        sealer = make(*pair) if pair else Plain()
        return b"".join(sealer.seal(sequence, memoryview(clear)))

    def test_lengths_over_the_limit_are_refused_with_their_fourth_byte(self):
        for pair in ALL:
            for limit, login in ((profile.MAX_PACKET_BEFORE_LOGIN, False), (profile.MAX_PACKET_BYTES, True)):
                block = (make(*pair) if pair else Plain()).block
                length = (limit // block + 1) * block + (0 if pair else block - 4)
                head = self.packet(pair, length, 4)[:4]
                _, reader = ends(pair, limit)
                self.assertEqual(taken(reader, head[:3]), [])
                with self.assertRaises(RemoteProtocolError) as caught:
                    taken(reader, head[3:])
                self.assertIn(f"{limit} is the most", caught.exception.detail, login)

    def test_lengths_that_are_negative_to_some_are_refused(self):
        for pair in ALL:
            for length in (2**31, 2**32 - 1, 2**32 - 4, 2**32 - 16):
                sealer = make(*pair) if pair else Plain()
                head = sealer.seal(0, memoryview(length.to_bytes(4, "big") + bytes(16)))[0][:4]
                self.assertRaises(RemoteProtocolError, taken, ends(pair)[1], head)

    def test_lengths_that_no_block_divides_or_too_short_for_one_are_refused(self):
        for pair in ALL:
            opener = make(*pair) if pair else Plain()
            for length in range(100):
                whole = (length + opener.plain_head) % opener.block == 0
                enough = length >= opener.block - opener.plain_head
                sealer = make(*pair) if pair else Plain()
                head = sealer.seal(0, memoryview(length.to_bytes(4, "big") + bytes(16)))[0][:4]
                reader = ends(pair)[1]
                if whole and enough:
                    self.assertEqual(taken(reader, head), [])
                else:
                    self.assertRaises(RemoteProtocolError, taken, reader, head)

    def test_paddings_below_four_or_that_leave_no_payload_are_refused(self):
        for pair in ALL:
            length = 32 if pair else 28
            for padding in range(256):
                reader = ends(pair)[1]
                if 4 <= padding < length - 1:
                    self.assertEqual(
                        taken(reader, self.packet(pair, length, padding)), [bytes(length - 1 - padding)]
                    )
                else:
                    self.assertRaises(RemoteProtocolError, taken, reader, self.packet(pair, length, padding))


class Sequences(SynchronousTestCase):
    def test_numbers_wrap_at_two_to_the_32(self):
        for pair in ALL:
            writer, reader = ends(pair, sequence=2**32 - 2)
            payloads = [b"a", b"b", b"c", b"d"]
            self.assertEqual(taken(reader, sealed(writer, *payloads)), payloads)
            self.assertEqual((writer.sequence, reader.sequence), (2, 2))

    def test_new_keys_restart_them_when_strict_and_only_then(self):
        for strict in (True, False):
            writer, reader = ends(PAIRS[2])
            self.assertEqual(taken(reader, sealed(writer, b"a", b"b")), [b"a", b"b"])
            writer.switch(make(*PAIRS[2]), restart=strict)
            reader.switch(make(*PAIRS[2]), restart=strict)
            self.assertEqual((writer.sequence, reader.sequence), (0, 0) if strict else (2, 2))
            self.assertEqual(taken(reader, sealed(writer, b"c")), [b"c"])

    def test_what_is_counted_under_a_key_begins_anew_with_the_next(self):
        for strict in (True, False):
            writer, reader = ends(None)
            taken(reader, sealed(writer, b"a", b"b"))
            for end in (writer, reader):
                end.switch(make(*PAIRS[0]), restart=strict)
                self.assertEqual(end.packets, 0)
            taken(reader, sealed(writer, b"c"))
            self.assertEqual((reader.packets, writer.packets), (1, 1))
            self.assertGreater(reader.opened_bytes, 0)
            self.assertGreater(writer.sealed_bytes, 0)

    def test_packets_behind_the_switch_in_one_read_are_opened_with_the_new_keys(self):
        for old in ALL:
            for new in PAIRS:
                writer, reader = ends(old)
                stream = sealed(writer, b"\x15")
                writer.switch(make(*new), restart=True)
                stream += sealed(writer, b"under new keys", b"\x5e" + bytes(6000))
                reader.feed(stream)
                self.assertEqual(bytes(reader.next()), b"\x15")
                reader.switch(make(*new), restart=True)
                self.assertEqual(bytes(reader.next()), b"under new keys")
                self.assertEqual(bytes(reader.next()), b"\x5e" + bytes(6000))

    def test_a_packet_that_straddles_new_keys_is_refused(self):
        for at in (1, 4, 10):
            writer, reader = ends(PAIRS[0])
            taken(reader, sealed(writer, b"a packet")[:at])
            self.assertRaises(RemoteProtocolError, reader.switch, make(*PAIRS[1]), restart=True)


class Paddings(SynchronousTestCase):
    def test_no_byte_of_the_kernel_s_is_used_twice(self):
        padding = Padding()
        taken = [padding.take(17) for _ in range(1_000)]
        self.assertEqual({len(one) for one in taken}, {17})
        self.assertEqual(len(set(taken)), 1_000)


class Memory(SynchronousTestCase):
    def test_buffers_go_once_packets_are_small_again(self):
        writer, reader = ends(PAIRS[0])
        large = sealed(writer, b"\x5e" + bytes(200_000))
        taken(reader, large[:9])
        taken(reader, large[9:])
        self.assertGreaterEqual(len(reader._scratch) + len(reader._carry) + len(writer._scratch), 600_000)
        self.assertGreater(reader.wanted, 200_000)
        for _ in range(64):
            taken(reader, sealed(writer, b"\x02"))
        self.assertEqual((len(reader._scratch), len(reader._carry), len(writer._scratch)), (0, 0, 0))
        self.assertEqual(reader.wanted, 0)

    def test_a_length_alone_takes_no_more_than_the_limit(self):
        _, reader = ends(None, profile.MAX_PACKET_BEFORE_LOGIN)
        taken(reader, struct.pack(">L", 34_996))
        self.assertLessEqual(len(reader._carry), profile.MAX_PACKET_BEFORE_LOGIN + 64)

    def test_small_payloads_keep_nothing_of_what_was_read(self):
        writer, reader = ends(PAIRS[0])
        reader.feed(sealed(writer, b"one", b"two"))
        one = reader.next()
        self.assertEqual(bytes(reader.next()), b"two")
        self.assertEqual(bytes(one), b"one")
