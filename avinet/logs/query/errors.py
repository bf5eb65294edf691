"""A query that cannot be: what is wrong, where, and what may stand there."""

import unicodedata
from typing import ClassVar

from avinet.errors import AvinetError, Kind, error

SHOWN_CHARS = 72
"""Of a query, in an error: a line of a terminal with what stands before it."""


@error
class InvalidLogQueryError(AvinetError):
    """The query is wrong at character {column}: {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    query: str
    column: int
    """Counted from 1; one past the end where something is missing."""
    what: str
    allowed: tuple[str, ...] = ()
    """What may stand there."""
    hint: str = ""

    def __str__(self) -> str:
        """Several lines: the sentence, the place, and what is allowed."""
        said = f"The query is wrong at character {self.column}: {self.what}."
        if self.hint:
            said += f" {self.hint}"
        shown, caret = _excerpt(self.query, self.column - 1)
        lines = [said, f"| {shown}", f"| {caret}"]
        if self.allowed:
            lines.append(f"Allowed here: {', '.join(self.allowed)}.")
        return "\n".join(lines)


@error
class InvalidShapeError(AvinetError):
    """What is asked of the logs is wrong at {where}: {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    where: str
    what: str


def _excerpt(text: str, at: int) -> tuple[str, str]:
    """A piece of ``text`` in one line, nothing in it that moves a terminal's cursor, and a caret under ``at``."""
    start = max(0, min(at - SHOWN_CHARS // 2, len(text) - SHOWN_CHARS))
    piece = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text)
    piece = piece[start : start + SHOWN_CHARS]
    width = sum(
        2 if unicodedata.east_asian_width(c) in "WF" else 0 if unicodedata.combining(c) else 1
        for c in piece[: at - start]
    )
    return piece, " " * width + "^"
