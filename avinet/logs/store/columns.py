"""NDJSON to columns: whole blocks by a compiled reader, and a block with anything odd in it line by line.

A block is parsed by pyarrow with a schema that is given (3 us of one core a record of 700 bytes; DuckDB's reader takes
the same, msgspec five times as long).  It refuses a block for one bad line, and some of what it takes is no record
(a line of another service, a time that is none); both send the block to the slow way, which takes each line as JSON
and keeps what fits its column: a value of another type is null, a line without its time and service is bad.  That takes
two to three times as long, also where a hostile service engine makes every line odd.

What is kept of a bad line is the line: it is handed to ``set_aside``, for people to look at.
"""

import datetime as dt
import operator
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import attrs
import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json

from avinet.logs.query.fields import CLIENT_HIGH, CLIENT_LOW, COLUMNS, Field, Type, address_halves
from avinet.logs.store.jobs import SegmentFile
from avinet.units import KIB, MIB

BLOCK_BYTES = MIB
"""Parsed at once: 1,500 lines, of which one bad one makes the rest slow.  Smaller ones cost the reader more."""
MAX_LINE_BYTES = MIB
"""A request line and headers that Envoy takes are 60 KiB at most; escaped, six times that."""
MAX_NUMBER_BYTES = 40
"""Digits of one; 2**53 has 16."""
_READING = pa.json.ReadOptions(use_threads=False, block_size=BLOCK_BYTES + MAX_LINE_BYTES)

_LARGEST: dict[str, int] = {"status": 999, "client_port": 65_535}
_LONGEST = {"client": 64, "request_id": 256}
"""Bytes of what pages of records are ordered by: an address, and the data plane's own id, a UUID.  What is longer is none,
and would make a cursor that nobody can hand back."""
_MOST = 2**53
"""Of any number: what JSON carries exactly (RFC 8259, 6), and of microseconds the year 2255."""
_MICROSECONDS = pa.timestamp("us")
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)

_STORED = {
    Type.TIME: _MICROSECONDS,
    Type.TEXT: pa.string(),
    Type.ADDRESS: pa.string(),
    Type.INTEGER: pa.int32(),
    Type.BYTES: pa.int64(),
    Type.MICROSECONDS: pa.int64(),
    Type.HALF: pa.uint64(),
}
_READ = {**_STORED, Type.TIME: pa.string(), Type.INTEGER: pa.int64()}
"""A status beyond 32 bits is one odd value, and not a reason to refuse a block."""

SCHEMA = pa.schema([(field.name, _STORED[field.type]) for field in COLUMNS.values()])
"""Of every file of the store."""
_COUNTS = {Type.INTEGER, Type.BYTES, Type.MICROSECONDS}
_LOGGED = tuple(field for field in COLUMNS.values() if field.logged)
_PARSING = pa.json.ParseOptions(
    explicit_schema=pa.schema([(field.key or field.name, _READ[field.type]) for field in _LOGGED]),
    unexpected_field_behavior="ignore",
)
_TIME = COLUMNS["time"].key
_SERVICE = COLUMNS["vs_uuid"].key
_SLOWLY_READ = pa.schema(
    [(f.key or f.name, _STORED[f.type] if f.type is Type.TIME else _READ[f.type]) for f in _LOGGED]
)
_RAW = {field.name for field in _LOGGED if field.type in _COUNTS}
"""Numbers are read by Python: there are some of five bytes that take msgspec 10 us each."""
_TEXTS = tuple(field.name for field in _LOGGED if field.name not in _RAW)


def _line_of(name: str, raw: Collection[str]) -> Any:
    """What is kept of a line: text, and as it is written what is ``raw``; None where there is nothing."""
    kinds = {field.name: msgspec.Raw if field.name in raw else str | None for field in _LOGGED}
    keys = {field.name: field.key or field.name for field in _LOGGED}
    return msgspec.defstruct(
        name, [(one, kind, msgspec.field(name=keys[one], default=None)) for one, kind in kinds.items()]
    )


_texts = operator.attrgetter(*_TEXTS)
_values = operator.attrgetter(*(field.name for field in _LOGGED))
_json = msgspec.json.Decoder(_line_of("Line", _RAW))
_any_json = msgspec.json.Decoder(_line_of("RawLine", {field.name for field in _LOGGED}))
_text = msgspec.json.Decoder(str).decode

