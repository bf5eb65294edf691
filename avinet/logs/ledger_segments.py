"""The ledger's rows of segments: which are known, which wait and where, which files are done with."""

import json
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from avinet.logs import ledger_copies, ledger_files
from avinet.logs.entries import Arrival, PackPlace, Segment, pack_file
from avinet.logs.runs import Names
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead

LEAST_LOOKED_AT = 20
"""Of what waits of one SE where many have something waiting: 1,000 of them are 10 MB."""

HAVING = ("segment", "held", "placed")
"""The tables whose segments are taken no more; the last two are of copies."""
_Row = tuple[int, SeId, bytes, int, int | None, int]
"""Id, SE, head, raw bytes, pack and place of a segment that waits."""
_encode = msgspec.msgpack.encode
_head = msgspec.msgpack.Decoder(SegmentHead).decode


def is_known(connection: sqlite3.Connection, segment: Segment) -> bool:
    """Whether a copy of it arrived before."""
    return known_of(connection, (segment,))[0]


def known_of(connection: sqlite3.Connection, segments: Sequence[Segment]) -> list[bool]:
    """For each whether a copy of it arrived before."""
    asked: dict[tuple[SeId, str], list[int]] = {}
    for one in segments:
        asked.setdefault((one.se, one.head.incarnation), []).append(one.head.counter)
    known: dict[tuple[SeId, str], tuple[set[int], int]] = {}
    for (se, incarnation), counters in asked.items():
        rows = connection.execute(
            " UNION ALL ".join(
                f"SELECT counter FROM {table} WHERE se = ?1 AND incarnation = ?2"  # noqa: S608 - one of three words
                " AND counter IN (SELECT value FROM json_each(?3))"
                for table in HAVING
            ),
            (se, incarnation, json.dumps(counters)),
        )
        found = {counter for (counter,) in rows}
        below = connection.execute(
            "SELECT known_below FROM spool WHERE se = ? AND incarnation = ?", (se, incarnation)
        ).fetchone()
        known[se, incarnation] = found, below[0] if below else 0
    return [
        one.head.counter in found or one.head.counter < below or ledger_files.is_known(connection, one)
        for one in segments
        for found, below in (known[one.se, one.head.incarnation],)
    ]


