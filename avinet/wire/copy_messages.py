"""The messages of the service ``peer-copies``, by which a controller has its request logs copied to another, the keeper.

The controller that has logs opens the channel and says of which store (``CopyHello``); the keeper answers ``CopyWelcome`` once
its copy of that store is open, and then names what it holds of it (``Holding``).  A part is a ``Copy`` with the heads of its
segments, and raw frames with their bytes, one behind the other; ``GoOn`` turns to a part that was begun before, so that small
ones need not wait behind large ones.  Each has its answer, ``Held``, when it is verified and durable; what is held counts only
once its controller says so (``Confirm``).

``CopyClaim`` and ``CopyQuestion`` are what members ask each other, each on a channel of its own.  A field added later has a
default, so that versions N and N-1 understand each other.
"""

from typing import Annotated

import msgspec

from avinet.model.ids import ControllerName, SeId
from avinet.model.logs import Count, Counter, SegmentHead
from avinet.wire.log_messages import MAX_BATCH, OldStore, Text
from avinet.wire.raw_frames import MAX_MESSAGE_BYTES, RawDecoder, message_frame
from avinet.wire.vocabulary import Vocabulary

PROTOCOL = "copies of logs"
MAX_RUNS = 1_000
"""Of counters in one message, each some 20 bytes, 110 where each is of another spool."""
MAX_PARTS = 1_000
"""In one ``Held``."""

StoreId = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
"""A folder's name here, hence checked here; so is the SE's."""
Se = Annotated[SeId, msgspec.Meta(pattern=r"^se-[0-9a-f-]{1,40}\Z")]
Incarnation = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{32}\Z")]
PartNumber = Annotated[int, msgspec.Meta(ge=1, le=2**53)]
SpanRow = tuple[Se, Incarnation, Counter, Counter]
"""Whose, of which incarnation, from the first counter to the last."""
Spans = Annotated[tuple[SpanRow, ...], msgspec.Meta(max_length=MAX_RUNS)]


class CopyMessage(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """Anything that travels in a frame of messages."""


class CopyHello(CopyMessage, tag="copy-hello", frozen=True, kw_only=True):
    """First: of this store."""

    store: StoreId


class CopyWelcome(CopyMessage, tag="copy-welcome", frozen=True, kw_only=True):
    """The keeper's answer."""

    new: bool = False
    """Whether it had nothing of that store."""


class Holding(CopyMessage, tag="holding", frozen=True, kw_only=True):
    """Keeper, behind its welcome: these it holds, and has not heard whether they count."""

    names: Spans = ()
    more: bool = False
    """Another follows."""


class Copy(CopyMessage, tag="copy", frozen=True, kw_only=True):
    """The bytes of these segments follow, one behind the other; all are of one incarnation."""

    part: PartNumber
    """Grows by one."""
    se: Se
    heads: Annotated[tuple[SegmentHead, ...], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]


class GoOn(CopyMessage, tag="go-on", frozen=True, kw_only=True):
    """Raw frames that follow are of this part, which was begun before."""

    part: PartNumber


class Held(CopyMessage, tag="held", frozen=True, kw_only=True):
    """Keeper: these are verified and durable."""

    parts: Annotated[tuple[PartNumber, ...], msgspec.Meta(max_length=MAX_PARTS)]


class NotHeld(CopyMessage, tag="not-held", frozen=True, kw_only=True):
    """Keeper: this one is not what its heads say."""

    part: PartNumber
    text: Text = ""


class NoRoom(CopyMessage, tag="no-room", frozen=True, kw_only=True):
    """Keeper, last: it can keep nothing now."""

    text: Text = ""


class Confirm(CopyMessage, tag="confirm", frozen=True, kw_only=True):
    """Those of these that are held count; ``Settled`` says that this is durable."""

    number: Count
    names: Spans = ()
    drop: Spans = ()
    """Those of these that are held are not wanted: another's copies count, or nobody has acknowledged them."""


class Settled(CopyMessage, tag="settled", frozen=True, kw_only=True):
    """Keeper."""

    number: Count


class Forget(CopyMessage, tag="forget", frozen=True, kw_only=True):
    """The SE's spool has no segment with a lower counter any more: what came of them need not be remembered."""

    se: Se
    incarnation: Incarnation
    below: Count


class NotCopied(CopyMessage, tag="not-copied", frozen=True, kw_only=True):
    """The store has so many records, up to that time, that are copied nowhere."""

    records: Count
    newest_us: Count


class CopyClaim(CopyMessage, tag="copy-claim", frozen=True, kw_only=True):
    """First: the store's controller is gone, and of these the asker holds copies.  May they count?"""

    store: StoreId
    controller: Annotated[ControllerName, msgspec.Meta(min_length=1, max_length=63)]
    """Whose it was."""
    names: Spans


class CopyClaimed(CopyMessage, tag="copy-claimed", frozen=True, kw_only=True):
    """The answer: all may but these, whose copies count elsewhere."""

    not_: Spans = msgspec.field(default=(), name="not")
    refused: Text = ""
    """Why nothing can be said now."""


class CopyQuestion(CopyMessage, tag="copy-question", frozen=True, kw_only=True):
    """First: which of these does the asked one have, in its own store or in a copy; of one store, or of any."""

    store: OldStore
    names: Spans


class CopyAnswer(CopyMessage, tag="copy-answer", frozen=True, kw_only=True):
    """The answer: these."""

    names: Spans = ()
    refused: Text = ""


class CopyUnsupported(CopyMessage, tag="copy-unsupported", frozen=True, kw_only=True):
    """The answer to a message whose tag this side does not know; never answered."""

    tag_: str = msgspec.field(name="tag")


_vocabulary: Vocabulary[CopyMessage] = Vocabulary(PROTOCOL, CopyMessage, MAX_MESSAGE_BYTES - 1)


def encode(message: CopyMessage) -> bytes:
    """One frame."""
    return message_frame(_vocabulary, message)


def copy_decoder() -> RawDecoder[CopyMessage]:
    """Of one channel."""
    return RawDecoder(_vocabulary)
