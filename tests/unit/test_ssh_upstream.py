"""What avinet's SSH builds on in Twisted beyond its documented interfaces, as Twisted does it now.

Each test is of Twisted's own classes and says what here depends on it.  One that fails after an upgrade names the
module to look at before anything else is believed.
"""

import re
import socket
import struct
from pathlib import Path

from twisted.conch.error import ConchError
from twisted.conch.ssh import connection, transport, userauth
from twisted.conch.ssh.channel import SSHChannel
from twisted.conch.ssh.connection import SSHConnection
from twisted.conch.ssh.service import SSHService
from twisted.conch.ssh.transport import SSHTransportBase
from twisted.internet import tcp
from twisted.internet.endpoints import HostnameEndpoint, TCP4ClientEndpoint, TCP6ClientEndpoint
from twisted.internet.error import ConnectionLost
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.trial.unittest import SynchronousTestCase

from avinet.ssh import upstream
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.connection import Connection
from avinet.ssh.exchange import MSG_EXT_INFO, MSG_PING
from avinet.ssh.links import ClientLink, ServerLink
from avinet.ssh.transport import MSG_CHANNEL_DATA, Link
from tests.unit.ssh_pipe import Collector

PACKAGE = Path(upstream.__file__).parent


class Packets:
    """In a link's place: keeps what a service sends."""

    def __init__(self):
        self.sent = []
        self.unimplemented = 0

    def sendPacket(self, number, payload):
        self.sent.append((number, payload))

    def sendUnimplemented(self):
        self.unimplemented += 1


class Channel(SSHChannel):
    name = b"direct-tcpip"

    def __init__(self, **how):
        super().__init__(**how)
        self.told = []

    def channelOpen(self, data):
        self.told.append(("open", data))

    def openFailed(self, reason):
        self.told.append(("failed", type(reason)))

    def closed(self):
        self.told.append(("closed",))


def inherited(base, ours):
    """What ``ours`` takes over as it is: the methods of ``base`` that may run in it."""
    return {name for name, value in vars(base).items() if callable(value) and getattr(ours, name) is value}


