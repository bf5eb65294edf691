"""Reverse forwards: who may have one, who keeps it, and what flows through it."""

import errno

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from avinet.ports import PortTakenError
from avinet.ssh.errors import ForwardRefusedError
from avinet.ssh.reverse import MAX_CONNECTIONS, VACANT_S
from tests.unit.ssh_pipe import Collector, Controller, Echo, Pipe


class TakenReactor(MemoryReactor):
    def listenTCP(self, port, factory, backlog=50, interface=""):
        raise CannotListenError(interface, port, OSError(errno.EADDRINUSE, "in use"))


class Reverse(SynchronousTestCase):
    def setUp(self):
        self.reactor = MemoryReactor()
        self.controller = Controller(self.reactor)
        self.key = self.controller.enrol()

    def login(self, key=None, *, attached=False):
        pipe, channel = self.controller.channel(key or self.key)
        if attached:
            self.controller.server._logins["se-1"][-1].mark_attached()
        return pipe, channel

    def listen(self, pipe, channel, address="127.1.0.1", port=5097, build=Echo):
        asking = channel.listen(address, port, build)
        pipe.pump()
        return asking

    def caller(self):
        """Someone who connects to the forward; (pipe, protocol)."""
        _, factory, _, interface = self.reactor.tcpServers[-1]
        self.assertEqual(interface, "127.1.0.1")
        accepted = factory.buildProtocol(IPv4Address("TCP", "127.0.0.1", 50000))
        if accepted is None:
            return None, None
        caller = Collector()
        return Pipe(caller, accepted, self.controller.clock), caller

    def test_what_comes_in_reaches_the_se_and_back(self):
        pipe, channel = self.login()
        self.successResultOf(self.listen(pipe, channel))
        link, caller = self.caller()
        caller.transport.write(b"x" * 300_000)
        for _ in range(20):
            link.pump()
            pipe.pump()
        self.assertEqual(caller.data, b"x" * 300_000)
        caller.transport.loseConnection()
        link.pump()
        pipe.pump()
        self.assertEqual(channel.connection.channels, {})

    def test_a_caller_is_cut_when_the_se_is_lost(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        link, caller = self.caller()
        link.pump()
        pipe.pump()
        channel.abort()
        pipe.pump()
        link.pump()
        self.assertIsNotNone(caller.reason)

    def test_a_slow_caller_holds_the_se_back(self):
        class Flood(Protocol):
            def connectionMade(self):
                for _ in range(60):
                    self.transport.write(bytes(65536))

        pipe, channel = self.login()
        self.listen(pipe, channel, build=Flood)
        link, caller = self.caller()
        link.client_end.reading = False
        for _ in range(30):
            pipe.pump()
            link.pump()
        self.assertLess(len(link.server_end.sent), 256 * 1024)
        link.client_end.reading = True
        for _ in range(100):
            pipe.pump()
            link.pump()
        self.assertEqual(len(caller.data), 60 * 65536)

    def test_only_its_own_address_and_port_are_granted(self):
        pipe, channel = self.login()
        for address, port in (
            ("127.1.0.2", 5097),
            ("127.1.0.1", 5098),
            ("", 5097),
            ("localhost", 5097),
            ("127.1.0.1", 0),
        ):
            self.failureResultOf(self.listen(pipe, channel, address, port), ForwardRefusedError)
        self.assertEqual(self.reactor.tcpServers, [])
        self.assertEqual(len(self.controller.observer.named("refused")), 5)

    def test_a_mere_login_takes_nothing_from_an_attached_session(self):
        self.listen(*self.login(attached=True))
        second = self.login()
        self.failureResultOf(self.listen(*second), ForwardRefusedError)

    def test_an_attached_session_takes_it_from_a_mere_login_without_closing_the_socket(self):
        first = self.login()
        self.successResultOf(self.listen(*first))
        second = self.login(attached=True)
        self.successResultOf(self.listen(*second))
        self.assertEqual(len(self.reactor.tcpServers), 1)
        first[1].abort()
        first[0].pump()
        link, caller = self.caller()
        caller.transport.write(b"hello")
        for _ in range(4):
            link.pump()
            second[0].pump()
        self.assertEqual(caller.data, b"hello")

    def test_a_session_that_replaces_an_aborted_one_gets_the_same_socket(self):
        first = self.login(attached=True)
        self.listen(*first)
        self.controller.server._logins["se-1"][0].abort()
        second = self.login()
        self.successResultOf(self.listen(*second))
        self.assertEqual(len(self.reactor.tcpServers), 1)
        self.controller.clock.advance(VACANT_S + 1)
        self.assertIsNotNone(self.caller()[0])

    def test_a_vacant_forward_refuses_and_then_closes(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        channel.close()
        pipe.pump()
        self.assertEqual(self.caller(), (None, None))
        self.controller.clock.advance(VACANT_S + 0.1)
        self.assertEqual(self.controller.reverse._forwards, {})

    def test_a_caller_too_many_is_refused(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        callers = [self.caller() for _ in range(MAX_CONNECTIONS)]
        self.assertEqual(self.caller(), (None, None))
        callers[0][0].client_end.abortConnection()
        callers[0][0].pump()
        self.assertIsNotNone(self.caller()[0])

    def test_a_foreign_holder_of_the_port_is_reported(self):
        controller = Controller(TakenReactor())
        pipe, channel = controller.channel(controller.enrol())
        asking = channel.listen("127.1.0.1", 5097, Echo)
        pipe.pump()
        self.failureResultOf(asking, ForwardRefusedError)
        ((_, se, error),) = controller.observer.named("reverse_failed")
        self.assertEqual((se, type(error), error.setting), ("se-1", PortTakenError, "reverse_port"))

    def test_an_se_that_never_answers_loses_the_caller(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        link, caller = self.caller()
        self.assertIsInstance(self.controller.clock, Clock)
        self.controller.clock.advance(16)
        link.pump()
        self.assertIsNotNone(caller.reason)
