"""The pipes of a command without a terminal, as the channel's ends of them.

Twisted's own process transports read 8 KiB in each turn of the reactor and push it, which makes some 15 MiB/s.  Here the
channel asks for output when it is its turn (``Output``, a pull producer), which is read in large pieces; a pipe is
watched only while it is empty.  Input goes from the packet into the pipe (``Input``), and what the pipe does not take
holds the channel back.  Nothing is read that the peer has not made room for, but for one piece.
"""

import contextlib
import fcntl
import os
from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.abstract import FileDescriptor
from twisted.internet.interfaces import IProcessTransport, IPullProducer
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.ssh.channel import STDERR, ChannelTransport
from avinet.ssh.pieces import STDOUT
from avinet.units import KIB, MIB

READ_BYTES = 256 * KIB
"""Read at once, and what may wait in the channel; some packets' worth, and below a millisecond."""
GATHERED_BYTES = 256 * KIB
"""Of input, written together; what the pipe does not take of as much holds the channel back, so that with one packet more
512 KiB are the most."""
PIPE_BYTES = MIB
"""Of output and input each, as pipe(7) allows every user; a pipe is 64 KiB else, which is a switch of processes for each
half of a packet.  Sixteen sessions stay within the 64 MiB that one user may have (pipe-user-pages-soft)."""


class _Source(FileDescriptor):
    """A pipe that the command writes to; ``wake`` is called when there is something to read, or its end."""

    def __init__(self, reactor: Any, number: int, kind: int, wake: Callable[[], None]) -> None:
        super().__init__(reactor)
        self.kind = kind
        self.ready = True
        self._number = number
        self._wake = wake

    def fileno(self) -> int:
        """For the reactor."""
        return self._number

    def read(self) -> bytes | None:
        """What is there: ``b""`` at the end, None when there is nothing now, and then it is watched."""
        try:
            return os.read(self._number, READ_BYTES)
        except BlockingIOError:
            self.ready = False
            self.startReading()
            return None
        except OSError:
            return b""

    def doRead(self) -> None:
        """There is something."""
        self.stopReading()
        self.ready = True
        self._wake()

    def connectionLost(self, reason: Failure) -> None:
        """epoll tells the end of an empty pipe this way; reading tells it too."""
        self.doRead()

    def close(self) -> None:
        """No more of it."""
        self.stopReading()
        os.close(self._number)


@implementer(IPullProducer)
class Output:
    """Standard output and error of a command, read when the channel asks.  ``moved`` is called for each piece."""

    def __init__(
        self, reactor: Any, channel: ChannelTransport, pipes: tuple[int, int], moved: Callable[[], None]
    ) -> None:
        self._channel = channel
        self._moved = moved
        self._sources = [
            _Source(reactor, number, kind, self._wake)
            for number, kind in zip(pipes, (STDOUT, STDERR), strict=True)
        ]
        self.waiting = False
        """Whether it is the peer's turn: something may be there that it has given no room for."""
        self._done: Callable[[], None] | None = None

    def start(self) -> None:
        """Begin."""
        self._wake()

    def when_done(self, done: Callable[[], None]) -> None:
        """Call ``done``, once, when both pipes have ended and all that came from them is sent."""
        self._done = done
        self._conclude()
        if not self._channel.remoteWindowLeft and not self._channel.unsent:
            # The peer has given room for all there was, and may wait for the end before it gives more.
            self.resumeProducing()

    def close(self) -> None:
        """Read no more."""
        sources, self._sources = self._sources, []
        for source in sources:
            source.close()
        self._conclude()

    def resumeProducing(self) -> None:
        """One piece of whichever pipe has any, in turn; all before it has been sent."""
        for source in [source for source in self._sources if source.ready]:
            data = source.read()
            if data:
                self._sources.remove(source)
                self._sources.append(source)
                self._channel.writeExtended(source.kind, data)
                self._moved()
                return
            if data is not None:
                self._sources.remove(source)
                source.close()
        self._rest()
        self._conclude()

    def stopProducing(self) -> None:
        """The channel is gone, and what it had not sent."""
        self.waiting = False
        if not self._channel.unsent:
            self._conclude()

    def _wake(self) -> None:
        if not self.waiting:
            self.waiting = True
            self._channel.registerProducer(self, False)

    def _rest(self) -> None:
        if self.waiting:
            self.waiting = False
            self._channel.unregisterProducer()

    def _conclude(self) -> None:
        if self._sources or self._done is None:
            return
        if self._channel.unsent:
            self._wake()
            return
        self._rest()
        done, self._done = self._done, None
        done()


