"""What one channel of a log service has taken and may take.  Decisions only: no clock, no socket, no file.

A ``Receiving`` follows a channel's ``Begin``s and raw bytes, and knows what is on disk of segments that were not
finished.  A peer that breaks the protocol raises ``RemoteProtocolError``; a segment that cannot be taken is refused, and
its bytes are skipped until the next ``Begin``.
"""

import attrs

from avinet.errors import RemoteProtocolError
from avinet.logs.sending import MAX_UNANSWERED
from avinet.model.logs import MAX_RATIO, SegmentHead
from avinet.wire.log_codec import PROTOCOL
from avinet.wire.log_messages import MAX_PARTIALS, Begin, RefuseReason

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

    @property
    def left(self) -> int:
        """Bytes that have not come."""
        return self.head.size - self.received


@attrs.define(eq=False)
class Receiving:
    """One channel's."""

    greeted: bool = attrs.field(default=False, init=False)
    current: InFlight | None = attrs.field(default=None, init=False)
    _skipped: int | None = attrs.field(default=None, init=False)
    """How many bytes of a segment that is not taken may still come; None when none is under way."""
    _partials: dict[str, int] = attrs.field(factory=dict, init=False, repr=False)
    """Bytes of segments that were left in their middle, here or on an earlier channel; the oldest first."""
    _unanswered: set[str] = attrs.field(factory=set, init=False, repr=False)
    _refused: int = attrs.field(default=0, init=False)
    """In a row."""

    def hello(self, partials: dict[str, int]) -> None:
        """The peer has introduced itself, and hears of these."""
        self.greeted = True
        self._partials = dict(partials)

    @property
    def full(self) -> bool:
        """Whether enough segments wait for their answer: no more should be read."""
        return len(self._unanswered) >= MAX_UNANSWERED

    def begin(self, message: Begin) -> InFlight | Refusal:
        """A segment begins; what was under way before is left in its middle."""
        self._need_greeting()
        self.leave()
        head, name = message.head, message.head.name
        if name in self._unanswered:
            raise _broken("a segment begins again that has no answer yet")
        if len(self._unanswered) >= 2 * MAX_UNANSWERED:
            raise _broken(f"more than {2 * MAX_UNANSWERED} segments without an answer")
        self._skipped = head.size
        if head.first_us > head.last_us:
            return self.refuse(name, RefuseReason.HEAD, "its last request is before its first")
        if head.raw_bytes > head.size * MAX_RATIO:
            return self.refuse(name, RefuseReason.HEAD, f"compressed more than {MAX_RATIO:,} times")
        if head.records > head.raw_bytes:
            return self.refuse(name, RefuseReason.HEAD, "more records than bytes")
        have = self._partials.pop(name, 0)
        if message.offset not in {0, have} or message.offset >= head.size:
            return self.refuse(name, RefuseReason.AGAIN, f"{have} bytes of it are here")
        self._skipped = None
        self._unanswered.add(name)
        self.current = InFlight(head, message.offset, message.pull, resumed=message.offset > 0)
        return self.current

    def raw(self, size: int) -> InFlight | None:
        """So many bytes have come, of the segment under way; None when they are to be skipped."""
        self._need_greeting()
        flight = self.current
        if flight is None:
            self._skip_raw(size)
            return None
        if size > flight.left:
            raise _broken(f"a segment of more than the {flight.head.size} bytes it should have")
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

    def leave(self) -> InFlight | None:
        """Nothing more comes of the segment under way for now; which one that was."""
        flight, self.current = self.current, None
        if flight is None:
            return None
        name = flight.head.name
        self._unanswered.discard(name)
        self._partials[name] = flight.received
        while len(self._partials) > MAX_PARTIALS:
            self._partials.pop(next(iter(self._partials)))
        return flight

    def skip(self, name: str) -> None:
        """The segment is not wanted any more: it is here already."""
        self._unanswered.discard(name)
        self._partials.pop(name, None)
        if self.current is not None and self.current.head.name == name:
            self._skipped = self.current.left
            self.current = None

    def acknowledge(self, name: str) -> None:
        """It is here for good."""
        self._unanswered.discard(name)
        self._refused = 0

    def refuse(self, name: str, reason: RefuseReason, text: str) -> Refusal:
        """It is not taken; raises when that was too often in a row."""
        self.skip(name)
        self._refused += 1
        if self._refused > MAX_REFUSED:
            raise _broken(f"{self._refused} segments in a row that cannot be taken, the last since {text}")
        return Refusal(name, reason, text)

    def _need_greeting(self) -> None:
        if not self.greeted:
            raise _broken("something before log-hello")


def _broken(detail: str) -> RemoteProtocolError:
    return RemoteProtocolError(protocol=PROTOCOL, detail=detail)
