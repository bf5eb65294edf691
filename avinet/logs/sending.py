"""What one channel of a log service sends next.  Decisions only: no clock, no socket, no file.

A ``Sending`` keeps the pulls of one channel and the segments that wait.  The shipper feeds it with what the spool's index
says (``add``), has it put together what goes next (``upcoming``: a **run** of segments, a single one where the controller takes no
batches or has a part of it), begins one when there is room, tells how far it has come, and passes on what the controller
says.  A segment counts as gone only once it is acknowledged; of those that were begun and have no answer there is a bound,
so that nobody's memory depends on how much there is to send.

Nothing here is durable.  After a break the controller asks again and the index says what is left.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Collection, Iterable

import attrs

from avinet.logs.rate import RateLimit
from avinet.logs.reach import Sendable
from avinet.logs.transfers import Run, Transfer
from avinet.model.logs import SegmentHead, Selection
from avinet.wire.log_messages import MAX_BATCH, MAX_BATCH_BYTES, PUSHED

MAX_UNANSWERED = 1024
"""What was sent and has no answer: some 1,000 bytes each on either side."""
ALONE = 16
"""What a run counts for its first segment, since it is a file that the controller has open: 64 single ones in the time of a
round trip and a group commit (80 ms over a long path) are 800 a second; large ones never are so many, since the
controller does not read on."""
MAX_QUEUED = 1024
"""Heads that wait, some 500 bytes each; the spool is asked again when few are left."""
LOW_QUEUED = 512
AHEAD = 16
"""Segments that are put together before they are begun, so that their files are open: a packet of small ones, or one run of
more."""
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
    patient_until: float | None = None
    """What is on its way to other controllers is waited for until then, a clock's seconds; None before it was seen."""

    def start_over(self) -> None:
        """Look at the index from its beginning: what was taken from it was not sent."""
        self.after, self.exhausted = 0, False


