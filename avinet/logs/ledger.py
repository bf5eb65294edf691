"""The controller's ledger of request logs: which segments arrived and which files of the store count.

One SQLite file beside the segments.  Calls block and may come from any thread; each writing call is one durable
transaction, so what it says holds after kill -9 and power loss:

- ``receive`` says which copies are the first.  Only then is a segment acknowledged; a second copy is acknowledged
  too, and thrown away.
- ``stored`` moves a batch of segments into one file of the store.  A file that the catalogue does not list holds
  nothing that counts, whatever is in it.
"""

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from avinet.logs import ledger_files, ledger_segments
from avinet.logs.entries import Arrival, Dropped, FilePart, Segment, Share, StoreFile, Waiting
from avinet.logs.ledger_file import LedgerFile
from avinet.logs.mended import Mended
from avinet.logs.runs import Names
from avinet.model.ids import SeId
from avinet.model.logs import Drop

MAX_DROPS = 100_000
"""Rows of what SEs dropped, coalesced already by them; some 20 MB, the oldest go first."""
MAX_DROPS_OF_ONE = 20_000
"""Of one SE: twice what its spool keeps.  One that floods pushes out its own."""
MAX_KNOWN = 10_000_000
"""Segments that are remembered so that a second copy counts for nothing; some 4 GB.  An SE lets go of its own
(``forget``); one that does not, fills this in hours, in which every acknowledgement has long come or been asked for again."""
FORGOTTEN_AT_ONCE = 10_000
"""In one transaction, for which nobody waits long."""
MAX_SPOOLS_OF_ONE = 100
"""Spools of one SE whose positions are remembered; it makes a new one when its index was lost."""
PAGE = 1_000
"""Rows read at once."""

_encode = msgspec.msgpack.encode
_drop = msgspec.msgpack.Decoder(Drop).decode


