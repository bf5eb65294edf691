"""Which channel of a connection may send the next packet.  Decisions only: no clock, no socket.

Classes are strict (DESIGN 4): a packet of a higher class goes first, always.  Within a class the ring of ready
senders is served by deficit round robin (Shreedhar and Varghese 1995), so that shares are counted in bytes and a
channel of small packets gets as much as one of large ones.  The size of a packet is known only once it has been sent,
so a turn may be overdrawn by one packet, which the next turn pays; the quantum of a class is its largest packet, so
every debt is paid by one turn and ``next`` never searches.

Strictness alone would let logs starve, so there is a floor: each governed byte earns every non-empty class below its
own a sixteenth of a byte, and a class that has earned something goes before its betters and pays for its packet.
CONTROL is outside of that: it goes first, earns nobody a floor, and alone may go when the governor has no room.

Rings are doubly linked lists through an entry a ready sender.  An entry is reused, so that a channel that is ready
for one packet at a time allocates nothing, and an idle connection keeps half a KiB.
"""

import enum
from typing import Protocol


class Priority(enum.IntEnum):
    """The classes of traffic, most urgent first."""

    CONTROL = 0
    CONFIG = 1
    COMMANDS = 2
    LIVE_LOGS = 3
    BULK = 4


CLASSES = len(Priority)
QUANTUM_BYTES = 16 * 1024
"""A turn's worth before larger packets were seen: the governor's smallest packet."""
FLOOR_SHARE = 16
"""A lower class gets one byte for 16 of its betters (issue 3: a small floor so that bulk always makes progress)."""
EARNED_BYTES = 256 * 1024
"""The most that a class can have earned, in bytes of its betters: waiting long behind CONTROL brings no burst."""


class Sender(Protocol):
    """Whatever has packets to send, as a channel; hashed by identity."""

    @property
    def priority(self) -> Priority:
        """Its class; a change counts when it is next made ready."""


class _Place:
    """A ready sender's place in the ring of its class."""

    __slots__ = ("after", "before", "credit", "priority", "sender")

    def __init__(self) -> None:
        self.sender: Sender | None = None
        self.priority = 0
        self.credit = 0
        """Bytes left of its turn; more than 0 between calls."""
        self.before = self.after = self


class Scheduler:
    """The ready senders of one connection, in one direction.  Every call is O(1)."""

    __slots__ = ("_earned", "_heads", "_places", "_quantum", "_spare")

    def __init__(self) -> None:
        self._places: dict[Sender, _Place] = {}
        self._heads: list[_Place | None] = [None] * CLASSES
        """Whose turn it is, for each class."""
        self._earned = [0] * CLASSES
        """Bytes of its betters that each class was passed over for, less ``FLOOR_SHARE`` times what it was let by."""
        self._quantum = [QUANTUM_BYTES] * CLASSES
        self._spare: _Place | None = None

    def __len__(self) -> int:
        return len(self._places)

    def ready(self, sender: Sender) -> None:
        """It has something that it may send; idempotent.  It goes to the end of its class's ring."""
        if sender in self._places:
            return
        place = self._spare or _Place()
        self._spare = None
        place.sender = sender
        place.priority = priority = sender.priority
        place.credit = self._quantum[priority]
        self._places[sender] = place
        head = self._heads[priority]
        if head is None:
            self._heads[priority] = place.before = place.after = place
        else:
            place.after, place.before = head, head.before
            head.before.after = place
            head.before = place

    def withdraw(self, sender: Sender) -> None:
        """It has nothing that it may send any more; idempotent.  Of a turn nothing is kept, neither rest nor debt."""
        place = self._places.pop(sender, None)
        if place is None:
            return
        priority = place.priority
        if place.after is place:
            self._heads[priority] = None
            self._earned[priority] = min(self._earned[priority], 0)
        else:
            place.before.after, place.after.before = place.after, place.before
            if self._heads[priority] is place:
                self._heads[priority] = place.after
        place.sender = None
        place.before = place.after = place
        self._spare = place

    def next(self, *, governed: bool) -> Sender | None:
        """Whose turn it is, or None; ``governed`` is whether the governor has room for other than CONTROL.

        Asking changes nothing: the answer is the same until ``sent``, ``ready`` or ``withdraw``.
        """
        heads = self._heads
        first = heads[Priority.CONTROL]
        if first is not None:
            return first.sender
        if not governed:
            return None
        for priority in range(Priority.CONFIG, CLASSES):
            head = heads[priority]
            if head is None:
                continue
            if first is None:
                first = head
            elif self._earned[priority] > 0:
                return head.sender
        return None if first is None else first.sender

    def sent(self, sender: Sender, size: int) -> None:
        """It sent a packet of ``size`` bytes; it may have been withdrawn since ``next`` named it."""
        place = self._places.get(sender)
        priority = place.priority if place is not None else sender.priority
        if place is not None:
            self._quantum[priority] = max(self._quantum[priority], size)
            place.credit -= size
            if place.credit <= 0:
                place.credit += self._quantum[priority]
                if self._heads[priority] is place:
                    self._heads[priority] = place.after
        if priority == Priority.CONTROL:
            return
        heads, earned = self._heads, self._earned
        for better in range(Priority.CONFIG, priority):
            if heads[better] is not None:
                earned[priority] -= FLOOR_SHARE * size
                break
        for worse in range(priority + 1, CLASSES):
            if heads[worse] is not None:
                earned[worse] = min(earned[worse] + size, EARNED_BYTES)
