"""What one channel of a log service has taken and may take.  Decisions only: no clock, no socket, no file.

A ``Receiving`` follows a channel's ``Begin``s, ``Batch``es and raw bytes, and knows what is on disk of segments that were
not finished.  A peer that breaks the protocol raises ``RemoteProtocolError``; a segment that cannot be taken is refused, and
its bytes are skipped.
"""

from collections.abc import Sequence
from itertools import accumulate

import attrs

from avinet.errors import RemoteProtocolError
from avinet.logs.sending import ALONE, MAX_UNANSWERED
from avinet.model.logs import MAX_RATIO, SegmentHead
from avinet.wire.log_codec import PROTOCOL
from avinet.wire.log_messages import MAX_BATCH_BYTES, MAX_PARTIALS, Batch, Begin, RefuseReason

MAX_REFUSED = 16
"""Segments refused in a row, after which the channel is cut: the SE's disk is broken, or it means no good."""


@attrs.frozen
class Refusal:
    """A segment that is not taken."""

    name: str
    reason: RefuseReason
    text: str


@attrs.define(eq=False)
class InFlight:
    """A segment under way: ``received`` is how much of it has come."""

    head: SegmentHead
    received: int
    pull: int
    resumed: bool = False
    """Whether it goes on behind what is on disk."""
    was: str = ""
    """The store that it was begun with before (``Begin.was``): it may count there."""

    @property
    def left(self) -> int:
        """Bytes that have not come."""
        return self.head.size - self.received

    def broken_off(self) -> tuple[list[str], str, int]:
        """Nothing more comes: the names of those of which nothing is here, the one under way, and how much of it is."""
        return [], self.head.name, self.received


@attrs.define(eq=False)
class BatchInFlight:
    """A batch under way."""

    heads: tuple[SegmentHead, ...]
    names: list[str]
    refused: set[int]
    """Which of them are not taken."""
    pull: int
    size: int
    received: int = 0
    was: str = ""
    """As for one, of all of them."""

    @property
    def left(self) -> int:
        """Bytes that have not come."""
        return self.size - self.received

    def broken_off(self) -> tuple[list[str], str, int]:
        """As for one."""
        ends = accumulate(head.size for head in self.heads)
        number = next(number for number, end in enumerate(ends) if end > self.received)
        begin = sum(head.size for head in self.heads[:number])
        taken = number not in self.refused
        return self.names[number + 1 :], self.names[number], (self.received - begin) if taken else 0


