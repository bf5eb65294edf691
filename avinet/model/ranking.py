"""Rendezvous hashing: each name ranks the members of a set in an order of its own.

The order of two members does not depend on who else is there.  So one that leaves moves only what it had, to where it
would have been next, and one that joins takes only what ranks it first.

A member's rank for a name is taken from the product of two 64-bit hashes, that of the member and that of the name.
All members' hashes stand side by side in one large number, so that one multiplication makes all products: the byte
that decides most is then looked for in the result without a loop in Python.  For 500 names over 2,000 members it takes
30 ms; a product each took 0.2 s, a SHA-256 of each pair 0.65 s.  Shares are as even as chance makes them (chi-square
over degrees of freedom 0.9 to 1.15).
"""

import functools
import hashlib
from collections.abc import Collection, Iterator
from typing import Generic, TypeVar

Member = TypeVar("Member", bound=str)

_LANE = 16
"""Bytes: room for a product of two hashes of 8."""
_TOP = 9
"""The byte of a lane that ranks: from the middle of the product, where both hashes have mixed."""
_LOW = 4
"""With the bytes below it, down to this one, ties are broken."""
_VALUES = tuple(bytes([value]) for value in range(256))


@functools.lru_cache(maxsize=32_768)
def _hash(name: str) -> bytes:
    """For as many names as there may be SEs and virtual services; 2 MB when full."""
    return hashlib.sha256(name.encode()).digest()[:8]


class Ranking(Generic[Member]):
    """The members of one set."""

    def __init__(self, members: Collection[Member]) -> None:
        # In one order whatever order they came in, for the unlikely case that two rank the same.
        self._members = sorted(members)
        lanes = b"".join(_hash(member) + bytes(_LANE - 8) for member in self._members)
        self._packed = int.from_bytes(lanes, "little")

    def __len__(self) -> int:
        return len(self._members)

    def by(self, name: str) -> Iterator[Member]:
        """Every member, the first for ``name`` first; each step costs little more than what it yields."""
        factor = int.from_bytes(_hash(name), "little") | 1
        products = (self._packed * factor).to_bytes(_LANE * len(self._members), "little")
        top = products[_TOP::_LANE]
        for value in _VALUES:
            at = top.find(value)
            found: list[tuple[bytes, Member]] = []
            while at >= 0:
                lane = at * _LANE
                found.append((products[lane + _TOP : lane + _LOW : -1], self._members[at]))
                at = top.find(value, at + 1)
            if len(found) > 1:
                found.sort()
            for _, member in found:
                yield member
