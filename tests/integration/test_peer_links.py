"""Links between controllers over real sockets: forwards of ports, OpenSSH on either side, and what is on the wire."""

import contextlib
import hashlib
import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from tempfile import mkdtemp

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Factory, Protocol
from twisted.internet.task import deferLater

from avinet.controller.peer_permits import USER
from tests.integration.peer_nodes import Echo, Node, write_list
from tests.integration.test_ssh_interop import make_privilege_folder
from tests.integration.test_ssh_openssh import Run, free_port, need, until
from tests.integration.test_ssh_reverse_socket import ip

STAND_IN = "127.0.0.2"
MIB = 1024 * 1024


class Caller(Protocol):
    """Sends ``data``, half closes, and keeps a digest of what comes."""

    def __init__(self, data=b""):
        self.data, self.digest, self.size = data, hashlib.sha256(), 0
        self.over = Deferred()

    def connectionMade(self):
        if self.data:
            self.transport.write(self.data)
            self.transport.loseWriteConnection()

    def dataReceived(self, data):
        self.digest.update(data)
        self.size += len(data)

    def connectionLost(self, reason):
        self.over.callback(None)


def free_ports(count):
    """Below those that connections are made from."""
    found = []
    for port in range(20000 + os.getpid() % 10000, 32000):
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("", port))
            found.append(port)
        if len(found) == count:
            return found
    raise AssertionError("no ports are free")


@contextlib.asynccontextmanager
async def pair():
    """Two controllers, an echo at each one's ports."""
    folder = Path(mkdtemp(prefix="avinet-peers-"))
    ports = free_ports(8)
    places = {name: ("127.0.0.1", *ports[at : at + 3]) for name, at in (("a", 0), ("b", 3))}
    write_list(folder, places)
    nodes = [
        Node(reactor, folder, name, bind="127.0.0.1", forwards_at=STAND_IN, reverse_port=port)
        for name, port in zip("ab", ports[6:], strict=True)
    ]
    listening = []
    try:
        for node in nodes:
            listening += [
                reactor.listenTCP(port, Factory.forProtocol(Echo), interface="127.0.0.1")
                for port in (node.facts.state_client_port, node.facts.state_peer_port)
            ]
            node.start()
        await until(lambda: all(node.peers.links.live for node in nodes))
        yield nodes
    finally:
        for node in nodes:
            await node.stop()
        for port in listening:
            await maybeDeferred(port.stopListening)
        await deferLater(reactor, 0.05)
        shutil.rmtree(folder)


async def echoed(port, data):
    caller = Caller(data)
    await connectProtocol(TCP4ClientEndpoint(reactor, STAND_IN, port), caller)
    await caller.over
    return caller.size, caller.digest.digest()


@pytest_twisted.ensureDeferred
async def test_state_engines_reach_each_other_through_the_link_both_ways():
    async with pair() as (a, b):
        data = os.urandom(6 * MIB)
        for one, other in ((a, b), (b, a)):
            (view,) = one.peers.links.status()
            assert {port.how for port in view.ports} == {"forwarded"}
            for port in (other.facts.state_client_port, other.facts.state_peer_port):
                assert await echoed(port, data) == (len(data), hashlib.sha256(data).digest())
        assert view.state.rtt_s < 1
        assert view.state.cipher == "aes256-gcm@openssh.com"
        assert [code for code, *_ in a.emitted + b.emitted] == []


@pytest_twisted.ensureDeferred
async def test_a_program_that_does_not_read_stops_the_one_that_writes():
    async with pair() as (a, b):
        caller = Caller()
        await connectProtocol(TCP4ClientEndpoint(reactor, STAND_IN, b.facts.state_peer_port), caller)
        caller.transport.pauseProducing()
        sent = 0
        for _ in range(100):
            caller.transport.write(bytes(MIB))
            sent += MIB
            await deferLater(reactor, 0)
        for node in (a, b):
            for pair_session in node.peers.links._sessions:
                assert pair_session.connection.connection.memory.held < 40 * MIB
        assert a.peers.links.live == {"b"}
        caller.transport.resumeProducing()
        await until(lambda: caller.size == sent, 30)
        caller.transport.abortConnection()