def receive(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> list[bool]:
    """Take segments: for each whether it is the first copy and counts."""
    first = _first(connection, arrivals)
    taken = [arrival for arrival, counts in zip(arrivals, first, strict=True) if counts]
    enter(connection, [arrival.segment for arrival in taken])
    _count_shares(connection, taken)
    ledger_copies.note(connection, taken)
    return first


def hold(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> list[bool]:
    """Of a copy set: the same, but none counts yet."""
    first = _first(connection, arrivals)
    connection.executemany(
        "INSERT INTO held (se, incarnation, counter, head, raw_bytes, pack, place) VALUES (?, ?, ?, ?, ?, ?, ?)",
        [_row(arrival.segment) for arrival, counts in zip(arrivals, first, strict=True) if counts],
    )
    return first


def enter(connection: sqlite3.Connection, segments: Iterable[Segment]) -> None:
    """They wait for the store."""
    connection.executemany(
        "INSERT INTO segment (se, incarnation, counter, head, raw_bytes, pack, place, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting')",
        map(_row, segments),
    )


def _row(segment: Segment) -> tuple[object, ...]:
    head, place = segment.head, segment.place
    where = (None, 0) if place is None else (place.pack, place.offset)
    return (segment.se, head.incarnation, head.counter, _encode(head), head.raw_bytes, *where)


def _first(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> list[bool]:
    known = known_of(connection, [one.segment for one in arrivals])
    first: list[bool] = []
    taken: set[tuple[SeId, str, int]] = set()
    for arrival, is_known_one in zip(arrivals, known, strict=True):
        head = arrival.segment.head
        key = (arrival.segment.se, head.incarnation, head.counter)
        first.append(not is_known_one and key not in taken)
        taken.add(key)
    return first


def _count_shares(connection: sqlite3.Connection, arrivals: Iterable[Arrival]) -> None:
    shares: dict[tuple[str, SeId], Counter[str]] = {}
    for arrival in arrivals:
        if not arrival.pull:
            continue
        head = arrival.segment.head
        share = shares.setdefault((arrival.pull, arrival.segment.se), Counter())
        share["segments"] += 1
        share["records"] += head.records
        share["bytes"] += head.size
        share["raw_bytes"] += head.raw_bytes
    connection.executemany(
        "UPDATE pull_share SET segments = segments + ?, records = records + ?, bytes = bytes + ?,"
        " raw_bytes = raw_bytes + ? WHERE pull = ? AND se = ?",
        [
            (sums["segments"], sums["records"], sums["bytes"], sums["raw_bytes"], pull, se)
            for (pull, se), sums in shares.items()
        ],
    )


def waiting(connection: sqlite3.Connection, max_raw_bytes: int, max_rows: int) -> list[Segment]:
    """The longest waiting of each SE, as ``Ledger.waiting`` says."""
    engines = _waiting_of(connection, max_rows)
    most = max(LEAST_LOOKED_AT, max_rows // max(1, len(engines)))
    queues: list[list[_Row]] = [
        connection.execute(
            "SELECT id, se, head, raw_bytes, pack, place FROM segment WHERE state = 'waiting' AND se = ?"
            " ORDER BY id LIMIT ?",
            (se, most),
        ).fetchall()
        for se in engines
    ]
    found = sorted(_fair_share(queues, max_raw_bytes, max_rows), key=lambda row: row[0])
    return [
        Segment(se, _head(head), None if pack is None else PackPlace(pack, place))
        for _, se, head, _, pack, place in found
    ]


def waiting_heads(connection: sqlite3.Connection) -> Iterator[SegmentHead]:
    """Of all that wait."""
    for (head,) in connection.execute("SELECT head FROM segment WHERE state = 'waiting'"):
        yield _head(head)


def waiting_of(connection: sqlite3.Connection, names: Names) -> list[Segment]:
    """Those of these that wait."""
    return [
        Segment(se, _head(head), None if pack is None else PackPlace(pack, place))
        for (se, incarnation), runs in names
        for first, last in runs
        for head, pack, place in connection.execute(
            "SELECT head, pack, place FROM segment WHERE state = 'waiting' AND se = ? AND incarnation = ?"
            " AND counter BETWEEN ? AND ?",
            (se, incarnation, first, last),
        )
    ]


def waiting_files(connection: sqlite3.Connection) -> set[tuple[SeId, str]]:
    """The files of all that wait, or are held."""
    alone = connection.execute(
        "SELECT se, head FROM segment WHERE state = 'waiting' AND pack IS NULL"
        " UNION ALL SELECT se, head FROM held WHERE pack IS NULL"
    )
    names = {(se, Segment(se, _head(head)).file) for se, head in alone}
    packed = connection.execute(
        "SELECT se, incarnation, pack FROM segment WHERE state = 'waiting' AND pack IS NOT NULL"
        " UNION SELECT se, incarnation, pack FROM held WHERE pack IS NOT NULL"
    )
    return names | {(se, pack_file(incarnation, pack)) for se, incarnation, pack in packed}


def newest_waiting(connection: sqlite3.Connection, se: SeId, limit: int) -> tuple[str, ...]:
    """Names of those that came last from one SE."""
    rows = connection.execute(
        "SELECT head FROM segment WHERE state = 'waiting' AND se = ? ORDER BY id DESC LIMIT ?", (se, limit)
    )
    return tuple(_head(head).name for (head,) in rows)


def done_files(connection: sqlite3.Connection, segments: Sequence[Segment]) -> set[tuple[SeId, str]]:
    """Their files of which nothing waits any more, nor is held."""
    alone = {(one.se, one.file) for one in segments if one.place is None}
    packs = {(one.se, one.head.incarnation, one.place.pack) for one in segments if one.place is not None}
    return alone | {
        (se, pack_file(incarnation, pack))
        for se, incarnation, pack in packs
        if connection.execute(
            "SELECT 1 FROM segment WHERE state = 'waiting' AND pack = ?1 AND se = ?2 AND incarnation = ?3"
            " UNION ALL SELECT 1 FROM held WHERE pack = ?1 AND se = ?2 AND incarnation = ?3 LIMIT 1",
            (pack, se, incarnation),
        ).fetchone()
        is None
    }


def _waiting_of(connection: sqlite3.Connection, limit: int) -> list[SeId]:
    """SEs that have something waiting; the one that waits the longest first.  A step of the index each."""
    rows = connection.execute(
        "WITH RECURSIVE one(se) AS (SELECT min(se) FROM segment WHERE state = 'waiting' UNION ALL"
        " SELECT (SELECT min(se) FROM segment WHERE state = 'waiting' AND se > one.se) FROM one WHERE one.se IS NOT NULL)"
        " SELECT se, (SELECT min(id) FROM segment WHERE state = 'waiting' AND se = one.se) AS oldest"
        " FROM one WHERE se IS NOT NULL ORDER BY oldest LIMIT ?",
        (limit,),
    )
    return [se for se, _ in rows]


def _fair_share(queues: list[list[_Row]], max_raw_bytes: int, max_rows: int) -> list[_Row]:
    """From the front of each queue a like share, then what is left of it for whoever has more; one at least in all."""
    found: list[_Row] = []
    left = max_raw_bytes
    while queues and left > 0 and len(found) < max_rows:
        share, rows = left // len(queues), max(1, (max_rows - len(found)) // len(queues))
        more: list[list[_Row]] = []
        for queue in queues:
            taken, size = 0, 0
            while taken < len(queue) and taken < rows and len(found) < max_rows:
                raw_bytes = queue[taken][3]
                # One that is larger than its share is taken where the whole has room for it.
                if size + raw_bytes > (left if taken == 0 else min(share, left)) and found:
                    break
                found.append(queue[taken])
                size += raw_bytes
                taken += 1
            left -= size
            if 0 < taken < len(queue):
                more.append(queue[taken:])
        queues = more
    return found
