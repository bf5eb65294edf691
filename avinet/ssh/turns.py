"""Channels of one connection take turns at its link.

``pump`` lets the scheduler say whose packet is next as long as the link takes any, and holds everything but control
traffic to what the governor allows on its way.  The pings that measure this are here too: one after data that was sent
says that it has arrived, one after data that came says how much comes in a round trip, and so how large that channel's
window should be.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from avinet.ssh.exchange import MSG_PING
from avinet.ssh.fields import malformed, string
from avinet.ssh.governor import BulkGovernor
from avinet.ssh.memory import ConnectionMemory
from avinet.ssh.scheduler import Priority, Scheduler

if TYPE_CHECKING:
    from avinet.ssh.channel import ChannelTransport

PING = string(b"")
_GROWTH_SHARE = 3
"""A window of which a third is taken in a round trip doubles: with credit by halves it is what holds the sender up."""
_PROBE_SHARE = 4
"""A window is tried for growth after each quarter of it that came."""


class Turns:
    """Of one connection.  ``link`` is set once it is known; ``ask`` sends a question that every peer answers in order."""

    __slots__ = (
        "_ask",
        "_memory",
        "_pings",
        "_probing",
        "_pumping",
        "governor",
        "learned_window",
        "link",
        "scheduler",
    )

    def __init__(self, memory: ConnectionMemory, ask: Callable[[], None]) -> None:
        self.link: Any = None
        self.scheduler = Scheduler()
        self.governor = BulkGovernor()
        self.learned_window = 0
        """That of the channel that grew last: new ones begin with it."""
        self._memory = memory
        self._ask = ask
        self._pumping = False
        self._pings: deque[tuple[ChannelTransport, int] | None] = deque()
        """What each ping under way is for: a channel's window and what that had received, or the governor."""
        self._probing = False

    def pump(self) -> None:
        """Send whatever may be sent now, most urgent first."""
        if self._pumping:
            return
        self._pumping = True
        link, scheduler, governor = self.link, self.scheduler, self.governor
        try:
            if governor.in_flight:
                self._mark(idle=False)
            while link.writable:
                channel = scheduler.next(governed=governor.room > 0)
                if channel is None:
                    break
                if channel.priority == Priority.CONTROL:
                    scheduler.sent(channel, channel.take_turn(link.most_data))  # type: ignore[attr-defined]  # a channel
                else:
                    size = channel.take_turn(min(governor.packet_bytes, governor.room))  # type: ignore[attr-defined]  # a channel
                    scheduler.sent(channel, size)
                    governor.sent(size)
                    link.fit_packets(governor.packet_bytes)
                    self._mark(idle=False)
            if governor.in_flight:
                self._mark(idle=not len(scheduler))
        finally:
            self._pumping = False

    def _mark(self, *, idle: bool) -> None:
        """Have what was sent so far acknowledged, if it is time."""
        now = self.link.clock.seconds()
        if self.link.writable and self.governor.mark_due(now, idle=idle):
            self._ping(None)
            self.governor.mark(now)

    def received(self, channel: "ChannelTransport") -> None:
        """Data has come for ``channel``: see how much of its window a round trip takes, unless that is known."""
        if self._probing or channel.localWindowSize >= channel.max_window or not self.link.writable:
            return
        incoming = channel.incoming
        if (incoming.received - incoming.probed) * _PROBE_SHARE > channel.localWindowSize:
            self._probing = True
            incoming.probed = incoming.received
            self._ping((channel, incoming.received))

    def _ping(self, purpose: "tuple[ChannelTransport, int] | None") -> None:
        self._pings.append(purpose)
        if self.link.peer_pings:
            self.link.sendPacket(MSG_PING, PING)
        else:
            self._ask()

    def answered(self) -> None:
        """The oldest ping is: everything sent before it has arrived."""
        if not self._pings:
            raise malformed("it answers a ping that was not sent")
        purpose = self._pings.popleft()
        if purpose is None:
            self.governor.acked(self.link.clock.seconds())
            self.pump()
            return
        self._probing = False
        channel, before = purpose
        taken = channel.incoming.received - before
        if taken * _GROWTH_SHARE > channel.localWindowSize and channel.connected and not self._memory.pressed:
            self.learned_window = min(2 * channel.localWindowSize, channel.max_window)
            channel.incoming.grow_window(self.learned_window)
