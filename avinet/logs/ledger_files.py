"""The ledger's rows of the store's files, and of segments that are known by these files alone.

All calls are within a transaction of the ledger's.
"""

import sqlite3
from collections.abc import Iterable

import msgspec

from avinet.logs.entries import FilePart, Segment, StoreFile
from avinet.logs.mended import Mended
from avinet.logs.runs import Names, Run, Spool
from avinet.model.ids import SeId

_encode = msgspec.msgpack.encode
_mended = msgspec.msgpack.Decoder(Mended).decode


def put(connection: sqlite3.Connection, file: StoreFile) -> None:
    """It counts from now on."""
    connection.execute(
        "INSERT INTO file VALUES (?, ?, ?, ?, ?)",
        (file.name, file.first_us, file.last_us, file.records, file.size),
    )
    connection.executemany(
        "INSERT INTO part VALUES (?, ?, ?, ?, ?)",
        [(file.name, part.se, part.bytes, part.significant, part.full) for part in file.parts],
    )


def remove(connection: sqlite3.Connection, names: Iterable[str]) -> int:
    """They count no more; how many did."""
    return connection.executemany("DELETE FROM file WHERE name = ?", [(name,) for name in names]).rowcount


def within(connection: sqlite3.Connection, since_us: int, until_us: int) -> list[StoreFile]:
    """Those that may hold requests of that time, the oldest first; without their parts."""
    rows = connection.execute(
        "SELECT name, first_us, last_us, records, bytes FROM file WHERE last_us >= ? AND first_us < ?"
        " ORDER BY first_us, name",
        (since_us, until_us),
    )
    return [StoreFile(*row) for row in rows]


def parts(connection: sqlite3.Connection) -> dict[str, tuple[FilePart, ...]]:
    """Of each file that has some."""
    found: dict[str, list[FilePart]] = {}
    for name, *part in connection.execute("SELECT file, se, bytes, significant, full FROM part"):
        found.setdefault(name, []).append(FilePart(*part))
    return {name: tuple(of_file) for name, of_file in found.items()}


def held(connection: sqlite3.Connection) -> dict[SeId, int]:
    """How many bytes of the store are whose."""
    return dict(connection.execute("SELECT se, sum(bytes) FROM part GROUP BY se").fetchall())


# Segments that are known by the files that hold them.


def know(connection: sqlite3.Connection, names: Names) -> None:
    """They are in the store; those of them that wait do so no more."""
    found: dict[Spool, list[Run]] = {}
    for se, incarnation, first, last in connection.execute("SELECT * FROM known"):
        found.setdefault((se, incarnation), []).append((first, last))
    known = Names.of_runs(found).plus(names)
    connection.execute("DELETE FROM known")
    connection.executemany(
        "INSERT INTO known VALUES (?, ?, ?, ?)", [(*spool, *run) for spool, runs in known for run in runs]
    )
    for (se, incarnation), runs in names:
        connection.executemany(
            "UPDATE segment SET state = 'stored' WHERE se = ? AND incarnation = ? AND counter BETWEEN ? AND ?"
            " AND state = 'waiting'",
            [(se, incarnation, *run) for run in runs],
        )


def is_known(connection: sqlite3.Connection, segment: Segment) -> bool:
    """Whether a file that was found has it."""
    head = segment.head
    row = connection.execute(
        "SELECT last FROM known WHERE se = ? AND incarnation = ? AND first <= ? ORDER BY first DESC LIMIT 1",
        (segment.se, head.incarnation, head.counter),
    ).fetchone()
    return row is not None and row[0] >= head.counter


def forget(connection: sqlite3.Connection, se: SeId, incarnation: str, below: int) -> None:
    """Counters below are known by that."""
    connection.execute(
        "DELETE FROM known WHERE se = ? AND incarnation = ? AND last < ?", (se, incarnation, below)
    )
    connection.execute(
        "DELETE FROM placed WHERE se = ? AND incarnation = ? AND counter < ?", (se, incarnation, below)
    )


# What was mended.


def note(connection: sqlite3.Connection, at_us: int, mended: Mended) -> None:
    """The last time."""
    connection.execute("INSERT OR REPLACE INTO mended VALUES (1, ?, ?)", (at_us, _encode(mended)))


def noted(connection: sqlite3.Connection) -> tuple[int, Mended] | None:
    """When, and what."""
    row = connection.execute("SELECT at_us, body FROM mended").fetchone()
    return None if row is None else (row[0], _mended(row[1]))
