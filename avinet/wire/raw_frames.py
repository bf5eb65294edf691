"""Frames of messages and of raw bytes between them, to both and back.  No I/O, and no copy of what is raw.

A frame is a 4-byte big-endian length of what follows, a byte for its kind, and its body: a message of a vocabulary, or raw
bytes of what is under way.  Raw bytes are handed on as views of what was fed, however the frames fall; only a message is
collected, so a decoder holds at most one of them.  Whatever does not fit is a ``RemoteProtocolError``, after which the decoder is
spent.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

import attrs
import msgspec

from avinet.errors import RemoteProtocolError
from avinet.units import KIB, MIB
from avinet.wire.vocabulary import UnknownMessage, Vocabulary

MESSAGE = 0
RAW = 1
HEAD_BYTES = 5
"""Length and kind."""
MAX_MESSAGE_BYTES = 256 * KIB
"""The largest is a ``Dropped`` of 500 entries, some 100 KiB."""
MAX_RAW_BYTES = MIB
"""In one frame; a sender fills the packet that it is given, 256 KiB at most."""

M = TypeVar("M", bound=msgspec.Struct)


def message_frame(vocabulary: Vocabulary[M], message: M) -> bytes:
    """One frame; ``LocalProtocolError`` when it would be longer than any peer takes."""
    body = vocabulary.encode(message)
    return (len(body) + 1).to_bytes(4, "big") + b"\0" + body


def raw_head(size: int) -> bytes:
    """What goes before ``size`` raw bytes, 1 to ``MAX_RAW_BYTES``."""
    return (size + 1).to_bytes(4, "big") + b"\1"


@attrs.define(eq=False)
class RawDecoder(Generic[M]):
    """The receiving half of one channel."""

    vocabulary: Vocabulary[M] = attrs.field(repr=False)
    _held: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    """Of a head or a message that is not whole."""
    _raw_left: int = attrs.field(default=0, init=False)
    """Bytes of a raw frame that have not come."""
    _failure: RemoteProtocolError | None = attrs.field(default=None, init=False)

    @property
    def held_bytes(self) -> int:
        """What was fed and not yet handed on."""
        return len(self._held)

    def feed(self, data: bytes | memoryview) -> Iterator[M | UnknownMessage | memoryview]:
        """What ``data`` brings, in order; to be exhausted before more is fed.  Views are views of ``data``."""
        if self._failure is not None:
            raise self._failure
        view = memoryview(data)
        try:
            while view:
                if self._raw_left:
                    piece, view = view[: self._raw_left], view[self._raw_left :]
                    self._raw_left -= len(piece)
                    yield piece
                    continue
                message, view = self._collect(view)
                if message is not None:
                    yield message
        except RemoteProtocolError as failure:
            self._failure = failure
            self._held.clear()
            raise

    def _collect(self, view: memoryview) -> tuple[M | UnknownMessage | None, memoryview]:
        """Go on with a head or a message; what is left of ``view``."""
        held = self._held
        taken = max(0, HEAD_BYTES - len(held))
        held += view[:taken]
        view = view[taken:]
        if len(held) < HEAD_BYTES:
            return None, view
        length, kind = int.from_bytes(held[:4], "big"), held[4]
        most = MAX_RAW_BYTES + 1 if kind == RAW else MAX_MESSAGE_BYTES
        if kind > RAW or not 1 < length <= most:
            detail = f"a frame of kind {kind} and {length} bytes"
            raise RemoteProtocolError(protocol=self.vocabulary.protocol, detail=detail)
        if kind == RAW:
            self._raw_left = length - 1
            held.clear()
            return None, view
        missing = HEAD_BYTES + length - 1 - len(held)
        held += view[:missing]
        view = view[missing:]
        if len(held) < HEAD_BYTES + length - 1:
            return None, view
        body = bytes(memoryview(held)[HEAD_BYTES:])
        held.clear()
        return self.vocabulary.decode(body), view
