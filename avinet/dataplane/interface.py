"""What the SE's agent asks of a data plane.

A data plane takes the SE's whole desired state and makes it true, or leaves everything as it was.  It outlives
the agent: ``start`` adopts one that runs already.  What is in force is read back from the data plane itself,
never remembered.
"""

import enum
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import ClassVar, Protocol

import attrs
from twisted.internet.defer import Deferred

from avinet.errors import AvinetError, Kind, error
from avinet.model.logs import LogClass, piece_name
from avinet.model.resources import Resource


@error
class RejectedError(AvinetError):
    """The data plane does not accept {resource}: {detail}. The configuration in force was left as it was."""

    kind: ClassVar[Kind] = Kind.INVALID
    resource: str
    """Resource name, or empty when the whole is at fault."""
    detail: str


@error
class DataPlaneDownError(AvinetError):
    """The data plane does not answer: {detail}."""

    kind: ClassVar[Kind] = Kind.UNAVAILABLE
    detail: str


class ServerState(enum.StrEnum):
    """What a server gets, as an operator would say it."""

    UP = "UP"
    DOWN = "DOWN"
    """Its monitors say so, or nobody knows yet."""
    EJECTED = "EJECTED"
    """Its monitors find nothing, but it fails real requests: left out for a while."""
    DRAINING = "DRAINING"
    """Disabled; may finish what is under way, and clients with its cookie may come back."""


class Failure(enum.StrEnum):
    """Why a server is down, in kinds that can be counted; ``ServerStatus.reason`` says it in words."""

    NONE = ""
    TIMEOUT = "TIMEOUT"
    """It did not answer a check in time."""
    REFUSED = "REFUSED"
    """Nothing listens on its port, or the connection was cut."""
    TLS = "TLS"
    """No handshake, or a certificate that does not do."""
    WRONG_STATUS = "WRONG_STATUS"
    WRONG_BODY = "WRONG_BODY"
    UNRESOLVED = "UNRESOLVED"
    """Its name does not resolve."""
    OUTLIER = "OUTLIER"
    UNCHECKED = "UNCHECKED"
    """No check has ended yet."""
    CHECK_FAILED = "CHECK_FAILED"
    """Its check fails, and why is not known."""


@attrs.frozen
class ServerStatus:
    """One server of one pool: ``pool`` is a resource name, ``server`` is ``host:port``.

    Of the disabled ones there are only those that are draining.
    """

    pool: str
    server: str
    up: bool
    """True only where it gets new requests."""
    reason: str = ""
    state: ServerState = attrs.field(
        default=attrs.Factory(lambda self: ServerState.UP if self.up else ServerState.DOWN, takes_self=True)
    )
    failure: Failure = Failure.NONE
    connections: int = 0
    """Open now."""
    requests: int = 0
    """Since the pool's last change, as the next ones; a TCP connection counts as one."""
    errors: int = 0
    """Requests answered with 5xx, reset or timed out."""
    connect_failures: int = 0


@attrs.frozen
class Responses:
    """How many answers of each class."""

    informational: int = 0
    ok: int = 0
    redirects: int = 0
    client_errors: int = 0
    server_errors: int = 0

    @property
    def by_class(self) -> tuple[int, int, int, int, int]:
        """1xx to 5xx."""
        return attrs.astuple(self)


@attrs.frozen
class Latency:
    """How long things took, as a histogram: ``bins`` are (lower bound, width, count), in milliseconds.

    The bins are within 10 % of what was measured, and always the same ones, so that two histograms can be added or
    subtracted.  At most some 500 of them are in use (1 ms to a day).
    """

    bins: tuple[tuple[float, float, int], ...] = ()

    @property
    def count(self) -> int:
        """How many were measured."""
        return sum(count for _, _, count in self.bins)

    def percentile(self, part: float) -> float | None:
        """Milliseconds that ``part`` (0 to 1) of them took at most; None when nothing was measured."""
        wanted = part * self.count
        passed = 0
        for lower, width, count in self.bins:
            if passed + count >= wanted:
                return lower + width * (wanted - passed) / count
            passed += count
        return None

    @property
    def p50(self) -> float | None:
        """The median, in milliseconds."""
        return self.percentile(0.50)

    @property
    def p90(self) -> float | None:
        """In milliseconds."""
        return self.percentile(0.90)

    @property
    def p99(self) -> float | None:
        """In milliseconds."""
        return self.percentile(0.99)

    def since(self, earlier: "Latency") -> "Latency":
        """What came after ``earlier``; the whole when this does not continue it (the data plane was restarted)."""
        before = {(lower, width): count for lower, width, count in earlier.bins}
        left = [(lower, width, n - before.pop((lower, width), 0)) for lower, width, n in self.bins]
        if before or any(count < 0 for _, _, count in left):
            return self
        return Latency(tuple(item for item in left if item[2]))

    def plus(self, other: "Latency") -> "Latency":
        """Both together."""
        counts: dict[tuple[float, float], int] = {}
        for lower, width, count in (*self.bins, *other.bins):
            counts[lower, width] = counts.get((lower, width), 0) + count
        return Latency(tuple((lower, width, n) for (lower, width), n in sorted(counts.items())))


