"""What is pushed: significant segments as they come, what was lost, and what the spool keeps."""

from collections.abc import Callable
from functools import partial

import attrs

from avinet.model.logs import Drop, LogClass, SegmentHead, Selection
from avinet.se.log_channel import LogChannel
from avinet.se.log_sources import Outgoing
from avinet.wire.log_messages import MAX_DROPS, Dropped, DroppedAck, LogMessage, LogWelcome, SpoolStatus

STATUS_INTERVAL_S = 10.0
"""Between looks at what is kept and lost; an operator who watches sees it move."""
ASKED = 1000
"""Heads at once: what may wait, what may lack an answer, and some that other channels send."""
SIGNIFICANT = Selection(classes=(LogClass.SIGNIFICANT,))


@attrs.define(eq=False)
class LiveLogs(Outgoing):
    """Significant segments as they come, what was lost, and what is kept."""

    _told: SpoolStatus | None = attrs.field(default=None, init=False)
    _position: int = attrs.field(default=0, init=False)
    _telling: bool = attrs.field(default=False, init=False)
    """A ``Dropped`` has no answer yet."""

    def begin(self, welcome: LogWelcome) -> None:
        """Send what there is."""
        self._position = welcome.drops_position
        self.new_segments()
        self._status()

    def new_segments(self) -> None:
        """There are new significant ones."""
        if self.channel is not None:
            self.segments_wanted(self.channel)

    def question(self, channel: LogChannel) -> Callable[[], list[SegmentHead]]:
        """The oldest; of those that are under way already there are fewer."""
        return partial(self.source.spool.pending, SIGNIFICANT, None, 0, ASKED)

    def found(self, channel: LogChannel, result: list[SegmentHead]) -> bool:
        """Those that fit."""
        self.hold(channel.sending.add(self.free(result)[: channel.sending.room]))
        return False

    def told(self, channel: LogChannel, message: LogMessage) -> None:
        """That drops are known."""
        if isinstance(message, DroppedAck) and self._telling:
            self._telling = False
            self._position = max(self._position, message.position)
            self._tell_drops()

    def _status(self) -> None:
        def read() -> SpoolStatus:
            return SpoolStatus(totals=self.source.spool.totals(), below=self.lowest())

        def send(status: SpoolStatus) -> None:
            if status != self._told:
                self._told = status
                self.say(status)
            self.timers.later("status", STATUS_INTERVAL_S, self._status)

        self.timers.cancel("status")
        self.blocking(read).addCallback(send).addErrback(self.failed)
        self._tell_drops()

    def _tell_drops(self) -> None:
        if self._telling:
            return
        self._telling = True

        def send(found: tuple[tuple[Drop, ...], int]) -> None:
            drops, position = found
            if not drops:
                self._telling = False
                return
            self.say(Dropped(incarnation=self.source.spool.incarnation, position=position, drops=drops))

        looking = self.blocking(self.source.spool.drops_since, self._position, MAX_DROPS)
        looking.addCallback(send).addErrback(self.failed)
