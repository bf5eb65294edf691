"""Which controllers there are for logs, which store each has, and among whom what is pushed is shared out.

A controller counts from when its channel is welcomed and takes what is sent, but for one that comes to others that do: that
one counts after a while, so that a flapping one does not move half of all virtual services each time.  One that goes, or
holds, moves its own at once.
"""

from collections.abc import Callable, Collection

import attrs
from twisted.internet.interfaces import IDelayedCall, IReactorTime

from avinet.logs.reach import LogStore, Reach
from avinet.model.ids import ControllerName

SETTLE_S = 5.0
"""Channels that are cut at once are so within a round trip or two; a reconnect takes no less than a second."""


@attrs.define(eq=False)
class LogOwners:
    """Of one SE.  ``reach`` is for any thread."""

    clock: IReactorTime
    _listed: frozenset[ControllerName] | None = attrs.field(default=None, init=False)
    _said: dict[ControllerName, str] = attrs.field(factory=dict, init=False)
    """Stores; a new dict each time."""
    _ready: dict[object, ControllerName] = attrs.field(factory=dict, init=False, repr=False)
    """By whoever has the channel."""
    _settling: dict[ControllerName, IDelayedCall] = attrs.field(factory=dict, init=False, repr=False)
    _owners: tuple[ControllerName, ...] = attrs.field(default=(), init=False)
    _watchers: dict[object, Callable[[], None]] = attrs.field(factory=dict, init=False, repr=False)

    def list(self, names: Collection[ControllerName]) -> None:
        """The membership list is this one: pins to controllers that are not in it end."""
        listed = frozenset(names)
        if listed != self._listed:
            self._listed = listed
            self._changed()

    def welcomed(self, store: LogStore) -> None:
        """It says which store it has: pins to others of the same controller end."""
        if self._said.get(store.controller) != store.id:
            self._said = {**self._said, store.controller: store.id}
            self._changed()

    def ready(self, channel: object, name: ControllerName) -> None:
        """The controller takes what is pushed on this channel."""
        there = name in self._ready.values()
        self._ready[channel] = name
        if there:
            return
        if self._owners:
            self._settling[name] = self.clock.callLater(SETTLE_S, self._settled, name)
        else:
            self._own((name,))

    def gone(self, channel: object) -> None:
        """Not any more."""
        name = self._ready.pop(channel, None)
        if name is None or name in self._ready.values():
            return
        timer = self._settling.pop(name, None)
        if timer is not None:
            timer.cancel()
            return
        left = [one for one in self._owners if one != name]
        if not left:
            left = [*self._settling]
            self._cancel()
        self._own(left)

    def takes(self, name: ControllerName) -> bool:
        """Whether the controller takes what is pushed."""
        return name in self._ready.values()

    def stop(self) -> None:
        """Nothing changes any more."""
        self._watchers.clear()
        self._cancel()

    def watch(self, key: object, call: Callable[[], None]) -> None:
        """Call it when somebody may be sent other things than before."""
        self._watchers[key] = call

    def unwatch(self, key: object) -> None:
        """Not any more."""
        self._watchers.pop(key, None)

    def reach(self, store: LogStore, *, shared: bool, sure: bool = False) -> Reach:
        """What a controller may be sent now, of what is ``shared`` out or of what it has asked for."""
        return Reach(store, self._listed, self._said, self._owners if shared else None, sure)

    def freed(self) -> None:
        """Segments are free that somebody was about to send."""
        self._changed()

    def _settled(self, name: ControllerName) -> None:
        del self._settling[name]
        self._own([*self._owners, name])

    def _own(self, names: Collection[ControllerName]) -> None:
        owners = tuple(sorted(names))
        if owners != self._owners:
            self._owners = owners
            self._changed()

    def _cancel(self) -> None:
        for timer in self._settling.values():
            timer.cancel()
        self._settling.clear()

    def _changed(self) -> None:
        for call in tuple(self._watchers.values()):
            call()