class TheConnectionService(SynchronousTestCase):
    def setUp(self):
        self.service = SSHConnection()
        self.service.transport = self.packets = Packets()

    def opened(self, theirs=7):
        channel = Channel()
        self.service.openChannel(channel)
        facts = struct.pack(">4L", channel.id, theirs, 1000, 500)
        self.service.ssh_CHANNEL_OPEN_CONFIRMATION(facts + b"more")
        return channel

    def test_numbers_channels_and_keeps_those_being_opened_apart_from_open_ones(self):
        why = "connection._opening, _channel and ssh_CHANNEL_OPEN keep these books together with Conch"
        service, first, second = self.service, Channel(localWindow=11, localMaxPacket=13), Channel()
        service.openChannel(first, b"details")
        service.openChannel(second)
        opening = (
            connection.MSG_CHANNEL_OPEN,
            struct.pack(">L", 12) + b"direct-tcpip" + struct.pack(">3L", 0, 11, 13),
        )
        self.assertEqual(self.packets.sent[0], (opening[0], opening[1] + b"details"), why)
        self.assertEqual((first.id, second.id, service.localChannelID), (0, 1, 2), why)
        self.assertEqual(service.channels, {0: first, 1: second}, why)
        self.assertEqual((service.channelsToRemoteChannel, service.localToRemoteChannel), ({}, {}), why)
        service.ssh_CHANNEL_OPEN_CONFIRMATION(struct.pack(">4L", 1, 9, 1000, 500))
        self.assertEqual(service.channelsToRemoteChannel, {second: 9}, why)
        self.assertEqual(service.localToRemoteChannel, {1: 9}, why)
        self.assertEqual(
            (second.remoteWindowLeft, second.remoteMaxPacket, second.conn), (1000, 500, service), why
        )

    def test_forgets_a_closed_channel_everywhere_fails_its_requests_and_tells_it_once(self):
        why = "connection.channelClosed counts before Conch forgets; channel.closed ends the protocol"
        channel = self.opened()
        answer = self.service.sendRequest(channel, b"exec", b"", wantReply=1)
        self.assertEqual(self.service.deferreds[channel.id], [answer], why)
        for _ in range(2):
            self.service.channelClosed(channel)
        self.failureResultOf(answer, ConchError)
        books = (
            self.service.channels,
            self.service.channelsToRemoteChannel,
            self.service.localToRemoteChannel,
        )
        self.assertEqual(books, ({}, {}, {}), why)
        self.assertNotIn(channel.id, self.service.deferreds, why)
        self.assertEqual(channel.told, [("open", b"more"), ("closed",)], why)
        self.assertTrue(channel.localClosed and channel.remoteClosed, why)

    def test_closes_once_and_forgets_when_the_peer_has_closed_too(self):
        why = "connection.ssh_CHANNEL_CLOSE and channel.abortConnection call sendClose as often as they like"
        channel, other = self.opened(), self.opened(8)
        for _ in range(2):
            self.service.sendClose(channel)
        closes = [packet for packet in self.packets.sent if packet[0] == connection.MSG_CHANNEL_CLOSE]
        self.assertEqual(closes, [(connection.MSG_CHANNEL_CLOSE, struct.pack(">L", 7))], why)
        self.assertTrue(channel.localClosed, why)
        self.assertIn(channel, self.service.channelsToRemoteChannel, why)
        other.remoteClosed = True
        self.service.sendClose(other)
        self.assertNotIn(other, self.service.channelsToRemoteChannel, why)
        self.assertEqual(other.told[-1], ("closed",), why)

    def test_sends_no_eof_of_a_closed_channel(self):
        channel = self.opened()
        self.service.sendEOF(channel)
        self.assertEqual(self.packets.sent[-1], (connection.MSG_CHANNEL_EOF, struct.pack(">L", 7)))
        self.service.sendClose(channel)
        self.service.sendEOF(channel)
        self.assertEqual(self.packets.sent[-1][0], connection.MSG_CHANNEL_CLOSE, "channel._settle")

    def test_keeps_global_requests_in_order(self):
        why = "connection._ping sends keepalive@openssh.com and takes the answers from the front of this list"
        first, second = (self.service.sendGlobalRequest(name, b"x", wantReply=1) for name in (b"a", b"b"))
        self.assertEqual(self.service.deferreds["global"], [first, second], why)
        sent = (connection.MSG_GLOBAL_REQUEST, struct.pack(">L", 1) + b"a" + b"\xffx")
        self.assertEqual(self.packets.sent[0], sent, why)

    def test_sends_requests_of_a_channel_and_none_of_a_closed_one(self):
        why = "remote and process ask for commands, and tell how they ended, by it"
        channel = self.opened()
        self.service.sendRequest(channel, b"exec", b"x", wantReply=1)
        sent = (connection.MSG_CHANNEL_REQUEST, struct.pack(">2L", 7, 4) + b"exec\x01x")
        self.assertEqual(self.packets.sent[-1], sent, why)
        channel.localClosed = True
        self.assertIsNone(self.service.sendRequest(channel, b"exec", b"x", wantReply=1), why)
        self.assertEqual(self.packets.sent[-1], sent, why)

    def test_ends_everything_when_it_is_stopped(self):
        why = "connection.serviceStopped leaves channels, those being opened and global requests to Conch"
        channel, opening = self.opened(), Channel()
        self.service.openChannel(opening)
        asked = self.service.sendGlobalRequest(b"a", b"", wantReply=1)
        self.service.serviceStopped()
        self.failureResultOf(asked, ConchError)
        self.assertEqual((channel.told[-1], opening.told), (("closed",), [("failed", ConnectionLost)]), why)
        self.assertEqual((self.service.channels, self.service.deferreds["global"]), ({}, []), why)

    def test_has_no_handler_and_no_helper_that_ours_did_not_look_at(self):
        taken = {
            "_cleanupGlobalDeferreds", "sendGlobalRequest", "openChannel", "sendEOF", "sendRequest",
            # Never reached: all that would call them is overridden.
            "_cbChannelRequest", "_ebChannelRequest", "sendData", "sendExtendedData", "getChannel",
            "gotGlobalRequest",
        }  # fmt: skip
        found = inherited(SSHConnection, Connection)
        self.assertEqual(
            found, taken, "Conch has other methods now: does avinet.ssh.connection have to override one?"
        )


