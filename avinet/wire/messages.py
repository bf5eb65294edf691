"""The messages of the control session, as MessagePack maps tagged by ``t``.

Both roles share them.  A field added later has a default, so that versions N and N-1 understand each other:
unknown fields are ignored here (nodes are tolerant of each other; operators' input is not).  The SE speaks first
(``Hello``); after ``Welcome`` either side may send.  A request carries ``id``, its answer repeats it.
"""

from typing import Any

import msgspec

from avinet.model.fence import Fence
from avinet.model.ids import BootId, ConfigVersion, SeId

PROTOCOL_VERSION = 1
OLDEST_PROTOCOL_VERSION = 1
"""N-1 once there is an N; equal while there is only one version."""

CONTROL_SERVICE = "control"
"""The name of the service in an enrolment's answer."""
CONTROL_PORT = 5096
"""Its ``localhost`` port behind the secure channel: a default, since an enrolment's answer says which."""


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="t", omit_defaults=True):
    """Anything that travels in one frame."""


class Hello(Message, tag="hello", frozen=True, kw_only=True):
    """SE to controller, first: who I am, what I speak, what I have in force."""

    se: SeId
    boot: BootId
    protocol: int
    oldest_protocol: int
    software: str
    capabilities: tuple[str, ...] = ()
    fence: Fence = Fence()
    """The highest the SE has accepted."""
    version: ConfigVersion = ConfigVersion(0)
    hash: str = ""
    """The state hash in force; empty when nothing was ever applied."""
    membership: int = 0
    """The number of the membership list it holds."""
    data_plane: str = ""
    """Name and version, such as ``envoy 1.40.0``."""


TRAFFIC = "traffic"
"""A capability: the SE reports by ``Traffic`` and takes ``Watch``; the controller takes ``Traffic``."""


COMMAND_CLASSES = "command-classes"
"""A capability: the SE takes ``CommandClasses``."""


LOG_LIMITS = "log-limits"
"""A capability: the SE takes a resource that says what it is to keep of logs."""


LIVE_AGAIN = "live-again"
"""A capability: the SE takes ``LiveAgain``."""


class Welcome(Message, tag="welcome", frozen=True, kw_only=True):
    """Controller to SE: accepted."""

    controller: str
    cluster: str
    protocol: int
    software: str
    heartbeat_interval_s: float
    heartbeat_misses: int
    report_interval_s: float = 60.0
    fence: Fence = Fence()
    capabilities: tuple[str, ...] = ()


class Goodbye(Message, tag="goodbye", frozen=True, kw_only=True):
    """Either way, last: why the session ends and, if it may come back, how long to wait at least."""

    reason: str
    """A stable word: ``replaced``, ``quarantined``, ``deleted``, ``version``, ``stopping``, ``overload``."""
    text: str
    retry_after_s: float | None = None


class Ping(Message, tag="ping", frozen=True, kw_only=True):
    """Controller to SE, at each heartbeat.  ``sent_at`` is the sender's monotonic clock in seconds."""

    id: int
    sent_at: float


class Pong(Message, tag="pong", frozen=True, kw_only=True):
    """The answer, at once, echoing ``sent_at``."""

    id: int
    sent_at: float


class ConfigStart(Message, tag="config-start", frozen=True, kw_only=True):
    """The start of one push: resources and removals follow, ``ConfigEnd`` closes it; nothing applies before."""

    push: int
    """Counts up within a session; the answer repeats it."""
    fence: Fence
    base: str | None
    """The state hash that a delta starts from; None for a snapshot, which starts from nothing."""
    hash: str
    """The state hash that results."""
    puts: int
    removes: int
    size: int
    """Total bytes of the bodies, so that the receiver can refuse before it buffers."""


class ConfigPut(Message, tag="config-put", frozen=True, kw_only=True):
    """One resource, or one piece of it: ``more`` when the next frame continues the same name."""

    push: int
    name: str
    body: bytes
    more: bool = False


class ConfigRemove(Message, tag="config-remove", frozen=True, kw_only=True):
    """Some resources to remove."""

    push: int
    names: tuple[str, ...]


class ConfigEnd(Message, tag="config-end", frozen=True, kw_only=True):
    """Apply it, whole or not at all."""

    push: int


class Ack(Message, tag="ack", frozen=True, kw_only=True):
    """In force and reported so by the data plane."""

    push: int
    version: ConfigVersion
    hash: str


class Nack(Message, tag="nack", frozen=True, kw_only=True):
    """Refused; the last good version stays in force."""

    push: int
    version: ConfigVersion
    reason: str
    """A stable word: ``base-mismatch``, ``fenced``, ``rejected``, ``too-large``, ``malformed``."""
    resource: str = ""
    """Which one, where the reason is about one."""
    text: str = ""
    hash: str = ""
    """The state hash that stays in force."""


class MembershipUpdate(Message, tag="membership", frozen=True, kw_only=True):
    """Controller to SE: a signed membership list newer than the one its ``Hello`` named."""

    document: str


