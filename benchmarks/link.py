"""A WAN link as a process of its own: a TCP relay with a round-trip time, a rate and a buffer.

    python -m benchmarks.link --to 127.0.0.1:2222 --rtt-ms 70 --mbit 100 --buffer-mb 1

Each direction is one link that all connections share.  A byte waits until those before it are on the link, takes
its time at the rate, then half the RTT.  What is queued and under way in one direction together is at most the
buffer; when it is full the relay reads no more, so that a sender meets back-pressure, as it would from a link that
loses nothing.  With a rate its own receive buffers are small, so that they add little to that queue.

One thread on ``select(2)``, whose time-outs are in microseconds (those of epoll(7) are in milliseconds): a byte is
late by 0.1 ms on an idle machine.  SIGUSR1 toggles a black hole: nothing flows, connections stay.
"""

import argparse
import gc
import select
import signal
import socket
import time
from collections import deque

import attrs

from avinet.units import KIB, MIB
from benchmarks.processes import Worker, say

READ_BYTES = 256 * KIB
LEAST_READ_BYTES = 2 * KIB
SLICE_S = 0.001
"""What is read at once is at most so much of the link's time: several senders take turns that short."""
RATED_RECEIVE_BYTES = 64 * KIB
"""The kernel's share of a rated link's queue (it doubles this for its own accounting)."""
WRITE_PIECES = 64
"""For one sendmsg(2)."""
BACKLOG = 1024


def address(text: str) -> tuple[str, int]:
    """``HOST:PORT``."""
    host, _, port = text.rpartition(":")
    return host, int(port)


@attrs.define(eq=False)
class Direction:
    """One way of the link."""

    delay_s: float
    bytes_s: float
    limit: int
    free_at: float = 0.0
    """When what was read so far will be on the link."""
    held: int = 0

    @property
    def room(self) -> int:
        """How much may be read at once now."""
        most = min(READ_BYTES, self.limit - self.held)
        return min(most, max(LEAST_READ_BYTES, int(self.bytes_s * SLICE_S))) if self.bytes_s else most

    def accept(self, count: int, now: float) -> float:
        """Take so many bytes; when they come out."""
        self.held += count
        if not self.bytes_s:
            return now + self.delay_s
        self.free_at = max(now, self.free_at) + count / self.bytes_s
        return self.free_at + self.delay_s


@attrs.define(eq=False)
class Flow:
    """One connection's bytes in one direction."""

    source: socket.socket
    sink: socket.socket
    direction: Direction
    queue: deque[tuple[float, memoryview]] = attrs.field(factory=deque, init=False)
    reading: bool = attrs.field(default=True, init=False)
    blocked: bool = attrs.field(default=False, init=False)
    """What is due does not fit into the sink."""

    def read(self, now: float) -> None:
        """Some; an empty piece stands for the end."""
        try:
            data = self.source.recv(self.direction.room)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.reading = bool(data)
        self.queue.append((self.direction.accept(len(data), now), memoryview(data)))

    def write(self, now: float) -> bool:
        """What is due; False when the connection is done for."""
        self.blocked = False
        while self.queue and self.queue[0][0] <= now:
            pieces: list[memoryview] = []
            for due, piece in self.queue:
                if due > now or not piece or len(pieces) == WRITE_PIECES:
                    break
                pieces.append(piece)
            try:
                if not pieces:
                    self.queue.popleft()
                    self.sink.shutdown(socket.SHUT_WR)
                    return True
                sent = self.sink.sendmsg(pieces)
            except BlockingIOError:
                sent = 0
            except OSError:
                return False
            self.direction.held -= sent
            if sent < sum(map(len, pieces)):
                self.blocked = True
            self._drop(sent)
            if self.blocked:
                return True
        return True

    def _drop(self, sent: int) -> None:
        while sent:
            due, piece = self.queue[0]
            if len(piece) > sent:
                self.queue[0] = (due, piece[sent:])
                return
            sent -= len(piece)
            self.queue.popleft()

    @property
    def over(self) -> bool:
        """Nothing more will come."""
        return not self.reading and not self.queue

    def forget(self) -> None:
        """Give back what it holds of the buffer."""
        self.direction.held -= sum(len(piece) for _, piece in self.queue)
        self.queue.clear()
        self.reading = False