SetAside = Callable[[bytes, str], None]
"""Told each bad line and what is wrong with it."""


@attrs.define
class Columns:
    """Reads segments of one service engine's, one at a time."""

    set_aside: SetAside

    def read(self, raw: bytearray, segment: SegmentFile) -> pa.Table | None:
        """The records of a segment, as ``SCHEMA``; None when there is none."""
        service = str(segment.head.service)
        tables = []
        for start, end in _blocks(raw):
            if end - start > BLOCK_BYTES + MAX_LINE_BYTES:
                self.set_aside(bytes(raw[start : start + KIB]), f"it is over {MAX_LINE_BYTES} bytes")
                continue
            block = pa.py_buffer(raw).slice(start, end - start)
            table = _whole(block, service)
            if table is None:
                table = self._line_by_line(bytes(block), service)
            if table.num_rows:
                tables.append(table)
        return _complete(pa.concat_tables(tables), segment) if tables else None

    def _line_by_line(self, block: bytes, service: str) -> pa.Table:
        lines: list[bytes] = []
        records: list[Any] = []
        for line in block.split(b"\n"):
            if not line.strip():
                continue
            try:
                records.append(_record(line, service))
                lines.append(line)
            except _NoRecordError as why:
                self.set_aside(line, str(why))
        # Column by column: a value at a time of each record takes three times as long.
        values = list(zip(*map(_values, records), strict=True)) or [()] * len(_LOGGED)
        columns = [_column(found, field) for found, field in zip(values, _LOGGED, strict=True)]
        table = pa.Table.from_arrays(columns, schema=_SLOWLY_READ)
        times = table[_TIME]
        if not times.null_count:
            return table
        has_time = times.is_valid()
        for line, has in zip(lines, has_time.to_pylist(), strict=True):
            if not has:
                self.set_aside(line, "it has no time")
        return table.filter(has_time)


class _NoRecordError(Exception):
    """A line that is no record of the service."""


def _blocks(raw: bytearray) -> Iterator[tuple[int, int]]:
    """Parts that end where lines end, each of ``BLOCK_BYTES`` or of one line that is larger."""
    start = 0
    while start < len(raw):
        end = raw.rfind(b"\n", start, start + BLOCK_BYTES) + 1
        if end <= start:
            end = raw.find(b"\n", start + BLOCK_BYTES - 1) + 1 or len(raw)
        if len(raw) - start <= BLOCK_BYTES:
            end = len(raw)
        yield start, end
        start = end


def _whole(block: pa.Buffer, service: str) -> pa.Table | None:
    """The block's records, when there is nothing else in it."""
    try:
        # The reader does not look at UTF-8, and DuckDB would trip over it later: 0.2 ms a MiB.
        offsets = pa.array([0, block.size], pa.int32()).buffers()[1]
        pa.StringArray.from_buffers(1, offsets, block).validate(full=True)
        table = pa.json.read_json(pa.BufferReader(block), read_options=_READING, parse_options=_PARSING)
        times = table[_TIME].cast(pa.timestamp("us", "UTC")).cast(_MICROSECONDS)
    except pa.ArrowException:
        return None
    if table.num_rows and not (_all_of(table[_SERVICE], service) and _possible(times)):
        return None
    return table.set_column(0, pa.field(_TIME, _MICROSECONDS), times)


def _all_of(services: pa.ChunkedArray, service: str) -> bool:
    return bool(pc.all(pc.equal(services, service), skip_nulls=False).as_py())


def _possible(times: pa.ChunkedArray) -> bool:
    bounds = pc.min_max(times.cast(pa.int64()))
    return not times.null_count and bounds["min"].as_py() >= 0 and bounds["max"].as_py() <= _MOST


def _record(line: bytes, service: str) -> Any:
    """The line's values."""
    if len(line) > MAX_LINE_BYTES:
        raise _NoRecordError(f"it is over {MAX_LINE_BYTES} bytes")
    try:
        try:
            record = _json.decode(line)
        except msgspec.ValidationError:
            record = _only_text(_any_json.decode(line))
    except msgspec.ValidationError as why:
        raise _NoRecordError("it is no JSON object") from why
    except (msgspec.DecodeError, RecursionError, ValueError) as why:
        raise _NoRecordError(f"it is no JSON: {why}") from why
    if record.vs_uuid != service:
        raise _NoRecordError("it is of another virtual service")
    return record


