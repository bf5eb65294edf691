"""The log store's workers, filled and asked as a controller does: segments in, files out, then queries.

The workers are real processes (``avinet.logs.store.worker``), spoken to over their pipes.  A store is filled with segments
of made-up records, one for each virtual service and hour, by the worker that always does that; an hour is one file,
by virtual service and then by time, as compaction leaves it.  Nothing is written past the store.
"""

import hashlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

import attrs
import zstandard

from avinet.logs.query.asked import Question, query_of
from avinet.logs.query.duckdb import duckdb_sql
from avinet.logs.split import split
from avinet.logs.spool_segments import LEVEL, SegmentMaker, Taking
from avinet.logs.spool_window import CHUNK_BYTES
from avinet.logs.store.frames import Frames, frame
from avinet.logs.store.jobs import (
    Answered,
    Asked,
    Done,
    Failed,
    Ingest,
    Job,
    Role,
    Rows,
    SegmentFile,
    Select,
    Written,
)
from avinet.model.ids import ObjectId
from avinet.model.logs import LogClass, SegmentHead
from avinet.trust.files import private_dir
from avinet.units import GIB, KIB
from benchmarks.harness import progress
from benchmarks.log_moves import write_records
from benchmarks.log_records import LoggedService, blocks, services
from benchmarks.processes import end

MEMORY_BYTES = GIB
SE = "se-00000000-0000-4000-8000-000000000001"
INCARNATION = "0" * 32
START_S = 1_790_000_000 // 3600 * 3600
HOUR_S = 3600
AHEAD = 2
"""Hours whose segments are made while the worker has another: each some 200 MiB on disk."""
READ_BYTES = 256 * KIB


class StoreFailedError(RuntimeError):
    """A worker of the store did not do what it was asked."""


class StoreWorker:
    """One worker that does one job at a time; all of it blocks."""

    def __init__(self, role: Role, folder: Path) -> None:
        spill = folder / f"spill-{role}"
        private_dir(folder)
        private_dir(spill)
        arguments = (role, os.getpid(), MEMORY_BYTES, spill, folder)
        command = (sys.executable, "-m", "avinet.logs.store.worker", *map(str, arguments))
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self._frames: Frames[Answered] = Frames(Answered)
        self._number = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        end(self._process)

    @property
    def pid(self) -> int:
        """Its id."""
        return self._process.pid

    def ask(self, job: Job) -> Done:
        """What it answers; an error when it fails."""
        if self._process.stdin is None or self._process.stdout is None:
            raise AssertionError("both are pipes")
        self._number += 1
        self._process.stdin.write(frame(Asked(self._number, job)))
        self._process.stdin.flush()
        answered: list[Answered] = []
        while not answered:
            data = os.read(self._process.stdout.fileno(), READ_BYTES)
            if not data:
                raise RuntimeError(f"the store's worker ended with status {self._process.wait()}")
            answered = self._frames.receive(data)
        answer = answered[0].done
        if isinstance(answer, Failed):
            raise StoreFailedError(f"{answer.kind}: {answer.why}")
        return answer


def ingested(worker: StoreWorker, segments: Sequence[SegmentFile], folder: Path, name: str) -> Written:
    """One file of them; they are removed."""
    target, bad = folder / "store" / f"{name}.parquet", folder / "bad" / f"{name}.ndjson"
    answer = worker.ask(Ingest(segments=tuple(segments), target=str(target), bad_lines=str(bad)))
    if not isinstance(answer, Written) or answer.bad or answer.bad_lines:
        raise StoreFailedError(f"not all of it was taken: {answer}")
    for segment in segments:
        Path(segment.path).unlink()
    return answer


# Segments as a spool sends them: of one chunk of a piece, a small one for each service


