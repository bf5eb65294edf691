"""What moves logs: a spool that is filled, a pull beside OpenSSH's ``cat`` of the same files, memory meanwhile.

Made-up records (``benchmarks.log_records``) are written where a data plane writes, taken in by the real spool, and
pulled over real SSH (``benchmarks.log_ends``).
"""

import contextlib
import os
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Self

import attrs

from avinet.logs.entries import PACK, SEGMENT
from avinet.model.logs import LogClass, piece_name
from avinet.trust import keys
from avinet.trust.files import private_dir
from avinet.units import KIB, MIB
from benchmarks import sshd
from benchmarks.harness import progress
from benchmarks.link import link
from benchmarks.log_records import BLOCK_LINES, blocks, services
from benchmarks.processes import Worker

SERVICES = 20
"""Virtual services on one SE, mixed line by line."""
LINE_BYTES = 697
"""Of a made-up record, about; how many make so many MiB."""
MOVE_LIMIT_S = 900.0
LOOK_S = 0.02
DIRTY_S = 1.0


@attrs.frozen
class Written:
    """What a data plane has written."""

    records: int
    size: int


def write_records(out: IO[bytes], size: int, seed: int = 1) -> Written:
    """At least ``size`` bytes of NDJSON."""
    count = -(-size // LINE_BYTES // BLOCK_LINES) * BLOCK_LINES
    written = sum(out.write(block) for block in blocks(count, services(SERVICES), seed))
    return Written(count, written)


class Resident:
    """The most memory that a process had, looked at each ``LOOK_S``, over what it had before; KiB."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._before = {pid: _resident_kib(pid) for pid in pids}
        self.most = dict(self._before)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def grown_kib(self, pid: int) -> int:
        """By so much."""
        return self.most[pid] - self._before[pid]

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            for pid in self.most:
                self.most[pid] = max(self.most[pid], _resident_kib(pid))


def _resident_kib(pid: int) -> int:
    with contextlib.suppress(OSError):
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // KIB
    return 0


@attrs.define(eq=False)
class Ends:
    """An SE and its controller, each a process; ``link`` is what is between them.

    What the SE keeps is in ``kept``, on a file system that says what is in memory, as those of disks do; what the
    controller receives is in ``folder``.
    """

    folder: Path
    kept: Path
    link: dict[str, float] = attrs.field(factory=dict)
    controller: Worker = attrs.field(init=False)
    engine: Worker = attrs.field(init=False)
    _stack: contextlib.ExitStack = attrs.field(factory=contextlib.ExitStack, init=False)
    _pieces: int = attrs.field(default=1_000, init=False)

    @property
    def data_plane(self) -> Path:
        """Where it writes."""
        return self.kept / "data-plane"

    @property
    def identity(self) -> Path:
        """The SE's key."""
        return self.folder / "identity"

    @property
    def packs(self) -> list[Path]:
        """The spool's files."""
        return sorted((self.kept / "se" / "segments").glob("*.pack"))

    def __enter__(self) -> Self:
        for folder in (self.folder, self.kept, self.data_plane):
            private_dir(folder)
        if not self.identity.exists():
            keys.save(self.identity, keys.generate())
        with contextlib.ExitStack() as stack:
            self._start(stack)
            self._stack = stack.pop_all()
        return self

    def _start(self, stack: contextlib.ExitStack) -> None:
        common = ("--identity", os.fspath(self.identity), "--folder")
        ends = "benchmarks.log_ends"
        state = os.fspath(self.folder / "controller")
        self.controller = stack.enter_context(Worker(ends, ("controller", *common, state)))
        port = self.controller.ready
        if self.link:
            port = stack.enter_context(link(port, **self.link)).ready
        own = (os.fspath(self.kept / "se"), "--data-plane", os.fspath(self.data_plane), "--port", f"{port}")
        self.engine = stack.enter_context(Worker(ends, ("engine", *common, *own)))
        self.controller.ask(MOVE_LIMIT_S, do="linked")

    def __exit__(self, *error: object) -> None:
        self._stack.__exit__(*error)

    def write(self, size: int) -> Written:
        """What the data plane logs, in the file that it is writing."""
        with (self.data_plane / f"{LogClass.FULL}.ndjson").open("ab") as file:
            return write_records(file, size)

    def fill(self, size: int, source: bytes) -> None:
        """Have the spool hold ``size`` bytes of segments, made of ``source`` again and again."""
        held = self.held()["size"]
        per_piece = 0
        while held < size:
            self._pieces += 1
            room = 1.0 if not per_piece else min(1.0, (size - held) / per_piece)
            end = source.rfind(b"\n", 0, max(LINE_BYTES * 2, int(len(source) * room))) + 1
            (self.data_plane / piece_name(LogClass.FULL, self._pieces)).write_bytes(source[:end])
            self.engine.ask(MOVE_LIMIT_S, do="take")
            before, held = held, self.held()["size"]
            per_piece = per_piece or held - before

    def held(self) -> dict[str, int]:
        """Segments, records and size of what the spool has."""
        found: dict[str, int] = self.engine.ask(MOVE_LIMIT_S, do="plan")
        return found

    def pull(self) -> dict[str, Any]:
        """All of it, to the controller."""
        return self.controller.ask(MOVE_LIMIT_S, do="pull")

    def carried(self) -> int:
        """Bytes on the connection so far, both ways."""
        return int(self.engine.ask(MOVE_LIMIT_S, do="carried")["payload_bytes"])

    def throw_away(self) -> None:
        """What the controller has received: no store takes it here."""
        for suffix in (SEGMENT, PACK):
            for path in (self.folder / "controller").rglob(f"*{suffix}"):
                path.unlink()


@contextlib.contextmanager
def openssh(folder: Path, identity: Path) -> Iterator[sshd.Ssh]:
    """A stock ssh that is logged in to a stock sshd."""
    public = keys.public_line(keys.load(identity).public_key())
    with (
        sshd.stock_sshd(folder / "sshd", public) as port,
        sshd.Ssh(folder, port, identity) as ssh,
    ):
        ssh.keep()
        yield ssh


def cat(ssh: sshd.Ssh, sources: Sequence[Path], copy: Path) -> float:
    """``ssh host cat`` of all the files into one; seconds."""
    size = sum(source.stat().st_size for source in sources)
    begun = time.monotonic()
    with copy.open("wb") as out:
        # By a pattern: the names of thousands are too long for a command.
        ssh.run("cat", f"{sources[0].parent}/*{sources[0].suffix}", out=out)
    took_s = time.monotonic() - begun
    if copy.stat().st_size != size:
        raise RuntimeError(f"{copy.stat().st_size} bytes came of {size}")
    copy.unlink()
    progress("openssh: {size} MiB in {s:.2f} s", size=size // MIB, s=took_s)
    return took_s
