"""Both ends of the secure channel, each a process of its own, as the product has them.

``controller`` runs the real ``SecureChannelServer`` with three services in its table: two sinks (one into a file, one
into nothing) and an echo.  ``engine`` runs the real client with the same key as any SE has, and does what it is told,
one request a line:

- ``{"do": "send", "path"}``: the file to the first sink, on a channel of bulk priority, as a producer that is paused
  by back-pressure; answered when the sink has said that all of it is written.
- ``{"do": "pull", "for_s", "every_s"}``: bulk from nowhere to nowhere, for so long, and a heartbeat on a channel of
  control priority meanwhile; answered with the bytes, the seconds and all round-trip times.
"""

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.internet.defer import Deferred
from twisted.internet.endpoints import TCP4ClientEndpoint
from twisted.internet.error import ReactorNotRunning
from twisted.internet.interfaces import IHalfCloseableProtocol, IPullProducer
from twisted.internet.protocol import Protocol, connectionDone
from twisted.internet.stdio import StandardIO
from twisted.internet.task import LoopingCall
from twisted.protocols.basic import LineOnlyReceiver
from twisted.python.failure import Failure
from zope.interface import implementer

from avinet.errors import AvinetError
from avinet.model.ids import SeId
from avinet.ssh.client import SecureChannel, connect
from avinet.ssh.login import Access
from avinet.ssh.reverse import ReverseListeners
from avinet.ssh.scheduler import Priority
from avinet.ssh.server import SecureChannelServer
from avinet.ssh.services import ChannelPeer, ServiceTable
from avinet.trust import keys
from avinet.trust.authorized_keys import AuthorizedKeys, Permit
from avinet.units import KIB
from benchmarks.processes import say

USER = "aviseuser"
SE = SeId("se-00000000-0000-4000-8000-000000000001")
LOOPBACK = "127.1.0.1"
PIECE_BYTES = 256 * KIB
FILE_PORT, NOWHERE_PORT, ECHO_PORT = 5001, 5002, 5003
COUNT_BYTES = 8
HEARTBEAT = b"heartbeat".ljust(60 - COUNT_BYTES, b".")
"""With its number as long as a control frame of one."""


# The controller's end


class Quiet:
    """An observer that only speaks of what should not happen here."""

    def auth_failed(self, source: str, user: str, fingerprint: str, why: str) -> None:
        """A stranger."""
        print(f"login refused: {user} {why}", file=sys.stderr)

    def authenticated(self, peer: ChannelPeer) -> None:
        """As it should be."""

    def lost(self, peer: ChannelPeer, why: AvinetError) -> None:
        """As it ends."""

    def refused(self, peer: ChannelPeer, what: str) -> None:
        """A channel."""
        print(f"refused: {what}", file=sys.stderr)

    def reverse_failed(self, peer: ChannelPeer, why: AvinetError) -> None:
        """A forward."""
        print(f"no forward: {why}", file=sys.stderr)


@implementer(IHalfCloseableProtocol)
class Sink(Protocol):
    """Writes what arrives to a file; at its end answers with how much that was."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self._count = 0

    def dataReceived(self, data: bytes) -> None:
        """Some bytes of our own."""
        self.view_received(memoryview(data))

    def view_received(self, view: memoryview) -> None:
        """Some bytes that are ours during this call only: no copy is made of them."""
        self._count += len(view)
        while view:
            view = view[os.write(self._file, view) :]

    def readConnectionLost(self) -> None:
        """All of it."""
        if self.transport is not None:
            self.transport.write(self._count.to_bytes(COUNT_BYTES, "big"))
            self.transport.loseConnection()

    def writeConnectionLost(self) -> None:
        """We half closed it ourselves."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Done."""
        os.close(self._file)


class Echo(Protocol):
    """Answers at once."""

    def dataReceived(self, data: bytes) -> None:
        """The same."""
        if self.transport is not None:
            self.transport.write(data)


