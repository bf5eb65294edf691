"""What can go wrong between the command line and a controller, and the exit status each kind of error gets."""

from http import HTTPStatus
from pathlib import Path
from typing import Any, ClassVar, cast

import attrs
import msgspec

from avinet.errors import AvinetError, Kind, error

OK = 0
FAILED = 1
INVALID = 2
NOT_FOUND = 3
CONFLICT = 4
UNAVAILABLE = 5
DENIED = 6
TIMEOUT = 7
INTERRUPTED = 130
"""128 + SIGINT, as shells have it."""
CUT = 124
"""``se exec``: past its ``--timeout``, as timeout(1) has it."""
NOT_REACHED = 255
"""``se exec`` and ``se ssh``: the connection failed, as ssh(1) has it."""

EXIT_STATUS: dict[Kind, int] = {
    Kind.INVALID: INVALID,
    Kind.TOO_LARGE: INVALID,
    Kind.NOT_FOUND: NOT_FOUND,
    Kind.GONE: NOT_FOUND,
    Kind.CONFLICT: CONFLICT,
    Kind.PRECONDITION: CONFLICT,
    Kind.UNAVAILABLE: UNAVAILABLE,
    Kind.LIMITED: UNAVAILABLE,
    Kind.NO_SPACE: FAILED,
    Kind.DENIED: DENIED,
    Kind.TIMEOUT: TIMEOUT,
    Kind.INTERNAL: FAILED,
}

KIND_OF_STATUS: dict[int, Kind] = {
    400: Kind.INVALID,
    401: Kind.DENIED,
    403: Kind.DENIED,
    404: Kind.NOT_FOUND,
    405: Kind.INVALID,
    408: Kind.TIMEOUT,
    409: Kind.CONFLICT,
    410: Kind.GONE,
    412: Kind.PRECONDITION,
    413: Kind.TOO_LARGE,
    415: Kind.INVALID,
    422: Kind.INVALID,
    428: Kind.PRECONDITION,
    429: Kind.LIMITED,
    500: Kind.INTERNAL,
    502: Kind.UNAVAILABLE,
    503: Kind.UNAVAILABLE,
    504: Kind.TIMEOUT,
    507: Kind.NO_SPACE,
}


@error
class RefusedError(AvinetError):
    """{detail}"""

    detail: str
    status: int
    said_reason: str = ""
    """The problem's stable word."""
    facts: dict[str, Any] = attrs.field(factory=dict, repr=False)
    """The whole problem document."""

    @property
    def reason(self) -> str:
        """The controller's own word for it."""
        return self.said_reason or f"http-{self.status}"

    @property
    def answered_kind(self) -> Kind:
        """What the status means."""
        return KIND_OF_STATUS.get(self.status, Kind.INVALID if self.status < 500 else Kind.INTERNAL)


@error
class ControllerUnreachableError(AvinetError):
    """No controller answers at {place}: {why}. Is it running? {advice}"""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    place: str
    why: str
    advice: str
    """How to say where it is, as far as that was not said."""


@error
class ControllerStartingError(ControllerUnreachableError):
    """The controller at {place} (pid {pid}) does not answer: {why}. It starts or stops. Its log (journalctl -u avicontroller) says what it waits for: one of several waits for a majority of them. {advice}"""

    pid: int = 0


@error
class NotHereError(AvinetError):
    """{what} works on the controller's machine only, with the keys in its state folder, and {state} is none. {advice}"""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str
    state: Path
    advice: str


@error
class ControllerUntrustedError(AvinetError):
    """The certificate at {place} is not to be trusted: {why}. {advice}"""

    kind: ClassVar[Kind] = Kind.DENIED
    place: str
    why: str
    advice: str


@error
class NoAnswerError(AvinetError):
    """{place} did not answer within {limit_s:.0f} s; what was asked for may still happen."""

    kind: ClassVar[Kind] = Kind.TIMEOUT
    place: str
    limit_s: float


@error
class ConnectionLostError(AvinetError):
    """The connection to {place} ended before the answer did: {why}. What was asked for may have happened."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    place: str
    why: str


@error
class StrangeAnswerError(AvinetError):
    """{place} does not answer as a controller would: {why}. Is it another program's port?"""

    kind: ClassVar[Kind] = Kind.INTERNAL
    place: str
    why: str


@error
class UsageError(AvinetError):
    """{what}."""

    kind: ClassVar[Kind] = Kind.INVALID
    what: str


@error
class FileError(AvinetError):
    """Cannot {what} {path}: {why}."""

    what: str
    path: str
    why: str


class ReaderGoneError(Exception):
    """Whoever read our output has gone, as in ``... | head``: no connection of ours was lost."""


class EndedError(Exception):
    """``failure``, and an exit status that is not that of its kind."""

    def __init__(self, failure: AvinetError, status: int) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.status = status


def exit_status(failure: AvinetError) -> int:
    """What the process ends with."""
    return EXIT_STATUS[failure.answered_kind if isinstance(failure, RefusedError) else failure.kind]


def phrase_of(status: int) -> str:
    """``404 Not Found``."""
    try:
        return f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        return str(status)


def facts_of(failure: AvinetError) -> dict[str, Any]:
    """What programs are told with ``--json``: the stable word, the sentence, and beside them the facts."""
    if isinstance(failure, RefusedError):
        facts = failure.facts
    else:
        fields: Any = attrs.fields(cast("Any", type(failure)))
        facts = {name: getattr(failure, name) for name in (field.name for field in fields)}
    return {"reason": failure.reason, "detail": str(failure)} | {
        name: msgspec.to_builtins(value, enc_hook=str)
        for name, value in facts.items()
        if name not in {"reason", "detail"}
    }
