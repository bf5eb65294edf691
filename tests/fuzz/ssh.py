"""Fuzzes what strangers and logged-in peers can reach: the packet codec, and the whole SSH server behind it.

``python -m tests.fuzz.ssh codec|stranger|login|engine [SECONDS]`` (``make fuzz`` runs all four).  An input is a small program:
``codec`` feeds bytes in pieces under some cipher; ``stranger`` sends bytes to a server from the first one on; ``login``
sends messages, sealed as they should be, from a client that is logged in.  Whatever comes, the peer is served or cut
with a reason.  ``engine`` is the same from a server, to our client.  A finding is anything else: another exception, something logged as a defect of ours, memory counted
below zero or above its bound, a server that neither answers nor ends.

The seeds are made by code: the messages of a session, and each of them at its edges.
"""

import contextlib
import random
import struct
import sys
import tempfile
from pathlib import Path

try:
    import atheris
except ImportError:
    sys.stderr.write("fuzzing skipped: there is no atheris here (extra fuzz)\n")
    sys.exit(0)

with atheris.instrument_imports(include=["avinet.ssh", "avinet.errors"]):
    from avinet.errors import RemoteProtocolError
    from avinet.ssh import (
        ciphers,
        codec,
        connection,
        exchange,
        fields,
        kex,
        links,
        negotiation,
        profile,
        transport,
    )
    from avinet.ssh.ciphers import MacError, Plain, protection
    from avinet.ssh.fields import string, uint32

from twisted.internet.protocol import Protocol
from twisted.internet.testing import MemoryReactorClock
from twisted.logger import LogLevel, globalLogPublisher

from tests.unit.ssh_pipe import Controller, Echo, Pipe, PipeEnd

MODULES = (ciphers, codec, connection, exchange, fields, kex, links, negotiation, transport)
PAIRS = (
    (b"aes256-gcm@openssh.com", b""),
    (b"chacha20-poly1305@openssh.com", b""),
    (b"aes256-ctr", b"hmac-sha2-256-etm@openssh.com"),
)
MOST_BYTES = 4096
"""An input's size; what is longer is found by repetition of what is shorter."""


class FindingError(Exception):
    """Something that no peer may be able to bring about."""


def fixed(letter: bytes, size: int) -> bytes:
    """Key material: the same for both ends and all runs."""
    return letter * size


# -- the codec


def fuzz_codec(data: bytes) -> None:
    """Cut ``data`` into reads; with a bit set, its pieces are sealed first and must come out again."""
    take = atheris.FuzzedDataProvider(data)
    pair = PAIRS[take.ConsumeIntInRange(0, 2)] if take.ConsumeBool() else None
    honest = take.ConsumeBool()
    reader, writer = codec.PacketReader(), codec.PacketWriter()
    for end in (reader, writer):
        end.switch(Plain() if pair is None else protection(*pair, b"ACE", fixed), restart=True)
    payloads, stream = [], b""
    if honest:
        while take.remaining_bytes() > 8 and len(payloads) < 8:
            payload = take.ConsumeBytes(take.ConsumeIntInRange(1, 64)) * take.ConsumeIntInRange(1, 200)
            if payload:
                payloads.append(payload)
                stream += b"".join(writer.seal(payload))
    else:
        stream = take.ConsumeBytes(MOST_BYTES)
    cuts, got = random.Random(len(data)), []
    with contextlib.suppress(MacError, RemoteProtocolError) if not honest else contextlib.nullcontext():
        while stream:
            size = cuts.choice((1, 3, 4, 5, 17, 4096, 65536))
            reader.feed(stream[:size])
            stream = stream[size:]
            while (payload := reader.next()) is not None:
                got.append(bytes(payload))
    if honest and got != payloads:
        raise FindingError("a payload was lost or changed")
    if not honest and pair is not None and got:
        raise FindingError("a packet was made without its key")
    if len(reader._carry) > reader.limit + 256:
        raise FindingError("a packet's length alone took memory")


# -- the server


class Loud:
    """What was logged as a defect of ours, and the tracebacks at debug level that a link writes when a handler raised
    what it should not: the peer is cut then, but the handler believed him.
    """

    def __init__(self) -> None:
        self.events: list[object] = []
        globalLogPublisher.addObserver(self)

    def __call__(self, event: dict[str, object]) -> None:
        if (
            event["log_level"] in {LogLevel.error, LogLevel.critical}
            or event["log_namespace"] == "avinet.ssh"
        ):
            self.events.append(event.get("failure") or event["log_format"])


def settle(loud: Loud, controller: Controller, pipe: Pipe, attacked: PipeEnd) -> None:
    """Serve whatever was sent, and see that the side that it was sent to is as it should be."""
    pipe.pump()
    pipe.clock.advance(6)
    pipe.pump()
    if loud.events:
        raise FindingError(str(loud.events.pop()))
    if attacked.protocol.ended is not None and not attacked.disconnected:
        raise FindingError("the peer was cut and still is there")
    process = controller.memory
    if not 0 <= process.held <= process.limit:
        raise FindingError(f"{process.held} bytes are held")
    attacked.peer.abortConnection()
    pipe.pump()
    if process.held and not any(one.held for one in process._holders):
        raise FindingError("memory is counted that nobody holds")
    pipe.clock.advance(3)  # a forward's socket waits for its SE a little
    if timers := pipe.clock.getDelayedCalls():
        raise FindingError(f"timers are left: {timers[0].func}")
    del controller.peers[:], controller.observer.calls[:]


