"""One session on the SE: a command or a shell, its terminal, its streams, its end.

The process leads a group of its own, so that a time limit or a lost channel ends all that it started: TERM, and
KILL after ``KILL_AFTER_S``.  Output stops being read while the peer gives no credit, so a command that prints
gigabytes costs no memory; input stops being taken while the command does not read.  A command without a terminal has
the pipes of ``avinet.ssh.pipes``; a terminal is Twisted's, read in pieces of 8 KiB, which no terminal exceeds.
"""

import contextlib
import fcntl
import os
import signal
import termios
from collections.abc import Callable
from functools import partial
from typing import cast

import attrs
from twisted.conch.ssh.session import SUPPORTED_SIGNALS
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.interfaces import (
    IDelayedCall,
    IHalfCloseableProtocol,
    IProcessTransport,
    IPushProducer,
    IReactorProcess,
    IReactorTime,
)
from twisted.internet.protocol import ProcessProtocol, Protocol, connectionDone
from twisted.internet.threads import deferToThread
from twisted.logger import Logger
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.ssh.channel import STDERR, ChannelTransport
from avinet.ssh.environment import environment_of
from avinet.ssh.fields import Reader, string, uint32
from avinet.ssh.files import FilesSession
from avinet.ssh.pipes import Pipes
from avinet.ssh.policy import CommandPolicy, Use
from avinet.ssh.terminal import EOT, Intake, Terminal, window_of

KILL_AFTER_S = 5.0
"""Time for a command to tidy up after TERM."""
LINGER_S = 5.0
"""A command that is done may leave something behind that holds its output; nobody waits longer for that."""
MAX_COMMAND_BYTES = 128 * 1024
"""Linux takes no longer single argument (MAX_ARG_STRLEN)."""
_SHOWN_BYTES = 4096
_SETSID = "/usr/bin/setsid"
"""From util-linux, which Debian calls essential: makes the command lead its own session before it starts."""

_log = Logger()


class ProcessReactor(IReactorProcess, IReactorTime):
    """What is needed of the reactor."""


def _shown(command: bytes) -> str:
    """A command as the audit log keeps it."""
    return command[:_SHOWN_BYTES].decode(errors="replace")


class _Runner(ProcessProtocol):
    """Between the process and its session."""

    def __init__(self, session: "CommandSession") -> None:
        self._session = session

    def outReceived(self, data: bytes) -> None:
        """The terminal; pipes are our own."""
        self._session.output(data)

    def processExited(self, reason: Failure) -> None:
        """It is done; its output may not be."""
        self._session.exited()

    def processEnded(self, reason: Failure) -> None:
        """It is done and its output, too."""
        self._session.ended(reason)