@pytest_twisted.ensureDeferred
async def test_programs_are_told_when_the_link_is_lost():
    async with pair() as (a, b):
        caller = Caller()
        await connectProtocol(TCP4ClientEndpoint(reactor, STAND_IN, b.facts.state_peer_port), caller)
        caller.transport.write(b"hello")
        await until(lambda: caller.size == 5)
        await b.stop()
        await caller.over
        await until(lambda: not a.peers.links.live)
        late = Caller()
        await connectProtocol(TCP4ClientEndpoint(reactor, STAND_IN, b.facts.state_peer_port), late)
        await late.over
        assert [code for code, *_ in a.emitted] == ["CONTROLLER_STOPPED"]


class Ssh:
    """OpenSSH's client with the key of one controller, to a server that has the file of another."""

    def __init__(self, node, key_of, user, port, host_key):
        self.known = node.folder / "known"
        self.known.write_text(f"[127.0.0.1]:{port} {host_key}\n")
        self.plain = (
            need("ssh"), "-F", "none", "-p", str(port), "-i", f"{node.folder}/{key_of}/ssh/id_controller",
            "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", f"UserKnownHostsFile={self.known}",
            "-o", "IdentityAgent=none", "-o", "ExitOnForwardFailure=yes",
        )  # fmt: skip
        self.where = f"{user}@127.0.0.1"

    def run(self, *options, stdin=None):
        return Run(*self.plain, *options, self.where, stdin=stdin).done

    async def stays(self, *options):
        """Whether a connection with these options is there to stay; ended when known."""
        run = Run(*self.plain, "-v", "-N", *options, self.where)
        decided = [b"forwarding failed", b"remote forward success", b"remote port forwarding failed"]
        await until(lambda: run.done.called or any(word in run.err for word in decided))
        granted = b"remote forward success" in run.err
        if not run.done.called:
            run.process.signalProcess("TERM")
        await run.done
        return granted


async def gets_only_what_it_may(ssh, opens, not_opens, listens, not_listens):
    for port in opens:
        status, out, err = await ssh.run("-W", f"localhost:{port}", stdin=b"hello")
        assert (status, out) == (0, b"hello"), err
    for port in not_opens:
        status, out, err = await ssh.run("-W", f"localhost:{port}", stdin=b"hello")
        assert (status != 0, out) == (True, b""), err
        assert "prohibited" in err
    for port in listens:
        assert await ssh.stays("-R", f"localhost:{port}:localhost:1")
    for port in not_listens:
        assert not await ssh.stays("-R", f"localhost:{port}:localhost:1")


@pytest_twisted.ensureDeferred
async def test_openssh_as_another_controller_gets_only_what_it_may():
    async with pair() as (a, b):
        ssh = Ssh(b, "a", USER, b.facts.ssh_port, b.facts.ssh_host_key)
        mine, other = b.facts, a.facts
        await gets_only_what_it_may(
            ssh,
            [mine.state_client_port],
            [other.state_client_port, mine.ssh_port],
            [other.state_peer_port],
            [mine.state_peer_port],
        )
        status, out, err = await ssh.run("-T", stdin=b"id\n")
        assert (status, out) == (255, b""), err
        status, _, err = await Ssh(b, "b", USER, mine.ssh_port, mine.ssh_host_key).run("-N")
        assert status == 255
        assert "Permission denied" in err
        assert {subject for code, subject, _ in b.emitted if code == "SSH_REQUEST_REFUSED"} == {"a"}


