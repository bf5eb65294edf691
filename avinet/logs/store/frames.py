"""Messages over a pipe: four bytes of length, then MessagePack.  Bytes in, messages out; no I/O."""

import struct
from typing import Generic, TypeVar

import msgspec

from avinet.errors import RemoteProtocolError
from avinet.logs.store.jobs import MAX_FRAME_BYTES

_LENGTH = struct.Struct(">I")
_encoder = msgspec.msgpack.Encoder()
_Message = TypeVar("_Message")


def frame(message: msgspec.Struct) -> bytes:
    """One message as it goes over the pipe."""
    body = _encoder.encode(message)
    if len(body) > MAX_FRAME_BYTES:
        raise RemoteProtocolError(protocol="log store", detail=f"a message of {len(body)} bytes")
    return _LENGTH.pack(len(body)) + body


class Frames(Generic[_Message]):
    """What comes out of a pipe; holds one frame at most."""

    def __init__(self, kind: type[_Message]) -> None:
        self._decoder = msgspec.msgpack.Decoder(kind)
        self._buffer = bytearray()

    def receive(self, data: bytes) -> list[_Message]:
        """The messages that are complete now; ``RemoteProtocolError`` for what is none."""
        self._buffer += data
        messages: list[_Message] = []
        start = 0
        while len(self._buffer) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer, start)
            if length > MAX_FRAME_BYTES:
                raise RemoteProtocolError(protocol="log store", detail=f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if len(self._buffer) < end:
                break
            try:
                messages.append(self._decoder.decode(memoryview(self._buffer)[start + _LENGTH.size : end]))
            except msgspec.MsgspecError as why:
                raise RemoteProtocolError(protocol="log store", detail=str(why)) from why
            start = end
        del self._buffer[:start]
        return messages
