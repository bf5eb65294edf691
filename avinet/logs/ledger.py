"""The controller's ledger of request logs: which segments arrived and which files of the store count.

One SQLite file beside the segments.  Calls block and may come from any thread; each writing call is one durable
transaction, so what it says holds after kill -9 and power loss:

- ``receive`` says which copies are the first.  Only then is a segment acknowledged; a second copy is acknowledged
  too, and thrown away.
- ``stored`` moves a batch of segments into one file of the store.  A file that the catalogue does not list holds
  nothing that counts, whatever is in it.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from threading import Lock

import attrs
import msgspec

from avinet.model.ids import SeId
from avinet.model.logs import Drop, SegmentHead
from avinet.sqlite_file import open_file, rolled_back, translated

MAX_DROPS = 100_000
"""Rows of what SEs dropped, coalesced already by them; some 20 MB, the oldest go first."""
PAGE = 1_000
"""Rows read at once."""

_encode = msgspec.msgpack.encode
_head = msgspec.msgpack.Decoder(SegmentHead).decode
_drop = msgspec.msgpack.Decoder(Drop).decode


@attrs.frozen
class Segment:
    """A segment and whose it is: the channel proved ``se``."""

    se: SeId
    head: SegmentHead


@attrs.frozen
class Arrival:
    """A segment whose bytes are durable here; ``pull`` is what it was sent for, empty when it was pushed."""

    segment: Segment
    pull: str = ""


@attrs.frozen
class StoreFile:
    """One file of the store; ``name`` is its path within the store's folder."""

    name: str
    first_us: int
    last_us: int
    records: int
    size: int


@attrs.frozen
class Waiting:
    """What arrived and is not in the store yet."""

    segments: int = 0
    raw_bytes: int = 0


@attrs.frozen
class Dropped:
    """What one SE said it dropped, and when it said so."""

    id: int
    se: SeId
    at_us: int
    drop: Drop


@attrs.frozen
class Share:
    """One SE's part in one pull: ``body`` is the puller's own, the counts are what was received for it."""

    pull: str
    se: SeId
    body: bytes = attrs.field(repr=False)
    segments: int = 0
    records: int = 0
    bytes: int = 0
    raw_bytes: int = 0


