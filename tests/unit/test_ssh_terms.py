"""The operator's terms of a process's connections: when keys change, which are offered, and what memory they share."""

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.channel_terms import terms_of
from avinet.app.settings import ChannelSection
from avinet.errors import RemoteProtocolError
from avinet.ssh import profile
from avinet.ssh.client import Timeouts, _Login
from avinet.ssh.commands import MAX_INPUT_WINDOW_BYTES, CommandServer, _CommandLogin
from avinet.ssh.fields import Reader
from avinet.ssh.memory import ConnectionMemory, ProcessMemory
from avinet.ssh.profile import LinkLimits
from avinet.ssh.server import ServerSettings
from avinet.ssh.terms import Terms
from avinet.units import KIB, MIB
from tests.unit.ssh_pipe import Collector, Controller, Pipe


class Sink(Collector):
    """Takes nothing until told."""

    def connectionMade(self):
        self.transport.pauseProducing()


class Settings(SynchronousTestCase):
    def test_become_the_terms_and_leave_the_rest(self):
        section = ChannelSection(
            post_quantum_only=True, rekey_bytes=MIB, rekey_s=60, memory_mib=32, connection_memory_mib=8
        )
        terms = terms_of(section, LinkLimits(channels=3))
        self.assertEqual((terms.hybrid_only, terms.memory.limit), (True, 32 * MIB))
        expected = LinkLimits(channels=3, rekey_after_bytes=MIB, rekey_after_s=60, memory_bytes=8 * MIB)
        self.assertEqual(terms.limits, expected)

    def test_left_alone_are_the_defaults(self):
        terms = terms_of(ChannelSection())
        self.assertEqual((terms.limits, terms.memory.limit), (LinkLimits(), ProcessMemory().limit))
        self.assertFalse(terms.hybrid_only)


class Keys(SynchronousTestCase):
    def connected(self, limits, settings=None):
        controller = Controller(settings=settings)
        pipe, channel = controller.channel(controller.enrol(), terms=Terms(limits))
        channel.open(5001, end := Collector())
        pipe.pump()
        return controller, pipe, end

    def test_change_after_the_bytes_that_the_client_was_given(self):
        _, pipe, end = self.connected(LinkLimits(rekey_after_bytes=MIB, rekey_spread=0.0))
        for _ in range(3):
            end.transport.write(bytes(MIB))
            pipe.pump()
        self.assertEqual((pipe.client_end.protocol.exchanges, len(end.data)), (4, 3 * MIB))

    def test_change_after_the_time_that_the_server_was_given(self):
        settings = ServerSettings(link=LinkLimits(rekey_after_s=60.0, rekey_spread=0.0))
        controller, pipe, end = self.connected(LinkLimits(), settings)
        controller.clock.advance(61)
        pipe.pump()
        self.assertEqual(pipe.server_end.protocol.exchanges, 2)
        end.transport.write(b"still here")
        pipe.pump()
        self.assertEqual(end.data, b"still here")


class PostQuantumOnly(SynchronousTestCase):
    def test_two_that_want_it_agree(self):
        controller = Controller(settings=ServerSettings(hybrid_only=True))
        pipe, _ = controller.channel(controller.enrol(), terms=Terms(hybrid_only=True))
        self.assertEqual(pipe.server_end.protocol.algorithms.kex, profile.POST_QUANTUM)

    def test_a_server_offers_nothing_else(self):
        controller = Controller(settings=ServerSettings(hybrid_only=True))
        pipe = controller.raw(Collector())
        pipe.pump()
        offer = pipe.client_end.protocol.data
        self.assertIn(profile.POST_QUANTUM, offer)
        self.assertNotIn(b"curve25519", offer)

    def test_a_client_offers_nothing_else(self):
        clock, key = Clock(), Ed25519PrivateKey.generate()
        login = _Login("u", key, bool, clock, Timeouts(), terms=Terms(hybrid_only=True))
        pipe = Pipe(login.buildProtocol(None), end := Collector(), clock)
        pipe.pump()
        self.assertIn(profile.POST_QUANTUM, end.data)
        self.assertNotIn(b"curve25519", end.data)

    def test_an_ses_command_server_offers_nothing_else(self):
        server = CommandServer(
            Ed25519PrivateKey.generate(), list, Clock(), lambda use: None, terms=Terms(hybrid_only=True)
        )
        pipe = Pipe(end := Collector(), server.build("c1"), server._reactor)
        pipe.pump()
        self.assertIn(profile.POST_QUANTUM, end.data)
        self.assertNotIn(b"curve25519", end.data)


class Memory(SynchronousTestCase):
    def test_all_logins_and_all_dials_count_in_their_process(self):
        ours, theirs = ProcessMemory(), ProcessMemory()
        controller = Controller(memory=theirs)
        terms = Terms(attrs.evolve(LinkLimits(), memory_bytes=9 * MIB), ours)
        for se in ("se-1", "se-2"):
            pipe, channel = controller.channel(controller.enrol(se=se), terms=terms)
            self.assertIs(channel.connection.memory.process, ours)
            self.assertEqual(channel.connection.memory.limit, 9 * MIB)
            self.assertIs(pipe.server_end.protocol.service.memory.process, theirs)

    def test_a_command_server_counts_in_its_process(self):
        terms = Terms()
        key = Ed25519PrivateKey.generate()
        server = CommandServer(key, list, Clock(), lambda use: None, terms=terms)
        server._judge = lambda attempt: ""
        self.assertIs(server._admit(attrs.make_class("A", ["fingerprint"])("f")).memory.process, terms.memory)

    def test_a_commands_window_grows_no_further_than_openssh_is_quick_with(self):
        server = CommandServer(Ed25519PrivateKey.generate(), list, Clock(), lambda use: None)
        channel = _CommandLogin(server, "f").open_channel("session", Reader(b"", "an open"))
        self.assertEqual(channel.max_window, MAX_INPUT_WINDOW_BYTES)

    def held(self, limits, process, size):
        """A client whose protocol takes nothing, and an echo that sends it ``size`` bytes."""
        controller = Controller()
        pipe, channel = controller.channel(controller.enrol(), terms=Terms(limits, process))
        channel.open(5001, end := Sink())
        pipe.pump()
        end.transport.write(bytes(size))
        pipe.pump()
        return pipe, channel

    def test_what_a_paused_reader_leaves_is_counted_and_given_back_at_the_end(self):
        process = ProcessMemory()
        pipe, channel = self.held(LinkLimits(), process, 300 * KIB)
        self.assertEqual(process.held, channel.connection.memory.held)
        self.assertGreaterEqual(process.held, 300 * KIB)
        self.assertLess(process.held, 304 * KIB)
        channel.abort()
        pipe.pump()
        self.assertEqual(process.held, 0)

    def test_a_connection_over_its_own_bound_is_cut(self):
        pipe, channel = self.held(LinkLimits(memory_bytes=256 * KIB), ProcessMemory(), 300 * KIB)
        self.assertIsInstance(self.successResultOf(channel.lost), RemoteProtocolError)
        self.assertTrue(pipe.over)

    def test_over_the_bound_of_the_process_whoever_holds_most_is_cut(self):
        process = ProcessMemory(1000)
        cut = []
        one, two = (ConnectionMemory(process, lambda why, name=name: cut.append(name)) for name in "ab")
        one.hold(400)
        two.hold(500)
        self.assertTrue(one.pressed)
        one.hold(101)
        self.assertEqual(cut, ["a"])
        one.release(501)
        two.release(500)
        self.assertEqual((process.held, process._holders), (0, set()))
