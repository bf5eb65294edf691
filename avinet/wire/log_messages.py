"""The messages of the log services, as MessagePack maps tagged by ``t``, between the bytes of segments.

Both services, ``logs-live`` and ``logs``, speak them.  The SE speaks first (``LogHello``); after ``LogWelcome`` either
side may send.  A field added later has a default, so that versions N and N-1 understand each other.

A segment is a ``Begin`` and raw frames until ``head.size`` bytes have come; another ``Begin`` before that leaves it for
now.  A ``Batch`` is several: what comes whole of it counts as if each had begun alone, and the one that it breaks off in is
left for now.  A segment's end is an ``Ack`` or a ``Refuse``, which may come at any time after the ``Begin``.
"""

import enum
from typing import Annotated

import msgspec

from avinet.model.ids import ControllerName
from avinet.model.logs import Count, Drop, SegmentHead, Selection, SpoolTotals
from avinet.units import MIB

LIVE_SERVICE = "logs-live"
"""The name of the service in an enrolment's answer: significant segments, drops and totals, pushed."""
LIVE_PORT = 5098
BULK_SERVICE = "logs"
"""What is pulled."""
BULK_PORT = 5099
"""Defaults, since an enrolment's answer says which; next to the control service's 5096."""

PUSHED = 0
"""The pull of a segment that nobody asked for."""
MAX_PARTIALS = 16
"""Named in one ``LogWelcome``; an SE leaves at most two in the middle when it goes, one on each service."""
MAX_NAMES = 256
"""In one ``Ack``."""
MAX_BATCH = 256
"""Segments in one ``Batch``: heads of some 300 bytes each."""
MAX_BATCH_BYTES = 8 * MIB
"""Of their bytes: some 10 ms at full speed, beside which what a batch costs is little."""
MAX_KEPT = 1024
"""Named in one ``LogWelcome``: all that an SE may have sent without an answer."""
MAX_DROPS = 500
"""In one ``Dropped``; some 200 bytes each."""
MAX_TEXT = 500
"""Characters of a reason in words."""

MAX_ELSEWHERE = 16
"""Controllers of which one message says what they may have; a cluster has 3, and those that it had before."""

PullId = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
Name = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}-[0-9]{16}\Z")]
"""A segment's (``SegmentHead.name``); a file's name on both sides, hence checked here."""
StoreId = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{32})?\Z")]
"""A controller's log store's, made with its ledger; empty where nothing is said of it."""
OldStore = Annotated[str, msgspec.Meta(pattern=r"^([0-9a-f]{32}|\?)?\Z")]
"""Of a store that a segment was begun with before, and of which it is not known whether it took it; ``ANY_STORE`` if it may be
any, empty if there was none."""
Elsewhere = Annotated[
    dict[Annotated[ControllerName, msgspec.Meta(max_length=255)], Count],
    msgspec.Meta(max_length=MAX_ELSEWHERE),
]
"""By controller: records of segments that were begun with it and have no answer, which only it is sent again."""
Text = Annotated[str, msgspec.Meta(max_length=MAX_TEXT)]
BytesPerSecond = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
"""0 is no limit."""


class RefuseReason(enum.StrEnum):
    """Why a segment was not taken."""

    AGAIN = "again"
    """What is here of it does not fit: send it from its first byte."""
    CORRUPT = "corrupt"
    """From first to last byte it is not what its head says."""
    HEAD = "head"
    """The head cannot be true: a ratio that no log has, an end before the beginning."""
    LATER = "later"
    """It was begun with another store, and whether it counts there cannot be found out now: try again."""


class LogMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """Anything that travels in a frame of messages."""


class LogHello(LogMessage, tag="log-hello", frozen=True, kw_only=True):
    """SE to controller, first."""

    incarnation: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    totals: SpoolTotals
    below: Count = 0
    """The spool has no segment of this incarnation with a lower counter any more: their names need not be remembered."""


class LogWelcome(LogMessage, tag="log-welcome", frozen=True, kw_only=True):
    """Controller to SE: go on."""

    partials: Annotated[dict[Name, Count], msgspec.Meta(max_length=MAX_PARTIALS)] = {}
    """Of segments that were not finished: how many bytes are on disk here."""
    drops_position: Count = 0
    """The last ``Dropped`` of this incarnation that is on disk here."""
    last_counter: Count = 0
    """The highest of this incarnation that came here.  If the spool has not come so far it was set back, to an older copy."""
    batches: bool = False
    """Whether a ``Batch`` is understood here."""
    kept: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_KEPT)] = ()
    """As an ``Ack``: what came last, whose ``Ack`` may have been lost."""
    store: StoreId = ""
    """Whose what is kept here is.  Empty from versions that do not know of it: then nothing is pinned to it."""


