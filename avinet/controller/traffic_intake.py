"""What one service engine says of its traffic, judged and turned into what happened since it said so last.

Counts come absolute; what is kept here is what was said last, so the difference is what happened, also over a lost link.
Where a count has fallen, or the data plane was started anew, counting began anew.  An SE is believed about what is
placed on it and no more, and only numbers that can be: the rest is ignored and counted.
"""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import attrs

from avinet.controller.traffic_series import Change
from avinet.model.counters import COUNTERS, MAX_COUNT, POOL_KIND, SERVER_KIND, SERVICE_KIND, fitted
from avinet.model.latency import BUCKETS, from_flat
from avinet.wire.messages import HealthRow, Name, Report, Traffic, TrafficRow

MAX_NAMES = 20_000
"""Numbers of one session; as many as an SE of ours gives out."""
MAX_TEXT = 200
"""Characters of a name or a reason; a resource name has 52, a server's host name 253 at most by DNS, and then is cut."""
MAX_WORD = 30
"""Of a state or a kind of failure."""
MAX_CONNECTIONS = 100_000_000
MAX_PER_S = 10_000_000
"""Of anything that is counted: a machine serves some 2 million requests a second."""
MAX_BYTES_PER_S = 125_000_000_000
"""A Tbit/s."""
SLACK_S = 60.0
"""Added to the time that a change may have taken: its beginning is known to a report's interval."""
MAX_AGE_S = 10 * 365 * 86_400.0
MAX_STARTED_AT = 2.0**37
"""UNIX seconds; the year 6325."""
UNKNOWN_AGE = -1.0
UP = "UP"
DRAINING = "DRAINING"

Row = TypeVar("Row", HealthRow, TrafficRow)


@attrs.frozen
class Subject:
    """What figures are about: a virtual service, a pool, or a server of a pool."""

    kind: str
    uuid: str
    """Of the virtual service or pool."""
    server: str = ""


@attrs.frozen
class Trouble:
    """Why a server was not up, and until when it was so (None: it is so still).  Times are the clock's."""

    failure: str
    reason: str
    since: float
    until: float | None = None


@attrs.frozen
class View:
    """One server as one SE sees it."""

    state: str
    since: float
    failure: str = ""
    reason: str = ""
    trouble: Trouble | None = None
    """The last."""

    @property
    def up(self) -> bool:
        """It gets new requests."""
        return self.state == UP

    @property
    def unknown(self) -> bool:
        """Nobody has checked it yet; or it drains, which an operator wanted and which says nothing of how it is."""
        return self.failure == "UNCHECKED" or self.state == DRAINING


@attrs.frozen
class Happened:
    """Something about a subject.  ``first``: since nobody knows when."""

    subject: Subject
    change: Change
    first: bool


@attrs.define
class Taken:
    """What a message came to."""

    happened: list[Happened] = attrs.field(factory=list)
    pools: set[str] = attrs.field(factory=set)
    """Whose servers' health has changed."""
    refused: Counter[str] = attrs.field(factory=Counter)
    """Why something was ignored, and how often."""
    doubted: bool = False
    """Something was ignored that may be right when another configuration is in force."""


@attrs.define
class _Held:
    """What was said of a subject last."""

    connections: int
    counts: tuple[int, ...]
    latency: dict[int, int]
    at: float