@implementer(IHalfCloseableProtocol, IPushProducer)
class CommandSession(Protocol):
    """The protocol of one session channel."""

    transport: ChannelTransport | None

    def __init__(
        self,
        reactor: ProcessReactor,
        policy: CommandPolicy,
        fingerprint: str,
        over: Callable[["CommandSession", Use | None], None],
    ) -> None:
        self._reactor = reactor
        self._policy = policy
        self._fingerprint = fingerprint
        self._over = over
        self._terminal: Terminal | None = None
        self._use: Use | None = None
        self._started_at = 0.0
        self._process: IProcessTransport | None = None
        self._pipes: Pipes | None = None
        """Of a process without a terminal."""
        self._group = 0
        self._timers: list[IDelayedCall] = []
        self._linger: IDelayedCall | None = None
        self._paused = False
        self._early: list[bytes] = []
        self._input_over = False
        self._cut = False

    # -- requests

    def request_received(self, name: str, data: bytes) -> bool:
        """RFC 4254 section 6, what of it there is here."""
        reader = Reader(data, f"a {name} request")
        if name == "pty-req":
            return self._ask_terminal(reader)
        if name == "exec":
            command = reader.string()
            return (
                self._allowed("exec", command) and len(command) < MAX_COMMAND_BYTES and self._start(command)
            )
        if name == "shell":
            return self._allowed("shell") and self._start(None)
        if name == "subsystem":
            return reader.string() == b"sftp" and self._hand_to_files()
        if name == "window-change":
            return self._resize(window_of(reader))
        return name == "signal" and self._deliver(reader.text(32))

    def _allowed(self, kind: str, command: bytes = b"") -> bool:
        policy = self._policy
        allowed = policy.interactive_allowed if kind == "shell" or self._terminal else policy.exec_allowed
        if not allowed:
            self._over(self, Use("refused", _shown(command), self._fingerprint, -1, 0.0))
        return allowed

    def _hand_to_files(self) -> bool:
        folder, channel = self._policy.files, self.transport
        if folder is None:
            self._over(self, Use("refused", "sftp", self._fingerprint, -1, 0.0))
            return False
        if self._use is not None or channel is None:
            return False

        def ended(moved: str, seconds: float) -> None:
            self._over(self, Use("files", moved, self._fingerprint, 0, seconds))

        files = FilesSession(self._reactor, folder, deferToThread, ended)
        channel.incoming.hand_to(files)
        for data in self._early:
            files.dataReceived(data)
        channel.resumeProducing()
        return True

    def _ask_terminal(self, reader: Reader) -> bool:
        name, size = reader.text(64), window_of(reader)
        reader.string()  # modes: the kernel's defaults are what people expect
        if self._process is not None or not self._policy.interactive_allowed:
            return False
        self._terminal = Terminal(name if name.isprintable() else "dumb", size)
        return True

    def _resize(self, size: bytes) -> bool:
        if self._terminal is None or self._process is None:
            return False
        with contextlib.suppress(OSError):
            fcntl.ioctl(self._process.fileno(), termios.TIOCSWINSZ, size)  # type: ignore[attr-defined]  # a PTY's has it
        return True

    def _deliver(self, name: str) -> bool:
        if self._process is None or name not in SUPPORTED_SIGNALS:
            return False
        return self._kill(getattr(signal, f"SIG{name}"))

    # -- the process

    def _start(self, command: bytes | None) -> bool:
        channel = self.transport
        if self._process is not None or channel is None or (command is not None and b"\0" in command):
            return False
        shell = self._policy.shell
        arguments: list[str | bytes] = [shell] if command is None else [shell, "-c", command]
        environment = environment_of(shell, self._terminal.name if self._terminal else "")
        home = environment["HOME"]
        self._started_at = self._reactor.seconds()
        kind = "shell" if command is None else "exec"
        self._use = Use(
            kind, _shown(command or b""), self._fingerprint, -1, 0.0, pty=self._terminal is not None
        )
        path = home if os.access(home, os.X_OK) else "/"
        if self._terminal is not None:
            process = self._reactor.spawnProcess(
                _Runner(self), shell, arguments, env=environment, path=path, usePTY=True
            )
        else:
            spawn = partial(
                self._reactor.spawnProcess,
                _Runner(self),
                _SETSID,
                [_SETSID, *arguments],
                env=environment,
                path=path,
            )
            self._pipes, process = Pipes.around(self._reactor, channel, self._moved, spawn)
        self._process = process
        self._group = process.pid or 0
        if command is not None and self._terminal is None:
            self._timers.append(self._reactor.callLater(self._policy.time_limit_s, self._late))
        if self._terminal is not None:
            self._resize(self._terminal.size)
            channel.registerProducer(self, True)
            process.registerProducer(Intake(channel), True)  # type: ignore[attr-defined]  # a PTY's has it
        if self._pipes is not None:
            self._pipes.output.start()
        early, self._early = self._early, []
        for data in early:
            self.view_received(memoryview(data))
        if self._pipes is None or not self._pipes.input.full:
            channel.resumeProducing()
        if self._input_over:
            self._close_input()
        return True

    def _late(self) -> None:
        self.output(f"avinet: the time limit of {self._policy.time_limit_s:.0f} s is over\n".encode(), STDERR)
        self._end_group()

    def _end_group(self) -> None:
        if self._kill(signal.SIGTERM):
            self._timers.append(self._reactor.callLater(KILL_AFTER_S, self._kill, signal.SIGKILL))

    def _kill(self, number: signal.Signals) -> bool:
        try:
            os.killpg(self._group, number)
        except ProcessLookupError:
            return self._kill_early(number)
        except PermissionError:
            _log.warn("cannot send {signal} to process group {group}", signal=number.name, group=self._group)
            return False
        return True

    def _kill_early(self, number: signal.Signals) -> bool:
        """There is no such group: all of it has ended, or the command was started a moment ago and leads none yet."""
        if self._process is None:
            return False
        try:
            self._process.signalProcess(number.name.removeprefix("SIG"))
        except ProcessExitedAlready:
            return False
        return True

    def exited(self) -> None:
        """The command is done; wait a little for what holds its output."""
        self._linger = self._reactor.callLater(LINGER_S, self._stop_lingering)

    def _stop_lingering(self) -> None:
        self._linger = None
        if self._process is None:
            return
        if self._paused or (self._pipes is not None and self._pipes.output.waiting):
            self.exited()
        else:
            self._cut_streams()

    def _cut_streams(self) -> None:
        """Whoever still has the other ends of our pipes, or the terminal, finds them closed."""
        if self._pipes is not None:
            self._pipes.close()
        elif self._process is not None:
            self._process.loseConnection()

    def _moved(self) -> None:
        """Some output came."""
        if self._linger is not None:
            self._linger.reset(LINGER_S)

    def ended(self, reason: Failure) -> None:
        """The command is done, and its terminal; pipes may have more, which goes first."""
        if self._pipes is None:
            self._conclude(reason)
        else:
            self._pipes.output.when_done(lambda: self._conclude(reason))

    def _conclude(self, reason: Failure) -> None:
        """The command and its output are done: tell the peer how, and close."""
        if self._linger is not None:
            self._linger.cancel()
            self._linger = None
        if self._pipes is not None:
            self._pipes.close()
        self._process = None
        number = getattr(reason.value, "signal", None)
        status = getattr(reason.value, "exitCode", None)
        channel = self.transport
        if channel is not None and channel.connected and not channel.localClosed:
            channel.unregisterProducer()
            if number is not None:
                name = signal.Signals(number).name.removeprefix("SIG").encode()
                details = string(name) + b"\0" + string(b"") + string(b"")
                channel.conn.sendRequest(channel, b"exit-signal", details)
            else:
                channel.conn.sendRequest(channel, b"exit-status", uint32(status or 0))
            channel.loseConnection()
        self._finish(128 + number if number is not None else status or 0)

    def _finish(self, status: int) -> None:
        for timer in self._timers:
            if timer.active() and timer.func != self._kill:  # type: ignore[attr-defined]  # DelayedCall's
                timer.cancel()
        use, self._use = self._use, None
        if use is not None:
            seconds = self._reactor.seconds() - self._started_at
            self._over(self, attrs.evolve(use, exit_status=status, seconds=seconds))
        else:
            self._over(self, None)

    # -- the channel

    def output(self, data: bytes, kind: int = 0) -> None:
        """From the terminal, or from us, to the peer."""
        self._moved()
        if self.transport is not None:
            self.transport.writeExtended(kind, data)

    def view_received(self, view: memoryview) -> None:
        """From the peer to the process; what comes before it starts fits the channel's window."""
        if self._pipes is not None:
            self._pipes.input.take(view)
        elif self._process is not None:
            self._process.write(bytes(view))
        elif self._use is None:
            self._early.append(bytes(view))
            if self.transport is not None:
                self.transport.pauseProducing()

    def readConnectionLost(self) -> None:
        """The peer will send no more."""
        self._input_over = True
        self._close_input()

    def writeConnectionLost(self) -> None:
        """We closed that side ourselves."""

    def _close_input(self) -> None:
        if self._process is None:
            return
        if self._pipes is not None:
            self._pipes.input.end()
        else:
            self._process.write(EOT)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The channel is gone: so is what it ran."""
        self.peer_closed()
        if self._process is None and self._use is None:
            self._finish(0)

    def peer_closed(self) -> None:
        """Nobody waits for what it runs; that may never take the input which keeps the channel from ending."""
        if self._process is not None and not self._cut:
            self._cut = True
            self._end_group()
            self._cut_streams()

    def pauseProducing(self) -> None:
        """The peer gives no credit: leave output in the pipe, where it stops the command."""
        self._paused = True
        if self._process is not None:
            cast(IPushProducer, self._process).pauseProducing()

    def resumeProducing(self) -> None:
        """Go on."""
        self._paused = False
        if self._process is not None:
            cast(IPushProducer, self._process).resumeProducing()

    def stopProducing(self) -> None:
        """The channel is gone; ``connectionLost`` follows."""
