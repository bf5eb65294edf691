"""Bounds on connections, whose ports they are, and the UNIX socket."""

import errno
import os
import socket
import stat
import tempfile
from pathlib import Path

from OpenSSL import SSL
from twisted.internet.address import IPv4Address, UNIXAddress
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.python.failure import Failure
from twisted.trial.unittest import SynchronousTestCase

from avinet.ports import CannotBindError, PortTakenError, holder_of
from avinet.rest.connections import LimitedFactory, Limits
from avinet.rest.listen import (
    Place,
    SocketTakenError,
    SocketUnusableError,
    listen_tls,
    listen_unix,
)
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.rest.tls import ServerOptions

OPTIONS = ServerOptions(SSL.Context(SSL.TLS_SERVER_METHOD))


class LimitedFactoryTests(SynchronousTestCase):
    """Connections are counted from their start to their end."""

    def setUp(self):
        self.factory = LimitedFactory(Factory.forProtocol(Protocol), Limits(most=5, most_a_source=3))
        self.refused = self.factory

    def connect(self, source="192.0.2.1"):
        protocol = self.factory.buildProtocol(IPv4Address("TCP", source, 1))
        if protocol is not None:
            protocol.makeConnection(StringTransport())
        return protocol

    def test_one_source_gets_its_share_and_no_more(self):
        self.assertEqual([self.connect() is None for _ in range(4)], [False, False, False, True])
        self.assertIsNotNone(self.connect("192.0.2.2"))
        self.assertEqual(self.factory.refused, 1)

    def test_all_together_get_no_more_than_there_is(self):
        for n in range(5):
            self.assertIsNotNone(self.connect(f"192.0.2.{n}"))
        self.assertIsNone(self.connect("192.0.2.9"))

    def test_the_addresses_of_one_machines_ipv6_network_are_one_source(self):
        self.assertEqual(
            [self.connect(f"2001:db8::{n}") is None for n in range(1, 5)], [False, False, False, True]
        )
        self.assertIsNotNone(self.connect("2001:db8:0:1::1"))

    def test_ipv4_addresses_within_ipv6_are_sources_of_their_own(self):
        for n in range(4):
            self.assertIsNotNone(self.connect(f"::ffff:192.0.2.{n}"))

    def test_a_connection_that_ends_makes_room(self):
        held = [self.connect() for _ in range(3)]
        held[0].connectionLost(Failure(ConnectionDone()))
        self.assertIsNotNone(self.connect())
        self.assertIsNone(self.connect())

    def test_nothing_is_kept_of_sources_that_are_gone(self):
        for n in range(200):
            self.connect(f"198.51.100.{n}").connectionLost(Failure(ConnectionDone()))
        self.assertEqual((self.factory.connections, len(self.factory._held)), (0, 0))

    def test_a_unix_socket_has_only_the_bound_in_all(self):
        made = [self.factory.buildProtocol(UNIXAddress(None)) for _ in range(6)]
        self.assertEqual([protocol is None for protocol in made], [False] * 5 + [True])


class Refusing(MemoryReactorClock):
    """A reactor on which every port has the same trouble."""

    def __init__(self, code):
        super().__init__()
        self.code = code

    def listenTCP(self, port, factory, backlog=50, interface=""):
        raise CannotListenError(interface, port, OSError(self.code, os.strerror(self.code)))