class Ledger(LedgerFile):
    """An open ledger.  Errors are those of ``avinet.sqlite_file``; after one nothing was changed."""

    # Segments.

    def known(self, segment: Segment) -> bool:
        """Whether a copy of it arrived before, whatever became of that."""
        with self.reading() as connection:
            return ledger_segments.is_known(connection, segment)

    def known_of(self, segments: Sequence[Segment]) -> list[bool]:
        """The same, of many at once."""
        with self.reading() as connection:
            return ledger_segments.known_of(connection, segments)

    def receive(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Take segments, all in one transaction: for each whether it is the first copy and counts."""
        with self.writing() as connection:
            return ledger_segments.receive(connection, arrivals)

    def hold(self, arrivals: Sequence[Arrival]) -> list[bool]:
        """Of a copy set: the same, but none counts before its controller says so (``avinet.logs.copies``)."""
        with self.writing() as connection:
            return ledger_segments.hold(connection, arrivals)

    def waiting(self, max_raw_bytes: int) -> list[Segment]:
        """The longest waiting segments of each SE, up to so much NDJSON but one at least.

        Each has a like share of the bytes and the rows, and what one does not need is the others': so a backlog of one
        holds nobody up.
        """
        with self.reading() as connection:
            return ledger_segments.waiting(connection, max_raw_bytes, PAGE)

    def waiting_of(self, names: Names) -> list[Segment]:
        """Those of them that wait."""
        with self.reading() as connection:
            return ledger_segments.waiting_of(connection, names)

    def waiting_files(self) -> set[tuple[SeId, str]]:
        """The files of those that wait, as whose they are and what they are called."""
        with self.reading() as connection:
            return ledger_segments.waiting_files(connection)

    def newest_waiting(self, se: SeId, limit: int) -> tuple[str, ...]:
        """The names of those of one SE that arrived last and wait."""
        with self.reading() as connection:
            return ledger_segments.newest_waiting(connection, se, limit)

    def waiting_totals(self) -> Waiting:
        """How much is behind."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT count(*), coalesce(sum(raw_bytes), 0) FROM segment WHERE state = 'waiting'"
            ).fetchone()
        return Waiting(*row)

    def waiting_raw_bytes(self, se: SeId) -> int:
        """How much NDJSON of one SE is behind."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT coalesce(sum(raw_bytes), 0) FROM segment WHERE state = 'waiting' AND se = ?", (se,)
            ).fetchone()
        return int(row[0])

    def last_arrival(self) -> int:
        """A number that grows with each segment that arrives; see ``waits``."""
        with self.reading() as connection:
            row = connection.execute("SELECT coalesce(max(id), 0) FROM segment").fetchone()
        return int(row[0])

    def waits(self, arrival: int) -> bool:
        """Whether a segment that arrived up to then is not in the store yet."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT 1 FROM segment WHERE state = 'waiting' AND id <= ? LIMIT 1", (arrival,)
            ).fetchone()
        return row is not None

    def forget(self, se: SeId, incarnation: str, below: int) -> int:
        """The SE's spool holds no segment below this counter any more: keep that one number for all those rows.

        Those that wait stay.  Returns how many rows went.
        """
        with self.writing() as connection:
            connection.execute(
                "INSERT INTO spool (se, incarnation, known_below) VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET"
                " known_below = max(known_below, ?3)",
                (se, incarnation, below),
            )
            _bound_spools(connection, se, incarnation)
            ledger_files.forget(connection, se, incarnation, below)
            gone = connection.execute(
                "DELETE FROM segment WHERE se = ? AND incarnation = ? AND counter < ? AND state != 'waiting'",
                (se, incarnation, below),
            )
            return gone.rowcount

    def forget_oldest(self) -> int:
        """Of what is beyond ``MAX_KNOWN``, some; how many rows went.  Those that wait stay."""
        with self.writing() as connection:
            gone = connection.execute(
                "DELETE FROM segment WHERE id IN (SELECT id FROM segment WHERE id <= (SELECT max(id) FROM segment) - ?"
                " AND state != 'waiting' ORDER BY id LIMIT ?)",
                (MAX_KNOWN, FORGOTTEN_AT_ONCE),
            )
            return gone.rowcount

    # The store's files.

    def stored(
        self, file: StoreFile | None, segments: Sequence[Segment], bad: Sequence[Segment] = ()
    ) -> set[tuple[SeId, str]]:
        """``segments`` are in ``file`` from now on; those that are ``bad`` count no more.

        ``file`` is None when nothing of them could be used.  Returns their files of which nothing waits any more.
        """
        with self.writing() as connection:
            if file is not None:
                ledger_files.put(connection, file)
            for state, group in (("stored", segments), ("bad", bad)):
                connection.executemany(
                    f"UPDATE segment SET state = '{state}' WHERE se = ? AND incarnation = ? AND counter = ?",  # noqa: S608 - one of two words
                    [(one.se, one.head.incarnation, one.head.counter) for one in group],
                )
            return ledger_segments.done_files(connection, (*segments, *bad))

    def replace(self, old: Sequence[str], new: Sequence[StoreFile] = ()) -> None:
        """``new`` files hold what ``old`` ones held; without any, what is old has had its time."""
        with self.writing() as connection:
            ledger_files.remove(connection, old)
            for file in new:
                ledger_files.put(connection, file)

    def adopt(self, files: Sequence[StoreFile], names: Names, instead: Iterable[str] = ()) -> None:
        """Files that were found hold these segments, and count from now on, ``instead`` of others that they have in them."""
        with self.writing() as connection:
            ledger_files.remove(connection, instead)
            for file in files:
                ledger_files.put(connection, file)
            if names:
                ledger_files.know(connection, names)

    def delist(self, name: str) -> bool:
        """A file that cannot be read counts no more; False when it did not already."""
        with self.writing() as connection:
            return ledger_files.remove(connection, [name]) > 0

    def files(self, since_us: int = 0, until_us: int = 2**62) -> list[StoreFile]:
        """Those that may hold requests of that time, the oldest first."""
        with self.reading() as connection:
            return ledger_files.within(connection, since_us, until_us)

    def parts(self) -> dict[str, tuple[FilePart, ...]]:
        """Whose the files are, by their names."""
        with self.reading() as connection:
            return ledger_files.parts(connection)

    def held(self) -> dict[SeId, int]:
        """How many bytes of the store are whose."""
        with self.reading() as connection:
            return ledger_files.held(connection)

    def note_mended(self, at_us: int, mended: Mended) -> None:
        """What a start had to do."""
        with self.writing() as connection:
            ledger_files.note(connection, at_us, mended)

    def mended(self) -> tuple[int, Mended] | None:
        """What a start had to do the last time, and when."""
        with self.reading() as connection:
            return ledger_files.noted(connection)

    # What SEs dropped.

    def last_counter(self, se: SeId, incarnation: str) -> int:
        """The highest of the spool's segments that came; 0 when none did."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT max((SELECT coalesce(max(counter), 0) FROM segment WHERE se = ?1 AND incarnation = ?2),"
                " (SELECT coalesce(max(known_below) - 1, 0) FROM spool WHERE se = ?1 AND incarnation = ?2))",
                (se, incarnation),
            ).fetchone()
        return max(0, int(row[0]))

    def drops_position(self, se: SeId, incarnation: str) -> int:
        """How far the spool's list of drops is known; 0 for not at all."""
        with self.reading() as connection:
            row = connection.execute(
                "SELECT drops_position FROM spool WHERE se = ? AND incarnation = ?", (se, incarnation)
            ).fetchone()
        return int(row[0]) if row else 0

    def add_drops(self, se: SeId, incarnation: str, position: int, drops: Sequence[Drop], at_us: int) -> bool:
        """Take what the spool dropped up to ``position``; False when that was known already."""
        with self.writing() as connection:
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
            _bound_spools(connection, se, incarnation)
            _bound_drops(connection, se)
            return True

    def lose(self, lost: Sequence[tuple[SeId, Drop]], at_us: int) -> None:
        """Records of these SEs that were here and cannot be used."""
        if not lost:
            return
        with self.writing() as connection:
            connection.executemany(
                "INSERT INTO dropped (se, at_us, body) VALUES (?, ?, ?)",
                [(se, at_us, _encode(drop)) for se, drop in lost],
            )
            for se in {se for se, _ in lost}:
                _bound_drops(connection, se)

    def drops(self, after: int = 0, limit: int = PAGE) -> list[Dropped]:
        """What was dropped, in the order in which it was told."""
        with self.reading() as connection:
            rows = connection.execute(
                "SELECT id, se, at_us, body FROM dropped WHERE id > ? ORDER BY id LIMIT ?", (after, limit)
            ).fetchall()
        return [Dropped(id_, se, at_us, _drop(body)) for id_, se, at_us, body in rows]

    def newest_drops(self, limit: int = PAGE) -> list[Dropped]:
        """What was dropped last, the newest first; of each SE a like share at least, so that none hides another's losses."""
        with self.reading() as connection:
            engines = connection.execute(
                "WITH RECURSIVE one(se) AS (SELECT min(se) FROM dropped UNION ALL SELECT"
                " (SELECT min(se) FROM dropped WHERE se > one.se) FROM one WHERE one.se IS NOT NULL)"
                " SELECT se FROM one WHERE se IS NOT NULL LIMIT ?",
                (PAGE,),
            ).fetchall()
            most = max(1, min(limit, 10 * limit // max(1, len(engines))))
            shares = [
                connection.execute(
                    "SELECT id, se, at_us, body FROM dropped WHERE se = ? ORDER BY id DESC LIMIT ?",
                    (se, most),
                ).fetchall()
                for (se,) in engines
            ]
        share = limit // max(1, len(shares))
        rest = sorted((row for rows in shares for row in rows[share:]), reverse=True)
        found = [row for rows in shares for row in rows[:share]]
        found += rest[: limit - len(found)]
        return [Dropped(id_, se, at_us, _drop(body)) for id_, se, at_us, body in sorted(found, reverse=True)]

    # Pulls.

    def put_pull(self, pull: str, body: bytes, shares: Sequence[Share] = ()) -> None:
        """Write a pull and, of the shares given, the bodies; their counts are kept by ``receive``."""
        with self.writing() as connection:
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
        with self.reading() as connection:
            return connection.execute("SELECT id, body FROM pull ORDER BY id").fetchall()

    def shares(self, pull: str) -> list[Share]:
        """Every SE's part in a pull."""
        with self.reading() as connection:
            rows = connection.execute("SELECT * FROM pull_share WHERE pull = ? ORDER BY se", (pull,))
            return [Share(*row) for row in rows]

    def forget_pull(self, pull: str) -> None:
        """Remove it and its shares."""
        with self.writing() as connection:
            connection.execute("DELETE FROM pull WHERE id = ?", (pull,))


def _bound_drops(connection: sqlite3.Connection, se: SeId) -> None:
    connection.execute(
        "DELETE FROM dropped WHERE se = ?1 AND id <= coalesce((SELECT id FROM dropped WHERE se = ?1"
        " ORDER BY id DESC LIMIT 1 OFFSET ?2), 0)",
        (se, MAX_DROPS_OF_ONE),
    )
    connection.execute("DELETE FROM dropped WHERE id <= (SELECT max(id) FROM dropped) - ?", (MAX_DROPS,))


def _bound_spools(connection: sqlite3.Connection, se: SeId, incarnation: str) -> None:
    connection.execute(
        "DELETE FROM spool WHERE se = ?1 AND incarnation IN (SELECT incarnation FROM spool WHERE se = ?1"
        " AND incarnation != ?2 ORDER BY drops_position DESC, known_below DESC LIMIT -1 OFFSET ?3)",
        (se, incarnation, MAX_SPOOLS_OF_ONE - 1),
    )
