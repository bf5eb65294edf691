"""Our SSH servers against OpenSSH's client, and our client against OpenSSH's server, over loopback sockets."""

import fcntl
import hashlib
import io
import os
import pwd
import resource
import shutil
import signal
import socket
import stat
import struct
import termios
from functools import partial
from pathlib import Path
from tempfile import mkdtemp

import pytest
import pytest_twisted
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.internet import reactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import ProcessProtocol, Protocol
from twisted.internet.task import deferLater

from avinet.model.ids import new_se_id
from avinet.ssh import keys
from avinet.ssh.client import connect
from avinet.ssh.commands import CommandServer
from avinet.ssh.errors import ChannelRefusedError, ForwardRefusedError
from avinet.ssh.login import Access
from avinet.ssh.policy import CommandPolicy
from avinet.ssh.process import LINGER_S, CommandSession
from avinet.ssh.remote import Streams, Target, interactive, run
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.reverse_socket import shared_socket
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ServiceTable
from avinet.trust.authorized_keys import AuthorizedKeys
from tests.unit.ssh_pipe import Collector, Echo, RecordingObserver, permit


def need(program):
    found = shutil.which(program, path="/usr/bin:/usr/sbin:/bin")
    if not found:
        pytest.skip("needs openssh-server: make test-deps")
    return found


def free_port():
    for port in range(20000 + os.getpid() % 10000, 60000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError


class Run(ProcessProtocol):
    """One real process; ``done`` fires with (status or -signal, out, err)."""

    def __init__(self, *argv, stdin=None, limit=40):
        self.out = self.err = b""
        self.size = 0
        self.done = Deferred()
        self.process = reactor.spawnProcess(
            self, argv[0], argv, env={"PATH": os.environ["PATH"], "HOME": "/nonexistent"}
        )
        self.timer = reactor.callLater(limit, self.process.signalProcess, "KILL")
        if stdin is not None:
            self.process.write(stdin)
            self.process.closeStdin()

    def outReceived(self, data):
        self.size += len(data)
        if len(self.out) < 200_000:
            self.out += data

    def errReceived(self, data):
        self.err += data

    def processEnded(self, reason):
        if self.timer.active():
            self.timer.cancel()
        value = reason.value
        self.done.callback((-value.signal if value.signal else value.exitCode, self.out, self.err.decode()))


def descriptors():
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition, limit_s=10.0):
    for _ in range(int(limit_s / 0.02)):
        if condition():
            return
        await deferLater(reactor, 0.02)
    raise AssertionError("it did not happen in time")


