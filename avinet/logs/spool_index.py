"""What the spool of one SE knows: its segments, how far pieces were taken in, what was lost.  One SQLite file.

A file of the spool counts only if it stands here, so a commit here is what makes a chunk of log taken in, or a segment
gone: once, whatever is killed.  Blocking; used under the spool's lock.
"""

import contextlib
import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import msgspec

from avinet.logs.reach import LogStore, Reach, Sendable
from avinet.logs.spool_losses import Losses
from avinet.logs.spool_packs import Placed
from avinet.logs.spool_pins import ANY, Pins
from avinet.logs.spool_selection import counters, selected
from avinet.model.ids import ControllerName, ObjectId
from avinet.model.logs import ClassTotals, Drop, LogClass, SegmentHead, Selection, SpoolTotals
from avinet.sqlite_file import StoreDamagedError, open_file, rolled_back, translated

MAX_PAGE = 1_000
"""Segments in one answer; half a MiB."""
_COLUMNS = "incarnation, counter, service, log_class, first_us, last_us, records, raw_bytes, size, sha256, pack, place"

_SUMS = (
    "SELECT COUNT(*), COALESCE(SUM(records), 0), COALESCE(SUM(raw_bytes), 0), COALESCE(SUM(size), 0), "
    "COALESCE(MIN(first_us), 0) FROM segment"
)


