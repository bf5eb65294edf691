"""A file on the SE to a file on the controller, ours beside ``ssh host cat file > file`` and AsyncSSH.

All parties are logged in beforehand and take turns, round by round.  A figure is the best of its rounds, since what
else a machine does only ever makes one slower; the time is from the request to the last byte written.  The files are in memory (tmpfs) where there is room; nobody fsyncs.
What arrives is compared with what was sent, once a party.
"""

import contextlib
import mmap
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs

from avinet.trust import keys
from avinet.units import MIB
from benchmarks import sshd
from benchmarks.channel_ends import PIECE_BYTES
from benchmarks.harness import progress
from benchmarks.link import link
from benchmarks.processes import Worker

MEMORY = Path("/dev/shm")
SPARE_BYTES = 256 * MIB
TRANSFER_LIMIT_S = 300.0

Parties = dict[str, Callable[[], None]]
"""By name: what moves the whole file, once."""


@contextlib.contextmanager
def folder_for(size: int) -> Iterator[Path]:
    """A private folder with room for two files of ``size``; in memory if it can be."""
    roomy = MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > 2 * size + SPARE_BYTES
    if not roomy:
        progress(
            "no room for two files of {size} bytes in {memory}: they are on a disk", size=size, memory=MEMORY
        )
    with tempfile.TemporaryDirectory(prefix="avinet-bench-", dir=MEMORY if roomy else None) as name:
        yield Path(name)


@attrs.define(eq=False)
class Files:
    """The file, where it goes, and the key of who fetches it."""

    folder: Path
    size: int
    identity: Path = attrs.field(init=False)
    public: str = attrs.field(init=False, repr=False)
    _checked: set[str] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        key = keys.generate()
        self.identity, self.public = self.folder / "identity", keys.public_line(key.public_key())
        keys.save(self.identity, key)
        block = os.urandom(PIECE_BYTES)
        with self.source.open("wb") as file:
            for _ in range(self.size // len(block)):
                file.write(block)

    @property
    def source(self) -> Path:
        """What is sent."""
        return self.folder / "source"

    @property
    def copy(self) -> Path:
        """What arrives."""
        return self.folder / "copy"

    def timed(self, party: str, move: Callable[[], None]) -> float:
        """MiB/s of one move."""
        self.copy.unlink(missing_ok=True)
        begun = time.monotonic()
        move()
        took_s = time.monotonic() - begun
        if party not in self._checked:
            self._checked.add(party)
            self._compare(party)
        return self.size / MIB / took_s

    def _compare(self, party: str) -> None:
        with self.source.open("rb") as one, self.copy.open("rb") as two:
            sent = mmap.mmap(one.fileno(), 0, access=mmap.ACCESS_READ)
            came = mmap.mmap(two.fileno(), 0, access=mmap.ACCESS_READ)
            same = len(sent) == len(came) and all(
                sent[at : at + PIECE_BYTES] == came[at : at + PIECE_BYTES]
                for at in range(0, len(sent), PIECE_BYTES)
            )
        if not same:
            raise RuntimeError(f"{party}: the copy differs from the source")


def compare(
    files: Files, rounds: int, *, rtt_ms: float | None = None, asyncssh: bool = False
) -> dict[str, float]:
    """The best MiB/s by party: ``avinet``, ``openssh`` and ``asyncssh``, as far as they are to be had."""
    measured: dict[str, list[float]] = {}
    with contextlib.ExitStack() as stack:
        parties: Parties = {"avinet": _avinet(stack, files, rtt_ms)}
        if sshd.available():
            port = stack.enter_context(sshd.stock_sshd(files.folder / "sshd", files.public))
            reached = _through(stack, port, rtt_ms)
            parties["openssh"] = _openssh(stack, files, reached)
        if asyncssh:
            parties["asyncssh"] = _asyncssh(stack, files)
        for turn in range(rounds):
            for party, move in parties.items():
                rate = files.timed(party, move)
                measured.setdefault(party, []).append(rate)
                progress("round {turn}: {party} {rate:.1f} MiB/s", turn=turn + 1, party=party, rate=rate)
    return {party: max(rates) for party, rates in measured.items()}


def _through(stack: contextlib.ExitStack, port: int, rtt_ms: float | None) -> int:
    """The port to dial for ``port``: its own, or a link's."""
    if rtt_ms is None:
        return port
    reached: int = stack.enter_context(link(port, rtt_ms=rtt_ms)).ready
    return reached


def _avinet(stack: contextlib.ExitStack, files: Files, rtt_ms: float | None) -> Callable[[], None]:
    identity = ("--identity", os.fspath(files.identity))
    ends = "benchmarks.channel_ends"
    controller = stack.enter_context(Worker(ends, ("controller", *identity, "--out", os.fspath(files.copy))))
    port = _through(stack, controller.ready, rtt_ms)
    engine = stack.enter_context(Worker(ends, ("engine", *identity, "--port", f"{port}")))

    def move() -> None:
        engine.ask(TRANSFER_LIMIT_S, do="send", path=os.fspath(files.source))

    return move


def _openssh(stack: contextlib.ExitStack, files: Files, port: int) -> Callable[[], None]:
    ssh = stack.enter_context(sshd.Ssh(files.folder, port, files.identity))
    ssh.keep()

    def move() -> None:
        with files.copy.open("wb") as out:
            ssh.run("cat", os.fspath(files.source), out=out)

    return move


def _asyncssh(stack: contextlib.ExitStack, files: Files) -> Callable[[], None]:
    authorized = files.folder / "asyncssh-authorized"
    authorized.write_text(files.public + "\n")
    peer = "benchmarks.asyncssh_peer"
    server = stack.enter_context(Worker(peer, ("serve", "--authorized", os.fspath(authorized))))
    identity = os.fspath(files.identity)
    client = stack.enter_context(Worker(peer, ("fetch", "--identity", identity, "--port", f"{server.ready}")))

    def move() -> None:
        client.ask(TRANSFER_LIMIT_S, path=os.fspath(files.source), out=os.fspath(files.copy))

    return move