class AChannel(SynchronousTestCase):
    def test_begins_with_the_windows_that_it_was_given(self):
        why = "channel.ChannelTransport counts in these, and connection._take holds the peer to them"
        channel = SSHChannel(localWindow=100, localMaxPacket=10)
        facts = (channel.localWindowSize, channel.localWindowLeft, channel.localMaxPacket)
        self.assertEqual(facts, (100, 100, 10), why)
        self.assertEqual((channel.remoteWindowLeft, channel.remoteMaxPacket), (0, 0), why)
        self.assertEqual((channel.localClosed, channel.remoteClosed, channel.id), (0, 0, None), why)

    def test_has_no_method_that_ours_did_not_look_at(self):
        taken = {"logPrefix", "stopWriting", "startWriting"}
        found = {name for name in inherited(SSHChannel, ChannelTransport) if not name.startswith("__")}
        self.assertEqual(found, taken, "SSHChannel has other methods now: does ChannelTransport need one?")


class AService(SynchronousTestCase):
    def test_gets_messages_by_their_names_and_leaves_the_unknown_to_its_transport(self):
        why = "userauth.KeyLogin, KeyProof and connection.Connection are called this way"

        class Service(SSHService):
            protocolMessages = {60: "MSG_HELLO", 61: "MSG_NOBODY"}
            got = None

            def ssh_HELLO(self, packet):
                self.got = packet

        service = Service()
        service.transport = Packets()
        for number in (60, 61, 62):
            service.packetReceived(number, b"x")
        self.assertEqual((service.got, service.transport.unimplemented), (b"x", 2), why)

    def test_every_message_of_the_connection_has_a_handler_of_ours(self):
        for number, name in SSHConnection.protocolMessages.items():
            if name == "MSG_CHANNEL_OPEN":
                self.assertEqual(number, 90)
            self.assertIn(f"ssh_{name[4:]}", vars(Connection), f"message {number} of Conch")

    def test_the_numbers_are_those_of_the_protocol(self):
        # RFC 4250 sections 4.1 and 4.3; ours are written out where a comparison is made for each packet.
        self.assertEqual(
            (connection.MSG_CHANNEL_DATA, transport.MSG_EXT_INFO), (MSG_CHANNEL_DATA, MSG_EXT_INFO)
        )
        numbers = {
            transport: {"DISCONNECT": 1, "IGNORE": 2, "UNIMPLEMENTED": 3, "DEBUG": 4, "SERVICE_REQUEST": 5,
                        "SERVICE_ACCEPT": 6, "KEXINIT": 20, "NEWKEYS": 21, "KEXDH_INIT": 30, "KEXDH_REPLY": 31},
            userauth: {"USERAUTH_REQUEST": 50, "USERAUTH_FAILURE": 51, "USERAUTH_SUCCESS": 52, "USERAUTH_BANNER": 53,
                       "USERAUTH_PK_OK": 60},
            connection: {"GLOBAL_REQUEST": 80, "REQUEST_SUCCESS": 81, "REQUEST_FAILURE": 82, "CHANNEL_OPEN": 90,
                         "CHANNEL_WINDOW_ADJUST": 93, "CHANNEL_EOF": 96, "CHANNEL_CLOSE": 97, "CHANNEL_REQUEST": 98},
        }  # fmt: skip
        for module, names in numbers.items():
            self.assertEqual({name: getattr(module, f"MSG_{name}") for name in names}, names)
        codes = {
            "PROTOCOL_ERROR": 2, "KEY_EXCHANGE_FAILED": 3, "MAC_ERROR": 5, "SERVICE_NOT_AVAILABLE": 7,
            "PROTOCOL_VERSION_NOT_SUPPORTED": 8, "HOST_KEY_NOT_VERIFIABLE": 9, "BY_APPLICATION": 11,
            "TOO_MANY_CONNECTIONS": 12, "NO_MORE_AUTH_METHODS_AVAILABLE": 14,
        }  # fmt: skip
        self.assertEqual({name: getattr(transport, f"DISCONNECT_{name}") for name in codes}, codes)


