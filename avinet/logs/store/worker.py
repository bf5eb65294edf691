"""``python -m avinet.logs.store.worker ROLE PARENT MEMORY_BYTES SPILL FOLDER...``: a child that does the store's work.

Jobs come by standard input and answers leave by standard output (``frames``); each job has a thread, and the parent says
how many there are at once.  It ends with its parent: the kernel kills it (prctl(2)), and so does the end of its input.
Its memory ends at ``MEMORY_BYTES``: DuckDB keeps to three quarters of that by itself, and spills.  Whatever goes far
beyond, in any library, fails in the kernel (RLIMIT_DATA), so that it can take nothing from the controller.
"""

import ctypes
import errno
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import attrs

from avinet.logs.store.describing import describe
from avinet.logs.store.engine import Engine, EngineError
from avinet.logs.store.frames import Frames, frame
from avinet.logs.store.ingest import ingest, merge
from avinet.logs.store.jobs import (
    Answered,
    Ask,
    Asked,
    Attempt,
    Check,
    Describe,
    Done,
    Export,
    Failed,
    FailureKind,
    Ingest,
    Job,
    Merge,
    Role,
    Select,
)
from avinet.units import KIB, MIB

MAX_THREADS = 16
"""The parent asks for fewer at once."""
ENGINE_SHARE = 0.75
"""Of the memory: the rest is Python, Arrow, allocators' slack."""
BASE_BYTES = 512 * MIB
"""Counted by RLIMIT_DATA though it is hardly used: threads' stacks (8 MiB each), allocators' arenas, libraries."""
ENGINE_THREADS = {Role.INGEST: 1, Role.QUERY: os.cpu_count() or 1}
"""Merging has time; answers have none."""
INGEST_NICE = 5
"""Queries and the controller go first where processors are scarce."""
WORN_SHARE = 0.7
"""Of the limit; allocators keep address space after a large job, and at the limit threads that are started hang."""
PR_SET_PDEATHSIG = 1
"""linux/prctl.h."""
PARENT_GONE = 3
NO_SPACE = {errno.ENOSPC, errno.EDQUOT}
_READ_BYTES = 256 * KIB


@attrs.define
class Worker:
    """Does jobs; ``answer`` sends."""

    engine: Engine
    _output: int
    worn_bytes: float = float("inf")
    _sending: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def do(self, asked: Asked) -> None:
        """One job, in a thread of its own."""
        assert asked.job is not None  # noqa: S101 - ``run`` sorted them
        done = self._done(asked.number, asked.job)
        self.send(Answered(asked.number, done, worn=data_bytes() > self.worn_bytes))

    def _done(self, number: int, job: Job) -> Done:
        try:
            return self._doing[type(job)](number, job)
        except EngineError as why:
            return why.failed
        except MemoryError:
            return Failed(kind=FailureKind.MEMORY, why="it takes more memory than the worker may have")
        except OSError as why:
            full = why.errno in NO_SPACE
            return Failed(kind=FailureKind.NO_SPACE if full else FailureKind.BROKEN, why=str(why))
        except Exception as why:  # noqa: BLE001 - the edge of this process: the parent logs it
            return Failed(kind=FailureKind.BROKEN, why=f"{type(why).__name__}: {why}"[:500])

    @property
    def _doing(self) -> dict[type[Job], Callable[[int, Any], Done]]:
        return {
            Ingest: lambda _, job: ingest(job),
            Merge: lambda number, job: merge(job, partial(self.engine.sort, number)),
            Ask: self.engine.ask,
            Attempt: self.engine.attempt,
            Select: self.engine.select,
            Export: self.engine.export,
            Check: self.engine.check,
            Describe: lambda _, job: describe(job),
        }

    def send(self, answered: Answered) -> None:
        """Whole frames, one after the other."""
        data = memoryview(frame(answered))
        with self._sending:
            while data:
                data = data[os.write(self._output, data) :]


def data_bytes() -> int:
    """What RLIMIT_DATA counts (proc(5), statm), stacks included; 0 where nobody can say."""
    try:
        pages = Path("/proc/self/statm").read_text().split()[5]
    except (OSError, IndexError):
        return 0
    return int(pages) * resource.getpagesize()


def run(worker: Worker, source: int) -> None:
    """Take jobs until the input ends, which is the parent's end: nobody waits for what is still being done."""
    frames = Frames(Asked)
    with ThreadPoolExecutor(MAX_THREADS, "job") as threads:
        while data := os.read(source, _READ_BYTES):
            for asked in frames.receive(data):
                if asked.job is None:
                    worker.engine.stop(asked.number)
                else:
                    threads.submit(worker.do, asked)
        os._exit(0)


def main(arguments: list[str]) -> None:
    """Never returns."""
    role, parent, memory_bytes = Role(arguments[0]), int(arguments[1]), int(arguments[2])
    spill, folders = Path(arguments[3]), [Path(folder) for folder in arguments[4:]]
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(PARENT_GONE)
    limit = memory_bytes + BASE_BYTES
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.umask(0o077)
    if role is Role.INGEST:
        os.nice(INGEST_NICE)
    # Whatever a library prints must not get between the answers.
    output = os.dup(1)
    os.dup2(2, 1)
    engine = Engine.open(folders, spill, int(memory_bytes * ENGINE_SHARE), ENGINE_THREADS[role])
    run(Worker(engine, output, limit * WORN_SHARE), 0)


if __name__ == "__main__":
    main(sys.argv[1:])