def say(pipe: Pipe, end: PipeEnd, data: bytes) -> None:
    """The messages in ``data``, each ``length | message``, from ``end``, which hears nothing any more."""
    link = end.protocol
    link.dispatchMessage = lambda number, payload: None
    link.service.ssh_CHANNEL_DATA = lambda payload: None
    at = 0
    while at + 2 <= len(data):
        (size,) = struct.unpack_from(">H", data, at)
        message = data[at + 2 : at + 2 + size % 1024]
        at += 2 + len(message)
        if message:
            link._emit(message)
        if size & 0x8000:
            pipe.pump()


class World:
    """One controller for all runs: what one leaves behind, the next may find."""

    def __init__(self) -> None:
        self.loud = Loud()
        self.controller = Controller(MemoryReactorClock())
        self.controller.build = Echo
        self.key = self.controller.enrol()

    def stranger(self, data: bytes) -> None:
        """Bytes from the first one on; a bit chooses a valid version before them."""
        take = atheris.FuzzedDataProvider(data)
        pipe = self.controller.raw(Protocol())
        if take.ConsumeBool():
            pipe.client_end.write(b"SSH-2.0-x\r\n")
        if take.ConsumeBool():
            writer = codec.PacketWriter()
            while take.remaining_bytes():
                payload = take.ConsumeBytes(take.ConsumeIntInRange(1, 600))
                if payload:
                    pipe.client_end.write(b"".join(writer.seal(payload)))
        else:
            pipe.client_end.write(take.ConsumeBytes(MOST_BYTES))
        settle(self.loud, self.controller, pipe, pipe.server_end)

    def login(self, data: bytes) -> None:
        """From a client that is logged in to the server."""
        pipe, _channel = self.controller.channel(self.key)
        say(pipe, pipe.client_end, data)
        settle(self.loud, self.controller, pipe, pipe.server_end)

    def engine(self, data: bytes) -> None:
        """From a server that means harm to its client, which has a channel, one that opens, and a forward."""
        pipe, channel = self.controller.channel(self.key)
        channel.open(5001, Echo())
        pipe.pump()
        pipe.server_end.protocol.dispatchMessage = lambda number, payload: None
        for asked in (channel.open(5001, Echo()), channel.listen("127.1.0.1", 5097, Echo)):
            asked.addErrback(lambda _: None)
        say(pipe, pipe.server_end, data)
        settle(self.loud, self.controller, pipe, pipe.client_end)
        if channel.connection.memory.held:
            raise FindingError("memory is counted after the end")


# -- seeds


def messages() -> list[bytes]:
    """One of each that a client may send, with numbers that fit together."""
    details = string(b"localhost") + uint32(5001) + string(b"") + uint32(0)
    opening = string(b"direct-tcpip") + uint32(0) + uint32(1000) + uint32(1000) + details
    forward = string(b"127.1.0.1") + uint32(5097)
    return [
        b"\x5a" + opening,
        b"\x5a"
        + string(b"forwarded-tcpip")
        + uint32(9)
        + uint32(1000) * 2
        + forward
        + string(b"")
        + uint32(0),
        b"\x5e" + uint32(0) + string(b"data"),
        b"\x5f" + uint32(0) + uint32(1) + string(b"err"),
        b"\x5d" + uint32(0) + uint32(2**32 - 1),
        b"\x62" + uint32(0) + string(b"exec") + b"\1" + string(b"id"),
        b"\x60" + uint32(0),
        b"\x61" + uint32(0),
        b"\x5b" + uint32(0) * 4,
        b"\x5c" + uint32(0) * 2 + string(b"") * 2,
        b"\x50" + string(b"tcpip-forward") + b"\1" + forward,
        b"\x50" + string(b"cancel-tcpip-forward") + b"\1" + forward,
        b"\x51",
        b"\x52",
        b"\x63" + uint32(0),
        b"\x64" + uint32(0),
        b"\x02" + string(b"x"),
        b"\x03" + uint32(0),
        b"\x04\1" + string(b"x") * 2,
        b"\x01" + uint32(11) + string(b"bye") + string(b""),
        b"\x07" + uint32(1) + string(b"ping@openssh.com") + string(b"0"),
        b"\xc0" + string(b"x"),
        b"\xc1" + string(b"x"),
        b"\x05" + string(b"ssh-userauth"),
        b"\x32" + string(b"u") + string(b"ssh-connection") + string(b"none"),
        exchange.offer(profile.STRICT_CLIENT, profile.EXTENSIONS_CLIENT, first=True).encode(bytes(16)),
        b"\x1e" + string(b"\x09" + bytes(31)),
        b"\x15",
    ]


def seeds(target: str) -> list[bytes]:
    """Inputs that reach far."""
    framed = [struct.pack(">H", len(one)) + one for one in messages()]
    if target in {"login", "engine"}:
        return [*framed, b"".join(framed[:7]), *(framed[0] + one for one in framed), b"".join(framed[-3:])]
    whole = [
        b"".join(b"".join(codec.PacketWriter().seal(one)) for one in (framed[n : n + 1])) for n in range(3)
    ]
    return [b"\xff\x00" + one for one in messages()] + whole + [b"SSH-2.0-x\r\n" + one for one in whole]


def main() -> None:
    """Run one target for some seconds."""
    target, seconds = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 60
    if target == "codec":
        run = fuzz_codec
    else:
        world = World()
        run = getattr(world, target)
    folder = Path(tempfile.mkdtemp(prefix="avinet-fuzz-"))
    for number, seed in enumerate(seeds(target)):
        (folder / f"seed-{number}").write_bytes(seed)
    options = (f"-max_total_time={seconds}", f"-max_len={MOST_BYTES}", "-timeout=20", "-rss_limit_mb=1024",
               "-verbosity=0", f"-artifact_prefix={folder}/", "-print_final_stats=1")  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(folder)], run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
