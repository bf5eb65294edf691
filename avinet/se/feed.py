"""What one controller is told of the traffic, look by look: names once, and then only what changed.

A feed belongs to one session and remembers what it has said there.  It has no clock and no socket: looks go in,
messages come out.  Every ``interval_s`` it tells what changed since it told last; at once, which servers' health
changed; every few seconds the figures of what the controller watches.  Counts are absolute, so nothing is lost with a
session: the next one begins with the whole.
"""

from collections.abc import Iterable, Iterator, Sequence

import attrs

from avinet.dataplane.interface import PoolCounters, ServerStatus, ServiceCounters, Status
from avinet.model.latency import flat, of_bins
from avinet.se.lookout import Seen, ServerKey, key_of
from avinet.wire.messages import HealthRow, Name, Traffic, TrafficRow

MAX_NAMES = 20_000
"""Virtual services, pools and servers in one SE's reports: four times the virtual services it is given at most."""
FRAME_ENTRIES = 400
"""Names and rows of one message.  The largest row has some 2.2 KB (every bucket in use), so it fits a frame."""
MAX_WATCHED = 200
"""Names that a controller may watch on one SE."""
MIN_WATCH_S = 1.0
MAX_TEXT = 200
"""Characters of a reason."""

_Bins = tuple[tuple[float, float, int], ...]


@attrs.frozen
class _Figures:
    """What is told of one thing."""

    connections: int = 0
    counts: tuple[int, ...] = ()
    bins: _Bins = ()

    @property
    def nothing(self) -> bool:
        """Nothing has happened yet: what is not told is zero."""
        return not self.connections and not self.bins and not any(self.counts)


@attrs.define
class _Told:
    """What was told of it last."""

    figures: _Figures = _Figures()
    latency: dict[int, int] = attrs.field(factory=dict)


@attrs.frozen
class _Subject:
    """A virtual service, a pool, or a server, which has a pool."""

    text: str
    pool: str = ""


def _service_figures(of: ServiceCounters) -> _Figures:
    classes = list(of.responses.by_class)
    classes[4] = max(classes[4], of.errors_5xx)
    counts = (of.requests, of.connections_total, of.bytes_in, of.bytes_out, *classes)
    return _Figures(of.connections, counts, of.latency.bins)


def _pool_figures(of: PoolCounters) -> _Figures:
    counts = (
        *(of.requests, of.connections_total, of.bytes_in, of.bytes_out, *of.responses.by_class),
        *(of.retries, of.connect_failures, of.timeouts, of.no_server, of.refused_by_limit),
    )
    return _Figures(of.connections, counts, of.latency.bins)


def _server_figures(of: ServerStatus) -> _Figures:
    return _Figures(of.connections, (of.requests, of.errors, of.connect_failures))


def _figures_of(status: Status, only: frozenset[str] | None = None) -> Iterator[tuple[_Subject, _Figures]]:
    """Of everything, those that matter most first; or of ``only`` these and their servers, cheaply."""
    for service in status.services:
        if only is None or service.service in only:
            yield _Subject(service.service), _service_figures(service)
    for pool in status.pools:
        if only is None or pool.pool in only:
            yield _Subject(pool.pool), _pool_figures(pool)
    for server in status.servers:
        if only is None or server.pool in only:
            yield _Subject(server.server, server.pool), _server_figures(server)


def _subjects_of(status: Status) -> Iterator[_Subject]:
    """Everything that has a name."""
    yield from (_Subject(service.service) for service in status.services)
    yield from (_Subject(pool.pool) for pool in status.pools)
    for server in status.servers:
        yield _Subject(server.pool)
        yield _Subject(server.server, server.pool)


