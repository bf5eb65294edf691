"""DuckDB, held on a short lead: it sees the files it is given, and cannot be told otherwise.

One instance a worker.  File access ends at the folders of the store, extensions are neither loaded nor looked for, and
its configuration is locked, so that even SQL that somebody smuggled in (values are bound, so there is no way known)
could read log records, spend bounded memory, processors, disk and time, and nothing else.
"""

import contextlib
import datetime as dt
import decimal
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Event, Lock, Thread
from typing import Any, Self

import attrs
import duckdb
import msgspec
import pyarrow as pa

from avinet.logs.query.answers import answer_of
from avinet.logs.query.duckdb import duckdb_sql, duckdb_trial
from avinet.logs.query.sql import SOURCE
from avinet.logs.store.columns import SCHEMA
from avinet.logs.store.contents import KEY, Contents, said
from avinet.logs.store.jobs import (
    Ask,
    Attempt,
    Check,
    Checked,
    DamagedFile,
    Export,
    Exported,
    ExportFormat,
    Failed,
    FailureKind,
    Found,
    Rows,
    Select,
)
from avinet.logs.store.parquet import COMPRESSION_LEVEL, ROW_GROUP_RECORDS, Facts
from avinet.logs.store.whole_files import whole_file
from avinet.units import MIB

SPILL_BYTES = 4_096 * MIB
"""What sorting and grouping may put on the disk when memory ends; then the query fails."""
FETCH_ROWS = 1_000
LOOK_S = 0.5
"""Between two looks at how large an export has become: 100 MiB of a fast disk."""
_encode = msgspec.msgpack.Encoder()
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


class EngineError(Exception):
    """Why a query has no answer, as a kind that the parent knows."""

    def __init__(self, kind: FailureKind, why: str) -> None:
        super().__init__(why)
        self.kind = kind
        self.why = why

    @property
    def failed(self) -> Failed:
        """As an answer."""
        return Failed(kind=self.kind, why=self.why)


