"""Peers that are logged in and mean harm: what they make us hold is bounded, and the others are served."""

import struct

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.conch.ssh import connection as conch
from twisted.conch.ssh import transport, userauth

from avinet.errors import RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.fields import string, uint32
from avinet.ssh.memory import ConnectionMemory, ProcessMemory
from avinet.ssh.userauth import KeyProof
from avinet.units import KIB
from tests.unit.ssh_pipe import Collector, Echo
from tests.unit.test_ssh_channel import Held
from tests.unit.test_ssh_hostile import Hostile, channel_open

PING, PONG = 192, 193


class Attacker(Hostile):
    """A login whose client sends what the test says and only writes down what it gets."""

    def login(self):
        self.pipe, self.channel = self.controller.channel(self.key)
        link = self.pipe.client_end.protocol
        self.heard = heard = []
        dispatch = link.dispatchMessage

        def note(number, payload):
            if number < 50:
                dispatch(number, payload)
            else:
                heard.append((number, bytes(payload)))

        link.dispatchMessage = note
        link.service.ssh_CHANNEL_DATA = lambda payload: heard.append((conch.MSG_CHANNEL_DATA, bytes(payload)))
        self.send = lambda number, body: link._emit(bytes((number,)) + body)
        self.server = self.pipe.server_end.protocol
        self.memory = self.server.service.memory
        return self.pipe

    def open(self, number=0, window=2**20):
        """Their ``number``; ours counts from 0."""
        self.send(conch.MSG_CHANNEL_OPEN, channel_open(number, window=window, largest=32 * KIB))
        self.pipe.pump()
        self.assertEqual(self.heard[-1][0], conch.MSG_CHANNEL_OPEN_CONFIRMATION)
        return self.server.service.channels[max(self.server.service.channels)]

    def data(self, channel, data):
        self.send(conch.MSG_CHANNEL_DATA, uint32(channel.id) + string(data))

    def service(self, build):
        self.ends = []

        def built():
            self.ends.append(build())
            return self.ends[-1]

        self.controller.build = built

    def assert_served(self):
        """The pipe is alive and well."""
        self.pipe.pump()
        self.assertFalse(self.pipe.over)
        self.assertIsNone(self.server.ended)
        self.assert_quiet()


class Memory(Attacker):
    def test_pieces_of_a_byte_take_no_more_than_their_bytes(self):
        self.service(Held)
        self.login()
        channel = self.open()
        for n in range(20_000):
            self.data(channel, bytes((n % 251,)))
        self.pipe.pump()
        self.assertLess(len(channel.incoming.waiting), 10)
        self.assertGreaterEqual(self.memory.held, 20_000)
        self.ends[0].transport.resumeProducing()
        self.assertEqual(self.ends[0].data, bytes(n % 251 for n in range(20_000)))
        self.assertEqual(self.memory.held, 0)
        self.assert_served()

    def test_pieces_that_cannot_be_joined_are_counted_as_what_they_take(self):
        self.service(Held)
        self.login()
        self.memory.limit = 256 * KIB
        channel = self.open()
        for _ in range(1500):
            self.data(channel, b"x")
            self.send(conch.MSG_CHANNEL_EXTENDED_DATA, uint32(channel.id) + uint32(1) + string(b"y"))
        self.assert_cut(self.pipe, "wait for it")
        self.assertEqual(self.memory.held, 0)

    def test_small_answers_that_nobody_takes_are_joined_too(self):
        self.service(Echo)
        self.login()
        channel = self.open(window=0)
        for n in range(20_000):
            self.data(channel, bytes((n % 251,)))
        self.pipe.pump()
        self.assertLess(len(channel.unsent), 10)
        self.send(conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(2**20))
        self.pipe.pump()
        echoed = b"".join(payload[8:] for number, payload in self.heard if number == conch.MSG_CHANNEL_DATA)
        self.assertEqual(echoed, bytes(n % 251 for n in range(20_000)))

    def test_what_a_closed_channels_reader_has_not_taken_counts_until_it_has(self):
        process = self.controller.memory
        self.service(Held)
        self.login()
        channel = self.open()
        self.data(channel, bytes(30_000))
        self.send(conch.MSG_CHANNEL_CLOSE, uint32(0))
        self.pipe.pump()
        self.pipe.client_end.abortConnection()
        self.pipe.pump()
        self.assertTrue(self.pipe.over)
        self.assertGreaterEqual(process.held, 30_000)
        self.ends[0].transport.resumeProducing()
        self.assertEqual(self.ends[0].data, bytes(30_000))
        self.assertIsNotNone(self.ends[0].reason)
        self.assertEqual((process.held, self.memory.held, process._holders), (0, 0, set()))

    def test_opening_filling_and_closing_again_and_again_is_bounded(self):
        self.service(Held)
        self.login()
        self.memory.limit = 256 * KIB
        for number in range(12):
            self.data(self.open(number), bytes(30_000))
            self.send(conch.MSG_CHANNEL_CLOSE, uint32(number))
            self.pipe.pump()
            if self.server.ended:
                break
        self.assert_cut(self.pipe, "wait for it")
        self.assertEqual(self.memory.held, 0)
        for end in self.ends:
            end.transport.resumeProducing()
        self.assertNotIn(None, [end.reason for end in self.ends])
        self.assertEqual(self.memory.held, 0)

    def test_a_process_that_is_full_cuts_the_heaviest_and_has_room_at_once(self):
        process = self.controller.memory
        process.limit = 100 * KIB
        self.service(Held)
        self.login()
        heavy = self.pipe
        self.data(self.open(), bytes(35_000))
        self.data(self.open(1), bytes(35_000))
        heavy.pump()
        heavy_server = self.server
        heavy.client_end.reading = False  # it does not even take its DISCONNECT
        self.key = self.controller.enrol(se="se-2", loopback="127.1.0.2")
        self.login()
        channel = self.open()
        for _ in range(2):
            self.data(channel, bytes(20_000))
            self.pipe.pump()
        self.assertIn("memory is short", heavy_server.ended.detail)
        self.assertFalse(heavy.server_end.disconnected, "it still has its few seconds")
        self.assertLess(process.held, 70 * KIB)
        self.assert_served()

    def test_counts_never_go_below_nothing(self):
        process = ProcessMemory(limit=1000)
        cuts = []
        one, two = (ConnectionMemory(process, cuts.append, limit=600) for _ in range(2))
        one.hold(500)
        two.hold(400)
        self.assertEqual((cuts, one.pressed, process.held), ([], True, 900))
        two.hold(200)
        self.assertEqual(len(cuts), 1)
        two.hold(1)
        self.assertEqual(len(cuts), 1)  # once is enough
        two.release(601)
        one.release(500)
        self.assertEqual((process.held, process._holders, one.pressed), (0, set(), False))


