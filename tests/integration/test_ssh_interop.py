"""Everything that we offer, against real peers, both ways: OpenSSH's client and server, and AsyncSSH.

Each run moves a few MiB up and down and compares what came with what went.  AsyncSSH is the peer for
``mlkem768x25519-sha256``, which OpenSSH has from 9.9 on.
"""

import hashlib
import json
import os
import pwd
import stat
import sys
from contextlib import asynccontextmanager
from itertools import product
from pathlib import Path
from shutil import rmtree
from tempfile import mkdtemp

import attrs
import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.interfaces import IHalfCloseableProtocol, IPushProducer
from twisted.internet.protocol import Protocol
from zope.interface import implementer

from avinet.ssh import keys, profile
from avinet.ssh.client import connect
from avinet.ssh.commands import CommandServer
from avinet.ssh.fields import string
from avinet.ssh.login import Access
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import SocketEach
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable
from avinet.units import MIB
from tests.integration.test_ssh_openssh import Run, free_port, make_privilege_folder, need, until
from tests.unit.ssh_pipe import RecordingObserver

asyncssh = pytest.importorskip("asyncssh", reason="needs asyncssh: make bench-env or the test extra")

CHOICES = tuple(
    (cipher, mac)
    for cipher, mac in product(profile.CIPHERS, profile.MACS)
    if cipher == b"aes256-ctr" or mac == profile.MACS[0]
)
CLASSIC = tuple(name for name in profile.KEY_EXCHANGES if name != profile.POST_QUANTUM)
DOWN = f"head -c {2 * MIB} /dev/zero | tr '\\0' x"
DOWN_DIGEST = hashlib.sha256(b"x" * (2 * MIB)).hexdigest()


class Whole(Run):
    """Keeps all of its output."""

    def outReceived(self, data):
        self.out += data


def blob(size):
    return hashlib.shake_256(size.to_bytes(4, "big")).digest(size)


UP = blob(2 * MIB)
ECHO = "cat"


def line_of(key):
    return keys.line_of(keys.blob_of(key.public_key()))


@attrs.define
class Place:
    """A folder with keys, and our command server."""

    folder: Path = attrs.field(factory=lambda: Path(mkdtemp(prefix="avinet-interop-")))
    host_key: Ed25519PrivateKey = attrs.field(factory=Ed25519PrivateKey.generate)
    user_key: Ed25519PrivateKey = attrs.field(factory=Ed25519PrivateKey.generate)

    def __attrs_post_init__(self):
        self.write("id", self.user_key)
        self.write("host", self.host_key)
        (self.folder / "authorized").write_text(line_of(self.user_key) + "\n")

    def write(self, name, key):
        path = self.folder / name
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(stat.S_IRUSR)

    def ssh(self, port, *options, command=ECHO, stdin=None):
        known = self.folder / f"known-{port}"
        known.write_text(f"[127.0.0.1]:{port} {line_of(self.host_key)}\n")
        plain = (
            "-F", "none", "-i", f"{self.folder}/id", "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={known}", "-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none",
        )  # fmt: skip
        return Whole(
            need("ssh"), "-p", str(port), *plain, *options, "aviseuser@127.0.0.1", command, stdin=stdin
        ).done


@asynccontextmanager
async def our_server():
    place = Place()
    commands = CommandServer(place.host_key, lambda: [line_of(place.user_key)], reactor, lambda use: None)
    links = []
    build = commands.buildProtocol

    def remember(addr):
        links.append(build(addr))
        return links[-1]

    commands.buildProtocol = remember
    listening = reactor.listenTCP(0, commands, interface="127.0.0.1")
    try:
        yield place, listening.getHost().port, links
    finally:
        await commands.stop()
        await maybeDeferred(listening.stopListening)
        await until(lambda: not commands.links)
        rmtree(place.folder)


@asynccontextmanager
async def stock_sshd(*settings):
    place, port = Place(), free_port()
    make_privilege_folder()
    place.folder.chmod(0o700)
    config = (
        f"ListenAddress 127.0.0.1:{port}", f"HostKey {place.folder}/host", "UsePAM no", "StrictModes no",
        f"AuthorizedKeysFile {place.folder}/authorized", "PidFile none", "PermitRootLogin yes", *settings,
    )  # fmt: skip
    (place.folder / "config").write_text("\n".join(config) + "\n")
    daemon = Run(need("sshd"), "-D", "-e", "-f", f"{place.folder}/config")
    try:
        await until(lambda: b"listening" in daemon.err)
        yield place, port, daemon
    finally:
        daemon.process.signalProcess("TERM")
        await daemon.done
        rmtree(place.folder)


