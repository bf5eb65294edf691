"""The messages of one protocol to MessagePack and back; each protocol frames them in its own way.

A message is one MessagePack map.  Its key ``t`` names it; the other keys are its fields by name.  Fields that this
side does not know are skipped, and fields left out have their defaults.  An unknown ``t`` is not an error but an
``UnknownMessage``, so that a newer peer is told rather than cut.
"""

from functools import reduce
from operator import or_
from typing import Any, Generic, TypeVar

import attrs
import msgspec

from avinet.errors import LocalProtocolError, RemoteProtocolError

MAX_TAG_CHARS = 64
"""Of an unknown tag, since it is sent back; our longest has 15."""

M = TypeVar("M", bound=msgspec.Struct)


class _Tagged(msgspec.Struct):
    """Any map with a tag, to tell a message that is unknown from one that is wrong."""

    t: str


_tag_decoder = msgspec.msgpack.Decoder(_Tagged)
_encoder = msgspec.msgpack.Encoder()


@attrs.frozen
class UnknownMessage:
    """A well-formed message whose tag this side does not know."""

    tag: str


class Vocabulary(Generic[M]):
    """All subclasses of ``base``, which is tagged by ``t``; ``protocol`` is its name in errors."""

    def __init__(self, protocol: str, base: type[M], max_bytes: int) -> None:
        self.protocol = protocol
        self.max_bytes = max_bytes
        """Of one message, encoded."""
        kinds: tuple[Any, ...] = tuple(base.__subclasses__())
        self._tags = frozenset(kind.__struct_config__.tag for kind in kinds)
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(reduce(or_, kinds))

    def encode(self, message: M) -> bytes:
        """Its map; ``LocalProtocolError`` when it would be longer than any peer takes."""
        body = _encoder.encode(message)
        if len(body) > self.max_bytes:
            raise LocalProtocolError(
                protocol=self.protocol,
                detail=f"a {type(message).__name__} of {len(body)} bytes; at most {self.max_bytes}",
            )
        return body

    def decode(self, body: bytes | memoryview) -> M | UnknownMessage:
        """What a map says; ``RemoteProtocolError`` when it is none, or means nothing."""
        try:
            return self._decoder.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as why:
            tag = _tag_of(body)
            if tag is not None and tag not in self._tags:
                return UnknownMessage(tag)
            # The decoder's text names the field and the types, never a value: a body may hold a private key.
            detail = (
                f"a message it cannot mean, {why}"
                if isinstance(why, msgspec.ValidationError)
                else "not MessagePack"
            )
            raise RemoteProtocolError(protocol=self.protocol, detail=f"{detail} (tag {tag})") from None


def _tag_of(body: bytes | memoryview) -> str | None:
    try:
        tag = _tag_decoder.decode(body).t
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return tag if 0 < len(tag) <= MAX_TAG_CHARS and tag.isprintable() else None
