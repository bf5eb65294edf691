"""What controllers ask of a log store, whichever engine is behind it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import attrs
from twisted.internet.defer import Deferred

from avinet.logs.entries import Segment, Waiting
from avinet.logs.mended import Mended
from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Query
from avinet.logs.store.jobs import Exported, ExportFormat
from avinet.model.ids import SeId
from avinet.model.logs import Drop, DropReason


@attrs.frozen
class BadSegment:
    """A segment that was set aside: none of it is in the store."""

    segment: Segment
    why: str


@attrs.frozen
class BadLines:
    """Lines of a segment that were set aside; the others are in the store."""

    segment: Segment
    lines: int
    why: str
    """Of the first one."""


@attrs.frozen
class Taken:
    """What became of the segments that waited the longest."""

    segments: int = 0
    """0: none waited."""
    records: int = 0
    more: bool = False
    """Whether others probably wait still."""
    bad: tuple[BadSegment, ...] = ()
    bad_lines: tuple[BadLines, ...] = ()
    files: tuple[str, ...] = ()
    """Names of those that are new in the store."""
    full_only: tuple[str, ...] = ()
    """Those of them that have records of full logs alone."""

    def plus(self, other: "Taken") -> "Taken":
        """Both together; whether more wait is asked when all is taken."""
        return Taken(
            self.segments + other.segments,
            self.records + other.records,
            False,
            self.bad + other.bad,
            self.bad_lines + other.bad_lines,
            self.files + other.files,
            self.full_only + other.full_only,
        )

    @property
    def lost(self) -> list[tuple[SeId, Drop]]:
        """What was set aside, as what is lost is told."""
        found = [(one.segment, one.segment.head.records) for one in self.bad]
        found += [(one.segment, one.lines) for one in self.bad_lines]
        return [
            (
                segment.se,
                Drop(
                    reason=DropReason.CORRUPT,
                    log_class=segment.head.log_class,
                    service=segment.head.service,
                    first_us=segment.head.first_us,
                    last_us=segment.head.last_us,
                    records=records,
                ),
            )
            for segment, records in found
        ]


@attrs.frozen
class Keeping:
    """How long records are kept: until they are too old, or too many."""

    age_us: int
    bytes: int


@attrs.frozen
class Upkeep:
    """What was done to the files."""

    merged: int = 0
    """Files that became others."""
    removed: int = 0
    removed_records: int = 0


@attrs.frozen
class StoreStatus:
    """What there is."""

    waiting: Waiting
    files: int
    records: int
    bytes: int
    first_us: int | None
    last_us: int | None
    running: int
    """Queries under way."""
    queued: int
    mended: tuple[int, Mended] | None = None
    """What a start had to do about a list that did not fit the files, the last time, and when."""


@attrs.frozen
class ExportTerms:
    """What a file of records is, and how large it may become."""

    format: ExportFormat
    max_bytes: int
    parts: tuple[str, ...] = ()
    """Files of other stores' records, in the ``exports`` folder, which are to be in it, too."""


class LogStore(Protocol):
    """Errors are those of ``avinet.logs.store.errors``.  Every Deferred fires within a time that its engine bounds."""

    def start(self) -> Deferred[Mended]:
        """Remove what a crash left, have the list fit the files, then work."""

    def stop(self) -> Deferred[None]:
        """End what is under way; nothing that was received is lost by that."""

    def take(self) -> Deferred[Taken]:
        """Bring the segments that have waited the longest into the store: all of their records, once.

        Not to be called again before it is done.  After an error they wait as before.
        """

    def query(self, query: Query, only: Sequence[str] = (), also: Sequence[Any] = ()) -> Deferred[Answer]:
        """Answer from what is in the store now; of the files of these names alone, as far as they are there still.

        ``also``: other stores of its kind, on the same workers, as if they were one with it.
        """

    def export(
        self, query: Query, target: Path, terms: ExportTerms, also: Sequence[Any] = ()
    ) -> Deferred[Exported]:
        """Write all records of a query to a new file in the store's ``exports`` folder; without an answer there is none."""

    def check(self, query: Query) -> Deferred[None]:
        """Fail with ``LogQueryRefusedError`` where the engine takes no such filter, whichever records there are."""

    def keep_up(self, keeping: Keeping) -> Deferred[Upkeep]:
        """Merge what is small, remove what has had its time.  Not to be called again before it is done."""

    def status(self) -> Deferred[StoreStatus]:
        """What there is."""
