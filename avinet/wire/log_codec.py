"""Frames of the log services to messages and pieces of segments, and back (``avinet.wire.raw_frames``)."""

import attrs

from avinet.wire.log_messages import LogMessage
from avinet.wire.raw_frames import (
    HEAD_BYTES,
    MAX_MESSAGE_BYTES,
    MAX_RAW_BYTES,
    MESSAGE,
    RAW,
    RawDecoder,
    message_frame,
    raw_head,
)
from avinet.wire.vocabulary import UnknownMessage, Vocabulary

__all__ = [
    "HEAD_BYTES",
    "MAX_MESSAGE_BYTES",
    "MAX_RAW_BYTES",
    "MESSAGE",
    "PROTOCOL",
    "RAW",
    "LogDecoder",
    "LogReceived",
    "encode",
    "raw_head",
]

PROTOCOL = "log service"

LogReceived = LogMessage | UnknownMessage
_vocabulary: Vocabulary[LogMessage] = Vocabulary(PROTOCOL, LogMessage, MAX_MESSAGE_BYTES - 1)


def encode(message: LogMessage) -> bytes:
    """One frame; ``LocalProtocolError`` when it would be longer than any peer takes."""
    return message_frame(_vocabulary, message)


@attrs.define(eq=False)
class LogDecoder(RawDecoder[LogMessage]):
    """The receiving half of one channel."""

    vocabulary: Vocabulary[LogMessage] = attrs.field(default=_vocabulary, init=False, repr=False)