PEER = """
import asyncio, sys, asyncssh
folder, cipher, mac, kex, rekey = sys.argv[1:6]
lists = dict(encryption_algs=[cipher], mac_algs=[mac], kex_algs=[kex], compression_algs=['none'],
             rekey_bytes=int(rekey))
class Server(asyncssh.SSHServer):
    def begin_auth(self, username): return True
async def echo(process):
    while data := await process.stdin.read(65536):
        process.stdout.write(data)
        await process.stdout.drain()
    process.exit(0)
async def serve():
    server = await asyncssh.listen('127.0.0.1', 0, server_host_keys=[folder + '/host'],
        authorized_client_keys=folder + '/authorized', process_factory=echo, encoding=None, **lists)
    print(server.get_port(), flush=True)
    await asyncio.sleep(60)
async def call(port):
    async with asyncssh.connect('127.0.0.1', port, username='aviseuser', client_keys=[folder + '/id'],
            known_hosts=None, config=None, agent_path=None, **lists) as connection:
        done = await connection.run('cat', input=sys.stdin.buffer.read(), encoding=None)
        sys.stdout.buffer.write(done.stdout)
asyncio.run(serve() if sys.argv[6] == 'serve' else call(int(sys.argv[6])))
"""
"""AsyncSSH as a process of its own: it would want asyncio's loop."""


def asyncssh_peer(place, cipher, mac, kex, what, rekey=1 << 30, stdin=None):
    names = [name.decode() for name in (cipher, mac, kex)]
    return Whole(sys.executable, "-c", PEER, str(place.folder), *names, str(rekey), str(what), stdin=stdin)


# -- their clients to our server


@pytest_twisted.ensureDeferred
async def test_openssh_clients_speak_every_algorithm_to_our_server():
    async with our_server() as (place, port, links):
        for kex, (cipher, mac) in ((kex, choice) for choice in CHOICES for kex in CLASSIC):
            status, out, err = await place.ssh(
                port, "-c", cipher.decode(), "-m", mac.decode(), "-o", f"KexAlgorithms={kex.decode()}",
                stdin=UP, command=f"sha256sum; {DOWN}",
            )  # fmt: skip
            assert (status, out[:64].decode()) == (0, hashlib.sha256(UP).hexdigest()), err
            assert hashlib.sha256(out[68:]).hexdigest() == DOWN_DIGEST
            agreed = links[-1].algorithms
            assert (agreed.kex, agreed.cipher_cs, agreed.cipher_sc) == (kex, cipher, cipher)
            assert agreed.mac_cs == (mac if cipher == b"aes256-ctr" else b"")


@pytest_twisted.ensureDeferred
async def test_openssh_clients_rekey_each_mib_both_ways_under_every_cipher():
    async with our_server() as (place, port, links):
        for cipher, mac in CHOICES:
            make = f"head -c {8 * MIB} /dev/zero | tr '\\0' x"
            status, out, err = await place.ssh(
                port, "-c", cipher.decode(), "-m", mac.decode(), "-o", "RekeyLimit=1M",
                stdin=UP * 4, command=f"sha256sum; {make}",
            )  # fmt: skip
            assert status == 0, err
            assert out.split()[0].decode() == hashlib.sha256(UP * 4).hexdigest()
            assert links[-1].exchanges > 10


@pytest_twisted.ensureDeferred
async def test_asyncssh_clients_speak_every_algorithm_to_our_server():
    async with our_server() as (place, port, links):
        for cipher, mac in CHOICES:
            for kex in (profile.POST_QUANTUM, CLASSIC[0]):
                status, out, err = await asyncssh_peer(place, cipher, mac, kex, port, MIB, stdin=UP).done
                assert status == 0, err
                assert out == UP
                agreed = links[-1].algorithms
                assert (agreed.kex, agreed.cipher_cs, agreed.cipher_sc) == (kex, cipher, cipher)
                assert links[-1].exchanges > 1


# -- our client to their servers


@implementer(IHalfCloseableProtocol, IPushProducer)
class Roundtrip(Protocol):
    """Runs ``cat``: sends ``data`` as the channel takes it, and keeps what comes back."""

    def __init__(self, data):
        self.left = memoryview(data)
        self.got = hashlib.sha256()
        self.size = 0
        self.going = True
        self.done = Deferred()

    def connectionMade(self):
        self.transport.conn.sendRequest(self.transport, b"exec", string(b"cat"), wantReply=0)
        self.transport.registerProducer(self, True)
        if self.going:  # sshd gives no window before the command runs
            self.resumeProducing()

    def resumeProducing(self):
        self.going = True
        while self.going and self.left:
            piece, self.left = bytes(self.left[:50_000]), self.left[50_000:]
            self.transport.write(piece)
        if not self.left and self.transport.source:
            self.transport.unregisterProducer()
            self.transport.loseWriteConnection()

    def pauseProducing(self):
        self.going = False

    def stopProducing(self):
        self.going = False

    def dataReceived(self, data):
        self.got.update(data)
        self.size += len(data)

    def readConnectionLost(self):
        self.transport.loseConnection()

    def writeConnectionLost(self):
        pass

    def connectionLost(self, reason):
        if not self.done.called:
            self.done.callback(self.got.hexdigest())


