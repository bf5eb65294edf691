"""Whose turn it is to send what was pulled.  Decisions only: no clock, no socket.

Every service engine can fill this controller's disk and link by itself, so only a few send at once, one pull each, and
when others wait each sends ``TURN_BYTES`` and goes to the end of the line.  So all that take part in a pull get on evenly,
however many they are, and what may be on its way from all of them together is bounded.
"""

from collections import deque
from collections.abc import Iterator

import attrs

from avinet.model.ids import SeId
from avinet.units import MIB

AT_ONCE = 8
"""SEs; with the largest window of a channel, 16 MiB, 128 MiB may be on their way."""
TURN_BYTES = 256 * MIB
"""A second or two of a fast link: a switch costs one round trip."""

Key = tuple[SeId, int]
"""An SE's part in a pull."""


@attrs.frozen
class Go:
    """It is this one's turn."""

    key: Key


@attrs.frozen
class Wait:
    """Its turn is over for now."""

    key: Key


@attrs.define(eq=False)
class PullTurns:
    """All parts that want to send, in the order in which they came."""

    at_once: int = AT_ONCE
    _waiting: deque[Key] = attrs.field(factory=deque, init=False, repr=False)
    _sending: dict[SeId, Key] = attrs.field(factory=dict, init=False, repr=False)
    _taken: dict[SeId, int] = attrs.field(factory=dict, init=False, repr=False)

    def sends(self, key: Key) -> bool:
        """Whether it is its turn."""
        return self._sending.get(key[0]) == key

    def sending(self) -> tuple[Key, ...]:
        """All whose turn it is."""
        return tuple(self._sending.values())

    def want(self, key: Key) -> list[Go | Wait]:
        """It could send."""
        if not self.sends(key) and key not in self._waiting:
            self._waiting.append(key)
        return list(self._next())

    def leave(self, key: Key) -> list[Go | Wait]:
        """It has nothing to send, must not, or cannot."""
        if self.sends(key):
            del self._sending[key[0]]
        elif key in self._waiting:
            self._waiting.remove(key)
        return list(self._next())

    def took(self, key: Key, size: int) -> list[Go | Wait]:
        """It has sent so much."""
        se = key[0]
        if not self.sends(key):
            return []
        self._taken[se] = self._taken.get(se, 0) + size
        if self._taken[se] < TURN_BYTES or not self._someone_waits(se):
            return []
        del self._sending[se]
        self._waiting.append(key)
        return [Wait(key), *self._next()]

    def _someone_waits(self, se: SeId) -> bool:
        return any(other == se or other not in self._sending for other, _ in self._waiting)

    def _next(self) -> Iterator[Go]:
        """Give free places to the first that wait."""
        for key in tuple(self._waiting):
            if len(self._sending) >= self.at_once:
                return
            se = key[0]
            if se not in self._sending:
                self._waiting.remove(key)
                self._sending[se] = key
                self._taken[se] = 0
                yield Go(key)
