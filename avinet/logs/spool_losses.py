"""What was lost, counted by reason, class, virtual service and minute, for every controller that asks.

Each row has a position, and positions only grow; each controller knows its own.  A row that was told stays as it is, since
a controller may have it already; what is lost later in the same minute is another row.  Beyond a bound, rows that were
not told yet are put together: by hour, by day, in the end without their services.  Counts stay exact, their place becomes
coarser.  Of those that were told the newest are kept, for controllers that were away.
"""

import sqlite3
from collections.abc import Iterable

from avinet.model.logs import Drop, DropReason, LogClass

MAX_ROWS = 10_000
"""That nobody was told, and again of those that somebody was: some MB, and twice what one controller is told in 10 answers."""
MAX_TOLD = 500
"""In one answer."""
_WIDTHS_US = (60_000_000, 3_600_000_000, 86_400_000_000, 86_400_000_000)
_KEY = "reason, log_class, service, width, range_us"


class Losses:
    """The tables ``loss`` and ``lost``; called within the index's transactions."""

    def __init__(self, connection: sqlite3.Connection, max_rows: int = MAX_ROWS) -> None:
        self._execute = connection.execute
        self._max_rows = max_rows

    def add(self, drops: Iterable[Drop]) -> None:
        """Count them."""
        told = self._told()
        for drop in drops:
            at = drop.first_us - drop.first_us % _WIDTHS_US[0]
            counts = (drop.first_us, drop.last_us, drop.records, drop.raw_bytes)
            key = (drop.reason.value, drop.log_class.value, drop.service)
            changed = self._execute(
                "UPDATE loss SET first_us = MIN(first_us, ?), last_us = MAX(last_us, ?), records = records + ?, "
                "raw_bytes = raw_bytes + ? WHERE reason = ? AND log_class = ? AND service = ? AND width = 0 "
                "AND range_us = ? AND position > ?",
                (*counts, *key, at, told),
            ).rowcount
            if not changed:
                self._execute(
                    f"INSERT INTO loss ({_KEY}, first_us, last_us, records, raw_bytes) "  # noqa: S608 - our own words
                    "VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?)",
                    (*key, at, *counts),
                )
            self._execute(
                "INSERT INTO lost VALUES (?, ?) ON CONFLICT (reason) DO UPDATE SET records = records + excluded.records",
                (drop.reason.value, drop.records),
            )
        for width in range(len(_WIDTHS_US) - 1):
            if self._rows(told) <= self._max_rows:
                break
            self._widen(width, told)
        self._execute(
            "DELETE FROM loss WHERE position <= MIN(?, (SELECT position FROM loss ORDER BY position DESC LIMIT 1 OFFSET ?))",
            (told, 2 * self._max_rows),
        )

    def since(self, position: int, limit: int = MAX_TOLD) -> tuple[tuple[Drop, ...], int]:
        """The oldest ``limit`` rows after ``position``, and the last one's position."""
        rows = self._execute(
            "SELECT position, reason, log_class, service, first_us, last_us, records, raw_bytes FROM loss "
            "WHERE position > ? ORDER BY position LIMIT ?",
            (
                position,
                max(0, min(limit, MAX_TOLD)),
            ),
        ).fetchall()
        if rows and rows[-1][0] > self._told():
            self._execute("UPDATE spool SET told = ?", (rows[-1][0],))
        drops = tuple(
            Drop(
                reason=DropReason(row[1]),
                log_class=LogClass(row[2]),
                service=row[3],
                first_us=row[4],
                last_us=row[5],
                records=row[6],
                raw_bytes=row[7],
            )
            for row in rows
        )
        return drops, rows[-1][0] if rows else position

    def position(self) -> int:
        """The last one's."""
        found: int = self._execute("SELECT seq FROM sqlite_sequence WHERE name = 'loss'").fetchone()[0]
        return found

    def set_back(self, position: int, opened: int) -> None:
        """Those after ``opened`` that nobody was told come after ``position``, up to which a controller has others."""
        opened = max(opened, self._told())
        shift = max(position, self.position()) - opened
        self._execute("UPDATE loss SET position = position + ? WHERE position > ?", (shift, opened))
        self._execute("UPDATE sqlite_sequence SET seq = seq + ? WHERE name = 'loss'", (shift,))
        self._execute("UPDATE spool SET told = MAX(told, ?)", (position,))

    def totals(self) -> dict[DropReason, int]:
        """Records lost since the spool was made."""
        return {DropReason(reason): records for reason, records in self._execute("SELECT * FROM lost")}

    def _told(self) -> int:
        told: int = self._execute("SELECT told FROM spool").fetchone()[0]
        return told

    def _rows(self, told: int) -> int:
        rows: int = self._execute("SELECT COUNT(*) FROM loss WHERE position > ?", (told,)).fetchone()[0]
        return rows

    def _widen(self, width: int, told: int) -> None:
        """Put rows of one width together into rows of the next."""
        last: int = self._execute("SELECT MAX(position) FROM loss").fetchone()[0]
        service = "''" if width == len(_WIDTHS_US) - 2 else "service"
        self._execute(
            f"INSERT INTO loss ({_KEY}, first_us, last_us, records, raw_bytes) "  # noqa: S608 - our own words
            f"SELECT reason, log_class, {service}, ?, range_us - range_us % ? AS wider, MIN(first_us), MAX(last_us), "
            "SUM(records), SUM(raw_bytes) FROM loss WHERE width IN (?, ?) AND position > ? "
            "GROUP BY 1, 2, 3, wider",
            (width + 1, _WIDTHS_US[width + 1], width, width + 1, told),
        )
        self._execute(
            "DELETE FROM loss WHERE width IN (?, ?) AND position > ? AND position <= ?",
            (width, width + 1, told, last),
        )
