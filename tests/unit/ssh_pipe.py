"""Two protocols joined in memory by transports that push back as TCP does, and a controller to talk to."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from twisted.internet.error import ConnectionAborted, ConnectionDone
from twisted.internet.interfaces import IConsumer, IPushProducer, ITransport
from twisted.internet.protocol import Protocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.ssh import keys
from avinet.ssh.client import SecureChannel, Timeouts, _Login
from avinet.ssh.login import Access
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import SocketEach
from avinet.ssh.server import SecureChannelServer, ServerSettings
from avinet.ssh.services import ServiceTable
from avinet.trust.authorized_keys import AuthorizedKeys, Permit

HIGH_WATER = 64 * 1024


@implementer(ITransport, IConsumer, IPushProducer)
class PipeEnd:
    """One end: what is written waits in ``sent`` until the pipe moves it."""

    def __init__(self, host, port):
        self.address = IPv4Address("TCP", host, port)
        self.peer = None
        self.protocol = None
        self.sent = bytearray()
        self.total = 0
        self.producer = None
        self.streaming = True
        self.producer_paused = False
        self.reading = True
        self.disconnecting = False
        self.disconnected = False
        self.aborted = False

    def write(self, data):
        if self.disconnected or self.disconnecting:
            return
        self.sent += data
        self.total += len(data)
        if self.producer is None:
            return
        if self.streaming and not self.producer_paused and len(self.sent) > HIGH_WATER:
            self.producer_paused = True
            self.producer.pauseProducing()

    def writeSequence(self, data):
        self.write(b"".join(data))

    def registerProducer(self, producer, streaming):
        self.producer, self.streaming = producer, streaming

    def unregisterProducer(self):
        self.producer = None

    def loseConnection(self):
        self.disconnecting = True

    def loseWriteConnection(self):
        self.disconnecting = True

    def abortConnection(self):
        self.aborted = True
        self.sent.clear()
        self.disconnecting = True

    def pauseProducing(self):
        self.reading = False

    def resumeProducing(self):
        self.reading = True

    def stopProducing(self):
        self.loseConnection()

    def getPeer(self):
        return self.peer.address

    def getHost(self):
        return self.address

    def lose(self, why):
        if not self.disconnected:
            self.disconnected = True
            self.protocol.connectionLost(Failure(why))

    def step(self):
        """Move what this end sent; True if anything happened."""
        if self.disconnected:
            return False
        if self.sent and self.peer.reading and not self.peer.disconnecting:
            data = bytes(self.sent[:HIGH_WATER])
            del self.sent[:HIGH_WATER]
            self.peer.protocol.dataReceived(data)
            if not self.sent and self.producer is not None and (self.producer_paused or not self.streaming):
                self.producer_paused = False
                self.producer.resumeProducing()
            return True
        if self.disconnecting and (not self.sent or self.peer.disconnecting):
            self.lose(ConnectionAborted() if self.aborted else ConnectionDone())
            self.peer.lose(ConnectionDone())
            return True
        return False


class Pipe:
    def __init__(self, client, server, clock, source="10.1.2.3", at=("10.9.9.9", 22)):
        self.clock = clock
        self.client_end, self.server_end = PipeEnd(source, 40000), PipeEnd(*at)
        self.client_end.peer, self.server_end.peer = self.server_end, self.client_end
        self.client_end.protocol, self.server_end.protocol = client, server
        server.makeConnection(self.server_end)
        client.makeConnection(self.client_end)

    def pump(self):
        """Until nothing moves."""
        for _ in range(100_000):
            self.clock.advance(0)
            if not (self.client_end.step() | self.server_end.step()):
                self.clock.advance(0)
                if not (self.client_end.step() | self.server_end.step()):
                    return
        raise AssertionError("the pipe never came to rest")

    @property
    def over(self):
        return self.client_end.disconnected and self.server_end.disconnected


def permit(key, **facts):
    """What an SE's line allows, the echo service by default."""
    line = keys.line_of(keys.blob_of(key.public_key()))
    usual = {
        "se": "se-1",
        "loopback": "127.1.0.1",
        "reverse_port": 5097,
        "permit_open": (("localhost", 5001),),
    }
    return Permit(key=line, **(usual | facts))


class RecordingObserver:
    def __init__(self):
        self.calls = []

    def turned_away(self, source, why):
        self.calls.append(("turned_away", source, why))

    def auth_failed(self, source, user, fingerprint, why):
        self.calls.append(("auth_failed", source, user, fingerprint, why))

    def authenticated(self, peer):
        self.calls.append(("authenticated", peer.se, peer.address))

    def lost(self, peer, why):
        self.calls.append(("lost", peer.se, why))

    def refused(self, peer, what):
        self.calls.append(("refused", peer.se, what))

    def reverse_failed(self, peer, why):
        self.calls.append(("reverse_failed", peer.se, why))

    def named(self, name):
        return [call for call in self.calls if call[0] == name]


class Collector(Protocol):
    """Keeps what arrives."""

    def __init__(self):
        self.data = b""
        self.reason = None

    def dataReceived(self, data):
        self.data += data

    def connectionLost(self, reason):
        self.reason = reason.value


class Echo(Protocol):
    def dataReceived(self, data):
        self.transport.write(data)


class Controller:
    """A server with one service, an echo, at localhost:5001."""

    def __init__(self, reactor=None, settings=None, sockets=SocketEach, memory=None, others=None):
        self.clock = Clock()
        self.host_key = Ed25519PrivateKey.generate()
        self.index = AuthorizedKeys()
        self.services = ServiceTable()
        self.peers = []
        self.observer = RecordingObserver()
        self.reverse = ReverseListeners(reactor, self.clock, sockets)
        self.memory = memory or ProcessMemory()
        access = Access({"aviseuser": self.index}, self.services, self.reverse, self.memory, others or {})
        self.server = SecureChannelServer(
            self.host_key, access, self.clock, self.observer, settings or ServerSettings()
        )
        self.build = Echo
        self.services.register("echo", 5001, self._serve)

    def _serve(self, peer):
        self.peers.append(peer)
        return self.build()

    def enrol(self, **facts):
        key = Ed25519PrivateKey.generate()
        self.index.put(permit(key, **facts))
        return key

    def raw(self, client, source="10.1.2.3"):
        """Join any client protocol."""
        return Pipe(client, self.server.buildProtocol(IPv4Address("TCP", source, 40000)), self.clock, source)

    def dial(self, key, user="aviseuser", verify=lambda line: True, source="10.1.2.3", terms=None):
        """A real client; (pipe, list of outcomes)."""
        login = _Login(user, key, verify, self.clock, Timeouts(), terms=terms)
        outcome = []
        login.done.addBoth(outcome.append)
        pipe = self.raw(login.buildProtocol(None), source)
        pipe.pump()
        return pipe, outcome

    def channel(self, key, **how) -> tuple[Pipe, SecureChannel]:
        pipe, outcome = self.dial(key, **how)
        assert isinstance(outcome[0], SecureChannel), outcome
        return pipe, outcome[0]
