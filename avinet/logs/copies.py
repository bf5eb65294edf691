"""What a ledger knows of copies.

``CopiesElsewhere`` is of a controller's own ledger: which peer has the copy of what, and which of them is still to hear that
its copy counts.  ``CopiesHere`` is of the ledger of a copy set: what is held, until its controller says that it counts, or
that another's copy does.  Calls block; those that write are durable, each in one transaction.
"""

from typing import ClassVar

import attrs

from avinet.errors import AvinetError, Kind, error
from avinet.logs import ledger_copies, ledger_segments
from avinet.logs.ledger import Ledger
from avinet.logs.ledger_copies import NOWHERE
from avinet.logs.runs import Names
from avinet.model.ids import ControllerName, SeId

FULLY = ("segment",)
"""The table of what counts here."""


MAX_YIELDED = 500_000
"""Segments that a set notes to be with others, some 100 bytes each: ten times what is under way when a controller is lost."""


@error
class TooMuchYieldedError(AvinetError):
    """It has noted of {limit} segments of that store that their copies are with others."""

    kind: ClassVar[Kind] = Kind.LIMITED
    limit: int


@attrs.frozen
class Uncopied:
    """What a store has (or had) that is in no set, as its controller said last."""

    records: int = 0
    newest_us: int = 0
    """The time of the newest of them, UNIX microseconds."""


@attrs.frozen
class CopiesElsewhere:
    """Of this controller's own ledger."""

    ledger: Ledger

    def owed(self, keeper: ControllerName) -> Names:
        """What a keeper is to hear that it counts."""
        with self.ledger.reading() as connection:
            return ledger_copies.owed(connection, keeper)

    def settle(self, keeper: ControllerName, names: Names) -> None:
        """It has heard of these."""
        with self.ledger.writing() as connection:
            ledger_copies.settle(connection, keeper, names)

    def lose(self, keeper: ControllerName) -> None:
        """What it kept is gone."""
        with self.ledger.writing() as connection:
            ledger_copies.lose(connection, keeper)

    def keepers(self) -> dict[ControllerName, int]:
        """Who has how many records, or had until they were too old; ``NOWHERE`` those that nobody has."""
        with self.ledger.reading() as connection:
            rows = connection.execute("SELECT keeper, records FROM copied")
            return {ControllerName(keeper): records for keeper, records in rows}

    def uncopied(self) -> Uncopied:
        """What nobody has."""
        with self.ledger.reading() as connection:
            row = connection.execute(
                "SELECT records, newest_us FROM copied WHERE keeper = ?", (NOWHERE,)
            ).fetchone()
        return Uncopied(*row) if row else Uncopied()

    def begin(self) -> bool:
        """There are others from now on: what is here already is copied nowhere.  Whether that was new."""
        with self.ledger.writing() as connection:
            if connection.execute("SELECT 1 FROM copied LIMIT 1").fetchone():
                return False
            records, newest_us = connection.execute(
                "SELECT coalesce(sum(records), 0), coalesce(max(last_us), 0) FROM file"
            ).fetchone()
            waiting = ledger_segments.waiting_heads(connection)
            for head in waiting:
                records, newest_us = records + head.records, max(newest_us, head.last_us)
            ledger_copies.count(connection, NOWHERE, records, newest_us)
            return True

    def forgettable(self, se: SeId, incarnation: str, below: int) -> int:
        """Up to which counter keepers may forget what the spool let go of: not what one has not heard of."""
        with self.ledger.reading() as connection:
            least = ledger_copies.least_owed(connection, se, incarnation)
        return below if least is None else min(below, least)


@attrs.frozen
class CopiesHere:
    """Of the ledger of a copy set."""

    ledger: Ledger

    def whose(self) -> ControllerName | None:
        """Whose store it is a copy of; None where nobody has said it."""
        with self.ledger.reading() as connection:
            row = connection.execute("SELECT controller FROM copy_of").fetchone()
        return ControllerName(row[0]) if row else None

    def be(self, controller: ControllerName) -> None:
        """It is a copy of that one's."""
        with self.ledger.writing() as connection:
            connection.execute(
                "INSERT INTO copy_of (one, controller) VALUES (1, ?1) ON CONFLICT DO UPDATE SET controller = ?1",
                (controller,),
            )

    def uncopied(self) -> Uncopied:
        """What its controller has said is copied nowhere."""
        with self.ledger.reading() as connection:
            row = connection.execute("SELECT uncopied, uncopied_us FROM copy_of").fetchone()
        return Uncopied(*row) if row else Uncopied()

    def note_uncopied(self, uncopied: Uncopied) -> None:
        """It says so."""
        with self.ledger.writing() as connection:
            connection.execute(
                "UPDATE copy_of SET uncopied = ?, uncopied_us = ?", (uncopied.records, uncopied.newest_us)
            )

    def is_new(self) -> bool:
        """Whether nothing of its store was ever here."""
        with self.ledger.reading() as connection:
            return not any(
                connection.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone()  # noqa: S608 - words of ours
                for table in ("segment", "held", "file", "known", "spool")
            )

    def held(self) -> Names:
        """What does not count yet."""
        with self.ledger.reading() as connection:
            return ledger_copies.held(connection)

    def confirm(self, names: Names) -> int:
        """Those of these that are held count from now on; how much NDJSON that is."""
        with self.ledger.writing() as connection:
            taken = ledger_copies.take_held(connection, names)
            ledger_segments.enter(connection, taken)
        return sum(segment.head.raw_bytes for segment in taken)

    def drop(self, names: Names) -> set[tuple[SeId, str]]:
        """Those of these that are held are not wanted; their files of which nothing else is left."""
        with self.ledger.writing() as connection:
            return ledger_segments.done_files(connection, ledger_copies.take_held(connection, names))

    def known(self, names: Names) -> Names:
        """Those of these of which a copy is here, or which another is known to have."""
        with self.ledger.reading() as connection:
            return ledger_copies.known(connection, names)

    def yielded(self) -> int:
        """How many are not here since another's copy counts."""
        with self.ledger.reading() as connection:
            return ledger_copies.placed_count(connection)

    def yield_to(
        self, names: Names, claimer: ControllerName, me: ControllerName
    ) -> tuple[Names, set[tuple[SeId, str]]]:
        """``claimer`` holds these, whose controller is gone: which of them it may not have, since their copy counts here or
        elsewhere, or is held here and this one's name is the lesser; and files of which nothing is left.

        The others count there from now on.
        """
        with self.ledger.writing() as connection:
            mine = ledger_copies.known(connection, names, FULLY)
            elsewhere = ledger_copies.known(connection, names, ("placed",))
            mine = mine.plus(elsewhere.minus(ledger_copies.placed_at(connection, names, claimer)))
            if me < claimer:
                mine = mine.plus(ledger_copies.known(connection, names, ("held",)))
            theirs = names.minus(mine)
            if ledger_copies.placed_count(connection) + theirs.count > MAX_YIELDED:
                raise TooMuchYieldedError(limit=MAX_YIELDED)
            dropped = ledger_copies.take_held(connection, theirs)
            ledger_copies.place(connection, theirs, claimer)
            return mine, ledger_segments.done_files(connection, dropped)