class World:
    """A controller, one SE's key, and the SE's command server, on loopback."""

    def __init__(self, policy=None):
        self.ssh = need("ssh")
        self.folder = Path(mkdtemp(prefix="avinet-ssh-"))
        self.index = AuthorizedKeys()
        self.observer = RecordingObserver()
        self.host_key, self.se_key, self.id_se, self.se_host_key = (
            Ed25519PrivateKey.generate() for _ in range(4)
        )
        self.reverse_port = free_port()
        self.loopback = f"127.1.{os.getpid() % 250}.9"
        self.index.put(permit(self.se_key, loopback=self.loopback, reverse_port=self.reverse_port))
        self.services = ServiceTable()
        self.services.register("echo", 5001, lambda peer: Echo())
        self.reverse = ReverseListeners(reactor, reactor, partial(shared_socket, port=self.reverse_port))
        access = Access({"aviseuser": self.index}, self.services, self.reverse)
        self.server = SecureChannelServer(self.host_key, access, reactor, self.observer)
        self.listening = reactor.listenTCP(0, self.server, interface="127.0.0.1")
        self.port = self.listening.getHost().port
        self.uses = []
        self.commands = CommandServer(
            self.se_host_key, lambda: [self.line(self.id_se)], reactor, self.uses.append, policy
        )
        self.direct = reactor.listenTCP(0, self.commands, interface="127.0.0.1")
        self.se_file, self.id_file = self.write("se", self.se_key), self.write("id_se", self.id_se)
        self.channels = []

    @staticmethod
    def line(key):
        return keys.line_of(keys.blob_of(key.public_key()))

    def write(self, name, key):
        path = self.folder / name
        path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
        path.chmod(stat.S_IRUSR)
        return str(path)

    def known(self, host, port, key):
        path = self.folder / f"known-{port}"
        path.write_text(f"[{host}]:{port} {self.line(key)}\n")
        return str(path)

    def options(self, identity, known):
        return (
            "-F", "none", "-i", identity, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes",
            "-o", f"UserKnownHostsFile={known}", "-o", "GlobalKnownHostsFile=/dev/null",
            "-o", "StrictHostKeyChecking=yes", "-o", "IdentityAgent=none",
        )  # fmt: skip

    def to_controller(self, *args, identity=None, user="aviseuser", **how):
        known = self.known("127.0.0.1", self.port, self.host_key)
        options = self.options(identity or self.se_file, known)
        return Run(
            self.ssh, "-p", str(self.port), *options, *args[:-1], f"{user}@127.0.0.1", *args[-1], **how
        ).done

    def to_se(self, *args, options=(), through_forward=False, **how):
        host, port = self.loopback if through_forward else "127.0.0.1", self.reverse_port
        if not through_forward:
            port = self.direct.getHost().port
        known = self.known(host, port, self.se_host_key)
        return Run(
            self.ssh,
            "-p",
            str(port),
            *self.options(self.id_file, known),
            *options,
            f"aviseuser@{host}",
            *args,
            **how,
        ).done

    async def attach(self):
        channel = await connect(
            TCP4ClientEndpoint(reactor, "127.0.0.1", self.port),
            user="aviseuser",
            key=self.se_key,
            verify_host_key=lambda line: line == self.line(self.host_key),
            clock=reactor,
        )
        self.channels.append(channel)
        self.server._logins["se-1"][-1].mark_attached()
        await channel.listen(self.loopback, self.reverse_port, lambda: self.commands.buildProtocol(None))
        return channel

    async def close(self):
        for channel in self.channels:
            channel.abort()
        self.server.drop_all("over")
        self.commands.stop()
        await maybeDeferred(self.listening.stopListening)
        await maybeDeferred(self.direct.stopListening)
        await until(lambda: not self.commands.sessions and not self.server.login_count)
        await self.reverse.stop()
        shutil.rmtree(self.folder)


def world(test):
    @pytest_twisted.ensureDeferred
    async def run_it():
        here = World()
        try:
            await test(here)
        finally:
            await here.close()

    return run_it


# -- the controller


@world
async def test_an_se_key_authenticates_but_gets_no_shell_and_no_command(w):
    for command in ((), ("id",)):
        status, out, err = await w.to_controller("-v", command)
        assert "Authenticated to" in err
        assert "administratively prohibited" in err
        assert (status, out) == (255, b"")


@world
async def test_unlisted_ports_are_administratively_prohibited(w):
    status, _, err = await w.to_controller("-W", "127.0.0.1:1", ())
    assert "administratively prohibited" in err
    assert status == 255


@world
async def test_listed_services_answer_through_a_stock_client(w):
    status, out, _ = await w.to_controller("-W", "localhost:5001", (), stdin=b"hello" * 1000)
    assert (status, out) == (0, b"hello" * 1000)


@world
async def test_other_forwards_fail_by_name(w):
    for forward in ("127.1.77.77:25097:localhost:22", "25097:localhost:22", "*:25097:localhost:22"):
        _, _, err = await w.to_controller("-o", "ExitOnForwardFailure=yes", "-N", "-R", forward, ())
        assert "remote port forwarding failed" in err


@world
async def test_strangers_are_denied_alike(w):
    stranger = w.write("stranger", Ed25519PrivateKey.generate())
    said = set()
    for identity, user in (
        (stranger, "aviseuser"),
        (stranger, "nobody"),
        ("/dev/null", "aviseuser"),
        (w.se_file, "x"),
    ):
        status, _, err = await w.to_controller(("true",), identity=identity, user=user)
        assert status == 255
        said.add(err.strip().splitlines()[-1].split(": ", 1)[1])
    assert said == {"Permission denied (publickey)."}


@world
async def test_a_second_login_with_the_ses_key_disturbs_nothing(w):
    channel = await w.attach()
    forward = f"{w.loopback}:{w.reverse_port}:localhost:1"
    _, _, err = await w.to_controller("-o", "ExitOnForwardFailure=yes", "-N", "-R", forward, ())
    assert "remote port forwarding failed" in err
    assert not channel.lost.called
    status, out, _ = await w.to_se("echo still here", through_forward=True)
    assert (status, out) == (0, b"still here\n")