class Floods(Attacker):
    def test_messages_that_say_nothing_are_a_cut_in_the_end(self):
        limit = profile.LinkLimits().idle_messages
        for number, body in (
            (transport.MSG_IGNORE, string(b"")),
            (transport.MSG_DEBUG, b"\0" + string(b"") * 2),
            (transport.MSG_UNIMPLEMENTED, uint32(0)),
            (PING, string(b"")),
        ):
            self.login()
            for _ in range(limit - 10):
                self.send(number, body)
            self.assert_served()
            for _ in range(20):
                self.send(number, body)
            self.assert_cut(self.pipe, "say nothing")

    def test_pings_that_mark_data_are_free(self):
        self.service(Collector)
        self.login()
        channel = self.open()
        for _ in range(profile.LinkLimits().idle_messages + 100):
            self.data(channel, b"keystroke")
            self.send(PING, string(b""))
            if len(self.pipe.client_end.sent) > 60_000:
                self.pipe.pump()
        self.assert_served()

    def test_hidden_keystrokes_of_openssh_are_free(self):
        self.login()
        self.service(Collector)
        self.open()
        for _ in range(5000):
            self.send(PING, string(b"PING!"))
            self.pipe.clock.advance(0.02)
            self.pipe.client_end.step()
            self.pipe.server_end.step()
        self.assert_served()

    def test_long_pings_are_a_cut_and_pongs_unasked_too(self):
        for number, body, detail in (
            (PING, string(bytes(1025)), "a ping of 1025 bytes"),
            (PONG, string(b""), "a ping that was not sent"),
        ):
            self.login()
            self.send(number, body)
            self.assert_cut(self.pipe, detail)

    def test_empty_data_and_empty_credit_are_a_cut_in_the_end(self):
        self.service(Collector)
        for number, body in (
            (conch.MSG_CHANNEL_DATA, uint32(0) + string(b"")),
            (conch.MSG_CHANNEL_EXTENDED_DATA, uint32(0) + uint32(1) + string(b"")),
            (conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(0)),
        ):
            self.login()
            self.open()
            for _ in range(501):
                self.send(number, body)
            self.assert_cut(self.pipe, "too many requests")

    def test_opens_beyond_the_limit_are_refused_and_leave_nothing(self):
        self.service(Held)
        self.login()
        for number in range(200):
            self.send(conch.MSG_CHANNEL_OPEN, channel_open(number))
        self.pipe.pump()
        limit = self.server.limits.channels
        self.assertEqual(len(self.server.service.channels), limit)
        refused = [payload for number, payload in self.heard if number == conch.MSG_CHANNEL_OPEN_FAILURE]
        self.assertEqual(len(refused), 200 - limit)
        self.assertEqual(struct.unpack(">L", refused[0][4:8]), (conch.OPEN_RESOURCE_SHORTAGE,))
        self.assert_served()

    def test_others_are_served_in_the_middle_of_any_flood(self):
        quiet, calm = self.controller.channel(self.controller.enrol(se="se-2", loopback="127.1.0.2"))
        heartbeat = Collector()
        calm.open(5001, heartbeat)
        quiet.pump()
        floods = (
            (transport.MSG_IGNORE, string(bytes(200))),
            (PING, string(bytes(200))),
            (conch.MSG_CHANNEL_DATA, uint32(0) + string(b"")),
            (conch.MSG_GLOBAL_REQUEST, string(b"x") + b"\1"),
            (conch.MSG_CHANNEL_OPEN, channel_open(9)),
            (transport.MSG_KEXINIT, bytes(80)),
        )
        for number, body in floods:
            self.login()
            self.open()
            for n in range(3000):
                self.send(number, body)
                if n % 500 == 0:
                    self.pipe.server_end.peer.step()
                    heartbeat.data = b""
                    heartbeat.transport.write(b"alive")
                    quiet.pump()
                    self.assertEqual(heartbeat.data, b"alive")
            self.pipe.pump()
            self.assertEqual(self.memory.held, 0)
            self.channel.abort()
            self.pipe.pump()
        self.assertFalse(quiet.over)
        self.assert_quiet()


