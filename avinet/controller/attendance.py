"""Which SEs are up as all controllers together see them: one that a single controller misses is not down.

Each controller publishes the SEs that are up with it (``avinet.controller.peers``), and hears what the others publish.  An
SE is up while any live controller has it.  With the last that says it has lost the SE, that is down at once, since that
controller has counted its heartbeats.  When a controller itself is lost, the SEs that only it had get as long to come to
another.  One that is missed here and seen elsewhere is a warning.

A controller that is alone hears what its own sessions say, and nothing else.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.controller.listeners import Listeners
from avinet.controller.peers import PeerListener, Peers
from avinet.controller.sessions import SessionListener
from avinet.model.ids import ControllerName, SeId

KEY = "se/"
"""What a controller publishes of each SE that is up with it begins so; its UUID follows."""


class AttendanceListener:
    """Base of those who want to know; every method may be left out.  A listener that raises is logged."""

    def up(self, se: SeId) -> None:
        """No controller had it, and one has it now."""

    def down(self, se: SeId, why: str) -> None:
        """No controller has it any more."""

    def partly(self, se: SeId, why: str, elsewhere: tuple[ControllerName, ...]) -> None:
        """This controller has lost it, or waited for it in vain; those others have it."""

    def whole(self, se: SeId) -> None:
        """After ``partly``: it is here again, or down."""


@attrs.define(eq=False)
class Attendance(SessionListener, PeerListener):
    """``expect`` is ``Sessions.expect``: count an SE that others have, and say ``down`` unless it comes here too."""

    peers: Peers
    clock: IReactorTime
    patience_s: float
    """For those that only a lost controller had, to come to another: as long as the heartbeats allow."""
    expect: Callable[[Iterable[SeId]], None]
    _here: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    _there: dict[ControllerName, set[SeId]] = attrs.field(factory=dict, init=False, repr=False)
    """What live controllers say."""
    _up: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    _partly: set[SeId] = attrs.field(factory=set, init=False, repr=False)
    _counts: dict[ControllerName, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    """By the controller that was lost."""
    _listeners: Listeners[AttendanceListener] = attrs.field(
        factory=lambda: Listeners("the attendance"), init=False, repr=False
    )

    def start(self) -> None:
        """Hear the others."""
        self.peers.listen(self)

    def stop(self) -> None:
        """Count no more."""
        for count in self._counts.values():
            count.cancel()
        self._counts.clear()

    def listen(self, listener: AttendanceListener) -> None:
        """Tell ``listener`` from now on, after those added before it."""
        self._listeners.add(listener)

    # What is asked

    def is_up(self, se: SeId) -> bool:
        """Whether any controller has it."""
        return se in self._up

    def elsewhere(self, se: SeId) -> tuple[ControllerName, ...]:
        """The other controllers that have it, by name."""
        return tuple(sorted(name for name, there in self._there.items() if se in there))

    # What this controller's sessions say

    def up(self, se: SeId) -> None:
        """It is here."""
        self._here.add(se)
        self.peers.publish(KEY + se, True)
        self._come(se)
        self._be_whole(se)

    def down(self, se: SeId, why: str) -> None:
        """It is not here, or was waited for in vain."""
        self._here.discard(se)
        self.peers.publish(KEY + se, None)
        elsewhere = self.elsewhere(se)
        if not elsewhere:
            self._go(se, why)
        elif se not in self._partly:
            self._partly.add(se)
            self._listeners.tell(lambda listener: listener.partly(se, why, elsewhere))

    # What others say

    def peer_up(self, name: ControllerName) -> None:
        """It has said nothing yet."""
        self._there[name] = set()

    def peer_said(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """SEs that came to it, or that it lost."""
        there = self._there.setdefault(name, set())
        come: list[SeId] = []
        for key, value in changes.items():
            if not key.startswith(KEY):
                continue
            se = SeId(key.removeprefix(KEY))
            if value is not None:
                there.add(se)
                come.append(se)
            elif se in there:
                there.discard(se)
                self._gone_from(name, se)
        for se in come:
            self._come(se)
        self.expect(se for se in come if se not in self._here and se not in self._partly)

    def _gone_from(self, name: ControllerName, se: SeId) -> None:
        if se not in self._here and not self.elsewhere(se):
            self._go(se, f"controller {name} has lost it, and no other has it")

    def peer_down(self, name: ControllerName, why: str) -> None:
        """Those that only it had may come to another yet."""
        lost = self._there.pop(name, set())
        if not any(se not in self._here and not self.elsewhere(se) for se in lost):
            return
        before = self._counts.pop(name, None)
        if before is not None:
            before.cancel()
        self._counts[name] = self.clock.callLater(self.patience_s, self._count_over, name)

    def _count_over(self, name: ControllerName) -> None:
        """Nobody that is up without a controller may still be waited for, unless for another one that was lost later."""
        del self._counts[name]
        if self._counts:
            return
        for se in [one for one in self._up if one not in self._here and not self.elsewhere(one)]:
            self._go(se, f"it was with controller {name}, which is lost, and came to no other")

    # Inside

    def _come(self, se: SeId) -> None:
        if se not in self._up:
            self._up.add(se)
            self._listeners.tell(lambda listener: listener.up(se))

    def _go(self, se: SeId, why: str) -> None:
        self._up.discard(se)
        self._be_whole(se)
        self._listeners.tell(lambda listener: listener.down(se, why))

    def _be_whole(self, se: SeId) -> None:
        if se in self._partly:
            self._partly.discard(se)
            self._listeners.tell(lambda listener: listener.whole(se))
