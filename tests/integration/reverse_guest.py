"""The controller's reverse listener in a network namespace of its own, as test_ssh_reverse_socket.py runs it there.

Claims 127.1.0.1 on the port of its first argument by one socket for all, says ``ready``, and ends with its input.  The
next port is open on every address of every device, to show what can be reached at all; on the one after that 127.1.0.1
is claimed by a socket of its own.
"""

import sys
from functools import partial

from twisted.internet import reactor
from twisted.internet.protocol import Protocol
from twisted.internet.stdio import StandardIO

from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import SocketEach, shared_socket
from tests.integration.reverse_kit import Holder, greeting


class UntilInputEnds(Protocol):
    def connectionMade(self):
        self.transport.write(b"ready\n")

    def connectionLost(self, reason):
        reactor.stop()


def main():
    port = int(sys.argv[1])
    listeners = ReverseListeners(reactor, reactor, partial(shared_socket, port=port))
    listeners.claim(Holder("se-1"), "127.1.0.1", port)
    reactor.listenTCP(port + 1, greeting("open"))
    ReverseListeners(reactor, reactor, SocketEach).claim(Holder("se-2"), "127.1.0.1", port + 2)
    StandardIO(UntilInputEnds())
    reactor.run()


if __name__ == "__main__":
    main()
