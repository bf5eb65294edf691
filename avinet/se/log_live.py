"""What is pushed: significant segments as they come, what was lost, and what the spool keeps."""

from collections.abc import Callable
from typing import ClassVar

import attrs

from avinet.logs.reach import Reach, Sendable
from avinet.model.logs import Drop, LogClass, Selection
from avinet.se.log_channel import LogChannel
from avinet.se.log_outgoing import Outgoing
from avinet.wire.log_messages import MAX_DROPS, Dropped, DroppedAck, LogMessage, LogWelcome, SpoolStatus

STATUS_INTERVAL_S = 10.0
"""Between looks at what is kept and lost; an operator who watches sees it move."""
ASKED = 1000
"""Heads at once: what may wait, what may lack an answer, and some that other channels send."""
SIGNIFICANT = Selection(classes=(LogClass.SIGNIFICANT,))


@attrs.define(eq=False)
class LiveLogs(Outgoing):
    """Significant segments as they come, what was lost, and what is kept."""

    shared: ClassVar[bool] = True
    _told: SpoolStatus | None = attrs.field(default=None, init=False)
    _position: int = attrs.field(default=0, init=False)
    _telling: bool = attrs.field(default=False, init=False)
    """A ``Dropped`` has no answer yet."""

    def begin(self, welcome: LogWelcome) -> None:
        """Send what there is."""
        self._position = welcome.drops_position
        self.source.owners.watch(self, self._owners_changed)
        self.held()
        self.new_segments()
        self._status()

    def new_segments(self) -> None:
        """There are new significant ones."""
        if self.channel is not None:
            self.segments_wanted(self.channel)

    def held(self) -> None:
        """What is shared out goes to who takes it."""
        if self.channel is None or self.channel.sending.held or not self._store.id:
            self.source.owners.gone(self)
        else:
            self.source.owners.ready(self, self.controller)

    def channel_lost(self, channel: LogChannel, why: str) -> None:
        """Others are sent what it would have been."""
        self.source.owners.unwatch(self)
        super().channel_lost(channel, why)
        self.source.owners.gone(self)
        self.source.owners.freed()

    def _owners_changed(self) -> None:
        """What waits for this controller and is not pinned to it may be another one's."""
        if self.channel is not None:
            reach = self.reach()
            self._release(
                self.channel.sending.withdraw(lambda transfer: not reach.owns(transfer.head.service))
            )
            self.new_segments()
            self.channel.wake()

    def question(self, channel: LogChannel) -> "Callable[[], _Look]":
        """The oldest; of those that are under way already there are fewer."""
        reach = self.reach(sure=self.unsure)
        return lambda: _Look(reach, self.source.spool.sendable(SIGNIFICANT, None, 0, ASKED, reach))

    def found(self, channel: LogChannel, result: "_Look") -> bool:
        """Those that fit."""
        if result.reach != self.reach(sure=self.unsure):
            return True
        self.hold(channel.sending.add(self.free(result.segments)[: channel.sending.room]))
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


@attrs.frozen
class _Look:
    """What was found, and for which reach."""

    reach: Reach
    segments: list[Sendable]