# -- the SE's command server, reached through the reverse forward or directly


@world
async def test_commands_run_through_the_reverse_forward_with_status_streams_and_input(w):
    await w.attach()
    status, out, err = await w.to_se("cat; echo problem >&2; exit 7", through_forward=True, stdin=b"input")
    assert (status, out, err) == (7, b"input", "problem\n")
    use = w.uses[0]
    assert (use.kind, use.exit_status, use.fingerprint) == (
        "exec", 7, keys.fingerprint_of(keys.blob_of(w.id_se.public_key())),
    )  # fmt: skip


@world
async def test_big_output_arrives_whole_through_two_layers_of_ssh_in_bounded_memory(w):
    await w.attach()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    status, out, _ = await w.to_se(
        "head -c 52428800 /dev/zero | wc -c; head -c 20000000 /dev/zero", through_forward=True
    )
    assert status == 0
    assert out.startswith(b"52428800\n")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024


@world
async def test_a_stock_client_may_rekey_in_the_middle(w):
    status, out, _ = await w.to_se("head -c 8000000 /dev/zero | tr '\\0' x", options=("-o", "RekeyLimit=1M"))
    assert status == 0
    assert set(out) == {ord("x")}


@world
async def test_a_terminal_has_its_size_name_and_signals(w):
    _, out, _ = await w.to_se("tty; echo TERM=$TERM; stty size; kill -INT $$", options=("-tt",))
    assert b"/dev/pts/" in out
    assert b"TERM=" in out
    assert b"0 0" in out
    await until(lambda: w.uses)
    assert (w.uses[0].pty, w.uses[0].exit_status) == (True, 128 + signal.SIGINT)


@world
async def test_a_shell_with_a_terminal_takes_typed_commands(w):
    status, out, _ = await w.to_se(options=("-tt",), stdin=b"echo $((6*7))\nexit 3\n")
    assert b"42" in out
    assert status == 3


@world
async def test_a_command_killed_by_a_signal_says_so(w):
    status, _, _ = await w.to_se("kill -TERM $$")
    assert status == 255 or status == -signal.SIGTERM
    await until(lambda: w.uses)
    assert w.uses[0].exit_status == 128 + signal.SIGTERM


