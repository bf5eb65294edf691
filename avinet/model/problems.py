"""What is wrong with a change, told by field; and how values of operators are quoted in it."""

from collections.abc import Iterator
from typing import Any, ClassVar

import attrs

from avinet.errors import AvinetError, error
from avinet.errors import Kind as ErrorKind

MAX_PROBLEMS = 50
"""More than anyone mends at once."""
MAX_QUOTED = 100
"""Characters of a value that an error repeats: enough to find it again."""

Found = Iterator[tuple[str, str]]
"""(path, why)."""


@attrs.frozen
class Problem:
    """One wrong field.  ``document`` counts from 1."""

    document: int
    kind: str
    name: str
    path: str
    why: str

    def __str__(self) -> str:
        what = f"{self.kind or 'document'} {self.name or self.document}"
        return f"{what}: {self.path}: {self.why}" if self.path else f"{what}: {self.why}"


@error
class InvalidConfigError(AvinetError):
    """The configuration was not changed. {summary}"""

    kind: ClassVar[ErrorKind] = ErrorKind.INVALID
    problems: tuple[Problem, ...]

    @property
    def summary(self) -> str:
        """All of them in one text, a line each."""
        return "".join(f"\n  {problem}" for problem in self.problems[:MAX_PROBLEMS])

    def __str__(self) -> str:
        return f"The configuration was not changed.{self.summary}"


def quoted(value: Any) -> str:
    """A value as an error repeats it: in one line, cut, and nothing that may be a key put into the wrong field."""
    text = value if isinstance(value, str) else repr(value)
    if "PRIVATE KEY" in text or "-----" in text:
        return "a PEM text"
    if len(text) > MAX_QUOTED:
        return f"a text of {len(text)} characters"
    return repr(value)


def plain(value: Any) -> str:
    """The same for what stands for a name: without quotes, where it is one."""
    is_name = isinstance(value, str) and value.isprintable() and quoted(value) == repr(value)
    return str(value) if is_name else quoted(value)
