"""Why the log store has no answer, as a caller can act on it."""

from typing import ClassVar

from avinet.errors import AvinetError, Kind, error
from avinet.logs.store.jobs import Failed, FailureKind


@error
class LogWorkerDiedError(AvinetError):
    """The {role} worker of the log store ended ({how}) while it did this. It is started again, and nothing that was received is lost; try again."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    role: str
    how: str


@error
class LogStoreBusyError(AvinetError):
    """The log store has {waiting} jobs waiting already, and takes no more now. Try again in a while."""

    kind: ClassVar[Kind] = Kind.LIMITED
    waiting: int


@error
class LogStoreStoppedError(AvinetError):
    """The log store is not running: the controller starts or stops. Try again in a while."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE


@error
class LogQueryTimeoutError(AvinetError):
    """The logs were not searched in {limit_s:.0f} s. Ask for less: a shorter time (since 1h), or one virtual service (vs=NAME)."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    limit_s: float


@error
class LogQueryMemoryError(AvinetError):
    """The answer takes more memory than the log store may use ([logs] query_memory_mib). Ask for less: a shorter time, one virtual service, fewer groups."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    why: str


@error
class LogAnswerTooLargeError(AvinetError):
    """The answer is too large: {why}. Ask for less, or export it to a file."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    why: str


@error
class LogTooManyFilesError(AvinetError):
    """The {files} files of that time are more than the log store reads at once. Ask for a shorter time."""

    kind: ClassVar[Kind] = Kind.TOO_LARGE
    files: int


@error
class LogQueryRefusedError(AvinetError):
    """The log store cannot answer this: {why}."""

    kind: ClassVar[Kind] = Kind.INVALID
    why: str


@error
class LogStoreFullError(AvinetError):
    """The log store has no room on the disk: {why}. Free some space; what was received waits."""

    kind: ClassVar[Kind] = Kind.NO_SPACE
    why: str


@error
class LogStoreBrokenError(AvinetError):
    """The log store failed: {why}."""

    kind: ClassVar[Kind] = Kind.INTERNAL
    why: str


def error_of(failed: Failed, limit_s: float) -> AvinetError:
    """What a worker's failure is to a caller."""
    match failed.kind:
        case FailureKind.TIME:
            return LogQueryTimeoutError(limit_s=limit_s)
        case FailureKind.MEMORY:
            return LogQueryMemoryError(why=failed.why)
        case FailureKind.TOO_LARGE:
            return LogAnswerTooLargeError(why=failed.why)
        case FailureKind.REFUSED:
            return LogQueryRefusedError(why=failed.why)
        case FailureKind.NO_SPACE:
            return LogStoreFullError(why=failed.why)
        case _:
            return LogStoreBrokenError(why=failed.why)