class TheTransport(SynchronousTestCase):
    class Recorder(SSHTransportBase):
        def __init__(self):
            self.got = []
            self.unimplemented = 0

        def __getattribute__(self, name):
            if name.startswith("ssh_"):
                return lambda payload: self.got.append(name)
            return super().__getattribute__(name)

        def sendUnimplemented(self):
            self.unimplemented += 1

    def test_calls_handlers_by_the_names_that_ours_have(self):
        # Numbers 30 and 31 have several names in Conch, of which the last in its table wins.
        names = {
            1: "DISCONNECT", 2: "IGNORE", 3: "UNIMPLEMENTED", 4: "DEBUG", 5: "SERVICE_REQUEST", 6: "SERVICE_ACCEPT",
            7: "EXT_INFO", 20: "KEXINIT", 21: "NEWKEYS", 30: "KEX_DH_GEX_REQUEST_OLD", 31: "KEX_DH_GEX_GROUP",
        }  # fmt: skip
        recorder = self.Recorder()
        for number in names:
            recorder.dispatchMessage(number, b"")
        self.assertEqual(
            recorder.got, [f"ssh_{name}" for name in names.values()], "links.ServerLink and ClientLink"
        )
        self.assertIn("ssh_KEX_DH_GEX_REQUEST_OLD", vars(ServerLink))
        self.assertIn("ssh_KEX_DH_GEX_GROUP", vars(ClientLink))

    def test_hands_what_is_above_the_transport_to_the_service_and_the_unknown_back(self):
        why = "transport.Link.dispatchMessage ends in Conch's"
        recorder, got = self.Recorder(), []
        recorder.dispatchMessage(50, b"x")
        recorder.dispatchMessage(40, b"x")
        self.assertEqual(recorder.unimplemented, 2, why)
        recorder.service = SSHService()
        recorder.service.packetReceived = lambda number, payload: got.append((number, payload))
        recorder.dispatchMessage(50, b"x")
        recorder.dispatchMessage(MSG_PING, b"y")
        self.assertEqual(got, [(50, b"x"), (MSG_PING, b"y")], why)

    def test_stops_the_service_before_the_one_that_follows(self):
        why = "userauth.KeyLogin.serviceStopped tells a login from a stranger's end by it"
        order, link = [], SSHTransportBase()
        for name in ("one", "two"):
            service = SSHService()
            service.name = name.encode()
            service.serviceStarted = lambda name=name: order.append(
                ("start", name, link.service.transport is link)
            )
            service.serviceStopped = lambda name=name: order.append(("stop", name))
            link.setService(service)
        self.assertEqual(order, [("start", "one", True), ("stop", "one"), ("start", "two", True)], why)

    def test_begins_without_version_session_and_service(self):
        fresh = SSHTransportBase()
        facts = (fresh.gotVersion, fresh.buf, fresh.sessionID, fresh.service)
        self.assertEqual(facts, (False, b"", None, None), "transport.Link reads these before it sets them")

    def test_keeps_the_peers_version_line_under_the_name_that_ours_uses(self):
        server = SSHTransportBase()
        server.supportedPublicKeys = []
        server.makeConnection(StringTransport())
        server.dataReceived(b"SSH-2.0-peer\r\n")
        facts = (server.gotVersion, server.otherVersionString, server.buf)
        self.assertEqual(
            facts, (True, b"SSH-2.0-peer", b""), "transport.Link._take_version, status.status_of"
        )

    def test_has_no_handler_and_no_helper_that_ours_did_not_look_at(self):
        reached = {"ssh_IGNORE", "setService", "getPeer", "getHost"}
        # The packet codec, key exchange and messages of Conch's own, of which nothing may be called here.
        dead = {
            "_allowedKeyExchangeMessageType", "getPacket", "_unsupportedVersionReceived", "sendDebug", "sendIgnore",
            "sendExtInfo", "_startEphemeralDH", "_finishEphemeralDH", "_getKey", "_keySetup", "_newKeys",
            "receiveError", "receiveUnimplemented", "receiveDebug", "_generateECPrivateKey", "_encodeECPublicKey",
            "_generateECSharedSecret",
        }  # fmt: skip
        for side in (ServerLink, ClientLink):
            found = {name for name in inherited(SSHTransportBase, side) if not name.startswith("__")}
            self.assertEqual(
                found, reached | dead, "Conch's transport has other methods: must avinet.ssh override one?"
            )
        for path in PACKAGE.glob("*.py"):
            for name in dead:
                self.assertNotRegex(path.read_text(), rf"\.{name}\(", f"{path.name} calls Conch's {name}")

    def test_ignores_messages_that_are_to_be_ignored(self):
        link = Link()
        link.transport = None
        self.assertIsNone(link.ssh_IGNORE(b"anything"), "Conch's handler does something now")


