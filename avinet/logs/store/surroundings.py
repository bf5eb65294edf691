"""What a log store stands on, and what it tells."""

from collections.abc import Callable
from typing import Any

import attrs
from twisted.internet.defer import Deferred

from avinet.logs.entries import StoreFile
from avinet.model.ids import SeId


@attrs.frozen
class Surroundings:
    """What a store stands on."""

    in_thread: Callable[..., Deferred[Any]]
    wall: Callable[[], float]
    """UNIX seconds."""
    name_of: Callable[[SeId], str] = lambda se: se
    """A service engine's name."""
    lost: Callable[[StoreFile, str], None] = lambda file, why: None
    """Told of a file that cannot be read any more, and was set aside."""
    steady: Callable[[], float] | None = None
    """UNIX seconds by a clock that nobody sets, from the wall clock's reading at the start."""