@attrs.define(eq=False)
class Receiving:
    """One channel's."""

    greeted: bool = attrs.field(default=False, init=False)
    current: InFlight | BatchInFlight | None = attrs.field(default=None, init=False)
    _skipped: int | None = attrs.field(default=None, init=False)
    """How many bytes of what is not taken may still come; None when none is under way."""
    _partials: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """Bytes of segments that were left in their middle, here or on an earlier channel; the oldest first."""
    _unanswered: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """Names, and what each counts (``ALONE``)."""
    _count: int = attrs.field(default=0, init=False)
    """All of them."""
    _refused: int = attrs.field(default=0, init=False)
    """In a row."""

    def hello(self, partials: dict[str, int]) -> None:
        """The peer has introduced itself, and hears of these."""
        self.greeted = True
        self._partials = dict(partials)

    @property
    def full(self) -> bool:
        """Whether enough segments wait for their answer: no more should be read."""
        return self._count >= MAX_UNANSWERED

    def begin(self, message: Begin) -> InFlight | Refusal:
        """A segment begins; what was under way before is left in its middle."""
        self._need_greeting()
        self.leave()
        head, name = message.head, message.head.name
        self._need_answers([name])
        self._skipped = head.size
        absurd = _absurd(head)
        if absurd:
            return self.refuse(name, RefuseReason.HEAD, absurd)
        have = self._partials.pop(name, 0)
        if message.offset not in {0, have} or message.offset >= head.size:
            return self.refuse(name, RefuseReason.AGAIN, f"{have} bytes of it are here")
        self._skipped = None
        self._wait_for([name])
        self.current = InFlight(
            head, message.offset, message.pull, resumed=message.offset > 0, was=message.was
        )
        return self.current

    def batch(self, message: Batch) -> tuple[BatchInFlight, list[Refusal]]:
        """Several begin; those of them that are refused are skipped as they come."""
        self._need_greeting()
        self.leave()
        heads = message.heads
        names = [head.name for head in heads]
        size = sum(head.size for head in heads)
        if size > MAX_BATCH_BYTES:
            raise _broken(f"a batch of {size} bytes")
        if len(set(names)) < len(names) or len({head.incarnation for head in heads}) > 1:
            raise _broken("a batch with a segment twice, or of two spools")
        self._need_answers(names)
        absurd = {number: why for number, why in enumerate(map(_absurd, heads)) if why}
        refusals = [Refusal(names[number], RefuseReason.HEAD, why) for number, why in absurd.items()]
        self.refused(refusals)
        for name in names:
            self._partials.pop(name, None)
        self._wait_for([name for number, name in enumerate(names) if number not in absurd])
        self._skipped = None
        self.current = BatchInFlight(heads, names, set(absurd), message.pull, size, was=message.was)
        return self.current, refusals

    def raw(self, size: int) -> InFlight | BatchInFlight | None:
        """So many bytes have come, of what is under way; None when they are to be skipped."""
        self._need_greeting()
        flight = self.current
        if flight is None:
            self._skip_raw(size)
            return None
        if size > flight.left:
            raise _broken(f"{size - flight.left} bytes more than there should be")
        flight.received += size
        if not flight.left:
            self.current = None
        return flight

    def _skip_raw(self, size: int) -> None:
        """Bytes of a segment that is not taken, and its sender does not know it yet."""
        if self._skipped is None:
            raise _broken("bytes of no segment")
        self._skipped -= size
        if self._skipped < 0:
            raise _broken("a segment of more bytes than it should have")

    def leave(self) -> InFlight | BatchInFlight | None:
        """Nothing more comes of what is under way for now; which that was."""
        flight, self.current = self.current, None
        if flight is None:
            return None
        unbegun, name, received = flight.broken_off()
        for one in (*unbegun, name):
            self._answered(one)
        self._partials[name] = received
        while len(self._partials) > MAX_PARTIALS:
            self._partials.pop(next(iter(self._partials)))
        return flight

    def skip(self, name: str) -> None:
        """The segment is not wanted any more: it is here already."""
        self._answered(name)
        self._partials.pop(name, None)
        if isinstance(self.current, InFlight) and self.current.head.name == name:
            self.skip_current()

    def skip_current(self) -> None:
        """Nor is anything else of what is under way."""
        if self.current is not None:
            self._skipped = self.current.left
            self.current = None

    def acknowledge(self, name: str) -> None:
        """It is here for good."""
        self._answered(name)
        self._refused = 0

    def refuse(self, name: str, reason: RefuseReason, text: str) -> Refusal:
        """It is not taken; raises when that was too often in a row."""
        refusal = Refusal(name, reason, text)
        self.refused([refusal])
        return refusal

    def refused(self, refusals: Sequence[Refusal]) -> None:
        """These are not taken, which counts once for all that come at once; that it cannot be told yet is nobody's fault."""
        for refusal in refusals:
            self.skip(refusal.name)
        if all(refusal.reason is RefuseReason.LATER for refusal in refusals):
            return
        self._refused += 1
        if self._refused > MAX_REFUSED:
            raise _broken(
                f"{self._refused} times in a row what cannot be taken, the last since {refusals[-1].text}"
            )

    def _need_answers(self, names: list[str]) -> None:
        if not self._unanswered.keys().isdisjoint(names):
            raise _broken("a segment begins again that has no answer yet")
        if self._count >= 2 * MAX_UNANSWERED:
            raise _broken(f"{len(self._unanswered)} segments without an answer")

    def _wait_for(self, names: list[str]) -> None:
        for number, name in enumerate(names):
            self._unanswered[name] = weight = 1 if number else ALONE
            self._count += weight

    def _answered(self, name: str) -> None:
        self._count -= self._unanswered.pop(name, 0)

    def _need_greeting(self) -> None:
        if not self.greeted:
            raise _broken("something before log-hello")


def _absurd(head: SegmentHead) -> str:
    """Why a head cannot be true."""
    if head.first_us > head.last_us:
        return "its last request is before its first"
    if head.raw_bytes > head.size * MAX_RATIO:
        return f"compressed more than {MAX_RATIO:,} times"
    return "more records than bytes" if head.records > head.raw_bytes else ""


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol=PROTOCOL, detail=detail)
