"""A pull as it is kept and as it is shown: what an operator asked for, and how far each service engine is with it."""

import enum
from typing import ClassVar

import attrs
import msgspec

from avinet.errors import AvinetError, Kind, error
from avinet.logs.entries import Share
from avinet.model.ids import SeId
from avinet.model.logs import Selection

RATE_S = 10.0
"""The rate that is shown is of so long."""


class PullState(enum.StrEnum):
    """How far an SE, or all of them together, are with a pull."""

    WAITING = "waiting"
    """The SE is not attached, or it is others' turn."""
    PLANNING = "planning"
    """The SE closes the files that it is writing, and looks what there is."""
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    CANCELLED = "cancelled"
    FAILED = "failed"


ENDED = frozenset({PullState.DONE, PullState.CANCELLED, PullState.FAILED})


@error
class PullUnknownError(AvinetError):
    """There is no pull {pull}. List them: avinet logs pulls."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    pull: int


@error
class PullEndedError(AvinetError):
    """Pull {pull} is {state} already. Ask anew for what is missing: avinet logs pull."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    pull: int
    state: str


@error
class TooManyPullsError(AvinetError):
    """{limit} pulls are under way. Wait for one to end, or cancel one: avinet logs pulls."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


def ledger_key(pull: int) -> str:
    """A pull's id in the ledger, where ids sort as text."""
    return f"{pull:012d}"


class PullOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked for."""

    by: str
    """Who asked."""
    engines: tuple[SeId, ...]
    selection: Selection
    byte_limit: int = 0
    """Of compressed bytes from each SE; 0 is no limit."""
    rate: int = 0
    """Compressed bytes a second from all SEs together; 0 is no limit."""


class PullRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A pull on disk, beside its shares."""

    order: PullOrder
    at: float
    """When, UNIX seconds."""
    paused: bool = False


class ShareRecord(msgspec.Struct, frozen=True, kw_only=True):
    """An SE's part on disk, beside its counts.  What can be found out again is not kept."""

    ended: PullState | None = None
    why: str = ""
    """Of one that failed."""
    limited: bool = False
    """The byte limit left some."""
    up_to: int | None = None
    """The last counter that belongs to it, once the SE has said it."""
    unflushed: str = ""
    """Why what was logged last may be missing."""
    elsewhere: dict[str, int] = {}
    """Records that it left out, since it began them with other controllers, by controller."""


class ShareView(msgspec.Struct, frozen=True, kw_only=True):
    """An SE's part as it is now."""

    se: SeId
    state: PullState
    why: str = ""
    limited: bool = False
    """The byte limit left some."""
    unflushed: str = ""
    """Why what was logged last before the request may be missing."""
    elsewhere: dict[str, int] = {}
    """Records that are left out."""
    segments: int = 0
    """Received, as are the three that follow."""
    records: int = 0
    size: int = 0
    raw_bytes: int = 0
    segments_in_all: int | None = None
    """With those still to come; None until the SE has said it, as are the three that follow."""
    records_in_all: int | None = None
    size_in_all: int | None = None
    raw_bytes_in_all: int | None = None
    rate: float = 0.0
    """Compressed bytes a second, lately."""
    left_s: float | None = None
    """None while nobody can tell."""


class PullView(msgspec.Struct, frozen=True, kw_only=True):
    """A pull as it is now."""

    id: int
    order: PullOrder
    at: float
    state: PullState
    shares: tuple[ShareView, ...]


@attrs.define(eq=False)
class PullShare:
    """An SE's part in memory."""

    se: SeId
    record: ShareRecord = attrs.field(factory=ShareRecord)
    segments: int = 0
    records: int = 0
    size: int = 0
    raw_bytes: int = 0
    in_all: tuple[int, int, int, int] | None = None
    """Segments, records, bytes, raw bytes, with those that were here when the SE planned."""
    asked: bool = False
    """The SE of the present link knows of it."""
    _flow: list[tuple[float, int]] = attrs.field(factory=list, init=False, repr=False)
    """Seconds and bytes, of the last ``RATE_S``."""

    @classmethod
    def of(cls, share: Share) -> "PullShare":
        """As the ledger has it."""
        return cls(
            share.se,
            msgspec.msgpack.decode(share.body, type=ShareRecord),
            share.segments,
            share.records,
            share.bytes,
            share.raw_bytes,
        )

    @property
    def ended(self) -> bool:
        """Whether nothing more comes."""
        return self.record.ended is not None

    def flowed(self, now: float, size: int) -> None:
        """Some bytes came."""
        if self._flow and now - self._flow[-1][0] < RATE_S / 20:
            at, before = self._flow[-1]
            self._flow[-1] = (at, before + size)
        else:
            self._flow = [(at, n) for at, n in self._flow if now - at < RATE_S]
            self._flow.append((now, size))

    def rate(self, now: float) -> float:
        """Bytes a second, over the last ``RATE_S`` or since it began."""
        recent = [(at, size) for at, size in self._flow if now - at < RATE_S]
        if not recent:
            return 0.0
        return sum(size for _, size in recent) / max(now - recent[0][0], 1.0)

    def view(self, state: PullState, now: float) -> ShareView:
        """As it is now."""
        in_all = self.in_all
        if state is PullState.DONE and not self.record.limited:
            # What a plan counted may have been here already, its acknowledgement lost.
            in_all = (self.segments, self.records, self.size, self.raw_bytes)
        rate = self.rate(now) if state is PullState.RUNNING else 0.0
        left = None if in_all is None or not rate else max(0, in_all[2] - self.size) / rate
        return ShareView(
            se=self.se,
            state=state,
            why=self.record.why,
            limited=self.record.limited,
            unflushed=self.record.unflushed,
            elsewhere=self.record.elsewhere,
            segments=self.segments,
            records=self.records,
            size=self.size,
            raw_bytes=self.raw_bytes,
            segments_in_all=None if in_all is None else in_all[0],
            records_in_all=None if in_all is None else in_all[1],
            size_in_all=None if in_all is None else in_all[2],
            raw_bytes_in_all=None if in_all is None else in_all[3],
            rate=rate,
            left_s=left,
        )
