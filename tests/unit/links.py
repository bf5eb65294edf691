"""The other end of a control session, by hand: what a unit test sends to and reads from a ``MessageLink``."""

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.testing import StringTransport
from twisted.python.failure import Failure

from avinet.wire.codec import FrameDecoder, encode


class Wire(StringTransport):
    """An in-memory transport that notices both kinds of closing."""

    def __init__(self, protocol=None, *, takes=None):
        super().__init__()
        self.protocol = protocol
        self.aborted = False
        self.decoder = FrameDecoder()
        self.takes = takes
        """Bytes after which the producer is told to stop; None is never."""

    def connect(self):
        self.protocol.makeConnection(self)
        return self

    def write(self, data):
        super().write(data)
        if self.takes is not None:
            self.takes -= len(data)
            if self.takes <= 0 and self.producer is not None:
                self.producer.pauseProducing()

    def take(self, count):
        self.takes = count
        self.producer.resumeProducing()

    def abortConnection(self):
        super().abortConnection()
        self.aborted = True
        self.lose(ConnectionLost())

    def lose(self, why=None):
        protocol, self.protocol = self.protocol, None
        if protocol is not None:
            protocol.connectionLost(Failure(why or ConnectionDone()))

    def say(self, *messages):
        for message in messages:
            self.protocol.dataReceived(encode(message))

    def heard(self):
        """The messages that came since the last call."""
        self.decoder.feed(self.value())
        self.clear()
        messages = []
        while (message := self.decoder.next_message()) is not None:
            messages.append(message)
        return messages
