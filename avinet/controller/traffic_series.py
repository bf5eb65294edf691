"""Figures over time: counts in cells of equal length, the newest of them kept.

What a service engine reports happened between its last report and this one.  It is spread over the cells of that time
in proportion, and the parts add up to the whole exactly: so reports that come at any moment, or late, make neither
gaps nor peaks.  A cell is kept encoded (some 60 bytes), since there are sixty for each of thousands of objects.
"""

from collections.abc import Iterator, Sequence

import attrs
import msgspec

from avinet.model.latency import Histogram, add, flat, from_flat

MINUTE_S = 60.0
MINUTES_KEPT = 60
FINE_S = 5.0
FINE_KEPT = 720
"""Of both an hour."""


class Cell(msgspec.Struct, frozen=True, array_like=True):
    """What happened in one cell's time."""

    counts: tuple[int, ...] = ()
    connections: int = 0
    """Open: the most that were known of at once."""
    latency: tuple[int, ...] = ()

    def plus(self, other: "Cell") -> "Cell":
        """Both."""
        latency = from_flat(self.latency)
        add(latency, from_flat(other.latency))
        return Cell(added(self.counts, other.counts), max(self.connections, other.connections), flat(latency))


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(Cell).decode


def added(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Element by element; a missing one is 0."""
    longer, shorter = (one, other) if len(one) >= len(other) else (other, one)
    return tuple(a + b for a, b in zip(longer, (*shorter, *(0,) * (len(longer) - len(shorter))), strict=True))


@attrs.frozen
class Change:
    """What happened between two moments (the clock's seconds), and how many connections were open at the end."""

    begun: float
    ended: float
    counts: tuple[int, ...]
    connections: int = 0
    latency: Histogram = attrs.field(factory=dict)


@attrs.define(eq=False)
class Series:
    """Cells of ``step_s``, the ``kept`` newest."""

    step_s: float
    kept: int
    _cells: dict[int, bytes] = attrs.field(factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return len(self._cells)

    def add(self, change: Change) -> None:
        """Take a change into the cells of its time."""
        last = int(change.ended // self.step_s)
        for number, part in self._parts(change, last):
            held = self._cells.get(number)
            self._cells[number] = _encode(part if held is None else _decode(held).plus(part))
        if len(self._cells) > self.kept:
            self._drop_before(last - self.kept + 1)

    def _parts(self, change: Change, last: int) -> Iterator[tuple[int, Cell]]:
        begun = max(min(change.begun, change.ended), (last - self.kept + 1) * self.step_s)
        first = min(last, int(begun // self.step_s))
        length = change.ended - begun
        if first == last or length <= 0:
            yield last, Cell(change.counts, change.connections, flat(change.latency))
            return
        shares = [((number + 1) * self.step_s - begun) / length for number in range(first, last)] + [1.0]
        counts = [_split(count, shares) for count in change.counts]
        latency = {bucket: _split(count, shares) for bucket, count in change.latency.items()}
        for index, number in enumerate(range(first, last + 1)):
            histogram = {bucket: parts[index] for bucket, parts in latency.items() if parts[index]}
            yield number, Cell(tuple(parts[index] for parts in counts), change.connections, flat(histogram))

    def trim(self, now: float) -> None:
        """Forget what is too old, also where nothing new comes."""
        self._drop_before(int(now // self.step_s) - self.kept + 1)

    def _drop_before(self, oldest: int) -> None:
        for number in [number for number in self._cells if number < oldest]:
            del self._cells[number]

    def between(self, begun: float, ended: float, step_s: float) -> Iterator[tuple[float, Cell]]:
        """(beginning, what happened) for each ``step_s`` (a multiple of ours) from ``begun`` to ``ended``.

        Beginnings are multiples of ``step_s``.  Where nothing happened the cell is empty, with as many connections as
        before.
        """
        each = max(1, round(step_s / self.step_s))
        connections = 0
        for number in range(int(begun // step_s), int(ended // step_s) + 1):
            cells = [self._cells.get(number * each + part) for part in range(each)]
            whole = Cell(connections=connections)
            found = [_decode(cell) for cell in cells if cell is not None]
            for index, cell in enumerate(found):
                whole = cell if index == 0 else whole.plus(cell)
            if found:
                connections = found[-1].connections
            yield number * step_s, whole


def _split(count: int, shares: Sequence[float]) -> list[int]:
    """``count`` in whole parts whose running sums are at the ``shares`` (rising, the last is 1)."""
    marks = [int(count * share) for share in shares[:-1]] + [count]
    return [mark - before for mark, before in zip(marks, [0, *marks[:-1]], strict=True)]
