"""The controller's end of a command on an SE: run it, or sit at its terminal.

Used by the command line: it connects to an SE's loopback address, checks the SE's host key, proves itself with
``id_se``, and joins the remote command to this process's streams.  Output is written with blocking calls, which
holds back a command that prints faster than whoever reads; input is read only while the channel takes it.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import struct
import termios
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import attrs
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from twisted.conch.error import ConchError
from twisted.internet.abstract import FileDescriptor
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ConnectionDone
from twisted.internet.interfaces import IHalfCloseableProtocol
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError, Kind, error
from avinet.ssh import keys
from avinet.ssh.channel import ChannelTransport
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.commands import USER
from avinet.ssh.errors import CommandTimeoutError, ConnectionEndedError
from avinet.ssh.fields import Reader, string, uint32

_READ_BYTES = 256 * 1024
"""Of input at once: as much as fits a packet between two of us."""
_SESSION = b"session"


@error
class CommandRefusedError(AvinetError):
    """The SE refused to run {what}; its policy does not allow it."""

    kind: ClassVar[Kind] = Kind.DENIED
    what: str


@error
class KeyUnreadableError(AvinetError):
    """The key file {path} cannot be used: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    path: str
    detail: str


@attrs.frozen
class ExitStatus:
    """How a remote command ended: ``status``, or the ``signal``'s name (``TERM``) with 128 + n."""

    status: int
    signal: str = ""


@attrs.frozen
class Target:
    """One SE's server as the controller reaches it."""

    address: str
    port: int
    id_se_path: Path
    host_key_line: str


@attrs.frozen
class Streams:
    """Where a remote command's streams go.  ``stdin`` is None for no input."""

    stdin: BinaryIO | None
    stdout: BinaryIO
    stderr: BinaryIO


