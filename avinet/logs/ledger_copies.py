"""The ledger's rows of copies: on a controller's own ledger where each copy is, on a copy set's what is held there.

All calls are within a transaction of the ledger's.  Names are looked up by their runs, which name no segment that is not
meant: between two that are there may be none.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from avinet.logs.entries import Arrival, PackPlace, Segment
from avinet.logs.runs import Names, Run, Spool
from avinet.model.ids import ControllerName, SeId
from avinet.model.logs import SegmentHead

NOWHERE = ControllerName("")
"""The keeper of what is copied nowhere."""
_HAVING = ("segment", "held", "placed")
_head = msgspec.msgpack.Decoder(SegmentHead).decode

# A controller's own.


def note(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> None:
    """Whose copies of these count; each keeper is still to hear of its own."""
    counts: dict[str, tuple[int, int]] = {}
    owed: list[tuple[object, ...]] = []
    for arrival in arrivals:
        keeper, head = arrival.keeper, arrival.segment.head
        if keeper is None:
            continue
        records, newest_us = counts.get(keeper, (0, 0))
        counts[keeper] = records + head.records, max(newest_us, head.last_us)
        if keeper != NOWHERE:
            owed.append((keeper, arrival.segment.se, head.incarnation, head.counter))
    connection.executemany("INSERT OR IGNORE INTO owed VALUES (?, ?, ?, ?)", owed)
    for name, (records, newest_us) in counts.items():
        count(connection, name, records, newest_us)


def count(connection: sqlite3.Connection, keeper: str, records: int, newest_us: int) -> None:
    """So many more records have their copy there."""
    connection.execute(
        "INSERT INTO copied VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET records = records + ?2,"
        " newest_us = max(newest_us, ?3)",
        (keeper, records, newest_us),
    )


def owed(connection: sqlite3.Connection, keeper: ControllerName) -> Names:
    """What a keeper is to hear that it counts."""
    rows = connection.execute("SELECT se, incarnation, counter FROM owed WHERE keeper = ?", (keeper,))
    return Names.of((SeId(se), incarnation, counter) for se, incarnation, counter in rows)


def least_owed(connection: sqlite3.Connection, se: SeId, incarnation: str) -> int | None:
    """The lowest counter of a spool of which a keeper has not heard."""
    row = connection.execute(
        "SELECT min(counter) FROM owed WHERE se = ? AND incarnation = ?", (se, incarnation)
    ).fetchone()
    return None if row is None or row[0] is None else int(row[0])


def settle(connection: sqlite3.Connection, keeper: ControllerName, names: Names) -> None:
    """It has heard of these."""
    connection.executemany(
        "DELETE FROM owed WHERE keeper = ? AND se = ? AND incarnation = ? AND counter BETWEEN ? AND ?",
        [(keeper, *spool, *run) for spool, runs in names for run in runs],
    )


def lose(connection: sqlite3.Connection, keeper: ControllerName) -> None:
    """What it kept is gone: from now on that is copied nowhere."""
    row = connection.execute("SELECT records, newest_us FROM copied WHERE keeper = ?", (keeper,)).fetchone()
    if row is not None:
        connection.execute("DELETE FROM copied WHERE keeper = ?", (keeper,))
        count(connection, NOWHERE, *row)
    connection.execute("DELETE FROM owed WHERE keeper = ?", (keeper,))


# A set's.


def held(connection: sqlite3.Connection) -> Names:
    """All that is held."""
    rows = connection.execute("SELECT se, incarnation, counter FROM held")
    return Names.of((SeId(se), incarnation, counter) for se, incarnation, counter in rows)


def take_held(connection: sqlite3.Connection, names: Names) -> list[Segment]:
    """Those of these that were held, and are so no more."""
    taken: list[Segment] = []
    for (se, incarnation), runs in names:
        for run in runs:
            rows = connection.execute(
                "DELETE FROM held WHERE se = ? AND incarnation = ? AND counter BETWEEN ? AND ?"
                " RETURNING head, pack, place",
                (se, incarnation, *run),
            ).fetchall()
            taken += [
                Segment(se, _head(head), None if pack is None else PackPlace(pack, place))
                for head, pack, place in rows
            ]
    return taken


def place(connection: sqlite3.Connection, names: Names, keeper: ControllerName) -> None:
    """Another's copies of these count."""
    connection.executemany(
        "INSERT OR REPLACE INTO placed VALUES (?, ?, ?, ?)",
        [
            (*spool, counter, keeper)
            for spool, runs in names
            for first, last in runs
            for counter in range(first, last + 1)
        ],
    )


def placed_count(connection: sqlite3.Connection) -> int:
    """How many others' copies are known to count."""
    return int(connection.execute("SELECT count(*) FROM placed").fetchone()[0])


def placed_at(connection: sqlite3.Connection, names: Names, keeper: ControllerName) -> Names:
    """Those of these whose copy counts there."""
    return _found(connection, "placed", names, " AND keeper = ?", (keeper,))


def known(connection: sqlite3.Connection, names: Names, tables: Iterable[str] = _HAVING) -> Names:
    """Those of these that are here, or are known to have been."""
    found = [_found(connection, table, names) for table in tables]
    return Names().plus(*found, _past(connection, names))


def _found(
    connection: sqlite3.Connection, table: str, names: Names, also: str = "", values: Sequence[object] = ()
) -> Names:
    query = f"SELECT counter FROM {table} WHERE se = ? AND incarnation = ? AND counter BETWEEN ? AND ?{also}"  # noqa: S608 - words of ours
    return Names.of(
        (se, incarnation, counter)
        for (se, incarnation), runs in names
        for run in runs
        for (counter,) in connection.execute(query, (se, incarnation, *run, *values))
    )


def _past(connection: sqlite3.Connection, names: Names) -> Names:
    """Those whose rows are gone, or were never there, since their spool or a file of the store says enough."""
    found: dict[Spool, list[Run]] = {}
    for (se, incarnation), runs in names:
        row = connection.execute(
            "SELECT known_below FROM spool WHERE se = ? AND incarnation = ?", (se, incarnation)
        ).fetchone()
        pasts = connection.execute(
            "SELECT first, last FROM known WHERE se = ? AND incarnation = ?", (se, incarnation)
        ).fetchall()
        if row is not None and row[0] > 0:
            pasts.append((0, row[0] - 1))
        shared = [
            (max(first, start), min(last, end))
            for first, last in runs
            for start, end in pasts
            if start <= last and first <= end
        ]
        if shared:
            found[se, incarnation] = shared
    return Names.of_runs(found)
