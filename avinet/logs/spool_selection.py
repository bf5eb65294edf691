"""Selections of segments, and their names, as conditions on the spool's index."""

from collections.abc import Iterable
from typing import Any

from avinet.model.logs import LogClass, Selection


def selected(selection: Selection, up_to: int | None, after: int) -> tuple[str, list[Any]]:
    """The condition of what is in a selection with ``after`` < counter <= ``up_to``, and its values."""
    where = ["counter > ?", "first_us <= ?", "last_us >= ?"]
    values: list[Any] = [after, selection.until_us, selection.since_us]
    if up_to is not None:
        where.append("counter <= ?")
        values.append(up_to)
    for column, wanted, everything in (
        ("log_class", [name.value for name in selection.classes], len(LogClass)),
        ("service", list(selection.services), 0),
    ):
        if len(set(wanted)) != everything:
            where.append(f"{column} IN ({', '.join('?' * len(wanted))})")
            values.extend(wanted)
    return " AND ".join(where), values


def counters(names: Iterable[str]) -> list[int]:
    """Of segments' names; what is none is left out."""
    return [int(counter) for _, _, counter in (name.partition("-") for name in names) if counter.isdigit()]
