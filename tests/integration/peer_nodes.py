"""Controllers' SSH ends over real sockets: all of the links of one controller, without the rest of it.

As a program (``python -m tests.integration.peer_nodes FOLDER NAME``) it is one controller of a list that was written before,
with an echo at each of its state engine's ports.
"""

import contextlib
import stat
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_ssh_private_key,
)
from msgspec import json
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Factory, Protocol
from zope.interface import implementer

from avinet.app.channel_surface import ChannelSurface
from avinet.app.controller_peers import ControllerPeers
from avinet.app.settings import PeersSection, SshSection
from avinet.controller.peer_other import Lists, PeerAbout
from avinet.controller.reports import ChannelEvents
from avinet.model.membership import Controller, Membership
from avinet.ssh import keys
from avinet.ssh.services import ServiceTable
from avinet.trust.node import ControllerPaths


def line(key):
    return keys.line_of(keys.blob_of(key.public_key()))


def write_key(path, key):
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(stat.S_IRUSR)


def write_list(folder: Path, places):
    """Keys and the list of controllers: name to (address, SSH port, client port, peer port)."""
    controllers = []
    for name, (address, ssh_port, client_port, peer_port) in places.items():
        (folder / name / "ssh").mkdir(parents=True)
        host_key, id_controller = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        write_key(folder / name / "ssh" / "host", host_key)
        write_key(folder / name / "ssh" / "id_controller", id_controller)
        controllers.append(
            Controller(
                name=name,
                addresses=(address,),
                ssh_port=ssh_port,
                node_certificate="",
                ssh_host_key=line(host_key),
                id_se="",
                id_controller=line(id_controller),
                state_client_port=client_port,
                state_peer_port=peer_port,
            )
        )
    membership = Membership(cluster="cluster", number=1, controllers=tuple(controllers))
    (folder / "list").write_bytes(json.encode(membership))
    return membership


class Node:
    """One controller's links."""

    def __init__(self, reactor, folder: Path, name, *, bind="", forwards_at=None, reverse_port=5097):
        self.folder, self.name = folder, name
        self.membership = json.decode((folder / "list").read_bytes(), type=Membership)
        self.facts = self.membership.by_name(name)
        self.stack = contextlib.AsyncExitStack()
        self.emitted = []

        def key(which):
            return load_ssh_private_key((folder / name / "ssh" / which).read_bytes(), None)

        ssh = SshSection(port=self.facts.ssh_port, bind=bind, reverse_port=reverse_port)
        self.peers = ControllerPeers.make(
            about=PeerAbout(name, "cluster", "boot", "1.0"),
            key=key("id_controller"),
            lists=Lists(lambda: (1, "")),
            paths=ControllerPaths(folder / name),
            section=PeersSection(),
            ssh=ssh,
            emit=self._emit,
            reactor=reactor,
        )
        if forwards_at is not None:
            # On one machine each one's own engine has the port already: stand in for it on another address.
            self.peers.ports.near = lambda ends: False
            self.peers.ports.address = forwards_at
        self.channels = ChannelSurface(
            reactor,
            ssh,
            key("host"),
            ServiceTable(),
            ChannelEvents(self._emit, lambda se: se),
            self.peers.accounts,
        )

    def _emit(self, code, level, subject, text, **facts):
        self.emitted.append((code, subject, facts))

    def start(self):
        self.channels.open(self.stack)
        self.channels.listen(self.stack)
        self.peers.start(self.membership, self.channels, self.stack)

    async def stop(self):
        await self.stack.aclose()


@implementer(IHalfCloseableProtocol)
class Echo(Protocol):
    """Pushes back, as a program does that reads no faster than it can write, and closes after the other side."""

    def connectionMade(self):
        self.transport.registerProducer(self.transport, True)

    def dataReceived(self, data):
        self.transport.write(data)

    def readConnectionLost(self):
        self.transport.unregisterProducer()
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass


def main():
    from twisted.internet import reactor

    folder, name = Path(sys.argv[1]), sys.argv[2]
    node = Node(reactor, folder, name)
    for port in (node.facts.state_client_port, node.facts.state_peer_port):
        reactor.listenTCP(port, Factory.forProtocol(Echo), interface="127.0.0.1")
    reactor.callWhenRunning(node.start)

    def report():
        live = "".join(sorted(node.peers.links.live))
        ports = [view.how for other in node.peers.links.status() for view in other.ports]
        if live and set(ports) == {"forwarded"}:
            print("ready", live, flush=True)
        else:
            reactor.callLater(0.05, report)

    reactor.callLater(0.05, report)
    reactor.run()


if __name__ == "__main__":
    main()