@attrs.define(eq=False)
class EngineTraffic:
    """One SE's; lives as long as its record, over all its sessions."""

    up: bool = True
    """Whether its data plane answers, as it said last."""
    heard_at: float | None = None
    full_at: float | None = None
    """When it last said all that changed."""
    left_out: int = 0
    health: dict[str, dict[str, View]] = attrs.field(factory=dict)
    """Pool's UUID to server to view."""
    _started_at: float = 0.0
    _names: dict[int, Subject | None] = attrs.field(factory=dict, repr=False)
    _held: dict[Subject, _Held] = attrs.field(factory=dict, repr=False)
    _whole: set[Subject] | None = attrs.field(default=None, repr=False)
    """What has been told of a whole that is not complete yet."""
    _complete: bool = False
    """It has told the whole once, so what is new now happened since then."""

    def attached(self) -> None:
        """A new session: numbers mean nothing any more."""
        self._names.clear()
        self._whole = None

    def connections_of(self, subject: Subject) -> int:
        """Open now."""
        held = self._held.get(subject)
        return 0 if held is None else held.connections

    def counts_of(self, subject: Subject) -> tuple[int, ...]:
        """Since its data plane started."""
        held = self._held.get(subject)
        return (0,) * len(COUNTERS[subject.kind]) if held is None else held.counts

    def forget(self, pool: str) -> None:
        """The pool is no more."""
        self.health.pop(pool, None)

    def take(self, message: Traffic, now: float, may: Callable[[Subject], bool]) -> Taken:
        """One frame; ``may`` says what is placed on this SE."""
        taken = Taken()
        if not (math.isfinite(message.started_at) and 0 <= message.started_at < MAX_STARTED_AT):
            taken.refused["a start of its data plane that cannot be"] += 1
            return taken
        self.heard_at, self.left_out = now, message.left_out
        if self.up != message.up:
            self.up = message.up
            taken.pools.update(self.health)
        if not message.up:
            return taken
        if message.started_at != self._started_at:
            self._started_at = message.started_at
            self._held.clear()
        if message.scope == "whole" and self._whole is None:
            self._names.clear()
            self._whole = set()
        self._take_names(message, may, taken)
        for health in self._each_once(message.health, taken):
            self._take_health(health, now, taken)
        for row in self._each_once(message.rows, taken):
            self._take_row(row, now, taken)
        if not message.more:
            self._ended(message.scope, now, taken)
        return taken

    def _ended(self, scope: str, now: float, taken: Taken) -> None:
        if self._whole is not None:
            told, self._whole = self._whole, None
            self._complete = True
            for subject in [subject for subject in self._held if subject not in told]:
                del self._held[subject]
            for pool, servers in self.health.items():
                gone = [name for name in servers if Subject(SERVER_KIND, pool, name) not in told]
                for name in gone:
                    del servers[name]
                    taken.pools.add(pool)
        if scope in {"whole", "all"}:
            self.full_at = now

    # Names

    def _take_names(self, message: Traffic, may: Callable[[Subject], bool], taken: Taken) -> None:
        for number in message.gone:
            subject = self._names.pop(number, None)
            if subject is None:
                continue
            self._held.pop(subject, None)
            if subject.server and self.health.get(subject.uuid, {}).pop(subject.server, None) is not None:
                taken.pools.add(subject.uuid)
        for name in message.names:
            if len(self._names) >= MAX_NAMES:
                taken.refused["more names than there can be"] += 1
                return
            subject = self._subject_of(name)
            if subject is not None and not may(subject):
                taken.doubted = True
                # A server that has just left its pool is no lie, nor is one that the pool's change brings.
                if subject.kind != SERVER_KIND:
                    taken.refused["figures of what is not placed on it"] += 1
                subject = None
            self._names[name.number] = subject

    def _subject_of(self, name: Name) -> Subject | None:
        """None for kinds that this version does not know, and for servers of pools that are not taken."""
        if name.pool:
            pool = self._names.get(name.pool)
            return None if pool is None else Subject(SERVER_KIND, pool.uuid, name.text[:MAX_TEXT])
        kind, _, uuid = name.text[:MAX_TEXT].partition("/")
        return Subject(kind, uuid) if kind in {SERVICE_KIND, POOL_KIND} else None

    # Rows

    def _each_once(self, rows: Iterable[Row], taken: Taken) -> Iterator[Row]:
        """The first about each subject: a frame has room for 20,000 about one, and each costs more than the one before."""
        told: set[Subject] = set()
        for row in rows:
            subject = self._names.get(row.number)
            if subject is None:
                continue
            if subject in told:
                taken.refused["the same thing told twice"] += 1
                continue
            told.add(subject)
            yield row

    def _take_health(self, row: HealthRow, now: float, taken: Taken) -> None:
        subject = self._names.get(row.number)
        if subject is None or not subject.server:
            return
        aged = row.for_s != UNKNOWN_AGE
        if aged and not 0 <= row.for_s <= MAX_AGE_S:  # NaN is neither
            taken.refused["times that cannot be"] += 1
            return
        if self._whole is not None:
            self._whole.add(subject)
        servers = self.health.setdefault(subject.uuid, {})
        before = servers.get(subject.server)
        view = View(row.state[:MAX_WORD], now - row.for_s, row.failure[:MAX_WORD], row.reason[:MAX_TEXT])
        if not aged:
            same = before is not None and (before.state, before.failure) == (view.state, view.failure)
            view = attrs.evolve(view, since=before.since if before is not None and same else now)
        view = attrs.evolve(view, trouble=_trouble_of(before, view))
        if view != before:
            servers[subject.server] = view
            taken.pools.add(subject.uuid)

    def _take_row(self, row: TrafficRow, now: float, taken: Taken) -> None:
        subject = self._names.get(row.number)
        if subject is None:
            return
        counts, pairs = fitted(row.counts, subject.kind), from_flat(row.latency)
        if not _possible(row.connections, counts, pairs):
            taken.refused["numbers that cannot be"] += 1
            return
        held = self._held.get(subject)
        latency = {**(held.latency if held is not None else {}), **pairs}
        change = self._change(subject, held, row.connections, counts, latency, now)
        first = not self._complete
        if not first and _too_much(subject, change):
            taken.refused["more traffic than there can be"] += 1
            return
        if self._whole is not None:
            self._whole.add(subject)
        kept = {bucket: count for bucket, count in latency.items() if count}
        self._held[subject] = _Held(row.connections, counts, kept, now)
        taken.happened.append(Happened(subject, change, first))

    def _change(  # noqa: PLR0913, PLR0917 - what was, and what is
        self,
        subject: Subject,
        held: _Held | None,
        connections: int,
        counts: tuple[int, ...],
        latency: Mapping[int, int],
        now: float,
    ) -> Change:
        """What happened since the last row, or since the last report where there was none."""
        old_counts: Sequence[int] = (0,) * len(counts) if held is None else held.counts
        old_latency: Mapping[int, int] = {} if held is None else held.latency
        fallen = any(new < old for new, old in zip(counts, old_counts, strict=True)) or any(
            count < old_latency.get(bucket, 0) for bucket, count in latency.items()
        )
        if fallen:
            old_counts, old_latency = (0,) * len(counts), {}
        moments = (self.full_at, None if held is None else held.at)
        begun = max((at for at in moments if at is not None), default=now)
        grown = ((bucket, count - old_latency.get(bucket, 0)) for bucket, count in latency.items())
        return Change(
            begun=min(begun, now),
            ended=now,
            counts=tuple(new - old for new, old in zip(counts, old_counts, strict=True)),
            connections=connections,
            latency={bucket: count for bucket, count in grown if count},
        )


