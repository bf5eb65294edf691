"""Sets of segments, as runs of counters of each spool: a store of millions of segments has some thousands of runs."""

from collections.abc import Iterable, Iterator, Mapping

import attrs

from avinet.logs.entries import Segment
from avinet.model.ids import SeId

Spool = tuple[SeId, str]
"""Whose segments these are, and the incarnation that numbered them."""
Run = tuple[int, int]
"""Counters from the first to the last one, both included."""
Runs = tuple[Run, ...]
"""In order; between two of them at least one counter is left out."""


@attrs.frozen
class Names:
    """Segments by their names; immutable."""

    runs: Mapping[Spool, Runs] = attrs.field(factory=dict)
    """Only spools that have some."""

    @classmethod
    def of(cls, names: Iterable[tuple[SeId, str, int]]) -> "Names":
        """Of single segments: whose, incarnation, counter."""
        counters: dict[Spool, list[Run]] = {}
        for se, incarnation, counter in names:
            counters.setdefault((se, incarnation), []).append((counter, counter))
        return cls.of_runs(counters)

    @classmethod
    def of_runs(cls, runs: Mapping[Spool, Iterable[Run]]) -> "Names":
        """Of runs in any order."""
        return cls({spool: _joined(found) for spool, found in runs.items()})

    def __bool__(self) -> bool:
        return bool(self.runs)

    def __iter__(self) -> Iterator[tuple[Spool, Runs]]:
        return iter(self.runs.items())

    def __contains__(self, name: tuple[SeId, str, int]) -> bool:
        se, incarnation, counter = name
        return any(first <= counter <= last for first, last in self.runs.get((se, incarnation), ()))

    @property
    def count(self) -> int:
        """Segments."""
        return sum(last - first + 1 for runs in self.runs.values() for first, last in runs)

    def plus(self, *others: "Names") -> "Names":
        """All of them."""
        found = dict(self.runs)
        for one in others:
            for spool, runs in one:
                before = found.get(spool)
                found[spool] = runs if before is None else _joined((*before, *runs))
        return Names(found)

    def minus(self, other: "Names") -> "Names":
        """Those that are not in the other."""
        left = ((spool, _without(runs, other.runs.get(spool, ()))) for spool, runs in self)
        return Names({spool: runs for spool, runs in left if runs})


def name_of(segment: Segment) -> tuple[SeId, str, int]:
    """As ``Names`` have it."""
    return segment.se, segment.head.incarnation, segment.head.counter


def names_of(segments: Iterable[Segment]) -> Names:
    """Of these."""
    return Names.of(map(name_of, segments))


def _joined(runs: Iterable[Run]) -> Runs:
    found: list[Run] = []
    for first, last in sorted(runs):
        if found and first <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(last, found[-1][1]))
        else:
            found.append((first, last))
    return tuple(found)


def _without(runs: Runs, gone: Runs) -> Runs:
    left: list[Run] = []
    at = 0
    for first, last in runs:
        while at < len(gone) and gone[at][1] < first:
            at += 1
        here, start = at, first
        while here < len(gone) and gone[here][0] <= last:
            if start < gone[here][0]:
                left.append((start, gone[here][0] - 1))
            start = gone[here][1] + 1
            here += 1
        if start <= last:
            left.append((start, last))
    return tuple(left)
