"""How much bulk may be on its way to a peer.  Decisions only: no clock, no socket, no timer.

Strict priorities in our own queue do not help a heartbeat when the queue is in the link, so what is on its way (all
governed bytes, over all channels of a connection) is held to the delivery rate times the minimum round-trip time,
plus a queue of 10 to 20 ms.  *Marks* measure it: behind some bytes goes a ping; its pong acknowledges every governed
byte before it and gives a round-trip time that has everything in it: our socket, the link, the peer's loop.

The law is FAST TCP's (Jin, Wei, Low 2004) with Swift's target (Kumar et al. 2020, section 3): each pong moves the
window, by the share of it that was acknowledged, towards ``volume x (minimum + target) / round trip``, where
``volume`` is what was on its way when the ping left.  ``volume / round trip`` *is* the rate of delivery, so on a full
link the goal does not depend on the window, and the loop does not swing although it learns a round trip late.  The
target shrinks as the window grows, and so flows that share a queue come to equal windows.

As long as a whole round shows no standing queue the window doubles per round trip, but not far past what the spacing
of that round's pongs says the link can carry (HyStart's ack train, Ha and Rhee 2011, as a bound and not as an exit).
When the minimum has not been seen for a while the window is drained below the rate times the minimum for one round
trip (BBR's ProbeRTT, LEDBAT++'s slowdown), so that a flow that came late, or whose route changed, learns the truth.
``docs/decisions/0016-bulk-governor.md`` has the figures of the simulation.
"""

import math
from collections import deque

from avinet.ssh.fields import malformed

FLOOR_BYTES = 32 * 1024
"""The least window: two of the smallest packets, so that one is on the link while the other's pong returns."""
FIRST_BYTES = 128 * 1024
"""The window before anything is known: 10 ms of 100 Mbit/s."""
CEILING_BYTES = 32 * 1024 * 1024
"""The largest window: 20 ms of 1.6 GB/s, or 70 ms of 3.8 Gbit/s; it bounds what a silent peer can hold."""
PACKET_LEAST_BYTES = 16 * 1024
PACKET_FIRST_BYTES = 32 * 1024
PACKET_MOST_BYTES = 256 * 1024
PACKET_S = 0.005
"""A control packet waits for at most one data packet of this long (issue 3)."""
TARGET_MOST_S = 0.020
"""The queue that a window of up to ``FIRST_BYTES`` aims at (DESIGN 4)."""
TARGET_LEAST_S = 0.008
"""The queue that a window of ``CEILING_BYTES`` aims at; more than a busy Python loop's noise."""
MARKS = 64
"""The most pings without a pong; in practice 16 by bytes and 16 by time."""
MARKS_A_WINDOW = 16
"""A ping for each such part of a window: fine enough that its pong releases no burst worth a queue."""
MARK_AGE_S = 0.005
"""Bytes older than this get a ping even if they are few."""
DRAIN_EVERY_S = 3.0
"""How long the minimum may go unseen; stretched to ``DRAIN_EVERY_RTTS`` on long paths."""
DRAIN_EVERY_RTTS = 60
"""A drain costs about half a round trip of sending: 1 % at most."""
DRAIN_SHARE = 0.5
"""Of rate times minimum, the least during a drain (BBR version 2's choice)."""
DRAIN_DEPTH_S = 0.025
"""On long paths a drain leaves a gap of this length: deeper than the queue, short enough to refill in two rounds."""
REFILL = 0.25
"""Growth for each acknowledged byte after a drain: quicker would put the refill into the queue as one burst."""
CALM_ROUNDS = 3
"""Rounds in a row without a standing queue before the window doubles again: another flow's drain lasts two."""
NEAR_S = 0.001
"""A round trip within this (and 1/16) of the minimum sees the minimum again."""
SMOOTHING = 1 / 8
"""RFC 6298's alpha."""

_OCTAVE_S = (TARGET_MOST_S - TARGET_LEAST_S) / math.log2(CEILING_BYTES / FIRST_BYTES)
_LEAST_RTT_S = 1e-6


