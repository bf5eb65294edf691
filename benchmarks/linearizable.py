"""Whether a history of registers can be explained by each operation taking place at one instant while it was under way.

A history is what clients saw: when each asked, when it was answered, and what.  An operation without an answer may have
taken place at any instant after it began, or not at all.  Registers are independent of each other, so each is checked
alone (Herlihy and Wing 1990, locality).  The search is Wing's and Gong's with Lowe's memory: of all operations that may
be next, one after the other is tried, and no pair of (operations done, value) is looked at twice.  How many of those
there are grows with how many operations overlap, not with the length of the history.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

import attrs

MAX_STATES = 2_000_000
"""Looked at for one register, some 200 bytes each; a history that needs more is not judged rather than called good."""
NEVER = float("inf")
"""When an operation ended that was not answered."""


@attrs.frozen(kw_only=True)
class Operation:
    """What one client did to one register.  Times are seconds of one clock."""

    register: str
    client: str
    began: float
    ended: float = NEVER
    """When it was answered; ``NEVER`` when that is not known."""
    reads: bool = False
    """``value`` is what it found."""
    value: str | None = None
    """None: the register has none."""
    expected: str | None = None
    """What a compare-and-set asked for."""
    compares: bool = False
    held: bool = True
    """Whether the comparison held, as far as was answered."""

    @property
    def answered(self) -> bool:
        """Whether its outcome is known."""
        return self.ended < NEVER

    def after(self, value: str | None) -> tuple[bool, str | None]:
        """Whether it can take place on ``value`` with the outcome that was seen, and what it leaves."""
        if self.reads:
            return value == self.value, value
        if not self.compares:
            return True, self.value
        if not self.answered:
            return True, self.value if value == self.expected else value
        return (value == self.expected) is self.held, self.value if self.held else value


@attrs.frozen
class Verdict:
    """Of one register."""

    register: str
    linearizable: bool | None
    """None: it was not found out within ``MAX_STATES``."""
    operations: int
    states: int
    stuck: tuple[Operation, ...] = ()
    """Where the longest explanation ends: operations none of which can be next."""

    WORDS: ClassVar[dict[bool | None, str]] = {
        True: "linearizable",
        False: "NOT linearizable",
        None: "not judged",
    }

    def __str__(self) -> str:
        said = f"{self.register}: {self.operations} operations, {self.WORDS[self.linearizable]}"
        return f"{said}; none of these can be next: {', '.join(map(str, self.stuck))}" if self.stuck else said


def check(history: Iterable[Operation], max_states: int = MAX_STATES) -> list[Verdict]:
    """A verdict a register, by name.  Registers begin without a value."""
    registers: dict[str, list[Operation]] = defaultdict(list)
    for operation in history:
        # A read that was not answered says nothing and changes nothing.
        if operation.answered or not operation.reads:
            registers[operation.register].append(operation)
    return [_check_one(name, registers[name], max_states) for name in sorted(registers)]


def _check_one(name: str, mixed: Sequence[Operation], max_states: int) -> Verdict:
    history = _History.of(mixed)
    start = _Place(0, frozenset(), frozenset(), None)
    waiting, seen = [start], {start}
    furthest = start
    while waiting:
        place = waiting.pop()
        if place.first == len(history.answered):
            return Verdict(name, True, len(mixed), len(seen))
        if place.done > furthest.done:
            furthest = place
        for following in history.next(place):
            if following not in seen:
                seen.add(following)
                waiting.append(following)
        if len(seen) > max_states:
            return Verdict(name, None, len(mixed), len(seen))
    stuck = tuple(history.answered[number] for number in history.candidates(furthest)[0])
    return Verdict(name, False, len(mixed), len(seen), stuck)


@attrs.frozen
class _Place:
    """How far an explanation has come: all answered operations before ``first`` are done, and those in ``ahead``."""

    first: int
    ahead: frozenset[int]
    taken: frozenset[int]
    """Of those without an answer, which took place."""
    value: str | None

    @property
    def done(self) -> int:
        """How many answered operations."""
        return self.first + len(self.ahead)


@attrs.frozen
class _History:
    """One register's.  What has no answer is apart: it may stay undone for ever, and nothing waits for it."""

    answered: tuple[Operation, ...]
    unanswered: tuple[Operation, ...]
    unseen: frozenset[int]
    """Of those without an answer, whose value nobody found or expected."""

    @classmethod
    def of(cls, operations: Sequence[Operation]) -> "_History":
        ordered = sorted(operations, key=lambda operation: (operation.began, operation.ended))
        unanswered = tuple(operation for operation in ordered if not operation.answered)
        seen = {one.value for one in ordered if one.reads} | {one.expected for one in ordered if one.compares}
        return cls(
            tuple(operation for operation in ordered if operation.answered),
            unanswered,
            frozenset(number for number, one in enumerate(unanswered) if one.value not in seen),
        )

    def candidates(self, place: _Place) -> tuple[list[int], float]:
        """Which answered ones may be next, and until when: they began before any that is not done was answered."""
        found: list[int] = []
        earliest = NEVER
        for number in range(place.first, len(self.answered)):
            operation = self.answered[number]
            if operation.began > earliest:
                break
            if number not in place.ahead:
                found.append(number)
                earliest = min(earliest, operation.ended)
        return found, earliest

    def next(self, place: _Place) -> Iterator[_Place]:
        """Where an explanation may go on; the last is the likeliest: what began first, and has an answer."""
        candidates, earliest = self.candidates(place)
        for number in self._unanswered(place, candidates, earliest):
            _, value = self.unanswered[number].after(place.value)
            if value != place.value:
                yield attrs.evolve(place, taken=place.taken | {number}, value=value)
        for number in reversed(candidates):
            fits, value = self.answered[number].after(place.value)
            if fits:
                yield self._past(place, number, value)

    def _unanswered(self, place: _Place, candidates: Sequence[int], earliest: float) -> Iterator[int]:
        """Those without an answer that are worth a try.

        A value that nobody saw explains one thing alone, that a comparison did not hold, and there is no need for it
        before; of several such writes one is as good as another.  So a store that was away, with hundreds of writes that
        nobody saw, does not double the work with each of them.
        """
        nexts = (self.answered[number] for number in candidates)
        wanted = any(one.compares and not one.held and one.expected == place.value for one in nexts)
        tried = False
        for number, operation in enumerate(self.unanswered):
            if operation.began > earliest:
                break
            unseen, writes = number in self.unseen, not operation.compares
            if number in place.taken or (unseen and (not wanted or (writes and tried))):
                continue
            tried |= unseen and writes
            yield number

    @staticmethod
    def _past(place: _Place, number: int, value: str | None) -> _Place:
        first, ahead = place.first, place.ahead | {number}
        while first in ahead:
            ahead -= {first}
            first += 1
        return _Place(first, ahead, place.taken, value)