def _trouble_of(before: View | None, now: View) -> Trouble | None:
    """The last trouble of a server, after one more view of it; being disabled by an operator is none."""
    if now.state in {"DOWN", "EJECTED"} and not now.unknown:
        return Trouble(now.failure, now.reason, now.since)
    trouble = None if before is None else before.trouble
    if trouble is not None and trouble.until is None:
        return attrs.evolve(trouble, until=now.since)
    return trouble


def _possible(connections: int, counts: Sequence[int], latency: Mapping[int, int]) -> bool:
    return (
        0 <= connections <= MAX_CONNECTIONS
        and all(0 <= count <= MAX_COUNT for count in counts)
        and all(0 <= bucket < BUCKETS and 0 <= count <= MAX_COUNT for bucket, count in latency.items())
    )


def _too_much(subject: Subject, change: Change) -> bool:
    seconds = change.ended - change.begun + SLACK_S
    names = COUNTERS[subject.kind]
    return any(
        count > seconds * (MAX_BYTES_PER_S if name.startswith("bytes") else MAX_PER_S)
        for name, count in zip(names, change.counts, strict=True)
    )


def traffic_of(report: Report) -> Traffic:
    """What an SE of an older release reports: all of it each time, and without times."""
    if not report.data_plane_up:
        return Traffic(up=False)
    names: dict[tuple[str, str], Name] = {}

    def number_of(text: str, pool: str = "") -> int:
        if (text, pool) not in names:
            parent = number_of(pool) if pool else 0
            names[text, pool] = Name(len(names) + 1, text, parent)
        return names[text, pool].number

    health = tuple(
        HealthRow(
            number_of(one.server, one.pool),
            UP if one.up else "DOWN",
            UNKNOWN_AGE,
            "" if one.up else "CHECK_FAILED",
            one.reason,
        )
        for one in report.health
    )
    rows = tuple(
        TrafficRow(
            number_of(one.service),
            one.connections,
            (one.requests, 0, one.bytes_in, one.bytes_out, 0, 0, 0, 0, one.errors_5xx),
        )
        for one in report.services
    )
    return Traffic(
        scope="whole",
        started_at=report.data_plane_started_at,
        names=tuple(names.values()),
        health=health,
        rows=rows,
    )