def serve(reactor: Any, given: argparse.Namespace) -> None:
    """The controller's SSH server, with one SE's line."""
    services = ServiceTable()
    services.register("file", FILE_PORT, lambda peer: Sink(given.out))
    services.register("nowhere", NOWHERE_PORT, lambda peer: Sink(os.devnull))
    services.register("echo", ECHO_PORT, lambda peer: Echo(), Priority.CONTROL)
    lines = AuthorizedKeys()
    opens = tuple(("localhost", port) for port in services.ports().values())
    public = keys.public_line(keys.load(given.identity).public_key())
    lines.put(Permit(SE, public, given.loopback, given.reverse_port, opens))
    access = Access({USER: lines}, services, ReverseListeners(reactor, reactor))
    server = SecureChannelServer(keys.generate(), access, reactor, Quiet())
    listening = reactor.listenTCP(0, server, interface="127.0.0.1")
    say(ready=listening.getHost().port)


# The SE's end


@implementer(IPullProducer, IHalfCloseableProtocol)
class Upload(Protocol):
    """Bulk: as much as the channel takes each time, then the end, then the other side's count.

    ``fill`` puts bytes where the channel wants them and says how many; none is the end.
    """

    def __init__(self, fill: Callable[[memoryview], int]) -> None:
        self._fill = fill
        self._sent = 0
        self._answer = b""
        self.done: Deferred[int] = Deferred()

    def connectionMade(self) -> None:
        """Begin."""
        self.transport.registerProducer(self, False)  # type: ignore[union-attr]  # connected

    def produce_into(self, room: memoryview) -> int:
        """One piece."""
        size = self._fill(room)
        self._sent += size
        if not size:
            self.transport.unregisterProducer()  # type: ignore[union-attr]  # connected
            self.transport.loseWriteConnection()  # type: ignore[union-attr]  # connected
        return size

    def resumeProducing(self) -> None:
        """For a consumer that wants bytes of their own; a channel asks ``produce_into``."""
        piece = bytearray(PIECE_BYTES)
        size = self.produce_into(memoryview(piece))
        if size:
            self.transport.write(bytes(piece[:size]))  # type: ignore[union-attr]  # connected

    def stopProducing(self) -> None:
        """The channel is gone; ``connectionLost`` says so."""

    def dataReceived(self, data: bytes) -> None:
        """The count."""
        self._answer += data

    def readConnectionLost(self) -> None:
        """It said all."""

    def writeConnectionLost(self) -> None:
        """We said all."""

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whether all of it arrived."""
        count = int.from_bytes(self._answer, "big") if len(self._answer) == COUNT_BYTES else -1
        if count == self._sent:
            self.done.callback(count)
        else:
            self.done.errback(RuntimeError(f"{self._sent} bytes sent, {count} written"))


class Heartbeat(Protocol):
    """Times each of its messages, whether the one before is back or not."""

    def __init__(self) -> None:
        self.rtt_s: list[float] = []
        self._sent_at: list[float] = []
        self._received = b""

    def beat(self) -> None:
        """Send one."""
        self._sent_at.append(time.monotonic())
        number = len(self._sent_at).to_bytes(COUNT_BYTES, "big")
        self.transport.write(number + HEARTBEAT)  # type: ignore[union-attr]  # connected

    def dataReceived(self, data: bytes) -> None:
        """One or more are back."""
        now = time.monotonic()
        self._received += data
        size = COUNT_BYTES + len(HEARTBEAT)
        while len(self._received) >= size:
            self._received = self._received[size:]
            self.rtt_s.append(now - self._sent_at[len(self.rtt_s)])


@contextlib.contextmanager
def filled_from(path: str) -> Iterator[Callable[[memoryview], int]]:
    """A file."""
    file = os.open(path, os.O_RDONLY)
    try:
        yield lambda room: os.readv(file, [room])
    finally:
        os.close(file)


def filled_until(end: float) -> Callable[[memoryview], int]:
    """Bytes, as long as it is not yet ``end``."""
    piece = os.urandom(PIECE_BYTES)

    def fill(room: memoryview) -> int:
        size = min(len(room), PIECE_BYTES) if time.monotonic() < end else 0
        room[:size] = piece[:size]
        return size

    return fill


@attrs.define(eq=False)
class Engine:
    """What an SE does here."""

    reactor: Any
    channel: SecureChannel

    async def send(self, path: str) -> dict[str, Any]:
        """One file."""
        with filled_from(path) as fill:
            upload = Upload(fill)
            begun = time.monotonic()
            await self.channel.open(FILE_PORT, upload, priority=Priority.BULK)
            return {"bytes": await upload.done, "s": time.monotonic() - begun}

    async def pull(self, for_s: float, every_s: float) -> dict[str, Any]:
        """Bulk with a heartbeat beside it."""
        heartbeat = Heartbeat()
        await self.channel.open(ECHO_PORT, heartbeat, priority=Priority.CONTROL)
        beating = LoopingCall(heartbeat.beat)
        beating.clock = self.reactor
        begun = time.monotonic()
        upload = Upload(filled_until(begun + for_s))
        await self.channel.open(NOWHERE_PORT, upload, priority=Priority.BULK)
        beating.start(every_s)
        count = await upload.done
        took_s = time.monotonic() - begun
        beating.stop()
        heartbeat.transport.loseConnection()  # type: ignore[union-attr]  # connected
        return {"bytes": count, "s": took_s, "rtt_s": heartbeat.rtt_s}


Steps = dict[str, Callable[..., Coroutine[Any, Any, dict[str, Any]]]]
"""What can be asked for, by name."""


class Requests(LineOnlyReceiver):
    """A JSON object a line, from standard input.

    Answers go through the transport: it has made standard output non-blocking, where a ``print`` ends after what a pipe
    takes, 64 KiB.
    """

    delimiter = b"\n"

    def __init__(self, steps: Steps, over: Callable[[], None]) -> None:
        self._steps = steps
        self._over = over

    def lineReceived(self, line: bytes) -> None:
        """One request."""
        request = msgspec.json.decode(line)
        doing = Deferred.fromCoroutine(self._steps[request.pop("do")](**request))
        doing.addErrback(lambda why: {"failed": why.getErrorMessage()})
        doing.addCallback(lambda answer: self.sendLine(msgspec.json.encode(answer)))

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Whoever asked is gone, or we are being stopped."""
        with contextlib.suppress(ReactorNotRunning):
            self._over()