@attrs.frozen
class ServiceCounters:
    """One virtual service's counters since the data plane started; ``service`` is a resource name.

    For TCP there are no requests and answers, and ``latency`` is how long connections lasted.
    """

    service: str
    requests: int = 0
    errors_5xx: int = 0
    connections: int = 0
    """Open now."""
    bytes_in: int = 0
    bytes_out: int = 0
    connections_total: int = 0
    responses: Responses = Responses()
    latency: Latency = Latency()
    """From a request's first byte to its answer's last."""


@attrs.frozen
class PoolCounters:
    """One pool's counters since the data plane started; ``pool`` is a resource name."""

    pool: str
    requests: int = 0
    connections: int = 0
    """Open to servers now."""
    connections_total: int = 0
    bytes_in: int = 0
    """From servers."""
    bytes_out: int = 0
    responses: Responses = Responses()
    """From servers; what was answered here for want of one is counted in ``no_server``."""
    latency: Latency = Latency()
    """From a request's last byte sent to its answer's last received."""
    retries: int = 0
    connect_failures: int = 0
    timeouts: int = 0
    """Requests that took longer than the pool allows."""
    no_server: int = 0
    """Requests and connections for which no server was up."""
    refused_by_limit: int = 0
    """Requests and connections beyond what the pool's limits allow."""


@attrs.frozen
class LogWrites:
    """Request logs since the data plane started, of all its files together."""

    logged: int = 0
    """Lines, with those that are in memory still."""
    written: int = 0
    """Writes, of up to some hundred lines each."""
    failed: int = 0
    """Writes whose lines are lost."""


@attrs.frozen
class Status:
    """All that is reported upward at one time."""

    started_at: float
    """UNIX seconds."""
    servers: tuple[ServerStatus, ...]
    services: tuple[ServiceCounters, ...]
    pools: tuple[PoolCounters, ...] = ()
    log_writes: LogWrites = LogWrites()


@attrs.frozen
class LogFiles:
    """Where a data plane writes its request logs: NDJSON, one file a class, in a folder that is 0700.

    Whoever takes them renames one (``set_aside``), then has the data plane open it anew (``reopen_logs``); what was
    renamed before that is final then.  So after a crash between the two, ``reopen_logs`` goes before any look at what
    lies there: a data plane that was not told still writes to the renamed file.  A file that was renamed may end in
    the middle of a line when the data plane was killed or its disk was full, and only then.
    """

    folder: Path

    def current(self, log_class: LogClass) -> Path:
        """The file that is written now; it may not exist."""
        return self.folder / f"{log_class.value}.ndjson"

    def set_aside(self, log_class: LogClass) -> Path | None:
        """Rename the current file to a piece that was not there before; None when there is nothing in it.  Blocking.

        Pieces are numbered by the clock, in microseconds, so that no name comes again for another content.
        """
        current = self.current(log_class)
        number = time.time_ns() // 1000
        while (piece := self.folder / piece_name(log_class, number)).exists():
            number += 1
        try:
            if current.stat().st_size == 0:
                return None
            current.replace(piece)
        except FileNotFoundError:
            return None
        return piece


class DataPlane(Protocol):
    """One running data plane."""

    @property
    def description(self) -> str:
        """Name and version, such as ``envoy 1.40.0``; empty until started."""

    def start(self, state: Mapping[str, Resource] | None = None) -> Deferred[None]:
        """Adopt the one that runs, else start one; from then on keep it running.

        ``state`` is what was in force last: what it needs of it to start is there then, nothing is applied.
        """

    def on_restart(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` each time that it was found dead and runs again."""

    def apply(self, state: Mapping[str, Resource]) -> Deferred[None]:
        """Make ``state`` (by resource name) the one in force, whole.

        Fires once the data plane itself confirms it.  ``RejectedError`` names the resource at fault, and then
        what was in force before is in force still, confirmed.  One call at a time.
        """

    def in_force(self) -> Deferred[Mapping[str, str]]:
        """Resource name to resource hash, as the data plane reports them now.

        What is there and should not be has a name and a hash that no resource has.
        """

    def status(self) -> Deferred[Status]:
        """Health and counters now; ``DataPlaneDownError`` when it does not answer."""

    def log_files(self) -> LogFiles:
        """Where its request logs are."""

    def reopen_logs(self) -> Deferred[None]:
        """Have it write to new files, after a rename; fires when what was renamed before is final.

        What it holds in memory goes to the new files, so twice in a row, each after a rename, gets at everything that
        was logged before.  At once where none runs; ``DataPlaneDownError`` when it does not answer.
        """

    def detach(self) -> Deferred[None]:
        """Stop looking after it and leave it running."""

    def stop(self) -> Deferred[None]:
        """End it, with the traffic it carries; fires when it is gone."""