@attrs.define
class Engine:
    """``folders`` are all of the disk that it sees; ``spill`` is its own."""

    _database: Any
    _running: dict[int, Any] = attrs.field(factory=dict, init=False)
    _lock: Lock = attrs.field(factory=Lock, init=False)

    @classmethod
    def open(cls, folders: Sequence[Path], spill: Path, memory_bytes: int, threads: int) -> "Engine":
        """An instance without a file."""
        database = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_bytes // MIB}MiB",
                "threads": threads,
                "temp_directory": str(spill),
                "max_temp_directory_size": f"{SPILL_BYTES // MIB}MiB",
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "allow_community_extensions": False,
                "python_enable_replacements": False,
            },
        )
        # Footers of files that never change, once read, are worth more than their few KiB.
        database.execute("SET parquet_metadata_cache = true")
        database.execute("SET validate_external_file_cache = 'NO_VALIDATION'")
        listed = ", ".join(_quoted(f"{folder}/") for folder in folders)
        database.execute(f"SET allowed_directories = [{listed}]")
        database.execute("SET TimeZone = 'UTC'")
        database.execute("SET enable_external_access = false")
        database.execute("SET lock_configuration = true")
        return cls(database)

    def select(self, number: int, job: Select) -> Rows:
        """The answer, within the job's bounds."""
        with self._asked(number, job.files) as cursor:
            cursor.execute(job.sql, dict(job.values))
            columns = tuple(column[0] for column in cursor.description)
            rows: list[list[object]] = []
            room = job.max_bytes
            while batch := cursor.fetchmany(FETCH_ROWS):
                for values in batch:
                    if len(rows) >= job.max_rows:
                        return Rows(columns=columns, rows=rows, truncated=True)
                    row = [_plain(value) for value in values]
                    room -= len(_encode.encode(row))
                    if room < 0:
                        raise EngineError(FailureKind.TOO_LARGE, f"the answer is over {job.max_bytes} bytes")
                    rows.append(row)
            return Rows(columns=columns, rows=rows)

    def ask(self, number: int, job: Ask) -> Found:
        """A query's answer; with estimates where exact figures take too much memory, which it says."""
        try:
            return self._found(number, job, approximate=False)
        except EngineError as why:
            if why.kind is not FailureKind.MEMORY or duckdb_sql(job.query) == duckdb_sql(
                job.query, approximate=True
            ):
                raise
            return self._found(number, job, approximate=True)

    def _found(self, number: int, job: Ask, *, approximate: bool) -> Found:
        rendered = duckdb_sql(job.query, approximate=approximate)
        rows = self.select(number, Select(sql=rendered.sql, values=rendered.parameters, files=job.files))
        return Found(answer=answer_of(job.query, rendered, rows.rows, approximate=approximate))

    def attempt(self, number: int, job: Attempt) -> Rows:
        """Whether each comparison can be made at all: an expression is compiled only once there is something to find."""
        rendered = duckdb_trial(job.query)
        made_up = (
            f'CAST({_MADE_UP[column.type]} AS {_SQL[column.type]}) AS "{column.name}"' for column in SCHEMA
        )
        with self._cursor(number) as cursor:
            cursor.execute(f"CREATE OR REPLACE TEMP VIEW {SOURCE} AS SELECT {', '.join(made_up)}")
            cursor.execute(rendered.sql, rendered.parameters)
            return Rows(columns=(), rows=[[] for _ in cursor.fetchall()])

    def export(self, number: int, job: Export) -> Exported:
        """The answer as a file; nothing is there when it fails."""
        target, rendered = Path(job.target), duckdb_sql(job.query)
        with (
            whole_file(target) as beside,
            self._asked(number, job.files) as cursor,
            _Watched(beside, job.max_bytes, cursor),
        ):
            cursor.execute(
                f"COPY ({rendered.sql}) TO {_quoted(str(beside))} ({_FORMATS[job.format]}, {_IN_PLACE})",
                rendered.parameters,
            )
            (records,) = cursor.fetchone()
            if beside.stat().st_size > job.max_bytes:
                raise _too_large(job.max_bytes)
        return Exported(records=records, size=target.stat().st_size)

    def sort(self, number: int, sources: Sequence[str], target: Path, contents: Contents) -> Facts:
        """Write the records of several files, sorted, to one, which says what its ``contents`` are."""
        with self._cursor(number) as cursor:
            files = f"read_parquet([{', '.join(map(_quoted, sources))}])"
            cursor.execute(
                f"COPY (SELECT * FROM {files} ORDER BY vs_uuid, time) TO {_quoted(str(target))} ({_IN_PLACE}, FORMAT parquet,"  # noqa: S608 - names of our own files
                f" COMPRESSION zstd, COMPRESSION_LEVEL {COMPRESSION_LEVEL}, ROW_GROUP_SIZE {ROW_GROUP_RECORDS},"
                f" KV_METADATA {{{KEY}: {_quoted(said(contents))}}})"
            )
            (records,) = cursor.fetchone()
            first, last = cursor.execute(
                f"SELECT epoch_us(min(time)), epoch_us(max(time)) FROM {files}"  # noqa: S608
            ).fetchone()
            services = cursor.execute(f"SELECT DISTINCT vs_uuid FROM {files}").fetchall()  # noqa: S608
        return Facts(records, first or 0, last or 0, {service for (service,) in services})

    def check(self, number: int, job: Check) -> Checked:
        """Which files cannot be read; what may be right a moment later (memory, permissions) raises."""
        found = ((path, self._damage(number, path)) for path in job.files)
        return Checked(damaged=tuple(DamagedFile(path=path, why=why) for path, why in found if why))

    def _damage(self, number: int, path: str) -> str:
        try:
            Path(path).open("rb").close()
        except FileNotFoundError:
            return "it is not there"
        try:
            with self._cursor(number) as cursor:
                columns = ", ".join(f'"{name}"' for name in SCHEMA.names)
                cursor.execute(
                    f"SELECT bit_xor(hash({columns})) FROM read_parquet({_quoted(path)})"  # noqa: S608 - a name of our own
                ).fetchone()
        except EngineError as why:
            if why.kind in {FailureKind.REFUSED, FailureKind.BROKEN}:
                return why.why
            raise
        return ""

    def stop(self, number: int) -> None:
        """Let the job of this number fail soon, if it runs."""
        with self._lock:
            cursor = self._running.get(number)
            if cursor is not None:
                cursor.interrupt()

    @contextlib.contextmanager
    def _asked(self, number: int, files: Sequence[str]) -> Iterator[Any]:
        with self._cursor(number) as cursor:
            if files:
                source = f"SELECT * FROM read_parquet([{', '.join(map(_quoted, files))}])"  # noqa: S608 - names of our own files
            else:
                nulls = (f'CAST(NULL AS {_SQL[column.type]}) AS "{column.name}"' for column in SCHEMA)
                source = f"SELECT {', '.join(nulls)} WHERE false"
            cursor.execute(f"CREATE OR REPLACE TEMP VIEW {SOURCE} AS {source}")
            yield cursor

    @contextlib.contextmanager
    def _cursor(self, number: int) -> Iterator[Any]:
        """A connection of its own, known by ``number`` to ``stop``; the engine's errors as ours."""
        cursor = self._database.cursor()
        with self._lock:
            self._running[number] = cursor
        try:
            yield cursor
        except duckdb.InterruptException as why:
            raise EngineError(FailureKind.TIME, "it was stopped") from why
        except (duckdb.OutOfMemoryException, MemoryError) as why:
            raise EngineError(FailureKind.MEMORY, _first_line(why)) from why
        except duckdb.IOException as why:
            full = "No space left" in str(why)
            raise EngineError(FailureKind.NO_SPACE if full else FailureKind.BROKEN, _first_line(why)) from why
        except (duckdb.ProgrammingError, duckdb.DataError, duckdb.PermissionException) as why:
            raise EngineError(FailureKind.REFUSED, _first_line(why)) from why
        except duckdb.Error as why:
            raise EngineError(FailureKind.BROKEN, _first_line(why)) from why
        finally:
            with self._lock:
                self._running.pop(number, None)
            cursor.close()


