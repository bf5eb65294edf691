"""The ledger's rows of segments: which are known, which wait and where, which files are done with."""

import json
import sqlite3
from collections import Counter
from collections.abc import Sequence

import msgspec

from avinet.logs import ledger_files
from avinet.logs.entries import Arrival, PackPlace, Segment, pack_file
from avinet.logs.runs import Names
from avinet.model.ids import SeId
from avinet.model.logs import SegmentHead

LEAST_LOOKED_AT = 20
"""Of what waits of one SE where many have something waiting: 1,000 of them are 10 MB."""

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
            "SELECT counter FROM segment WHERE se = ? AND incarnation = ?"
            " AND counter IN (SELECT value FROM json_each(?))",
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
    known = known_of(connection, [one.segment for one in arrivals])
    first: list[bool] = []
    rows: list[tuple[object, ...]] = []
    taken: set[tuple[SeId, str, int]] = set()
    shares: dict[tuple[str, SeId], Counter[str]] = {}
    for arrival, is_known_one in zip(arrivals, known, strict=True):
        segment = arrival.segment
        head, place = segment.head, segment.place
        key = (segment.se, head.incarnation, head.counter)
        counts = not is_known_one and key not in taken
        first.append(counts)
        if not counts:
            continue
        taken.add(key)
        where = (None, 0) if place is None else (place.pack, place.offset)
        rows.append((*key, _encode(head), head.raw_bytes, *where))
        if arrival.pull:
            share = shares.setdefault((arrival.pull, segment.se), Counter())
            share["segments"] += 1
            share["records"] += head.records
            share["bytes"] += head.size
            share["raw_bytes"] += head.raw_bytes
    connection.executemany(
        "INSERT INTO segment (se, incarnation, counter, head, raw_bytes, pack, place, state)"
        " VALUES (?, ?, ?, ?, ?, ?, ?, 'waiting')",
        rows,
    )
    connection.executemany(
        "UPDATE pull_share SET segments = segments + ?, records = records + ?, bytes = bytes + ?,"
        " raw_bytes = raw_bytes + ? WHERE pull = ? AND se = ?",
        [
            (sums["segments"], sums["records"], sums["bytes"], sums["raw_bytes"], pull, se)
            for (pull, se), sums in shares.items()
        ],
    )
    return first


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
    """The files of all that wait."""
    alone = connection.execute("SELECT se, head FROM segment WHERE state = 'waiting' AND pack IS NULL")
    names = {(se, Segment(se, _head(head)).file) for se, head in alone}
    packed = connection.execute(
        "SELECT DISTINCT se, incarnation, pack FROM segment WHERE state = 'waiting' AND pack IS NOT NULL"
    )
    return names | {(se, pack_file(incarnation, pack)) for se, incarnation, pack in packed}


def newest_waiting(connection: sqlite3.Connection, se: SeId, limit: int) -> tuple[str, ...]:
    """Names of those that came last from one SE."""
    rows = connection.execute(
        "SELECT head FROM segment WHERE state = 'waiting' AND se = ? ORDER BY id DESC LIMIT ?", (se, limit)
    )
    return tuple(_head(head).name for (head,) in rows)


def done_files(connection: sqlite3.Connection, segments: Sequence[Segment]) -> set[tuple[SeId, str]]:
    """Their files of which nothing waits any more."""
    alone = {(one.se, one.file) for one in segments if one.place is None}
    packs = {(one.se, one.head.incarnation, one.place.pack) for one in segments if one.place is not None}
    return alone | {
        (se, pack_file(incarnation, pack))
        for se, incarnation, pack in packs
        if connection.execute(
            "SELECT 1 FROM segment WHERE state = 'waiting' AND pack = ? AND se = ? AND incarnation = ? LIMIT 1",
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
