"""Peers that break the protocol: each is cut with a reason, and nothing is logged as a defect of ours."""

import struct

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh import connection as conch
from twisted.internet.protocol import Protocol
from twisted.logger import LogLevel, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.client import Timeouts, _Login
from avinet.ssh.fields import string, uint32
from avinet.ssh.userauth import KeyProof
from tests.unit.ssh_pipe import Collector, Controller


def details(host=b"localhost", port=5001):
    return string(host) + uint32(port) + string(b"") + uint32(0)


def channel_open(number=0, kind=b"direct-tcpip", window=1000, largest=1000, extra=None):
    return (
        string(kind) + struct.pack(">3L", number, window, largest) + (details() if extra is None else extra)
    )


class Hostile(SynchronousTestCase):
    def setUp(self):
        self.logged = []
        globalLogPublisher.addObserver(self.logged.append)
        self.addCleanup(globalLogPublisher.removeObserver, self.logged.append)
        self.controller = Controller()
        self.key = self.controller.enrol()

    def assert_quiet(self):
        loud = [event for event in self.logged if event["log_level"] > LogLevel.debug]
        self.assertEqual(loud, [])

    def assert_cut(self, pipe, detail):
        pipe.pump()
        pipe.clock.advance(6)
        pipe.pump()
        self.assertTrue(pipe.over)
        self.assertIsInstance(pipe.server_end.protocol.ended, RemoteProtocolError)
        self.assertIn(detail, pipe.server_end.protocol.ended.detail)
        self.assertEqual(self.controller.server.gate.total, 0)
        self.assertEqual(self.controller.server.login_count, 0)
        self.assert_quiet()


