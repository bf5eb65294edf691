"""What can go wrong, as types.

Every error that avinet raises on purpose is an ``AvinetError``.  A class stands for one reason that a caller
can act on; its attributes carry the facts and its docstring is the sentence a person reads, filled in from
those attributes: what happened, why, and what to do next.  ``Kind`` groups the reasons by what they mean to
whoever asked, so that the HTTP surface and the command line each need one small table and nothing else.

Each layer defines its own subclasses beside the code that raises them; only the roots live here.
"""

import enum
import inspect
from typing import Any, ClassVar, TypeVar, dataclass_transform

import attrs

_Class = TypeVar("_Class", bound=type)


@dataclass_transform(kw_only_default=True, field_specifiers=(attrs.field,))
def error(cls: _Class) -> _Class:
    """Make a class with annotated attributes an ``AvinetError`` that takes them as keyword arguments."""
    return attrs.define(cls, eq=False, slots=False, str=False, repr=False, kw_only=True)


class Kind(enum.Enum):
    """What an error means to the one who asked, independent of any protocol."""

    INVALID = "invalid"
    """The request itself is wrong; sending it again changes nothing."""
    DENIED = "denied"
    """The caller is not allowed to."""
    NOT_FOUND = "not-found"
    GONE = "gone"
    """It existed once and never will again."""
    CONFLICT = "conflict"
    """True facts forbid it now: a name in use, a version overtaken."""
    PRECONDITION = "precondition"
    """The caller must say which version it means, or the one it meant is stale."""
    TOO_LARGE = "too-large"
    LIMITED = "limited"
    """Too much at once; asking later helps."""
    UNAVAILABLE = "unavailable"
    """Something needed cannot be reached; asking later may help."""
    NO_SPACE = "no-space"
    """The disk is full; nothing was changed."""
    TIMEOUT = "timeout"
    INTERNAL = "internal"
    """A defect of ours."""


def _fields(cls: Any) -> Any:
    """``attrs.fields`` for a class that a checker knows only through ``error``."""
    return attrs.fields(cls)


@error
class AvinetError(Exception):
    """Something avinet could not do."""

    kind: ClassVar[Kind] = Kind.INTERNAL

    @property
    def reason(self) -> str:
        """A stable word for this reason, as used in events, JSON and metrics: ``token-spent``."""
        words: list[str] = []
        for letter in type(self).__name__.removesuffix("Error"):
            if letter.isupper() and words:
                words.append("-")
            words.append(letter.lower())
        return "".join(words)

    def __str__(self) -> str:
        template = inspect.cleandoc(type(self).__doc__ or "").replace("\n", " ")
        return template.format(**{a.name: getattr(self, a.name) for a in _fields(type(self))})

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self}>"


@error
class LocalProtocolError(AvinetError):
    """This side was about to break the {protocol} protocol: {detail}. This is a defect of avinet; please report it."""

    protocol: str
    detail: str


@error
class RemoteProtocolError(AvinetError):
    """The peer broke the {protocol} protocol: {detail}. The connection was cut."""

    kind: ClassVar[Kind] = Kind.INVALID
    protocol: str
    detail: str