async def call(place, port, user, data):
    """What came back through ``cat``, and the link."""
    channel = await connect(
        TCP4ClientEndpoint(reactor, "127.0.0.1", port),
        user=user,
        key=place.user_key,
        verify_host_key=lambda line: line == line_of(place.host_key),
        clock=reactor,
    )
    end = Roundtrip(data)
    opening = channel.connection.open(b"session", b"", end, "a session")
    await opening
    digest = await end.done.addTimeout(30, reactor)
    link = channel._link
    channel.close()
    await channel.lost
    return digest, link


def narrow(monkeypatch, cipher, mac, kex):
    """Offer one of each, where the peer would choose otherwise."""
    monkeypatch.setattr(profile, "CIPHERS", (cipher,))
    monkeypatch.setattr(profile, "MACS", (mac,))
    monkeypatch.setattr(profile, "KEY_EXCHANGES", (kex,))


@pytest.mark.parametrize("rekey", ["none", "1M"])
@pytest_twisted.ensureDeferred
async def test_our_client_speaks_every_algorithm_to_openssh_servers(monkeypatch, rekey):
    user = pwd.getpwuid(os.getuid()).pw_name
    async with stock_sshd(f"RekeyLimit {'default' if rekey == 'none' else rekey} none") as (
        place,
        port,
        daemon,
    ):
        data = UP if rekey == "none" else UP * 4
        for cipher, mac in CHOICES:
            for kex in CLASSIC if rekey == "none" else CLASSIC[:1]:
                narrow(monkeypatch, cipher, mac, kex)
                digest, link = await call(place, port, user, data)
                assert digest == hashlib.sha256(data).hexdigest(), (link.ended, daemon.err)
                assert (link.algorithms.kex, link.algorithms.cipher_sc) == (kex, cipher)
                assert link.exchanges > (5 if rekey != "none" else 0)


@pytest_twisted.ensureDeferred
async def test_our_client_speaks_every_algorithm_to_asyncssh_servers(monkeypatch):
    place = Place()
    try:
        for cipher, mac in CHOICES:
            for kex in (profile.POST_QUANTUM, CLASSIC[0]):
                server = asyncssh_peer(place, cipher, mac, kex, "serve", MIB)
                await until(lambda: server.out.endswith(b"\n") or server.err)  # noqa: B023 - used at once
                assert server.out, server.err
                digest, link = await call(place, int(server.out), "aviseuser", UP)
                server.process.signalProcess("KILL")
                await server.done
                assert digest == hashlib.sha256(UP).hexdigest()
                assert (link.algorithms.kex, link.algorithms.cipher_cs) == (kex, cipher)
                assert link.exchanges > 1
    finally:
        rmtree(place.folder)


# -- what an auditor says


@pytest_twisted.ensureDeferred
async def test_ssh_audit_finds_nothing_but_the_curve_that_is_not_post_quantum():
    pytest.importorskip("ssh_audit", reason="needs ssh-audit: the test extra")
    key, listed = (
        Ed25519PrivateKey.generate(),
        Access({}, ServiceTable(), ReverseListeners(reactor, reactor, SocketEach)),
    )
    controller = SecureChannelServer(key, listed, reactor, RecordingObserver())
    listening = reactor.listenTCP(0, controller, interface="127.0.0.1")
    async with our_server() as (_, port, _):
        try:
            for audited in (port, listening.getHost().port):
                _status, out, _err = await Whole(
                    sys.executable, "-m", "ssh_audit", "--json", "--skip-rate-test", f"127.0.0.1:{audited}"
                ).done
                found = json.loads(out)
                notes = [
                    (kind, one["algorithm"], level, note)
                    for kind in ("kex", "key", "enc", "mac")
                    for one in found[kind]
                    for level, texts in one.get("notes", {}).items()
                    for note in texts
                    if level in {"fail", "warn"}
                ]
                assert {name for _, name, *_ in notes} <= {
                    "curve25519-sha256", "curve25519-sha256@libssh.org",
                }, notes  # fmt: skip
                assert all("post-quantum" in note for *_, note in notes), notes
                assert profile.STRICT_SERVER.decode() in [one["algorithm"] for one in found["kex"]]
                assert not found["cves"]
        finally:
            await maybeDeferred(listening.stopListening)
