"""With which log store each segment of a spool was begun: two columns of the index, and the stores' names.

What a lost index knew of that nobody knows any more.  Segments of one that was made anew from the packs, or of an older copy
of the spool, may have been begun with any store: whoever gets them is told so, and finds out.
"""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from avinet.logs.reach import LogStore, Reach
from avinet.logs.spool_selection import selected
from avinet.model.ids import ControllerName, ObjectId
from avinet.model.logs import ANY_STORE, Selection

ANY = 0
"""Instead of a store's number."""
_SERVICES = (
    "WITH RECURSIVE one(service) AS (SELECT MIN(service) FROM segment UNION ALL SELECT"
    " (SELECT MIN(service) FROM segment WHERE service > one.service) FROM one WHERE one.service IS NOT NULL)"
    " SELECT service FROM one WHERE service IS NOT NULL"
)
"""Each once, by a look into the index a service."""


class Pins:
    """The table ``store`` and the columns ``store`` and ``was``; what changes them is called within the index's transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._execute = connection.execute

    def within(
        self, selection: Selection, up_to: int | None, after: int, reach: Reach | None
    ) -> tuple[str, list[Any]]:
        """As ``selected``, those that may be sent; without a ``reach`` all."""
        where, values = selected(selection, up_to, after)
        conditions, more = ([], []) if reach is None else self._may_have(reach)
        return " AND ".join((where, *conditions)), [*values, *more]

    def _may_have(self, reach: Reach) -> tuple[list[str], list[Any]]:
        """Conditions, and their values."""
        stores = self._stores()
        own = _numbers(number for number, pin in stores.items() if reach.is_own(pin))
        may = _numbers(number for number, pin in stores.items() if reach.may_have(pin))
        conditions: list[str] = []
        values: list[Any] = []
        if reach.owners is not None and (mine := self._mine(reach)) is not None:
            owned = "service IN (SELECT value FROM json_each(?))"
            conditions.append(f"(store IN ({own}) OR ((store IS NULL OR store IN ({may})) AND {owned}))")
            values.append(json.dumps(mine))
        elif any(not reach.may_have(pin) for pin in stores.values()):
            conditions.append(f"(store IS NULL OR store IN ({may}))")
        if reach.sure:
            conditions.append(f"was IS NULL AND (store IS NULL OR store IN ({own}))")
        return conditions, values

    def elsewhere(self, reach: Reach) -> dict[ControllerName, str]:
        """The conditions of what may not be sent, by whose it is."""
        bound: dict[ControllerName, list[int]] = {}
        for number, pin in self._stores().items():
            if not reach.may_have(pin):
                bound.setdefault(pin.controller, []).append(number)
        return {name: f"store IN ({_numbers(numbers)})" for name, numbers in bound.items()}

    def was(self, reach: Reach, counters: Sequence[int]) -> list[str]:
        """Of segments that may be sent: what is to be said of them when they begin."""
        rows = self._execute(
            "SELECT counter, store, was FROM segment WHERE counter IN (SELECT value FROM json_each(?))"
            " AND (store IS NOT NULL OR was IS NOT NULL)",
            (json.dumps(list(counters)),),
        ).fetchall()
        if not rows or not reach.store.id:
            return [""] * len(counters)
        stores = self._stores()
        own = {number for number, pin in stores.items() if reach.is_own(pin)}
        said = {
            counter: _name(stores, was if pin is None or pin in own else _moved(pin, was))
            for counter, pin, was in rows
        }
        return [said.get(counter, "") for counter in counters]

    def pin(self, counters: Sequence[int], reach: Reach) -> list[int]:
        """These are about to be begun; which of them were pinned nowhere before.  Those that may not be sent stay as they are."""
        if not reach.store.id:
            return []
        stores = self._stores()
        here = next((number for number, pin in stores.items() if pin == reach.store), None)
        found = self._execute(
            "SELECT counter, store FROM segment WHERE counter IN (SELECT value FROM json_each(?))",
            (json.dumps(list(counters)),),
        ).fetchall()
        changed = [
            (counter, pin)
            for counter, pin in found
            if pin is None or (pin != here and reach.may_have(stores[pin]))
        ]
        if changed:
            # What stands on the right is what was there before.
            self._execute(
                "UPDATE segment SET store = ?, was = CASE WHEN store IS NULL OR store = was THEN was"
                " WHEN was IS NULL THEN store ELSE 0 END WHERE counter IN (SELECT value FROM json_each(?))",
                (here or self._add(reach.store), json.dumps([counter for counter, _ in changed])),
            )
        return [counter for counter, pin in changed if pin is None]

    def pinned(self, counters: Sequence[int], reach: Reach) -> set[int]:
        """Those of them that may be sent as they are."""
        stores = self._stores()
        found = self._execute(
            "SELECT counter, store FROM segment WHERE counter IN (SELECT value FROM json_each(?))",
            (json.dumps(list(counters)),),
        )
        return {
            counter
            for counter, pin in found
            if (not reach.store.id if pin is None else reach.is_own(stores[pin]))
        }

    def lift(self, counters: Sequence[int], store: LogStore) -> None:
        """They were pinned there, and are not begun.  What is pinned elsewhere by now stays so."""
        self._execute(
            "UPDATE segment SET store = NULL WHERE counter IN (SELECT value FROM json_each(?))"
            " AND store = (SELECT id FROM store WHERE controller = ? AND store = ?)",
            (json.dumps(list(counters)), store.controller, store.id),
        )

    def forget(self, up_to: int) -> None:
        """Nobody knows with which stores segments were begun whose counters are no higher."""
        self._execute("UPDATE segment SET was = ? WHERE counter <= ?", (ANY, up_to))

    def _mine(self, reach: Reach) -> list[ObjectId] | None:
        """None for all of them."""
        if not reach.owners and not reach.store.id:
            return None
        if reach.owners == (reach.store.controller,):
            return None
        return [service for (service,) in self._execute(_SERVICES) if reach.owns(ObjectId(service))]

    def _stores(self) -> dict[int, LogStore]:
        return {
            number: LogStore(ControllerName(controller), store)
            for number, controller, store in self._execute("SELECT id, controller, store FROM store")
        }

    def _add(self, store: LogStore) -> int:
        """Its number; those of which nothing is here any more go."""
        self._execute(
            "DELETE FROM store WHERE id NOT IN (SELECT store FROM segment WHERE store IS NOT NULL)"
            " AND id NOT IN (SELECT was FROM segment WHERE store IS NOT NULL AND was IS NOT NULL)"
        )
        number = self._execute(
            "INSERT INTO store (controller, store) VALUES (?, ?)", (store.controller, store.id)
        ).lastrowid
        return number or 0


def _name(stores: dict[int, LogStore], was: int | None) -> str:
    if was is None:
        return ""
    return ANY_STORE if was == ANY or was not in stores else stores[was].id


def _moved(pin: int, was: int | None) -> int:
    """What is to be said of a segment that is pinned there and goes elsewhere: of more than one store, any."""
    return pin if was is None or was == pin else ANY


def _numbers(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))