class Input(FileDescriptor):
    """Standard input of a command.  One that closes it, or ends, takes the rest for nothing: that ends no command.

    What comes in one turn of the reactor is written together, since each write wakes the command.
    """

    def __init__(self, reactor: Any, channel: ChannelTransport, number: int) -> None:
        super().__init__(reactor)
        self._channel = channel
        self._number = number
        self._open = True
        self._held = bytearray()
        self.full = False
        """Whether the pipe takes no more for now, and the channel is held back."""
        self._ending = False

    def fileno(self) -> int:
        """For the reactor."""
        return self._number

    def take(self, data: bytes | memoryview) -> None:
        """Some input; a view is good during the call only."""
        if not self._open:
            return
        self._held += data
        if len(self._held) < GATHERED_BYTES:
            self.startWriting()
        elif not self.full:
            self._put()

    def doWrite(self) -> None:
        """The pipe has room."""
        self._put()

    def _put(self) -> None:
        """As much as the pipe takes; the channel waits while it leaves too much."""
        try:
            del self._held[: os.write(self._number, self._held)]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._held:
            self.startWriting()
        elif self._ending:
            self.close()
        else:
            self.stopWriting()
        full = len(self._held) >= GATHERED_BYTES
        if full != self.full:
            self.full = full
            if full:
                self._channel.pauseProducing()
            else:
                self._channel.resumeProducing()

    def end(self) -> None:
        """No more follows."""
        self._ending = True
        if not self._held:
            self.close()

    def connectionLost(self, reason: Failure) -> None:
        """Nobody reads it any more."""
        self.close()

    def close(self) -> None:
        """Now; what comes is dropped from here on."""
        if not self._open:
            return
        self._open = False
        self._held.clear()
        self.full = False
        self.stopWriting()
        os.close(self._number)
        self._channel.resumeProducing()


@attrs.frozen(eq=False)
class Pipes:
    """Our ends of all three."""

    output: Output
    input: Input

    @classmethod
    def around(
        cls,
        reactor: Any,
        channel: ChannelTransport,
        moved: Callable[[], None],
        spawn: Callable[..., IProcessTransport],
    ) -> "tuple[Pipes, IProcessTransport]":
        """``spawn(childFDs=...)`` a process between them; ``OSError`` when there are no descriptors left for it."""
        made: list[int] = []
        try:
            for _ in range(3):
                made += os.pipe2(os.O_CLOEXEC)
            taken, given, out, out_end, err, err_end = made
            for number in (given, out):
                with contextlib.suppress(OSError):  # over what this user may have: 64 KiB do, too
                    fcntl.fcntl(number, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
            for number in (given, out, err):
                os.set_blocking(number, False)
            process = spawn(childFDs={0: taken, 1: out_end, 2: err_end})
        except BaseException:
            for number in made:
                os.close(number)
            raise
        for number in (taken, out_end, err_end):
            os.close(number)  # the command's; while they are open here, too, nothing ever ends
        return cls(Output(reactor, channel, (out, err), moved), Input(reactor, channel, given)), process

    def close(self) -> None:
        """Now: the command's writes fail from here on, and it finds no more input."""
        self.input.close()
        self.output.close()