@attrs.define(eq=False)
class Relay:
    """The link."""

    listening: socket.socket
    woken: socket.socket
    """Readable after a signal: select(2) is begun again by Python otherwise (PEP 475)."""
    target: tuple[str, int]
    up: Direction
    down: Direction
    flows: list[Flow] = attrs.field(factory=list, init=False)
    hole: bool = attrs.field(default=False, init=False)

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.turn()

    def turn(self) -> None:
        """Wait for one thing at least, and do what there is."""
        waiting = {flow.source: flow for flow in self.flows if flow.reading and flow.direction.room > 0}
        blocked = [flow.sink for flow in self.flows if flow.blocked]
        dues = [flow.queue[0][0] for flow in self.flows if flow.queue and not flow.blocked]
        left = max(0.0, min(dues) - time.monotonic()) if dues else None
        always = (self.listening, self.woken)
        if self.hole:
            waiting, blocked, left = {}, [], None
        readable, writable, _ = select.select((*always, *waiting), blocked, [], left)
        now = time.monotonic()
        for flow in () if self.hole else self.flows:
            if not (flow.blocked and flow.sink not in writable) and not flow.write(now):
                self._cut(flow)
        for one in readable:
            if one is self.listening:
                self._connected(self.listening.accept()[0])
            elif one is self.woken:
                self.woken.recv(READ_BYTES)
            elif waiting[one].reading and waiting[one].direction.room > 0:
                waiting[one].read(now)
        self._tidy()

    def _connected(self, client: socket.socket) -> None:
        upstream = socket.socket()
        if self.up.bytes_s:
            upstream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RATED_RECEIVE_BYTES)
        try:
            upstream.connect(self.target)
        except OSError:
            client.close()
            return
        for one in (client, upstream):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            one.setblocking(False)
        self.flows += [Flow(client, upstream, self.up), Flow(upstream, client, self.down)]

    def _cut(self, flow: Flow) -> None:
        """Its reader is gone: so is its connection."""
        for one in self.flows:
            if one.source in {flow.source, flow.sink}:
                one.forget()

    def _tidy(self) -> None:
        over = {flow.source for flow in self.flows if flow.over}
        for flow in [one for one in self.flows if one.source in over and one.sink in over]:
            self.flows.remove(flow)
            flow.source.close()


def link(to: int, *, rtt_ms: float, mbit: float = 0.0, buffer_mb: float = 64.0) -> Worker:
    """A link to a port of this machine, as a process; ``ready`` is its own port."""
    return Worker(
        "benchmarks.link",
        (
            "--to",
            f"127.0.0.1:{to}",
            "--rtt-ms",
            f"{rtt_ms}",
            "--mbit",
            f"{mbit}",
            "--buffer-mb",
            f"{buffer_mb}",
        ),
    )


def main() -> None:
    """Never returns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--listen", type=address, default=("127.0.0.1", 0), metavar="HOST:PORT")
    parser.add_argument("--to", type=address, required=True, metavar="HOST:PORT")
    parser.add_argument("--rtt-ms", type=float, default=70.0)
    parser.add_argument("--mbit", type=float, default=0.0, help="rate each way in Mbit/s; 0: none")
    parser.add_argument(
        "--buffer-mb", type=float, default=64.0, help="queued and under way, each way, in MiB"
    )
    given = parser.parse_args()

    def direction() -> Direction:
        return Direction(given.rtt_ms / 2000, given.mbit * 1e6 / 8, int(given.buffer_mb * MIB))

    with socket.socket() as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if given.mbit:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RATED_RECEIVE_BYTES)
        listening.bind(given.listen)
        listening.listen(BACKLOG)
        woken, waker = socket.socketpair()
        waker.setblocking(False)
        signal.set_wakeup_fd(waker.fileno())
        relay = Relay(listening, woken, given.to, direction(), direction())

        def toggle(*_: object) -> None:
            relay.hole = not relay.hole

        signal.signal(signal.SIGUSR1, toggle)
        # A collection would be a jitter of its own, and nothing here is cyclic.
        gc.disable()
        say(ready=listening.getsockname()[1])
        relay.run()


if __name__ == "__main__":
    main()
