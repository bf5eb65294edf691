"""The figures of one virtual service or pool as the API answers them: now, in all, and over time."""

from collections.abc import Callable

import attrs
import msgspec

from avinet.controller.traffic import FleetTraffic, Tally
from avinet.controller.traffic_health import Verdict
from avinet.controller.traffic_intake import Subject
from avinet.controller.traffic_series import FINE_S, MINUTE_S, Cell
from avinet.model.counters import COUNTERS
from avinet.model.ids import SeId
from avinet.model.latency import from_flat, percentile

LATE_S = 7.0
"""How old a figure of something watched may be: looked at each 2 s, told each 5 s."""
WINDOW_S = 15.0
"""Of what is watched, "now" is so long: shorter, and single requests show."""

_NO_CELL = Cell()


class Latencies(msgspec.Struct, frozen=True, kw_only=True):
    """Milliseconds that half, nine tenths and 99 of 100 took at most; null when nothing was measured."""

    p50: float | None = None
    p90: float | None = None
    p99: float | None = None


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """The newest time of which everything is known: ``window_s`` seconds from ``begun_at``."""

    begun_at: float
    window_s: float
    requests_per_s: float
    connections_per_s: float
    bytes_in_per_s: float
    bytes_out_per_s: float
    share_5xx: float | None
    """Of the answers; null without any."""
    latency_ms: Latencies


class EngineFigures(msgspec.Struct, frozen=True, kw_only=True):
    """What one SE says; ``counts`` since its data plane started."""

    uuid: SeId
    name: str
    connected: bool
    reported_at: float | None
    connections: int
    counts: dict[str, int]


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """``GET /api/virtualservice/{uuid}/stats`` and of a pool.  Times are UNIX seconds."""

    uuid: str
    name: str
    at: float
    health: str
    reason: str
    since: float | None
    connections: int
    totals: dict[str, int]
    """Since this controller started; of before, what the data planes have counted since they started."""
    now: Rates
    latency_ms: Latencies
    """Over the whole time of ``series``."""
    step_s: float
    series: dict[str, list[float | int | None]]
    """Columns of equal length: ``at`` (a step's beginning), ``connections``, every count, ``p50_ms``, ``p90_ms``, ``p99_ms``."""
    counted_since: float
    """Nothing is known by time of before."""
    watched_until: float
    """Until when its figures come each 5 s: ten minutes after the last look."""
    service_engines: tuple[EngineFigures, ...]


