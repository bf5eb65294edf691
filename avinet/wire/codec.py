"""Framed messages to bytes and back: the control session's, and others' that are framed as it is.  No I/O.

A frame is a 4-byte big-endian length, then that many bytes of MessagePack: one message, in the way of
``avinet.wire.vocabulary``.  Whatever does not fit is a ``RemoteProtocolError``, after which the decoder is spent: in a
stream of lengths there is no way back into step.
"""

from collections.abc import Callable
from typing import Generic

import attrs

from avinet.errors import RemoteProtocolError
from avinet.units import KIB, MIB
from avinet.wire.messages import Goodbye, Message, Unsupported
from avinet.wire.vocabulary import MAX_TAG_CHARS, M, UnknownMessage, Vocabulary

__all__ = (
    "CONTROL",
    "LENGTH_BYTES",
    "MAX_FRAME_BYTES",
    "MAX_HELLO_BYTES",
    "MAX_TAG_CHARS",
    "PROTOCOL",
    "Dialect",
    "FrameDecoder",
    "Received",
    "UnknownMessage",
    "decode_body",
    "encode",
)

PROTOCOL = "control session"
LENGTH_BYTES = 4
MAX_FRAME_BYTES = MIB
"""One message.  gRPC takes 4 MiB and etcd 1.5 MiB; a larger resource travels in pieces of half of this."""
MAX_HELLO_BYTES = 16 * KIB
"""The first message, from a peer that has proved its key and nothing else; a ``Hello`` is about 300 bytes."""

Received = Message | UnknownMessage


@attrs.frozen
class Dialect(Generic[M]):
    """One protocol that is framed like this."""

    vocabulary: Vocabulary[M]
    goodbye: Callable[[str, str], M]
    """The last message, of a reason and a text."""
    unsupported: Callable[[str], M]
    """The answer to a tag that is not known."""

    def encode(self, message: M) -> bytes:
        """One frame; ``LocalProtocolError`` when it would be longer than any peer takes."""
        body = self.vocabulary.encode(message)
        return len(body).to_bytes(LENGTH_BYTES, "big") + body


CONTROL: Dialect[Message] = Dialect(
    # The abstract base stands for its subclasses, which is what the decoder makes.
    Vocabulary(PROTOCOL, Message, MAX_FRAME_BYTES),
    lambda reason, text: Goodbye(reason=reason, text=text),
    lambda tag: Unsupported(tag_=tag),
)


def encode(message: Message) -> bytes:
    """One frame of the control session; ``LocalProtocolError`` when it would be longer than any peer takes."""
    return CONTROL.encode(message)


def decode_body(body: bytes | memoryview) -> Received:
    """What one frame of it holds, without its length."""
    return CONTROL.vocabulary.decode(body)


@attrs.define(eq=False)
class FrameDecoder(Generic[M]):
    """The receiving half of one connection.  Holds at most one unfinished frame and what was fed beyond it."""

    max_frame_bytes: int = MAX_FRAME_BYTES
    """May be raised between messages: a peer that has not introduced itself is given less."""
    vocabulary: Vocabulary[M] = CONTROL.vocabulary  # type: ignore[assignment]  # the default is the control session's
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

    def next_message(self) -> M | UnknownMessage | None:
        """The next whole message, or None until more is fed.  Raises ``RemoteProtocolError``, from then on always."""
        if self._failure is not None:
            raise self._failure
        if len(self._buffer) < LENGTH_BYTES:
            return None
        length = int.from_bytes(self._buffer[:LENGTH_BYTES], "big")
        if not 0 < length <= self.max_frame_bytes:
            detail = f"a message of {length} bytes; here 1 to {self.max_frame_bytes} are taken"
            raise self._fail(RemoteProtocolError(protocol=self.vocabulary.protocol, detail=detail))
        end = LENGTH_BYTES + length
        if len(self._buffer) < end:
            return None
        body = bytes(memoryview(self._buffer)[LENGTH_BYTES:end])
        del self._buffer[:end]
        self.last_frame_bytes = end
        try:
            return self.vocabulary.decode(body)
        except RemoteProtocolError as failure:
            raise self._fail(failure) from None

    def _fail(self, failure: RemoteProtocolError) -> RemoteProtocolError:
        self._failure = failure
        self._buffer.clear()
        return failure
