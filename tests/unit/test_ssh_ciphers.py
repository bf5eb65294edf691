"""Packets under keys: vectors of another implementation, and what happens to a packet that was changed."""

import hashlib

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh.ciphers import CIPHERS, MACS, MacError, protection
from avinet.ssh.kex import derive

KEY = hashlib.shake_256(b"avinet key").digest(64)
MAC_KEY = hashlib.shake_256(b"avinet mac").digest(64)
IV = bytes(range(0x40, 0x50))
SHA256, SHA512 = b"hmac-sha2-256-etm@openssh.com", b"hmac-sha2-512-etm@openssh.com"
PAIRS = tuple((name, b"") for name, spec in CIPHERS.items() if spec.aead) + tuple(
    (name, mac) for name, spec in CIPHERS.items() if not spec.aead for mac in MACS
)
"""Every protection that we offer."""


def given(letter, size):
    """In place of a key exchange's derivation: IV, key and MAC key of the vectors."""
    return {b"A": IV, b"C": KEY, b"E": MAC_KEY}[letter][:size]


def make(cipher, mac=b""):
    return protection(cipher, mac, b"ACE", given)


# Made with asyncssh 2.24.1 (asyncssh.encryption.get_encryption, encrypt_packet) under the keys above: a CHANNEL_DATA
# stump with sequence number 7, then an empty IGNORE with 8, padded with 0, 1, 2, ...
VECTORS = (
    (
        (b"aes256-gcm@openssh.com", b""),
        "00000010ac07b3d5d546d9554d6973b38b3579aa abfab5a0c2cd874ad3ad1e16ea045264",
        "00000010f23eb73a289bb96fc6c75b6cec3b0fa5 360a68a0bf287190561e42ad18ffce55",
    ),
    (
        (b"aes128-gcm@openssh.com", b""),
        "00000010e43c8b54be7cdb9db65c5fce35a33857 b9eca0ab2920231bcb2043e5a8d77f2c",
        "0000001008acc7ecf171c3267ea6ff54d605a6af 1aff665b6860821b1f37d9e55db1a3cb",
    ),
    (
        (b"chacha20-poly1305@openssh.com", b""),
        "993892a1683cb71c8715467c63658b43f5efd8bd 3e305860f0c1e84c1c308977d458df5f",
        "ff14f0afa778b8697c7985f0294935bdb3f46b28 1a41d57d14115517abb97b66b20bcbf9",
    ),
    (
        (b"aes256-ctr", SHA256),
        (
            "000000107bc5ab1cee907de65316b48c9cd24fc9"
            "f3f85440977a944f68a2d2de63c05884a169fec5bc351f5d0cf80a33b05edf04"
        ),
        (
            "0000001093d5379557cf23b69988835a86bad97e"
            "8fc6b6ddab5d1f5f702fd6251c0b975c44da9b45a2f1d64db8366ee7fcbec16a"
        ),
    ),
    (
        (b"aes256-ctr", SHA512),
        (
            "000000107bc5ab1cee907de65316b48c9cd24fc9"
            "553f2eacf5b3e6755e88686d70dc41394af00acdf859593d6723277078eaf972"
            "5a27b8f0286179822ff1531c832cf4d029ca4fc539c514107645a294ba450ed2"
        ),
        (
            "0000001093d5379557cf23b69988835a86bad97e"
            "27fff85094c64d904731de897bb0a9d93dc271a84ef5626cfa19ef173c8468a3"
            "489c418ff0adc4e1caa62287b1ec517748e7feb9bd337b9a322db17d603a4e83"
        ),
    ),
)
FIRST, SECOND = bytes.fromhex("5e68656c6c6f"), bytes.fromhex("0200000000")


def plain(payload, block):
    """A packet in the clear as the vectors have it; the length does not count into the block."""
    padding = block - (1 + len(payload)) % block
    padding += block if padding < 4 else 0
    body = bytes((padding,)) + payload + bytes(range(padding))
    return len(body).to_bytes(4, "big") + body


def opened(opener, sequence, packet):
    out = bytearray(len(packet) - 4 - opener.tag)
    opener.open(sequence, memoryview(packet), memoryview(out))
    return bytes(out)


