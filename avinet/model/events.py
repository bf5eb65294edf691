"""Events: what happened that an operator or a program may want to know, each with a stable code."""

import enum
from typing import Any

import msgspec


class Level(enum.StrEnum):
    """How much attention an event asks for."""

    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that happened.  ``id`` counts up without gaps in one controller's log; ``at`` is UNIX seconds."""

    id: int
    at: float
    code: str
    """Stable and upper case: ``SE_UP``, ``ENROLMENT_REFUSED``, ``CONFIG_NACKED``."""
    level: Level
    subject: str
    """What it is about: an SE's UUID, an object's UUID, a source address, or ``controller``."""
    text: str
    """One sentence for a person."""
    facts: dict[str, Any] = {}
    """The same for a program; never a secret."""
    count: int = 1
    """How many like it this one stands for: same code, subject and reason within the coalescing window."""
