"""A load generator of HTTP/1.1: connections that stay and ask again at once, and others that are new for each request.

A worker process (``benchmarks.processes.Worker``): ``{"do": "start", "port": p, "keep": n, "fresh": m}`` begins,
``{"do": "stop"}`` lets what is under way end and answers what came of it.  One thread, epoll and raw sockets.

A request is *lost* when its connection could not be made or its answer is not a whole 200; it was *cut* when the
connection ended before the whole answer, also where a client would be free to ask again.  A connection that the
server ends after an answer that says so (``connection: close``) is neither: that is how a drain ought to look.
"""

import errno
import json
import os
import select
import socket
import sys
import time
from typing import Any

import attrs

from benchmarks.processes import say

REQUEST = b"GET / HTTP/1.1\r\nHost: bench\r\nUser-Agent: load\r\n\r\n"
READ_BYTES = 16 * 1024
END_S = 5.0
"""For requests under way when it stops."""
UNDER_WAY = frozenset({errno.EINPROGRESS, errno.EALREADY})
MAX_EXAMPLES = 5


@attrs.define
class Tally:
    """What came of the requests."""

    answered: int = 0
    lost: int = 0
    cut: int = 0
    connections: int = 0
    examples: list[str] = attrs.field(factory=list)

    def blame(self, why: str) -> None:
        """Keep the first few reasons."""
        if len(self.examples) < MAX_EXAMPLES:
            self.examples.append(why)


def length_of(data: bytes) -> tuple[int, int, bool] | None:
    """(status, bytes of the whole answer, whether the connection ends after it); None when the head is not whole.

    An answer has a content-length here: servers of benchmarks are ours.
    """
    end = data.find(b"\r\n\r\n")
    if end < 0:
        return None
    head = data[:end].lower()
    _, named, rest = head.partition(b"content-length:")
    length = int(rest.split(b"\r\n", 1)[0]) if named else 0
    return int(data[9:12]), end + 4 + length, b"connection: close" in head


@attrs.define(eq=False)
class Slot:
    """One connection, and the request on it."""

    fresh: bool
    sock: socket.socket | None = None
    got: bytes = b""
    connecting: bool = False


@attrs.define(eq=False)
class Load:
    """All slots of one target."""

    port: int
    tally: Tally = attrs.field(factory=Tally)
    stopping: bool = False
    _poll: Any = attrs.field(factory=select.epoll, repr=False)
    _slots: dict[int, Slot] = attrs.field(factory=dict, repr=False)

    def start(self, keep: int, fresh: int) -> None:
        """Open every slot."""
        for number in range(keep + fresh):
            self._connect(Slot(fresh=number >= keep))

    @property
    def under_way(self) -> int:
        """Slots that wait for something."""
        return len(self._slots)

    def _connect(self, slot: Slot) -> None:
        slot.sock = sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        slot.got, slot.connecting = b"", True
        self.tally.connections += 1
        error = sock.connect_ex(("127.0.0.1", self.port))
        if error and error not in UNDER_WAY:
            self._over(slot, f"connect: {os.strerror(error)}", cut=False)
            return
        self._slots[sock.fileno()] = slot
        self._poll.register(sock.fileno(), select.EPOLLOUT)

    def turn(self, wait_s: float) -> None:
        """Whatever is ready."""
        for fd, _ in self._poll.poll(wait_s):
            slot = self._slots.get(fd)
            if slot is None or slot.sock is None:
                continue
            if slot.connecting:
                self._connected(slot)
            else:
                self._readable(slot)

    def _connected(self, slot: Slot) -> None:
        assert slot.sock is not None
        error = slot.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if error:
            self._over(slot, f"connect: {os.strerror(error)}", cut=False)
            return
        slot.connecting = False
        self._poll.modify(slot.sock.fileno(), select.EPOLLIN)
        self._ask(slot)

    def _ask(self, slot: Slot) -> None:
        assert slot.sock is not None
        try:
            slot.sock.send(REQUEST)
        except OSError as why:
            self._over(slot, f"send: {why.strerror}", cut=True)

    def _readable(self, slot: Slot) -> None:
        assert slot.sock is not None
        try:
            data = slot.sock.recv(READ_BYTES)
        except OSError as why:
            self._over(slot, f"receive: {why.strerror}", cut=True)
            return
        if not data:
            self._over(slot, f"ended after {len(slot.got)} bytes of an answer", cut=True)
            return
        slot.got += data
        found = length_of(slot.got)
        if found is None or len(slot.got) < found[1]:
            return
        status, _, closes = found
        slot.got = b""
        if status == 200:
            self.tally.answered += 1
        else:
            self.tally.lost += 1
            self.tally.blame(f"status {status}")
        if self.stopping:
            self._close(slot)
        elif slot.fresh or closes:
            self._close(slot)
            self._connect(slot)
        else:
            self._ask(slot)

    def _over(self, slot: Slot, why: str, *, cut: bool) -> None:
        self.tally.blame(why)
        if cut:
            self.tally.cut += 1
        else:
            self.tally.lost += 1
        self._close(slot)
        if not self.stopping:
            time.sleep(0.001)  # a target that is gone must not be asked a million times
            self._connect(slot)

    def _close(self, slot: Slot) -> None:
        if slot.sock is not None:
            self._slots.pop(slot.sock.fileno(), None)
            slot.sock.close()
            slot.sock = None


def main() -> None:
    """Lines in, lines out, until the input ends."""
    say(ready=True)
    load: Load | None = None
    begun = 0.0
    asked = b""
    while True:
        if select.select([sys.stdin], [], [], 0 if load is not None else None)[0]:
            data = os.read(sys.stdin.fileno(), READ_BYTES)
            if not data:
                return
            asked += data
        line, newline, rest = asked.partition(b"\n")
        if newline:
            asked = rest
            wish = json.loads(line)
            if wish["do"] == "start":
                load, begun = Load(wish["port"]), time.monotonic()
                load.start(wish["keep"], wish["fresh"])
                say(started=True)
            elif load is not None:
                took_s = time.monotonic() - begun
                answered = load.tally.answered
                load.stopping = True
                end = time.monotonic() + END_S
                while load.under_way and time.monotonic() < end:
                    load.turn(0.1)
                say(**attrs.asdict(load.tally), took_s=took_s, rate=answered / took_s, left=load.under_way)
                load = None
        if load is not None:
            end = time.monotonic() + 0.02
            while time.monotonic() < end:
                load.turn(0.02)


if __name__ == "__main__":
    main()