@attrs.define(eq=False)
class Sending:
    """One channel's."""

    pulls: dict[int, PullWork] = attrs.field(factory=dict, init=False)
    """In the order in which they came."""
    current: Run | None = attrs.field(default=None, init=False)
    held: bool = attrs.field(default=False, init=False)
    """The controller has no room: nothing of anything may be sent, and what is under way stays so."""
    broken_off: bool = attrs.field(default=False, init=False)
    """A run of several was left in its middle, and the controller has not been told."""
    _batches: bool = attrs.field(default=False, init=False)
    """The controller takes them."""
    _partials: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """How much of segments that were left in their middle the controller has."""
    _queue: deque[Transfer] = attrs.field(factory=deque, init=False, repr=False)
    _ahead: deque[Run] = attrs.field(factory=deque, init=False, repr=False)
    """Put together, and not begun."""
    _unanswered: dict[str, Transfer] = attrs.field(factory=dict, init=False, repr=False)
    _count: int = attrs.field(default=0, init=False)
    _tries: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """Of segments that were refused."""

    # What the controller says

    def welcomed(self, partials: dict[str, int], *, batches: bool = False) -> None:
        """What it has of segments that were not finished, and whether it takes batches."""
        self._partials = dict(partials)
        self._batches = batches

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
            self._partials.pop(name, None)
            self._tries.pop(name, None)
            if self._answered(name) is not None:
                ours.append(name)
        current = self.current
        if current is not None and all(
            transfer.name not in self._unanswered for transfer in current.transfers
        ):
            self.current = None
        return ours

    def refused(self, name: str, *, counts: bool = True) -> Transfer | None:
        """It was not taken: what it was, so that its file is looked at; None when it is none of ours.

        It ``counts`` where something may be wrong with it, for there is an end to trying.
        """
        transfer = self._answered(name)
        if transfer is not None:
            self._partials.pop(name, None)
            if counts:
                self._tries[name] = self._tries.get(name, 0) + 1
            elif transfer.pull in self.pulls:
                self.pulls[transfer.pull].taken_bytes -= transfer.head.size
            if self.current is not None and self.current.transfers == [transfer]:
                self.current = None
        return transfer

    def _answered(self, name: str) -> Transfer | None:
        transfer = self._unanswered.pop(name, None)
        if transfer is not None:
            self._count -= transfer.counts
        return transfer

    # What the shipper finds out

    @property
    def wants(self) -> bool:
        """Whether heads should be added."""
        return len(self._queue) < LOW_QUEUED

    @property
    def room(self) -> int:
        """How many heads may be added."""
        return max(0, MAX_QUEUED - len(self._queue))

    def holds(self, name: str) -> bool:
        """Whether a segment is under way or has no answer; or has been refused so often that it is let be."""
        return name in self._unanswered or self._tries.get(name, 0) >= MAX_TRIES

    def names(self) -> set[str]:
        """Every segment that waits, is under way, or has no answer."""
        return self._waiting() | self._unanswered.keys()

    def _waiting(self) -> set[str]:
        return {one.name for one in self._queue} | {one.name for run in self._ahead for one in run.transfers}

    def withdraw(self, unwanted: Callable[[Transfer], bool]) -> list[str]:
        """Do not begin these of what waits: their names."""
        waiting = [*(one for run in self._ahead for one in run.transfers), *self._queue]
        kept: list[Transfer] = []
        gone: list[str] = []
        for transfer in waiting:
            if not unwanted(transfer):
                kept.append(transfer)
                continue
            gone.append(transfer.name)
            if transfer.pull in self.pulls:
                self.pulls[transfer.pull].taken_bytes -= transfer.head.size
        if gone:
            self._ahead.clear()
            self._queue = deque(kept)
        return gone

    def add(self, found: Iterable[Sendable], work: PullWork | None = None) -> list[SegmentHead]:
        """Let these follow, for a pull or pushed; those that were not held already."""
        queued = self._waiting()
        added: list[SegmentHead] = []
        for head, was in ((one.head, one.was) for one in found):
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
            self._queue.append(Transfer(head, PUSHED if work is None else work.pull, name, was))
            added.append(head)
        return added

    def again(self, transfer: Transfer) -> bool:
        """One that was refused is what it should be: send it from its first byte, next.  False after too many tries."""
        if self._tries.get(transfer.name, 0) >= MAX_TRIES:
            return False
        if transfer.pull != PUSHED and transfer.pull not in self.pulls:
            return False
        self._queue.appendleft(transfer)
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
        return (
            (self.current is not None and self.current.pull == pull)
            or any(run.pull == pull for run in self._ahead)
            or any(waiting.pull == pull for waiting in self._queue)
        )

    # What goes out

    def upcoming(self) -> list[Run]:
        """The run under way, and those that may follow, as far as files should be open for them."""
        while self._queue and sum(len(run.transfers) for run in self._ahead) < AHEAD:
            self._ahead.append(self._put_together())
        return [*(() if self.current is None else (self.current,)), *self._ahead]

    def _put_together(self) -> Run:
        first = self._queue.popleft()
        offset = self._partials.get(first.name, 0)
        run = Run([first], offset if offset < first.head.size else 0, first.head.size, first.pull)
        most = self._run_bytes(first.pull)
        while self._batches and not run.offset and self._queue and len(run.transfers) < MAX_BATCH:
            other = self._queue[0]
            if (
                other.pull != first.pull
                or run.size + other.head.size > most
                or other.head.incarnation != first.head.incarnation
                or other.was != first.was
                or self._partials.get(other.name)
            ):
                break
            run.transfers.append(self._queue.popleft())
            run.size += other.head.size
        return run

    def _run_bytes(self, pull: int) -> int:
        """A batch is answered as a whole, so one of a slow pull is small."""
        work = self.pulls.get(pull)
        rate = 0 if work is None else work.rate.bytes_per_s
        return min(MAX_BATCH_BYTES, rate) if rate else MAX_BATCH_BYTES

    def next(self) -> Run | None:
        """What may begin; None when nothing may, or nothing waits."""
        if self.held or self.current is not None:
            return None
        if not self._ahead:
            self.upcoming()
        if not self._ahead:
            return None
        run = self._ahead[0]
        return run if self._count + len(run.transfers) - 1 + ALONE <= MAX_UNANSWERED else None

    def begin(self) -> Run | None:
        """The next run is under way from now on, from where the controller is; None when nothing may be."""
        run = self.next()
        if run is None:
            return None
        self._ahead.popleft()
        for number, transfer in enumerate(run.transfers):
            self._partials.pop(transfer.name, None)
            transfer.counts = 1 if number else ALONE
            self._unanswered[transfer.name] = transfer
        self._count += len(run.transfers) - 1 + ALONE
        self.current = run
        self.broken_off = False
        return run

    def advanced(self, size: int) -> bool:
        """So many bytes of the one under way were handed to the channel; whether that was its end."""
        run = self.current
        if run is None:
            raise AssertionError("nothing is under way")
        run.offset += size
        if run.left:
            return False
        self.current = None
        return True

    def gone(self, run: Run, names: Collection[str] = ()) -> list[Transfer]:
        """These of a run cannot be read, the one under way if none are named: the spool has dropped them, or its disk is
        broken.  Returns them; what of it is not sent is put together anew.
        """
        _, current, _, _ = run.divided()
        names = names or ([] if current is None else [current.name])
        gone = [transfer for transfer in run.transfers if transfer.name in names]
        if run is self.current:
            rest = self._leave_current()
        else:
            with contextlib.suppress(ValueError):
                self._ahead.remove(run)
            rest = run.transfers
        self._queue.extendleft(transfer for transfer in reversed(rest) if transfer.name not in names)
        for name in names:
            self._partials.pop(name, None)
        return gone

    def shorten(self, run: Run, count: int) -> None:
        """Of a run that is not begun only so many are sent together; the others are put together anew."""
        self._queue.extendleft(reversed(run.transfers[count:]))
        del run.transfers[count:]
        run.size = sum(transfer.head.size for transfer in run.transfers)

    def _leave_current(self) -> list[Transfer]:
        """Nothing more of it: what of it is not sent."""
        run, self.current = self.current, None
        if run is None:
            return []
        _, current, offset, rest = run.divided()
        left = rest if current is None else [current, *rest]
        left = [transfer for transfer in left if self._answered(transfer.name) is not None]
        if current is not None:
            self._partials[current.name] = offset
        self.broken_off = len(run.transfers) > 1
        return left

    def _drop(self, pull: int) -> int:
        """Nothing more of a pull; what has been sent is answered as ever.  How many bytes of segments that was."""
        dropped = [waiting for waiting in self._queue if waiting.pull == pull]
        self._queue = deque(waiting for waiting in self._queue if waiting.pull != pull)
        for run in [run for run in self._ahead if run.pull == pull]:
            self._ahead.remove(run)
            dropped += run.transfers
        if self.current is not None and self.current.pull == pull:
            dropped += self._leave_current()
        return sum(transfer.head.size for transfer in dropped)