class Vectors(SynchronousTestCase):
    def test_there_is_one_for_everything_that_we_offer(self):
        self.assertEqual([pair for pair, *_ in VECTORS], list(PAIRS))

    def test_sealing_two_packets_in_a_row(self):
        for pair, *wires in VECTORS:
            sealer = make(*pair)
            for sequence, payload, wire in zip((7, 8), (FIRST, SECOND), wires, strict=True):
                pieces = sealer.seal(sequence, memoryview(plain(payload, sealer.block)))
                self.assertEqual(b"".join(pieces), bytes.fromhex(wire), pair)

    def test_opening_two_packets_in_a_row(self):
        for pair, *wires in VECTORS:
            opener = make(*pair)
            for sequence, payload, wire in zip((7, 8), (FIRST, SECOND), wires, strict=True):
                packet = bytes.fromhex(wire)
                clear = plain(payload, opener.block)
                self.assertEqual(opener.length(sequence, packet[:4]), len(clear) - 4, pair)
                self.assertEqual(opened(opener, sequence, packet), clear[4:], pair)

    def test_gcm_counts_as_rfc_5647_says_and_wraps(self):
        # The fixed field stays; the 64-bit counter goes from its last value to 0.
        iv = bytes.fromhex("a1b2c3d4 ffffffffffffffff".replace(" ", ""))
        sealer = CIPHERS[b"aes256-gcm@openssh.com"].aead(KEY[:32], iv + bytes(4))
        for nonce in (iv, iv[:4] + bytes(8), iv[:4] + bytes(7) + b"\1"):
            clear = plain(b"x", 16)
            expected = clear[:4] + AESGCM(KEY[:32]).encrypt(nonce, clear[4:], clear[:4])
            self.assertEqual(b"".join(sealer.seal(0, memoryview(clear))), expected)


class Changes(SynchronousTestCase):
    def test_a_bit_flipped_anywhere_is_never_a_packet(self):
        for pair in PAIRS:
            sealer = make(*pair)
            packet = b"".join(sealer.seal(0, memoryview(plain(b"payload of a packet", sealer.block))))
            for at in range(len(packet)):
                bad = bytearray(packet)
                bad[at] ^= 1 << at % 8
                self.assertRaises(MacError, opened, make(*pair), 0, bytes(bad))

    def test_a_packet_out_of_its_place_is_refused(self):
        for pair in PAIRS:
            sealer = make(*pair)
            packets = [b"".join(sealer.seal(n, memoryview(plain(b"x", sealer.block)))) for n in range(2)]
            self.assertRaises(MacError, opened, make(*pair), 0, packets[1])
            opener = make(*pair)
            opened(opener, 0, packets[0])
            self.assertRaises(MacError, opened, opener, 1, packets[0])

    def test_the_tag_covers_the_highest_sequence_numbers(self):
        for pair in PAIRS:
            if b"gcm" in pair[0]:
                continue  # it counts by itself
            sealer = make(*pair)
            packet = b"".join(sealer.seal(2**32 - 1, memoryview(plain(b"x", sealer.block))))
            self.assertRaises(MacError, opened, make(*pair), 2**31 - 1, packet)
            self.assertEqual(opened(make(*pair), 2**32 - 1, packet), plain(b"x", sealer.block)[4:])


class Keys(SynchronousTestCase):
    def test_long_keys_are_made_of_hashes_of_what_there_is_already(self):
        # RFC 4253 section 7.2.
        secret, exchange, session = b"\0\0\0\2\x12\x34", bytes(range(32)), bytes(range(32, 64))
        first = hashlib.sha256(secret + exchange + b"C" + session).digest()
        second = hashlib.sha256(secret + exchange + first).digest()
        third = hashlib.sha256(secret + exchange + first + second).digest()
        self.assertEqual(derive(secret, exchange, session, b"C", 80), (first + second + third)[:80])

    def test_each_direction_has_keys_of_its_own(self):
        asked = []

        def record(letter, size):
            asked.append((letter, size))
            return bytes(size)

        protection(b"aes256-ctr", SHA512, b"BDF", record)
        self.assertEqual(asked, [(b"B", 16), (b"D", 32), (b"F", 64)])
        asked.clear()
        protection(b"chacha20-poly1305@openssh.com", b"", b"ACE", record)
        self.assertEqual(asked, [(b"A", 16), (b"C", 64)])