class TheSocket(SynchronousTestCase):
    def setUp(self):
        ours, self.theirs = socket.socketpair()
        for one in (ours, self.theirs):
            one.setblocking(False)
            self.addCleanup(one.close)
        self.protocol = Collector()
        self.connection = tcp.Connection(ours, self.protocol, MemoryReactorClock())
        self.connection.connected = True
        self.protocol.transport = self.connection

    def test_reads_as_much_at_once_as_its_buffer_size_says_at_that_time(self):
        why = "transport.Link._fit_reads sets and deletes it on the instance"
        self.theirs.send(bytes(100))
        self.connection.bufferSize = 10
        self.connection.doRead()
        self.assertEqual(len(self.protocol.data), 10, why)
        del self.connection.bufferSize
        self.assertEqual(self.connection.bufferSize, 64 * 1024, why)
        self.connection.doRead()
        self.assertEqual(len(self.protocol.data), 100, why)

    def test_pauses_its_producer_once_more_than_that_waits(self):
        class Producer(Protocol):
            paused = False

            def pauseProducing(self):
                self.paused = True

        producer = Producer()
        self.connection.bufferSize = 10
        self.connection.registerProducer(producer, True)
        self.connection.write(bytes(10))
        self.assertFalse(producer.paused)
        self.connection.writeSequence((b"x",))
        self.assertTrue(producer.paused, "transport._Outlet tells channels to keep their data by it")

    def test_sends_as_much_at_once_as_its_limit_says(self):
        why = "transport.Link._tune_socket sets SEND_LIMIT on the instance"
        self.connection.SEND_LIMIT = 10
        self.connection.write(bytes(25))
        self.connection.doWrite()
        self.assertEqual(len(self.theirs.recv(100)), 10, why)


class Endpoints(SynchronousTestCase):
    def test_are_named_by_host_and_port(self):
        clock = Clock()
        for endpoint, named in (
            (TCP4ClientEndpoint(clock, "192.0.2.1", 22), "192.0.2.1:22"),
            (TCP6ClientEndpoint(clock, "2001:db8::1", 22), "2001:db8::1:22"),
            (HostnameEndpoint(MemoryReactorClock(), "se.example", 8022), "se.example:8022"),
        ):
            self.assertEqual(upstream.address_of(endpoint), named, "errors.DialError names the address by it")
        self.assertEqual(upstream.address_of(self), repr(self))


class PrivateNames(SynchronousTestCase):
    def test_of_others_are_in_one_file(self):
        # Attributes that begin with an underscore, of anything but self, cls and this package's own classes.
        own = re.compile(r"\b(self|cls|server|login|_[a-z]+)\._[a-z]|process\._holders|noqa: SLF001")
        for path in PACKAGE.glob("*.py"):
            if path.name == "upstream.py":
                continue
            for number, line in enumerate(path.read_text().splitlines(), 1):
                if re.search(r"\w\._[a-z]|getattr\([^)]*[\"']_", line) and not own.search(line):
                    self.fail(f"{path.name}:{number}: {line.strip()}")

    def test_nothing_patches_twisted(self):
        for path in PACKAGE.glob("*.py"):
            text = path.read_text()
            self.assertNotRegex(
                text, r"(?m)^\s*(conch|userauth|connection|transport|tcp|SSH\w+)\.\w+ = ", path.name
            )
            self.assertNotRegex(text, r"\bsetattr\(|MonkeyPatcher", path.name)