async def attach(reactor: Any, given: argparse.Namespace) -> None:
    """Log in, then take requests."""
    key: Ed25519PrivateKey = keys.load(given.identity)
    endpoint = TCP4ClientEndpoint(reactor, "127.0.0.1", given.port)
    channel = await connect(endpoint, user=USER, key=key, verify_host_key=lambda line: True, clock=reactor)
    # A login without a channel or forward is cut as idle; its peers take their turns meanwhile.
    await channel.open(ECHO_PORT, Heartbeat(), priority=Priority.CONTROL)
    engine = Engine(reactor, channel)
    StandardIO(Requests({"send": engine.send, "pull": engine.pull}, reactor.stop), reactor=reactor)
    say(ready=True)


def main() -> None:
    """As said above."""
    from twisted.internet import reactor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    ends = parser.add_subparsers(dest="end", required=True)
    controller, engine = ends.add_parser("controller"), ends.add_parser("engine")
    for one in (controller, engine):
        one.add_argument("--identity", type=Path, required=True, help="the SE's private key")
    controller.add_argument("--out", default=os.devnull, help="where the first sink writes")
    controller.add_argument("--loopback", default=LOOPBACK)
    controller.add_argument("--reverse-port", type=int, default=5097)
    engine.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    loop: Any = reactor

    def failed(why: Failure) -> None:
        say(failed=why.getErrorMessage())
        loop.stop()

    begin: Callable[[], Any]
    if given.end == "controller":
        begin = partial(serve, loop, given)
    else:
        begin = lambda: Deferred.fromCoroutine(attach(loop, given)).addErrback(failed)  # noqa: E731
    loop.callWhenRunning(begin)
    loop.run()


if __name__ == "__main__":
    main()
