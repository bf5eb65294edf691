"""Control-session frames to messages and back.  No I/O: bytes in, messages out.

A frame is a 4-byte big-endian length, then that many bytes of MessagePack holding one map.  The map's key ``t``
names the message (``avinet.wire.messages``); the other keys are its fields by name.  Fields that this side does not
know are skipped, and fields left out have their defaults.  An unknown ``t`` is not an error but an
``UnknownMessage``, so that a newer peer is told rather than cut.  Anything else that does not fit is a
``RemoteProtocolError``, after which the decoder is spent: in a stream of lengths there is no way back into step.
"""

from functools import reduce
from operator import or_
from typing import Any

import attrs
import msgspec

from avinet.errors import LocalProtocolError, RemoteProtocolError
from avinet.units import KIB, MIB
from avinet.wire.messages import Message

PROTOCOL = "control session"
LENGTH_BYTES = 4
MAX_FRAME_BYTES = MIB
"""One message.  gRPC takes 4 MiB and etcd 1.5 MiB; a larger resource travels in pieces of half of this."""
MAX_HELLO_BYTES = 16 * KIB
"""The first message, from a peer that has proved its key and nothing else; a ``Hello`` is about 300 bytes."""
MAX_TAG_CHARS = 64
"""Of an unknown tag, since it is sent back; our longest has 13."""

_MESSAGE_TYPES: tuple[Any, ...] = tuple(Message.__subclasses__())
_TAGS = frozenset(kind.__struct_config__.tag for kind in _MESSAGE_TYPES)


class _Tagged(msgspec.Struct):
    """Any map with a tag, to tell a message that is unknown from one that is wrong."""

    t: str


_decoder: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(reduce(or_, _MESSAGE_TYPES))
_tag_decoder = msgspec.msgpack.Decoder(_Tagged)
_encoder = msgspec.msgpack.Encoder()


@attrs.frozen
class UnknownMessage:
    """A well-formed message whose tag this side does not know."""

    tag: str


Received = Message | UnknownMessage


def encode(message: Message) -> bytes:
    """One frame; ``LocalProtocolError`` when it would be longer than any peer takes."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise LocalProtocolError(
            protocol=PROTOCOL,
            detail=f"a {type(message).__name__} of {len(body)} bytes; at most {MAX_FRAME_BYTES}",
        )
    return len(body).to_bytes(LENGTH_BYTES, "big") + body


def decode_body(body: bytes | memoryview) -> Received:
    """What one frame holds, without its length."""
    try:
        return _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
        tag = _tag_of(body)
        if tag is not None and tag not in _TAGS:
            return UnknownMessage(tag)
        # The decoder's text names the field and the types, never a value: a body may hold a private key.
        detail = (
            f"a message it cannot mean, {why}"
            if isinstance(why, msgspec.ValidationError)
            else "not MessagePack"
        )
        raise RemoteProtocolError(protocol=PROTOCOL, detail=f"{detail} (tag {tag})") from None


def _tag_of(body: bytes | memoryview) -> str | None:
    try:
        tag = _tag_decoder.decode(body).t
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return tag if 0 < len(tag) <= MAX_TAG_CHARS and tag.isprintable() else None


@attrs.define(eq=False)
class FrameDecoder:
    """The receiving half of one connection.  Holds at most one unfinished frame and what was fed beyond it."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    """May be raised between messages: a peer that has not introduced itself is given less."""
    last_frame_bytes: int = attrs.field(default=0, init=False)
    """The size of the message that ``next_message`` returned last, with its length."""
    _buffer: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _failure: RemoteProtocolError | None = attrs.field(default=None, init=False)

    @property
    def buffered_bytes(self) -> int:
        """What was fed and not yet returned as messages."""
        return len(self._buffer)

    def feed(self, data: bytes) -> None:
        """Take bytes as they came."""
        if self._failure is None:
            self._buffer += data

    def next_message(self) -> Received | None:
        """The next whole message, or None until more is fed.  Raises ``RemoteProtocolError``, from then on always."""
        if self._failure is not None:
            raise self._failure
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if not 0 < length <= self.max_frame_bytes:
            detail = f"a message of {length} bytes; here 1 to {self.max_frame_bytes} are taken"
            raise self._fail(RemoteProtocolError(protocol=PROTOCOL, detail=detail))
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[LENGTH_BYTES:end])
        del self._buffer[:end]
        self.last_frame_bytes = end
        try:
            return decode_body(body)
        except RemoteProtocolError as failure:
            raise self._fail(failure) from None

    def _fail(self, failure: RemoteProtocolError) -> RemoteProtocolError:
        self._failure = failure
        self._buffer.clear()
        return failure