@attrs.frozen(eq=False)
class FigureReader:
    """Reads them.  ``wall`` is UNIX seconds for people; everything else goes by the traffic's own clock."""

    traffic: FleetTraffic
    wall: Callable[[], float]

    def shown_at(self, at: float) -> float:
        """A moment of the clock as UNIX seconds."""
        return round(at + self.wall() - self.traffic.clock.seconds(), 3)

    def read(self, subject: Subject, name: str, verdict: Verdict, since_s: float, step_s: float) -> Figures:
        """``step_s`` below a minute only gives what was watched."""
        traffic = self.traffic
        until = traffic.look(subject)
        now = traffic.clock.seconds()
        tally = traffic.tallies.get(subject)
        begun = max(now - since_s, now if tally is None else min(tally.begun_at, now))
        cells = self._cells(tally, begun, now, step_s)
        return Figures(
            uuid=subject.uuid,
            name=name,
            at=self.wall(),
            health=verdict.health.value,
            reason=verdict.reason,
            since=None if verdict.since is None else self.shown_at(verdict.since),
            connections=traffic.connections(subject),
            totals=named(subject, traffic.totals(subject)),
            now=self._rates(subject, tally, now),
            latency_ms=latencies([cell for _, cell in cells]),
            step_s=step_s,
            series=self._columns(subject, cells),
            counted_since=self.shown_at(begun if tally is None else tally.begun_at),
            watched_until=self.shown_at(until),
            service_engines=self._engines(subject),
        )

    def _cells(
        self, tally: Tally | None, begun: float, now: float, step_s: float
    ) -> list[tuple[float, Cell]]:
        if tally is None:
            return []
        series = tally.minutes if step_s >= MINUTE_S else tally.fine
        return [] if series is None else list(series.between(begun, now, step_s))

    def _columns(
        self, subject: Subject, cells: list[tuple[float, Cell]]
    ) -> dict[str, list[float | int | None]]:
        names = COUNTERS[subject.kind]
        rows = [(self.shown_at(at), cell, latencies([cell])) for at, cell in cells]
        columns: dict[str, list[float | int | None]] = {
            "at": [at for at, _, _ in rows],
            "connections": [cell.connections for _, cell, _ in rows],
        }
        for index, name in enumerate(names):
            columns[name] = [cell.counts[index] if cell.counts else 0 for _, cell, _ in rows]
        columns["p50_ms"] = [latency.p50 for _, _, latency in rows]
        columns["p90_ms"] = [latency.p90 for _, _, latency in rows]
        columns["p99_ms"] = [latency.p99 for _, _, latency in rows]
        return columns

    def rates(self, subject: Subject) -> Rates:
        """Now."""
        return self._rates(subject, self.traffic.tallies.get(subject), self.traffic.clock.seconds())

    def _rates(self, subject: Subject, tally: Tally | None, now: float) -> Rates:
        begun, window_s, cells = self._newest(subject, tally, now)
        whole = _NO_CELL
        for cell in cells:
            whole = whole.plus(cell)
        counts = named(subject, whole.counts or (0,) * len(COUNTERS[subject.kind]))
        answers = sum(count for name, count in counts.items() if name.startswith("responses_"))
        return Rates(
            begun_at=self.shown_at(begun),
            window_s=window_s,
            requests_per_s=round(counts["requests"] / window_s, 3),
            connections_per_s=round(counts["connections_total"] / window_s, 3),
            bytes_in_per_s=round(counts["bytes_in"] / window_s, 1),
            bytes_out_per_s=round(counts["bytes_out"] / window_s, 1),
            share_5xx=round(counts["responses_5xx"] / answers, 5) if answers else None,
            latency_ms=latencies([whole]),
        )

    def _newest(self, subject: Subject, tally: Tally | None, now: float) -> tuple[float, float, list[Cell]]:
        """(beginning, seconds, cells) of the newest time of which all SEs that are connected have told."""
        if tally is not None and tally.fine is not None:
            # Just begun, all was told up to the beginning.
            end = (now - min(LATE_S, max(0.0, now - tally.fine_since))) // FINE_S * FINE_S
            cells = tally.fine.between(end - WINDOW_S, end - FINE_S, FINE_S)
            return end - WINDOW_S, WINDOW_S, [cell for _, cell in cells]
        end = self._told_until(subject, now) // MINUTE_S * MINUTE_S
        if tally is None or tally.minutes is None:
            return end - MINUTE_S, MINUTE_S, []
        cells = tally.minutes.between(end - MINUTE_S, end - MINUTE_S, MINUTE_S)
        return end - MINUTE_S, MINUTE_S, [cell for _, cell in cells]

    def _told_until(self, subject: Subject, now: float) -> float:
        traffic = self.traffic
        told = [
            engine.full_at
            for se in traffic.places.engines_of(subject)
            if traffic.places.fleet.is_up(se)
            for engine in (traffic.engines.get(se),)
            if engine is not None and engine.full_at is not None
        ]
        return min(told, default=now)

    def _engines(self, subject: Subject) -> tuple[EngineFigures, ...]:
        traffic = self.traffic
        found = []
        for se in traffic.places.engines_of(subject):
            engine = traffic.engines.get(se)
            at = None if engine is None else engine.heard_at
            found.append(
                EngineFigures(
                    uuid=se,
                    name=traffic.places.fleet.name_of(se),
                    connected=traffic.places.fleet.is_up(se),
                    reported_at=None if at is None else self.shown_at(at),
                    connections=0 if engine is None else engine.connections_of(subject),
                    counts={} if engine is None else named(subject, engine.counts_of(subject)),
                )
            )
        return tuple(sorted(found, key=lambda one: one.name))


def named(subject: Subject, counts: tuple[int, ...]) -> dict[str, int]:
    """Counts by their names."""
    return dict(zip(COUNTERS[subject.kind], counts, strict=True))


def latencies(cells: list[Cell]) -> Latencies:
    """Percentiles of all of ``cells`` together."""
    whole: dict[int, int] = {}
    for cell in cells:
        for bucket, count in from_flat(cell.latency).items():
            whole[bucket] = whole.get(bucket, 0) + count
    if not whole:
        return Latencies()
    p50, p90, p99 = (percentile(whole, part) for part in (0.5, 0.9, 0.99))
    return Latencies(p50=_rounded(p50), p90=_rounded(p90), p99=_rounded(p99))


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 2)