class ListenTests(SynchronousTestCase):
    """Opening ports."""

    def site(self):
        clock = MemoryReactorClock()
        return BoundedSite(Router([], clock), clock)

    def test_a_taken_port_is_named_with_its_setting_and_holder(self):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            held.listen()
            port = held.getsockname()[1]
            with self.assertRaises(PortTakenError) as caught:
                listen_tls(
                    Refusing(errno.EADDRINUSE),
                    Place(port, "registration.port", "127.0.0.1"),
                    self.site(),
                    OPTIONS,
                )
        text = str(caught.exception)
        for part in (str(port), "registration.port", f"pid {os.getpid()} ("):
            self.assertIn(part, text)

    def test_a_port_that_may_not_be_bound_is_another_error(self):
        with self.assertRaises(CannotBindError) as caught:
            listen_tls(Refusing(errno.EACCES), Place(443, "api.port"), self.site(), OPTIONS)
        self.assertIn("Permission denied", str(caught.exception))
        self.assertIn("api.port", str(caught.exception))

    def test_a_free_port_listens_behind_the_limits(self):
        reactor = MemoryReactorClock()
        listen_tls(reactor, Place(8443, "x", "127.0.0.1"), self.site(), OPTIONS)
        (port, factory, _, interface) = reactor.tcpServers[0]
        self.assertEqual((port, interface), (8443, "127.0.0.1"))
        self.assertIsInstance(factory, LimitedFactory)

    def test_the_holder_of_a_port_nobody_holds_is_said_to_be_gone(self):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            port = held.getsockname()[1]
        self.assertIn("gone", holder_of(port, "127.0.0.1"))

    def test_a_holder_on_every_address_holds_each(self):
        with socket.socket(socket.AF_INET6) as held:
            held.bind(("::", 0))
            held.listen()
            self.assertIn(f"pid {os.getpid()} ", holder_of(held.getsockname()[1], "127.0.0.1"))

    def test_a_holder_on_another_address_does_not_count(self):
        with socket.socket() as held:
            held.bind(("127.0.0.1", 0))
            held.listen()
            self.assertIn("gone", holder_of(held.getsockname()[1], "127.9.9.9"))

    def test_a_holder_of_one_address_is_named_with_it_to_who_wants_them_all(self):
        with socket.socket() as held:
            held.bind(("127.9.9.9", 0))
            held.listen()
            self.assertRegex(
                holder_of(held.getsockname()[1], ""), rf"pid {os.getpid()} \(.*\), on 127\.9\.9\.9$"
            )

    def test_another_users_program_is_named_by_its_user(self):
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "net").mkdir()
            line = "0: 0302017F:13E9 00000000:0000 0A 00000000:00000000 00:00000000 00000000 {} 0 4711 1\n"
            for uid, name in ((0, "root"), (4_000_000_001, "4000000001")):
                (Path(folder) / "net" / "tcp").write_text("header\n" + line.format(uid))
                self.assertIn(f"user {name} ", holder_of(5097, "127.1.2.3", Path(folder)))
                self.assertIn("on 127.1.2.3", holder_of(5097, "", Path(folder)))


class UnixTests(SynchronousTestCase):
    """The socket on which being let in by the file system is the login."""

    def setUp(self):
        self.folder = Path(self.mktemp())
        self.folder.mkdir(parents=True)
        here = Path.cwd()
        os.chdir(self.folder)  # a path short enough for a socket
        self.addCleanup(os.chdir, here)
        self.path = Path("api.sock")
        clock = MemoryReactorClock()
        self.site = BoundedSite(Router([], clock), clock)

    def test_a_dead_predecessors_socket_is_replaced(self):
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(self.path))
        reactor = MemoryReactorClock()
        listen_unix(reactor, self.path, self.site)
        self.assertFalse(self.path.exists())
        self.assertEqual(reactor.unixServers[0][0], "api.sock")

    def test_a_living_holder_is_not_pushed_aside(self):
        with socket.socket(socket.AF_UNIX) as living:
            living.bind(str(self.path))
            living.listen()
            with self.assertRaises(SocketTakenError):
                listen_unix(MemoryReactorClock(), self.path, self.site)
        self.assertTrue(self.path.exists())

    def test_a_file_that_is_no_socket_is_left_alone(self):
        self.path.write_text("mine")
        listen_unix(MemoryReactorClock(), self.path, self.site)
        self.assertEqual(self.path.read_text(), "mine")

    def test_a_path_too_long_is_said_to_be(self):
        with self.assertRaises(SocketUnusableError) as caught:
            listen_unix(MemoryReactorClock(), Path("a" * 108), self.site)
        self.assertIn("shorter", str(caught.exception))

    def test_the_socket_is_never_open_to_others(self):
        modes = []

        class Binding(MemoryReactorClock):
            def listenUNIX(self, address, factory, backlog=50, mode=0o666, wantPID=0):
                with socket.socket(socket.AF_UNIX) as made:
                    made.bind(address)
                    modes.append(stat.S_IMODE(Path(address).stat().st_mode))

        before = os.umask(0)
        self.addCleanup(os.umask, before)
        listen_unix(Binding(), self.path, self.site)
        self.assertEqual(modes, [0o600])
        self.assertEqual(os.umask(0), 0)
