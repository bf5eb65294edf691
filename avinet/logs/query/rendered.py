"""A statement as a renderer wrote it, for one engine: all that whoever runs it and reads its rows has to know."""

from typing import Any

import attrs


@attrs.frozen
class Column:
    """One column of the statement's rows: what it is called in answers.  Several names: it is a list."""

    names: tuple[str, ...]
    time: bool = False
    """Whether it is microseconds of UNIX time."""
    listed: bool = False


@attrs.frozen
class Rendered:
    """A statement for one engine."""

    sql: str
    parameters: dict[str, Any]
    columns: tuple[Column, ...]
    limit: int | None
    """Rows that are wanted; one more is asked for, to know whether there are more."""