class BulkGovernor:
    """The window of one connection in one direction.  ``now`` is monotonic seconds everywhere.

    The sender asks ``room`` before each packet, and ``mark_due`` after each packet and after each pong.
    """

    __slots__ = (
        "_acked",
        "_bucket_at",
        "_cap",
        "_drained",
        "_fast",
        "_full",
        "_kept",
        "_marked",
        "_marked_at",
        "_marks",
        "_min_new",
        "_min_old",
        "_min_seen_at",
        "_round_at",
        "_round_end",
        "_round_first",
        "_round_first_at",
        "_round_min",
        "_round_start",
        "_sent",
        "min_rtt_s",
        "packet_bytes",
        "rate_bytes_s",
        "rtt_s",
        "window",
    )

    def __init__(self) -> None:
        self.window = FIRST_BYTES
        self.packet_bytes = PACKET_FIRST_BYTES
        self.min_rtt_s = math.inf
        self.rtt_s = 0.0
        self.rate_bytes_s = 0.0
        self._sent = self._acked = self._marked = 0
        self._marked_at = 0.0
        self._full = -1
        self._marks: deque[tuple[int, float, int]] | None = None
        self._min_new = self._min_old = math.inf
        self._min_seen_at = self._bucket_at = 0.0
        self._fast = True
        self._cap = float(CEILING_BYTES)
        self._kept = 0.0
        self._drained = -1
        self._round_start = self._round_end = self._round_first = 0
        self._round_at = self._round_first_at = 0.0
        self._round_min = math.inf

    @property
    def in_flight(self) -> int:
        """Governed bytes that no pong has acknowledged."""
        return self._sent - self._acked

    @property
    def room(self) -> int:
        """Bytes that may be sent now."""
        room = self.window - self._sent + self._acked
        return room if room > 0 else 0

    @property
    def target_s(self) -> float:
        """The queueing delay that the window aims at."""
        return TARGET_MOST_S - _OCTAVE_S * math.log2(max(self.window / FIRST_BYTES, 1.0))

    def sent(self, size: int) -> None:
        """Governed bytes were handed to the socket."""
        self._sent += size
        if self._sent - self._acked >= self.window:
            self._full = self._sent

    def mark_due(self, now: float, *, idle: bool = False) -> bool:
        """Whether a ping should go out behind what was sent; ``idle`` when nothing more is ready to be sent."""
        unmarked = self._sent - self._marked
        if not unmarked or (self._marks is not None and len(self._marks) >= MARKS):
            return False
        return (
            idle
            or unmarked >= max(self.packet_bytes, self.window // MARKS_A_WINDOW)
            or self._sent - self._acked >= self.window
            or now - self._marked_at >= max(MARK_AGE_S, self.rtt_s / MARKS_A_WINDOW)
        )

    def mark(self, now: float) -> None:
        """A ping was written behind everything sent so far."""
        if self._marks is None:
            self._marks = deque()
        flight = self._sent - self._acked
        self._marks.append((self._sent, now, flight if flight > self.window else self.window))
        self._marked = self._sent
        self._marked_at = now

    def acked(self, now: float) -> None:
        """The pong of the oldest mark came; one for which there is no mark is the peer's fault."""
        if not self._marks:
            raise malformed("it answers a ping that was not sent")
        position, at, volume = self._marks.popleft()
        size = position - self._acked
        limited = self._full >= self._acked
        rtt = max(now - at, _LEAST_RTT_S)
        self._acked = position
        self.rtt_s += (rtt - self.rtt_s) * (SMOOTHING if self.rtt_s else 1.0)
        self._see(now, rtt)
        if rtt < self._round_min:
            self._round_min = rtt
        if self._kept:
            self._drain(position)
        else:
            self._steer(size, volume, rtt, limited=limited)
        if position >= self._round_end:
            self._turn(now, limited=limited)
        if not self._marks:
            self._marks = None

    def rtt_sample(self, now: float, rtt_s: float) -> None:
        """A round trip known from elsewhere, as a heartbeat's: only the minimum learns from it."""
        self._see(now, max(rtt_s, _LEAST_RTT_S))

    def _see(self, now: float, rtt: float) -> None:
        """Keep the minimum over two buckets."""
        every = max(DRAIN_EVERY_S, DRAIN_EVERY_RTTS * self.rtt_s)
        if now - self._bucket_at >= every:
            self._min_old = self._min_new if now - self._bucket_at < 2 * every else math.inf
            self._min_new = math.inf
            self._bucket_at = now
        if rtt < self._min_new:
            self._min_new = rtt
        self.min_rtt_s = min(self._min_new, self._min_old)
        if rtt <= self.min_rtt_s * (1 + 1 / 16) + NEAR_S:
            self._min_seen_at = now

    def _steer(self, size: int, volume: int, rtt: float, *, limited: bool) -> None:
        """Move the window by one acknowledgement of ``size`` bytes."""
        window = self.window
        ceiling = self.min_rtt_s + self.target_s
        if self._fast and limited and rtt < ceiling and window < self._cap:
            window = int(min(window + size, self._cap))
        else:
            goal = volume * ceiling / rtt
            step = (goal - window) * size / volume
            if step > 0 and not limited:
                return
            window += int(min(step, size))
        self.window = min(max(window, FLOOR_BYTES), CEILING_BYTES)

    def _turn(self, now: float, *, limited: bool) -> None:
        """A round ended: everything that was on its way at its start is acknowledged."""
        delivered, took = self._acked - self._round_start, now - self._round_at
        if self._round_at and took > 0:
            rate = delivered / took
            if limited or rate > self.rate_bytes_s:
                self.rate_bytes_s = rate if not self.rate_bytes_s else (self.rate_bytes_s + rate) / 2
                self._fit_packets()
        target = self.target_s
        if not self._kept:
            self._fast = limited and self._round_min - self.min_rtt_s < target / 4
            self._cap = 2.0 * self.window
            if (
                limited
                and self.window > FLOOR_BYTES
                and now - self._min_seen_at > max(DRAIN_EVERY_S, DRAIN_EVERY_RTTS * self.rtt_s)
            ):
                self._kept = float(self.window)
                share = DRAIN_SHARE * self.min_rtt_s / max(self._round_min, self.min_rtt_s)
                self.window = max(int(self.window * share), FLOOR_BYTES)
                self._drained = -1
                self._min_seen_at = now
        self._round_start = self._acked
        self._round_end = self._sent
        self._round_at = now
        self._round_min = math.inf

    def _drain(self, position: int) -> None:
        """Hold the window down until a mark that was sent with a drained queue is back."""
        if self._drained < 0:
            if self._sent - position <= self.window:
                self._drained = self._sent
        elif position > self._drained:
            self._fast, self._cap = True, self._kept
            self._kept = 0.0

    def _fit_packets(self) -> None:
        """The largest power of two that lasts no longer than ``PACKET_S``."""
        most = int(self.rate_bytes_s * PACKET_S)
        size = 1 << max(most.bit_length() - 1, 0)
        self.packet_bytes = min(max(size, PACKET_LEAST_BYTES), PACKET_MOST_BYTES)
