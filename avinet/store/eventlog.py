"""The durable log of events: one SQLite file of its own, bounded, ids without gaps.

Apart from the store, so that strangers who cause events (refused logins, say) cannot fill what decisions need,
and so that a controller has its events when the cluster has no quorum.  A batch of events is one transaction; once
``append`` fires they survive kill -9.  The oldest rows go when there are more than the bound, and the newest id
is kept beside them, so an id is never used twice.
"""

import sqlite3
from collections.abc import Callable, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import msgspec
from twisted.internet.defer import Deferred

from avinet.errors import LocalProtocolError
from avinet.model.events import Event
from avinet.sqlite_file import open_file, rolled_back, translated
from avinet.store.threads import OwnThread, Runner

MAX_EVENTS = 100_000
"""At a few hundred bytes each some 50 MB, and weeks of a fleet's events."""
MAX_PAGE = 1_000
"""Events in one answer of ``since``: a MiB at most in practice."""

_T = TypeVar("_T")
_encode = msgspec.msgpack.encode
_decode = msgspec.msgpack.Decoder(Event).decode


class EventLog:
    """An open log; made by ``open_event_log``.  ``last_id`` is that of the newest durable event."""

    def __init__(self, path: Path, runner: Runner, connection: Any, max_events: int) -> None:
        self._path = path
        self._runner = runner
        self._connection = connection
        self._max_events = max_events
        self._last_id: int = connection.execute("SELECT id FROM newest").fetchone()[0]

    def last_id(self) -> int:
        """The newest durable event's id; 0 before the first."""
        return self._last_id

    def append(self, events: Sequence[Event]) -> Deferred[None]:
        """Write events whose ids go on from ``last_id`` without a gap; all of them or none."""
        batch = tuple(events)
        return self._run(lambda: self._append(batch))

    def since(self, after_id: int, limit: int = MAX_PAGE) -> Deferred[tuple[Event, ...]]:
        """The oldest ``limit`` events after ``after_id``; the log may have lost some of them by then."""
        return self._run(lambda: self._since(after_id, max(0, min(limit, MAX_PAGE))))

    def close(self) -> Deferred[None]:
        """Let go of the file."""
        done = self._runner.run(self._connection.close)
        done.addBoth(self._stop)
        return done

    def _stop(self, result: _T) -> _T:
        self._runner.stop()
        return result

    def _run(self, call: Callable[[], _T]) -> Deferred[_T]:
        def careful() -> _T:
            try:
                return call()
            except sqlite3.Error as why:
                rolled_back(self._connection)
                raise translated(why, self._path) from why

        return self._runner.run(careful)

    def _append(self, batch: tuple[Event, ...]) -> None:
        expected = range(self._last_id + 1, self._last_id + 1 + len(batch))
        if [event.id for event in batch] != list(expected):
            raise LocalProtocolError(protocol="event log", detail=f"ids do not go on from {self._last_id}")
        if not batch:
            return
        last = batch[-1].id
        execute = self._connection.execute
        execute("BEGIN IMMEDIATE")
        self._connection.executemany(
            "INSERT INTO event VALUES (?, ?)", [(event.id, _encode(event, enc_hook=str)) for event in batch]
        )
        execute("DELETE FROM event WHERE id <= ?", (last - self._max_events,))
        execute("UPDATE newest SET id = ?", (last,))
        execute("COMMIT")
        self._last_id = last

    def _since(self, after_id: int, limit: int) -> tuple[Event, ...]:
        rows = self._connection.execute(
            "SELECT body FROM event WHERE id > ? ORDER BY id LIMIT ?", (after_id, limit)
        ).fetchall()
        return tuple(_decode(body) for (body,) in rows)


def open_event_log(
    path: Path, reactor: Any, *, runner: Runner | None = None, max_events: int = MAX_EVENTS
) -> Deferred[EventLog]:
    """Open or make the log at ``path``; ``reactor`` runs its thread unless a runner is given."""
    thread = OwnThread(reactor, "events") if runner is None else runner

    async def opening() -> EventLog:
        try:
            connection = await thread.run(
                lambda: open_file(path, files("avinet.store") / "migrations/events")
            )
        except BaseException:
            thread.stop()
            raise
        return EventLog(path, thread, connection, max_events)

    return Deferred.fromCoroutine(opening())