class Numbers(Attacker):
    def test_a_number_in_use_is_a_cut_and_one_that_was_is_not(self):
        self.service(Collector)
        self.login()
        self.open(7)
        self.send(conch.MSG_CHANNEL_CLOSE, uint32(0))
        self.open(7)
        self.send(conch.MSG_CHANNEL_OPEN, channel_open(7))
        self.assert_cut(self.pipe, "channel 7 is open already")

    def test_nothing_comes_after_a_close_not_even_an_end(self):
        for number, body in (
            (conch.MSG_CHANNEL_EOF, uint32(0)),
            (conch.MSG_CHANNEL_DATA, uint32(0) + string(b"x")),
            (conch.MSG_CHANNEL_CLOSE, uint32(0)),
            (conch.MSG_CHANNEL_WINDOW_ADJUST, uint32(0) + uint32(1)),
        ):
            self.service(Collector)
            self.login()
            self.open()
            self.send(conch.MSG_CHANNEL_CLOSE, uint32(0))
            self.send(number, body)
            self.assert_cut(self.pipe, "channel 0 is not open")

    def test_nothing_comes_after_an_end_but_a_close(self):
        for number, body, detail in (
            (conch.MSG_CHANNEL_EOF, uint32(0), "EOF after EOF"),
            (conch.MSG_CHANNEL_DATA, uint32(0) + string(b"x"), "data after EOF"),
        ):
            self.service(Held)  # else it is closed at once
            self.login()
            channel = self.open()
            self.data(channel, b"x")
            self.send(conch.MSG_CHANNEL_EOF, uint32(0))
            self.send(number, body)
            self.assert_cut(self.pipe, detail)


class Logins(Hostile):
    @settings(max_examples=60, deadline=None)
    @given(st.binary(max_size=400))
    def test_names_of_any_bytes_are_refused_alike(self, user):
        self.controller = type(self.controller)()
        key = self.controller.enrol()
        self.patch(KeyProof, "serviceStarted", lambda proof: None)
        pipe, _ = self.controller.dial(key)
        answers = []
        link = pipe.client_end.protocol
        link.service.ssh_USERAUTH_FAILURE = answers.append
        blob = string(b"ssh-ed25519") + string(bytes(32))
        request = string(user) + string(b"ssh-connection") + string(b"publickey") + b"\0"
        link.sendPacket(userauth.MSG_USERAUTH_REQUEST, request + string(b"ssh-ed25519") + string(blob))
        pipe.pump()
        self.assertEqual(answers, [string(b"publickey") + b"\0"])
        self.assertFalse(pipe.server_end.protocol.authenticated)
        self.assert_quiet()

    def test_a_login_recorded_in_one_session_is_worth_nothing_in_another(self):
        recorded = []
        pipe, _ = self.controller.dial(self.key)
        original = KeyProof.serviceStarted

        def record(proof):
            send = proof.transport.sendPacket
            proof.transport.sendPacket = lambda number, body: recorded.append((number, body))
            original(proof)
            proof.transport.sendPacket = send

        self.patch(KeyProof, "serviceStarted", record)
        self.controller.dial(self.key)
        self.assertEqual(len(recorded), 1)

        def replay(proof):
            proof.transport.sendPacket(*recorded[0])

        self.patch(KeyProof, "serviceStarted", replay)
        pipe, outcome = self.controller.dial(self.key)
        self.assertFalse(pipe.server_end.protocol.authenticated)
        self.assertEqual(self.controller.observer.calls[-1][4], "signature")
        self.assertIn("does not accept", str(outcome[0].value))
        self.assert_quiet()

    def test_asking_for_ever_is_a_cut(self):
        self.patch(KeyProof, "serviceStarted", lambda proof: None)
        pipe, _ = self.controller.dial(self.key)
        link = pipe.client_end.protocol
        link.service.ssh_USERAUTH_FAILURE = lambda packet: None
        for _ in range(21):
            link.sendPacket(
                userauth.MSG_USERAUTH_REQUEST, string(b"x") + string(b"ssh-connection") + string(b"none")
            )
        self.assert_cut(pipe, "too many login requests")
        self.assertIsInstance(pipe.server_end.protocol.ended, RemoteProtocolError)
