"""Reverse forwards: who may have one, who keeps it, and what flows through it."""

import errno
import os
import socket
from functools import partial

from twisted.internet.address import IPv4Address
from twisted.internet.error import CannotListenError
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactor
from twisted.trial.unittest import SynchronousTestCase

from avinet.ports import PortTakenError
from avinet.ssh import reverse
from avinet.ssh.errors import ForwardRefusedError
from avinet.ssh.reverse import MAX_CONNECTIONS
from avinet.ssh.reverse_socket import (
    VACANT_S,
    DeviceBindingError,
    OtherPortError,
    SocketEach,
    loopback_socket,
    shared_socket,
)
from tests.unit.ssh_pipe import Collector, Controller, Echo, Pipe

LOOPBACK, PORT = "127.1.0.1", 5097


class TakenReactor(MemoryReactor):
    def listenTCP(self, port, factory, backlog=50, interface=""):
        raise CannotListenError(interface, port, OSError(errno.EADDRINUSE, "in use"))


class Greeting(Protocol):
    """Says which SE it is on."""

    def __init__(self, number):
        self.number = number

    def connectionMade(self):
        self.transport.write(b"se-%d" % self.number)


class Case(SynchronousTestCase):
    sockets: object = SocketEach

    def setUp(self):
        self.reactor = MemoryReactor()
        self.controller = Controller(self.reactor, sockets=self.sockets)
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

    def factory(self):
        """What accepts connections, by whatever socket."""
        if self.reactor.adoptedPorts:
            return self.reactor.adoptedPorts[-1][2]
        return self.reactor.tcpServers[-1][1]

    def caller(self, at=LOOPBACK, source="127.0.0.1"):
        """Someone who connects to the forward; (pipe, protocol), or (None, None) for one who is reset."""
        accepted = self.factory().buildProtocol(IPv4Address("TCP", source, 50000))
        caller = Collector()
        link = Pipe(caller, accepted, self.controller.clock, source, (at, PORT))
        if link.server_end.aborted:
            link.pump()
            return None, None
        return link, caller


