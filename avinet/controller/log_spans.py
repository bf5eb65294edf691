"""Names of segments as messages carry them: runs of counters, some at a time."""

from collections.abc import Iterable, Iterator

from avinet.logs.runs import Names, Run, Spool
from avinet.model.ids import SeId
from avinet.wire.copy_messages import MAX_RUNS, SpanRow


def spans(names: Names) -> tuple[SpanRow, ...]:
    """All of them; no more than ``MAX_RUNS``."""
    return tuple((se, incarnation, *run) for (se, incarnation), runs in names for run in runs)


def pages(names: Names, most: int = MAX_RUNS, longest: int = 0) -> Iterator[Names]:
    """Some at a time, and if it is said no more than so many segments of each run; one that is empty where there are none."""
    rows = spans(names)
    if longest:
        rows = tuple(
            (se, incarnation, start, min(start + longest - 1, last))
            for se, incarnation, first, last in rows
            for start in range(first, last + 1, longest)
        )
    for first in range(0, max(1, len(rows)), most):
        yield names_in(rows[first : first + most])


def names_in(rows: Iterable[SpanRow]) -> Names:
    """What a message names."""
    found: dict[Spool, list[Run]] = {}
    for se, incarnation, first, last in rows:
        if first <= last:
            found.setdefault((SeId(se), incarnation), []).append((first, last))
    return Names.of_runs(found)