class SpoolIndex:
    """An open index; made by ``open`` and ``create``."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self._path = path
        self._connection = connection
        found: tuple[str, int] | None = connection.execute(
            "SELECT incarnation, counter FROM spool"
        ).fetchone()
        if found is None:
            raise StoreDamagedError(where=str(path), detail="it does not say whose it is")
        self.incarnation, self._counter = found
        self.losses = Losses(connection)
        self._pins = Pins(connection)
        self._opened = self._counter, self.losses.position()
        """What the last segment and the last loss were."""
        self._compared: set[ControllerName] = set()
        """Who has said since what came to them."""
        self._held = {name: self._totals("WHERE log_class = ?", (name.value,)) for name in LogClass}

    @classmethod
    def create(cls, path: Path, incarnation: str, counter: int, position: int) -> "SpoolIndex":
        """A new, empty one; counters go on from ``counter``, positions of drops from ``position``.

        What is at ``path`` is replaced: the caller gives it its name once it is whole.
        """
        path.unlink(missing_ok=True)
        connection = open_file(path, _scripts())
        with _translated(path), _transaction(connection):
            connection.execute("INSERT INTO spool VALUES (1, ?, ?, ?)", (incarnation, counter, position))
            connection.execute("INSERT INTO sqlite_sequence VALUES ('loss', ?)", (position,))
        return cls(path, connection)

    @classmethod
    def open(cls, path: Path) -> "SpoolIndex":
        """The one that is there; ``StoreDamagedError``."""
        connection = open_file(path, _scripts())
        try:
            with _translated(path):
                return cls(path, connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        """Let go of the file; its log is merged into it."""
        with _translated(self._path):
            self._connection.close()

    def set_back(
        self, controller: ControllerName, counter: int, position: int, sent: Iterable[str] = ()
    ) -> bool:
        """A controller knows of segments up to ``counter`` and of losses up to ``position``; whether this is an older copy.

        Then what was made since it was opened has names that stand for other things there, and gets others, but for what is
        pinned or ``sent`` elsewhere; and where the older segments were begun since nobody knows.  Asked of each controller
        once, before anything is sent to it.
        """
        opened, new = self._opened, controller not in self._compared
        self._compared.add(controller)
        if not new or (counter <= opened[0] and position <= opened[1]):
            return False
        shift = max(counter, self._counter) - opened[0]
        with self._changing() as execute:
            execute(
                "UPDATE segment SET counter = counter + ? WHERE counter > ? AND store IS NULL"
                " AND counter NOT IN (SELECT value FROM json_each(?))",
                (shift, opened[0], json.dumps(counters(sent))),
            )
            execute("UPDATE spool SET counter = ?", (self._counter + shift,))
            self._pins.forget(opened[0])
            self.losses.set_back(position, opened[1])
        self._counter += shift
        return True

    def require(self) -> None:
        """``StoreDamagedError`` when somebody has removed the file: what is written to it would be gone with us."""
        if not self._path.exists():
            raise StoreDamagedError(where=str(self._path), detail="it was removed")

    def abandon(self) -> None:
        """Let go of a damaged file."""
        with contextlib.suppress(sqlite3.Error):
            self._connection.close()

    @property
    def counter(self) -> int:
        """The last segment's; 0 before the first."""
        return self._counter

    def store(self, placed: Sequence[Placed], drops: Iterable[Drop], piece: str, taken: int) -> None:
        """Segments are in, and ``piece`` is taken in up to the byte ``taken``."""
        with self._changing() as execute:
            self._insert(placed)
            self.losses.add(drops)
            execute(
                "INSERT INTO piece VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET taken = excluded.taken",
                (piece, taken),
            )
        self._counter = max((self._counter, *(each.head.counter for each in placed)))
        self._count(placed, 1)

    def restore(self, placed: Sequence[Placed], drops: Iterable[Drop], pieces: Iterable[str]) -> None:
        """What was read again after an index was lost; ``pieces`` are not to be taken in.

        With which stores it was begun nobody knows.
        """
        with self._changing() as execute:
            self._insert(placed, ANY)
            self.losses.add(drops)
            for piece in pieces:
                execute("INSERT INTO piece VALUES (?, ?)", (piece, 2**53))
        self._count(placed, 1)

    def remove(self, placed: Sequence[Placed], drops: Iterable[Drop] = ()) -> None:
        """Segments are gone, and what was lost with them.  They must be here."""
        with self._changing() as execute:
            execute(
                "DELETE FROM segment WHERE counter IN (SELECT value FROM json_each(?))",
                (json.dumps([each.head.counter for each in placed]),),
            )
            self.losses.add(drops)
        self._count(placed, -1)

    def note(self, drops: Iterable[Drop]) -> None:
        """Something was lost that never was a segment."""
        with self._changing():
            self.losses.add(drops)

    def drops_since(self, position: int, limit: int) -> tuple[tuple[Drop, ...], int]:
        """``Losses.since``."""
        with self._changing():
            return self.losses.since(position, limit)

    def forget(self, pieces: Iterable[str]) -> None:
        """Their files are gone for good."""
        with self._changing() as execute:
            for piece in pieces:
                execute("DELETE FROM piece WHERE name = ?", (piece,))

    def pieces(self) -> dict[str, int]:
        """By name: how many bytes are taken in."""
        with _translated(self._path):
            return dict(self._connection.execute("SELECT name, taken FROM piece"))

    def find(self, name: str) -> Placed | None:
        """The segment of that name."""
        found = self.find_all((name,))
        return found[0] if found else None

    def find_all(self, names: Iterable[str]) -> list[Placed]:
        """Those of these names that are here, by counter."""
        wanted = set(names)
        found = self._placed(
            "WHERE counter IN (SELECT value FROM json_each(?)) ORDER BY counter",
            (json.dumps(counters(wanted)),),
        )
        return [each for each in found if each.head.name in wanted]

    def packs(self) -> dict[str, int]:
        """By name: where the last segment ends."""
        with _translated(self._path):
            rows = self._connection.execute(
                "SELECT incarnation, pack, MAX(place + size) FROM segment GROUP BY pack, incarnation"
            )
            return {f"{incarnation}-{pack:016d}": end for incarnation, pack, end in rows}

    def of_pack(self, pack_name: str) -> list[Placed]:
        """All that is left in one pack."""
        incarnation, _, counter = pack_name.partition("-")
        return self._placed("WHERE pack = ? AND incarnation = ?", (int(counter), incarnation))

    def has_pack(self, pack: int) -> bool:
        """Whether anything is left in it."""
        with _translated(self._path):
            found = self._connection.execute("SELECT 1 FROM segment WHERE pack = ? LIMIT 1", (pack,))
            return found.fetchone() is not None

    def oldest(self, log_class: LogClass, limit: int) -> list[Placed]:
        """Of one class."""
        return self._placed("WHERE log_class = ? ORDER BY counter LIMIT ?", (log_class.value, limit))

    def ended_before(self, last_us: int, limit: int) -> list[Placed]:
        """Whose last request began before."""
        return self._placed("WHERE last_us < ? ORDER BY counter LIMIT ?", (last_us, limit))

    def pending(self, selection: Selection, up_to: int | None, after: int, limit: int) -> list[SegmentHead]:
        """Those of the selection, by counter: ``after`` < counter <= ``up_to``."""
        where, values = selected(selection, up_to, after)
        found = self._placed(
            f"WHERE {where} ORDER BY counter LIMIT ?", (*values, max(0, min(limit, MAX_PAGE)))
        )
        return [each.head for each in found]

    def sendable(
        self, selection: Selection, up_to: int | None, after: int, limit: int, reach: Reach
    ) -> list[Sendable]:
        """As ``pending``, those that a controller may be sent."""
        with _translated(self._path):
            where, values = self._pins.within(selection, up_to, after, reach)
            found = self._placed(
                f"WHERE {where} ORDER BY counter LIMIT ?", (*values, max(0, min(limit, MAX_PAGE)))
            )
            was = self._pins.was(reach, [each.head.counter for each in found])
        return [Sendable(each.head, said) for each, said in zip(found, was, strict=True)]

    def plan(self, selection: Selection, up_to: int | None, reach: Reach | None = None) -> ClassTotals:
        """All of the selection together, or what of it a controller may be sent."""
        with _translated(self._path):
            where, values = self._pins.within(selection, up_to, 0, reach)
        return self._totals(f"WHERE {where}", values)

    def elsewhere(
        self, selection: Selection, up_to: int | None, reach: Reach
    ) -> dict[ControllerName, ClassTotals]:
        """What of the selection a controller may not be sent, by who may."""
        where, values = selected(selection, up_to, 0)
        with _translated(self._path):
            bound = self._pins.elsewhere(reach)
        found = {name: self._totals(f"WHERE {where} AND {pinned}", values) for name, pinned in bound.items()}
        return {name: totals for name, totals in found.items() if totals.segments}

    def pin(self, names: Sequence[str], reach: Reach) -> set[str]:
        """They are about to be begun there; which of them were pinned nowhere before.  Durable when it returns."""
        with self._changing():
            fresh = set(self._pins.pin(counters(names), reach))
        return {name for name in names if not fresh.isdisjoint(counters([name]))}

    def pinned(self, placed: Sequence[Placed], reach: Reach) -> list[Placed]:
        """Those of them that may be begun there now."""
        with _translated(self._path):
            found = self._pins.pinned([each.head.counter for each in placed], reach)
        return [each for each in placed if each.head.counter in found]

    def lift(self, names: Sequence[str], store: LogStore) -> None:
        """They were pinned there, and no byte of them was sent."""
        with self._changing():
            self._pins.lift(counters(names), store)

    @property
    def size(self) -> int:
        """Compressed bytes of all segments."""
        return sum(held.size for held in self._held.values())

    @property
    def segments(self) -> int:
        """How many there are."""
        return sum(held.segments for held in self._held.values())

    def totals(self, limit_bytes: int) -> SpoolTotals:
        """All that is here."""
        significant, full = (
            msgspec.structs.replace(held, oldest_us=self._oldest_us(name))
            for name, held in self._held.items()
        )
        with _translated(self._path):
            drops = self.losses.totals()
        return SpoolTotals(significant=significant, full=full, limit_bytes=limit_bytes, drops=drops)

    def _oldest_us(self, log_class: LogClass) -> int:
        """Segments are in the order of their last requests' ends, so the oldest start is in one of the first."""
        return min((each.head.first_us for each in self.oldest(log_class, MAX_PAGE)), default=0)

    def _count(self, placed: Sequence[Placed], sign: int) -> None:
        for log_class, held in self._held.items():
            heads = [each.head for each in placed if each.head.log_class is log_class]
            self._held[log_class] = ClassTotals(
                segments=held.segments + sign * len(heads),
                records=held.records + sign * sum(head.records for head in heads),
                raw_bytes=held.raw_bytes + sign * sum(head.raw_bytes for head in heads),
                size=held.size + sign * sum(head.size for head in heads),
            )

    def _totals(self, where: str, values: Sequence[Any]) -> ClassTotals:
        with _translated(self._path):
            row = self._connection.execute(f"{_SUMS} {where}", values).fetchone()
        return ClassTotals(segments=row[0], records=row[1], raw_bytes=row[2], size=row[3], oldest_us=row[4])

    def _placed(self, where: str, values: Sequence[Any]) -> list[Placed]:
        with _translated(self._path):
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM segment {where}",  # noqa: S608 - our own words; values are bound
                values,
            ).fetchall()
        return [
            Placed(
                SegmentHead(
                    incarnation=row[0],
                    counter=row[1],
                    service=ObjectId(row[2]),
                    log_class=LogClass(row[3]),
                    first_us=row[4],
                    last_us=row[5],
                    records=row[6],
                    raw_bytes=row[7],
                    size=row[8],
                    sha256=row[9],
                ),
                row[10],
                row[11],
            )
            for row in rows
        ]

    def _insert(self, placed: Sequence[Placed], was: int | None = None) -> None:
        self._connection.executemany(
            f"INSERT INTO segment ({_COLUMNS}, was) VALUES (?{', ?' * 12})",  # noqa: S608 - our own words
            [
                (
                    head.incarnation,
                    head.counter,
                    head.service,
                    head.log_class.value,
                    head.first_us,
                    head.last_us,
                    head.records,
                    head.raw_bytes,
                    head.size,
                    head.sha256,
                    each.pack,
                    each.offset,
                    was,
                )
                for each in placed
                for head in (each.head,)
            ],
        )
        if placed:
            last = placed[-1].head.counter
            self._connection.execute("UPDATE spool SET counter = MAX(counter, ?)", (last,))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[Any]:
        with _translated(self._path), _transaction(self._connection):
            yield self._connection.execute


def _scripts() -> Traversable:
    return files("avinet.logs") / "migrations" / "spool"


@contextlib.contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        rolled_back(connection)
        raise


@contextlib.contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as why:
        raise translated(why, path) from why
