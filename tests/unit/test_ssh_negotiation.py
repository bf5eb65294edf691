"""What two offers lead to, and offers that are none."""

import contextlib

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.exchange import offer
from avinet.ssh.negotiation import COOKIE_BYTES, Algorithms, KexInit, agree, guess_was_right

GCM, CHACHA, CTR = (
    b"aes256-gcm@openssh.com",
    b"chacha20-poly1305@openssh.com",
    b"aes256-ctr",
)
CURVE, HYBRID = b"curve25519-sha256", b"mlkem768x25519-sha256"
MAC = b"hmac-sha2-256-etm@openssh.com"
# RFC 4253 section 7.1, by hand: lists, no guess, reserved.
VECTOR = bytes.fromhex(
    "000102030405060708090a0b0c0d0e0f"
    "00000011 637572766532353531392d736861323536"
    "0000000b 7373682d65643235353139"
    + "0000000a 6165733235362d637472" * 2
    + "00000001 61" * 2
    + "00000004 6e6f6e65" * 2
    + "00000000" * 2
    + "01 00000000"
)


def side(**changes):
    usual = {
        "kex": (CURVE,),
        "host_keys": (b"ssh-ed25519",),
        "ciphers_cs": (GCM,),
        "ciphers_sc": (GCM,),
        "macs_cs": (MAC,),
        "macs_sc": (MAC,),
    }
    return KexInit(**(usual | changes))


class Offers(SynchronousTestCase):
    def test_a_vector(self):
        taken = KexInit.decode(VECTOR)
        self.assertEqual(
            taken,
            KexInit((CURVE,), (b"ssh-ed25519",), (CTR,), (CTR,), (b"a",), (b"a",), guessed=True),
        )
        self.assertEqual(taken.encode(VECTOR[:COOKIE_BYTES])[1:], VECTOR)

    def test_truncation_at_every_byte_and_anything_behind(self):
        for size in range(len(VECTOR)):
            self.assertRaises(RemoteProtocolError, KexInit.decode, VECTOR[:size])
        self.assertRaises(RemoteProtocolError, KexInit.decode, VECTOR + b"\0")

    @given(st.binary(max_size=200))
    def test_garbage_is_the_peers_fault(self, garbage):
        with contextlib.suppress(RemoteProtocolError):
            KexInit.decode(garbage)

    def test_ours_round_trips_and_is_marked_the_first_time_only(self):
        for first in (True, False):
            ours = offer(profile.STRICT_SERVER, profile.EXTENSIONS_SERVER, first=first)
            self.assertEqual(KexInit.decode(ours.encode(bytes(16))[1:]).kex, ours.kex)
            self.assertEqual(profile.STRICT_SERVER in ours.kex, first)
            self.assertEqual(ours.kex[0], HYBRID)
        only = offer(profile.STRICT_SERVER, profile.EXTENSIONS_SERVER, first=True, hybrid_only=True)
        self.assertNotIn(CURVE, only.kex)


class Agreement(SynchronousTestCase):
    def test_the_clients_first_choice_that_the_server_has(self):
        client = side(kex=(HYBRID, CURVE), ciphers_cs=(CHACHA, GCM), ciphers_sc=(CTR, GCM))
        server = side(kex=(CURVE, HYBRID), ciphers_cs=(GCM, CHACHA), ciphers_sc=(GCM, CTR))
        self.assertEqual(
            agree(client, server, profile.KEY_EXCHANGES),
            Algorithms(HYBRID, b"ssh-ed25519", CHACHA, CTR, b"", MAC),
        )

    def test_markers_are_never_agreed_on(self):
        markers = (profile.STRICT_CLIENT, b"ext-info-c")
        client, server = side(kex=(*markers, CURVE)), side(kex=(*markers, CURVE))
        self.assertEqual(agree(client, server, profile.KEY_EXCHANGES).kex, CURVE)
        self.assertRaises(RemoteProtocolError, agree, side(kex=markers), server, profile.KEY_EXCHANGES)

    def test_what_is_not_in_common_is_named(self):
        nothing = (b"",)
        for field, name in (
            ("kex", "key exchange"),
            ("host_keys", "host key"),
            ("ciphers_cs", "cipher"),
            ("ciphers_sc", "cipher"),
            ("compressions_cs", "compression"),
            ("compressions_sc", "compression"),
        ):
            for client, server in ((side(**{field: nothing}), side()), (side(), side(**{field: nothing}))):
                with self.assertRaises(RemoteProtocolError) as caught:
                    agree(client, server, profile.KEY_EXCHANGES)
                self.assertIn(f"no {name}", caught.exception.detail)

    def test_macs_matter_for_counter_mode_alone(self):
        for direction in ("cs", "sc"):
            odd = {f"macs_{direction}": (b"hmac-md5",)}
            self.assertEqual(
                agree(side(**odd), side(), profile.KEY_EXCHANGES),
                Algorithms(CURVE, b"ssh-ed25519", GCM, GCM, b"", b""),
            )
            odd[f"ciphers_{direction}"] = (CTR,)
            self.assertRaises(
                RemoteProtocolError,
                agree,
                side(**odd),
                side(**{f"ciphers_{direction}": (CTR,)}),
                profile.KEY_EXCHANGES,
            )

    def test_a_guess_is_right_when_both_prefer_the_same(self):
        for kex, host_key, right in (
            (CURVE, b"ssh-ed25519", True),
            (HYBRID, b"ssh-ed25519", False),
            (CURVE, b"ssh-rsa", False),
        ):
            client = side(kex=(kex, CURVE), host_keys=(host_key, b"ssh-ed25519"))
            self.assertEqual(guess_was_right(client, side()), right)
