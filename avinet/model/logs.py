"""What a log segment is, and what can become of request logs: words that service engines and controllers share.

A **segment** is one immutable zstd frame of NDJSON: request logs of one virtual service, of one class, written by one
spool.  Its identity is the SE's authenticated UUID, the spool's incarnation and a counter; nothing in its content
counts.  Each line begins with ``{"_time":"2026-11-27T12:00:00.123456Z","_vs":"virtualservice-<uuid>",`` so that
lines can be told apart by their bytes at fixed places, without parsing.
"""

import enum
from typing import Annotated

import msgspec

from avinet.model.ids import ObjectId
from avinet.units import GIB, MIB

LINE_HEAD = b'{"_time":"'
"""What each line begins with; then the time, 27 bytes of UTC with microseconds."""
TIME_BYTES = 27
LINE_SERVICE = b'","_vs":"'
"""Between the time and the virtual service's UUID, which ends at the next quote."""

MAX_SEGMENT_RAW_BYTES = 64 * MIB
"""NDJSON in one segment: what a reader has to have room for."""
MAX_SEGMENT_BYTES = 64 * MIB
"""Compressed; what does not compress at all grows by less than what the raw bound leaves."""
MAX_RATIO = 32_768
"""Raw to compressed: what zstd can do, a block of 128 KiB in 4 bytes (RFC 8878, 3.1.1.2), so a head that says more lies.

Nothing lower tells an attack from logs, whose sameness is up to the clients.  Measured at level 1: usual lines 10 to 20; one
client that asks one path again and again 20 with ids of Envoy's own and 60 to 250 with one of its own for all; with 50 KB
in the path (Envoy takes 60 KiB of headers) 1,000 and 2,100, escaped in JSON 2,700 to 7,600.  A bound of 1,000 let any client
have its own service's logs refused, and then the channel cut.  What a frame may become is bounded by ``raw_bytes``."""
MAX_PULL_BYTES = 1024 * GIB

ANY_STORE = "?"
"""Instead of a log store's id: nobody knows which it was."""


class LogClass(enum.StrEnum):
    """Which of the two logs of a virtual service."""

    SIGNIFICANT = "significant"
    """Errors, what was slow or cut: pushed within seconds."""
    FULL = "full"
    """All the rest: kept on the SE until asked for."""


class DropReason(enum.StrEnum):
    """Why records never reach a controller."""

    SPOOL_FULL = "spool-full"
    """The spool's limit by bytes, or the disk."""
    EXPIRED = "expired"
    """The spool's limit by age."""
    THROTTLED = "throttled"
    """Beyond the records a second that a virtual service or the SE may log."""
    TORN = "torn"
    """A line that ends in the middle: Envoy was killed, or its disk was full."""
    CORRUPT = "corrupt"
    """A segment whose bytes are not what was written."""
    STORE_FULL = "store-full"
    """The controller's own: its store has no more room, and these were the oldest of whoever has more than its share."""
    UNWRITTEN = "unwritten"
    """Envoy could not write it."""


class LineField(enum.StrEnum):
    """The keys of a line after its time and its virtual service's UUID; ``null``, or not there, where it is not known.

    Durations are whole microseconds: what the data plane can say, and as milliseconds it would be 0 for most.
    """

    BYTES_IN = "bytes_in"
    """Integer: of the request's body; of a TCP connection all that the client sent."""
    BYTES_OUT = "bytes_out"
    CLIENT = "client"
    """IP address."""
    CLIENT_PORT = "client_port"
    """Integer."""
    CONNECT_US = "connect_us"
    """Integer: of the connection to the server, which an earlier request may have made."""
    DURATION_US = "duration_us"
    """Integer: from the request's first byte to the answer's last; of a TCP connection to its end, in steps of 1,000."""
    FIRST_BYTE_US = "first_byte_us"
    """Integer: from the request's first byte to the answer's first."""
    FLAGS = "flags"
    """What went wrong, in the data plane's short words with commas between; ``-`` for nothing."""
    HOST = "host"
    LISTENER = "listener"
    """Address and port that the client came to."""
    METHOD = "method"
    PATH = "path"
    """With the query."""
    POOL = "pool"
    """Its name."""
    PROTOCOL = "protocol"
    """``HTTP/1.0``, ``HTTP/1.1``, ``HTTP/2``; null for TCP."""
    REASON = "reason"
    """Where the answer is from, or why there is none."""
    REQUEST_ID = "request_id"
    SERVER = "server"
    """Address and port."""
    STATUS = "status"
    """Integer; 0 where no answer was sent, and for TCP."""
    TLS_CIPHER = "tls_cipher"
    TLS_VERSION = "tls_version"
    USER_AGENT = "user_agent"
    SERVICE = "vs"
    """The virtual service's name."""


def piece_name(log_class: "LogClass", number: int) -> str:
    """What the data plane's file of this class is renamed to when it is to be written no more."""
    return f"{log_class.value}.{number}.ndjson"


Counter = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
Microseconds = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""Of UNIX time."""


class SegmentHead(msgspec.Struct, frozen=True, kw_only=True):
    """What the spool's index says of one segment, and what is sent before its bytes.

    The controller believes ``counter`` and ``incarnation`` to be the SE's own, checks ``size`` and ``sha256``, and
    corrects the rest from the content.
    """

    incarnation: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    """Made anew with each spool, so that a spool that was lost never reuses a counter."""
    counter: Counter
    service: Annotated[ObjectId, msgspec.Meta(pattern=r"^virtualservice-[0-9a-f-]{36}\Z")]
    log_class: LogClass
    first_us: Microseconds
    """The earliest request's start."""
    last_us: Microseconds
    records: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEGMENT_RAW_BYTES)]
    raw_bytes: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEGMENT_RAW_BYTES)]
    size: Annotated[int, msgspec.Meta(ge=1, le=MAX_SEGMENT_BYTES)]
    """Compressed bytes."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    """Of the compressed bytes."""

    @property
    def name(self) -> str:
        """Unique within one SE, and safe as a file's name."""
        return f"{self.incarnation}-{self.counter:016d}"


class Drop(msgspec.Struct, frozen=True, kw_only=True):
    """Records that are lost, counted.  ``service`` is empty where it is not known."""

    reason: DropReason
    log_class: LogClass
    service: Annotated[str, msgspec.Meta(max_length=100)] = ""
    first_us: Microseconds = 0
    last_us: Microseconds = 0
    records: Count = 0
    """0 where they could not be counted; ``raw_bytes`` then says how much."""
    raw_bytes: Count = 0


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """Which segments of one SE a pull wants: those that overlap the range, of these services (of all when empty)."""

    services: tuple[ObjectId, ...] = ()
    classes: tuple[LogClass, ...] = (LogClass.SIGNIFICANT, LogClass.FULL)
    since_us: Microseconds = 0
    until_us: Microseconds = 2**53


class ClassTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What a spool holds of one class."""

    segments: Count = 0
    records: Count = 0
    raw_bytes: Count = 0
    size: Count = 0
    """Compressed bytes."""
    oldest_us: Microseconds = 0
    """The earliest request's start; 0 when there is none."""


class SpoolTotals(msgspec.Struct, frozen=True, kw_only=True):
    """What one spool holds, and what it has lost since it was made."""

    significant: ClassTotals = ClassTotals()
    full: ClassTotals = ClassTotals()
    limit_bytes: Count = 0
    drops: dict[DropReason, Count] = {}
    """Records, by reason."""
    growing_bytes: Count = 0
    """NDJSON of the full logs that is in no segment yet: what the data plane writes, and what waits to be taken in."""