@world
async def test_a_lost_channel_kills_all_that_the_command_started(w):
    mark = f"{300000 + os.getpid()}"
    client = Run(
        w.ssh, "-p", str(w.direct.getHost().port),
        *w.options(w.id_file, w.known("127.0.0.1", w.direct.getHost().port, w.se_host_key)),
        "aviseuser@127.0.0.1", f"sleep {mark} & sleep {mark}",
    )  # fmt: skip

    def sleeping():
        return len([p for p in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{mark}\0" in read(p)])

    await until(lambda: sleeping() == 2)
    client.process.signalProcess("KILL")
    await client.done
    await until(lambda: sleeping() == 0)


@world
async def test_a_command_that_reads_no_input_is_killed_too_when_its_client_has_gone(w):
    mark = f"{500000 + os.getpid()}"
    client = Run(
        w.ssh, "-p", str(w.direct.getHost().port),
        *w.options(w.id_file, w.known("127.0.0.1", w.direct.getHost().port, w.se_host_key)),
        "aviseuser@127.0.0.1", f"sleep {mark}", stdin=bytes(400_000),
    )  # fmt: skip

    def sleeping():
        return len([p for p in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{mark}\0" in read(p)])

    await until(lambda: sleeping() == 1)
    await deferLater(reactor, 0.5)  # for the input to arrive, and its end
    client.process.signalProcess("KILL")
    await client.done
    await until(lambda: sleeping() == 0 and not w.commands.sessions)


@world
async def test_a_server_that_stops_leaves_no_command_behind_not_even_a_stubborn_one(w):
    mark = f"{600000 + os.getpid()}"
    done = w.to_se(f"trap '' TERM; sleep {mark}; sleep {mark}")

    def sleeping():
        return len([p for p in Path("/proc").glob("[0-9]*/cmdline") if f"sleep\0{mark}\0" in read(p)])

    await until(lambda: sleeping() == 1)
    await w.commands.stop()
    assert not w.commands.sessions
    await until(lambda: sleeping() == 0, 1)  # the group's members die one after another
    await done


def read(path):
    try:
        return path.read_text()
    except OSError:
        return ""


@world
async def test_a_commands_exit_status_comes_after_all_of_its_output(w):
    """However little of it the peer takes at a time: the order of what the server sends is looked at, not the client's."""
    order = []
    server_sent = CommandSession._conclude

    def concluded(session, reason):
        order.append((len(session.transport.unsent), session.transport.connected))
        server_sent(session, reason)

    CommandSession._conclude = concluded
    try:
        for command in ("head -c 9000000 /dev/zero", "head -c 9000000 /dev/zero >&2; exit 3", "exit 5"):
            await w.to_se(command)
    finally:
        CommandSession._conclude = server_sent
    assert order == [(0, True)] * 3
    assert [use.exit_status for use in w.uses] == [0, 3, 5]


@world
async def test_both_streams_arrive_whole_and_apart(w):
    status, out, err = await w.to_se(
        "head -c 150000 /dev/zero | tr '\\0' o & head -c 150000 /dev/zero | tr '\\0' e >&2; wait; exit 4"
    )
    assert (status, out, err) == (4, b"o" * 150_000, "e" * 150_000)


@world
async def test_input_arrives_whole_and_a_command_that_wants_none_of_it_ends_all_the_same(w):
    data = os.urandom(3_000_000)
    status, out, _ = await w.to_se("sha256sum", stdin=data * 20)
    assert (status, out.split()[0].decode()) == (0, hashlib.sha256(data * 20).hexdigest())
    status, out, _ = await w.to_se("exec <&-; sleep 0.3; echo done", stdin=data)
    assert (status, out) == (0, b"done\n")


@world
async def test_a_client_that_does_not_read_stops_the_command_and_not_the_server(w):
    before = descriptors()
    port = w.direct.getHost().port
    client = Run(
        w.ssh, "-p", str(port), *w.options(w.id_file, w.known("127.0.0.1", port, w.se_host_key)),
        "aviseuser@127.0.0.1", "head -c 30000000 /dev/zero",
    )  # fmt: skip
    client.process.pauseProducing()
    await until(lambda: w.commands.sessions)
    memory = w.commands.terms.memory
    most = 0
    for _ in range(50):
        await deferLater(reactor, 0.02)
        most = max(most, memory.held)
    assert most <= 512 * 1024, most  # one piece, whatever the command has
    client.process.resumeProducing()
    await client.done
    assert client.size == 30_000_000
    await until(lambda: not w.commands.sessions)
    await until(lambda: descriptors() <= before)


@world
async def test_output_of_what_a_command_leaves_behind_is_waited_for_a_little(w):
    status, out, _ = await w.to_se("(sleep 1; echo late) & echo early; exit 6")
    assert (status, out) == (6, b"early\nlate\n")
    started = reactor.seconds()
    mark = f"{700000 + os.getpid()}"
    status, out, _ = await w.to_se(f"sleep {mark} & echo $!; exit 7")
    os.kill(int(out), signal.SIGKILL)
    assert status == 7
    assert LINGER_S - 0.5 < reactor.seconds() - started < 2 * LINGER_S


@world
async def test_files_and_forwards_are_refused_on_the_se(w):
    status, _, err = await w.to_se("sftp", options=("-s",))
    assert status != 0
    assert "subsystem request failed" in err
    _, _, err = await w.to_se(options=("-W", "127.0.0.1:22"))
    assert "administratively prohibited" in err


@pytest_twisted.ensureDeferred
async def test_a_command_over_its_time_limit_is_ended():
    w = World(CommandPolicy(time_limit_s=0.3))
    try:
        status, _, err = await w.to_se("sleep 60")
        assert "time limit" in err
        assert status != 0
    finally:
        await w.close()


@world
async def test_our_own_client_runs_commands_and_checks_the_host_key(w):
    out, err = io.BytesIO(), io.BytesIO()
    given = w.folder / "in"
    given.write_bytes(b"typed")
    port = w.direct.getHost().port
    target = Target("127.0.0.1", port, Path(w.id_file), w.line(w.se_host_key))
    with given.open("rb") as stdin:
        done = await run(reactor, target, "cat; echo oops >&2; exit 4", Streams(stdin, out, err), 20)
    assert done.status == 4
    assert (out.getvalue(), err.getvalue()) == (b"typed", b"oops\n")
    with pytest.raises(Exception, match="not the one expected"):
        await run(
            reactor,
            Target("127.0.0.1", port, Path(w.id_file), w.line(w.host_key)),
            "id",
            Streams(None, out, err),
        )
    with pytest.raises(Exception, match="longer than"):
        await run(reactor, target, "sleep 60", Streams(None, out, err), 1.0)


@world
async def test_our_own_terminal_is_raw_meanwhile_and_its_size_follows(w):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 31, 99, 0, 0))
    out = io.BytesIO()
    target = Target("127.0.0.1", w.direct.getHost().port, Path(w.id_file), w.line(w.se_host_key))
    with os.fdopen(slave, "rb", 0) as stdin:
        before = termios.tcgetattr(slave)
        command = "stty size; read x; echo got $x; stty size; exit 5"
        running = interactive(reactor, target, Streams(stdin, out, out), command)
        await until(lambda: b"31 99" in out.getvalue())
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", 40, 132, 0, 0))
        os.kill(os.getpid(), signal.SIGWINCH)
        await deferLater(reactor, 0.2)
        os.write(master, b"typed\r")
        assert (await running).status == 5
        assert termios.tcgetattr(slave) == before
    os.close(master)
    assert b"got typed" in out.getvalue()
    assert b"40 132" in out.getvalue()


@pytest_twisted.ensureDeferred
async def test_an_se_that_allows_no_commands_says_so_and_reports_it():
    w = World(CommandPolicy(exec_allowed=False))
    try:
        status, _, err = await w.to_se("id")
        assert (status, "exec request failed" in err) == (255, True)
        assert [(use.kind, use.command) for use in w.uses] == [("refused", "id")]
    finally:
        await w.close()


# -- OpenSSH's server


def make_privilege_folder():
    """sshd wants it to exist."""
    Path("/run/sshd").mkdir(exist_ok=True)


@world
async def test_a_stock_sshd_enforces_the_same_file_and_works_with_our_client(w):
    sshd = need("sshd")
    port = free_port()
    make_privilege_folder()
    await w.reverse.stop()  # the forward's port is the daemon's now
    w.write("host", w.host_key)
    user = pwd.getpwuid(os.getuid()).pw_name
    allowed = AuthorizedKeys()
    opens = (("127.0.0.1", w.port),)
    allowed.put(
        permit(w.se_key, se=new_se_id(), loopback=w.loopback, reverse_port=w.reverse_port, permit_open=opens)
    )
    (w.folder / "authorized").write_text(allowed.render())
    w.folder.chmod(0o700)
    settings = (
        f"ListenAddress 127.0.0.1:{port}", f"HostKey {w.folder}/host", "UsePAM no", "StrictModes no",
        f"AuthorizedKeysFile {w.folder}/authorized", "PidFile none", "PermitRootLogin yes",
        "GatewayPorts clientspecified",
    )  # fmt: skip
    (w.folder / "config").write_text("\n".join(settings) + "\n")
    daemon = Run(sshd, "-D", "-e", "-f", f"{w.folder}/config")
    try:
        for attempt in range(100):
            try:
                channel = await connect(
                    TCP4ClientEndpoint(reactor, "127.0.0.1", port),
                    user=user,
                    key=w.se_key,
                    verify_host_key=lambda line: line == w.line(w.host_key),
                    clock=reactor,
                )
                break
            except Exception:
                if attempt == 99:
                    raise
                await deferLater(reactor, 0.05)
        end = Collector()
        await channel.open(w.port, end, host="127.0.0.1")
        await until(lambda: end.data.startswith(b"SSH-2.0-avinet"))
        with pytest.raises(ChannelRefusedError):
            await channel.open(1, Protocol(), host="127.0.0.1")
        with pytest.raises(ForwardRefusedError):
            await channel.listen("127.1.77.77", w.reverse_port, Echo)
        await channel.listen(w.loopback, w.reverse_port, Echo)
        caller = Collector()
        await connectProtocol(TCP4ClientEndpoint(reactor, w.loopback, w.reverse_port), caller)
        caller.transport.write(b"through sshd")
        await until(lambda: caller.data == b"through sshd")
        channel.close()
        await channel.lost
    finally:
        daemon.process.signalProcess("TERM")
        await daemon.done
