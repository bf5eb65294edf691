"""Dialling a controller: each way to fail has an error of its own, and every wait ends."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from twisted.internet.defer import CancelledError, Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.error import DNSLookupError
from twisted.internet.protocol import Protocol
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError, Kind, RemoteProtocolError, error
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.errors import ConnectionEndedError, DialError, SshTimeoutError
from tests.unit.ssh_pipe import Collector, Controller, Pipe


@error
class NotThisOneError(AvinetError):
    """Not this one."""

    kind = Kind.DENIED


class Endpoint:
    """Connects to whatever ``build`` makes."""

    def __init__(self, case, build):
        self.case = case
        self.build = build

    def connect(self, factory):
        result = self.build()
        if isinstance(result, Exception):
            return fail(result)
        if result is None:
            return Deferred()
        client = factory.buildProtocol(None)
        self.case.pipe = Pipe(client, result, self.case.controller.clock)
        return succeed(client)


class Dial(SynchronousTestCase):
    def setUp(self):
        self.controller = Controller()
        self.key = self.controller.enrol()
        self.clock = self.controller.clock

    def connect(self, build, verify=lambda line: True):
        return connect(
            Endpoint(self, build), user="aviseuser", key=self.key, verify_host_key=verify, clock=self.clock
        )

    def server(self):
        return self.controller.server.buildProtocol(IPv4Address("TCP", "10.1.2.3", 1))

    def test_a_good_dial_gives_a_channel(self):
        dialled = self.connect(self.server)
        self.pipe.pump()
        self.assertIsInstance(self.successResultOf(dialled), SecureChannel)

    def test_what_cannot_be_reached_is_a_dial_error(self):
        for reason in (Refused(), DNSLookupError("no such name"), OSError("no route")):
            self.failureResultOf(self.connect(lambda r=reason: r), DialError)

    def test_a_silent_network_and_a_silent_server_time_out(self):
        dialled = self.connect(lambda: None)
        self.clock.advance(11)
        self.assertEqual(self.failureResultOf(dialled, SshTimeoutError).value.step, "Connecting")
        dialled = self.connect(Collector)
        self.pipe.pump()
        self.clock.advance(21)
        self.assertEqual(self.failureResultOf(dialled, SshTimeoutError).value.step, "Logging in")
        self.pipe.pump()
        self.assertTrue(self.pipe.over)

    def test_a_dial_that_is_given_up_leaves_nothing(self):
        dialled = self.connect(Collector)
        self.pipe.pump()
        dialled.cancel()
        self.failureResultOf(dialled, CancelledError)
        self.pipe.pump()
        self.assertTrue(self.pipe.over)

    def test_a_server_that_is_no_ssh_server_is_said_to_be_none(self):
        class Web(Protocol):
            def connectionMade(self):
                self.transport.write(b"HTTP/1.1 400 Bad Request\r\n" * 400)

        dialled = self.connect(Web)
        self.pipe.pump()
        self.failureResultOf(dialled, RemoteProtocolError)

    def test_a_server_that_hangs_up_is_not_a_protocol_error(self):
        class Bye(Protocol):
            def connectionMade(self):
                self.transport.loseConnection()

        dialled = self.connect(Bye)
        self.pipe.pump()
        self.failureResultOf(dialled, ConnectionEndedError)

    def test_a_banner_before_the_version_is_skipped(self):
        server = self.server()

        class Banner(Protocol):
            def connectionMade(self):
                self.transport.write(b"Welcome to\r\nthis machine\r\n")
                self.transport.protocol = server
                server.makeConnection(self.transport)

        dialled = self.connect(Banner)
        self.pipe.pump()
        self.successResultOf(dialled)

    def test_the_checkers_own_error_is_the_outcome(self):
        def verify(line):
            raise NotThisOneError

        dialled = self.connect(self.server, verify)
        self.pipe.pump()
        self.failureResultOf(dialled, NotThisOneError)

    def test_a_server_with_another_key_than_it_shows_is_refused(self):
        server = self.server()
        server.host_key = Ed25519PrivateKey.generate()
        dialled = self.connect(lambda: server)
        self.pipe.pump()
        self.assertIn("signature", self.failureResultOf(dialled, RemoteProtocolError).value.detail)

    def test_channels_and_forwards_that_are_never_answered_time_out(self):
        dialled = self.connect(self.server)
        self.pipe.pump()
        channel = self.successResultOf(dialled)
        opening, asking = channel.open(5001, Protocol()), channel.listen("127.1.0.1", 5097, Protocol)
        self.clock.advance(16)
        self.failureResultOf(opening, SshTimeoutError)
        self.failureResultOf(asking, SshTimeoutError)
