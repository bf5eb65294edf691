"""Who is asked about request logs, and whose copies count: so that each record counts once, wherever it is.

A controller that lives answers for its own store.  A store that no living controller has (it is lost, was removed, or its ledger
was made anew) is answered for by the copy sets of it, at whichever controllers they are: of each record one of them has the
copy.  Who lives and who has which sets is what controllers publish; an answer is decided by one look at that.
"""

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import attrs
import msgspec

from avinet.controller.log_sets import SETS, STORE
from avinet.controller.peers import PeerListener, Peers, PeerUnreachableError
from avinet.logs.query.answers import Missing
from avinet.logs.query.shapes import Query
from avinet.logs.query.times import show_instant
from avinet.model.ids import ControllerName

NOT_COPIED = "with it alone"
"""Why records are missing that had no copy when their controller was lost or removed."""
Sets = Mapping[str, ControllerName]
"""Ids of stores, and whose they were."""


@attrs.frozen
class Census:
    """Who is asked for one answer."""

    asked: Mapping[ControllerName, tuple[str, ...]]
    """Each with the sets that it is to count."""
    whose: Sets
    """Of all sets that count."""
    stores: Mapping[ControllerName, str]
    """Which store each has that is asked, as far as it has said."""
    away: Mapping[ControllerName, str]
    """Those whose records, or some of whose copies of others' records, are not in the answer, and why."""

    @property
    def alone(self) -> bool:
        """Whether there is one store in all."""
        return len(self.asked) == 1 and not self.whose and not self.away


@attrs.define
class Learnt:
    """What an attempt at an answer has shown, for the next one."""

    lost: dict[ControllerName, str] = attrs.field(factory=dict)
    """Who is gone, and why."""
    stores: dict[ControllerName, str] = attrs.field(factory=dict)
    """Who has which store, and had not said so."""


def census(peers: Peers, kept: Mapping[ControllerName, Sets], learnt: Learnt) -> Census:
    """As it is now; ``kept`` is which sets each has said it has, ever."""
    lost = learnt.lost
    live = [name for name in peers.members if name == peers.me or (name in peers.live and name not in lost)]
    by_name = {name: learnt.stores.get(name) or str(peers.said(name).get(STORE, "")) for name in live}
    stores = set(by_name.values())
    asked: dict[ControllerName, tuple[str, ...]] = {}
    whose: dict[str, ControllerName] = {}
    for name in live:
        sets = {id_: of for id_, of in sets_of(peers.said(name)).items() if id_ not in stores}
        asked[name] = tuple(sorted(sets))
        whose |= sets
    away = {}
    gone = [name for name in peers.members if name not in asked]
    for name in gone:
        others = [one for one in gone if one != name]
        copied = name in whose.values()
        orphans = sorted({of for id_, of in kept.get(name, {}).items() if id_ not in stores} - {*gone})
        if copied and not others and not orphans:
            continue
        why = lost.get(name) or str(PeerUnreachableError(name=name, why=_why(peers, name)))
        if copied and others:
            why += f" Copies of its records may be with {', '.join(others)}, too."
        if orphans:
            why += f" It has copies of records of {', '.join(orphans)}."
        away[name] = why
    return Census(asked, whose, by_name, away)


@attrs.define
class Tally:
    """What of a census was counted, and what not."""

    census: Census
    failed: dict[ControllerName, str] = attrs.field(factory=dict, init=False)
    """Who was asked in vain, and why."""
    _lacks: dict[str, tuple[int, int]] = attrs.field(factory=dict, init=False)
    """Of each set that was counted: what its store had that is in none."""

    moved: dict[ControllerName, str] = attrs.field(factory=dict, init=False)
    """Who answered from another store than was thought: what of others' copies counts is wrong then."""

    def count(self, name: ControllerName, counted: Mapping[str, tuple[int, int]], store: str = "") -> None:
        """``name`` has answered from ``store``, with these sets (``log_questions.Said``)."""
        if store and store != self.census.stores[name]:
            self.moved[name] = store
        for id_ in self.census.asked[name]:
            if id_ in counted:
                self._lacks[id_] = max(
                    counted[id_], self._lacks.get(id_, (0, 0)), key=lambda lack: lack[::-1]
                )
            else:
                self.failed[name] = f"its copies of records of {self.census.whose[id_]} are gone"

    def missing(self, query: Query) -> tuple[Missing, ...]:
        """Who has not answered, and what went or is away with those whose copies count."""
        away = {**self.census.away, **self.failed}
        found = [Missing(se="", se_uuid="", controller=name, why=why) for name, why in away.items()]
        for id_, (records, newest_us) in self._lacks.items():
            name = self.census.whose[id_]
            if records and newest_us >= (query.since_us or 0) and name not in away:
                found.append(
                    Missing(
                        se="",
                        se_uuid="",
                        until=show_instant(newest_us),
                        records=records,
                        why=NOT_COPIED,
                        controller=name,
                    )
                )
        return tuple(found)


def missing_of(name: ControllerName, missing: Iterable[Missing]) -> tuple[Missing, ...]:
    """What ``name`` has said is missing, as its own unless it says whose."""
    return tuple(one if one.controller else msgspec.structs.replace(one, controller=name) for one in missing)


def sets_of(said: Mapping[str, Any]) -> Sets:
    """Which sets a controller says it has."""
    sets = said.get(SETS)
    return sets if isinstance(sets, Mapping) else {}


def _why(peers: Peers, name: ControllerName) -> str:
    why = next((view.state.why for view in peers.status() if view.name == name), "")
    return why.rstrip(".") or "it is not live"


class KeptSets(PeerListener):
    """Remembers which sets each of the others has, also while it is away."""

    def __init__(self) -> None:
        self.by_controller: dict[ControllerName, Sets] = {}

    def peer_said(self, name: ControllerName, changes: Mapping[str, Any]) -> None:
        """The newest counts."""
        if SETS in changes:
            self.by_controller[name] = dict(sets_of(changes))

    def keep(self, members: Collection[ControllerName]) -> None:
        """Forget those that are no members any more."""
        for name in self.by_controller.keys() - {*members}:
            del self.by_controller[name]