@attrs.define(eq=False)
class Feed:
    """``next_all`` is when, by the looks' clock, the first report is due."""

    interval_s: float
    next_all: float
    _anew: bool = attrs.field(default=True, init=False)
    _watched: frozenset[str] = attrs.field(default=frozenset(), init=False)
    _watch_s: float = attrs.field(default=0.0, init=False)
    _next_watch: float = attrs.field(default=0.0, init=False)
    _answer: bool = attrs.field(default=False, init=False)
    """A watch has come: who sent it waits."""
    _numbers: dict[_Subject, int] = attrs.field(factory=dict, init=False, repr=False)
    _last_number: int = attrs.field(default=0, init=False)
    _told: dict[_Subject, _Told] = attrs.field(factory=dict, init=False, repr=False)
    _health: dict[ServerKey, tuple[str, str, str]] = attrs.field(factory=dict, init=False, repr=False)
    _up: bool = attrs.field(default=True, init=False)
    _started_at: float = attrs.field(default=0.0, init=False)
    _left_out: int = attrs.field(default=0, init=False)

    def watch(self, names: Sequence[str], interval_s: float) -> None:
        """Tell the figures of these more often, from the next look on; something is told then in any case."""
        self._watched = frozenset(names[:MAX_WATCHED])
        self._watch_s = max(MIN_WATCH_S, interval_s)
        self._next_watch = 0.0
        self._answer = True

    def begin_anew(self) -> None:
        """Tell everything at the next look."""
        self._anew, self.next_all = True, 0.0

    def messages(self, seen: Seen) -> Iterator[Traffic]:
        """What to say after this look; the state of the feed is right once all of it has been taken."""
        due = seen.at >= self.next_all
        if self._anew and not due:
            return
        if due:
            self.next_all = max(self.next_all + self.interval_s, seen.at + self.interval_s / 2)
        scope = "whole" if self._anew else "all" if due else "some"
        if self._anew:
            self._forget()
        if seen.status is None:
            if due or self._up:
                self._up = False
                yield Traffic(scope="some", up=False)
            return
        self._anew = False
        came_back, self._up = not self._up, True
        if seen.status.started_at != self._started_at:
            self._started_at = seen.status.started_at
            self._told.clear()
        entries = list(self._entries(seen, seen.status, due=due))
        gone = self._gone(seen.status) if due else ()
        answer, self._answer = self._answer, False
        if entries or gone or due or came_back or answer:
            yield from self._framed(scope, entries, gone)

    def _forget(self) -> None:
        self._numbers.clear()
        self._told.clear()
        self._health.clear()
        self._last_number = 0

    def _entries(self, seen: Seen, status: Status, *, due: bool) -> Iterator[Name | HealthRow | TrafficRow]:
        self._left_out = 0 if due else self._left_out
        yield from self._health_changes(seen, status.servers)
        watched = bool(self._watched) and seen.at >= self._next_watch
        if watched:
            # Looks do not fall on the beat: the next is due a whole interval after this one was, not after it came.
            self._next_watch = max(self._next_watch + self._watch_s, seen.at + self._watch_s / 2)
        if not due and not watched:
            return
        for subject, figures in _figures_of(status, None if due else self._watched):
            yield from self._row(subject, figures)

    def _health_changes(self, seen: Seen, servers: Iterable[ServerStatus]) -> Iterator[Name | HealthRow]:
        for server in sorted(servers, key=lambda server: server.up):
            key = key_of(server)
            health = (server.state.value, server.failure.value, server.reason[:MAX_TEXT])
            if self._health.get(key) == health:
                continue
            yield from self._names(_Subject(server.server, server.pool))
            number = self._numbers.get(_Subject(server.server, server.pool))
            if number is None:
                continue
            self._health[key] = health
            state, failure, reason = health
            for_s = round(max(0.0, seen.at - seen.since.get(key, seen.at)), 1)
            yield HealthRow(number, state, for_s, failure, reason)

    def _row(self, subject: _Subject, figures: _Figures) -> Iterator[Name | TrafficRow]:
        told = self._told.get(subject)
        if figures == told.figures if told is not None else figures.nothing:
            return
        yield from self._names(subject)
        number = self._numbers.get(subject)
        if number is None:
            return
        if told is None:
            told = self._told[subject] = _Told()
        latency = told.latency
        if figures.bins != told.figures.bins:
            latency = of_bins(figures.bins)
        changed = {
            bucket: latency.get(bucket, 0)
            for bucket in latency.keys() | told.latency.keys()
            if latency.get(bucket) != told.latency.get(bucket)
        }
        told.figures, told.latency = figures, latency
        yield TrafficRow(number, figures.connections, figures.counts, flat(changed))

    def _names(self, subject: _Subject) -> Iterator[Name]:
        """Its name and its pool's, unless they were told; nothing when there are too many."""
        if subject in self._numbers:
            return
        pool = _Subject(subject.pool) if subject.pool else None
        if len(self._numbers) + 2 > MAX_NAMES:
            self._left_out += 1
            return
        if pool is not None:
            yield from self._names(pool)
        self._last_number += 1
        self._numbers[subject] = self._last_number
        yield Name(self._last_number, subject.text, 0 if pool is None else self._numbers[pool])

    def _gone(self, status: Status) -> tuple[int, ...]:
        """Numbers of what is there no more."""
        there = set(_subjects_of(status))
        gone = [subject for subject in self._numbers if subject not in there]
        for subject in gone:
            self._told.pop(subject, None)
            self._health.pop((subject.pool, subject.text), None)
        return tuple(self._numbers.pop(subject) for subject in gone)

    def _framed(
        self, scope: str, entries: Sequence[Name | HealthRow | TrafficRow], gone: tuple[int, ...]
    ) -> Iterator[Traffic]:
        total = max(len(entries), len(gone), 1)
        for start in range(0, total, FRAME_ENTRIES):
            end = start + FRAME_ENTRIES
            part = entries[start:end]
            yield Traffic(
                scope=scope,
                more=end < total,
                started_at=self._started_at,
                gone=gone[start:end],
                names=tuple(one for one in part if isinstance(one, Name)),
                health=tuple(one for one in part if isinstance(one, HealthRow)),
                rows=tuple(one for one in part if isinstance(one, TrafficRow)),
                left_out=self._left_out,
            )
