"""What a link of a log service asks of whoever owns all of them (``avinet.controller.log_intake``)."""

from collections.abc import Sequence
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from avinet.controller.log_writes import AnyPart, Writes
from avinet.logs.entries import Segment
from avinet.logs.incoming_pack import PackPart, Start
from avinet.logs.incoming_part import Part
from avinet.logs.runs import Names
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead, SpoolTotals
from avinet.wire.log_messages import Dropped, LogWelcome, Planned, PullDone

Link_contra = TypeVar("Link_contra", contravariant=True)


class LinkOwner(Protocol[Link_contra]):
    """What a link needs of the intake."""

    def buffer(self) -> Writes:
        """An empty one."""

    def give_back(self, writes: Writes) -> None:
        """It is done."""

    def write(self, writes: Writes) -> Deferred[None]:
        """In the pool of all links."""

    def keep(self, part: AnyPart, pull: str) -> Deferred[None]:
        """What is whole: fires when it is in the ledger; never fails."""

    def counted(self, store: str, segments: Sequence[Segment]) -> Deferred[Names | None]:
        """Which of these count already, in that store or a copy of it; None while that cannot be found out.  Never fails."""

    def discard(self, part: AnyPart) -> Deferred[None]:
        """It is not wanted."""

    def part(self, segment: Segment, offset: int) -> Part:
        """Its file."""

    def pack(self, se: SeId, start: Start) -> PackPart:
        """A batch's file."""

    def claim(self, link: Link_contra, part: AnyPart) -> bool:
        """Whether the link may write these segments: no other one does."""

    def release(self, part: AnyPart) -> None:
        """Nobody writes it any more."""

    def welcome(self, link: Link_contra, incarnation: str) -> Deferred[LogWelcome]:
        """What to welcome it with: what is on disk here of its segments and drops."""

    def add_drops(self, link: Link_contra, message: Dropped) -> Deferred[None]:
        """Fires when they are in the ledger."""

    def held_up(self, link: Link_contra, why: Failure) -> None:
        """Nothing can be written for now."""

    def link_ready(self, link: Link_contra) -> None:
        """It was welcomed."""

    def told(self, link: Link_contra, message: Planned | PullDone) -> None:
        """About a pull."""

    def arrived(self, link: Link_contra, heads: Sequence[SegmentHead], pull: int) -> None:
        """Segments are in the ledger."""

    def flowed(self, link: Link_contra, pull: int, size: int) -> None:
        """Some bytes of a segment have come."""

    def spool(self, link: Link_contra, totals: SpoolTotals, incarnation: str, below: int) -> None:
        """What it holds, and that it has no segment of this incarnation with a counter below that."""

    def link_lost(self, link: Link_contra, why: str, broke: str) -> None:
        """Once, last but for what its thread still does; ``broke`` says how it broke the protocol, if it did."""
