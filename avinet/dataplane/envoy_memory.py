"""What came of the last rendering, so that the next one makes anew only what is made of something else.

A change touches one of hundreds of virtual services.  What is recalled is the very object that was made then, so it is
also compared with itself at no cost; whoever gets it must not change it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import attrs

_Made = TypeVar("_Made")


@attrs.define(eq=False)
class Memory:
    """Of one rendering after another; holds what the last whole one has used, and no more."""

    _last: dict[tuple[str, str], tuple[object, Any]] = attrs.field(factory=dict, init=False)
    _next: dict[tuple[str, str], tuple[object, Any]] = attrs.field(factory=dict, init=False)

    def made(self, what: str, name: str, of: object, make: Callable[[], _Made]) -> _Made:
        """The ``what`` of ``name``, made now unless it was made of the same (all that ``make`` uses) the last time."""
        key = (what, name)
        known = self._last.get(key)
        found: _Made = known[1] if known is not None and known[0] == of else make()
        self._next[key] = (of, found)
        return found

    def begin(self) -> None:
        """A rendering begins; the one before may have failed."""
        self._next = {}

    def keep(self) -> None:
        """It is whole."""
        self._last, self._next = self._next, {}
