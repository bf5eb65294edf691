"""The ingesting worker's jobs: segments to one file, and several files to one.

Segments are read and parsed by a few threads ahead of the one that writes (all of it compiled code without Python's
lock), in the order in which they are written: by virtual service, then by time.  So what is held depends on how much
is ahead, and not on the size of the job.
"""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import attrs
import msgspec
import pyarrow as pa

from avinet.logs.store.columns import Columns
from avinet.logs.store.contents import Contents, Gathered, parts_of
from avinet.logs.store.footers import said_by_all
from avinet.logs.store.jobs import BadLines, BadSegment, Ingest, Merge, SegmentFile, Written
from avinet.logs.store.parquet import Facts, written
from avinet.logs.store.segments import SegmentBadError, read_segment
from avinet.logs.store.whole_files import whole_file
from avinet.units import KIB, MIB

AHEAD_BYTES = 128 * MIB
"""NDJSON that is parsed or waits to be written, besides the segment that is written; as columns it takes as much again.
While a row group is written (80 ms) the parsers have a hundred small segments to go on with."""
BAD_LINES_BYTES = MIB
"""Of one job, kept for people to look at."""
BAD_LINE_BYTES = 4 * KIB
"""Of one such line."""
MAX_BAD_LINES = 10_000
"""Of one segment, which then is bad as a whole: a spool looks at the head of each line, so these are no accident, and 64 MiB
of ``x`` and a line's end, 70 KB compressed, would take a minute to refuse line by line."""
MAX_WHY = 200

_Step = Callable[[str], None]


def _no_step(name: str) -> None:
    """What tests put a crash into."""


@attrs.frozen
class _Parsed:
    table: pa.Table | None
    bad: BadSegment | None = None
    bad_lines: BadLines | None = None
    lines: tuple[bytes, ...] = ()


def ingest(job: Ingest, step: _Step = _no_step) -> Written:
    """Make the file.  What is bad is told, and does not hinder the rest."""
    order = sorted(
        range(len(job.segments)),
        key=lambda n: (job.segments[n].head.service, job.segments[n].head.first_us, n),
    )
    bad: list[BadSegment] = []
    bad_lines: list[BadLines] = []
    target = Path(job.target)
    lines = _BadLinesFile(Path(job.bad_lines))
    gathered = Gathered()
    with whole_file(target) as beside:
        with written(beside) as writer:
            for number, parsed in _parsed(job.segments, order):
                step("parsed")
                if parsed.bad is not None:
                    bad.append(parsed.bad)
                else:
                    _count(gathered, job.segments[number], parsed)
                if parsed.bad_lines is not None:
                    bad_lines.append(parsed.bad_lines)
                    lines.write(parsed.lines)
                if parsed.table is not None:
                    writer.add(job.segments[number].head.service, parsed.table)
            contents = gathered.contents()
            writer.say(contents)
        step("written")
        lines.close()
        facts = writer.facts
    step("renamed")
    written_ = _told(target, facts, contents)
    return msgspec.structs.replace(written_, bad=tuple(bad), bad_lines=tuple(bad_lines))


def _count(gathered: Gathered, segment: SegmentFile, parsed: _Parsed) -> None:
    head, records = segment.head, 0 if parsed.table is None else parsed.table.num_rows
    gathered.add(
        segment.se_uuid, (head.incarnation, head.counter), head.raw_bytes, **{head.log_class.value: records}
    )


def merge(job: Merge, sort: Callable[[Sequence[str], Path, Contents], Facts]) -> Written:
    """Make one file of several; ``sort`` is the engine's."""
    target = Path(job.target)
    contents = said_by_all(map(Path, job.sources))
    with whole_file(target) as beside:
        facts = sort(job.sources, beside, contents)
    return _told(target, facts, contents)


def _told(target: Path, facts: Facts, contents: Contents) -> Written:
    if not facts.records:
        target.unlink()
        return Written(records=0)
    size = target.stat().st_size
    return Written(
        records=facts.records,
        size=size,
        first_us=facts.first_us,
        last_us=facts.last_us,
        services=tuple(sorted(facts.services)),
        parts=parts_of(contents, size),
    )


def _parsed(segments: Sequence[SegmentFile], order: Sequence[int]) -> Iterator[tuple[int, _Parsed]]:
    threads = ThreadPoolExecutor(os.cpu_count() or 1, "parse")
    ahead: deque[tuple[int, Future[_Parsed]]] = deque()
    size = 0
    try:
        for number in order:
            size += segments[number].head.raw_bytes
            while ahead and size > AHEAD_BYTES:
                first, parsed = ahead.popleft()
                yield first, parsed.result()
                size -= segments[first].head.raw_bytes
            ahead.append((number, threads.submit(_parse, segments[number], number)))
        while ahead:
            first, parsed = ahead.popleft()
            yield first, parsed.result()
    finally:
        threads.shutdown(wait=True, cancel_futures=True)


def _parse(segment: SegmentFile, number: int) -> _Parsed:
    kept: list[bytes] = []
    count, room, first = 0, BAD_LINES_BYTES, ""

    def set_aside(line: bytes, why: str) -> None:
        nonlocal count, room, first
        first = first or why[:MAX_WHY]
        count += 1
        if count > MAX_BAD_LINES:
            raise SegmentBadError(
                why=f"more than {MAX_BAD_LINES} of its lines are no records; of the first, {first}"
            )
        line = line[:BAD_LINE_BYTES]
        room -= len(line) + 1
        if room >= 0:
            kept.append(line)

    try:
        raw = read_segment(Path(segment.path), segment.head, segment.offset)
        table = Columns(set_aside).read(raw, segment)
    except (SegmentBadError, FileNotFoundError) as why:
        return _Parsed(None, BadSegment(number=number, why=str(why)[:MAX_WHY]))
    told = BadLines(number=number, lines=count, why=first) if count else None
    return _Parsed(table, None, told, tuple(kept))


@attrs.define
class _BadLinesFile:
    """Made when the first line comes; bounded."""

    path: Path
    _descriptor: int = attrs.field(default=-1, init=False)
    _room: int = attrs.field(default=BAD_LINES_BYTES, init=False)

    def write(self, lines: Sequence[bytes]) -> None:
        for line in lines:
            self._room -= len(line) + 1
            if self._room < 0:
                return
            if self._descriptor < 0:
                self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
                self._descriptor = os.open(self.path, flags, 0o600)
            os.write(self._descriptor, line + b"\n")

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
