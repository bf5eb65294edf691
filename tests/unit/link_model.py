"""A deterministic model of senders behind one bottleneck: a discrete-event simulation for ``BulkGovernor``.

A ``Link`` is one FIFO queue that is served at a rate and followed by a base round trip; nothing is dropped: a full
buffer holds the senders back, as TCP would.  A ``Flow`` is one connection with a governor: it sends whenever its
governor has room, and pings as the governor asks.  Times are seconds, sizes bytes.
"""

import heapq
import random
from collections import deque

from avinet.ssh.governor import BulkGovernor

FOREVER = float("inf")
HEADER = 60
"""Bytes of a ping on the wire, which take their time on the link as well."""


class Flow:
    """A sender with a governor.  ``demand`` is the rate at which its application has bytes (unbounded if None)."""

    def __init__(self, name, *, start=0.0, stop=FOREVER, demand=None, tcp_first=None, answers=True):
        self.name, self.start, self.stop, self.demand = name, start, stop, demand
        self.governor = BulkGovernor()
        self.delivered = 0
        self.answers = answers
        self.offered = 0
        self.last_pong = 0.0
        # What TCP does below us: without tcp_first its window is never in the way.
        self.tcp_window = FOREVER if tcp_first is None else tcp_first
        self.tcp_flight = 0
        self.socket = deque()
        self.pings = 0
        self.most_in_flight = 0
        self.windows = []


class Link:
    """``rate`` bytes/s, ``rtt`` s both ways together, ``buffer`` bytes, ``noise``: a function of a Random to s."""

    def __init__(self, rate, rtt, *, buffer=1 << 20, noise=None, seed=1):
        self.rate, self.rtt, self.buffer = rate, rtt, buffer
        self.noise = noise
        self.random = random.Random(seed)
        self.now = 0.0
        self.flows = []
        self.queues = []
        self.delivered = 0
        self.samples = []
        self._queue = deque()
        self._backlog = 0
        self._done_at = 0.0
        self._busy = False
        self._events = []
        self._order = 0

    def at(self, when, act, *args):
        """Do something later."""
        self._order += 1
        heapq.heappush(self._events, (when, self._order, act, args))

    def add(self, *flows):
        for flow in flows:
            self.flows.append(flow)
            self.at(flow.start, self._pump, flow)
            if flow.demand:
                self.at(flow.start, self._offer, flow)

    def change(self, when, **what):
        """From ``when`` on, another rate or rtt."""
        self.at(when, lambda: [setattr(self, name, value) for name, value in what.items()])

    def watch(self, every, until, since=0.0):
        """Sample the queueing delay that a tiny packet would meet."""
        self.samples = []
        self.at(max(since, self.now), self._sample, every, until)

    def run(self, until):
        while self._events and self._events[0][0] <= until:
            self.now, _, act, args = heapq.heappop(self._events)
            act(*args)
        self.now = until

    @property
    def queue_s(self):
        """How long a byte that joins the queue now waits."""
        return self._backlog / self.rate + (max(self._done_at - self.now, 0.0) if self._busy else 0.0)

    def _sample(self, every, until):
        self.samples.append(self.queue_s)
        if self.now + every <= until:
            self.at(self.now + every, self._sample, every, until)

    def _offer(self, flow):
        """The application has a little more."""
        piece = 8192
        flow.offered += piece
        self._pump(flow)
        self.at(self.now + piece / flow.demand, self._offer, flow)

    def _pump(self, flow):
        governor = flow.governor
        if governor.mark_due(self.now):
            self._ping(flow)
        while flow.start <= self.now < flow.stop:
            size = min(governor.packet_bytes, governor.room)
            if flow.demand:
                size = min(size, flow.offered)
            if not size or sum(item[1] for item in flow.socket) > 128 * 1024:
                break
            flow.offered -= size if flow.demand else 0
            governor.sent(size)
            flow.most_in_flight = max(flow.most_in_flight, governor.in_flight)
            self._write(flow, size)
        if governor.mark_due(self.now, idle=bool(flow.demand and not flow.offered)):
            self._ping(flow)

    def _write(self, flow, size):
        flow.socket.append((flow, size, False))
        if flow.governor.mark_due(self.now):
            self._ping(flow)
        self._transmit(flow)

    def _ping(self, flow):
        flow.governor.mark(self.now)
        flow.pings += 1
        flow.socket.append((flow, HEADER, True))
        self._transmit(flow)

    def _transmit(self, flow):
        """Socket to link, as far as TCP and the buffer let it."""
        while flow.socket and flow.tcp_flight < flow.tcp_window and self._backlog < self.buffer:
            item = flow.socket.popleft()
            flow.tcp_flight += item[1]
            self._queue.append(item)
            self._backlog += item[1]
        if self._queue and not self._busy:
            self._serve()

    def _serve(self):
        item = self._queue.popleft()
        self._backlog -= item[1]
        self._busy = True
        self._done_at = self.now + item[1] / self.rate
        self.at(self._done_at, self._served, item)

    def _served(self, item):
        flow, size, is_ping = item
        self._busy = False
        if self._queue:
            self._serve()
        if not is_ping:
            flow.delivered += size
            self.delivered += size
        self.at(self.now + self.rtt, self._tcp_acked, flow, size)
        if is_ping and flow.answers:
            back = self.now + self.rtt + (self.noise(self.random) if self.noise else 0.0)
            flow.last_pong = max(back, flow.last_pong)
            self.at(flow.last_pong, self._pong, flow)
        for other in self.flows:
            if other.socket:
                self._transmit(other)
                self._pump(other)

    def _tcp_acked(self, flow, size):
        flow.tcp_flight -= size
        if flow.tcp_window < FOREVER:
            flow.tcp_window += size
            self._transmit(flow)
            self._pump(flow)

    def _pong(self, flow):
        flow.governor.acked(self.now)
        self._pump(flow)


def percentile(values, share):
    ordered = sorted(values)
    return ordered[min(int(len(ordered) * share), len(ordered) - 1)]


def jain(rates):
    """Jain's index of fairness: 1 is equal, 1/n is one that has it all."""
    return sum(rates) ** 2 / (len(rates) * sum(rate * rate for rate in rates))
