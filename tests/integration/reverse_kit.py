"""An SE at the far end of a reverse forward, as far as sockets are concerned, and those who connect to it."""

import contextlib
import socket

from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol


def greeting(text):
    """Of servers that say it and close."""

    class Greeting(Protocol):
        def connectionMade(self):
            self.transport.write(text.encode())
            self.transport.loseConnection()

    return Factory.forProtocol(Greeting)


class Holder:
    """A login whose channels lead to a server that says its name."""

    attached = True

    def __init__(self, name):
        self.server = reactor.listenTCP(0, greeting(name), interface="127.0.0.1")

    def forward_lost(self):
        raise AssertionError

    def open_forwarded(self, protocol, listening, origin):
        there = TCP4ClientEndpoint(reactor, "127.0.0.1", self.server.getHost().port)
        return connectProtocol(there, protocol)


def call(address, port):
    """What a program that connects there meets: what it is sent, or ``reset``, ``refused``, ``nothing``."""
    with socket.socket() as caller:
        caller.settimeout(5)
        try:
            caller.connect((address, port))
            said = b""
            with contextlib.suppress(TimeoutError):
                while data := caller.recv(100):
                    said += data
        except ConnectionResetError:
            return "reset"
        except ConnectionRefusedError:
            return "refused"
        return said.decode() or "nothing"