class BeforeTheLogin(Hostile):
    def raw(self, data):
        pipe = self.controller.raw(Protocol())
        pipe.client_end.write(data)
        return pipe

    def packet(self, payload):
        pad = 8 - (5 + len(payload)) % 8
        pad += 8 if pad < 4 else 0
        return struct.pack(">LB", 1 + len(payload) + pad, pad) + payload + bytes(pad)

    def test_other_protocols_are_told_so(self):
        pipe = self.controller.raw(Collector())
        pipe.client_end.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        self.assert_cut(pipe, "not an SSH version")
        self.assertIn(b"Invalid SSH identification string.", pipe.client_end.protocol.data)

    def test_old_versions_are_refused(self):
        self.assert_cut(self.raw(b"SSH-1.5-old\r\n"), "not supported")

    def test_a_version_has_no_nul_and_an_end(self):
        self.assert_cut(self.raw(b"SSH-2.0-a\0b\r\n"), "NUL")
        self.assert_cut(self.raw(b"SSH-2.0-" + b"x" * 250), "no SSH version")
        self.assert_cut(self.raw(b"SSH-2.0-" + b"x" * 246 + b"\n"), "too long")

    def test_long_packets_are_refused_by_their_length_alone(self):
        self.assert_cut(
            self.raw(b"SSH-2.0-x\r\n" + struct.pack(">L", 35_004) + b"\x04" * 4), "a packet of 35004"
        )

    def test_impossible_lengths_and_paddings_are_refused(self):
        for head in (
            b"\0\0\0\x0c\xff",
            b"\0\0\0\x0c\x03",
            b"\0\0\0\x00\x04",
            b"\0\0\0\x0d\x04",
            b"\0\0\0\x0c\x0b",
        ):
            self.assert_cut(self.raw(b"SSH-2.0-x\r\n" + head + bytes(16)), "length or padding")

    def test_strangers_may_not_talk_for_ever(self):
        pipe = self.raw(b"SSH-2.0-x\r\n")
        for _ in range(profile.MAX_BYTES_BEFORE_LOGIN // 30_000 + 1):
            pipe.client_end.write(self.packet(b"\x02" + string(bytes(30_000))))
        self.assert_cut(pipe, "too much data")

    def test_nothing_but_a_key_exchange_comes_first(self):
        for payload in (
            b"\x05" + string(b"ssh-userauth"),
            b"\x32abc",
            b"\x5a" + channel_open(),
            b"\x15",
            b"\x1eabcd",
        ):
            pipe = self.raw(b"SSH-2.0-x\r\n" + self.packet(payload))
            pipe.pump()
            pipe.clock.advance(6)
            pipe.pump()
            self.assertTrue(pipe.over)
            self.assertIsInstance(pipe.server_end.protocol.ended, RemoteProtocolError)
        self.assert_quiet()

    def test_a_strict_exchange_takes_no_packet_before_it(self):
        pipe = self.controller.raw(Protocol())
        kexinit = b"\x14" + bytes(16) + string(b"curve25519-sha256,kex-strict-c-v00@openssh.com")
        kexinit += string(b"ssh-ed25519") + string(b"aes256-ctr") * 2 + string(b"hmac-sha2-256") * 2
        kexinit += string(b"none") * 2 + string(b"") * 2 + bytes(5)
        pipe.client_end.write(b"SSH-2.0-x\r\n" + self.packet(b"\x02" + string(b"")) + self.packet(kexinit))
        self.assert_cut(pipe, "not the first packet")

    def test_chacha_without_a_strict_exchange_is_refused(self):
        pipe = self.controller.raw(Protocol())
        kexinit = b"\x14" + bytes(16) + string(b"curve25519-sha256") + string(b"ssh-ed25519")
        kexinit += string(b"chacha20-poly1305@openssh.com") * 2 + string(b"") * 2
        kexinit += string(b"none") * 2 + string(b"") * 2 + bytes(5)
        pipe.client_end.write(b"SSH-2.0-x\r\n" + self.packet(kexinit))
        self.assert_cut(pipe, "without strict key exchange")

    def test_no_common_algorithm_is_an_end(self):
        kexinit = b"\x14" + bytes(16) + string(b"diffie-hellman-group1-sha1") * 10 + bytes(5)
        self.assert_cut(self.raw(b"SSH-2.0-x\r\n" + self.packet(kexinit)), "in common")

    @settings(max_examples=150, deadline=None)
    @given(st.integers(0, 255), st.binary(max_size=300))
    def test_garbage_of_any_kind_never_looks_like_our_defect(self, number, body):
        pipe = self.raw(b"SSH-2.0-x\r\n" + self.packet(bytes([number]) + body))
        pipe.pump()
        self.assert_quiet()

    def test_one_key_exchange_is_enough_for_a_stranger(self):
        stranger = _Login("aviseuser", self.key, lambda line: True, self.controller.clock, Timeouts())
        link = stranger.buildProtocol(None)
        stranger.done.addErrback(lambda _: None)
        link.secured = link.sendKexInit
        self.assert_cut(self.controller.raw(link), "a second key exchange before the login")

    def test_seven_keys_are_too_many(self):
        self.controller.dial(Ed25519PrivateKey.generate())

        class Stubborn(KeyProof):
            def ssh_USERAUTH_FAILURE(self, packet):
                self._key = Ed25519PrivateKey.generate()
                self.serviceStarted()

        self.patch(KeyProof, "ssh_USERAUTH_FAILURE", Stubborn.ssh_USERAUTH_FAILURE)
        pipe, _ = self.controller.dial(Ed25519PrivateKey.generate())
        pipe.pump()
        self.assertTrue(pipe.over)
        self.assertIn("Too many", pipe.server_end.protocol.ended.detail)
        tries = [call for call in self.controller.observer.named("auth_failed") if call[4] == "unknown-key"]
        self.assertEqual(len(tries), 1 + 6)


class AfterTheLogin(Hostile):
    def login(self):
        self.pipe, self.channel = self.controller.channel(self.key)
        self.send = self.pipe.client_end.protocol.sendPacket
        return self.pipe

    def test_unknown_channels_are_a_cut(self):
        for number, body in (
            (conch.MSG_CHANNEL_DATA, uint32(9) + string(b"x")),
            (conch.MSG_CHANNEL_EXTENDED_DATA, uint32(9) + uint32(1) + string(b"x")),
            (conch.MSG_CHANNEL_EOF, uint32(9)),
            (conch.MSG_CHANNEL_CLOSE, uint32(9)),
            (conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(9) + uint32(1)),
            (conch.MSG_CHANNEL_REQUEST, uint32(9) + string(b"x") + b"\1"),
            (conch.MSG_CHANNEL_SUCCESS, uint32(9)),
            (conch.MSG_CHANNEL_FAILURE, uint32(9)),
        ):
            self.login()
            self.send(number, body)
            self.assert_cut(self.pipe, "channel 9 is not open")

    def test_answers_to_nothing_are_a_cut(self):
        for number, body, detail in (
            (conch.MSG_REQUEST_SUCCESS, b"", "not made"),
            (conch.MSG_REQUEST_FAILURE, b"", "not made"),
            (conch.MSG_CHANNEL_OPEN_CONFIRMATION, struct.pack(">4L", 0, 0, 1, 1), "not being opened"),
            (conch.MSG_CHANNEL_OPEN_FAILURE, struct.pack(">2L", 0, 0) + string(b"") * 2, "not being opened"),
        ):
            self.login()
            self.send(number, body)
            self.assert_cut(self.pipe, detail)

    def test_data_beyond_the_window_is_a_cut(self):
        self.controller.build = Paused
        self.login()
        self.channel.open(5001, Collector())
        self.pipe.pump()
        piece = string(bytes(profile.MAX_DATA_PACKET))
        for _ in range(profile.WINDOW_BYTES // profile.MAX_DATA_PACKET + 1):
            self.send(conch.MSG_CHANNEL_DATA, uint32(0) + piece)
            self.pipe.pump()
        self.assert_cut(self.pipe, "beyond the window")

    def test_data_packets_longer_than_agreed_are_a_cut(self):
        self.login()
        self.send(conch.MSG_CHANNEL_OPEN, channel_open())
        self.send(conch.MSG_CHANNEL_DATA, uint32(0) + string(bytes(profile.MAX_OWN_DATA_PACKET + 1)))
        self.assert_cut(self.pipe, "longer than was agreed")

    def test_a_channel_that_takes_a_few_bytes_at_a_time_is_refused(self):
        self.login()
        refused = []
        self.patch(self.channel.connection, "ssh_CHANNEL_OPEN_FAILURE", refused.append)
        self.send(conch.MSG_CHANNEL_OPEN, channel_open(largest=profile.MIN_DATA_PACKET - 1))
        self.pipe.pump()
        self.assertIn(b"a maximum packet size of 511", refused[0])
        self.assertEqual(self.controller.peers, [])

    def test_windows_that_overflow_are_a_cut(self):
        self.login()
        self.send(conch.MSG_CHANNEL_OPEN, channel_open(window=2**32 - 1))
        self.send(conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1))
        self.assert_cut(self.pipe, "2^32")

    def test_floods_of_opens_and_requests_are_a_cut(self):
        for number, body in (
            (conch.MSG_CHANNEL_OPEN, channel_open(kind=b"session", extra=b"")),
            (conch.MSG_GLOBAL_REQUEST, string(b"keepalive@openssh.com") + b"\1"),
        ):
            self.login()
            for _ in range(501):
                self.send(number, body)
            self.assert_cut(self.pipe, "too many requests")

    def test_a_peer_that_asks_and_never_reads_is_cut(self):
        self.login()
        self.pipe.client_end.reading = False
        self.pipe.server_end.protocol.limits = profile.LinkLimits(requests=10**9)
        self.pipe.server_end.protocol.service._guard.limit = 10**9
        for _ in range(40):
            for _ in range(1000):
                self.send(conch.MSG_GLOBAL_REQUEST, string(b"x") + b"\1")
            self.pipe.pump()
        self.assertLess(len(self.pipe.server_end.sent), 4 * 1024 * 1024)
        self.assert_cut(self.pipe, "does not read")

    def test_a_service_cannot_be_asked_for_twice(self):
        self.login()
        self.send(5, string(b"ssh-userauth"))
        self.assert_cut(self.pipe, "no such service")

    def test_a_key_exchange_that_never_ends_is_cut(self):
        pipe = self.login()
        self.channel.open(5001, Collector())
        pipe.pump()
        link = pipe.client_end.protocol
        self.patch(link, "offers_exchanged", lambda exchange: None)
        link.sendKexInit()
        pipe.pump()
        pipe.clock.advance(31)
        self.assert_cut(pipe, "key exchange took too long")

    def test_key_exchanges_without_end_are_a_cut(self):
        self.login()
        for _ in range(profile.MAX_KEY_EXCHANGES + 1):
            self.pipe.client_end.protocol.sendKexInit()
            self.pipe.pump()
        self.assert_cut(self.pipe, "too many key exchanges")

    def test_rekeying_goes_on_with_data_flowing(self):
        pipe = self.login()
        end = Collector()
        self.channel.open(5001, end)
        pipe.pump()
        for side in (pipe.client_end, pipe.server_end, pipe.client_end):
            end.transport.write(b"a" * 100_000)
            side.protocol.sendKexInit()
            end.transport.write(b"b" * 100_000)
            pipe.pump()
        self.assertEqual(end.data, (b"a" * 100_000 + b"b" * 100_000) * 3)
        self.assert_quiet()

    def test_names_that_are_not_utf8_are_a_cut(self):
        self.login()
        self.send(conch.MSG_CHANNEL_OPEN, channel_open(kind=b"\xff\xfe"))
        self.assert_cut(self.pipe, "not UTF-8")

    def test_every_message_cut_short_anywhere_is_a_cut_or_an_answer(self):
        whole = {
            conch.MSG_GLOBAL_REQUEST: string(b"tcpip-forward") + b"\1" + string(b"127.1.0.1") + uint32(1),
            conch.MSG_CHANNEL_OPEN: channel_open(),
            conch.MSG_CHANNEL_DATA: uint32(0) + string(b"abc"),
            conch.MSG_CHANNEL_EXTENDED_DATA: uint32(0) + uint32(1) + string(b"abc"),
            conch.MSG_CHANNEL_REQUEST: uint32(0) + string(b"exec") + b"\1" + string(b"id"),
            conch.MSG_CHANNEL_WINDOW_ADJUST: uint32(0) + uint32(5),
        }
        for number, body in whole.items():
            for size in range(0, len(body), 3):
                pipe = self.login()
                self.send(conch.MSG_CHANNEL_OPEN, channel_open())
                self.send(number, body[:size])
                pipe.pump()
                self.assertTrue(pipe.over or self.channel.connection.transport.authenticated)
                self.assert_quiet()
                if not pipe.over:
                    self.channel.abort()
                    pipe.pump()

    @settings(max_examples=100, deadline=None)
    @given(st.integers(0, 255), st.binary(max_size=100))
    def test_garbage_of_any_kind_never_looks_like_our_defect(self, number, body):
        pipe = self.login()
        self.send(conch.MSG_CHANNEL_OPEN, channel_open())
        self.send(number, body)
        pipe.pump()
        self.assert_quiet()
        if not pipe.over:
            self.channel.abort()
            pipe.pump()


class Paused(Protocol):
    def connectionMade(self):
        self.transport.pauseProducing()