@pytest_twisted.ensureDeferred
async def test_a_stock_sshd_given_the_file_allows_the_same():
    async with pair() as (a, b):
        make_privilege_folder()
        b.folder.chmod(0o700)
        port = free_port()
        config = (
            f"ListenAddress 127.0.0.1:{port}", f"HostKey {b.folder}/b/ssh/host", "UsePAM no", "StrictModes no",
            f"AuthorizedKeysFile {b.folder}/b/ssh/avictlruser.authorized_keys", "PidFile none",
            "PermitRootLogin yes", "GatewayPorts no",
        )  # fmt: skip
        (b.folder / "config").write_text("\n".join(config) + "\n")
        daemon = Run(need("sshd"), "-D", "-e", "-f", f"{b.folder}/config")
        try:
            await until(lambda: b"listening" in daemon.err)
            ssh = Ssh(b, "a", os.environ.get("USER") or "root", port, b.facts.ssh_host_key)
            # sshd really listens for the other one, whose own port this is on the same machine: take it away there.
            await a.stop()
            await gets_only_what_it_may(
                ssh,
                [b.facts.state_client_port],
                [a.facts.state_client_port, port],
                [5092, 5094, 5095, 5097],
                [b.facts.state_peer_port, 5093],
            )
            status, out, _ = await ssh.run("-T", stdin=b"id\n")
            assert (status, out[:4]) == (1, b"This")
        finally:
            daemon.process.signalProcess("TERM")
            await daemon.done


@pytest.fixture
def machines():
    """Two machines on one wire, each a network namespace."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2 to make network namespaces")
    names = [f"avinet-{os.getpid()}-{name}" for name in "ab"]
    with contextlib.ExitStack() as stack:
        for name in names:
            try:
                ip("netns", "add", name)
            except subprocess.CalledProcessError as why:
                pytest.skip(f"may not make network namespaces here: {why.stderr.strip()}")
            stack.callback(ip, "netns", "del", name)
            ip("-n", name, "link", "set", "lo", "up")
        ip("-n", names[0], "link", "add", "wire", "type", "veth", "peer", "name", "wire", "netns", names[1])
        for name, address in zip(names, ("10.77.0.1/24", "10.77.0.2/24"), strict=True):
            ip("-n", name, "addr", "add", address, "dev", "wire")
            ip("-n", name, "link", "set", "wire", "up")
        yield names


def within(stack, namespace, *argv):
    process = stack.enter_context(
        subprocess.Popen(
            ["ip", "netns", "exec", namespace, sys.executable, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
    )
    stack.callback(process.kill)
    return process


CALL = """
import socket, sys
for port in sys.argv[2:]:
    with socket.create_connection(("127.0.0.1", int(port)), timeout=10) as one:
        one.sendall(sys.argv[1].encode() * 1000)
        one.shutdown(socket.SHUT_WR)
        got = b"".join(iter(lambda: one.recv(65536), b""))
    assert got == sys.argv[1].encode() * 1000, len(got)
print("echoed")
"""


def test_only_ssh_is_on_the_wire_between_two_controllers(machines):
    needle = "words-of-a-state-engine"
    folder = Path(mkdtemp(prefix="avinet-peers-"))
    write_list(folder, {"a": ("10.77.0.1", 22, 12379, 12380), "b": ("10.77.0.2", 22, 22379, 22380)})
    try:
        with contextlib.ExitStack() as stack:
            tap = within(stack, machines[0], "-m", "tests.integration.wire_tap", "wire", needle)
            assert tap.stdout.readline() == "ready\n"
            nodes = [
                within(stack, namespace, "-m", "tests.integration.peer_nodes", str(folder), name)
                for namespace, name in zip(machines, "ab", strict=True)
            ]
            assert [node.stdout.readline() for node in nodes] == ["ready b\n", "ready a\n"]
            for namespace, ports in ((machines[0], ("22379", "22380")), (machines[1], ("12379", "12380"))):
                call = within(stack, namespace, "-c", CALL, needle, *ports)
                assert call.stdout.readline() == "echoed\n"
            seen = json.loads(tap.communicate(timeout=10)[0])
    finally:
        shutil.rmtree(folder)
    assert seen["others"] == []
    assert set(seen["ports"]) == {"22"}
    assert set(seen["begins"].values()) == {"SSH-2.0"}
    assert len(seen["begins"]) == 4, "two connections, seen from both sides"
    assert not seen["needle"]
    assert seen["bytes"] > 4 * 2 * 1000 * len(needle)
