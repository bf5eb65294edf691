"""The small sans-IO parts of ssh/: fields, keys, exchanges, counters."""

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import kex, keys
from avinet.ssh.fields import Reader, string, uint32
from avinet.ssh.flow import RateGuard


class Fields(SynchronousTestCase):
    VECTOR = bytes.fromhex("00000003616263 01 fffffffe 00000000 7a".replace(" ", ""))

    def take(self, data):
        reader = Reader(data, "it")
        return reader.text(), reader.boolean(), reader.uint32(), reader.string(), reader.rest()

    def test_a_vector(self):
        self.assertEqual(self.take(self.VECTOR), ("abc", True, 0xFFFFFFFE, b"", b"z"))

    def test_truncation_at_every_byte(self):
        for size in range(len(self.VECTOR) - 1):
            self.assertRaises(RemoteProtocolError, self.take, self.VECTOR[:size])

    def test_leftovers_and_long_names(self):
        self.assertRaises(RemoteProtocolError, Reader(b"x", "it").end)
        self.assertRaises(RemoteProtocolError, Reader(string(b"abcd"), "it").text, 3)

    @given(st.lists(st.one_of(st.binary(max_size=50), st.integers(0, 2**32 - 1))))
    def test_round_trips(self, values):
        reader = Reader(b"".join(string(v) if isinstance(v, bytes) else uint32(v) for v in values), "it")
        self.assertEqual(
            [reader.string() if isinstance(v, bytes) else reader.uint32() for v in values], values
        )
        reader.end()


class Keys(SynchronousTestCase):
    # RFC 8709 gives the form, ssh-keygen -lf the fingerprint.
    LINE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f"

    def test_lines_and_blobs_are_inverse_and_comments_do_not_count(self):
        blob = keys.blob_of_line(self.LINE + " someone@somewhere")
        self.assertEqual(keys.line_of(blob), self.LINE)
        self.assertEqual(blob[-32:], bytes(range(32)))

    def test_other_lines_are_refused(self):
        for line in (
            "",
            "ssh-rsa AAAA",
            "ssh-ed25519",
            "ssh-ed25519 !!!!",
            "ssh-ed25519 AAAA",
            self.LINE[:-4],
        ):
            self.assertRaises(ValueError, keys.blob_of_line, line)

    def test_signatures(self):
        key = Ed25519PrivateKey.generate()
        blob = keys.blob_of(key.public_key())
        good = string(keys.ALGORITHM) + string(key.sign(b"m"))
        self.assertTrue(keys.verifies(blob, good, b"m"))
        self.assertFalse(keys.verifies(blob, good, b"n"))
        self.assertFalse(keys.verifies(blob, string(b"ssh-rsa") + string(key.sign(b"m")), b"m"))
        self.assertFalse(keys.verifies(blob, string(keys.ALGORITHM) + string(b"short"), b"m"))
        self.assertTrue(keys.fingerprint_of(blob).startswith("SHA256:"))
        self.assertEqual(len(base64.b64decode(keys.fingerprint_of(blob)[7:] + "=")), 32)


class Exchanges(SynchronousTestCase):
    def test_bad_answers_are_the_peers_fault(self):
        for algorithm, sizes in (
            (b"curve25519-sha256", (0, 31, 33)),
            (b"mlkem768x25519-sha256", (0, 32, 1119, 1121)),
        ):
            for size in sizes:
                self.assertRaises(RemoteProtocolError, kex.start(algorithm).secret, bytes(size))
        self.assertRaises(RemoteProtocolError, kex.Curve25519().secret, bytes(32))
        self.assertRaises(RemoteProtocolError, kex.Hybrid().secret, bytes(1120))

    def test_both_sides_of_the_curve_agree_on_a_positive_integer(self):
        for _ in range(50):
            one, two = kex.Curve25519(), X25519PrivateKey.generate()
            secret = one.secret(two.public_key().public_bytes_raw())
            reader = Reader(secret, "it")
            number = reader.string()
            reader.end()
            self.assertLess(number[0], 0x80)
            raw = two.exchange(X25519PublicKey.from_public_bytes(one.offer()))
            self.assertEqual(int.from_bytes(number, "big"), int.from_bytes(raw, "big"))


class Counters(SynchronousTestCase):
    def test_a_guard_counts_over_its_window(self):
        guard = RateGuard(3, 10.0)
        self.assertEqual([guard.allow(t) for t in (0, 1, 2, 3)], [True, True, True, False])
        self.assertFalse(guard.allow(6))
        self.assertTrue(guard.allow(30))