class CommandClasses(Message, tag="command-classes", frozen=True, kw_only=True):
    """Controller to SE, behind the welcome and on change: what controllers may use the SE for."""

    allowed: tuple[str, ...]
    """``EXEC``, ``INTERACTIVE``, ``FILES``; others are skipped."""


MAX_SPREAD_S = 60.0
"""Of ``LiveAgain``: as long as an SE's longest wait."""


class LiveAgain(Message, tag="live-again", frozen=True, kw_only=True):
    """Controller to SE: another controller takes SEs again, so who waits to dial it need not wait for longer."""

    controller: str
    spread_s: float
    """From 0 to ``MAX_SPREAD_S``: dial within so many seconds, at random, since others are told so, too."""


class InForce(Message, tag="in-force", frozen=True, kw_only=True):
    """SE to controller, unasked: what the data plane itself reports when it differs from the last Ack, and what another
    controller got in force.
    """

    version: ConfigVersion
    hash: str


class ServerHealth(msgspec.Struct, frozen=True, kw_only=True):
    """One server of one pool as an SE sees it."""

    pool: str
    """Resource name of the pool."""
    server: str
    """``host:port``."""
    up: bool
    reason: str = ""


class ServiceStats(msgspec.Struct, frozen=True, kw_only=True):
    """Counters of one virtual service on one SE since its data plane started."""

    service: str
    """Resource name of the virtual service."""
    requests: int = 0
    errors_5xx: int = 0
    connections: int = 0
    """Open now."""
    bytes_in: int = 0
    bytes_out: int = 0


class StatsRequest(Message, tag="stats-request", frozen=True, kw_only=True):
    """Controller to SE: report now."""

    id: int


class Report(Message, tag="report", frozen=True, kw_only=True):
    """SE to controller: the answer to a request.

    Where either side does not know ``Traffic`` also unasked (id 0): each ``report_interval_s``, and when health changes.
    """

    id: int = 0
    data_plane_up: bool = True
    data_plane_started_at: float = 0.0
    health: tuple[ServerHealth, ...] = ()
    services: tuple[ServiceStats, ...] = ()


class Name(msgspec.Struct, frozen=True, array_like=True):
    """A number that stands for a virtual service, a pool or a server from now on, within one session."""

    number: int
    """From 1, never used again."""
    text: str
    """A resource name; of a server ``host:port``."""
    pool: int = 0
    """Of a server: its pool's number."""


class HealthRow(msgspec.Struct, frozen=True, array_like=True):
    """How one server is, from an SE's point of view."""

    number: int
    state: str
    """``UP``, ``DOWN``, ``EJECTED``, ``DRAINING``, ``DISABLED`` (``avinet.dataplane.interface.ServerState``)."""
    for_s: float = 0.0
    """How long it has been so, in seconds; a time of day would be by the SE's own clock, which may be wrong."""
    failure: str = ""
    """A stable word, such as ``TIMEOUT``."""
    reason: str = ""
    """In words."""


class TrafficRow(msgspec.Struct, frozen=True, array_like=True):
    """Counts of one virtual service, pool or server on one SE; absolute, since its data plane started."""

    number: int
    connections: int = 0
    """Open now."""
    counts: tuple[int, ...] = ()
    """In the order of ``avinet.model.counters``.  One that has fallen says that all of the row began anew."""
    latency: tuple[int, ...] = ()
    """Bucket, count, bucket, count (``avinet.model.latency``): those that changed."""


class Traffic(Message, tag="traffic", frozen=True, kw_only=True):
    """SE to controller: what changed since the last one; one frame, or several of which all but the last say ``more``.

    Counts are absolute, so what a lost link swallowed is made good by the next report.
    """

    scope: str = "some"
    """``whole``: the first of a session, or what was asked for anew: all there is, numbered anew.  ``all``: whatever
    changed since the last ``all`` or ``whole``.  ``some``: servers whose health changed, and what is being watched."""
    more: bool = False
    up: bool = True
    """Whether the data plane answers."""
    started_at: float = 0.0
    """Of the data plane, UNIX seconds; another one means that all counts began anew."""
    names: tuple[Name, ...] = ()
    gone: tuple[int, ...] = ()
    """Numbers of what the data plane has no more."""
    health: tuple[HealthRow, ...] = ()
    rows: tuple[TrafficRow, ...] = ()
    left_out: int = 0
    """How many there are beyond the bound of a report."""


class Watch(Message, tag="watch", frozen=True, kw_only=True):
    """Controller to SE: report these each ``interval_s`` from now on, in place of what was watched before."""

    names: tuple[str, ...] = ()
    """Resource names of virtual services and pools; a pool stands for its servers too."""
    interval_s: float = 5.0
    anew: bool = False
    """Also send everything once, as at the beginning."""


class Notice(Message, tag="notice", frozen=True, kw_only=True):
    """SE to controller: an event for the operator's log, such as a command that ran."""

    code: str
    level: str
    text: str
    at: float = 0.0
    facts: dict[str, Any] = {}


class Unsupported(Message, tag="unsupported", frozen=True, kw_only=True):
    """The answer to a message whose tag this side does not know; the session goes on."""

    tag_: str = msgspec.field(name="tag")
