"""Columns to a Parquet file: one virtual service after the other, in row groups that a query can leave out.

Row groups end where a virtual service does, once they are large enough, and say the smallest and largest value of what people
filter by: of a hundred services, a query about one reads one part in a hundred.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from avinet.logs.query.fields import COLUMNS
from avinet.logs.store.columns import SCHEMA
from avinet.logs.store.contents import KEY, Contents, said
from avinet.units import MIB

ROW_GROUP_RECORDS = 65_536
"""A unit of DuckDB's work for one processor, and of what is left out.  Each costs a plan 40 us."""
SERVICE_RECORDS = 8_192
"""A service's end ends a row group of that size: a query about one service of a hundred reads little else, and 50
million records have some 5,000 row groups at most."""
ROW_GROUP_BYTES = 64 * MIB
"""Of columns in memory, where lines are long."""
COMPRESSION_LEVEL = 1
"""zstd: level 3 takes a third longer and saves nothing here; snappy saves a tenth of the time for 1.7 times the bytes."""
MANY_VALUES = ("request_id",)
"""All different: a dictionary of them is work for nothing."""
STATISTICS = (
    "time",
    "vs",
    "vs_uuid",
    "se",
    "class",
    "pool",
    "server",
    "host",
    "listener",
    "status",
    "duration_us",
    "client_high",
    "client_low",
)


@attrs.define
class Facts:
    """What the catalogue says of a file."""

    records: int = 0
    first_us: int = 2**63 - 1
    last_us: int = 0
    services: set[str] = attrs.field(factory=set)

    def add(self, service: str, table: pa.Table) -> None:
        """More records of one service are in it."""
        bounds = pc.min_max(table["time"].cast(pa.int64()))
        self.first_us = min(self.first_us, bounds["min"].as_py())
        self.last_us = max(self.last_us, bounds["max"].as_py())
        self.records += table.num_rows
        self.services.add(service)


@attrs.define
class Writer:
    """Writes tables in the order in which they are given: those of one service together."""

    _file: pq.ParquetWriter
    facts: Facts = attrs.field(factory=Facts)
    _gathered: list[pa.Table] = attrs.field(factory=list, init=False)
    _records: int = attrs.field(default=0, init=False)
    _bytes: int = attrs.field(default=0, init=False)
    _service: str = attrs.field(default="", init=False)

    def add(self, service: str, table: pa.Table) -> None:
        """The next records, all of one service."""
        if service != self._service and self._records >= SERVICE_RECORDS:
            self.flush()
        self._service = service
        self.facts.add(service, table)
        self._gathered.append(table)
        self._records += table.num_rows
        self._bytes += table.nbytes
        if self._records >= ROW_GROUP_RECORDS or self._bytes >= ROW_GROUP_BYTES:
            self.flush()

    def say(self, contents: Contents) -> None:
        """What is in it, for whoever finds it."""
        self._file.add_key_value_metadata({KEY: said(contents)})

    def flush(self) -> None:
        """Write what is gathered, as row groups of like size."""
        if not self._records:
            return
        groups = -(-self._records // (2 * ROW_GROUP_RECORDS))
        table = pa.concat_tables(self._gathered)
        self._file.write_table(table, row_group_size=-(-self._records // groups))
        self._gathered.clear()
        self._records = self._bytes = 0


@contextmanager
def written(path: Path) -> Iterator[Writer]:
    """A writer to ``path``; closed at the end."""
    with pq.ParquetWriter(
        path,
        SCHEMA,
        compression="zstd",
        compression_level=COMPRESSION_LEVEL,
        use_dictionary=[name for name in COLUMNS if name not in MANY_VALUES],
        write_statistics=list(STATISTICS),
        store_schema=False,
    ) as file:
        writer = Writer(file)
        yield writer
        writer.flush()