class Pull(LogMessage, tag="pull", frozen=True, kw_only=True):
    """Controller to SE: send these.  Sent again after a break, it means what is left of them."""

    pull: PullId
    selection: Selection
    up_to: Count | None = None
    """The last counter that belongs to it; None for all there is once the SE has flushed, which ``Planned`` says."""
    byte_limit: Count = 0
    """Of compressed bytes; 0 is no limit.  A segment that would exceed it is not begun."""
    rate: BytesPerSecond = 0
    paused: bool = False
    """Plan it, and send nothing until it is resumed."""


class Pause(LogMessage, tag="pause", frozen=True, kw_only=True):
    """Controller to SE: send nothing of it for now; 0 is everything on this channel, when there is no room for it."""

    pull: Count


class Resume(LogMessage, tag="resume", frozen=True, kw_only=True):
    """Controller to SE: go on with it; 0 takes back a ``Pause`` of 0, and no other."""

    pull: Count


class Cancel(LogMessage, tag="cancel", frozen=True, kw_only=True):
    """Controller to SE: forget it; there is no answer."""

    pull: PullId


class Rate(LogMessage, tag="rate", frozen=True, kw_only=True):
    """Controller to SE: no faster than this from now on."""

    pull: PullId
    rate: BytesPerSecond


class Planned(LogMessage, tag="planned", frozen=True, kw_only=True):
    """SE to controller: what a pull comes to, as the index says."""

    pull: PullId
    segments: Count
    size: Count
    """Compressed bytes."""
    raw_bytes: Count
    records: Count
    up_to: Count
    """The last counter that belongs to it."""
    unflushed: Text = ""
    """Why what was logged last may be missing: it could not be put into segments."""
    elsewhere: Elsewhere = {}
    """Of the selection, and in none of these sums."""


class PullDone(LogMessage, tag="pull-done", frozen=True, kw_only=True):
    """SE to controller: nothing is left of it, or ``failed`` says why it ends."""

    pull: PullId
    failed: Text = ""
    limited: bool = False
    """Whether the byte limit was reached, so that there is more."""
    elsewhere: Elsewhere = {}
    """What was left out."""


class Begin(LogMessage, tag="begin", frozen=True, kw_only=True):
    """SE to controller: this segment's bytes follow, from ``offset``."""

    head: SegmentHead
    offset: Count = 0
    pull: Count = PUSHED
    was: OldStore = ""


class Batch(LogMessage, tag="batch", frozen=True, kw_only=True):
    """SE to controller: the bytes of these segments follow, one after another, each from its first.

    All are of one incarnation, no two are the same.  Each is answered for itself, when the batch ends.
    """

    heads: Annotated[tuple[SegmentHead, ...], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    pull: Count = PUSHED
    was: OldStore = ""
    """The same of all of them."""


class Leave(LogMessage, tag="leave", frozen=True, kw_only=True):
    """SE to controller: nothing more comes for now of what is under way, so that what has come whole can be kept."""


class Ack(LogMessage, tag="log-ack", frozen=True, kw_only=True):
    """Controller to SE: verified, on disk and in the ledger; need not be kept any more."""

    names: Annotated[tuple[Name, ...], msgspec.Meta(max_length=MAX_NAMES)]


class Refuse(LogMessage, tag="log-refuse", frozen=True, kw_only=True):
    """Controller to SE: not taken."""

    name: Name
    reason: str
    """``RefuseReason``; another one means ``corrupt``."""
    text: Text = ""


class Dropped(LogMessage, tag="dropped", frozen=True, kw_only=True):
    """SE to controller: what was lost since the ``Dropped`` before; the next one follows its ``DroppedAck``."""

    incarnation: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
    position: Count
    """Counts up; a controller that has it already takes it for said."""
    drops: Annotated[tuple[Drop, ...], msgspec.Meta(max_length=MAX_DROPS)]


class DroppedAck(LogMessage, tag="dropped-ack", frozen=True, kw_only=True):
    """Controller to SE: on disk here."""

    position: Count


class SpoolStatus(LogMessage, tag="spool-status", frozen=True, kw_only=True):
    """SE to controller, now and then: what is kept there."""

    totals: SpoolTotals
    below: Count = 0
    """As in ``LogHello``."""


class LogUnsupported(LogMessage, tag="log-unsupported", frozen=True, kw_only=True):
    """The answer to a message whose tag this side does not know; never answered."""

    tag_: str = msgspec.field(name="tag")