class Forwards:
    """What holds by whatever socket they come in."""

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
        self.assertEqual(self.controller.reverse._forwards, {})
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
        self.assertLessEqual(len(self.reactor.tcpServers), 1)
        first[1].abort()
        first[0].pump()
        link, caller = self.caller()
        caller.transport.write(b"hello")
        for _ in range(4):
            link.pump()
            second[0].pump()
        self.assertEqual(caller.data, b"hello")

    def test_a_session_that_replaces_an_aborted_one_has_the_forward_at_once(self):
        first = self.login(attached=True)
        self.listen(*first)
        self.controller.server._logins["se-1"][0].abort()
        second = self.login()
        self.successResultOf(self.listen(*second))
        self.controller.clock.advance(VACANT_S + 1)
        self.assertIsNotNone(self.caller()[0])

    def test_a_vacant_forward_is_reset(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        channel.close()
        pipe.pump()
        self.assertEqual(self.caller(), (None, None))

    def test_an_address_that_is_no_attached_ses_is_reset(self):
        self.listen(*self.login())
        for at in ("127.1.0.2", "127.0.0.1", "192.0.2.7"):
            self.assertEqual(self.caller(at=at), (None, None), at)

    def test_who_comes_from_outside_the_machine_is_reset(self):
        self.listen(*self.login())
        self.assertEqual(self.caller(source="192.0.2.7"), (None, None))

    def test_each_ses_callers_reach_it_and_no_other(self):
        keys = [self.key, self.controller.enrol(se="se-2", loopback="127.1.0.2")]
        logins = [self.login(key) for key in keys]
        for n, (pipe, channel) in enumerate(logins, 1):
            self.listen(pipe, channel, address=f"127.1.0.{n}", build=lambda n=n: Greeting(n))
        for n in (2, 1):
            link, caller = self.caller(at=f"127.1.0.{n}")
            for _ in range(4):
                link.pump()
                for pipe, _ in logins:
                    pipe.pump()
            self.assertEqual(caller.data, b"se-%d" % n)

    def test_callers_too_many_in_all_are_reset(self):
        self.patch(reverse, "MAX_CONNECTIONS_IN_ALL", 3)
        second = self.controller.enrol(se="se-2", loopback="127.1.0.2")
        self.listen(*self.login())
        self.listen(*self.login(second), address="127.1.0.2")
        callers = [self.caller() for _ in range(3)]
        self.assertEqual(self.caller(at="127.1.0.2"), (None, None))
        callers[0][0].client_end.abortConnection()
        callers[0][0].pump()
        self.assertIsNotNone(self.caller(at="127.1.0.2")[0])

    def test_a_caller_too_many_is_refused(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        callers = [self.caller() for _ in range(MAX_CONNECTIONS)]
        self.assertEqual(self.caller(), (None, None))
        callers[0][0].client_end.abortConnection()
        callers[0][0].pump()
        self.assertIsNotNone(self.caller()[0])

    def test_an_se_that_never_answers_loses_the_caller(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        link, caller = self.caller()
        self.assertIsInstance(self.controller.clock, Clock)
        self.controller.clock.advance(16)
        link.pump()
        self.assertIsNotNone(caller.reason)


class SocketEachTests(Forwards, Case):
    """One socket an SE."""

    def test_the_socket_is_on_the_ses_address_and_opened_when_it_asks(self):
        self.assertEqual(self.reactor.tcpServers, [])
        self.listen(*self.login())
        ((port, _, _, interface),) = self.reactor.tcpServers
        self.assertEqual((port, interface), (PORT, LOOPBACK))

    def listen_and_leave(self):
        pipe, channel = self.login()
        self.successResultOf(self.listen(pipe, channel))
        channel.close()
        pipe.pump()

    def test_a_vacant_socket_serves_who_asks_next(self):
        self.listen_and_leave()
        self.controller.clock.advance(VACANT_S / 2)
        self.listen_and_leave()
        self.controller.clock.advance(VACANT_S / 2 + 0.1)
        self.listen_and_leave()
        self.assertEqual(len(self.reactor.tcpServers), 1)

    def test_a_vacant_socket_closes(self):
        self.listen_and_leave()
        self.controller.clock.advance(VACANT_S + 0.1)
        self.listen_and_leave()
        self.assertEqual(len(self.reactor.tcpServers), 2)

    def test_a_foreign_holder_of_the_port_is_reported(self):
        controller = Controller(TakenReactor())
        pipe, channel = controller.channel(controller.enrol())
        asking = channel.listen("127.1.0.1", 5097, Echo)
        pipe.pump()
        self.failureResultOf(asking, ForwardRefusedError)
        ((_, se, error),) = controller.observer.named("reverse_failed")
        self.assertEqual((se, type(error), error.setting), ("se-1", PortTakenError, "[ssh] reverse_port"))


class SharedSocketTests(Forwards, Case):
    """One socket for all."""

    sockets = staticmethod(partial(shared_socket, port=PORT, opened=lambda port: socket.socket()))

    def test_it_is_the_only_one_and_open_before_any_se_asks(self):
        self.assertEqual(len(self.reactor.adoptedPorts), 1)
        self.listen(*self.login())
        self.assertEqual((len(self.reactor.adoptedPorts), self.reactor.tcpServers), (1, []))

    def test_a_released_forward_leaves_nothing_to_wait_for(self):
        pipe, channel = self.login()
        self.listen(pipe, channel)
        self.controller.server._logins["se-1"][0].abort()
        self.assertEqual(self.controller.reverse._forwards, {})
        pipe.pump()
        self.assertFalse([call for call in self.controller.clock.calls if call.func.__name__ == "_close"])

    def test_another_port_than_its_own_is_refused(self):
        other = self.controller.enrol(se="se-2", loopback="127.1.0.2", reverse_port=5098)
        pipe, channel = self.login(other)
        self.failureResultOf(self.listen(pipe, channel, "127.1.0.2", 5098), ForwardRefusedError)
        ((_, _, error),) = self.controller.observer.named("reverse_failed")
        self.assertIsInstance(error, OtherPortError)


class Obstinate(socket.socket):
    """A kernel that does not bind to devices, or says that it does."""

    refusal = 0

    def setsockopt(self, level, option, value):
        if option != socket.SO_BINDTODEVICE:
            super().setsockopt(level, option, value)
        elif self.refusal:
            raise OSError(self.refusal, os.strerror(self.refusal))

    def bind(self, address):
        raise AssertionError("bound to every address of every device")


class WithoutDeviceTests(SynchronousTestCase):
    """Where a socket cannot be bound to ``lo``."""

    def refusing(self, number):
        return type("Refusing", (Obstinate,), {"refusal": number})

    def test_no_socket_is_ever_opened_for_the_network(self):
        for number in (errno.EPERM, errno.ENOPROTOOPT, errno.ENODEV, 0):
            with self.assertRaises(DeviceBindingError):
                loopback_socket(PORT, self.refusing(number))

    def test_a_system_without_the_option_is_told(self):
        option = socket.SO_BINDTODEVICE
        del socket.SO_BINDTODEVICE
        self.addCleanup(setattr, socket, "SO_BINDTODEVICE", option)
        with self.assertRaises(DeviceBindingError):
            loopback_socket(PORT)

    def test_what_is_no_refusal_of_the_device_is_not_taken_for_one(self):
        with self.assertRaises(OSError):
            loopback_socket(PORT, self.refusing(errno.ENOBUFS))

    def test_there_is_one_socket_an_se_instead(self):
        reactor = MemoryReactor()
        opened = partial(loopback_socket, make=self.refusing(errno.EPERM))
        controller = Controller(reactor, sockets=partial(shared_socket, port=PORT, opened=opened))
        pipe, channel = controller.channel(controller.enrol())
        asking = channel.listen(LOOPBACK, PORT, Echo)
        pipe.pump()
        self.successResultOf(asking)
        self.assertEqual((reactor.adoptedPorts, len(reactor.tcpServers)), ([], 1))
