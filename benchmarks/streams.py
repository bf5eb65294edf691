"""What moves through a forward: plain TCP streams from a process that is at both of its ends.

The far end listens where the forward leads; the near end connects to where the forward listens.  Threads with large
buffers on blocking sockets, since the interpreter's lock is free while the kernel copies: the generator takes less
of a core than either party.  One request a line: ``{"host", "port", "streams", "up", "down", "for_s"}``; ``up`` is
from the near end to the far one.  Answered with what was received a second, once all streams flow.
"""

import argparse
import socket
import sys
import threading
import time

import attrs
import msgspec

from avinet.units import KIB
from benchmarks.processes import say

BUFFER_BYTES = 256 * KIB
WARM_UP_S = 0.3
"""All streams flow, and windows have grown."""
CONNECT_LIMIT_S = 20.0
HELLO = b"ud"
"""What the near end sends first: whether it will send, and whether it wants to receive."""


@attrs.define(eq=False)
class Meter:
    """Bytes received, by stream."""

    counts: list[int] = attrs.field(factory=list)

    def receive(self, one: socket.socket) -> None:
        """Until the end."""
        buffer, at = bytearray(BUFFER_BYTES), len(self.counts)
        self.counts.append(0)
        try:
            while count := one.recv_into(buffer):
                self.counts[at] += count
        except OSError:
            return

    @property
    def total(self) -> int:
        """Of all."""
        return sum(self.counts)


def send(one: socket.socket) -> None:
    """Until the other end is gone."""
    data = bytes(BUFFER_BYTES)
    try:
        while True:
            one.sendall(data)
    except OSError:
        return


def thread(work: object, *arguments: object) -> None:
    """Ends with its socket, or with the process."""
    threading.Thread(target=work, args=arguments, daemon=True).start()  # type: ignore[arg-type]  # a function


@attrs.define(eq=False)
class Streams:
    """Both ends."""

    listening: socket.socket
    meter: Meter = attrs.field(factory=Meter, init=False)
    _far: list[socket.socket] = attrs.field(factory=list, init=False)

    def serve(self) -> None:
        """The far end."""
        while True:
            one = self.listening.accept()[0]
            self._far.append(one)
            thread(self._begin, one)

    def _begin(self, one: socket.socket) -> None:
        hello = one.recv(len(HELLO), socket.MSG_WAITALL)
        # Our byte tells the near end that this stream is open all the way.
        one.sendall(b"!")
        if hello[:1] == b"u":
            thread(self.meter.receive, one)
        if hello[1:] == b"d":
            send(one)

    def run(self, *, host: str, port: int, streams: int, up: bool, down: bool, for_s: float) -> float:
        """Bytes a second."""
        self.meter, self._far = Meter(), []
        hello = (b"u" if up else b"-") + (b"d" if down else b"-")
        near = [socket.create_connection((host, port), CONNECT_LIMIT_S) for _ in range(streams)]
        for one in near:
            one.sendall(hello)
        for one in near:
            if one.recv(1) != b"!":
                raise ConnectionError("a stream did not get through the forward")
            one.settimeout(None)
            if up:
                thread(send, one)
            if down:
                thread(self.meter.receive, one)
        time.sleep(WARM_UP_S)
        before, begun = self.meter.total, time.monotonic()
        time.sleep(for_s)
        moved, took_s = self.meter.total - before, time.monotonic() - begun
        for one in (*near, *self._far):
            # Also wakes the threads that wait in it, which a close would not.
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
        for one in (*near, *self._far):
            one.close()
        return moved / took_s


def main() -> None:
    """As said above."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        streams = Streams(listening)
        thread(streams.serve)
        say(ready=listening.getsockname()[1])
        for line in sys.stdin:
            try:
                say(bytes_s=streams.run(**msgspec.json.decode(line)))
            except OSError as why:
                say(failed=str(why))


if __name__ == "__main__":
    main()
