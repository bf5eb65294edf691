"""What a link hands to the thread that writes: bytes in a buffer, and which segments they are of.

Bytes are gathered in one ``Writes`` while a thread writes and hashes those of another.  An error in ``run`` leaves it where
it stopped, so that a full disk loses nothing that has come: it is run again.
"""

import enum

import attrs

from avinet.logs.incoming import IncomingLogs
from avinet.logs.incoming_pack import PackPart
from avinet.logs.incoming_part import Part, PartGoneError
from avinet.units import KIB, MIB

BUFFER_BYTES = 2 * MIB
"""Gathered before the link waits: a thread needs about 2 ms for it, beside which handing it over costs little."""
SLACK_BYTES = 512 * KIB
"""What may come behind it: the rest of one packet, 256 KiB at most."""


class Verdict(enum.Enum):
    """What the thread found out about a segment."""

    KNOWN = "known"
    """It is here already."""
    TRUE = "true"
    """It has come whole, and is what its head says."""
    FALSE = "false"
    """It has come whole, and is not."""
    GONE = "gone"
    """It should go on behind what is on disk, which is not there."""
    LEFT = "left"
    """Nothing more comes of it for now."""
    DONE = "done"
    """Of a batch: it has ended, and each of its segments is known, kept, false, or left."""


AnyPart = Part | PackPart


@attrs.define(eq=False)
class _Step:
    part: AnyPart
    start: int
    end: int
    last: bool = False
    """The segment ends here."""
    left: bool = False
    """Nothing more comes of it for now."""


@attrs.define(eq=False)
class Writes:
    """Filled on the reactor, run in a thread, never both at once."""

    buffer: bytearray = attrs.field(factory=lambda: bytearray(BUFFER_BYTES + SLACK_BYTES), repr=False)
    size: int = attrs.field(default=0, init=False)
    """Bytes gathered."""
    verdicts: list[tuple[AnyPart, Verdict]] = attrs.field(factory=list, init=False)
    _steps: list[_Step] = attrs.field(factory=list, init=False)
    _next: int = attrs.field(default=0, init=False)

    def __bool__(self) -> bool:
        return bool(self._steps)

    @property
    def full(self) -> bool:
        """Whether the link should wait."""
        return self.size >= BUFFER_BYTES

    # On the reactor

    def begin(self, part: AnyPart) -> None:
        """Bytes of this segment follow."""
        self._steps.append(_Step(part, self.size, self.size))

    def add(self, part: AnyPart, data: memoryview, *, last: bool) -> None:
        """Some of its bytes; ``last`` are those at its end."""
        if not self._steps or self._steps[-1].part is not part:
            self.begin(part)
        end = self.size + len(data)
        self.buffer[self.size : end] = data
        step = self._steps[-1]
        self.size = step.end = end
        step.last = last

    def leave(self, part: AnyPart) -> None:
        """Nothing more comes of it for now."""
        if not self._steps or self._steps[-1].part is not part:
            self.begin(part)
        self._steps[-1].left = True

    def take_verdicts(self) -> list[tuple[AnyPart, Verdict]]:
        """Those since the last call."""
        verdicts, self.verdicts = self.verdicts, []
        return verdicts

    def clear(self) -> None:
        """All of it is done: as new."""
        self.size = self._next = 0
        self._steps.clear()

    # In a thread

    def run(self, logs: IncomingLogs) -> None:
        """Write and judge; ``verdicts`` says what came of it.  ``LogStoreFullError``, ``OSError``: run it again later."""
        view = memoryview(self.buffer)
        try:
            while self._next < len(self._steps):
                step = self._steps[self._next]
                if not step.part.unwanted:
                    self._do(step, logs, view)
                self._next += 1
        finally:
            view.release()

    def _do(self, step: _Step, logs: IncomingLogs, view: memoryview) -> None:
        part = step.part
        if not part.opened and not self._open(part, logs):
            return
        while step.start < step.end:
            step.start += part.append(view[step.start : step.end])
        if isinstance(part, PackPart):
            if step.last or step.left:
                part.finish()
                self.verdicts.append((part, Verdict.DONE))
        elif step.last:
            self._judge(part, Verdict.TRUE if part.true else Verdict.FALSE)
        elif step.left:
            self._judge(part, Verdict.LEFT)

    def _open(self, part: AnyPart, logs: IncomingLogs) -> bool:
        """Whether its bytes are wanted."""
        if isinstance(part, PackPart):
            part.want_only(logs.ledger.known_of(part.all_segments()))
            known = part.unwanted
        else:
            known = logs.ledger.known(part.segment)
        if known:
            self._judge(part, Verdict.KNOWN)
            return False
        logs.require_room(part.se, part.room_bytes, part.raw_bytes)
        try:
            part.open()
        except PartGoneError:
            self._judge(part, Verdict.GONE)
            return False
        return True

    def _judge(self, part: AnyPart, verdict: Verdict) -> None:
        if verdict is Verdict.LEFT:
            part.close()
        elif verdict is not Verdict.TRUE:
            part.unwanted = True
            part.discard()
        self.verdicts.append((part, verdict))
