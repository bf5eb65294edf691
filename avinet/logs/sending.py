"""What one channel of a log service sends next.  Decisions only: no clock, no socket, no file.

A ``Sending`` keeps the pulls of one channel and the segments that wait, one of which is under way.  The shipper feeds it
with what the spool's index says (``add``), asks for the next segment when there is room (``begin``), tells how far it has
come, and passes on what the controller says.  A segment counts as gone only once it is acknowledged; of those that were
begun and have no answer there is a bound, so that nobody's memory depends on how much there is to send.

Nothing here is durable.  After a break the controller asks again and the index says what is left.
"""

from collections import deque
from collections.abc import Iterable
from itertools import islice

import attrs

from avinet.logs.rate import RateLimit
from avinet.model.logs import SegmentHead, Selection
from avinet.wire.log_messages import PUSHED

MAX_UNANSWERED = 64
"""Segments that were sent and have no answer: 64 small ones in the time of a round trip and a group commit (80 ms over a
long path) are 800 a second; large ones never are so many, since the controller does not read on."""
MAX_QUEUED = 512
"""Heads that wait, some 500 bytes each; the spool is asked again when few are left."""
LOW_QUEUED = 128
MAX_PULLS = 64
"""Of one controller at one time; some 500 bytes each."""
MAX_TRIES = 3
"""Of one segment that is what it should be and is refused nevertheless; then it is left alone until the next session."""


@attrs.define(eq=False)
class PullWork:
    """One pull as this side has it."""

    pull: int
    selection: Selection
    up_to: int | None = None
    byte_limit: int = 0
    rate: RateLimit = attrs.field(factory=RateLimit)
    paused: bool = False
    planned: bool = False
    """Whether ``up_to`` stands and the controller has been told the plan."""
    after: int = 0
    """The last counter that was taken from the index."""
    exhausted: bool = False
    """The index has nothing behind ``after``."""
    taken_bytes: int = 0
    limited: bool = False
    """The byte limit left some."""

    def start_over(self) -> None:
        """Look at the index from its beginning: what was taken from it was not sent."""
        self.after, self.exhausted = 0, False


@attrs.define
class Transfer:
    """A segment under way: ``offset`` is what has been handed to the channel."""

    head: SegmentHead
    offset: int
    pull: int
    tries: int = 1
    name: str = attrs.field(init=False)
    """The segment's; asked for at each step of each packet, and 1 us to make."""

    @name.default
    def _name_of_head(self) -> str:
        return self.head.name

    @property
    def left(self) -> int:
        """Bytes still to be sent."""
        return self.head.size - self.offset


