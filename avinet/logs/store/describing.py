"""What files of the store are, from their footers alone: for a catalogue that does not list them."""

import datetime as dt
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avinet.logs.store.columns import SCHEMA
from avinet.logs.store.contents import parts_of
from avinet.logs.store.footers import said_by
from avinet.logs.store.jobs import Describe, Described, Description

_EPOCH = dt.datetime(1970, 1, 1)  # noqa: DTZ001 - as Parquet's statistics have times
_TIME = "time"


def describe(job: Describe) -> Described:
    """Each file; what cannot be read says why."""
    return Described(files=tuple(_described(path) for path in job.files))


def _described(path: str) -> Description:
    try:
        metadata = pq.read_metadata(path)
        if metadata.schema.to_arrow_schema().names != SCHEMA.names:
            return Description(path=path, why="it has other columns")
        size, contents = Path(path).stat().st_size, said_by(Path(path))
        first_us, last_us = _times(path, metadata)
    except (OSError, pa.ArrowException) as why:
        return Description(path=path, why=str(why).partition("\n")[0][:200] or "it cannot be read")
    return Description(
        path=path,
        records=metadata.num_rows,
        size=size,
        first_us=first_us,
        last_us=last_us,
        parts=() if contents is None else parts_of(contents, size),
        contents=contents,
    )


def _times(path: str, metadata: pq.FileMetaData) -> tuple[int, int]:
    """The first and the last one; from the row groups' statistics where all have some."""
    column = SCHEMA.names.index(_TIME)
    found = [metadata.row_group(n).column(column).statistics for n in range(metadata.num_row_groups)]
    if all(one is not None and one.has_min_max for one in found):
        return min((_us(one.min) for one in found), default=0), max(
            (_us(one.max) for one in found), default=0
        )
    bounds = pc.min_max(pq.read_table(path, columns=[_TIME])[_TIME].cast(pa.int64()))
    return bounds["min"].as_py() or 0, bounds["max"].as_py() or 0


def _us(time: dt.datetime) -> int:
    return (time.replace(tzinfo=None) - _EPOCH) // dt.timedelta(microseconds=1)