def _only_text(record: Any) -> Any:
    """Where text should be, what is none is null."""
    for name, value in zip(_TEXTS, _texts(record), strict=True):
        if value is not None:
            raw = bytes(value)
            setattr(record, name, _text(raw) if raw.startswith(b'"') else None)
    return record


def _column(values: Sequence[Any], field: Field) -> pa.Array:
    """Values as their column takes them, or null."""
    read = _SLOWLY_READ.field(field.key or field.name).type
    if field.name in _RAW:
        values = [None if value is None else _number(bytes(value)) for value in values]
    elif field.type is Type.TIME:
        values = list(map(_time, values))
    return pa.array(values, read)


def _number(raw: bytes) -> int | None:
    """Whole numbers that are written with a point or an exponent are what they are."""
    if len(raw) > MAX_NUMBER_BYTES or not (raw[:1].isdigit() or raw.startswith(b"-")):
        return None
    try:
        number = int(raw)
    except ValueError:
        fraction = float(raw)
        if not abs(fraction) <= _MOST or fraction != int(fraction):
            return None
        number = int(fraction)
    return number if abs(number) <= _MOST else None


def _time(value: object) -> dt.datetime | None:
    if not isinstance(value, str):
        return None
    try:
        time = dt.datetime.fromisoformat(value)
        since = (time - _EPOCH) // dt.timedelta(microseconds=1)
    except (ValueError, TypeError, OverflowError):
        return None
    return time.astimezone(dt.UTC).replace(tzinfo=None) if 0 <= since <= _MOST else None


def _complete(table: pa.Table, segment: SegmentFile) -> pa.Table:
    """What the lines do not say, and what they cannot be believed about."""
    added: dict[str, pa.Array] = {
        "se": pa.repeat(pa.scalar(segment.se or None, pa.string()), table.num_rows),
        "se_uuid": pa.repeat(pa.scalar(segment.se_uuid), table.num_rows),
        "class": pa.repeat(pa.scalar(str(segment.head.log_class)), table.num_rows),
    }
    added[CLIENT_HIGH.name], added[CLIENT_LOW.name] = _halves(_short(table["client"], _LONGEST["client"]))
    columns = []
    for field in COLUMNS.values():
        column = added.get(field.name)
        if column is None:
            column = table[field.key or field.name]
            if field.type in _COUNTS:
                column = _bounded(column, _LARGEST.get(field.name, _MOST))
            if field.name in _LONGEST:
                column = _short(column, _LONGEST[field.name])
            if column.type != _STORED[field.type]:
                column = column.cast(_STORED[field.type])
        columns.append(column)
    return pa.Table.from_arrays(columns, schema=SCHEMA)


def _bounded(column: pa.ChunkedArray, most: int) -> pa.ChunkedArray:
    """Null what is negative or too large."""
    bounds = pc.min_max(column)
    least, largest = bounds["min"].as_py(), bounds["max"].as_py()
    if least is None or (least >= 0 and largest <= most):
        return column
    fits = pc.and_(pc.greater_equal(column, 0), pc.less_equal(column, most))
    return pc.if_else(fits, column, pa.scalar(None, column.type))


def _short(column: pa.ChunkedArray, most: int) -> pa.ChunkedArray:
    """Null what is longer."""
    longest = pc.max(pc.binary_length(column)).as_py()
    if longest is None or longest <= most:
        return column
    return pc.if_else(pc.less_equal(pc.binary_length(column), most), column, pa.scalar(None, column.type))


def _halves(clients: pa.ChunkedArray) -> tuple[pa.Array, pa.Array]:
    """The addresses as numbers; each distinct one is looked at once."""
    encoded = clients.combine_chunks().dictionary_encode()
    if isinstance(encoded, pa.ChunkedArray):  # pragma: no cover - pyarrow older than 17
        encoded = encoded.combine_chunks()
    found = [address_halves(text) or (None, None) for text in encoded.dictionary.to_pylist()]
    high = pa.array([pair[0] for pair in found], pa.uint64())
    low = pa.array([pair[1] for pair in found], pa.uint64())
    return high.take(encoded.indices), low.take(encoded.indices)