@attrs.define
class _Watched:
    """Interrupts an export that becomes too large."""

    path: Path
    max_bytes: int
    cursor: Any
    too_large: bool = attrs.field(default=False, init=False)
    _over: Event = attrs.field(factory=Event, init=False)
    _thread: Thread | None = attrs.field(default=None, init=False)

    def __enter__(self) -> Self:
        self._thread = Thread(target=self._look, name="export-size", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        if self.too_large:
            raise _too_large(self.max_bytes)

    def _look(self) -> None:
        while not self._over.wait(LOOK_S):
            if self.path.stat().st_size > self.max_bytes:
                self.too_large = True
                self.cursor.interrupt()


_IN_PLACE = "USE_TMP_FILE false"
"""The file is one of ours already, with its mode; its size can be watched."""
_FORMATS = {
    ExportFormat.NDJSON: "FORMAT json, TIMESTAMPFORMAT '%Y-%m-%dT%H:%M:%S.%fZ'",
    ExportFormat.CSV: "FORMAT csv, HEADER true, TIMESTAMPFORMAT '%Y-%m-%dT%H:%M:%S.%fZ'",
    ExportFormat.PARQUET: f"FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL {COMPRESSION_LEVEL}",
}
_SQL = {
    pa.timestamp("us"): "TIMESTAMP",
    pa.string(): "VARCHAR",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint64(): "UBIGINT",
}

_MADE_UP = {
    kind: "''" if kind == pa.string() else "'1970-01-01'" if kind == pa.timestamp("us") else "0"
    for kind in _SQL
}


def _too_large(max_bytes: int) -> EngineError:
    return EngineError(FailureKind.TOO_LARGE, f"the export is over {max_bytes} bytes")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _first_line(why: BaseException) -> str:
    return str(why).partition("\n")[0][:500]


def _plain(value: object) -> object:
    """As MessagePack has it; times are microseconds of UNIX time."""
    if isinstance(value, dt.datetime):
        return (value.replace(tzinfo=dt.UTC) - _EPOCH) // dt.timedelta(microseconds=1)
    if isinstance(value, int) and not -(2**63) <= value < 2**64:
        # A sum of many bytes is a HUGEINT.
        return float(value)
    if isinstance(value, decimal.Decimal):
        return float(value)
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    return value