class _Input(FileDescriptor):
    """Reads a file descriptor while the channel takes it.  A regular file counts as always readable."""

    def __init__(self, reactor: Any, number: int, channel: ChannelTransport) -> None:
        super().__init__(reactor)
        self._number = number
        self._channel = channel
        self.connected = True
        channel.registerProducer(self, True)
        self.startReading()

    def fileno(self) -> int:
        """For the reactor."""
        return self._number

    def doRead(self) -> None:
        """Some bytes, or the end."""
        try:
            data = os.read(self._number, _READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            self._channel.write(data)
        else:
            self._end()

    def _end(self) -> None:
        if not self.connected:
            return
        self.connected = False
        self.stopReading()
        self._channel.unregisterProducer()
        self._channel.loseWriteConnection()

    def stopProducing(self) -> None:
        """The channel is gone."""
        self.stopReading()

    def connectionLost(self, reason: Failure) -> None:
        """No more input: epoll tells the end of a pipe this way, once it is empty, and not by a last read."""
        self._end()


@implementer(IHalfCloseableProtocol)
class _RemoteCommand(Protocol):
    """The protocol of a session channel from the client's side."""

    transport: ChannelTransport | None

    def __init__(self, streams: Streams) -> None:
        self._streams = streams
        self._exit: ExitStatus | None = None
        self.done: Deferred[ExitStatus] = Deferred()

    def dataReceived(self, data: bytes) -> None:
        """Standard output."""
        self._put(self._streams.stdout, data)

    def extended_received(self, kind: int, data: bytes) -> None:
        """Standard error."""
        self._put(self._streams.stderr, data)

    def _put(self, out: BinaryIO, data: bytes) -> None:
        try:
            out.write(data)
            out.flush()
        except OSError:
            # Whoever read our output has gone, as in `... | head`.
            if self.transport is not None:
                self.transport.abortConnection()

    def request_received(self, name: str, data: bytes) -> bool:
        """How it ended."""
        reader = Reader(data, f"an {name} request")
        if name == "exit-status":
            self._exit = ExitStatus(reader.uint32() & 0xFF)
        elif name == "exit-signal":
            word = reader.text(32)
            self._exit = ExitStatus(128 + int(getattr(signal, f"SIG{word}", 0)), word)
        return False

    def readConnectionLost(self) -> None:
        """All output is here; the exit status follows."""

    def writeConnectionLost(self) -> None:
        """All input is there."""

    def forget(self) -> None:
        """Nobody waits for the end any more: what was refused is told as that, and not its end as well."""
        self.done.addErrback(lambda failure: None)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """It is over."""
        if self.done.called:
            return
        if self._exit is not None:
            self.done.callback(self._exit)
        else:
            said = "" if reason.check(ConnectionDone) else f" ({reason.getErrorMessage()})"
            self.done.errback(ConnectionEndedError(detail=f"before the command's exit status came{said}"))


def _load(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError) as failure:
        raise KeyUnreadableError(path=str(path), detail=str(failure)) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise KeyUnreadableError(path=str(path), detail="it is not an Ed25519 key")
    return key


async def _log_in(reactor: Any, target: Target) -> SecureChannel:
    expected = keys.line_of(keys.blob_of_line(target.host_key_line))
    return await connect(
        TCP4ClientEndpoint(reactor, target.address, target.port, timeout=10),
        user=USER,
        key=_load(target.id_se_path),
        verify_host_key=lambda line: line == expected,
        clock=reactor,
    )


async def _ask(
    channel: SecureChannel, session: ChannelTransport, request: bytes, data: bytes, what: str
) -> None:
    answer = channel.connection.sendRequest(session, request, data, wantReply=1)
    if answer is None:  # Conch's word for a channel that we closed
        raise ConnectionEndedError(detail=f"before {what} was asked for")
    try:
        await answer
    except ConchError:
        raise CommandRefusedError(what=what) from None


async def _session(channel: SecureChannel, command: _RemoteCommand) -> ChannelTransport:
    await channel.connection.open(_SESSION, b"", command, "a session")
    transport = command.transport
    if transport is None:
        raise ConnectionEndedError(detail="while the session opened")
    return transport


def run(
    reactor: Any, target: Target, command: str, streams: Streams, timeout_s: float | None = None
) -> Deferred[ExitStatus]:
    """Run ``command`` by the SE's shell.  Past ``timeout_s`` it is cut (the SE kills it): ``CommandTimeoutError``."""

    async def work() -> ExitStatus:
        channel, remote = await _log_in(reactor, target), _RemoteCommand(streams)
        try:
            session = await _session(channel, remote)
            await _ask(channel, session, b"exec", string(command.encode()), repr(command))
            return await _finish(reactor, remote, session, streams.stdin)
        finally:
            remote.forget()
            channel.close("done")

    running = Deferred.fromCoroutine(work())
    if timeout_s is None:
        return running
    late = CommandTimeoutError(step=f"The command {command!r}", limit_s=timeout_s)
    return running.addTimeout(timeout_s, reactor, onTimeoutCancel=lambda _result, _limit: Failure(late))


async def _finish(
    reactor: Any, remote: _RemoteCommand, session: ChannelTransport, stdin: BinaryIO | None
) -> ExitStatus:
    if stdin is None:
        session.loseWriteConnection()
    else:
        _Input(reactor, stdin.fileno(), session)
    return await remote.done


def interactive(
    reactor: Any, target: Target, streams: Streams, command: str | None = None
) -> Deferred[ExitStatus]:
    """A shell, or ``command``, with a terminal: ours is raw meanwhile, and its size follows."""

    async def work() -> ExitStatus:
        channel, remote = await _log_in(reactor, target), _RemoteCommand(streams)
        try:
            session = await _session(channel, remote)
            term = os.environ.get("TERM", "dumb").encode()
            await _ask(
                channel,
                session,
                b"pty-req",
                string(term) + _size(streams.stdin) + string(b"\0"),
                "a terminal",
            )
            request, data = (b"shell", b"") if command is None else (b"exec", string(command.encode()))
            await _ask(channel, session, request, data, "a shell" if command is None else repr(command))

            def resized() -> None:
                channel.connection.sendRequest(session, b"window-change", _size(streams.stdin))

            with _raw(streams.stdin), _on_resize(reactor, resized):
                return await _finish(reactor, remote, session, streams.stdin)
        finally:
            remote.forget()
            channel.close("done")

    return Deferred.fromCoroutine(work())


def _size(stdin: BinaryIO | None) -> bytes:
    columns, rows = shutil.get_terminal_size()
    with contextlib.suppress(OSError):
        number = 0 if stdin is None else stdin.fileno()
        rows, columns, _, _ = struct.unpack("4H", fcntl.ioctl(number, termios.TIOCGWINSZ, bytes(8)))
    return uint32(columns) + uint32(rows) + uint32(0) + uint32(0)


@contextlib.contextmanager
def _raw(stdin: BinaryIO | None) -> Iterator[None]:
    """Every key goes to the remote terminal, Ctrl-C included."""
    if stdin is None or not stdin.isatty():
        yield
        return
    before = termios.tcgetattr(stdin)
    tty.setraw(stdin.fileno())
    try:
        yield
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)


@contextlib.contextmanager
def _on_resize(reactor: Any, resized: Callable[[], object]) -> Iterator[None]:
    before = signal.signal(signal.SIGWINCH, lambda *_: reactor.callFromThread(resized))
    try:
        yield
    finally:
        signal.signal(signal.SIGWINCH, before)
