"""Whether a ledger's rows are what was written: SQLite sees a page that is not one of its own, but no byte within a value."""

import re
import sqlite3
from pathlib import Path

import msgspec

from avinet.logs.mended import Mended
from avinet.model.logs import Drop, SegmentHead
from avinet.sqlite_file import StoreDamagedError

_TABLES = {
    "segment": (int, str, str, int, bytes, int, str),
    "spool": (str, str, int, int),
    "file": (str, int, int, int, int),
    "dropped": (int, str, int, bytes),
    "pull": (str, bytes),
    "pull_share": (str, str, bytes, int, int, int, int),
    "known": (str, str, int, int),
    "part": (str, str, int, int, int),
    "mended": (int, int, bytes),
    "identity": (int, str),
    "copy_of": (int, str, int, int),
    "held": (int, str, str, int, bytes, int),
    "placed": (str, str, int, str),
    "owed": (str, str, str, int),
    "copied": (str, int, int),
}
"""Types of the columns, in their order; columns that were added later are not looked at."""
_head = msgspec.msgpack.Decoder(SegmentHead).decode
_drop = msgspec.msgpack.Decoder(Drop).decode
_mended = msgspec.msgpack.Decoder(Mended).decode
_store_id = re.compile("[0-9a-f]{32}")


def store_id(connection: sqlite3.Connection, path: Path) -> str:
    """Which store it is the ledger of."""
    row = connection.execute("SELECT store FROM identity").fetchone()
    if row is None or not isinstance(row[0], str) or not _store_id.fullmatch(row[0]):
        raise StoreDamagedError(where=str(path), detail="it does not say whose it is")
    return row[0]


def check(connection: sqlite3.Connection) -> None:
    """Read everything but segments that are done with, which are millions; ``ValueError`` or a decoder's where it is wrong."""
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("ROLLBACK")
    for table, kinds in _TABLES.items():
        only = "WHERE state = 'waiting'" if table == "segment" else ""
        for row in connection.execute(f"SELECT * FROM {table} {only}"):  # noqa: S608 - names of our own tables
            if not all(isinstance(value, kind) for value, kind in zip(row, kinds, strict=False)):
                raise ValueError(f"a row of {table} has values of other kinds")
            _decode(table, row)


def _decode(table: str, row: tuple[object, ...]) -> None:
    match table, row:
        case "segment" | "held", (_, _, incarnation, counter, bytes(body), *_):
            head = _head(body)
            if (head.incarnation, head.counter) != (incarnation, counter):
                raise ValueError("a segment has the head of another one")
        case "dropped", (*_, bytes(body)):
            _drop(body)
        case "mended", (*_, bytes(body)):
            _mended(body)
        case "pull" | "pull_share", row:
            for value in row:
                if isinstance(value, bytes):
                    msgspec.msgpack.decode(value)
