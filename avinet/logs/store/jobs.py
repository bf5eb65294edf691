"""What a worker of the log store is asked to do, and what it answers.

The parent (a controller) decides: which segments become which file, which files a query may see, how long it may take
and how much it may answer.  A worker keeps nothing between two jobs that it would miss after a crash.
"""

import enum
from typing import Annotated

import msgspec

from avinet.logs.query.answers import Answer
from avinet.logs.query.shapes import Query
from avinet.logs.store.contents import Contents, Part
from avinet.model.logs import Count, Microseconds, SegmentHead
from avinet.units import MIB

MAX_JOB_SEGMENTS = 4_096
"""In one job; significant ones are small, and each costs its head's 400 bytes in the message."""
MAX_JOB_FILES = 100_000
"""That one query may see: years of compacted hours."""
MAX_DESCRIBED = 16
"""In one job: what a file says of itself are 2 MiB at most."""
MAX_ANSWER_BYTES = 16 * MIB
"""Of one query's rows, encoded; what is larger is exported to a file."""
MAX_ANSWER_ROWS = 100_000
MAX_FRAME_BYTES = 64 * MIB
"""Either way.  The largest: the names of ``MAX_JOB_FILES`` files, or an answer."""


class Role(enum.StrEnum):
    """What a worker is for."""

    INGEST = "ingest"
    """Segments to files, small files to large ones."""
    QUERY = "query"


class ExportFormat(enum.StrEnum):
    """What records are exported as."""

    NDJSON = "ndjson"
    CSV = "csv"
    PARQUET = "parquet"


class _Data(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    pass


class SegmentFile(_Data, frozen=True, kw_only=True):
    """A segment that was received whole; ``se_uuid`` is who proved to have sent it, ``se`` what it is called."""

    path: str
    offset: Count | None = None
    """Where it begins in a file of several; None for a file of its own."""
    se_uuid: str
    se: str
    head: SegmentHead


class Ingest(_Data, frozen=True, kw_only=True, tag=True):
    """Make ``target`` of ``segments``; what cannot be read goes to ``bad_lines`` (NDJSON), as far as there is room."""

    segments: Annotated[tuple[SegmentFile, ...], msgspec.Meta(max_length=MAX_JOB_SEGMENTS)]
    target: str
    bad_lines: str


class Merge(_Data, frozen=True, kw_only=True, tag=True):
    """Make ``target`` of the records of ``sources``, sorted."""

    sources: tuple[str, ...]
    target: str


class Select(_Data, frozen=True, kw_only=True, tag=True):
    """Run a statement of the engine's own on the table ``records``, which is ``files``; values are bound."""

    sql: str
    values: dict[str, object]
    files: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_JOB_FILES)]
    max_rows: int = MAX_ANSWER_ROWS
    max_bytes: int = MAX_ANSWER_BYTES


class Ask(_Data, frozen=True, kw_only=True, tag=True):
    """Answer a query from ``files``."""

    query: Query
    files: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_JOB_FILES)]


class Attempt(_Data, frozen=True, kw_only=True, tag=True):
    """Make every comparison of a query's filter with one made-up record: ``Rows`` with one, if the engine takes them."""

    query: Query


class Export(_Data, frozen=True, kw_only=True, tag=True):
    """Write a query's rows to a new file of 0600."""

    query: Query
    files: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_JOB_FILES)]
    target: str
    format: ExportFormat
    max_bytes: int


class Check(_Data, frozen=True, kw_only=True, tag=True):
    """Read every value of each file."""

    files: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_JOB_FILES)]


class Describe(_Data, frozen=True, kw_only=True, tag=True):
    """Say what each file is and what it holds, as far as its footer says."""

    files: Annotated[tuple[str, ...], msgspec.Meta(max_length=MAX_DESCRIBED)]


Job = Ingest | Merge | Ask | Attempt | Select | Export | Check | Describe


class BadSegment(_Data, frozen=True, kw_only=True):
    """One whose bytes are not what its head says: nothing of it was taken."""

    number: int
    """Its place in the job."""
    why: str


class BadLines(_Data, frozen=True, kw_only=True):
    """Lines of a segment that are no records of its service."""

    number: int
    lines: Count
    why: str
    """Of the first one."""


class Written(_Data, frozen=True, kw_only=True, tag=True):
    """A file that is on the disk for good, unless it has no record: then there is none."""

    records: Count
    size: Count = 0
    """Bytes of the file."""
    first_us: Microseconds = 0
    last_us: Microseconds = 0
    services: tuple[str, ...] = ()
    """UUIDs, sorted."""
    parts: tuple[Part, ...] = ()
    bad: tuple[BadSegment, ...] = ()
    bad_lines: tuple[BadLines, ...] = ()


class Rows(_Data, frozen=True, kw_only=True, tag=True):
    """What a statement gives.  Times are microseconds of UNIX time."""

    columns: tuple[str, ...]
    rows: list[list[object]]
    truncated: bool = False
    """There would have been more."""


class Found(_Data, frozen=True, kw_only=True, tag=True):
    """A query's answer as people get it, but for what is not in the store yet."""

    answer: Answer


class Exported(_Data, frozen=True, kw_only=True, tag=True):
    """A file with a query's answer."""

    records: Count
    size: Count


class DamagedFile(_Data, frozen=True, kw_only=True):
    """One that cannot be read, or is not there."""

    path: str
    why: str


class Checked(_Data, frozen=True, kw_only=True, tag=True):
    """What is wrong with files; nothing with those that are not named."""

    damaged: tuple[DamagedFile, ...] = ()


class Description(_Data, frozen=True, kw_only=True):
    """What a file is, or ``why`` it cannot be read; ``contents`` where it says what it holds."""

    path: str
    why: str = ""
    records: Count = 0
    size: Count = 0
    first_us: Microseconds = 0
    last_us: Microseconds = 0
    parts: tuple[Part, ...] = ()
    contents: Contents | None = None


class Described(_Data, frozen=True, kw_only=True, tag=True):
    """Each file that was asked about."""

    files: tuple[Description, ...]


class Failed(_Data, frozen=True, kw_only=True, tag=True):
    """Why there is none.  ``kind`` is one of ``FailureKind``; the parent makes an error of it."""

    kind: str
    why: str


class FailureKind(enum.StrEnum):
    """What a caller can act on."""

    MEMORY = "memory"
    TIME = "time"
    """Asked to stop, since it took too long or nobody waits any more."""
    TOO_LARGE = "too-large"
    NO_SPACE = "no-space"
    REFUSED = "refused"
    """The engine does not take the query."""
    BROKEN = "broken"
    """A defect, or a disk's."""


Done = Written | Found | Rows | Exported | Checked | Described | Failed


class Asked(msgspec.Struct, frozen=True, array_like=True):
    """Parent to worker: do it; without a job, stop doing it."""

    number: int
    job: Job | None = None


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """Worker to parent."""

    number: int
    done: Done
    worn: bool = False
    """Its allocators hold so much that the next job may find none; it should make room for a new worker."""
