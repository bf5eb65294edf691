"""Two links joined by a line with a rate, a delay and a queue: what a pipe without time cannot show."""

import math
from collections import deque

from tests.unit.ssh_pipe import Pipe, PipeEnd

TICK_S = 0.001


class LineEnd(PipeEnd):
    """What is written leaves at ``rate`` (bytes/s) through a queue without bound, and arrives ``delay_s`` later."""

    rate = math.inf
    delay_s = 0.035
    clock = None

    def __init__(self, host, port):
        super().__init__(host, port)
        self.line = deque()
        self.free_at = 0.0
        self.worst_queue_s = 0.0

    def leave(self):
        """The socket's bytes go into the line's queue; whoever waits for that goes on."""
        while self.sent:
            data = bytes(self.sent)
            self.sent.clear()
            now = self.clock.seconds()
            self.free_at = max(self.free_at, now) + len(data) / self.rate
            self.worst_queue_s = max(self.worst_queue_s, self.free_at - now)
            self.line.append((self.free_at + self.delay_s, data))
            if self.producer is not None:
                self.producer.resumeProducing()

    def arrive(self):
        while self.line and self.line[0][0] <= self.clock.seconds():
            _, data = self.line.popleft()
            for at in range(0, len(data), 65536):
                if not self.peer.disconnecting:
                    self.peer.protocol.dataReceived(data[at : at + 65536])


def stretch(pipe: Pipe, rate=math.inf, delay_s=0.035):
    """Make a line of a pipe that is at rest; ``run`` it from then on."""
    for end in (pipe.client_end, pipe.server_end):
        end.__class__ = LineEnd
        end.line, end.free_at, end.worst_queue_s = deque(), 0.0, 0.0
        end.rate, end.delay_s, end.clock = rate, delay_s, pipe.clock


def run(pipe: Pipe, seconds, until=lambda: False, tick_s=TICK_S):
    """Let time pass."""
    for _ in range(int(seconds / tick_s)):
        for end in (pipe.client_end, pipe.server_end):
            end.leave()
        pipe.clock.advance(tick_s)
        for end in (pipe.client_end, pipe.server_end):
            end.arrive()
        if until():
            return