class Ledger:
    """An open ledger.  Errors are those of ``avinet.sqlite_file``; after one nothing was changed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = Lock()
        self._connection = open_file(path, files("avinet.logs") / "migrations" / "ledger")
        self._connection.execute("PRAGMA foreign_keys = ON")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    # Segments.

    def known(self, segment: Segment) -> bool:
        """Whether a copy of it arrived before, whatever became of that."""
        with self._reading() as connection:
            return _is_known(connection, segment)

    def receive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Take segments, all in one transaction: for each whether it is the first copy and counts."""
        with self._writing() as connection:
            return [_receive(connection, arrival) for arrival in arrivals]

    def waiting(self, max_raw_bytes: int) -> list[Segment]:
        """The longest waiting segments, up to so much NDJSON but one at least."""
        found: list[Segment] = []
        left = max_raw_bytes
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT se, head, raw_bytes FROM segment WHERE state = 'waiting' ORDER BY id LIMIT ?", (PAGE,)
            )
            for se, head, raw_bytes in rows:
                left -= raw_bytes
                if found and left < 0:
                    break
                found.append(Segment(se, _head(head)))
        return found

    def waiting_names(self) -> set[tuple[SeId, str]]:
        """Each one that waits, as whose it is and what it is called."""
        with self._reading() as connection:
            rows = connection.execute("SELECT se, head FROM segment WHERE state = 'waiting'")
            return {(se, _head(head).name) for se, head in rows}

    def waiting_totals(self) -> Waiting:
        """How much is behind."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT count(*), coalesce(sum(raw_bytes), 0) FROM segment WHERE state = 'waiting'"
            ).fetchone()
        return Waiting(*row)

    def last_arrival(self) -> int:
        """A number that grows with each segment that arrives; see ``waits``."""
        with self._reading() as connection:
            row = connection.execute("SELECT coalesce(max(id), 0) FROM segment").fetchone()
        return int(row[0])

    def waits(self, arrival: int) -> bool:
        """Whether a segment that arrived up to then is not in the store yet."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM segment WHERE state = 'waiting' AND id <= ? LIMIT 1", (arrival,)
            ).fetchone()
        return row is not None

    def forget(self, se: SeId, incarnation: str, below: int) -> int:
        """The SE's spool holds no segment below this counter any more: keep that one number for all those rows.

        Those that wait stay.  Returns how many rows went.
        """
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO spool (se, incarnation, known_below) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET"
                " known_below = max(known_below, ?3)",
                (se, incarnation, below),
            )
            gone = connection.execute(
                "DELETE FROM segment WHERE se = ? AND incarnation = ? AND counter < ? AND state != 'waiting'",
                (se, incarnation, below),
            )
            return gone.rowcount

    # The store's files.

    def stored(
        self, file: StoreFile | None, segments: Sequence[Segment], bad: Sequence[Segment] = ()
    ) -> None:
        """``segments`` are in ``file`` from now on; those that are ``bad`` were set aside, and count no more.

        ``file`` is None when nothing of them could be used.
        """
        with self._writing() as connection:
            if file is not None:
                _list(connection, file)
            for state, group in (("stored", segments), ("bad", bad)):
                connection.executemany(
                    f"UPDATE segment SET state = '{state}' WHERE se = ? AND incarnation = ? AND counter = ?",  # noqa: S608 - one of two words
                    [(one.se, one.head.incarnation, one.head.counter) for one in group],
                )

    def replace(self, old: Sequence[str], new: Sequence[StoreFile] = ()) -> None:
        """``new`` files hold what ``old`` ones held; without any, what is old has had its time."""
        with self._writing() as connection:
            connection.executemany("DELETE FROM file WHERE name = ?", [(name,) for name in old])
            for file in new:
                _list(connection, file)

    def delist(self, name: str) -> bool:
        """A file that cannot be read counts no more; False when it did not already."""
        with self._writing() as connection:
            return connection.execute("DELETE FROM file WHERE name = ?", (name,)).rowcount > 0

    def files(self, since_us: int = 0, until_us: int = 2**62) -> list[StoreFile]:
        """Those that may hold requests of that time, the oldest first."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT name, first_us, last_us, records, bytes FROM file WHERE last_us >= ? AND first_us < ?"
                " ORDER BY first_us, name",
                (since_us, until_us),
            ).fetchall()
        return [StoreFile(*row) for row in rows]

    # What SEs dropped.

    def drops_position(self, se: SeId, incarnation: str) -> int:
        """How far the spool's list of drops is known; 0 for not at all."""
        with self._reading() as connection:
            row = connection.execute(
                "SELECT drops_position FROM spool WHERE se = ? AND incarnation = ?", (se, incarnation)
            ).fetchone()
        return int(row[0]) if row else 0

    def add_drops(self, se: SeId, incarnation: str, position: int, drops: Sequence[Drop], at_us: int) -> bool:
        """Take what the spool dropped up to ``position``; False when that was known already."""
        with self._writing() as connection:
            taken = connection.execute(
                "INSERT INTO spool (se, incarnation, drops_position) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET"
                " drops_position = ?3 WHERE drops_position < ?3",
                (se, incarnation, position),
            ).rowcount
            if not taken:
                return False
            connection.executemany(
                "INSERT INTO dropped (se, at_us, body) VALUES (?, ?, ?)",
                [(se, at_us, _encode(drop)) for drop in drops],
            )
            connection.execute(
                "DELETE FROM dropped WHERE id <= (SELECT max(id) FROM dropped) - ?", (MAX_DROPS,)
            )
            return True

    def drops(self, after: int = 0, limit: int = PAGE) -> list[Dropped]:
        """What was dropped, in the order in which it was told."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT id, se, at_us, body FROM dropped WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [Dropped(id_, se, at_us, _drop(body)) for id_, se, at_us, body in rows]

    def newest_drops(self, limit: int = PAGE) -> list[Dropped]:
        """What was dropped last, the newest first."""
        with self._reading() as connection:
            rows = connection.execute(
                "SELECT id, se, at_us, body FROM dropped ORDER BY id DESC LIMIT ?", (limit,)
            ).fetchall()
        return [Dropped(id_, se, at_us, _drop(body)) for id_, se, at_us, body in rows]

    # Pulls.

    def put_pull(self, pull: str, body: bytes, shares: Sequence[Share] = ()) -> None:
        """Write a pull and, of the shares given, the bodies; their counts are kept by ``receive``."""
        with self._writing() as connection:
            connection.execute(
                "INSERT INTO pull VALUES (?1, ?2) ON CONFLICT DO UPDATE SET body = ?2", (pull, body)
            )
            connection.executemany(
                "INSERT INTO pull_share (pull, se, body) VALUES (?1, ?2, ?3)"
                " ON CONFLICT DO UPDATE SET body = ?3",
                [(pull, share.se, share.body) for share in shares],
            )

    def pulls(self) -> list[tuple[str, bytes]]:
        """Every pull and its body."""
        with self._reading() as connection:
            return connection.execute("SELECT id, body FROM pull ORDER BY id").fetchall()

    def shares(self, pull: str) -> list[Share]:
        """Every SE's part in a pull."""
        with self._reading() as connection:
            rows = connection.execute("SELECT * FROM pull_share WHERE pull = ? ORDER BY se", (pull,))
            return [Share(*row) for row in rows]

    def forget_pull(self, pull: str) -> None:
        """Remove it and its shares."""
        with self._writing() as connection:
            connection.execute("DELETE FROM pull WHERE id = ?", (pull,))

    # Inside.

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                yield self._connection
            except sqlite3.Error as why:
                raise translated(why, self._path) from why

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as connection:
            try:
                connection.execute("BEGIN IMMEDIATE")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                rolled_back(connection)
                raise


def _is_known(connection: sqlite3.Connection, segment: Segment) -> bool:
    head = segment.head
    row = connection.execute(
        "SELECT 1 FROM segment WHERE se = ?1 AND incarnation = ?2 AND counter = ?3 UNION ALL"
        " SELECT 1 FROM spool WHERE se = ?1 AND incarnation = ?2 AND known_below > ?3 LIMIT 1",
        (segment.se, head.incarnation, head.counter),
    ).fetchone()
    return row is not None


def _receive(connection: sqlite3.Connection, arrival: Arrival) -> bool:
    segment = arrival.segment
    if _is_known(connection, segment):
        return False
    head = segment.head
    connection.execute(
        "INSERT INTO segment (se, incarnation, counter, head, raw_bytes, state) VALUES (?, ?, ?, ?, ?, 'waiting')",
        (segment.se, head.incarnation, head.counter, _encode(head), head.raw_bytes),
    )
    if arrival.pull:
        connection.execute(
            "UPDATE pull_share SET segments = segments + 1, records = records + ?, bytes = bytes + ?,"
            " raw_bytes = raw_bytes + ? WHERE pull = ? AND se = ?",
            (head.records, head.size, head.raw_bytes, arrival.pull, segment.se),
        )
    return True


def _list(connection: sqlite3.Connection, file: StoreFile) -> None:
    connection.execute(
        "INSERT INTO file VALUES (?, ?, ?, ?, ?)",
        (file.name, file.first_us, file.last_us, file.records, file.size),
    )
