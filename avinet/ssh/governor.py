"""How much bulk may be on its way to a peer.  Decisions only: no clock, no socket, no timer.

Strict priorities in our own queue do not help a heartbeat when the queue is in the link, so what is on its way (all
governed bytes, over all channels of a connection) is held to the delivery rate times the minimum round-trip time,
plus a queue of 6 to 20 ms.  *Marks* measure it: behind some bytes goes a ping; its pong acknowledges every governed
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
TARGET_LEAST_S = 0.006
"""The queue that a window of ``CEILING_BYTES`` aims at: 1.75 ms an octave, since minima are known to about 1 ms."""
MARKS = 64
"""The most pings without a pong; in practice 16 by bytes and 16 by time."""
MARKS_A_WINDOW = 16
"""A ping for each such part of a window: fine enough that its pong releases no burst worth a queue."""
MARK_AGE_S = 0.005
"""Bytes older than this get a ping even if they are few."""
CHAT_BYTES = 2 * 1024
"""The last bytes before a pause get a ping unless they are so few: a program's small questions would each cost two more
packets to measure nothing.  They are acknowledged with the next ping."""
DRAIN_EVERY_S = 3.0
"""How long the minimum may go unseen; stretched to ``DRAIN_EVERY_RTTS`` on long paths."""
DRAIN_EVERY_RTTS = 60
"""A drain and its refill cost about one round trip of sending: 2 % in simulation, but 8 % on the worst links."""
FIRST_PATIENCE = 0.25
"""Of that time, before the first drain, and doubled by each: a latecomer must learn the truth soon (LEDBAT++)."""
DRAIN_SHARE = 0.5
"""Of rate times minimum, the least during a drain (BBR version 2's choice)."""
DRAIN_DEPTH_S = 0.025
"""On long paths a drain leaves a gap of this length: deeper than the queue, short enough to refill in two rounds."""
REFILL = 0.25
"""Growth for each acknowledged byte after a drain: quicker would put the refill into the queue as one burst."""
CALM_ROUNDS = 6
"""Rounds in a row without a standing queue before the window doubles again: another flow's drain and refill last five."""
NEAR_S = 0.001
"""A round trip within this (and 1/16) of the minimum sees the minimum again."""
SMOOTHING = 1 / 8
"""RFC 6298's alpha."""

YIELD_SHARE = 0.25
"""Of the window when the minimum was last seen: no less is kept when giving up the rest did not shorten the round
trip, since the delay is then the path's, or a latecomer's who knows no better, and not our queue."""
LATE_ROUNDS = 4
"""That many rounds in a row: our own queue would be gone after two."""
LOCAL_S = 0.002
"""Below this minimum the loops of Python at both ends are the noise, so the least of a round is the measure."""

_OCTAVE_S = (TARGET_MOST_S - TARGET_LEAST_S) / math.log2(CEILING_BYTES / FIRST_BYTES)
_LEAST_RTT_S = 1e-6
_STEERING, _DRAINING, _DRAINED, _PROBING = range(4)
"""How far a drain has come: none; the window is down; the queue of ours is gone; the ping of it is on its way."""


class BulkGovernor:
    """The window of one connection in one direction.  ``now`` is monotonic seconds everywhere.

    The sender asks ``room`` before each packet, and ``mark_due`` after each packet and after each pong.
    """

    __slots__ = (
        "_acked",
        "_bucket_at",
        "_calm",
        "_cap",
        "_drain_state",
        "_full",
        "_late",
        "_marked",
        "_marked_at",
        "_marks",
        "_min_new",
        "_min_old",
        "_min_seen_at",
        "_patience",
        "_probe",
        "_refill",
        "_round_at",
        "_round_end",
        "_round_first_at",
        "_round_min",
        "_round_start",
        "_round_was",
        "_seen_window",
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
        self._calm = CALM_ROUNDS
        self._late = 0
        self._patience = FIRST_PATIENCE
        self._cap = 2.0 * FIRST_BYTES
        self._drain_state = _STEERING
        self._probe = self._refill = 0
        self._round_start = self._round_end = 0
        self._round_at = self._round_first_at = 0.0
        self._round_min = self._round_was = math.inf
        """The least round trip of this round, and of the one before."""
        self._seen_window = FIRST_BYTES
        """The window when the minimum was last seen."""

    @property
    def in_flight(self) -> int:
        """Governed bytes that no pong has acknowledged."""
        return self._sent - self._acked

    @property
    def room(self) -> int:
        """Bytes that may be sent now; 0 until a packet worth sending fits (RFC 9293's silly window avoidance)."""
        room = self.window - self._sent + self._acked
        return room if room >= self.packet_bytes or room * 2 > self.window else 0

    @property
    def target_s(self) -> float:
        """The queueing delay that the window aims at."""
        return TARGET_MOST_S - _OCTAVE_S * math.log2(max(self.window / FIRST_BYTES, 1.0))

    @property
    def _every(self) -> float:
        """Seconds between drains."""
        known = self.min_rtt_s if self.min_rtt_s < math.inf else 0.0
        return max(DRAIN_EVERY_S, DRAIN_EVERY_RTTS * known)

    def sent(self, size: int) -> None:
        """Governed bytes were handed to the socket."""
        self._sent += size
        if not self.room:
            self._full = self._sent

    def mark_due(self, now: float, *, idle: bool = False) -> bool:
        """Whether a ping should go out behind what was sent; ``idle`` when nothing more is ready to be sent."""
        if self._marks is not None and len(self._marks) >= MARKS:
            return False
        unmarked = self._sent - self._marked
        if not unmarked:
            return self._drain_state == _DRAINED
        return (
            (idle and (unmarked >= CHAT_BYTES or self._drain_state == _DRAINED))
            or unmarked >= max(self.packet_bytes, self.window // MARKS_A_WINDOW)
            or not self.room
            or now - self._marked_at >= max(MARK_AGE_S, self.rtt_s / MARKS_A_WINDOW)
        )

    def mark(self, now: float) -> None:
        """A ping was written behind everything sent so far."""
        if self._marks is None:
            self._marks = deque()
            self._round_at = now  # a round does not span a time when nothing was on its way
            self._round_start, self._round_end, self._round_min = self._acked, self._sent, math.inf
        flight = self._sent - self._acked
        self._marks.append((self._sent, now, max(self.window, flight)))
        self._marked = self._sent
        self._marked_at = now
        if self._drain_state == _DRAINED:
            self._probe = len(self._marks)  # pongs until its own
            self._drain_state = _PROBING

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
        if self._round_min == math.inf:
            self._round_first_at = now
        self._round_min = min(self._round_min, rtt)
        if self._drain_state != _STEERING:
            self._drain()
        elif self._refill:
            self._fill(size, rtt)
        else:
            self._steer(size, volume, rtt, limited=limited)
        if position >= self._round_end:
            self._turn(now, limited=limited)
        if not self._marks:
            self._marks = None  # an idle connection keeps no deque of 600 bytes

    def _see(self, now: float, rtt: float) -> None:
        """Keep the minimum over two buckets."""
        every = self._every
        if now - self._bucket_at >= every:
            self._min_old = self._min_new if now - self._bucket_at < 2 * every else math.inf
            self._min_new = math.inf
            self._bucket_at = now
        self._min_new = min(self._min_new, rtt)
        self.min_rtt_s = min(self._min_new, self._min_old)
        if rtt <= self.min_rtt_s * (1 + 1 / 16) + NEAR_S:
            self._min_seen_at = now
            self._seen_window = self._refill or self.window

    def _steer(self, size: int, volume: int, rtt: float, *, limited: bool) -> None:
        """Move the window by one acknowledgement of ``size`` bytes."""
        window = self.window
        ceiling = self.min_rtt_s + self.target_s
        if self.min_rtt_s < LOCAL_S and self._round_was < rtt:
            rtt = self._round_was
        if self._calm >= CALM_ROUNDS and limited and rtt < ceiling:
            if window >= self._cap:
                return
            window = int(min(window + size, self._cap))
        else:
            step = (volume * ceiling / rtt - window) * size / volume
            if step > 0 and not limited:
                return
            if step < 0 and self._late > LATE_ROUNDS and window <= self._seen_window * YIELD_SHARE:
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
        if self._drain_state == _STEERING and not self._refill and limited:
            self._judge(now)
        self._round_start = self._acked
        self._round_end = self._sent
        self._round_at = now
        self._round_was, self._round_min = self._round_min, math.inf

    def _judge(self, now: float) -> None:
        """Whether the next round may double the window, and how far; or whether it is time for a drain."""
        target = self.target_s
        if self._round_min - self.min_rtt_s < target / 4:
            self._calm += 1
        else:
            self._calm = 0
        self._late = self._late + 1 if self._round_min > self.min_rtt_s + target * 1.25 else 0
        train = now - self._round_first_at
        self._cap = self.window * max(
            min(2.0, (self.min_rtt_s + target) / train if train > 0 else 2.0), 1 + REFILL
        )
        if now - self._min_seen_at > self._every * self._patience and self.window > FLOOR_BYTES:
            self._refill = self.window
            least = self.min_rtt_s
            share = max(DRAIN_SHARE * least, least - DRAIN_DEPTH_S) / self._round_min
            self.window = max(int(self.window * min(share, 1.0)), FLOOR_BYTES)
            self._drain_state = _DRAINING
            self._patience = min(2 * self._patience, 1.0)
            self._min_seen_at = now
            self._calm = 0

    def _drain(self) -> None:
        """Hold the window down until a ping that left with the queue drained is answered."""
        if self._drain_state == _DRAINING:
            if self._sent - self._acked <= self.window:
                self._drain_state = _DRAINED
        elif self._drain_state == _PROBING:
            self._probe -= 1
            if self._probe == 0:
                self._drain_state = _STEERING

    def _fill(self, size: int, rtt: float) -> None:
        """Go back to the window before the drain."""
        step = size if self.min_rtt_s < LOCAL_S else max(int(size * REFILL), 1)
        self.window = min(self.window + step, self._refill)
        if self.window >= self._refill or (
            self._late <= LATE_ROUNDS and rtt > self.min_rtt_s + self.target_s
        ):
            self._refill = 0

    def _fit_packets(self) -> None:
        """The largest power of two that lasts no longer than ``PACKET_S``."""
        most = int(self.rate_bytes_s * PACKET_S)
        size = 1 << max(most.bit_length() - 1, 0)
        self.packet_bytes = min(max(size, PACKET_LEAST_BYTES), PACKET_MOST_BYTES)