@attrs.define(eq=False)
class Sending:
    """One channel's."""

    pulls: dict[int, PullWork] = attrs.field(factory=dict, init=False)
    """In the order in which they came."""
    current: Transfer | None = attrs.field(default=None, init=False)
    held: bool = attrs.field(default=False, init=False)
    """The controller has no room: nothing of anything may be sent, and what is under way stays so."""
    _partials: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """How much of segments that were left in their middle the controller has."""
    _queue: deque[Transfer] = attrs.field(factory=deque, init=False, repr=False)
    _unanswered: dict[str, Transfer] = attrs.field(factory=dict, init=False, repr=False)
    _tries: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """Of segments that were refused."""

    # What the controller says

    def welcomed(self, partials: dict[str, int]) -> None:
        """What it has of segments that were not finished."""
        self._partials = dict(partials)

    def ask(self, work: PullWork) -> bool:
        """A pull, or the same anew; False when there are too many."""
        if work.pull not in self.pulls and len(self.pulls) >= MAX_PULLS:
            return False
        self.forget(work.pull)
        self.pulls[work.pull] = work
        return True

    def pause(self, pull: int) -> None:
        """Send nothing of it for now; one under way is left in its middle."""
        work = self.pulls.get(pull)
        if work is not None and not work.paused:
            work.paused = True
            work.start_over()
            work.taken_bytes -= self._drop(pull)

    def resume(self, pull: int) -> None:
        """Go on with it."""
        work = self.pulls.get(pull)
        if work is not None:
            work.paused = False

    def forget(self, pull: int) -> None:
        """It was cancelled, or is done."""
        if self.pulls.pop(pull, None) is not None:
            self._drop(pull)

    def acknowledged(self, names: Iterable[str]) -> list[str]:
        """The controller has these; those of them that this channel sent, in full or not."""
        ours: list[str] = []
        for name in names:
            if self.current is not None and self.current.head.name == name:
                self.current = None
            elif self._unanswered.pop(name, None) is None:
                continue
            self._partials.pop(name, None)
            self._tries.pop(name, None)
            ours.append(name)
        return ours

    def refused(self, name: str) -> Transfer | None:
        """It was not taken: what it was, so that its file is looked at; None when it is none of ours."""
        transfer = self._unanswered.pop(name, None)
        if transfer is None and self.current is not None and self.current.head.name == name:
            transfer, self.current = self.current, None
        if transfer is not None:
            self._partials.pop(name, None)
            self._tries[name] = self._tries.get(name, 0) + 1
        return transfer

    # What the shipper finds out

    @property
    def wants(self) -> bool:
        """Whether heads should be added."""
        return len(self._queue) < LOW_QUEUED

    @property
    def room(self) -> int:
        """How many heads may be added."""
        return MAX_QUEUED - len(self._queue)

    def holds(self, name: str) -> bool:
        """Whether a segment is under way or has no answer; or has been refused so often that it is let be."""
        return (
            name in self._unanswered
            or (self.current is not None and self.current.head.name == name)
            or self._tries.get(name, 0) >= MAX_TRIES
        )

    def names(self) -> set[str]:
        """Every segment that waits, is under way, or has no answer."""
        names = {waiting.head.name for waiting in self._queue} | self._unanswered.keys()
        return names if self.current is None else names | {self.current.head.name}

    def add(self, heads: Iterable[SegmentHead], work: PullWork | None = None) -> list[SegmentHead]:
        """Let these follow, for a pull or pushed; those that were not held already."""
        queued = {waiting.head.name for waiting in self._queue}
        added: list[SegmentHead] = []
        for head in heads:
            name = head.name
            if work is not None:
                work.after = max(work.after, head.counter)
            if name in queued or self.holds(name):
                continue
            if work is not None and work.byte_limit and work.taken_bytes + head.size > work.byte_limit:
                work.limited = work.exhausted = True
                break
            if work is not None:
                work.taken_bytes += head.size
            self._queue.append(Transfer(head, 0, PUSHED if work is None else work.pull))
            added.append(head)
        return added

    def again(self, transfer: Transfer) -> bool:
        """One that was refused is what it should be: send it from its first byte, next.  False after too many tries."""
        if self._tries.get(transfer.name, 0) >= MAX_TRIES:
            return False
        if transfer.pull != PUSHED and transfer.pull not in self.pulls:
            return False
        self._queue.appendleft(Transfer(transfer.head, 0, transfer.pull))
        return True

    def active(self) -> PullWork | None:
        """The pull that is being sent: the first that is not paused and has something to send, or may have."""
        for work in self.pulls.values():
            if work.planned and not work.paused and (not work.exhausted or self._sends(work.pull)):
                return work
        return None

    def all_answered(self, pull: int) -> bool:
        """Whether nothing of a pull waits, is under way, or lacks an answer."""
        return not self._sends(pull) and all(sent.pull != pull for sent in self._unanswered.values())

    def _sends(self, pull: int) -> bool:
        return (self.current is not None and self.current.pull == pull) or any(
            waiting.pull == pull for waiting in self._queue
        )

    # What goes out

    def next(self) -> Transfer | None:
        """What may begin; None when nothing may, or nothing waits."""
        if (
            self.held
            or self.current is not None
            or len(self._unanswered) >= MAX_UNANSWERED
            or not self._queue
        ):
            return None
        return self._queue[0]

    def upcoming(self, count: int) -> list[Transfer]:
        """The one under way, and the next that may follow."""
        first = [] if self.current is None else [self.current]
        return first + list(islice(self._queue, count))

    def begin(self) -> Transfer | None:
        """The next segment is under way from now on, from where the controller is; None when nothing may be."""
        if self.next() is None:
            return None
        transfer = self._queue.popleft()
        offset = self._partials.pop(transfer.name, 0)
        if offset < transfer.head.size:
            transfer.offset = offset
        self.current = transfer
        return transfer

    def advanced(self, size: int) -> bool:
        """So many bytes of the one under way were handed to the channel; whether that was its end."""
        transfer = self.current
        if transfer is None:
            raise AssertionError("nothing is under way")
        transfer.offset += size
        if transfer.left:
            return False
        self._unanswered[transfer.name] = transfer
        self.current = None
        return True

    def gone(self, name: str) -> None:
        """It cannot be read: the spool has dropped it, or its disk is broken."""
        if self.current is not None and self.current.head.name == name:
            self.current = None
        self._queue = deque(waiting for waiting in self._queue if waiting.head.name != name)

    def _drop(self, pull: int) -> int:
        """Nothing more of a pull; what has been sent is answered as ever.  How many bytes of segments that was."""
        dropped = sum(waiting.head.size for waiting in self._queue if waiting.pull == pull)
        self._queue = deque(waiting for waiting in self._queue if waiting.pull != pull)
        current = self.current
        if current is not None and current.pull == pull:
            self._partials[current.head.name] = current.offset
            self.current = None
            dropped += current.head.size
        return dropped
