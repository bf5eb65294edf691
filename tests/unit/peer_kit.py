"""Controllers in memory with real SSH between them: each has a clock of its own, and the network can be cut in every way."""

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.address import IPv4Address
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.error import ConnectionRefusedError as Refused
from twisted.internet.task import Clock

from avinet.controller.peer_dial import PeerReach
from avinet.controller.peer_links import PeerLinks
from avinet.controller.peer_other import Lists, PeerAbout
from avinet.controller.peer_permits import USER, PeerPermits
from avinet.controller.peer_session import PeerSettings
from avinet.controller.peers import PeerListener
from avinet.model.membership import Controller, Membership
from avinet.ssh import keys
from avinet.ssh.client import Timeouts, connect
from avinet.ssh.controller_login import ControllerAccount, owner_of
from avinet.ssh.login import Access
from avinet.ssh.memory import ProcessMemory
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable
from tests.unit.ssh_pipe import Pipe, PipeEnd, RecordingObserver

STEP_S = 0.05


class Recorder(PeerListener):
    def __init__(self):
        self.calls = []

    def peer_up(self, name):
        self.calls.append(("up", name))

    def peer_stops(self, name):
        self.calls.append(("stops", name))

    def peer_down(self, name, why):
        self.calls.append(("down", name))

    def peer_said(self, name, changes):
        self.calls.append(("said", name, dict(changes)))

    def named(self, word):
        return [call[1] for call in self.calls if call[0] == word]


def line(key):
    return keys.line_of(keys.blob_of(key.public_key()))


class Refusals:
    def __init__(self, node):
        self.node = node

    def refused(self, name, address, what):
        self.node.refused.append((name, what))


class Node:
    """One controller."""

    def __init__(self, world, name, number):
        self.world, self.name = world, name
        self.address = f"10.0.0.{number}"
        self.clock = Clock()
        self.stopped = False
        self.host_key, self.id_controller = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        self.facts = Controller(
            name=name,
            addresses=(self.address,),
            node_certificate="",
            ssh_host_key=line(self.host_key),
            id_se="",
            id_controller=line(self.id_controller),
            state_client_port=2379 + 10 * number,
            state_peer_port=2380 + 10 * number,
        )
        self.boot()

    def boot(self):
        """Start anew, with nothing but its keys."""
        self.up = True
        self.refused = []
        self.files = {}
        self.taken = []
        self.permits = PeerPermits("avictlruser.authorized_keys", self.name, write=self.files.__setitem__)
        self.links = PeerLinks(
            PeerAbout(self.name, "cluster", "boot", "1.0"),
            PeerSettings(),
            PeerReach(lambda host: succeed([host]), self._dial, lambda: 0.5),
            Lists(lambda: (self.world.membership.number, "the list"), self._take),
            self.clock,
            lambda name: self.server.drop(owner_of(name)),
            lambda name, why: self.denied.append((name, why.reason)),
            self.clock.seconds,
        )
        self.denied = []
        memory = ProcessMemory()
        account = ControllerAccount(self.permits.keys, self.links.services, Refusals(self), memory)
        access = Access({}, ServiceTable(), ReverseListeners(None, self.clock), memory, {USER: account})
        self.observer = RecordingObserver()
        self.server = SecureChannelServer(self.host_key, access, self.clock, self.observer)
        self.heard = Recorder()
        self.links.listen(self.heard)

    def _take(self, document):
        self.taken.append(document)
        return succeed(True)

    def update(self, membership):
        self.permits.update(membership)
        self.links.update(membership)

    def _dial(self, address, port, verify):
        return self.world.dial(self, address, verify)

    def kill(self):
        """As by power: nothing is said, and the others' connections lead nowhere from now on."""
        self.up = False
        self.links.stop()
        for pipe in self.world.pipes:
            pipe.dead = pipe.dead or self.name in pipe.names


class World:
    """All of them."""

    def __init__(self, *names, prepare=lambda node: None):
        self.pipes = []
        self.cuts = set()
        """Pairs (from, to) between which nothing passes; neither side is told."""
        self.nodes = {name: Node(self, name, number) for number, name in enumerate(names, 1)}
        self.number = 0
        for node in self.nodes.values():
            prepare(node)
        self.list(*names)

    def __getitem__(self, name):
        return self.nodes[name]

    def list(self, *names, to=None, **changed):
        """A new membership list, told to everybody."""
        self.number += 1
        self.membership = Membership(
            cluster="cluster",
            number=self.number,
            controllers=tuple(changed.get(name, self.nodes[name].facts) for name in names),
        )
        for name in to if to is not None else self.nodes:
            if self.nodes[name].up:
                self.nodes[name].update(self.membership)

    def start(self):
        self.run(3)

    def dial(self, node, address, verify, **how):
        return connect(
            _Endpoint(self, node, address),
            user=how.get("user", USER),
            key=how.get("key", node.id_controller),
            verify_host_key=verify,
            clock=node.clock,
            timeouts=Timeouts(2.0, 3.0, 3.0),
        )

    def join(self, node, address, client):
        target = next(one for one in self.nodes.values() if one.address == address)
        server = target.server.buildProtocol(IPv4Address("TCP", node.address, 40000))
        pipe = Pipe(client, server, node.clock, node.address, (address, 22))
        pipe.names, pipe.dead = (node.name, target.name), False
        self.pipes.append(pipe)
        return pipe

    # Time and the network

    def cut(self, one, two, *, both=True):
        self.cuts.add((one, two))
        if both:
            self.cuts.add((two, one))

    def heal(self):
        self.cuts.clear()

    def isolate(self, name):
        for other in self.nodes:
            if other != name:
                self.cut(name, other)

    def reset(self, *names):
        """The connections between two break, as by a reset."""
        for pipe in self.pipes:
            if set(pipe.names) == set(names):
                for end in (pipe.client_end, pipe.server_end):
                    end.sent.clear()
                    end.disconnecting = True

    def pump(self):
        for _ in range(10_000):
            moved = False
            for node in self.nodes.values():
                if not node.stopped:
                    node.clock.advance(0)
            for pipe in self.pipes:
                client, server = pipe.names
                for end, source, sink in (
                    (pipe.client_end, client, server),
                    (pipe.server_end, server, client),
                ):
                    moved |= self._step(pipe, end, self.nodes[source], self.nodes[sink])
            if not moved:
                break
        else:
            raise AssertionError("it never came to rest")
        self.pipes = [pipe for pipe in self.pipes if not pipe.over]

    def _step(self, pipe, end: PipeEnd, source, sink):
        if pipe.dead or (source.name, sink.name) in self.cuts or source.stopped or sink.stopped:
            if end.aborted and not end.disconnected:
                # Its own side knows at once; the reset does not arrive.
                end.lose(Exception("aborted"))
            return False
        if end.disconnected and not end.peer.disconnected and not end.sent:
            end.peer.lose(Exception("reset"))
            return True
        return end.step()

    def run(self, seconds):
        for _ in range(round(seconds / STEP_S)):
            for node in self.nodes.values():
                if not node.stopped:
                    node.clock.advance(STEP_S)
            self.pump()


class _Endpoint:
    def __init__(self, world, node, address):
        self.world, self.node, self.address = world, node, address

    def connect(self, factory):
        target = next((one for one in self.world.nodes.values() if one.address == self.address), None)
        pair = (self.node.name, target.name if target is not None else "")
        if pair in self.world.cuts or pair[::-1] in self.world.cuts or target is None or target.stopped:
            return Deferred()
        if not target.up:
            return fail(Refused())
        client = factory.buildProtocol(None)
        self.world.join(self.node, self.address, client)
        return succeed(client)
