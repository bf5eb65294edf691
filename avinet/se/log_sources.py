"""What log channels draw on: the spool, and what they have in common."""

from collections.abc import Callable, Sequence
from typing import Protocol

import attrs
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IReactorTime

from avinet.logs.reach import Reach, Sendable
from avinet.logs.spool_lending import Lending
from avinet.model.ids import ControllerName
from avinet.model.logs import ClassTotals, Drop, SegmentHead, Selection, SpoolTotals
from avinet.se.log_files import InThread
from avinet.se.log_owners import LogOwners


class SpoolReader(Protocol):
    """What is asked of a spool (``avinet.logs.spool.Spool``); every call blocks."""

    @property
    def incarnation(self) -> str:
        """Of the segments to come."""

    def last_counter(self) -> int:
        """The newest segment's."""

    @property
    def lending(self) -> Lending:
        """Where what is sent is borrowed."""

    def set_back(self, controller: ControllerName, counter: int, position: int) -> bool:
        """A controller has segments and drops up to there; whether the spool is an older copy of itself."""

    def pending(self, selection: Selection, up_to: int | None, after: int, limit: int) -> list[SegmentHead]:
        """The oldest of a selection."""

    def sendable(
        self, selection: Selection, up_to: int | None, after: int, limit: int, reach: Reach
    ) -> list[Sendable]:
        """Those of them that a controller may be sent."""

    def plan(self, selection: Selection, up_to: int | None, reach: Reach | None = ...) -> ClassTotals:
        """All of them together."""

    def elsewhere(
        self, selection: Selection, up_to: int | None, reach: Reach
    ) -> dict[ControllerName, ClassTotals]:
        """What of a selection it may not be sent, by who may have it."""

    def acknowledge(self, names: Sequence[str]) -> None:
        """They are kept elsewhere."""

    def sweep(self) -> None:
        """Take what is acknowledged off the disk."""

    def refused(self, name: str, why: str) -> None:
        """It is not what was written."""

    def drops_since(self, position: int, limit: int = ...) -> tuple[tuple[Drop, ...], int]:
        """What was lost after a position."""

    def totals(self) -> SpoolTotals:
        """What is here."""


@attrs.frozen
class LogSource:
    """What all channels draw on."""

    spool: SpoolReader
    flush: Callable[[], Deferred[int]]
    """Put all that was logged into segments; the last one's counter."""
    in_thread: InThread
    clock: IReactorTime
    owners: LogOwners
    taken: set[str] = attrs.field(factory=set)
    """Segments that some channel sends: with several controllers each goes to one of them."""
