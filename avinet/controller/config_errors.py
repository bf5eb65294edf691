"""Why a change of the configuration was not made, beyond what is wrong in it."""

from typing import ClassVar

from avinet.errors import AvinetError, Kind, error


@error
class ObjectNotFoundError(AvinetError):
    """There is no {kind_word} {name!r}; see: avinet config get {kind_word}."""

    kind: ClassVar[Kind] = Kind.NOT_FOUND
    kind_word: str
    name: str


@error
class ObjectExistsError(AvinetError):
    """A {kind_word} called {name!r} exists already. Change it with PUT, or apply it."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    kind_word: str
    name: str


@error
class VersionRequiredError(AvinetError):
    """Changing {what} needs the _last_modified that you read (in the body, or as If-Match), so that nobody's change is lost."""

    kind: ClassVar[Kind] = Kind.PRECONDITION
    http_status: ClassVar[int] = 428
    what: str


@error
class StaleError(AvinetError):
    """{what} was changed since you read it (_last_modified is {now}, not {expected}). Read it again, then repeat your change."""

    kind: ClassVar[Kind] = Kind.PRECONDITION
    http_status: ClassVar[int] = 412
    what: str
    now: str
    expected: str


@error
class ObjectInUseError(AvinetError):
    """{what} cannot be deleted: {why}."""

    kind: ClassVar[Kind] = Kind.CONFLICT
    what: str
    why: str


@error
class ObjectTooLargeError(AvinetError):
    """{what} is {size} bytes as stored; an object has at most {limit}. Split it."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    what: str
    size: int
    limit: int


@error
class ConfigBusyError(AvinetError):
    """Others change the configuration at the same time; try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@error
class ConfigMovedError(AvinetError):
    """The configuration is at version {now}, not {expected}. {done}"""

    kind: ClassVar[Kind] = Kind.PRECONDITION
    now: int
    expected: int
    since: tuple[str, ...]
    """What was done in between, newest first; nothing where ``expected`` never was, or is gone."""

    @property
    def done(self) -> str:
        """What to do, and below it a line for each version."""
        if not self.since:
            return f"Version {self.expected} never was, or is gone; see: avinet config history."
        lines = "".join(f"\n  {line}" for line in self.since)
        return f"Look at what changed (avinet config diff {self.expected}), then repeat your change on version {self.now}.{lines}"

    def __str__(self) -> str:
        return f"The configuration is at version {self.now}, not {self.expected}. {self.done}"


@error
class NoteError(AvinetError):
    """A note is one line of at most {limit} characters; this one {what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    limit: int
    what: str