def spooled(folder: Path, size: int) -> list[SegmentFile]:
    """Segments of ``size`` bytes of mixed NDJSON."""
    piece = folder / "piece.ndjson"
    with piece.open("wb") as out:
        write_records(out, size)
    maker, found = SegmentMaker(), []
    with piece.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            lines = split(chunk, LogClass.FULL, final=False)
            file.seek(lines.consumed - len(chunk), os.SEEK_CUR)
            for head, data in maker.make(
                [Taking(chunk, lines.lines)], LogClass.FULL, INCARNATION, len(found)
            ):
                found.append(_kept(folder, head, data))
    piece.unlink()
    return found


def _kept(folder: Path, head: SegmentHead, data: bytes) -> SegmentFile:
    path = folder / f"{head.name}.zst"
    path.write_bytes(data)
    return SegmentFile(path=str(path), se_uuid=SE, se="bench", head=head)


# A store of hours


@attrs.frozen
class Filling:
    """``hours`` of ``each`` records of ``services`` virtual services."""

    services: int
    hours: int
    each: int

    @property
    def records(self) -> int:
        """In all."""
        return self.services * self.hours * self.each

    @property
    def of_one(self) -> int:
        """Of each virtual service."""
        return self.hours * self.each

    def segments(self, folder: Path, hour: int) -> list[SegmentFile]:
        """One for each virtual service."""
        return [
            self._segment(folder, hour, number, service)
            for number, service in enumerate(services(self.services))
        ]

    def _segment(self, folder: Path, hour: int, number: int, service: LoggedService) -> SegmentFile:
        start_s = START_S + hour * HOUR_S
        counter = hour * self.services + number + 1
        made = blocks(self.each, [service], seed=counter, start_s=start_s, per_s=self.each / HOUR_S)
        raw = b"".join(made)
        data = zstandard.ZstdCompressor(level=LEVEL).compress(raw)
        head = SegmentHead(
            incarnation=INCARNATION,
            counter=counter,
            service=ObjectId(service.uuid),
            log_class=LogClass.FULL,
            first_us=start_s * 1_000_000,
            last_us=(start_s + HOUR_S) * 1_000_000,
            records=self.each,
            raw_bytes=len(raw),
            size=len(data),
            sha256=hashlib.sha256(data).hexdigest(),
        )
        return _kept(folder, head, data)

    def fill(self, folder: Path) -> list[str]:
        """The store's files."""
        begun = time.monotonic()
        files: list[str] = []
        private_dir(folder)
        with StoreWorker(Role.INGEST, folder) as worker:
            for hour, segments in enumerate(self._ahead(folder)):
                written = ingested(worker, segments, folder, f"{hour:04d}")
                if written.records != self.services * self.each:
                    raise RuntimeError(f"an hour has {written.records} records")
                files.append(str(folder / "store" / f"{hour:04d}.parquet"))
                progress("filled {n} of {all} hours", n=hour + 1, all=self.hours)
        progress("{count} records in {s:.0f} s", count=self.records, s=time.monotonic() - begun)
        return files

    def _ahead(self, folder: Path) -> Iterator[list[SegmentFile]]:
        """Each hour's, made while the worker is busy with the one before."""
        made: list[Future[list[SegmentFile]]] = []
        with ThreadPoolExecutor(1, "records") as threads:
            for hour in range(self.hours):
                made.append(threads.submit(self.segments, folder, hour))
                if len(made) == AHEAD:
                    yield made.pop(0).result()
            for last in made:
                yield last.result()


@attrs.define(eq=False)
class Asking:
    """Questions in an operator's words, to the worker that answers them."""

    worker: StoreWorker
    files: Sequence[str]

    def ask(self, question: Question) -> tuple[float, list[list[Any]]]:
        """Seconds from the words to the rows, and the rows."""
        begun = time.monotonic()
        rendered = duckdb_sql(query_of(question, int(time.time() * 1e6)))
        job = Select(sql=rendered.sql, values=rendered.parameters, files=tuple(self.files))
        answer = self.worker.ask(job)
        took_s = time.monotonic() - begun
        if not isinstance(answer, Rows):
            raise StoreFailedError(f"no rows: {answer}")
        return took_s, answer.rows
